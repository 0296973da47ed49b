"""Files that are written whole or not at all, and read verified or not at all.

`replace` writes any file atomically. `write` and `read` keep a JSON description and named arrays in one .npz that plain
`numpy.load` opens too: uncompressed, no pickle, with its own SHA-256 inside. The same content gives the same bytes.
"""

import contextlib
import errno
import glob
import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

DESCRIPTION = "description"  # the member with the JSON text, as bytes
LARGEST = 2**30  # bytes; far above any model or dataset here, far below what would fill the memory
DTYPES = {"float32", "float64", "uint8", "int64"}


class StorageError(ValueError):
    """A file that cannot be trusted: missing, damaged, or not of the kind asked for."""


@contextlib.contextmanager
def replace(path: Path) -> Iterator[IO[bytes]]:
    """Open a new binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    What is no file, such as a folder or /dev/null, is not replaced: OSError.
    """
    path = Path(os.path.realpath(path))  # a link goes on being one
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "is there and is no file: choose another name", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, start = "", f".{path.name}."
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes it private; give it the usual mode
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and Path(error.filename or start).name.startswith(start):
            error.filename = str(path)  # which is what the user knows of
        raise
    with contextlib.suppress(OSError, AttributeError):  # make the new name durable, where the system can
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes that were writing the file `name`, or any file, have left in a folder.

    Not while another one may be writing there.
    """
    for part in folder.glob(f".{glob.escape(name) if name else '*'}.*.part"):
        part.unlink(missing_ok=True)


def claim(path: Path) -> None:
    """Make sure, before the work, that `write` may and can put a file there after it. OSError or StorageError if not.

    A file that is there already is written over only if it is one of `write`.
    """
    sweep(path.parent, path.name)
    with contextlib.suppress(_Rehearsal), replace(path):
        raise _Rehearsal
    try:
        with contextlib.suppress(FileNotFoundError), zipfile.ZipFile(path) as archive:
            archive.getinfo(f"{DESCRIPTION}.npy")
    except (zipfile.BadZipFile, KeyError):
        raise StorageError(f"{path} is there, and no model of ours: choose another name, or remove it") from None


class _Rehearsal(Exception):
    """Ends a `replace` that was only to show that it can be done."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write(path: Path, description: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write `description` (anything JSON can hold) and `arrays` to `path`, atomically."""
    if sum(a.nbytes for a in arrays.values()) > LARGEST:
        raise StorageError(f"{path} would be larger than {LARGEST >> 20} MiB: use a smaller network")
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    text = json.dumps({**description, "sha256": _digest(description, arrays)}, sort_keys=True, allow_nan=False).encode()
    with replace(path) as file:
        np.savez(file, **{DESCRIPTION: np.frombuffer(text, np.uint8)}, **arrays)


def read(path: Path, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The description and the arrays in `path`, every byte checked. `kind` names the thing in error messages.

    Nothing is allocated before the sizes that the file declares were compared with the file's own size.
    StorageError if anything is amiss.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise StorageError(f"no {kind} at {path}")
        if path.stat().st_size > 2 * LARGEST:
            raise StorageError(f"{path} is not a {kind}: it is too large")
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {name: _member(archive, info) for name, info in _directory(archive, len(content)).items()}
        description = json.loads(arrays.pop(DESCRIPTION).tobytes())
        if description.pop("sha256") != _digest(description, arrays):
            raise ValueError("its SHA-256 does not match its content")
    except Exception as error:  # a damaged zip raises a dozen kinds; to the user they are one
        reason = str(error) or type(error).__name__
        raise StorageError(f"{path} is damaged or not a {kind} ({reason}); make it anew") from error
    return description, arrays


def _directory(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) != len(infos) or DESCRIPTION not in members:
        raise ValueError("wrong members")
    if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in infos):
        raise ValueError("compressed members")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("members larger than the file")
    return members


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    data = archive.read(info)
    head = io.BytesIO(data)
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("unknown array version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
    if dtype.name not in DTYPES or fortran_order or len(data) - head.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename} is not a plain array")
    return np.frombuffer(data, dtype, offset=head.tell()).reshape(shape)


def _digest(description: dict, arrays: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(arrays):
        a = arrays[name]
        sha.update(f"\n{name} {a.dtype.str} {a.shape}\n".encode())
        sha.update(a.data if a.size else b"")
    return sha.hexdigest()
