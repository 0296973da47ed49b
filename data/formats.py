"""Digits in files, to read and to write: IDX (MNIST's own form), npz, CSV, a pickled triple, folders of pictures."""

import gzip
import io
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np

from data import picture, triple

LARGEST = 2**30  # bytes of a file when unzipped
CSV_ROWS = 2000  # read at a time
CSV_LINE = 20_000  # characters of a line at most
PICKLES, TABLES = (".pkl.gz", ".pkl", ".pickle"), (".csv", ".csv.gz")
ENDINGS = (".npz", *PICKLES, *TABLES)
MAGIC = {1: "labels", 3: "images"}  # dimensions of an IDX array of unsigned bytes, and what it holds

Progress = Callable[[Iterable, str], Iterable]  # wraps a long loop, with a word about it
Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test": images and labels


class DataError(ValueError):
    """Data that cannot be had or cannot be used; the message names the file and the cure."""


def quiet(items: Iterable, text: str) -> Iterable:
    """No progress bar."""
    return items


def read_bytes(path: Path) -> bytes:
    """The content of a file, unzipped if it is gzip, whatever its name says."""
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} holds more than {LARGEST >> 20} MiB: that is no set of digits")
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
    elif not path.is_file():
        raise DataError(f"no data at {path}: give auto, mnist, synthetic, or the path of a file or a folder")
    elif path.suffix == ".npz":
        images, labels = read_npz(path, part)
    elif path.name.endswith(PICKLES):
        images, labels = read_pickle(path, part)
    elif path.name.endswith(TABLES):
        images, labels = read_csv(path, progress)
    else:
        raise DataError(f"{path} does not end in {', '.join(ENDINGS)}; of IDX files and of pictures name the folder")
    return check(images, labels, str(path))


def has_parts(path: Path) -> bool:
    """Whether the data at `path` come as training and test images."""
    return not (path.name.endswith(TABLES) or (path.is_dir() and _classes(path)))


def _read_folder(path: Path, part: str, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    idx = [find_idx(path, part, kind) for kind in MAGIC.values()]
    if all(idx):
        labels, images = (parse_idx(read_bytes(file), str(file)) for file in idx)
        return images, labels
    files = [file for file in path.iterdir() if re.fullmatch(rf"(.*[-_. ])?{part}\.csv(\.gz)?", file.name)]
    if len(files) > 1:
        raise DataError(f"{path} has several files of {part} digits, {files[0].name} and {files[1].name}: name the one")
    if files:
        return read_csv(files[0], progress)
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
            if sum(member.file_size for member in archive.zip.infolist()) > LARGEST:
                raise ValueError("too large")
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
    """From the pickled triple."""
    try:
        return triple.read(read_bytes(path), part)
    except DataError:
        raise
    except (Exception, MemoryError) as error:  # a damaged pickle raises a dozen kinds; to the user they are one
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged or no pickled triple of digits ({reason})") from None


def read_csv(path: Path, progress: Progress = quiet) -> tuple[np.ndarray, np.ndarray]:
    """From rows of label,784 grey values, with or without a line of names above; gzipped or not.

    If the names say so, the label may come last.
    """
    images, labels, row, last = [], [], 0, False
    try:
        with path.open("rb") as file:
            opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            lines = filter(str.strip, iter(lambda: _line(file), ""))
            first = next(lines, "")
            if first.strip("\"' ")[:1].isalpha():  # names
                last = first.rstrip().rpartition(",")[2].strip("\"' ").lower() in ("label", "class", "y")
            elif first:
                lines = itertools.chain([first], lines)
            for chunk in progress(iter(lambda: list(itertools.islice(lines, CSV_ROWS)), []), f"reading {path.name}"):
                rows = np.loadtxt(chunk, np.float32, delimiter=",", ndmin=2, comments=None, quotechar='"')
                if rows.shape[1] != 785 or not ((rows >= 0) & (rows <= 255) & (rows == np.rint(rows))).all():
                    raise ValueError("its rows are not a label and 784 whole numbers from 0 to 255")
                rows = np.roll(rows, 1, axis=1) if last else rows
                labels.append(rows[:, 0].astype(np.int64))
                images.append(rows[:, 1:].astype(np.uint8))
                row += len(rows)
                if row * 785 > LARGEST:
                    raise ValueError("too many rows")
    except (ValueError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read after row {row:,} ({error})") from None
    if not row:
        raise DataError(f"{path} is empty")
    return np.concatenate(images), np.concatenate(labels)


def _line(file: IO[str]) -> str:
    """The next line of a file. ValueError if it is far longer than 785 numbers."""
    line = file.readline(CSV_LINE)
    if len(line) == CSV_LINE:
        raise ValueError("its lines are too long")
    return line


def _classes(folder: Path) -> list[Path]:
    """The folders 0 to 9 in a folder, those that are there."""
    return [folder / str(digit) for digit in range(10) if (folder / str(digit)).is_dir()]


def read_classes(folder: Path, progress: Progress = quiet) -> tuple[np.ndarray, np.ndarray]:
    """From pictures in folders 0 to 9, in the order of the files' names. 28 x 28 greys on black stay as they are."""

    def complain(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be opened: {error.strerror}")

    walks = (picture.walk(place, complain) for place in _classes(folder))
    files = [Path(inside, name) for walk in walks for inside, _, names in walk for name in names]
    files = [file for file in files if file.suffix.lower() in picture.SUFFIXES and not file.name.startswith(".")]
    files.sort(key=lambda file: (len(file.stem), file.stem, str(file)))  # 2.png before 10.png
    if not files:
        raise DataError(f"no pictures in {folder}")
    images = np.empty((len(files), 28, 28), np.uint8)
    for i, file in enumerate(progress(files, f"reading {folder.name}")):
        try:
            grey = picture.read(file)
            images[i] = grey if grey.shape == (28, 28) and picture.on_black(grey) else picture.prepare(grey)
        except picture.PictureError as error:
            raise DataError(f"{file} {error}: remove it or mend it") from None
    return images, np.array([int(file.relative_to(folder).parts[0]) for file in files])


def check(images: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays in the project's types. DataError unless they are 28x28 grey images with a digit for each."""
    if images.shape[1:] in ((784,), (28, 28, 1)):
        images = images.reshape(-1, 28, 28)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{name}: images must be bytes (N, 28, 28), not {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels must be integers, one an image, not {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name}: labels must lie in 0 to 9, not {labels.min()} to {labels.max()}")
    return images, labels.astype(np.int64)


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
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
    """A picture for each image, 0/12345.png, named by its place in the order. JPEG changes the grey values a little.

    DataError for one that `read_classes` would not take as it is.
    """
    from PIL import Image  # late: most commands never need it

    for digit in np.unique(labels):
        (folder / str(digit)).mkdir(parents=True)
    wide = len(str(len(images) - 1))
    for i, image in enumerate(progress(images, "writing pictures")):
        if not picture.on_black(image):
            raise DataError(
                f"image {i} is not on black: as a picture it would be read otherwise. Write npz, idx or csv"
            )
        options = {"quality": 95} if suffix == ".jpg" else {}
        Image.fromarray(image).save(folder / str(labels[i]) / f"{i:0{wide}}{suffix}", **options)


def write_npz(file: IO[bytes], parts: Parts) -> None:
    """x_train, y_train, x_test, y_test."""
    arrays = {f"{name}_{part}": array for part, pair in parts.items() for name, array in zip("xy", pair, strict=True)}
    np.savez_compressed(file, **arrays)
