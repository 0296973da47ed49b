"""Digits in files, to read and to write: IDX (MNIST's own form), npz, CSV, a pickled triple, folders of pictures."""

import gzip
import io
import itertools
import math
import pickle
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from data import picture

LARGEST = 2**30  # bytes of a file when unzipped
CSV_ROWS = 2000  # read at a time
ENDINGS = (".npz", ".pkl.gz", ".pkl", ".csv", ".csv.gz")
MAGIC = {1: "labels", 3: "images"}  # dimensions of an IDX array of unsigned bytes, and what it holds

Progress = Callable[[Iterable, str], Iterable]  # wraps a long loop, with a word about it
Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test": images and labels


def quiet(items: Iterable, text: str) -> Iterable:
    """No progress bar."""
    return items


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


def read(path: Path, part: str, progress: Progress = quiet) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "test", from whatever there is at `path`.

    A folder with IDX files, with train.csv and test.csv, with train/0 to 9 and test/0 to 9, or with 0 to 9; an npz with
    x_train, y_train, ...; the pickled triple mnist.pkl.gz; a CSV file. Data without parts are given for either one.
    DataError if it is none of these, or damaged.
    """
    if path.is_dir():
        images, labels = _read_folder(path, part, progress)
    elif not path.exists():
        raise DataError(f"no data at {path}: give auto, mnist, synthetic, or the path of a file or a folder")
    elif path.suffix == ".npz":
        images, labels = read_npz(path, part)
    elif path.name.endswith((".pkl.gz", ".pkl", ".pickle")):
        images, labels = read_pickle(path, part)
    elif path.name.endswith((".csv", ".csv.gz")):
        images, labels = read_csv(path, progress)
    else:
        raise DataError(f"{path} is neither a folder nor a file that ends in {', '.join(ENDINGS)}")
    return check(images, labels, str(path))


def has_parts(path: Path) -> bool:
    """Whether the data at `path` come as training and test images."""
    return not (path.name.endswith((".csv", ".csv.gz")) or (path.is_dir() and _classes(path)))


def _read_folder(path: Path, part: str, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    idx = [find_idx(path, part, kind) for kind in MAGIC.values()]
    if all(idx):
        labels, images = (parse_idx(read_bytes(file), str(file)) for file in idx)
        return images, labels
    for file in [*path.glob(f"*{part}.csv"), *path.glob(f"*{part}.csv.gz")]:
        return read_csv(file, progress)
    for folder in path / part, path:
        if _classes(folder):
            return read_classes(folder, progress)
    if any(idx):
        kind = "labels" if idx[1] else "images"
        raise DataError(f"no IDX file of {part} {kind} in {path}: it should be named like MNIST's")
    raise DataError(f"no {part} digits in {path}: no IDX files named like MNIST's, no {part}.csv, no folders 0 to 9")


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


def read_pickle(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """From a pickled triple ((images, labels) to train, to validate, to test); validation images count as training.

    The images are rows of 784 numbers, grey / 256 as in mnist.pkl.gz, grey / 255, or bytes.
    """
    try:
        content = read_bytes(path)
        triple = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        pairs = triple[:-1] if part == "train" else triple[-1:]
        images = np.concatenate([_greys(np.asarray(images)) for images, _ in pairs])
        labels = np.concatenate([np.asarray(labels) for _, labels in pairs])
    except DataError:
        raise
    except (Exception, MemoryError) as error:  # a damaged pickle raises a dozen kinds; to the user they are one
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} is damaged or no pickled triple of digits ({reason})") from None
    return images, labels


def _greys(images: np.ndarray) -> np.ndarray:
    """Floating-point greys as bytes: those that are 256ths as in mnist.pkl.gz, 255ths, or 0 to 255."""
    if images.dtype.kind != "f" or not images.size:
        return images.astype(np.uint8) if not images.size else images
    if not (images.min() >= 0 and images.max() <= 255):  # nor if one is not a number
        raise ValueError("grey values out of range")
    sample = images[:1000] * 256
    scale = 1 if images.max() > 1 else 256 if np.array_equal(sample, np.rint(sample)) else 255
    return np.rint(images * scale).astype(np.uint8)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds NumPy arrays and calls nothing else, because a pickle can ask for any function."""

    MODULES = ("numpy", *(f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")))
    NAMES = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")

    def find_class(self, module: str, name: str) -> Any:
        if (module in self.MODULES and name in self.NAMES) or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise DataError(f"the pickle asks for {module}.{name}, which arrays do not need: not opened, it could do harm")


def read_csv(path: Path, progress: Progress = quiet) -> tuple[np.ndarray, np.ndarray]:
    """From rows of label,784 grey values, with or without a line of names above; gzipped or not."""
    images, labels, row = [], [], 0
    zipped = path.read_bytes()[:2] == b"\x1f\x8b" if path.stat().st_size < LARGEST else False
    try:
        with gzip.open(path, "rt") if zipped else path.open() as file:
            names = next(file, "")
            first = [] if any(letter.isalpha() for letter in names) else [names]
            lines = (line for line in itertools.chain(first, file) if line.strip())
            for chunk in progress(iter(lambda: list(itertools.islice(lines, CSV_ROWS)), []), f"reading {path.name}"):
                rows = np.loadtxt(chunk, np.int16, delimiter=",", ndmin=2)
                if rows.shape[1] != 785 or rows.min() < 0 or rows.max() > 255:
                    raise ValueError("its rows are not a label and 784 numbers from 0 to 255")
                labels.append(rows[:, 0].astype(np.int64))
                images.append(rows[:, 1:].astype(np.uint8))
                row += len(rows)
                if row * 785 > LARGEST:
                    raise ValueError("too many rows")
    except (ValueError, OverflowError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read after row {row:,} ({error})") from None
    if not row:
        raise DataError(f"{path} is empty")
    return np.concatenate(images), np.concatenate(labels)


def _classes(folder: Path) -> list[Path]:
    """The folders 0 to 9 in a folder, those that are there."""
    return [folder / str(digit) for digit in range(10) if (folder / str(digit)).is_dir()]


def read_classes(folder: Path, progress: Progress = quiet) -> tuple[np.ndarray, np.ndarray]:
    """From pictures in folders 0 to 9, in the order of the files' names. 28 x 28 greys are taken as they are."""
    files = [file for place in _classes(folder) for file in place.rglob("*") if file.suffix.lower() in picture.SUFFIXES]
    files.sort(key=lambda file: (len(file.stem), file.stem, str(file)))  # 2.png before 10.png
    if not files:
        raise DataError(f"no pictures in {folder}")
    images = np.empty((len(files), 28, 28), np.uint8)
    for i, file in enumerate(progress(files, f"reading {folder.name}")):
        try:
            grey = picture.read(file)
            images[i] = grey if grey.shape == (28, 28) else picture.prepare(grey)
        except picture.PictureError as error:
            raise DataError(f"{file} {error}: remove it or mend it") from None
    return images, np.array([int(file.relative_to(folder).parts[0]) for file in files])


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


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, progress: Progress = quiet) -> None:
    """Two gzipped IDX files, named as MNIST's are."""
    for kind, array in zip(("images", "labels"), (images, labels), strict=True):
        name = f"{'t10k' if part == 'test' else part}-{kind}-idx{array.ndim}-ubyte.gz"
        (folder / name).write_bytes(gzip.compress(idx_bytes(array), 6, mtime=0))


def write_csv(file: IO[bytes], images: np.ndarray, labels: np.ndarray, progress: Progress = quiet) -> None:
    """A line of names, then label,784 grey values for each image."""
    file.write(",".join(["label", *(f"{y + 1}x{x + 1}" for y in range(28) for x in range(28))]).encode() + b"\n")
    for start in progress(range(0, len(images), CSV_ROWS), "writing CSV"):
        part = slice(start, start + CSV_ROWS)
        np.savetxt(file, np.column_stack([labels[part], images[part].reshape(-1, 784)]), fmt="%d", delimiter=",")


def write_classes(
    folder: Path, suffix: str, images: np.ndarray, labels: np.ndarray, progress: Progress = quiet
) -> None:
    """A picture for each image, 0/12345.png, named by its place in the order. JPEG changes the grey values a little."""
    from PIL import Image  # late: most commands never need it

    for digit in np.unique(labels):
        (folder / str(digit)).mkdir(parents=True)
    wide = len(str(len(images) - 1))
    for i, image in enumerate(progress(images, "writing pictures")):
        options = {"quality": 95} if suffix == ".jpg" else {}
        Image.fromarray(image).save(folder / str(labels[i]) / f"{i:0{wide}}{suffix}", **options)


def write_pickle(file: IO[bytes], parts: Parts) -> None:
    """The triple of mnist.pkl.gz: ((images, labels) to train, to validate, to test), images as rows of grey / 256.

    The last sixth of the training images is there to validate (MNIST's last 10,000), as is the custom.
    """
    images, labels = parts["train"]
    cut = len(images) - len(images) // 6
    thirds = (images[:cut], labels[:cut]), (images[cut:], labels[cut:]), parts.get("test", (images[:0], labels[:0]))
    triple = tuple((x.reshape(-1, 784) / np.float32(256), y) for x, y in thirds)
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as packed:
        pickle.dump(triple, packed, protocol=2)


def write_npz(file: IO[bytes], parts: Parts) -> None:
    """x_train, y_train, x_test, y_test."""
    arrays = {f"{name}_{part}": array for part, pair in parts.items() for name, array in zip("xy", pair, strict=True)}
    np.savez_compressed(file, **arrays)
