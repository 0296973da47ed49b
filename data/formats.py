"""Reading and writing digits: IDX (MNIST's own file format), npz, CSV, mnist.pkl.gz, class folders of image files."""

import contextlib
import gzip
import io
import itertools
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

import storage
from data import mnist_pickle, photo

MAX_BYTES = 2**30  # of a decompressed file; of images in IDX files, the most that is held in memory
MAX_RATIO = 100  # a file of more than SMALL_BYTES, decompressed, may be this many times as large as it is compressed
SMALL_BYTES = 2**26  # (digits have a ratio of 5 to 25, and zeros of 1000: a small file must not fill the memory)
CSV_ROWS = 2000  # read at a time
MAX_CSV_LINE = 20_000  # characters
LABEL_COLUMNS = ("label", "class", "y", "target", "digit")  # titles of the label, if it is the last column
VARIANTS = 5000  # written at a time
MAX_BLANK_LINES = 1000  # one after the other, in CSV
PICKLES, TABLES = (".pkl.gz", ".pkl", ".pickle"), (".csv", ".csv.gz")
EXTENSIONS = (".npz", *PICKLES, *TABLES)
GZIP = b"\x1f\x8b"  # the first bytes of such a file
IDX_DIMENSIONS = {"images": 3, "labels": 1}

Progress = Callable[[Iterable, str], Iterable]  # wraps a long loop, with a description
Splits = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test": images and labels


@dataclass(frozen=True)
class ImageFile:
    """Images (N, height, width) in a file that is too large for memory. It has the length and slices of an array.

    np.asarray maps the images into memory. What is read of them stays there as long as that array, and so may much of
    the file beside it: so take a slice, use it, and drop it. Images from many places are read with `take`.
    """

    path: Path
    shape: tuple[int, ...]
    offset: int  # bytes before the first image
    dtype, ndim = np.dtype(np.uint8), 3

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> "ImageFile":
        rows = range(len(self))[part]
        if rows.step != 1:
            raise IndexError("an ImageFile has only slices of consecutive images: use np.asarray for others")
        offset = self.offset + rows.start * math.prod(self.shape[1:])
        return replace(self, shape=(len(rows), *self.shape[1:]), offset=offset)

    def take(self, rows: np.ndarray, axis: int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """The images with these numbers, as an array, or in `out`: read, not mapped; consecutive ones together."""
        result = np.empty((len(rows), *self.shape[1:]), np.uint8) if out is None else out
        size, starts = math.prod(self.shape[1:]), np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        offsets, ends = self.offset + size * rows[starts], np.append(starts, len(rows))[1:]
        parts = np.stack([offsets, size * starts, size * ends], axis=1).tolist()
        content = result.reshape(-1).data
        with self.path.open("rb", buffering=0) as file:
            parts = [part for part in parts if not _read_cached(file.fileno(), content, *part)]
            if hasattr(os, "posix_fadvise"):  # the others are announced first, so that the disk reads many at a time
                for offset, start, end in parts:
                    os.posix_fadvise(file.fileno(), offset, end - start, os.POSIX_FADV_WILLNEED)
            for offset, start, end in parts:
                file.seek(offset)
                if file.readinto(content[start:end]) != end - start:
                    raise shorter(self.path)
        return result

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        except ValueError:  # it would be longer than the file
            raise shorter(self.path) from None


def _read_cached(file: int, content: memoryview, offset: int, start: int, end: int) -> bool:
    """Read the bytes from `offset` on into content[start:end], and return True, if the system has them in memory."""
    try:
        return os.preadv(file, [content[start:end]], offset, os.RWF_NOWAIT) == end - start
    except (AttributeError, OSError):  # on Linux only, and not on every file system
        return False


class DataError(ValueError):
    """Data that are missing or cannot be used; the message names the file and the remedy."""

    exit_code = 1


def shorter(path: Path) -> DataError:
    """The error for a file that does not hold what it held before."""
    return DataError(f"{path} has become shorter while it was in use: write it again")


def no_progress(items: Iterable, text: str) -> Iterable:
    """No progress bar."""
    return items


def read(path: Path, split: str, progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "test", from a file or folder in any of the formats:

        NAME.npz                     with arrays x_train, y_train, x_test, y_test
        NAME.pkl.gz, .pkl, .pickle   the pickled triple
        NAME.csv, NAME.csv.gz        rows of label,784 pixel values
        a folder                     with IDX files, with train.csv and test.csv, with class folders train/0 to train/9
                                     and test/0 to test/9, or with class folders 0 to 9

    Data without splits (a CSV file, class folders 0 to 9) are returned for both. DataError for everything else.
    """
    if path.is_dir():
        images, labels = _read_folder(path, split, progress)
    elif not path.is_file():
        raise DataError(f"no data at {path}: give auto, mnist, synthetic, or the path of a file or a folder")
    elif path.suffix == ".npz":
        images, labels = read_npz(path, split)
    elif path.name.endswith(PICKLES):
        images, labels = read_pickle(path, split)
    elif path.name.endswith(TABLES):
        images, labels = read_csv(path, progress)
    else:
        supported = ", ".join(EXTENSIONS)
        raise DataError(f"{path} does not end in {supported}; for IDX and image files give the folder")
    return validate(images, labels, str(path))


def has_splits(path: Path) -> bool:
    """Whether the data at `path` are divided into training and test images."""
    if path.is_dir():
        named = find_idx(path, "train", "images") or _tables(path, "train") or _class_folders(path / "train")
        return bool(named) or not _class_folders(path)
    return not path.name.endswith(TABLES)


def validate(
    images: np.ndarray | ImageFile, labels: np.ndarray, name: str
) -> tuple[np.ndarray | ImageFile, np.ndarray]:
    """Images as uint8 (N, 28, 28) and labels as int64 (N,). DataError if they cannot be that."""
    if images.shape[1:] in ((784,), (28, 28, 1)):
        images = images.reshape(-1, 28, 28)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise DataError(f"{name}: images must be uint8 (N, 28, 28), not {images.dtype} {images.shape}")
    if not len(images):
        raise DataError(f"{name}: there are no images")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels must be integers ({len(images)},), not {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name}: labels must lie in 0 to 9, not {labels.min()} to {labels.max()}")
    return images, labels.astype(np.int64)


def _read_folder(path: Path, split: str, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    idx = [find_idx(path, split, kind) for kind in ("images", "labels")]
    if all(idx):
        return read_idx(idx[0]), read_idx(idx[1])
    files = _tables(path, split)
    if len(files) > 1:
        raise DataError(f"{path} has several {split} files, {files[0].name} and {files[1].name}: give one of them")
    if files:
        return read_csv(files[0], progress)
    for folder in path / split, path:
        if _class_folders(folder):
            return read_class_folders(folder, progress)
    missing = f"no pair of IDX files named like MNIST's, no {split}.csv, no folders 0 to 9"
    raise DataError(f"no {split} digits in {path}: {missing}")


def _tables(folder: Path, split: str) -> list[Path]:
    """The CSV files of a split in a folder."""
    named = re.compile(rf"(?!\.)(.*[-_. ])?{split}\.csv(\.gz)?")
    return [file for file in folder.iterdir() if named.fullmatch(file.name) and file.is_file()]


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file, decompressed if it is gzip, with any name. DataError beyond `limit` bytes."""
    if path.stat().st_size > limit:
        raise DataError(f"{path} has more than {limit:,} bytes: too large")
    return decompress(path.read_bytes(), str(path), limit)


def decompress(content: bytes, name: str, limit: int) -> bytes:
    """The decompressed bytes if these are gzip; otherwise the bytes themselves. DataError beyond `limit` bytes."""
    limit = min(limit, _largest(len(content)))
    inside = _first_bytes(content, limit + 1, name)
    if len(inside) > limit:
        raise DataError(f"{name} has more than {limit:,} bytes: too large")
    return inside


def _largest(size: int) -> int:
    """The largest number of bytes that `size` bytes may have when they are decompressed."""
    return min(MAX_BYTES, max(SMALL_BYTES, MAX_RATIO * size))


def _first_bytes(content: bytes, count: int, name: str) -> bytes:
    """The first bytes, at most `count`, decompressed if they are gzip: no more are decompressed. DataError."""
    if content[:2] != GZIP:
        return content[:count]
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(count)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is a damaged gzip file ({error}): remove it and download it again") from None


# --- IDX --------------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray | ImageFile:
    """The array in an IDX file, gzipped or not; an `ImageFile` for images with more than MAX_BYTES. DataError.

    No more is decompressed than the header says.
    """
    name, size = str(path), path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
    if start[:2] != GZIP and size > MAX_BYTES and len(shape := _idx_shape(start, name)) == 3:
        _check_idx_size(shape, size, name)
        return ImageFile(path, shape, 16)
    too_large = DataError(f"{path} is too large when decompressed, or damaged: if it is gzipped, unzip it")
    if size > MAX_BYTES:
        raise too_large
    content = path.read_bytes()
    shape = _idx_shape(_first_bytes(content, 16, name), name)
    size = 4 + 4 * len(shape) + math.prod(shape)
    if size > _largest(len(content)):
        raise too_large
    return parse_idx(_first_bytes(content, size + 1, name), name)


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """The array in an IDX file: 0, 0, 8 (for uint8), number of dimensions, each dimension as 4 bytes, the data.

    LeCun, Cortes & Burges, "The MNIST database", 1998. DataError if it is not the file of images or labels.
    """
    shape = _idx_shape(content, name)
    _check_idx_size(shape, len(content), name)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _check_idx_size(shape: tuple[int, ...], size: int, name: str) -> None:
    """DataError unless an IDX file with this shape has `size` bytes."""
    expected, found = math.prod(shape), size - 4 - 4 * len(shape)
    if found != expected:
        reason = f"its header says {expected} bytes of data, it has {found if found < expected else 'more'}"
        raise DataError(f"{name} is cut short or damaged: {reason}: remove it and download it again")


def _idx_shape(content: bytes, name: str) -> tuple[int, ...]:
    """The dimensions in the header of an IDX file. DataError."""
    dimensions = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * dimensions
    if dimensions not in IDX_DIMENSIONS.values() or len(content) < header:
        found = "an HTML page" if content.lstrip()[:1] == b"<" else "something else"
        raise DataError(f"{name} is not an IDX file of digits but {found}: remove it and download it again")
    return tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())


def idx_bytes(array: np.ndarray) -> bytes:
    """The content of the IDX file of an array, as uint8."""
    return _idx_header(array.shape) + array.astype(np.uint8).tobytes()


def _idx_header(shape: tuple[int, ...]) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def idx_names(split: str, kind: str) -> list[str]:
    """The usual names of the IDX file of a split ("train", "test") and kind ("images", "labels"), MNIST's own first.

    The kind "writers" is QMNIST's file for the images of MNIST's split.
    """
    if kind == "writers":
        return [f"qmnist-{split}-labels-idx2-int{suffix}" for suffix in (".gz", "")]
    prefixes = ("train",) if split == "train" else ("t10k", "test")
    endings = [f"{mark}idx{IDX_DIMENSIONS[kind]}-ubyte{suffix}" for mark in "-." for suffix in (".gz", "")]
    return [f"{prefix}-{kind}{ending}" for prefix in prefixes for ending in endings]


def find_idx(folder: Path, split: str, kind: str) -> Path | None:
    """The IDX file of a split and kind in a folder, under the first of its usual names."""
    paths = (folder / name for name in idx_names(split, kind))
    return next((path for path in paths if path.is_file()), None)


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write two gzipped IDX files with MNIST's names."""
    for kind, array in ("images", images), ("labels", labels):
        (folder / idx_names(split, kind)[0]).write_bytes(gzip.compress(idx_bytes(array), 6, mtime=0))


def write_variants(folder: Path, split: str, pair: tuple, count: int, distort: Callable, progress: Progress) -> None:
    """Write two IDX files, not gzipped: each image, followed by count - 1 distorted versions of it."""
    images, labels = pair
    if len(images) * count >= 2**32:
        raise DataError(f"IDX files hold under 2^32 images: choose at most {(2**32 - 1) // len(images):,} variants")
    images_file, labels_file = (folder / idx_names(split, kind)[1] for kind in IDX_DIMENSIONS)
    labels_file.write_bytes(idx_bytes(np.repeat(labels.astype(np.uint8), count)))
    rng, step = np.random.default_rng(0), math.ceil(VARIANTS / count)
    with images_file.open("wb") as file:
        file.write(_idx_header((len(images) * count, 28, 28)))
        for start in progress(range(0, len(images), step), f"writing {split} images"):
            chunk = np.repeat(images[start : start + step], count, axis=0)
            variants = distort(chunk, rng)
            variants[::count] = chunk[::count]
            file.write(variants.data)


# --- npz and pickle ---------------------------------------------------------------------------------------------------


def read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays x_SPLIT and y_SPLIT of an npz archive. DataError."""
    names = f"x_{split}", f"y_{split}"
    with _errors(path, "an npz archive"), storage.open_zip(read_bytes(path, MAX_BYTES)) as archive:
        if not {f"{name}.npy" for name in names} <= set(archive.namelist()):
            raise DataError(f"{path} has no {' and '.join(names)}: give its arrays these names")
        images, labels = (read_member(archive, name, MAX_BYTES) for name in names)
    return images, labels


@contextlib.contextmanager
def _errors(path: Path, kind: str) -> Iterator[None]:
    """Make a DataError of any exception: a damaged file raises many types."""
    try:
        yield
    except DataError:
        raise
    except (Exception, MemoryError) as error:
        reason = " ".join(str(error)[:200].split()) or type(error).__name__
        raise DataError(f"{path} is damaged or not {kind} ({reason}): remove it and download it again") from None


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """An array in an npz archive. ValueError if it has more than `limit` bytes; then it is not read."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are not decompressed in pieces
        raise ValueError("not compressed as NumPy does it")
    with archive.open(info) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files of Python 2
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not an array of numbers")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape) * dtype.itemsize
        if not 0 <= size <= min(info.file_size, limit, _largest(info.compress_size)):
            raise ValueError("too large")
        content = file.read(size)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def write_npz(file: IO[bytes], splits: Splits) -> None:
    """Write the arrays x_train, y_train, x_test, y_test."""
    arrays = {}
    for split, (images, labels) in splits.items():
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez_compressed(file, **arrays)


def read_pickle(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """From a pickled triple, see `mnist_pickle`. DataError."""
    with _errors(path, "a pickled triple of digits"):
        return mnist_pickle.read(read_bytes(path, MAX_BYTES), split)


# --- CSV --------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """From rows of label,784 pixel values, with or without a header; gzipped or not. DataError.

    The label is the last column if the title of that is one of LABEL_COLUMNS.
    """
    images, labels, count, place = [], [], 0, None  # of the label, if a header tells it: 0 or -1
    try:
        with path.open("rb") as file:
            opened = gzip.open if file.read(2) == GZIP else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            lines = _lines(file)
            first = next(lines, "")
            titles = [title.strip("\"' ").lower() for title in first.rstrip().split(",")]
            place = next((i for i in (-1, 0) if titles[i] in LABEL_COLUMNS), None)
            if first and place is None and not titles[0][:1].isalpha():  # no header
                lines = itertools.chain([first], lines)
            for chunk in progress(iter(lambda: list(itertools.islice(lines, CSV_ROWS)), []), f"reading {path.name}"):
                rows = np.loadtxt(chunk, np.float32, delimiter=",", ndmin=2, comments=None, quotechar='"')
                if rows.shape[1] != 785 or not ((rows >= 0) & (rows <= 255) & (rows == np.rint(rows))).all():
                    raise ValueError("its rows are not a label and 784 integers from 0 to 255")
                rows = np.roll(rows, 1, axis=1) if place == -1 else rows
                labels.append(rows[:, 0].astype(np.int64))
                images.append(rows[:, 1:].astype(np.uint8))
                count += len(rows)
                if count * 785 > MAX_BYTES:
                    raise ValueError("too many rows")
    except (ValueError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read from row {count + 1:,} to {count + CSV_ROWS:,} ({error})") from None
    if not count:
        raise DataError(f"{path} is empty")
    images, labels = np.concatenate(images), np.concatenate(labels)
    if place is None and not labels.any() and 0 < images[:, -1].max() < 10:  # most first pixels are 0
        raise DataError(f"{path}: the last column seems to be the label: put it first, or name it label in a header")
    return images, labels


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file that are not blank. ValueError if one is far longer than 785 numbers, or many are blank."""
    blank = 0
    while line := file.readline(MAX_CSV_LINE):
        if len(line) == MAX_CSV_LINE:
            raise ValueError("its lines are too long")
        blank = 0 if line.strip() else blank + 1
        if blank > MAX_BLANK_LINES:
            raise ValueError("it has too many blank lines")
        if not blank:
            yield line


def write_csv(file: IO[bytes], images: np.ndarray, labels: np.ndarray, progress: Progress = no_progress) -> None:
    """Write a header, and a row label,784 pixel values for each image."""
    file.write(",".join(["label", *(f"{y + 1}x{x + 1}" for y in range(28) for x in range(28))]).encode() + b"\n")
    for start in progress(range(0, len(images), CSV_ROWS), "writing CSV"):
        chunk = slice(start, start + CSV_ROWS)
        np.savetxt(file, np.column_stack([labels[chunk], images[chunk].reshape(-1, 784)]), fmt="%d", delimiter=",")


# --- class folders ----------------------------------------------------------------------------------------------------


def _class_folders(folder: Path) -> list[Path]:
    """The folders 0 to 9 in a folder that exist."""
    return [folder / str(digit) for digit in range(10) if (folder / str(digit)).is_dir()]


def read_class_folders(folder: Path, progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """From image files in folders 0 to 9, sorted by file name. DataError.

    28 x 28 pixels on black are read unchanged; every other file is a photo, for `photo.prepare`.
    """

    def raise_error(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be opened: {error.strerror}")

    walks = (photo.walk(place, raise_error) for place in _class_folders(folder))
    files = [Path(current, name) for walk in walks for current, _, names in walk for name in names]
    files = [file for file in files if file.suffix.lower() in photo.SUFFIXES and not file.name.startswith(".")]
    files.sort(key=lambda file: (len(file.stem), file.stem, str(file)))  # 2.png before 10.png
    if not files:
        raise DataError(f"no image files in {folder}")
    images = np.empty((len(files), 28, 28), np.uint8)
    for i, file in enumerate(progress(files, f"reading {folder.name}")):
        try:
            gray = photo.read(file)
            images[i] = gray if gray.shape == (28, 28) and photo.has_black_border(gray) else photo.prepare(gray)
        except photo.PhotoError as error:
            raise DataError(f"{file} {error}: remove it or replace it") from None
    return images, np.array([int(file.relative_to(folder).parts[0]) for file in files])


def write_class_folders(
    folder: Path, extension: str, images: np.ndarray, labels: np.ndarray, progress: Progress = no_progress
) -> None:
    """Write an image file for each image, such as 0/12345.png, named by its index. JPEG changes pixel values slightly.

    DataError for an image that `read_class_folders` would not read unchanged.
    """
    for digit in np.unique(labels):
        (folder / str(digit)).mkdir(parents=True)
    width = len(str(len(images) - 1))
    for i, image in enumerate(progress(images, "writing image files")):
        if not photo.has_black_border(image):
            raise DataError(f"image {i} is not on black, so it would be read as a photo: write npz, idx or csv")
        file = io.BytesIO()  # Pillow's JPEG encoder ignores it if the disk takes only a part of a file
        Image.fromarray(image).save(file, "JPEG" if extension == ".jpg" else "PNG", quality=95)
        (folder / str(labels[i]) / f"{i:0{width}}{extension}").write_bytes(file.getvalue())
