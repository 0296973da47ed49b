"""Read digits from files: IDX (the format of MNIST, gzipped or not) and npz archives."""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

LARGEST = 2**30  # bytes of a file when unzipped
MAGIC = {1: "labels", 3: "images"}  # dimensions of an IDX array of unsigned bytes, and what it holds


class DataError(ValueError):
    """Data that cannot be had or cannot be used; the message names the file and the cure."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unzipped if it is gzip, whatever its name says."""
    return unzip(path.read_bytes(), str(path))


def unzip(content: bytes, name: str) -> bytes:
    """What is inside, if the bytes are gzip; the bytes themselves if not."""
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            inside = file.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is a damaged gzip file ({error}): remove it and fetch it again") from None
    if len(inside) > LARGEST:
        raise DataError(f"{name} holds more than {LARGEST >> 20} MiB: that is no set of digits")
    return inside


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """The array in an IDX file: 0, 0, 8 (unsigned byte), number of dimensions, each dimension as 4 bytes, the data.

    Source: LeCun, Cortes and Burges, "The MNIST database", 1998.
    """
    dimensions = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * dimensions
    if dimensions not in MAGIC or len(content) < header:
        looks = "an HTML page" if content.lstrip()[:1] == b"<" else "something else"
        raise DataError(f"{name} is not an IDX file of digits but {looks}: remove it and fetch it again")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{name} is cut short or damaged: {len(content) - header} bytes of data where its head says "
            f"{math.prod(shape)}: remove it and fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of an array of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def find_idx(folder: Path, part: str, kind: str) -> Path | None:
    """The IDX file of a part ("train", "test") and kind ("images", "labels") in a folder, under any usual name."""
    prefixes = ("train",) if part == "train" else ("t10k", "test")
    for prefix in prefixes:
        for mark in "-.":
            for suffix in (".gz", ""):
                path = folder / f"{prefix}-{kind}{mark}idx{3 if kind == 'images' else 1}-ubyte{suffix}"
                if path.is_file():
                    return path
    return None


def read(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) from a folder of IDX files or an npz with x_train, y_train, ..."""
    if path.is_dir():
        arrays = []
        for kind in ("images", "labels"):
            file = find_idx(path, part, kind)
            if file is None:
                raise DataError(f"no IDX file of {part} {kind} in {path}: it should be named like MNIST's")
            arrays.append(parse_idx(read_bytes(file), str(file)))
        images, labels = arrays
    elif path.suffix == ".npz" and path.is_file():
        images, labels = read_npz(path, part)
    elif path.exists():
        raise DataError(f"{path} is neither a folder of IDX files nor an .npz archive")
    else:
        raise DataError(f"no data at {path}: give auto, mnist, synthetic, or the path of a folder or an .npz archive")
    return check(images, labels, str(path))


def read_npz(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays x_PART and y_PART of an npz archive."""
    names = f"x_{part}", f"y_{part}"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not set(names) <= set(archive.files):
                raise DataError(f"{path} has no {' and '.join(names)}: name its arrays so")
            arrays = tuple(archive[name] for name in names)
            if not all(isinstance(a, np.ndarray) for a in arrays):
                raise ValueError("not arrays")
    except DataError:
        raise
    except (Exception, MemoryError) as error:  # a damaged archive raises a dozen kinds; to the user they are one
        raise DataError(f"{path} is damaged or not an npz archive ({error}): remove it and fetch it again") from None
    return arrays


def check(images: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays in the project's types. DataError unless they are 28x28 grey images with a digit for each."""
    if images.ndim == 2 and images.shape[1] == 784:
        images = images.reshape(-1, 28, 28)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{name}: images must be bytes (N, 28, 28), not {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"{name}: {len(images)} images need as many whole numbers as labels, not {labels.shape}")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name}: labels must lie in 0 to 9, not {labels.min()} to {labels.max()}")
    return images, labels.astype(np.int64)
