"""Model files: whole or not at all, verified or refused."""

import errno
import gc
import io
import json
import os
import stat
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import storage
from data import DataError, formats
from network import Network
from nn.architecture import mlp
from storage import StorageError

from .conftest import ROOT


@pytest.fixture
def model(tmp_path):
    """A small model on disk."""
    path = tmp_path / "model.npz"
    Network(mlp([1])).save(path)
    return path


def outcome(path):
    """The parameters in a model file, or None if it is refused with the one kind of error."""
    try:
        return {name: a.tobytes() for name, a in Network.load(path).parameters().items()}
    except StorageError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


def test_no_flipped_bit_goes_unnoticed(model):
    """A bit in over a thousand places, all of the zip's directory and headers among them: refused, or harmless."""
    content, expected, refused = model.read_bytes(), outcome(model), 0
    places = {*range(0, len(content), len(content) // 300), *range(200), *range(len(content) - 700, len(content))}
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        model.write_bytes(damaged)
        result = outcome(model)
        assert result in (None, expected), place
        refused += result is None
    assert refused > len(places) // 2


def test_cut_short(model):
    content = model.read_bytes()
    for length in [0, 1, 100, len(content) // 2, len(content) - 1]:
        model.write_bytes(content[:length])
        assert outcome(model) is None


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)


def npy(a):
    buffer = io.BytesIO()
    np.save(buffer, a, allow_pickle=True)
    return buffer.getvalue()


def sound(arrays, description=None):
    """The members of an archive whose digest is right, whatever else may be wrong with it."""
    description = dict(description or {})
    description["sha256"] = storage._digest(description, arrays)
    text = np.frombuffer(json.dumps(description).encode(), np.uint8)
    return [("description.npy", npy(text)), *((f"{name}.npy", npy(a)) for name, a in arrays.items())]


EYE = np.eye(3, dtype=np.float32)
HUGE = npy(np.zeros(1, np.float32)).replace(b"(1,), }", b"(2147483648,), }").replace(b" " * 9 + b"\n", b"\n")
SOUND = sound({"0.W": EYE})


def read_error(path):
    with pytest.raises(StorageError) as caught:
        storage.read(path, "model")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_sound_archive_is_read(tmp_path):
    archive(tmp_path / "x.npz", SOUND)
    assert (storage.read(tmp_path / "x.npz", "model")[1]["0.W"] == EYE).all()


@pytest.mark.parametrize(
    "members, reason",
    [
        ([], "wrong members"),
        ([("0.W.npy", npy(EYE))], "wrong members"),
        ([*SOUND, ("0.W", npy(EYE))], "wrong members"),
        ([SOUND[0], ("0.W.npy", HUGE)], "not a plain array"),
        ([SOUND[0], ("0.W.npy", npy(EYE) + b"more")], "not a plain array"),
        ([SOUND[0], ("0.W.npy", npy(np.asfortranarray(EYE + 1)))], "not a plain array"),
        (sound({"0.W": np.zeros(3, np.complex64)}), "not a plain array"),
        (sound({"0.W": np.array(["text"])}), "not a plain array"),
        ([SOUND[0], ("0.W.npy", npy(np.array([{}], object)))], "not a plain array"),
        ([SOUND[0], ("0.W.npy", npy(2 * EYE))], "SHA-256"),
        ([SOUND[0], ("1.W.npy", npy(EYE))], "SHA-256"),
        ([SOUND[0], ("0.W.npy", npy(EYE.reshape(9)))], "SHA-256"),
        ([SOUND[0]], "SHA-256"),
        ([SOUND[0], ("0.W.npy", b"hello")], "magic"),
        ([("description.npy", npy(np.frombuffer(b"[" * 100_000, np.uint8)))], ""),
        ([("description.npy", b"")], ""),
    ],
)
def test_one_thing_wrong(tmp_path, members, reason):
    archive(tmp_path / "x.npz", members)
    assert reason in read_error(tmp_path / "x.npz")


def test_members_that_could_unfold_without_end_are_not_opened(tmp_path):
    archive(tmp_path / "x.npz", SOUND, zipfile.ZIP_DEFLATED)
    assert "compressed" in read_error(tmp_path / "x.npz")


def test_sizes_are_limited(tmp_path, monkeypatch):
    archive(tmp_path / "x.npz", SOUND)
    monkeypatch.setattr(storage, "MAX_BYTES", (tmp_path / "x.npz").stat().st_size // 2 - 1)
    assert "too large" in read_error(tmp_path / "x.npz")
    monkeypatch.setattr(storage, "MAX_BYTES", EYE.nbytes)
    storage.write(tmp_path / "y.npz", {}, {"a": EYE})
    monkeypatch.setattr(storage, "MAX_BYTES", EYE.nbytes - 1)
    with pytest.raises(StorageError, match="larger than"):
        storage.write(tmp_path / "y.npz", {}, {"a": EYE})


def test_arrays_and_text_are_limited_before_they_are_parsed(tmp_path, monkeypatch):
    arrays = {f"{i}": np.zeros(1, np.float32) for i in range(5)}
    storage.write(tmp_path / "x.npz", {"text": "a" * 100}, arrays)
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))
    with pytest.raises(StorageError, match="a description of more than 100 bytes"):
        storage.read(tmp_path / "x.npz", "model", 100)
    with pytest.raises(StorageError, match="more than 100 bytes"):
        storage.write(tmp_path / "y.npz", {"text": "a" * 100}, arrays, 100)
    monkeypatch.setattr(storage, "_read_array", lambda *_: pytest.fail("parsed"))
    monkeypatch.setattr(storage, "MAX_MEMBERS", 5)
    with pytest.raises(StorageError, match="more than 5 members"):
        storage.read(tmp_path / "x.npz", "model")
    with pytest.raises(StorageError, match="more than 5 arrays"):
        storage.write(tmp_path / "y.npz", {}, arrays)
    assert not (tmp_path / "y.npz").exists()


def test_declared_sizes_must_fit_into_the_file(tmp_path):
    """Two entries of the zip's directory that point to the same bytes: sizes add up to more than there is."""
    archive(tmp_path / "x.npz", [("description.npy", bytes(10_000)), ("0.W.npy", npy(EYE))])
    content = (tmp_path / "x.npz").read_bytes()
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    end = content.rindex(b"PK\x05\x06")
    entries = content[start:end]
    first = entries[: entries.rindex(b"PK\x01\x02")]
    another = first.replace(b"description.npy", b"description2npy")
    tail = bytearray(content[end:])
    tail[8:10] = tail[10:12] = (3).to_bytes(2, "little")
    tail[12:16] = (len(entries) + len(another)).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(content[:start] + entries + another + bytes(tail))
    assert "larger than the file" in read_error(tmp_path / "x.npz")


UNUSABLE = [(1e39, 1), (-1e39, 1), (0, 1e39), (0, 1e-39), (0, 1e-45), (0, 1e-310), (0, -1), (1e30, 1e-30), (0, 1e-37)]


def test_a_sound_file_with_other_content_is_not_a_model(tmp_path, model):
    description, arrays = storage.read(model, "model")
    wrong = [
        ({"format": 99}, {}),
        ({"layers": [["Exec", {}]]}, {}),
        ({"layers": [["Dense", {"units": 10**12}]]}, {}),
        ({"layers": "Dense"}, {}),
        ({"loss": "hinge"}, {}),
        ({"dtype": "object"}, {}),
        ({"dtype": "U500000000"}, {}),
        ({"dtype": "float64"}, {}),
        ({"input": None}, {}),
        ({"input": {"shape": [784], "mean": 10**400, "deviation": 1}}, {}),
        ({"input": {"shape": [784], "mean": 0, "deviation": 0}}, {}),
        *(({"input": {"shape": [784], "mean": mean, "deviation": std}}, {}) for mean, std in UNUSABLE),
        ({"input": {"shape": [], "mean": 0, "deviation": 1}}, {}),
        *(({"label_smoothing": value}, {}) for value in (1, -0.1, "x", None)),
        ({"layers": []}, {}),
        ({"about": [1]}, {}),
        ({}, {"0.b": np.full(1, np.nan, np.float32)}),
        ({}, {"0.b": np.full(1, np.inf, np.float32)}),
        ({}, {"0.W": np.full((1, 784), 3e38, np.float32)}),
        ({}, {"0.W": np.zeros((2, 2), np.float32)}),
        ({}, {"9.W": np.zeros((2, 2), np.float32)}),
    ]
    for changes, more in wrong:
        storage.write(tmp_path / "x.npz", description | changes, arrays | more)
        assert outcome(tmp_path / "x.npz") is None, changes


def test_missing(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match=r"no model at .*nothing.npz: train one, or name another file$"):
        Network.load(tmp_path / "nothing.npz")
    (tmp_path / "a.npz").touch()
    with pytest.raises(StorageError, match=r"no model at .*/a: did you mean .*/a.npz"):
        Network.load(tmp_path / "a")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/b.npz").touch()
    monkeypatch.chdir(tmp_path)
    for name in "b", "b.npz":
        with pytest.raises(StorageError, match=rf"no model at {name}: did you mean models.b.npz\?"):
            Network.load(name)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), storage.atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with storage.atomic_write(path) as file:
        file.write(b"new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_files_have_the_usual_mode(tmp_path):
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    path.write_text("old")
    link.symlink_to(path)
    with storage.atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink() and path.read_text() == "new"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_written_is_named_as_the_user_knows_it(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="is not a regular file") as caught, storage.atomic_write(tmp_path / "folder"):
        pass
    assert caught.value.filename == str(tmp_path / "folder")
    (tmp_path / "file").touch()
    for folder in tmp_path / "file", tmp_path / "file" / "b":
        with pytest.raises(OSError, match="a file is in the way") as caught, storage.atomic_write(folder / "a.txt"):
            pass
        assert caught.value.filename == str(folder)
    (tmp_path / "file").unlink()
    with pytest.raises(OSError, match="too long") as caught, storage.atomic_write(tmp_path / ("n" * 250)):
        pass
    assert caught.value.filename == str(tmp_path / ("n" * 250))
    with pytest.raises(OSError, match="No space") as caught, storage.atomic_write(tmp_path / "a.txt"):
        full()
    assert caught.value.filename == str(tmp_path / "a.txt")
    monkeypatch.setattr(os, "replace", lambda source, _: Path(source).rmdir())
    with pytest.raises(OSError, match="Not a directory") as caught, storage.atomic_write(tmp_path / "a.txt"):
        pass
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_only_own_files_may_be_overwritten(model, tmp_path):
    """Checked before hours of work: the file can be written, and it is not another file of the user."""
    content = model.read_bytes()
    storage.check_writable(model)
    storage.check_writable(tmp_path / "new" / "model.npz")
    assert model.read_bytes() == content and not list((tmp_path / "new").iterdir())
    np.savez(tmp_path / "digits.npz", x_train=np.zeros(3))
    (tmp_path / "text.npz").write_text("mine")
    for name, changes in ("version.npz", {6: 200}), ("name.npz", {9: 8, 46: 255}):  # what reading needs; not UTF-8
        damaged = bytearray(content)
        for offset, value in changes.items():
            damaged[content.rfind(b"PK\1\2") + offset] = value
        (tmp_path / name).write_bytes(damaged)
    for name in "digits.npz", "text.npz", "version.npz", "name.npz":
        with pytest.raises(StorageError, match=f"{name} exists and is not a model of this program"):
            storage.check_writable(tmp_path / name)
    with pytest.raises(OSError, match="is not a regular file"):
        storage.check_writable(tmp_path / "new")


def test_temporary_files_are_removed_by_name_or_all(tmp_path):
    def leave():
        for name in ".a[1].npz.x.part", ".b.npz.y.part", "mine.part", ".a[1].npz":
            (tmp_path / name).touch()

    leave()
    storage.remove_temporary_files(tmp_path, "a[1].npz")
    assert {path.name for path in tmp_path.iterdir()} == {".b.npz.y.part", "mine.part", ".a[1].npz"}
    leave()
    storage.remove_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.part", ".a[1].npz"}
    storage.remove_temporary_files(tmp_path / "missing")


def test_file_and_folder_are_flushed_to_disk(tmp_path, monkeypatch):
    """The file before it gets its name, the folder after that; a power cut then loses neither."""
    synced, fsync = [], os.fsync

    def record(descriptor):
        info = os.fstat(descriptor)
        synced.append(("folder" if stat.S_ISDIR(info.st_mode) else "file", (tmp_path / "a.txt").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with storage.atomic_write(tmp_path / "a.txt") as file:
        file.write(b"new")
    assert synced == [("file", False), ("folder", True)]


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path):
    path = tmp_path / "m" / ".lock"
    with storage.locked(path, "busy"):
        with pytest.raises(StorageError, match="busy"), storage.locked(path, "busy"):
            pass
        assert path.exists(), "whoever is refused removes nothing"
    assert not list(tmp_path.iterdir()), "nor is an empty folder left"
    path.parent.mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(RuntimeError), storage.locked(path, "busy"):
        raise RuntimeError
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["mine"]


@pytest.mark.skipif(not storage.fcntl, reason="the system has no locks")
def test_the_lock_file_of_a_killed_process_does_not_block(tmp_path):
    path = tmp_path / ".lock"
    code = "import os, signal, sys, storage\nwith storage.locked(storage.Path(sys.argv[1]), 'busy'):\n"
    code += "    os.kill(os.getpid(), signal.SIGKILL)\n"
    subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, timeout=60)
    (tmp_path / "mine").touch()
    assert path.exists()
    with storage.locked(path, "busy"):
        pass
    assert not path.exists()


@pytest.mark.skipif(not storage.fcntl, reason="the system has no locks")
def test_a_lock_file_that_is_removed_while_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Between opening and locking, the process before removed the file: a third one would lock a new file."""
    path, calls, original = tmp_path / "m" / ".lock", [], storage.try_lock

    def try_lock(file):
        calls.append(file)
        if len(calls) == 1:
            path.unlink(), path.parent.rmdir()
        return original(file)

    monkeypatch.setattr(storage, "try_lock", try_lock)
    with storage.locked(path, "busy"):
        with path.open("ab") as other:
            assert not original(other)
        assert len(calls) == 2


def test_without_locks_all_goes_on(tmp_path, monkeypatch):
    """On a file system, or a system, that has none."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    path = tmp_path / "m" / ".lock"
    if storage.fcntl:
        monkeypatch.setattr(storage.fcntl, "flock", flock)
        with storage.locked(path, "busy"), storage.locked(path, "busy"):
            pass
    monkeypatch.setattr(storage, "fcntl", None)
    with storage.locked(path, "busy"), storage.locked(path, "busy"):
        assert not path.exists()


def test_csv(tmp_path):
    rows = [{"a": 1, "b": "x,y", "c": 0}, {"a": 2.5}]
    storage.write_csv(tmp_path / "t.csv", ["a", "b"], rows)
    assert (tmp_path / "t.csv").read_bytes() == b'a,b\n1,"x,y"\n2.5,\n'


def test_many_members_are_refused_before_they_are_listed(tmp_path):
    """Python takes seconds to list them."""
    path, entry = tmp_path / "x.npz", b"PK\1\2" + bytes(24) + b"\1\0" + bytes(16) + b"x"
    path.write_bytes(300_000 * entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 300_000 * len(entry), 0, 0))
    started = time.process_time()
    assert "more than 10,000 members" in read_error(path)
    with pytest.raises(DataError, match="more than 10,000 members"):
        formats.read(path, "train")
    assert time.process_time() - started < 1


def test_nothing_is_printed_about_a_file_that_is_read(tmp_path):
    """NumPy warns about a header as Python 2 wrote it: such a model is refused, such a dataset is read."""
    old = npy(np.zeros((5, 784), np.uint8)).replace(b"(5, 784), }  ", b"(5L, 784L), }")
    labels = npy(np.zeros(5, np.uint8)).replace(b"(5,), } ", b"(5L,), }")
    archive(tmp_path / "x.npz", [SOUND[0], ("0.W.npy", old)])
    archive(tmp_path / "y.npz", [("x_train.npy", old), ("y_train.npy", labels)])
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        assert "damaged" in read_error(tmp_path / "x.npz")
        assert formats.read(tmp_path / "y.npz", "train")[0].shape == (5, 28, 28)
    assert not printed


def test_a_damaged_checkpoint_should_be_removed(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"not a checkpoint .*: remove it"):
        storage.read(tmp_path / "x.npz", "checkpoint")


def test_ctrl_c_while_zipfile_opens_a_member_is_not_lost(tmp_path, monkeypatch):
    """zipfile raises ValueError then, when it is closed."""
    original = zipfile.ZipFile.open

    def interrupted(self, name, mode="r", **options):
        kept.extend([self, original(self, name, mode, **options)])  # as the traceback of an interrupt keeps them
        raise KeyboardInterrupt(143)

    kept = []
    monkeypatch.setattr(zipfile.ZipFile, "open", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        storage.write(tmp_path / "x.npz", {}, {"a": EYE})
    assert caught.value.args == (143,) and not list(tmp_path.iterdir())
    kept[0].fp = None  # so that they are not closed again
    io.BufferedIOBase.close(kept[1])


def test_a_description_without_json_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write(tmp_path / "a.npz", {"loss": float("nan")}, {})
    assert not list(tmp_path.iterdir())


def test_all_missing_folders_are_made(tmp_path):
    with storage.atomic_write(tmp_path / "a" / "b" / "c.txt") as file:
        file.write(b"new")
    with storage.locked(tmp_path / "d" / "e" / ".lock", "busy"):
        assert (tmp_path / "d" / "e").is_dir()
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new"


def test_a_path_may_be_text(model):
    assert storage.read(str(model), "model")[0]["format"] == 1


@pytest.mark.parametrize("change", [{"compress_type": zipfile.ZIP_DEFLATED}, {"compress_size": 1}])
def test_members_are_neither_compressed_nor_of_two_sizes(tmp_path, change):
    archive(tmp_path / "x.npz", SOUND)
    with zipfile.ZipFile(tmp_path / "x.npz") as file:
        for name, value in change.items():
            setattr(file.infolist()[1], name, value)
        with pytest.raises(ValueError, match="compressed members"):
            storage._list_members(file, 10**6, 10**6)


def test_an_interrupted_write_prints_nothing_later(tmp_path, monkeypatch):
    """The archive is still open when its file is closed."""
    printed = []

    def interrupted(archive, *_, **__):
        archive._writing = True  # as within ZipFile.open
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    monkeypatch.setattr(zipfile.ZipFile, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write(tmp_path / "a.npz", {}, {"a": np.zeros(3)})
    gc.collect()
    assert not printed and not list(tmp_path.iterdir())


def test_an_interrupted_read_prints_nothing_later(model, monkeypatch):
    printed = []

    def interrupted(archive, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    monkeypatch.setattr(zipfile.ZipFile, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.read(model, "model")
    gc.collect()
    assert not printed


def test_a_check_does_not_disturb_another_process_that_writes(tmp_path):
    with storage.atomic_write(tmp_path / "a.npz") as file:
        file.write(b"whole")
        storage.check_writable(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == b"whole"
