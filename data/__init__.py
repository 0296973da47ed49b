"""The digits: `load` is the one door, whatever they are and wherever they come from."""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import formats, mnist, synthetic
from data.formats import DataError

__all__ = ["DataError", "fingerprint", "load", "split"]

NAMES = ("mnist", "synthetic", "auto")  # kept for what they say: no file of that name can pass for MNIST


def load(
    dataset: str,
    part: str,
    folder: Path | None = None,
    note: Callable[[str], None] | None = None,
    progress: formats.Progress = formats.quiet,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Images uint8 (N, 28, 28), labels int64 (N,) and the name of the data set; `part` is "train" or "test".

    dataset: "mnist", "synthetic", "auto" (MNIST if it is there or can be had, else synthetic, with a warning), or the
    path of a file or folder that `formats.read` knows. Only the files of `part` are opened.
    note: takes lines for the user (if there is none, the warning is one of Python's); progress: wraps long loops.
    DataError if the data cannot be had.
    """
    quiet, loud = note or (lambda line: None), note or warnings.warn
    if dataset == "auto":
        try:
            return *mnist.load(part, folder, quiet), "mnist"
        except mnist.NotFound as error:
            loud(f"WARNING: {error}")
            loud("WARNING: going on with SYNTHETIC digits drawn from fonts. No figure below is a figure for MNIST.")
            dataset = "synthetic"
    if dataset == "mnist":
        return *mnist.load(part, folder, quiet), "mnist"
    if dataset == "synthetic":
        return *synthetic.load(part, folder, progress), "synthetic"
    path = Path(os.path.realpath(dataset))
    name = path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return *formats.read(Path(dataset), part, progress), f"{name}-files" if name.lower() in NAMES else name


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of a set of digits: two runs with the same one saw the same data."""
    sha = hashlib.sha256(np.ascontiguousarray(images))
    sha.update(np.ascontiguousarray(labels))
    return sha.hexdigest()


def split(
    images: np.ndarray, labels: np.ndarray, validation: float, name: str, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray] | None]:
    """(training images, labels) and (validation images, labels), or None for the latter if `validation` is 0.

    validation: a number of images, or a share below 1. MNIST and the synthetic digits give their last ones, as is the
    custom; data of unknown order (sorted by class, perhaps) give ones drawn with `rng`.
    """
    count = int(validation) if validation >= 1 else round(validation * len(images))
    if count >= len(images):
        raise DataError(f"cannot keep {count} of {len(images)} training images for validation: lower --validation")
    if validation and not count:
        raise DataError(
            f"{validation} of {len(images)} training images is none at all: raise --validation, or set it to 0"
        )
    if not count:
        return (images, labels), None
    if name not in ("mnist", "synthetic"):
        order = rng.permutation(len(images))
        images, labels = images[order], labels[order]
    return (images[:-count], labels[:-count]), (images[-count:], labels[-count:])
