"""Files that are written completely or not at all, and verified when read.

`atomic_write` writes any file. `write` and `read` store a JSON description and named arrays in one .npz, which plain
`numpy.load` opens too: uncompressed, no pickle, with its own SHA-256 inside. The same content gives the same bytes.
`try_lock` and `locked` keep other processes away.
"""

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import math
import os
import secrets
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked: two processes with the same files are not detected
    fcntl = None

DESCRIPTION = "description"  # name of the array that holds the JSON text, as bytes
MAX_BYTES = 2**30  # far above any model or dataset here, far below what would fill the memory
MAX_MEMBERS = 10_000  # arrays in a file, with the description; each costs 60 us to read
MAX_TEXT = 2**20  # bytes of JSON, unless the caller allows more: far above any model's description
LOCK_ATTEMPTS = 100  # each fails only if another process removes its lock file at that moment
HEADER_BYTES = 128  # of an array, before its values
DTYPES = {"float32", "float64", "uint8", "int64"}


class StorageError(ValueError):
    """A file that cannot be used: missing, damaged, or not of the expected kind."""

    exit_code = 1


class _Archive(zipfile.ZipFile):
    """An archive that Ctrl-C may leave half made: then it writes and prints nothing when it is deleted."""

    def __del__(self) -> None:
        pass


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary binary file that replaces `path` at the end of the block; after an exception it is removed.

    OSError if `path` exists and is not a regular file, such as a folder or /dev/null.
    """
    path = Path(os.path.realpath(path))  # keep a symbolic link
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "exists and is not a regular file: choose another name", str(path))
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and str(error.filename or temporary) == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    with contextlib.suppress(OSError):  # make the new name durable, where the system supports it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in, if they are missing. OSError if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        reason = "cannot be made, because a file is in the way: choose another folder"
        raise OSError(errno.ENOTDIR, reason, str(path)) from None


def remove_temporary_files(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes from a folder: those of the file `name`, or of any file.

    Do not call it while another process may be writing there.
    """
    for part in folder.glob(f".{glob.escape(name) if name else '*'}.*.part"):
        part.unlink(missing_ok=True)


def try_lock(file: IO) -> bool:
    """Lock an open file until it is closed; False if it is locked already. A killed process leaves no lock.

    True, without a lock, if the system or the file system has none.
    """
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


@contextlib.contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Create and lock the file `path` for the block, then remove it. StorageError(message) if it is locked already.

    A folder that is made for it, or that is empty at the end, is removed too.
    """
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(LOCK_ATTEMPTS if fcntl else 0):
                make_folder(path.parent)
                with contextlib.suppress(FileNotFoundError):  # another process may remove file and folder at any time
                    file = stack.enter_context(path.open("ab"))
                    if not try_lock(file):
                        raise StorageError(message)
                    if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                        stack.callback(path.unlink, missing_ok=True)  # before the file is closed, while it is locked
                        break
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()


def check_writable(path: Path) -> None:
    """Check, before long work, that `write` will be able to write `path`. OSError or StorageError if not.

    An existing file may be overwritten only if it is one that `write` made.
    """
    try_write(path)
    try:
        with contextlib.suppress(FileNotFoundError), _Archive(path) as archive:
            archive.getinfo(f"{DESCRIPTION}.npy")
    except (zipfile.BadZipFile, KeyError, NotImplementedError, ValueError):  # ValueError: a name that is not UTF-8
        reason = f"{path} exists and is not a model of this program: choose another name, or remove it"
        raise StorageError(reason) from None


def try_write(path: Path) -> None:
    """Check that `atomic_write` will be able to write `path`, without changing it. OSError if not."""
    with contextlib.suppress(_DryRun), atomic_write(path):
        raise _DryRun


class _DryRun(Exception):
    """Ends an `atomic_write` that only tests whether it is possible."""


def check_size(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """StorageError if these arrays are too large, or too many, for one file."""
    if sum(a.nbytes for a in arrays.values()) > MAX_BYTES:
        raise StorageError(f"{path} would be larger than {MAX_BYTES >> 20} MiB: use a smaller network")
    if len(arrays) >= MAX_MEMBERS:
        raise StorageError(f"{path} would have more than {MAX_MEMBERS:,} arrays: use a network with fewer layers")


def write(path: Path, description: dict, arrays: dict[str, np.ndarray], max_text: int = MAX_TEXT) -> None:
    """Write `description` (a JSON object) and `arrays` to `path`, atomically. StorageError if it is too large."""
    check_size(path, arrays)
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    text = json.dumps({**description, "sha256": _digest(description, arrays)}, sort_keys=True, allow_nan=False).encode()
    if len(text) > max_text:
        raise StorageError(f"{path} would have a description of more than {max_text:,} bytes")
    with atomic_write(path) as file:
        try:
            with _Archive(file, "w") as archive:  # as np.savez does
                for name, array in {DESCRIPTION: np.frombuffer(text, np.uint8), **arrays}.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        except ValueError as error:  # of zipfile, if Ctrl-C came while it opened a member: that must not be lost
            raise error.__context__ or error from None


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write a header and rows to `path`, atomically. Keys that are not columns are ignored."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def suggestion(path: Path, folder: str, suffix: str) -> str:
    """For the message about a missing file: the file that is meant, if only the folder or the suffix is missing."""
    candidates = Path(f"{path}{suffix}"), Path(folder, path), Path(folder, f"{path}{suffix}")
    return next((f": did you mean {candidate}?" for candidate in candidates if candidate.is_file()), "")


def read(path: Path, kind: str, max_text: int = MAX_TEXT) -> tuple[dict, dict[str, np.ndarray]]:
    """The description and the arrays in `path`, every byte checked. `kind` is the word for it in error messages.

    No array is allocated before the sizes that the file declares are compared with its own size. The number of arrays
    and the bytes of the description, at most `max_text`, are limited before they are parsed, which takes time.
    StorageError if a check fails.
    """
    path = Path(path)
    try:
        if not path.is_file():
            hint = suggestion(path, "models", ".npz") or ": train one, or name another file"
            raise StorageError(f"no {kind} at {path}{hint}")
        if path.stat().st_size > 2 * MAX_BYTES:
            raise StorageError(f"{path} is not a {kind}: it is too large")
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    try:
        with warnings.catch_warnings(), open_zip(content) as archive:
            warnings.simplefilter("error")  # `write` never makes what NumPy warns about
            members = _list_members(archive, len(content), max_text)
            arrays = {name: _read_array(archive, info) for name, info in members.items()}
        description = json.loads(arrays.pop(DESCRIPTION).tobytes())
        if description.pop("sha256") != _digest(description, arrays):
            raise ValueError("its SHA-256 does not match its content")
    except Exception as error:  # a damaged zip raises a dozen types; for the user they are one
        reason = str(error) or type(error).__name__
        remedy = "remove it" if kind == "checkpoint" else "name another file, or make it again"
        raise StorageError(f"{path} is damaged or not a {kind} ({reason}): {remedy}") from error
    return description, arrays


def open_zip(content: bytes) -> zipfile.ZipFile:
    """A zip archive. ValueError if it has more than MAX_MEMBERS members: to list 300,000 would take seconds."""
    if content.count(b"PK\1\2") > MAX_MEMBERS:  # the first bytes of each entry of its directory
        raise ValueError(f"more than {MAX_MEMBERS:,} members")
    return _Archive(io.BytesIO(content))


def _list_members(archive: zipfile.ZipFile, size: int, max_text: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) != len(infos) or DESCRIPTION not in members:
        raise ValueError("wrong members")
    if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in infos):
        raise ValueError("compressed members")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("members larger than the file")
    if members[DESCRIPTION].file_size > max_text + HEADER_BYTES:
        raise ValueError(f"a description of more than {max_text:,} bytes")
    return members


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    data = archive.read(info)
    head = io.BytesIO(data)
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("unknown array version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
    if dtype.name not in DTYPES or fortran_order or len(data) - head.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename!r} is not a plain array")
    return np.frombuffer(data, dtype, offset=head.tell()).reshape(shape)


def _digest(description: dict, arrays: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(arrays):
        a = arrays[name]
        sha.update(f"\n{name} {a.dtype.str} {a.shape}\n".encode())
        sha.update(a)
    return sha.hexdigest()
