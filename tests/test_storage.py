"""Model files: whole or not at all, verified or refused."""

import io
import json
import zipfile

import numpy as np
import pytest

import storage
from network import Network, mlp
from storage import StorageError


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
    """One bit in each of 400 places (all of the zip's directory and headers among them): refused, or harmless."""
    content, expected, refused = model.read_bytes(), outcome(model), 0
    places = {*range(0, len(content), len(content) // 300), *range(200), *range(len(content) - 700, len(content))}
    for place in sorted(places):
        for bit in (0, 5):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            model.write_bytes(damaged)
            result = outcome(model)
            assert result in (None, expected), place
            refused += result is None
    assert refused > len(places)


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


HUGE = npy(np.zeros(1, np.float32)).replace(b"(1,), }", b"(2147483648,), }").replace(b"          \n", b"\n")
DESCRIPTION = npy(np.frombuffer(json.dumps({"sha256": ""}).encode(), np.uint8))


@pytest.mark.parametrize(
    "members",
    [
        [],
        [("0.W.npy", npy(np.zeros(3)))],
        [("description.npy", DESCRIPTION), ("0.W.npy", HUGE)],
        [("description.npy", DESCRIPTION), ("0.W.npy", npy(np.array([{}], object)))],
        [("description.npy", DESCRIPTION), ("0.W.npy", npy(np.asfortranarray(np.eye(3))))],
        [("description.npy", DESCRIPTION), ("0.W.npy", b"hello")],
        [("description.npy", DESCRIPTION), ("0.W.npy", npy(np.eye(2))), ("0.W", npy(np.eye(2)))],
        [("description.npy", npy(np.frombuffer(b"[" * 100_000, np.uint8)))],
        [("description.npy", b"")],
    ],
)
def test_made_up_archives(tmp_path, members):
    archive(tmp_path / "x.npz", members)
    assert outcome(tmp_path / "x.npz") is None


def test_a_small_file_cannot_ask_for_much(tmp_path):
    """Compressed members, which may unfold without end, are not even opened."""
    archive(tmp_path / "x.npz", [("description.npy", bytes(10**7))], zipfile.ZIP_DEFLATED)
    assert outcome(tmp_path / "x.npz") is None


def test_a_sound_file_with_other_content_is_not_a_model(tmp_path, model):
    description, arrays = storage.read(model, "model")
    wrong = [
        ({"format": 99}, {}),
        ({"layers": [["Exec", {}]]}, {}),
        ({"layers": [["Dense", {"units": 10**12}]]}, {}),
        ({"layers": "Dense"}, {}),
        ({"loss": "hinge"}, {}),
        ({"dtype": "object"}, {}),
        ({"input": None}, {}),
        ({}, {"0.W": np.zeros((2, 2), np.float32)}),
        ({}, {"9.W": np.zeros((2, 2), np.float32)}),
    ]
    for changes, more in wrong:
        storage.write(tmp_path / "x.npz", description | changes, arrays | more)
        assert outcome(tmp_path / "x.npz") is None, changes


def test_missing(tmp_path):
    with pytest.raises(StorageError, match="no model at"):
        Network.load(tmp_path / "nothing.npz")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), storage.replace(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with storage.replace(path) as file:
        file.write(b"new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
