"""Digits as arrays: `load` is the single entry point, for every dataset and every file format."""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import formats, mnist, synthetic
from data.formats import DataError, ImageFile

__all__ = ["DataError", "ImageFile", "fingerprint", "load", "load_writers", "train_validation_split"]

CHUNK = 10_000  # images read at a time
NAMES = ("mnist", "synthetic", "auto")  # reserved: a file or folder with such a name is called NAME-files


def load(
    dataset: str,
    split: str,
    folder: Path | None = None,
    log: Callable[[str], None] | None = None,
    progress: formats.Progress = formats.no_progress,
) -> tuple[np.ndarray | ImageFile, np.ndarray, str]:
    """Images uint8 (N, 28, 28), labels int64 (N,) and the name of the dataset; `split` is "train" or "test".

    Images that are too large for memory are an `ImageFile`.

        dataset   "mnist"; "synthetic"; "auto": MNIST if it is in `folder` or can be downloaded, else synthetic, with a
                  warning; or the path of a file or folder that `formats.read` supports
        folder    for MNIST's files and the synthetic digits ($MNIST_DIR for MNIST, else data/raw)
        log       is called with each message for the user; without it, warnings are Python's
        progress  wraps long loops, for a progress bar

    Only the files of this split are opened. DataError if they are missing, damaged or of another kind.
    """
    info, warn = log or (lambda message: None), log or warnings.warn
    if dataset == "auto":
        try:
            return *mnist.load(split, folder, info), "mnist"
        except mnist.NotFound as error:
            warn(f"WARNING: {error}")
            warn("WARNING: continuing with SYNTHETIC digits rendered from fonts. No result below is a result on MNIST.")
            dataset = "synthetic"
    if dataset == "mnist":
        return *mnist.load(split, folder, info), "mnist"
    if dataset == "synthetic":
        return *synthetic.load(split, folder, progress), "synthetic"
    path = Path(os.path.realpath(dataset))
    name = path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    images, labels = formats.read(Path(dataset), split, progress)
    missing = np.flatnonzero(np.bincount(labels, minlength=10) == 0)
    if split == "train" and len(missing):
        warn(f"WARNING: {dataset} has no training images of {', '.join(map(str, missing))}")
    return images, labels, f"{name}-files" if name.lower() in NAMES else name


def load_writers(name: str, folder: Path | None, log: Callable[[str], None]) -> np.ndarray | None:
    """The number of the writer of each training image of the dataset `name`, for `train_validation_split`.

    None, with a warning, if they are not known: for other datasets than MNIST, or if no mirror has the file.
    """
    try:
        if name == "mnist":
            return mnist.load_writers(folder, log)
        reason = f"those of {name} are not known"
    except DataError as error:
        reason = str(error)
    log(f"WARNING: the usual validation images are used, not those of unseen writers: {reason}")
    return None


def fingerprint(images: np.ndarray | ImageFile, labels: np.ndarray) -> str:
    """SHA-256 of images and labels: runs with the same fingerprint used the same data."""
    sha = hashlib.sha256()
    for start in range(0, len(images), CHUNK):
        sha.update(np.ascontiguousarray(images[start : start + CHUNK]))
    sha.update(np.ascontiguousarray(labels))
    return sha.hexdigest()


def train_validation_split(
    images: np.ndarray | ImageFile,
    labels: np.ndarray,
    validation: float,
    name: str,
    rng: np.random.Generator,
    writers: np.ndarray | None = None,
) -> tuple[tuple, tuple | None]:
    """(training images, labels) and (validation images, labels), or None for the latter if `validation` is 0.

    validation: a number of images, or a fraction below 1. With `writers`, one for each image, validation uses all
    images of random writers, until there are enough. Without: of MNIST and the synthetic digits the last images, as
    usual, and of an `ImageFile`, to keep the variants of one image together; of other datasets a random subset, in case
    they are sorted by class. DataError if no images are left for one of the two, or if the last images of a file have
    not all its digits.
    """
    count = int(validation) if validation >= 1 else round(validation * len(images))
    if count >= len(images):
        raise DataError(f"cannot use {count} of {len(images)} training images for validation: lower --validation")
    if validation and not count:
        raise DataError(f"{validation} of {len(images)} training images is less than one: raise --validation, or use 0")
    if not count:
        return (images, labels), None
    if writers is not None:
        numbers, counts = np.unique(writers, return_counts=True)
        order = rng.permutation(len(numbers))
        chosen = order[: np.searchsorted(counts[order].cumsum(), count) + 1]
        unseen = np.isin(writers, numbers[chosen])
        if unseen.all():  # all images of the last writer count
            raise DataError(f"with {count} of unseen writers, no images are left for training: lower --validation")
        return (images[~unseen], labels[~unseen]), (images[unseen], labels[unseen])
    if isinstance(images, ImageFile):
        if len(np.unique(labels[-count:])) < len(np.unique(labels)):
            raise DataError(f"the last {count:,} images lack a digit: raise --validation, or shuffle {images.path}")
    elif name not in ("mnist", "synthetic"):
        order = rng.permutation(len(images))
        images, labels = images[order], labels[order]
    return (images[:-count], labels[:-count]), (images[-count:], labels[-count:])
