"""mnist.pkl.gz, a pickled triple: (images, labels) to train, validate and test; images are rows of pixel / 256.

A pickle is a program: it names functions and their arguments. Even NumPy's own functions trust the pointers and offsets
that a pickle gives them. So nothing the pickle names is called; what is defined here takes its place.
"""

import gzip
import io
import pickle
import re
from typing import IO, Any

import numpy as np


def read(content: bytes, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 784) or (N, 28, 28) and labels of "train" or "test"; "train" includes the validation images.

    Pixel values may be multiples of 1/256 or of 1/255, or 0 to 255. For other content it raises exceptions of any type,
    but never runs code from it.
    """
    pairs = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    pairs = pairs[:-1] if split == "train" else pairs[-1:]
    images = np.concatenate([_to_bytes(np.asarray(images)) for images, _ in pairs])
    labels = np.concatenate([np.asarray(labels) for _, labels in pairs])
    return images, labels


def write(file: IO[bytes], train: tuple, test: tuple) -> None:
    """Write the gzipped triple of images uint8 (N, 28, 28) and labels (N,).

    The last sixth of the training images is the validation set, as usual (MNIST's last 10,000).
    """
    images, labels = train
    cut = len(images) - len(images) // 6
    pairs = (images[:cut], labels[:cut]), (images[cut:], labels[cut:]), test
    triple = tuple((x.reshape(-1, 784) / np.float32(256), y) for x, y in pairs)
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as compressed:
        pickle.dump(triple, compressed, protocol=4)


def _to_bytes(images: np.ndarray) -> np.ndarray:
    """Floating-point pixel values as uint8; other arrays unchanged."""
    if images.dtype.kind != "f":
        return images
    if images.size and not (images.min() >= 0 and images.max() <= 255):  # NaN fails this comparison too
        raise ValueError("pixel values out of range")
    top, sample = images.max(initial=0), images[:1000] * 256
    scale = 1 if top > 1 else 256 if top < 1 and np.array_equal(sample, np.rint(sample)) else 255
    return np.rint(images * scale).astype(np.uint8)


class _DType:
    """Replaces numpy.dtype; numbers only."""

    def __init__(self, code: str, *flags: bool) -> None:
        if not re.fullmatch("[buif][1248]", code):
            raise ValueError(f"it has an array of type {code!r}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces numpy.ndarray, and the function that makes an empty array."""

    def __init__(self, *ignored: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, content = state
        self.values = _array(content, dtype, shape, "F" if fortran_order else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)


def _array(content: Any, dtype: _DType, shape: tuple, order: str, *ignored: Any) -> np.ndarray:
    content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 wrote it as text
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _DType, content: Any) -> np.ndarray:
    return _array(content, dtype, (), "C")


SAFE_GLOBALS = {  # the names that occur in pickled arrays, and what replaces them
    "numpy": {"ndarray": _Array, "dtype": _DType},
    "multiarray": {"_reconstruct": _Array, "scalar": _scalar},
    "numeric": {"_frombuffer": _array},
    "_codecs": {"encode": lambda text, encoding: text.encode("latin1")},  # bytes, in protocols 0 to 2
    "__builtin__": {"bytes": lambda: b""},  # empty bytes, in protocols 0 to 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        safe = SAFE_GLOBALS.get(re.sub(r"^numpy\._?core\.", "", module), {})
        if name not in safe:
            raise ValueError(f"it names {module}.{name}, which arrays do not need: not opened, it could do harm")
        return safe[name]
