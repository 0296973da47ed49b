"""data/convert.py: python -m data.convert, to every format and back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from data import formats, mnist_pickle, synthetic

from .conftest import ROOT


@pytest.fixture
def convert(run):
    """Call the command in an empty folder: convert("a.npz", "b.csv") -> (exit code, stdout, stderr)."""
    return lambda *arguments: run("data/convert", *arguments)


def names(folder):
    """The names in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


TARGETS = [["a.npz"], ["a.pkl.gz"], ["a"], ["a", "--as", "csv"], ["a", "--as", "png"]]


@pytest.mark.parametrize("target", TARGETS, ids=" ".join)
def test_round_trips_are_exact(convert, archive, digits, target):
    code, out, err = convert(archive, *target)
    assert (code, err) == (0, "") and out == f"600 train and 200 test images: {archive} -> a{target[0][1:]}\n"
    for split, (images, labels) in zip(("train", "test"), digits, strict=True):
        x, y, name = data.load(target[0], split)
        assert x.dtype == np.uint8 and (x == images).all() and (y == labels).all() and name == "a"
    assert convert(target[0], "back.npz")[0] == 0
    assert (np.load("back.npz")["x_test"] == digits[1][0]).all()
    assert not [name for name in names(".") if "unfinished" in name]
    assert target != ["a"] or all(name.endswith("-ubyte.gz") for name in names("a")), "IDX by default"


def test_image_files_to_csv_and_back(convert, archive, digits):
    images, labels = digits[1]
    assert convert(archive, "t.csv", "--part", "test")[0] == 0
    assert convert("t.csv", "images", "--as", "png")[0] == 0
    assert names("images") == ["train"] and names("images/train") == list("0123456789")
    assert convert("images/train", "u.csv")[1] == "200 train images: images/train -> u.csv\n"
    for path in "t.csv", "u.csv", "images/train":
        for split in "train", "test":  # data without splits are returned for both
            x, y, _ = data.load(path, split)
            assert (x == images).all() and (y == labels).all()


def test_jpeg_is_lossy_and_says_so(convert, archive, digits):
    assert "not exactly" in convert(archive, "j", "--as", "jpg")[1]
    x, y, _ = data.load("j", "test")
    difference = np.abs(x.astype(int) - digits[1][0])
    assert 0 < difference.mean() < 4 and (y == digits[1][1]).all()


def test_one_split_in_a_pickle(convert, archive, digits):
    assert convert(archive, "a.pkl.gz", "--part", "train")[0] == 0
    assert (data.load("a.pkl.gz", "train")[0] == digits[0][0]).all()
    code, _, err = convert("a.pkl.gz", "b.npz")
    assert code == 1 and err.count("\n") == 1 and "--part train converts the training images alone" in err
    assert convert("a.pkl.gz", "b.npz", "--part", "train")[0] == 0


def test_what_is_refused(convert, archive, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for arguments, code, message in [
        ([archive, "a.csv"], 1, "one split"),
        ([archive, "a.npz", "--as", "png"], 2, "because of its name"),
        ([archive, "link"], 1, "link exists"),
        ([archive, "there"], 1, "there exists"),
        ([archive, "t.pkl.gz", "--part", "test"], 1, "needs training images"),
        ([archive, "a.csv.gz"], 2, "should end in"),
        ([archive, "a.jpg"], 2, "should end in"),
        ([archive, "a.b/c.txt"], 2, "should end in"),
        (["there", "there/a.npz"], 1, "is inside there"),
        (["nothing", "a.npz"], 1, "no data at nothing"),
        ([archive, "b", "--as", "gif"], 2, "invalid choice"),
    ]:
        got, out, err = convert(*arguments)
        assert (got, out) == (code, "") and message in err and err.count("\n") == 1
    assert names(".") == ["link", "there"]


def test_images_that_would_be_read_as_photos_are_not_written(convert, tmp_path, digits):
    images, labels = digits[0]
    np.savez(tmp_path / "light.npz", x_train=255 - images[:9], y_train=labels[:9])
    code, _, err = convert("light.npz", "images", "--as", "png", "--part", "train")
    assert code == 1 and "image 0 is not on black" in err and names(".") == ["light.npz"]


def test_a_source_by_name_is_not_a_folder(convert, monkeypatch, digits):
    monkeypatch.setattr(synthetic, "load", lambda split, *_: digits[split == "test"])
    assert convert("synthetic", "synthetic/digits.npz")[0] == 0 and names("synthetic") == ["digits.npz"]
    code, _, err = convert("auto", "a.npz", "--data-dir", "empty")
    assert code == 0 and "SYNTHETIC" in err


def test_a_failed_conversion_leaves_nothing(convert, archive, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savetxt", full)
    code, _, err = convert(archive, "a", "--as", "csv")
    assert code == 1 and "No space left" in err and names(".") == []


def test_a_file_that_appears_meanwhile_is_kept(convert, archive, monkeypatch, tmp_path):
    def slow(*arguments):
        (tmp_path / "a.npz").write_text("precious")

    monkeypatch.setattr(formats, "write_npz", slow)
    code, _, err = convert(archive, "a.npz")
    assert code == 1 and "a.npz exists" in err and (tmp_path / "a.npz").read_text() == "precious"
    assert names(".") == ["a.npz"]


def test_a_pickle_that_could_not_be_read_is_not_written(convert, archive, monkeypatch, digits):
    monkeypatch.setattr(mnist_pickle, "MAX_IMAGES", len(digits[0][1]))
    code, _, err = convert(archive, "a.pkl.gz")
    assert code == 1 and "images at most" in err and names(".") == []
    assert convert(archive, "a.pkl.gz", "--part", "train")[0] == 0


def test_what_a_killed_conversion_left_is_removed(convert, archive, tmp_path):
    left = tmp_path / ".images.unfinished"
    left.mkdir()
    (left / "old").touch()
    assert convert(archive, "images", "--as", "idx")[0] == 0
    assert not left.exists() and not (tmp_path / "images" / "old").exists()


def test_train_and_test_read_any_format(run, convert, archive):
    convert(archive, "files", "--as", "png")
    fast = ["--epochs", 1, "--hidden", 8, "--validation", 100, "--out", "m.npz"]
    assert run("train", "--dataset", "files", *fast)[0] == 0
    code, out, _ = run("test", "--model", "m.npz", "--dataset", "files")
    assert code == 0 and "(files, 200 images)" in out


def test_variants_and_files_larger_than_memory(convert, archive, digits, monkeypatch):
    assert convert(archive, "big", "--as", "idx", "--variants", 3)[1].startswith("1,800 train and 200 test images")
    assert names("big")[2:] == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], "not gzipped"
    code, _, err = convert(archive, "a", "--variants", 10**20)
    assert code == 1 and "choose at most 7,158,278 variants" in err and names(".") == ["big"]
    monkeypatch.setattr(formats, "MAX_BYTES", 200_000)  # the test images have less
    assert (data.load("big", "test")[0] == digits[1][0]).all(), "test images as they were"
    images, labels, name = data.load("big", "train")
    assert isinstance(images, data.ImageFile) and len(labels) == 1800 and name == "big"
    code, _, err = convert("big", "a.npz")
    assert code == 1 and "too large for memory" in err and err.count("\n") == 1
    for more in ["a.npz"], ["a", "--as", "png"], ["a", "--part", "test"]:
        code, _, err = convert(archive, *more, "--variants", 2)
        assert code == 2 and "--variants is for training images" in err
    assert convert(archive, "a", "--variants", 0)[0] == 2
    assert names(".") == ["big"]


@pytest.mark.slow
def test_the_command_runs_as_a_module(tmp_path, archive):
    command = [sys.executable, "-m", "data.convert", archive, tmp_path / "a.npz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("600 train and 200 test images")


def test_two_conversions_into_one_folder(convert, archive, monkeypatch, tmp_path):
    """The second is refused, whether the first is still at work or has just finished."""
    original, errors = formats.write_idx, []

    def write_idx(folder, split, *pair):
        monkeypatch.setattr(formats, "write_idx", original)
        errors.append(convert(archive, "a"))
        original(folder, split, *pair)

    monkeypatch.setattr(formats, "write_idx", write_idx)
    assert convert(archive, "a")[0] == 0
    code, _, err = errors[0]
    assert code == 1 and err == "convert.py: a is being written by another process\n" and names(".") == ["a"]
    (tmp_path / "a").rename(tmp_path / "other")
    monkeypatch.setattr(data, "load", lambda *a, **o: (tmp_path / "a").mkdir() or (np.zeros((1, 28, 28), np.uint8), []))
    assert convert(archive, "a", "--part", "test")[2] == "convert.py: a exists: remove it, or choose another name\n"
