"""Hostile versions of valid input, for torture.py: of bytes, JSON, zip archives, npz, gzip, pickles and PNG files.

Every function takes a `random.Random` first, so that the same seed makes the same mutant.
"""

import contextlib
import gzip
import io
import json
import math
import pickle
import struct
import warnings
import zipfile
import zlib
from random import Random

import numpy as np

import storage

EXTREMES = [b"\0", b"\xff", b"\x80", b"\x7f", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]
EXTREMES += [b"\xff\xff\xff\x7f", b"\0\0\0\x40", b"\x40\0\0\0", b"\xff" * 8, b"\0" * 8, b"\n", b'"', b"}", b"9" * 20]
VALUES = [None, True, False, -1, 0, 1, 2, 3, 7, 10**6, 10**12, 10**30, 10**400, -0.5, 1e-45, 1e39, 1e308, math.nan]
VALUES += [math.inf, -math.inf, "", "0", "relu", "float64", "Dense", "\0\x1b[31m", "a\nb", "\ud800", "x" * 5000]
VALUES += [[], [[]], [0], [None] * 50, {}, {"a": 1}, [1, [2, [3, [4, {"b": []}]]]]]
NUMBERS = [math.nan, math.inf, -math.inf, 3e38, -3e38, 1e30, 1e-45, 0.0, -1.0, 255.0]
DTYPES = ["<f4", "<f8", ">f4", "<f2", "|u1", "<i8", "<u8", "|b1", "<c8", "<U1", "|O", "<M8[s]", "|V4", "|S0", "junk"]
SHAPES = ["()", "(0,)", "(1,)", "(-1,)", "(2147483648,)", "(268435456, 4)", "(99999999999999999999,)", "(1, 0, 5)"]
SHAPES += ["(2, 2)", "(1,) * 9", "[1]", "None", "(True,)", "(1.0,)", "(" * 200]


def flip(rng: Random, content: bytes, low: int = 0, high: int | None = None) -> bytes:
    """One to eight changes of bytes, with start and end of [low, high) more often: bits, extremes, cuts, copies."""
    data, low, high = bytearray(content), max(0, low), min(len(content), high or len(content))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        low, high = min(low, len(data)), min(high, len(data))
        edge = min(high - low, 128)
        first, last = rng.choice([(low, high), (low, low + edge), (high - edge, high)])
        at, size = rng.randint(first, max(first, last - 1)), rng.choice((1, 2, 4, 16, 100))
        kind = rng.randrange(9)
        if kind < 2 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size] * rng.choice((1, 1, 1, 50))
        elif kind == 5:
            data[at:at] = rng.randbytes(size)
        elif kind == 6:
            extreme = rng.choice(EXTREMES)
            data[at : at + len(extreme)] = extreme
        elif kind == 7:
            other = rng.randint(low, high)
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        else:
            data[at : at + size] = bytes(len(data[at : at + size]))
    return bytes(data)


def edit_json(rng: Random, value: object) -> object:
    """A copy of a JSON value in which one part, at a random depth, is replaced, removed, added or moved."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, kind, copy = rng.choice(keys), rng.randrange(12), value.copy()
        if kind == 0:
            del copy[key]
        elif kind == 1 and isinstance(value, dict):
            copy[rng.choice(["", "x", "a\nb", *keys])] = rng.choice(VALUES)
        elif kind == 1:
            copy.insert(key, rng.choice([*VALUES, value[key]]))
        elif kind == 2:
            other = rng.choice(keys)
            copy[key], copy[other] = value[other], value[key]
        else:
            copy[key] = edit_json(rng, value[key])
        return copy
    if type(value) in (int, float) and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, -value, 2 * value, float(min(value, 1e300)), str(value)[:99]])
    return rng.choice(VALUES)


# --- zip, npz and model files ---------------------------------------------------------------------------------------


def npy(rng: Random, content: bytes) -> bytes:
    """The .npy file with another header: type, shape, order, or bytes of it."""
    header = content[10 : 10 + int.from_bytes(content[8:10], "little")].decode("latin1")
    kind, descr, shape = rng.randrange(5), header.split("'")[3], header[header.index("(") : header.index(")") + 1]
    if kind == 0:
        header = header.replace(f"'{descr}'", f"'{rng.choice(DTYPES)}'")
    elif kind == 1:
        header = header.replace(shape, rng.choice(SHAPES))
    elif kind == 2:
        header = header.replace("False", rng.choice(["True", "None", "1"]))
    elif kind == 3:
        return flip(rng, content, 0, 10 + len(header))
    else:
        header = header.replace("}", rng.choice([", 'x': 1}", "", "}" * 100, ", 'shape': (1,)}"]))
    text = header.encode("latin1")
    return content[:8] + struct.pack("<H", len(text) % 2**16) + text + content[10 + len(text) :]


def members(content: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of the members of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def pack(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive; a name may occur twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a name that is there twice
                archive.writestr(info, content)
    return buffer.getvalue()


def archive(rng: Random, content: bytes) -> bytes:
    """A damaged npz archive: bytes anywhere, bytes of the zip directory, or other members with valid checksums."""
    kind = rng.randrange(9)
    if kind < 2:
        return flip(rng, content)
    if kind == 2:
        return flip(rng, content, content.rfind(b"PK\1\2", 0, len(content) - 200))
    files = members(content)
    i, j = rng.randrange(len(files)), rng.randrange(len(files))
    (name, inside), (other, second) = files[i], files[j]
    if kind == 3:
        files[i], files[j] = (name, second), (other, inside)
    elif kind == 4:
        files[i : i + 1] = rng.choice([[], [files[i]] * 2, [files[i], ("x.npy", inside)], [files[i], ("../x", b"")]])
    elif kind == 5:
        files[i] = rng.choice([other, name.removesuffix(".npy"), name.upper(), "", "a\nb.npy", "\0", "é"]), inside
    elif kind == 6:
        files[i] = name, flip(rng, inside)
    else:
        files[i] = name, npy(rng, inside) if inside[:6] == b"\x93NUMPY" else flip(rng, inside)
    methods = [zipfile.ZIP_STORED] * 6 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with_duplicates = pack(files, rng.choice(methods))
    return flip(rng, with_duplicates) if rng.random() < 0.1 else with_duplicates


def signed(description: object, arrays: dict[str, np.ndarray]) -> bytes:
    """A file of `storage.write` without its checks, with the right digest."""
    if isinstance(description, dict):
        description = {key: value for key, value in description.items() if key != "sha256"}
        description["sha256"] = storage._digest(description, arrays)
    text = np.frombuffer(json.dumps(description).encode(), np.uint8)
    return pack([(f"{name}.npy", to_npy(a)) for name, a in {storage.DESCRIPTION: text, **arrays}.items()])


def to_npy(array: np.ndarray) -> bytes:
    """The .npy file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def resigned(rng: Random, description: dict, arrays: dict[str, np.ndarray]) -> bytes:
    """A file of `storage.write` with another description, or other arrays, and the right digest."""
    arrays = dict(arrays)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(arrays)) if arrays else "x"
        kind, array = rng.randrange(10), arrays.get(name, np.zeros(1, np.float32)).copy()
        if kind < 5:
            description = edit_json(rng, description)
        elif kind < 7 and array.size:
            with np.errstate(all="ignore"), contextlib.suppress(ValueError):  # integers cannot be NaN
                array.flat[rng.randrange(array.size)] = rng.choice(NUMBERS)
            arrays[name] = array
        elif kind == 7:
            arrays[name] = rng.choice([array.T, array.ravel(), array[:0], array[..., None], np.append(array, 1)])
        elif kind == 8 and np.isfinite(array).all():
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about lost imaginary parts
                arrays[name] = array.astype(rng.choice(["f8", "f4", ">f4", "i8", "u1", "f2", "c8"]))
        else:
            arrays.pop(name, None)
            if rng.random() < 0.7:
                arrays[rng.choice(["x", f"{name}x", "99.W", "now.0.W", "\n", "", "description"])] = array
    return signed(description, {name: np.ascontiguousarray(array) for name, array in arrays.items()})


# --- gzip, pickles, pictures ----------------------------------------------------------------------------------------


def zipped(rng: Random, content: bytes, change: object) -> bytes:
    """A gzip file with changed content, or changed itself, or with a second member behind it."""
    kind = rng.randrange(4)
    if kind == 0:
        return flip(rng, content)
    inside = gzip.decompress(content)
    if kind == 1:
        return content + rng.choice([content, b"\0" * 99, b"junk", content[:20]])
    return gzip.compress(change(rng, inside), 1, mtime=0)


def deflated(start: bytes, block: bytes, count: int, end: bytes = b"") -> tuple[bytes, int, int]:
    """start + count * block + end as a raw deflate stream, made without compressing all of it; its CRC, its size."""
    compressor, crc = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.crc32(start)
    head = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
    middle = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    tail = compressor.compress(end) + compressor.flush()
    for _ in range(count):
        crc = zlib.crc32(block, crc)
    return head + middle * count + tail, zlib.crc32(end, crc), len(start) + count * len(block) + len(end)


def gzip_bomb(start: bytes, block: bytes, count: int, end: bytes = b"") -> bytes:
    """A valid gzip file of start + count * block + end."""
    content, crc, size = deflated(start, block, count, end)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + content + struct.pack("<II", crc, size % 2**32)


def zip_bomb(*parts: tuple[str, bytes, bytes, int]) -> bytes:
    """A valid zip archive with members of the given names, each start + count * block."""
    result, directory = b"", b""
    for name, *inside in parts:
        content, crc, size = deflated(*inside)
        fields = struct.pack("<HHHHIIIHH", 0, 8, 0, 33, crc, len(content), size, len(name), 0)
        directory += b"PK\1\2\x14\0\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(result)) + name.encode()
        result += b"PK\3\4\x14\0" + fields + name.encode() + content
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(parts), len(parts), len(directory), len(result), 0)
    return result + directory + end


def many_members(count: int) -> bytes:
    """A zip archive whose directory has so many entries."""
    entry = b"PK\1\2" + bytes(24) + b"\1\0" + bytes(16) + b"x"
    return entry * count + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0, 0, len(entry) * count, 0, 0)


def pickled(rng: Random, content: bytes) -> bytes:
    """A pickle with changed bytes, or of other things than digits."""
    if rng.random() < 0.7:
        return flip(rng, content)
    array = np.zeros((3, 784), rng.choice(["f4", "f8", "u1", "c8", "O", "U3"]))
    thing = rng.choice([array, (array, array), [[array, [1, 2, 3]]] * 3, {"a": 1}, [0] * 1000, (1, (2, 3)), print])
    loop: list = [array]
    loop += [loop, loop]
    return pickle.dumps(rng.choice([thing, thing, loop]), rng.randrange(6))


def png(rng: Random, content: bytes) -> bytes:
    """A PNG file in which one chunk has other bytes, another size, or is there twice, with the right checksums."""
    chunks, position = [], 8
    while position + 12 <= len(content):
        size = int.from_bytes(content[position : position + 4], "big")
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + size]))
        position += size + 12
    i = rng.randrange(len(chunks))
    name, inside = chunks[i]
    if name == b"IHDR" and rng.random() < 0.5:
        side = [rng.choice((0, 1, 28, 1000, 30_000, 2**31 - 1)) for _ in range(2)]
        inside = struct.pack(">II", *side) + inside[8:]
    chunks[i : i + 1] = rng.choice([[(name, flip(rng, inside) if inside else b"x")]] * 3 + [[chunks[i]] * 2, []])
    parts = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return content[:8] + b"".join(parts)
