"""Models as the commands use them: their paths, loading a digit classifier, keeping shipped ones, confusion matrix."""

import math
from pathlib import Path

import numpy as np

import storage
from app import cli
from network import Network
from storage import StorageError

SHIPPED = [Path(__file__).parent.parent / "models" / f"{name}.npz" for name in ("best", "cnn")]


def model_path(out: str, name: str, dataset: str) -> Path:
    """The path of a model: `out`; else models/NAME.npz, with the dataset in its name if not MNIST. StorageError."""
    path = Path(out or f"models/{name}" + ("" if dataset == "mnist" else f"-{dataset}"))
    folder = path.with_name(path.name.removesuffix(".npz"))
    path, others = folder.with_name(f"{folder.name}.npz"), {*folder.glob("*.npz")} - {folder / "checkpoint.npz"}
    if folder.is_file():
        raise StorageError(f"{folder} is a file: choose another name with --out")
    if others and not path.exists():
        raise StorageError(f"{folder} is a folder of models: name a file in it, such as --out {folder / name}")
    return path


def load_digit_classifier(path: Path) -> Network:
    """The network in a model file, if it is a digit classifier. StorageError."""
    network = Network.load(path)
    if network.classes != 10 or math.prod(network.input_shape) != 784:
        sizes = f"{math.prod(network.input_shape)} inputs and {network.classes} outputs"
        raise StorageError(f"{path} is a model with {sizes}: reading digits takes 784 (28 x 28 pixels) and 10")
    return network


def load_teacher(path: Path, out: Path) -> Network:
    """The teacher of the model `out`. StorageError."""
    if path.resolve() == out.resolve():
        raise StorageError(f"the teacher {path} would be overwritten: give another --out")
    try:
        teacher = load_digit_classifier(path)
    except StorageError as error:
        raise StorageError(f"teacher: {error}") from None
    if teacher.loss_name != "cross_entropy":
        raise StorageError(f"teacher: {path} was trained with loss = {teacher.loss_name}: it must be cross_entropy")
    return teacher


def keep_shipped(path: Path) -> None:
    """Copy a shipped model that is about to be overwritten for the first time, and say so."""
    backup = path.with_stem(f"{path.stem}-before")
    shipped = path.resolve() in [each.resolve() for each in SHIPPED]  # models/ may be a link
    if shipped and path.exists() and not backup.exists():
        with storage.atomic_write(backup) as file:
            file.write(path.read_bytes())
        cli.warn(f"the shipped model {path} is kept as {backup}")


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(10, 10): how often digit i (row) was predicted as digit j (column)."""
    return np.bincount(10 * labels + predicted, minlength=100).reshape(10, 10)
