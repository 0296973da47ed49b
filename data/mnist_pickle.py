"""mnist.pkl.gz, a pickled triple: (images, labels) to train, validate and test; images are rows of pixel / 256.

A pickle is a program: it names functions and their arguments. Even NumPy's own functions trust the pointers and offsets
that a pickle gives them. So nothing the pickle names is called; what is defined here takes its place.

Nor can a small pickle become large: `_check_opcodes` runs before it is opened, what is defined here copies nothing
while it is opened, and `_check_size` counts every value as often as it is used before anything is copied.
"""

import gzip
import io
import pickle
import pickletools
import re
from typing import IO, Any

import numpy as np

MAX_OPCODES = 2**20  # instructions of a pickle; arrays need some 300, a list of 70,000 labels up to 15 for each
MAX_SIZE = 2**30  # bytes of all arrays
MAX_IMAGES = MAX_SIZE // 3200  # each has 784 float32 and a label
OPCODES = frozenset(  # those that occur in pickled arrays, of protocols 0 to 5, and in lists of numbers
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BYTEARRAY8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS".split()
)


def read(content: bytes, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 784) or (N, 28, 28) and labels of "train" or "test"; "train" includes the validation images.

    Pixel values may be multiples of 1/256 or of 1/255, or 0 to 255. For other content it raises exceptions of any type,
    but never runs code from it.
    """
    _check_opcodes(content)
    pairs = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    _check_size(pairs)
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


# --- checks -----------------------------------------------------------------------------------------------------------

LENGTH_BYTES = {  # of the number before an argument that says how long it is
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
ARGUMENTS = {  # opcode -> name and size of its argument: bytes, or one of pickletools' constants < 0
    ord(op.code): (op.name, op.arg.n if op.arg else 0) for op in pickletools.opcodes if op.name in OPCODES
}


def _check_opcodes(content: bytes) -> None:
    """ValueError if a pickle has other instructions than pickled arrays, or too many, or arguments beyond its end.

    As `pickletools.genops`, which would copy every argument.
    """
    position = 0
    for _ in range(MAX_OPCODES):
        if position >= len(content):
            raise ValueError("it is cut short")
        if content[position] not in ARGUMENTS:
            raise ValueError(f"it has the instruction {content[position : position + 1]!r}, which arrays do not need")
        name, size = ARGUMENTS[content[position]]
        start = position + 1
        if size == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if name == "GLOBAL" else 1):
                position = content.find(b"\n", position + 1)
                if position < 0:
                    raise ValueError("it is cut short")
            position += 1
        elif size < 0:
            start += LENGTH_BYTES[size]
            position = start + int.from_bytes(content[start - LENGTH_BYTES[size] : start], "little")
        else:
            position = start + size
        if name == "STOP":
            return
        if name == "LONG_BINPUT" and int.from_bytes(content[start:position], "little") > MAX_OPCODES:
            raise ValueError("it has a memo that is too large")
        if name == "PUT" and not 0 <= int(content[start : min(position, start + 20)]) <= MAX_OPCODES:
            raise ValueError("it has a memo that is too large")
    raise ValueError(f"it has more than {MAX_OPCODES:,} instructions: save arrays, not lists")


def _check_size(pairs: Any) -> None:
    """ValueError for anything but numbers and arrays, in lists and tuples, and if they are too many.

    What the pickle uses several times is counted each time, so this ends for lists that contain themselves, too.
    """
    count = size = 0
    things = [pairs]
    while things:
        thing = things.pop()
        if isinstance(thing, list | tuple):
            count += len(thing)
            if count <= MAX_OPCODES:
                things.extend(thing)
        elif isinstance(thing, _Array):
            size += len(thing.content)
        elif not isinstance(thing, int | float | np.ndarray):
            raise ValueError(f"it has a {type(thing).__name__}, not numbers")
        if count > MAX_OPCODES or size > MAX_SIZE:
            raise ValueError("its lists are too large")


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
    """Replaces numpy.ndarray, and the function that makes an empty array; copies nothing until it is used."""

    __slots__ = "content", "dtype", "order", "shape"

    def __init__(self, *ignored: Any) -> None:
        self.content, self.dtype, self.shape, self.order = b"", np.dtype(float), (0,), "C"

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, content = state
        self.fill(content, dtype, shape, "F" if fortran_order else "C")

    def fill(self, content: Any, dtype: _DType, shape: tuple, order: str) -> None:
        if not isinstance(content, bytes | bytearray | str):
            raise ValueError("it has an array of objects, not of numbers")
        self.content, self.dtype, self.shape, self.order = content, dtype.dtype, shape, order

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content  # Python 2: text
        return np.frombuffer(content, self.dtype).reshape(self.shape, order=self.order).astype(dtype or self.dtype)


def _from_buffer(content: Any, dtype: _DType, shape: tuple, order: str, *ignored: Any) -> _Array:
    array = _Array()
    array.fill(content, dtype, shape, order)
    return array


def _scalar(dtype: _DType, content: Any) -> np.ndarray:
    if len(content) > 8:
        raise ValueError("it has a number of more than 8 bytes")
    return np.array(_from_buffer(content, dtype, (), "C"))


SAFE_GLOBALS = {  # the names that occur in pickled arrays, and what replaces them
    "numpy": {"ndarray": _Array, "dtype": _DType},
    "multiarray": {"_reconstruct": _Array, "scalar": _scalar},
    "numeric": {"_frombuffer": _from_buffer},
    "_codecs": {"encode": lambda text, encoding: text},  # bytes, in protocols 0 to 2; `_Array` encodes them
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
