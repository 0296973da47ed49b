"""The pickled triple mnist.pkl.gz: ((images, labels) to train, to validate, to test), images as rows of grey / 256.

A pickle is a program: it names functions and says what to call them with, and even NumPy's own take it at its word when
it speaks of pointers and offsets. So none of what it names is ever called. Stand-ins of ours build plain arrays.
"""

import gzip
import io
import pickle
import re
from typing import IO, Any

import numpy as np


def read(content: bytes, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 784) or (N, 28, 28) and labels of "train" or "test"; those to validate count as training images.

    Greys may be 256ths, 255ths, or 0 to 255. Any kind of exception if this is no such triple; nothing is done then.
    """
    pairs = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    pairs = pairs[:-1] if part == "train" else pairs[-1:]
    images = np.concatenate([_greys(np.asarray(images)) for images, _ in pairs])
    labels = np.concatenate([np.asarray(labels) for _, labels in pairs])
    return images, labels


def write(file: IO[bytes], train: tuple, test: tuple) -> None:
    """The gzipped triple of images uint8 (N, 28, 28) and labels (N,).

    The last sixth of the training images is there to validate (MNIST's last 10,000), as is the custom.
    """
    images, labels = train
    cut = len(images) - len(images) // 6
    thirds = (images[:cut], labels[:cut]), (images[cut:], labels[cut:]), test
    triple = tuple((x.reshape(-1, 784) / np.float32(256), y) for x, y in thirds)
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as packed:
        pickle.dump(triple, packed, protocol=4)


def _greys(images: np.ndarray) -> np.ndarray:
    """Floating-point greys as bytes."""
    if images.dtype.kind != "f":
        return images
    if images.size and not (images.min() >= 0 and images.max() <= 255):  # nor if one is not a number
        raise ValueError("grey values out of range")
    top, sample = images.max(initial=0), images[:1000] * 256
    scale = 1 if top > 1 else 256 if top < 1 and np.array_equal(sample, np.rint(sample)) else 255
    return np.rint(images * scale).astype(np.uint8)


class _Numbers:
    """Stands in for numpy.dtype, for plain numbers only."""

    def __init__(self, code: str, *flags: bool) -> None:
        if not re.fullmatch("[buif][1248]", code):
            raise ValueError(f"it asks for {code!r} in an array, not for numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray, and for what makes an empty one to be filled."""

    def __init__(self, *ignored: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, numbers, by_columns, content = state
        self.values = _array(content, numbers, shape, "F" if by_columns else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)


def _array(content: Any, numbers: _Numbers, shape: tuple, order: str, *more: Any) -> np.ndarray:
    content = content.encode("latin1") if isinstance(content, str) else content  # text: from Python 2
    return np.frombuffer(content, numbers.dtype).reshape(shape, order=order)


def _scalar(numbers: _Numbers, content: Any) -> np.ndarray:
    return _array(content, numbers, (), "C")


KNOWN = {  # the names that pickled arrays have in them, and what builds them
    "numpy": {"ndarray": _Array, "dtype": _Numbers},
    "multiarray": {"_reconstruct": _Array, "scalar": _scalar},
    "numeric": {"_frombuffer": _array},
    "_codecs": {"encode": lambda text, coding: text.encode("latin1")},  # bytes, in the protocols 0 to 2
    "__builtin__": {"bytes": lambda: b""},  # none of them
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get(re.sub(r"^numpy\._?core\.", "", module), {})
        if name not in known:
            raise ValueError(f"it asks for {module}.{name}, which arrays do not need: not opened, it could do harm")
        return known[name]
