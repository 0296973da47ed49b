"""Every form of digits, in and out again, to the last byte; and what is refused."""

import gzip
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data import DataError, formats, triple

from .conftest import ROOT


@pytest.fixture
def convert(capsys, monkeypatch, tmp_path):
    """Call the converter in an empty folder: convert("a.npz", "b.csv") -> (exit code, stdout, stderr)."""
    from data.convert import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["data/convert.py"])

    def call(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


TARGETS = [["a.npz"], ["a.pkl.gz"], ["a"], ["a", "--as", "csv"], ["a", "--as", "png"]]


@pytest.mark.parametrize("target", TARGETS, ids=" ".join)
def test_round_trips_are_exact(convert, archive, digits, target):
    code, out, err = convert(archive, *target)
    assert (code, err) == (0, "") and out == f"600 train and 200 test images: {archive} -> a{target[0][1:]}\n"
    for part, (images, labels) in zip(("train", "test"), digits, strict=True):
        read, answers, name = data.load(target[0], part)
        assert read.dtype == np.uint8 and (read == images).all() and (answers == labels).all() and name == "a"
    assert convert(target[0], "back.npz")[0] == 0
    assert (np.load("back.npz")["x_test"] == digits[1][0]).all()
    assert not [name for name in names(".") if "unfinished" in name]


def test_pictures_to_csv_and_back(convert, archive, digits):
    images, labels = digits[1]
    assert convert(archive, "t.csv", "--part", "test")[0] == 0
    assert convert("t.csv", "pictures", "--as", "png")[0] == 0
    assert names("pictures") == ["train"] and names("pictures/train") == list("0123456789")
    assert convert("pictures/train", "u.csv")[1] == "200 train images: pictures/train -> u.csv\n"
    for path in "t.csv", "u.csv", "pictures/train":
        for part in "train", "test":  # data without parts are given for either
            read, answers, _ = data.load(path, part)
            assert (read == images).all() and (answers == labels).all()


def test_jpeg_is_lossy_and_says_so(convert, archive, digits):
    assert "not exactly" in convert(archive, "j", "--as", "jpg")[1]
    read, answers, _ = data.load("j", "test")
    difference = np.abs(read.astype(int) - digits[1][0])
    assert 0 < difference.mean() < 4 and (answers == digits[1][1]).all()


def test_what_the_converter_refuses(convert, archive, tmp_path):
    (tmp_path / "there").mkdir()
    for arguments, code, message in [
        ([archive, "a.csv"], 1, "one part"),
        ([archive, "a.npz", "--as", "png"], 2, "by its name"),
        ([archive, "there"], 1, "is there already"),
        ([archive, "t.pkl.gz", "--part", "test"], 1, "needs training images"),
        ([archive, "a.csv.gz"], 2, "should end in"),
        (["there", "there/a.npz"], 1, "is inside of there"),
        (["nothing", "a.npz"], 1, "no data at nothing"),
        ([archive, "b", "--as", "gif"], 2, "invalid choice"),
    ]:
        got, out, err = convert(*arguments)
        assert (got, out) == (code, "") and message in err and err.count("\n") == 1
    assert names(".") == ["there"]


def test_pictures_that_would_be_read_otherwise_are_not_written(convert, tmp_path, digits):
    images, labels = digits[0]
    np.savez(tmp_path / "light.npz", x_train=255 - images[:9], y_train=labels[:9])
    code, _, err = convert("light.npz", "pictures", "--as", "png", "--part", "train")
    assert code == 1 and "image 0 is not on black" in err and names(".") == ["light.npz"]


def test_a_source_by_name_is_no_place(convert, monkeypatch, digits):
    from data import synthetic

    monkeypatch.setattr(synthetic, "load", lambda part, *_: digits[part == "test"])
    assert convert("synthetic", "synthetic/digits.npz")[0] == 0 and names("synthetic") == ["digits.npz"]


def test_images_with_a_channel_axis(tmp_path, digits):
    images, labels = digits[0]
    np.savez(tmp_path / "other.npz", x_train=images[..., None], y_train=labels)
    assert (formats.read(tmp_path / "other.npz", "train")[0] == images).all()


def test_a_failed_conversion_leaves_nothing(convert, archive, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savetxt", full)
    code, _, err = convert(archive, "a", "--as", "csv")
    assert code == 1 and "No space left" in err and names(".") == []


# --- CSV --------------------------------------------------------------------------------------------------------------


def rows(images, labels):
    return "\n".join(",".join(map(str, [y, *x.ravel()])) for x, y in zip(images, labels, strict=True))


@pytest.mark.parametrize("head", ["", "label," + ",".join(f"pixel{i}" for i in range(784)) + "\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_csv_with_and_without_names_zipped_or_not(tmp_path, digits, head, pack):
    images, labels = digits[1]
    path = tmp_path / ("a.csv" if pack is bytes else "a.csv.gz")
    path.write_bytes(pack((head + rows(images, labels) + "\r\n").encode()))
    read, answers, name = data.load(str(path), "train")
    assert (read == images).all() and (answers == labels).all() and name == "a"


def test_csv_as_others_write_it(tmp_path, digits):
    images, labels = digits[1]
    names = ",".join(f"pixel{i + 1}" for i in range(784))
    last = "\n".join(",".join(map(str, [*x.ravel(), y])) for x, y in zip(images, labels, strict=True))
    quoted = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in rows(images, labels).splitlines())
    floats = rows(images, labels).replace(",", ".0,")
    for text in (
        f"{names},class\n{last}",
        quoted,
        floats,
        f"\ufeff{rows(images, labels)}",
        f"\n\n{rows(images, labels)}",
    ):
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        read, answers = formats.read(tmp_path / "a.csv", "train")
        assert (read == images).all() and (answers == labels).all()


def test_two_csv_files_of_a_part_are_one_too_many(tmp_path, digits):
    for name in "a_train.csv", "b_train.csv":
        (tmp_path / name).write_text(rows(*digits[1]))
    with pytest.raises(DataError, match="name the one"):
        formats.read(tmp_path, "train")


BAD = ["", "label,a\n", "1,2,3\n", "\0\0\0", "12" + ",0" * 784, "5" + ",0" * 784 + "\n5,1"]
BAD += [
    f"5{cells}"
    for cells in (
        ",0.5" * 784,
        ",1e0" * 784 + "#",
        "," * 30000,
        ",0" * 783,
        ",0" * 785,
        ",256" * 784,
        ",-1" * 784,
        ",x" * 784,
        ",70000" * 784,
    )
]


@pytest.mark.parametrize("text", BAD)
def test_bad_csv_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.csv") as error:
        formats.read(path, "train")
    assert "\n" not in str(error.value)


def test_csv_files_in_a_folder(tmp_path, digits):
    for part, pair in zip(("train", "test"), digits, strict=True):
        (tmp_path / f"mnist_{part}.csv").write_text(rows(*pair))
    for other in "latest.csv", "constrain.csv":  # which only end like one
        (tmp_path / other).write_text("something else")
    for part, (images, labels) in zip(("train", "test"), digits, strict=True):
        read, answers = formats.read(tmp_path, part)
        assert (read == images).all() and (answers == labels).all()


# --- the pickled triple -----------------------------------------------------------------------------------------------


def pickled(digits, change=lambda x: x):
    (x, y), (u, v) = digits
    flat = [
        (change(images.reshape(-1, 784)), labels) for images, labels in ((x[:500], y[:500]), (x[500:], y[500:]), (u, v))
    ]
    return tuple(flat)


SCALES = {
    "256ths": lambda x: x / np.float32(256),
    "255ths": lambda x: x / 255,
    "255ths, float32": lambda x: (x / 255).astype(np.float32),
    "floats": lambda x: x.astype(np.float64),
    "bytes": lambda x: x,
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_any_protocol_and_scale(tmp_path, digits, scale, protocol):
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(pickled(digits, SCALES[scale]), protocol), 1))
    for part, (images, labels) in zip(("train", "test"), digits, strict=True):
        read, answers = formats.read(path, part)
        assert (read == images).all() and (answers == labels).all()


class Command:
    """A pickle of this runs a command when it is opened the usual way."""

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
        with pytest.raises(DataError, match=r"could do harm|not for numbers"):
            formats.read(path, "train")
    # a name with a dot in it reaches into what is allowed, a module with a harmless name elsewhere runs its code
    for module, name in ("numpy", "ndarray.tofile"), ("numpy.testing", "dtype"), ("os", "system"):
        text = f"c{module}\n{name}\n."
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + text.encode())
        with pytest.raises(DataError, match="not opened"):
            formats.read(tmp_path / "a.pkl", "train")
    assert not (tmp_path / "hacked").exists()


class Forged:
    """A pickle of this makes NumPy itself take eight bytes for the address of an object."""

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


@pytest.mark.parametrize("name", FORGED)
def test_forged_arrays_do_not_crash_numpy(tmp_path, name):
    path = tmp_path / "forged.pkl"
    for thing in FORGED[name], ((FORGED[name], [1]),) * 3:
        path.write_bytes(pickle.dumps(thing))
        code = f"from pathlib import Path; from data import formats; formats.read(Path({str(path)!r}), 'train')"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "DataError" in done.stderr.splitlines()[-1]


def test_one_bit_digits_are_black_and_white(tmp_path, digits):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(pickled(digits, lambda x: (x > 127).astype(np.float32))))
    assert (formats.read(path, "test")[0] == 255 * (digits[1][0] > 127)).all()


def test_fortran_order_big_endian_and_scalars(tmp_path, digits):
    images, labels = digits[1]
    pair = np.asfortranarray(images.reshape(-1, 784).astype(">f4") / 256), list(labels.astype(">i2"))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps((pair, pair, pair), protocol))
        read, answers = formats.read(tmp_path / "a.pkl", "test")
        assert (read == images).all() and (answers == labels).all()


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(7), pickle.dumps(((1, 2),) * 3), pickle.dumps([])])
def test_other_pickles_are_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pkl"):
        formats.read(tmp_path / "a.pkl", "train")


@pytest.mark.parametrize("bad", [np.nan, -1.0, 300.0])
def test_greys_out_of_range_are_refused(tmp_path, digits, bad):
    def spoil(x):
        x = x.astype(np.float64)
        x[3, 5] = bad
        return x

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(pickled(digits, spoil)))
    with pytest.raises(DataError, match="out of range"):
        formats.read(tmp_path / "a.pkl", "train")


def test_one_part_in_a_pickle(convert, archive, digits):
    assert convert(archive, "a.pkl.gz", "--part", "train")[0] == 0
    assert (data.load("a.pkl.gz", "train")[0] == digits[0][0]).all()
    code, _, err = convert("a.pkl.gz", "b.npz")
    assert code == 1 and err.count("\n") == 1
    assert convert("a.pkl.gz", "b.npz", "--part", "train")[0] == 0


# --- folders of pictures ----------------------------------------------------------------------------------------------


def test_people_s_own_pictures_go_through_the_pipeline(tmp_path, digits):
    """A class folder may hold photos: they are made 28 x 28 as predict.py does it."""
    from data import picture

    for digit in 3, 7:
        (tmp_path / "mine" / str(digit)).mkdir(parents=True)
        large = 255 - np.kron(digits[0][0][digit], np.ones((9, 9), np.uint8))
        Image.fromarray(large).convert("RGB").save(tmp_path / "mine" / str(digit) / "photo.JPG")
    (tmp_path / "mine" / "7" / "notes.txt").write_text("not a picture")
    images, labels = formats.read(tmp_path / "mine", "train")
    assert labels.tolist() == [3, 7] and images.shape == (2, 28, 28)
    assert (images[0] == picture.digit(tmp_path / "mine" / "3" / "photo.JPG")).all()


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no train digits"):
        formats.read(tmp_path, "train")
    (tmp_path / "5").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        formats.read(tmp_path, "train")
    (tmp_path / "5" / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"a\.png is not a picture"):
        formats.read(tmp_path, "train")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="does not end in"):
        formats.read(tmp_path / "a.txt", "train")


def test_train_and_test_take_any_form(run, convert, archive):
    convert(archive, "forms", "--as", "png")
    fast = ["--epochs", 1, "--hidden", 8, "--validation", 100, "--out", "m.npz"]
    assert run("train", "--dataset", "forms", *fast)[0] == 0
    code, out, _ = run("test", "--model", "m.npz", "--dataset", "forms")
    assert code == 0 and "(forms, 200 images)" in out


def test_the_command_runs_as_a_module(tmp_path, archive):
    command = [sys.executable, "-m", "data.convert", archive, tmp_path / "a.npz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("600 train and 200 test images")


def test_more_than_memory_is_refused_by_its_size(tmp_path, digits, monkeypatch):
    """Files that say, or unfold to, more than any set of digits; the limit lowered to what 600 digits exceed."""
    (x, y), _ = digits
    np.savez_compressed(tmp_path / "a.npz", x_train=x, y_train=y)
    with (tmp_path / "a.csv").open("wb") as file:
        formats.write_csv(file, x, y)
    for folder, pack in ("plain", bytes), ("zipped", gzip.compress):
        (tmp_path / folder).mkdir()
        for kind, array in ("images", x), ("labels", y):
            name = f"train-{kind}-idx{array.ndim}-ubyte{'.gz' if pack is gzip.compress else ''}"
            (tmp_path / folder / name).write_bytes(pack(formats.idx_bytes(array)))
    places = ["a.npz", "a.csv", "plain", "zipped"]
    for place in places:
        assert len(formats.read(tmp_path / place, "train")[0]) == 600
    monkeypatch.setattr(formats, "LARGEST", 600 * 784 - 1)
    monkeypatch.setattr(formats, "CSV_ROWS", 100)
    for place in places:
        with pytest.raises(DataError, match=r"too large|too many rows|MiB"):
            formats.read(tmp_path / place, "train")


def test_the_same_digits_the_same_bytes_at_any_time(tmp_path, digits, monkeypatch):
    for year in 0, 1:
        monkeypatch.setattr(time, "time", lambda year=year: 1.5e9 + 3e7 * year)
        (tmp_path / f"{year}").mkdir()
        formats.write_idx(tmp_path / f"{year}", "train", *digits[0])
        with (tmp_path / f"{year}" / "a.pkl.gz").open("wb") as file:
            triple.write(file, *digits)
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes(), path.name


def test_what_a_killed_conversion_left_is_in_nobody_s_way(convert, archive, tmp_path):
    left = tmp_path / ".pictures.unfinished"
    left.mkdir()
    (left / "old").touch()
    assert convert(archive, "pictures", "--as", "idx")[0] == 0
    assert not left.exists() and not (tmp_path / "pictures" / "old").exists()


def test_folders_behind_links_are_read_once(tmp_path, digits):
    (x, _), _ = digits
    for name in "a", "b":
        (tmp_path / name / "3").mkdir(parents=True)
        Image.fromarray(x[0]).save(tmp_path / name / "3" / f"{name}.png")
    (tmp_path / "a" / "3" / "more").symlink_to(tmp_path / "b" / "3")
    (tmp_path / "a" / "3" / "round").symlink_to(tmp_path / "a")
    images, labels = formats.read(tmp_path / "a", "train")
    assert len(images) == 2 and list(labels) == [3, 3]


def test_a_pipe_is_no_data(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(DataError, match="no data at"):
        formats.read(tmp_path / "a.npz", "train")
