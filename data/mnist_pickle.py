"""mnist.pkl.gz, a pickled triple: (images, labels) to train, validate and test; images are rows of pixel / 256.

A pickle is a program: it names functions and their arguments. Even NumPy's own functions trust the pointers and offsets
that a pickle gives them. So nothing the pickle names is called; what is defined here takes its place.

A small pickle cannot fill the memory either. Its instructions are checked before it is opened. While it is opened,
nothing is copied. Then the sizes of all arrays are added up, an array that is used twice counts twice, and only if the
sum is small enough are they copied.
"""

import gzip
import io
import pickle
import pickletools
import re
from typing import IO, Any

import numpy as np

MAX_OPCODES = 10_000  # instructions of a pickle; six arrays need some 300
MAX_SIZE = 2**30  # bytes of all arrays; they may also have no more than the pickle itself
SMALL_SIZE = 2**26  # bytes of all arrays that are always allowed
MAX_IMAGES = MAX_SIZE // 3200  # each has 784 float32 and a label
OPCODES = frozenset(  # of pickled arrays in lists and tuples, protocols 0 to 5 (of Python 2 only 1 and 2)
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BYTEARRAY8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS".split()
)


def read(content: bytes, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 784) or (N, 28, 28) and labels of "train" or "test"; "train" includes the validation images.

    Pixel values may be multiples of 1/256 or of 1/255, or 0 to 255. For other content it raises exceptions of any type,
    but never runs code from it.
    """
    _check_opcodes(content)
    pairs = [(images, labels) for images, labels in _Unpickler(io.BytesIO(content), encoding="latin1").load()]
    arrays = [array for pair in pairs for array in pair]
    if not all(isinstance(array, _Array) for array in arrays):
        raise ValueError("its images and labels are not all arrays")
    if sum(len(array.content) for array in arrays) > min(MAX_SIZE, max(SMALL_SIZE, len(content))):
        raise ValueError("its arrays are too large")
    pairs = pairs[:-1] if split == "train" else pairs[-1:]
    images = np.concatenate([_to_bytes(images.to_numpy()) for images, _ in pairs])
    labels = np.concatenate([labels.to_numpy() for _, labels in pairs])
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


def _check_opcodes(content: bytes) -> None:
    """ValueError if a pickle is damaged, or has other instructions than pickled arrays, or too many."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise ValueError(f"it has the instruction {opcode.name}, which arrays do not need")
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= argument <= MAX_OPCODES:
            raise ValueError("it has a memo that is too large")
        if count >= MAX_OPCODES:
            raise ValueError(f"it has more than {MAX_OPCODES:,} instructions: save arrays, not lists")


# --- what replaces NumPy ----------------------------------------------------------------------------------------------


class _DType:
    """Replaces numpy.dtype; numbers only."""

    def __init__(self, code: str, *flags: bool) -> None:
        if not re.fullmatch("[buif][1248]", code):
            raise ValueError(f"it has an array of type {code[:50]!r}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces numpy.ndarray, and the function that makes an empty array."""

    def __init__(self, *ignored: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran_order, self.content = state
        if not isinstance(self.dtype, _DType):  # the pickle could put anything there
            raise ValueError("it has an array without a type")

    def to_numpy(self) -> np.ndarray:
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content  # Python 2: text
        order = "F" if self.fortran_order else "C"
        return np.frombuffer(content, self.dtype.dtype).reshape(self.shape, order=order)


def _from_buffer(content: Any, dtype: _DType, shape: tuple, order: str, *ignored: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


SAFE_GLOBALS = {  # the names that occur in pickled arrays, and what replaces them
    "numpy": {"ndarray": _Array, "dtype": _DType},
    "multiarray": {"_reconstruct": _Array},
    "numeric": {"_frombuffer": _from_buffer},
    "_codecs": {"encode": lambda text, encoding: text},  # bytes, in protocols 0 to 2; `to_numpy` encodes them
    "__builtin__": {"bytes": lambda: b""},  # empty bytes, in protocols 0 to 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        safe = SAFE_GLOBALS.get(re.sub(r"^numpy\._?core\.", "", module), {})
        if name not in safe:
            raise ValueError(
                f"it names {module[:50]}.{name[:50]}, which arrays do not need: not opened, it could do harm"
            )
        return safe[name]
