"""data/mnist_pickle.py, through `formats.read`: pickled triples of any origin, and pickles that do harm."""

import gzip
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from data import DataError, formats, mnist_pickle

from .conftest import ROOT


@pytest.fixture
def digits(digits):
    """Fewer digits: 100 for training and 50 for testing."""
    return tuple((images[:n], labels[:n]) for n, (images, labels) in zip((100, 50), digits, strict=True))


def triple(digits, change=lambda x: x):
    (x, y), (u, v) = digits
    pairs = (x[:80], y[:80]), (x[80:], y[80:]), (u, v)
    return tuple((change(images.reshape(-1, 784)), labels) for images, labels in pairs)


SCALES = {
    "256ths": lambda x: x / np.float32(256),
    "255ths": lambda x: x / 255,
    "255ths, float32": lambda x: (x / 255).astype(np.float32),
    "255ths, rounded": lambda x: np.round(x / 255, 4),
    "floats": lambda x: x.astype(np.float64),
    "bytes": lambda x: x,
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_any_protocol_and_scale(tmp_path, digits, scale, protocol):
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(triple(digits, SCALES[scale]), protocol), 1))
    for split, (images, labels) in zip(("train", "test"), digits, strict=True):
        x, y = formats.read(path, split)
        assert (x == images).all() and (y == labels).all()


def test_one_bit_digits_are_black_and_white(tmp_path, digits):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(triple(digits, lambda x: (x > 127).astype(np.float32))))
    assert (formats.read(path, "test")[0] == 255 * (digits[1][0] > 127)).all()


def test_fortran_order_and_big_endian(tmp_path, digits):
    images, labels = digits[1]
    pair = np.asfortranarray((images.reshape(-1, 784) / 256).astype(">f4")), labels.astype(">i2")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([pair, list(pair), pair], protocol))
        x, y = formats.read(tmp_path / "a.pkl", "test")
        assert (x == images).all() and (y == labels).all()


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(7), pickle.dumps(((1, 2),) * 3), pickle.dumps([])])
def test_other_pickles_are_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pkl"):
        formats.read(tmp_path / "a.pkl", "train")


@pytest.mark.parametrize("bad", [np.nan, -1.0, 300.0])
def test_pixel_values_out_of_range_are_refused(tmp_path, digits, bad):
    def spoil(x):
        x = x.astype(np.float64)
        x[3, 5] = bad
        return x

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(triple(digits, spoil)))
    with pytest.raises(DataError, match="out of range"):
        formats.read(tmp_path / "a.pkl", "train")


class Command:
    """A pickle of this runs a command when `pickle.load` opens it."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def hostile(digits):
    yield Command()
    yield (Command(), Command(), Command())
    array = np.empty(1, object)
    array[0] = Command()
    yield ((array, array),) * 3
    yield (eval, "1")
    yield (np.save, np.fromfile)


def test_a_hostile_pickle_runs_nothing(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, thing in enumerate(hostile(digits)):
        path = tmp_path / f"{i}.pkl"
        path.write_bytes(pickle.dumps(thing))
        with pytest.raises(DataError, match=r"could do harm|not of numbers"):
            formats.read(path, "train")
    # a dotted name reaches into an allowed object; importing a module runs its code
    for module, name in ("numpy", "ndarray.tofile"), ("numpy.testing", "dtype"), ("os", "system"):
        text = f"c{module}\n{name}\n."
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + text.encode())
        with pytest.raises(DataError, match="not opened"):
            formats.read(tmp_path / "a.pkl", "train")
    assert not (tmp_path / "hacked").exists()


class Forged:
    """A pickle of this makes NumPy use eight bytes of it as the address of an object."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class ForgedType(Forged):
    def __reduce__(self):
        return (*self.call, (3, "|", None, ("x",), {"x": (np.dtype("f8"), -(2**28))}, 8, 1, 0))


FORGED = {
    "objects": Forged(np.ndarray, ((1,), np.dtype("O"), b"A" * 8)),
    "a negative offset": Forged(np.ndarray, ((8,), np.dtype("u1"), b"A" * 8, -100)),
    "fields elsewhere": ForgedType(np.dtype, ("V8", False, True)),
    "an object scalar": Forged(np.array([1.5])[0].__reduce__()[0], (np.dtype("O"), b"A" * 8)),
    "a large type": Forged(np.dtype, ("V2000000000", False, True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGED)
def test_forged_arrays_do_not_crash_numpy(tmp_path, name):
    path = tmp_path / "forged.pkl"
    for thing in FORGED[name], ((FORGED[name], [1]),) * 3:
        path.write_bytes(pickle.dumps(thing))
        code = f"from pathlib import Path; from data import formats; formats.read(Path({str(path)!r}), 'train')"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "DataError" in done.stderr.splitlines()[-1]


# --- pickles that would become large ----------------------------------------------------------------------------------


def laughs(levels, opened, closed):
    """Lists of ten times the list below, 10^levels values: instructions of protocol 2."""
    body = opened + b"K\x01" * 10 + closed + b"q\x00"
    for level in range(1, levels):
        body = opened + body + 9 * bytes([ord("h"), level - 1]) + closed + bytes([ord("q"), level])
    return body


LARGE = {
    "nested lists": b"\x80\x02" + 3 * (2 * laughs(9, b"](", b"e") + b"\x86") + b"\x87.",
    "nested tuples": b"\x80\x02" + 3 * (2 * laughs(9, b"(", b"t") + b"\x86") + b"\x87.",
    "a list in itself": b"\x80\x02]q\x00(" + b"h\x00" * 10 + b"e.",
    "lists filled later": b"\x80\x02]q\x00]q\x01(" + b"h\x00" * 2000 + b"eh\x00(" + b"K\x01" * 2000 + b"e\x86.",
    "LONG_BINPUT": b"\x80\x02]r" + struct.pack("<I", 10**8) + b".",
    "PUT": b"]p100000000\n.",
    "PUT, long": b"]p" + b"1" * 5000 + b"\n.",
    "DUP": b"]" + b"2" * 5000 + b".",
    "marks": b"(" * 200_000 + b".",
    "lists": b"]" * 200_000 + b".",
    "text": b"\x80\x02(X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00" + b"h\x00" * 2000 + b"l.",
    "bytes beyond the end": b"\x80\x05\x96" + struct.pack("<Q", 10**11) + b"a.",
    "a frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 10**12) + b"].",
    "a text encoded often": b"\x80\x02(X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00c_codecs\nencode\nq\x01"
    + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 2000 + b"l.",
    "a long name": b"\x80\x04X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00h\x00\x93.",
    "no end": b"\x80\x02]",
    "a dictionary": b"\x80\x02}.",
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_a_small_pickle_does_not_become_large(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(LARGE[name])
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(DataError) as error:
        formats.read(tmp_path / "a.pkl", "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8 and time.perf_counter() - start < 10 and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"]" + b"2" * 5 + b".", "instruction DUP"),
        (b"(" * 20_000 + b".", "more than 10,000 instructions"),
        (pickle.dumps((([[1]], [1]),) * 3), "not all arrays"),
    ],
)
def test_the_reason_of_a_refusal(tmp_path, content, reason):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        formats.read(tmp_path / "a.pkl", "train")


class Forged:
    """An array whose pickle has any state."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return *np.zeros(0).__reduce__()[:2], (1, *self.state)


def test_an_array_takes_its_type_from_a_dtype_only(tmp_path):
    """One element of 4000 bytes beside many of one byte: each would get 4000."""
    wide, narrow = (Forged((1,), text, False, b"") for text in ("S4000", "S1"))
    pairs = [Forged((1,), wide, False, bytes(4000)), np.zeros(1)], [Forged((10**6,), narrow, False, bytes(10**6)), 0]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps((*pairs, pairs[0])))
    with pytest.raises(DataError, match="an array without a type"):
        formats.read(tmp_path / "a.pkl", "train")


def test_one_large_argument_is_refused(tmp_path):
    """400 kB that decompress to 400 MB."""
    pickled = b"\x80\x02B" + struct.pack("<I", 4 * 10**8)
    (tmp_path / "a.pkl.gz").write_bytes(gzip.compress(pickled + bytes(4 * 10**8) + b".", 1))
    tracemalloc.start()
    with pytest.raises(DataError, match="bytes: too large"):
        formats.read(tmp_path / "a.pkl.gz", "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 10**8


def test_one_array_used_too_often_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_pickle, "MAX_SIZE", 10**6)
    array, labels = np.zeros((100, 784), np.uint8), np.zeros(100, int)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(((array, labels),) * 3, protocol))
        assert len(formats.read(tmp_path / "a.pkl", "train")[0]) == 200
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(((array, labels),) * 20, protocol))
        with pytest.raises(DataError, match="too large"):
            formats.read(tmp_path / "a.pkl", "train")


def test_a_small_pickle_may_not_use_one_array_often(tmp_path):
    array = np.zeros((1000, 784), np.uint8)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(((array, np.zeros(1000, int)),) * 100))
    with pytest.raises(DataError, match="too large"):
        formats.read(tmp_path / "a.pkl", "train")


def python_2_array(array):
    """The instructions of Python 2's cPickle, protocol 2, with NumPy 1's names; long integers, as on Windows."""
    content = array.tobytes()
    text = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01"
    for pixels in array.shape:
        text += b"\x8a\x04" + struct.pack("<i", pixels)
    text += b"\x85" if array.ndim == 1 else b"\x86"
    text += b"cnumpy\ndtype\nq\x04U\x02" + array.dtype.str[1:].encode() + b"K\x00K\x01\x87R(K\x03U\x01<NNN"
    return text + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(content)) + content + b"tb"


def test_python_2(tmp_path, digits):
    images, labels = digits[1]
    images = images.reshape(-1, 784) / np.float32(256)
    pair = python_2_array(images) + python_2_array(labels.astype(np.int64)) + b"\x86"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + 3 * pair + b"\x87.")
    x, y = formats.read(tmp_path / "a.pkl", "test")
    assert (x == digits[1][0]).all() and (y == labels).all()
