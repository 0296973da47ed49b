"""data/__main__.py: python -m data."""

import gzip
import hashlib

import pytest

from data import formats, mnist
from data.__main__ import FILES


@pytest.fixture
def files(idx_folder, monkeypatch):
    """Make `mnist` accept the small digits in `idx_folder` as MNIST; returns {name: gzipped content}."""
    contents = {key: formats.find_idx(idx_folder, *key).read_bytes() for key in FILES}
    monkeypatch.setattr(mnist, "DIGESTS", {key: hashlib.sha256(b).hexdigest() for key, b in contents.items()})
    return {formats.idx_names(*key)[0]: gzip.compress(b, 1) for key, b in contents.items()}


def test_what_is_missing_and_cannot_be_downloaded(run):
    code, out, err = run("data/__main__", "--data-dir", "empty")
    assert code == 1 and out.count("missing") == 4
    assert "could not be downloaded" in err and all(mirror in err for mirror in mnist.MIRRORS)


def test_complete_files(run, files, idx_folder):
    code, out, err = run("data/__main__", "--data-dir", idx_folder)
    assert (code, err) == (0, "") and out.splitlines()[-1] == f"MNIST is complete (4 files, {idx_folder})"
    assert out.startswith(f"train images   600 x 28 x 28     MNIST  {idx_folder}/train-images-idx3-ubyte\n")


def test_a_bad_file_is_reported(run, files, idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(b"<html>")
    code, out, err = run("data/__main__", "--data-dir", idx_folder)
    assert code == 1 and "bad: " in out and out.count("MNIST  ") == 3 and "an HTML page" in err


def test_missing_files_are_downloaded(run, files, monkeypatch, tmp_path):
    monkeypatch.setattr(mnist, "_get", lambda url: files[url.rpartition("/")[2]])
    code, out, err = run("data/__main__", "--data-dir", "new")
    assert code == 0 and out.count("missing") == 4 and "MNIST is complete" in out and err.count("downloaded from") == 4
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(files)
    (tmp_path / "file").touch()  # a folder that cannot be made
    code, out, err = run("data/__main__", "--data-dir", "file/folder")
    assert code == 1 and "cannot be saved in file/folder" in err and "complete" not in out
