"""data/formats.py: IDX, npz, CSV, class folders. See also test_mnist_pickle.py, and test_convert.py for round trips."""

import gzip
import io
import os
import resource
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

import data
from data import DataError, formats, mnist_pickle, photo
from data.augment import Distortion
from data.formats import idx_bytes, idx_names, parse_idx


def test_images_with_a_channel_axis(tmp_path, digits):
    images, labels = digits[0]
    np.savez(tmp_path / "other.npz", x_train=images[..., None], y_train=labels)
    assert (formats.read(tmp_path / "other.npz", "train")[0] == images).all()


def test_files_that_are_too_large(tmp_path, digits, monkeypatch):
    """By their own size, or the size after decompression; the limit is lowered to less than 600 digits have."""
    (x, y), _ = digits
    np.savez_compressed(tmp_path / "a.npz", x_train=x, y_train=y)
    with (tmp_path / "a.csv").open("wb") as file:
        formats.write_csv(file, x, y)
    for folder, compress in ("plain", bytes), ("gzip", lambda content: gzip.compress(content, 1)):
        (tmp_path / folder).mkdir()
        for kind, array in ("images", x), ("labels", y):
            name = f"train-{kind}-idx{array.ndim}-ubyte{'' if compress is bytes else '.gz'}"
            (tmp_path / folder / name).write_bytes(compress(idx_bytes(array)))
    messages = {"a.npz": "too large", "a.csv": "too many rows", "gzip": "if it is gzipped, unzip it"}
    for name in [*messages, "plain"]:
        assert isinstance(formats.read(tmp_path / name, "train")[0], np.ndarray)
    monkeypatch.setattr(formats, "MAX_BYTES", 600 * 784 - 1)
    monkeypatch.setattr(formats, "CSV_ROWS", 100)
    for name, message in messages.items():
        with pytest.raises(DataError, match=message):
            formats.read(tmp_path / name, "train")
    images, labels = formats.read(tmp_path / "plain", "train")
    assert isinstance(images, formats.ImageFile) and (np.asarray(images) == x).all() and (labels == y).all()
    assert (np.asarray(images[7:90]) == x[7:90]).all()
    with pytest.raises(IndexError, match="consecutive"):
        images[::2]
    monkeypatch.setattr(formats, "MAX_BYTES", 99)
    for name in "gzip", "plain":  # even the labels; and the gzipped file itself
        with pytest.raises(DataError, match="too large when decompressed"):
            formats.read(tmp_path / name, "train")


def test_gzip_and_npz_stop_at_what_their_headers_say(tmp_path):
    zeros = bytes(2 * 10**7)
    header = idx_bytes(np.zeros((10, 28, 28), np.uint8))[:16]
    for name, start in ("images-idx3", header), ("labels-idx1", b"\0\0\x08\x01\0\0\0\x0a"):
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(start + zeros, 1))
    npy = io.BytesIO()
    np.save(npy, np.zeros((10, 28, 28), np.uint8))
    huge = npy.getvalue().replace(b"(10, 28, 28), }    ", b"(99999999, 9, 9), }")
    contents = {
        "not arrays": zeros,
        "a huge array": huge,
        "version 2": b"\x93NUMPY\x02\0" + (2 * 10**7).to_bytes(4, "little") + zeros,
    }
    for name, content in contents.items():
        for kind in zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA:
            with zipfile.ZipFile(tmp_path / f"{name}{kind}.npz", "w", kind) as archive:
                archive.writestr("x_train.npy", content)
                archive.writestr("y_train.npy", content)
    tracemalloc.start()
    with pytest.raises(DataError, match="cut short or damaged"):
        formats.read(tmp_path, "train")
    for path in tmp_path.glob("*.npz"):
        with pytest.raises(DataError, match="not an npz archive"):
            formats.read(path, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


def test_a_header_that_says_too_much(tmp_path):
    for name, start in ("images-idx3", b"\0\0\x08\x03" + b"\x10" * 12), ("labels-idx1", b"\0\0\x08\x01\0\0\0\1"):
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(start))
    with pytest.raises(DataError, match="or damaged"):
        formats.read(tmp_path, "train")


def test_files_do_not_depend_on_the_time(tmp_path, digits, monkeypatch):
    for year in 0, 1:
        monkeypatch.setattr(time, "time", lambda year=year: 1.5e9 + 3e7 * year)
        (tmp_path / f"{year}").mkdir()
        formats.write_idx(tmp_path / f"{year}", "train", *digits[0])
        with (tmp_path / f"{year}" / "a.pkl.gz").open("wb") as file:
            mnist_pickle.write(file, *digits)
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes(), path.name


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(DataError, match="no data at"):
        formats.read(tmp_path / "a.npz", "train")


# --- IDX --------------------------------------------------------------------------------------------------------------


def test_idx_both_ways(digits):
    for array in digits[0]:
        assert (parse_idx(idx_bytes(array), "x") == array).all()
    assert idx_bytes(np.array([7, 8], np.uint8)) == b"\0\0\x08\x01\0\0\0\x02\x07\x08"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not an IDX"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], "cut short"),
        (b"\0\0\x08\x03\0\0\0\x02", "not an IDX"),
        (b"\0\0\x0d\x01\0\0\0\0", "not an IDX"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "cut short"),
    ],
)
def test_broken_idx(content, message):
    with pytest.raises(DataError, match=message):
        parse_idx(content, "x")


def test_slices_of_an_image_file(tmp_path, digits, image_file):
    x = digits[0][0]
    for part in slice(3, 9), slice(None, -100), slice(-7, None), slice(590, 700), slice(9, 9):
        assert len(image_file[part]) == len(x[part]) and image_file[part].shape == x[part].shape
        assert image_file[part].dtype == np.uint8 and (
            not len(x[part]) or (np.asarray(image_file[part]) == x[part]).all()
        )
    assert (np.asarray(image_file[100:][20:30]) == x[120:130]).all()
    for rows in [5, 6, 7, 300], [9, 3, 4, 4], []:
        assert (image_file[100:].take(np.array(rows, int)) == x[100:][rows]).all()
    assert not np.asarray(image_file).flags.writeable


@pytest.mark.parametrize("cached", ["all", "none", "a piece", "no such call"])
def test_images_are_read_whether_the_system_has_them_in_memory_or_not(digits, image_file, monkeypatch, cached):
    """A read that does not wait gives everything, an error, or the first bytes only; Windows does not have it."""

    def preadv(file, buffers, offset, flags):
        if cached == "none":
            raise BlockingIOError
        content = os.pread(file, 100 if cached == "a piece" else len(buffers[0]), offset)
        buffers[0][: len(content)] = content
        return len(content)

    if cached == "no such call":
        monkeypatch.delattr(os, "preadv", raising=False)
    else:
        monkeypatch.setattr(os, "preadv", preadv, raising=False)
        monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    rows = np.array([9, 3, 4, 5, 300])
    assert (image_file.take(rows) == digits[0][0][rows]).all()


def test_an_image_file_that_is_cut_short(tmp_path, digits, image_file, monkeypatch):
    os.truncate(image_file.path, 10_000)
    with pytest.raises(DataError, match="has become shorter"):
        np.asarray(image_file)
    with pytest.raises(DataError, match="has become shorter"):
        image_file.take(np.array([0, 1, 400]))
    monkeypatch.setattr(formats, "MAX_BYTES", 9000)
    with pytest.raises(DataError, match="cut short or damaged"):
        formats.read_idx(image_file.path)


@pytest.mark.parametrize("count, at_a_time", [(3, 5000), (3, 7)])
def test_variants_follow_their_image(tmp_path, digits, monkeypatch, count, at_a_time):
    monkeypatch.setattr(formats, "VARIANTS", at_a_time)
    (x, y), _ = digits
    formats.write_variants(tmp_path, "train", (x[:50], y[:50]), count, Distortion(rotate=20), formats.no_progress)
    images, labels = formats.read(tmp_path, "train")
    assert (
        len(images) == 50 * count and (images[::count] == x[:50]).all() and (labels == np.repeat(y[:50], count)).all()
    )
    for i in range(1, count):
        assert ((images[i::count] != x[:50]).any(axis=(1, 2))).all(), "each is distorted"
        correlation = np.corrcoef(images[i::count].mean(axis=0).ravel(), x[:50].mean(axis=0).ravel())[0, 1]
        assert correlation > 0.9 and (images[i::count] != images[1::count]).any() == (i > 1)


def test_the_first_idx_names_are_mnists():
    assert [idx_names(split, kind)[0] for split in ("train", "test") for kind in ("images", "labels")] == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]
    assert "test-images.idx3-ubyte" in idx_names("test", "images")


def test_an_idx_file_without_its_partner(idx_folder):
    for split, name in ("train", "train-images-idx3-ubyte"), ("test", "t10k-labels-idx1-ubyte"):
        (idx_folder / name).unlink()
        with pytest.raises(DataError, match=f"no {split} digits in .*: no pair of IDX files"):
            formats.read(idx_folder, split)


# --- CSV --------------------------------------------------------------------------------------------------------------


def rows(images, labels):
    return "\n".join(",".join(map(str, [y, *x.ravel()])) for x, y in zip(images, labels, strict=True))


@pytest.mark.parametrize("header", ["", "label," + ",".join(f"pixel{i}" for i in range(784)) + "\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_csv_with_and_without_header_gzipped_or_not(tmp_path, digits, header, compress):
    images, labels = digits[1]
    path = tmp_path / ("a.csv" if compress is bytes else "a.csv.gz")
    path.write_bytes(compress((header + rows(images, labels) + "\r\n").encode()))
    x, y, name = data.load(str(path), "train")
    assert (x == images).all() and (y == labels).all() and name == "a"


def test_csv_from_other_programs(tmp_path, digits):
    images, labels = digits[1]
    names, own = (",".join(form.format(i + 1) for i in range(784)) for form in ("pixel{}", "1x{}"))
    last = "\n".join(",".join(map(str, [*x.ravel(), y])) for x, y in zip(images, labels, strict=True))
    quoted = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in rows(images, labels).splitlines())
    floats = rows(images, labels).replace(",", ".0,")
    for text in (
        f"{names},class\n{last}",
        f"{own},label\n{last}",
        quoted,
        floats,
        f"\ufeff{rows(images, labels)}",
        f"\n\n{rows(images, labels)}",
    ):
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        x, y = formats.read(tmp_path / "a.csv", "train")
        assert (x == images).all() and (y == labels).all()


@pytest.mark.parametrize("header", ["", "a" + ",a" * 784 + "\n"])
def test_a_label_in_the_last_column_must_have_a_title(tmp_path, digits, header):
    """Otherwise the first pixel, which is nearly always 0, would be the label of every image."""
    images, labels = digits[1]
    np.savetxt(
        tmp_path / "a.csv", np.column_stack([images.reshape(-1, 784), labels]), "%d", ",", header=header, comments=""
    )
    with pytest.raises(DataError, match=r"a\.csv: the last column seems to be the label"):
        formats.read(tmp_path / "a.csv", "train")
    images = images.copy()
    images[:, -1, -1] = 5  # other labels than 0 come first
    (tmp_path / "b.csv").write_text(rows(images, labels))
    assert (formats.read(tmp_path / "b.csv", "train")[1] == labels).all()
    images[:, -1, -1] = 0
    zeros = labels == 0
    images[:, -1, -1] = 5  # the header says which column it is
    (tmp_path / "b.csv").write_text("label" + 784 * ",a" + "\n" + rows(images[zeros], labels[zeros]))
    assert not formats.read(tmp_path / "b.csv", "train")[1].any()
    images[:, -1, -1] = 0
    (tmp_path / "a.csv").write_text(rows(images[zeros], labels[zeros]))
    assert not formats.read(tmp_path / "a.csv", "train")[1].any()


def test_blank_lines(tmp_path, digits):
    text = rows(*digits[1])
    (tmp_path / "a.csv").write_text(text.replace("\n", "\r\n \r\n") + 999 * "\n")
    assert (formats.read(tmp_path / "a.csv", "train")[0] == digits[1][0]).all()
    for blank in "\n", "\r", " \r\n":
        (tmp_path / "b.csv").write_text(f"{text}\n{1001 * blank}", newline="")
        with pytest.raises(DataError, match="too many blank lines"):
            formats.read(tmp_path / "b.csv", "train")


def test_hidden_files_and_pipes_are_no_csv_files(tmp_path, digits):
    (tmp_path / "train.csv").write_text(rows(*digits[1]))
    (tmp_path / "._train.csv").write_text("of another system")
    os.mkfifo(tmp_path / "a_train.csv")
    assert (formats.read(tmp_path, "train")[1] == digits[1][1]).all()


def test_a_folder_of_idx_files_has_splits_whatever_else_is_in_it(idx_folder):
    (idx_folder / "3").mkdir()
    assert formats.has_splits(idx_folder) and len(formats.read(idx_folder, "test")[1])


def test_a_folder_of_csv_files_or_class_folders_has_splits_too(tmp_path):
    (tmp_path / "3").mkdir()
    assert not formats.has_splits(tmp_path)
    (tmp_path / "train/3").mkdir(parents=True)
    assert formats.has_splits(tmp_path)
    (tmp_path / "train").rename(tmp_path / "other")
    assert not formats.has_splits(tmp_path)
    (tmp_path / "train.csv").touch()
    assert formats.has_splits(tmp_path)


def test_no_images_are_refused():
    with pytest.raises(DataError, match="x: there are no images"):
        formats.validate(np.zeros((0, 28, 28), np.uint8), np.zeros(0, int), "x")
    with pytest.raises(DataError, match=r"x: images must be uint8 \(N, 28, 28\), not uint8 \(\)"):
        formats.validate(np.zeros((), np.uint8), np.zeros(0, int), "x")


def test_two_csv_files_of_a_split_are_ambiguous(tmp_path, digits):
    for name in "a_train.csv", "b_train.csv":
        (tmp_path / name).write_text(rows(*digits[1]))
    with pytest.raises(DataError, match="give one of them"):
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
    for split, pair in zip(("train", "test"), digits, strict=True):
        (tmp_path / f"mnist_{split}.csv").write_text(rows(*pair))
    for other in "latest.csv", "constrain.csv":  # names that only end in test and train
        (tmp_path / other).write_text("something else")
    for split, (images, labels) in zip(("train", "test"), digits, strict=True):
        x, y = formats.read(tmp_path, split)
        assert (x == images).all() and (y == labels).all()


# --- class folders ----------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_a_part_of_a_jpeg_file_is_an_error(tmp_path, digits):
    images, labels = digits[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError):
            formats.write_class_folders(tmp_path, ".jpg", images[:1], labels[:1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_photos_in_class_folders_are_prepared(tmp_path, digits):
    """As predict.py does it."""
    for digit in 3, 7:
        (tmp_path / "mine" / str(digit)).mkdir(parents=True)
        large = 255 - np.kron(digits[0][0][digit], np.ones((9, 9), np.uint8))
        Image.fromarray(large).convert("RGB").save(tmp_path / "mine" / str(digit) / "photo.JPG")
    (tmp_path / "mine" / "7" / "notes.txt").write_text("not an image")
    images, labels = formats.read(tmp_path / "mine", "train")
    assert labels.tolist() == [3, 7] and images.shape == (2, 28, 28)
    assert (images[0] == photo.digit(tmp_path / "mine" / "3" / "photo.JPG")).all()


def test_small_images_on_white_are_prepared_too(tmp_path, digits):
    image = digits[0][0][0]
    (tmp_path / "5").mkdir()
    Image.fromarray(255 - image).save(tmp_path / "5" / "a.png")
    assert (formats.read(tmp_path, "train")[0][0] == photo.prepare(255 - image)).all()


def test_image_files_are_sorted_by_number(tmp_path, digits):
    (tmp_path / "5").mkdir()
    for number, image in zip((2, 10, 1), digits[0][0], strict=False):
        Image.fromarray(image).save(tmp_path / "5" / f"{number}.png")
    assert (formats.read(tmp_path, "train")[0] == digits[0][0][[2, 0, 1]]).all()


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no train digits"):
        formats.read(tmp_path, "train")
    (tmp_path / "5").mkdir()
    with pytest.raises(DataError, match="no image files"):
        formats.read(tmp_path, "train")
    (tmp_path / "5" / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"a\.png is not a photo"):
        formats.read(tmp_path, "train")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="does not end in"):
        formats.read(tmp_path / "a.txt", "train")


def test_folders_behind_links_are_read_once(tmp_path, digits):
    (x, _), _ = digits
    for name in "a", "b":
        (tmp_path / name / "3").mkdir(parents=True)
        Image.fromarray(x[0]).save(tmp_path / name / "3" / f"{name}.png")
    (tmp_path / "a" / "3" / "more").symlink_to(tmp_path / "b" / "3")
    (tmp_path / "a" / "3" / "round").symlink_to(tmp_path / "a")
    images, labels = formats.read(tmp_path / "a", "train")
    assert len(images) == 2 and list(labels) == [3, 3]


def test_a_small_file_is_not_decompressed_without_limit(tmp_path, digits, monkeypatch):
    """100 blank images have a ratio of 1000, digits of less than 10."""
    monkeypatch.setattr(formats, "SMALL_BYTES", 10_000)
    (images, labels), _ = digits
    for content, refused in (images, False), (np.zeros_like(images), True):
        (tmp_path / "idx").mkdir(exist_ok=True)
        formats.write_idx(tmp_path / "idx", "train", content, labels)
        np.savez_compressed(tmp_path / "a.npz", x_train=content, y_train=labels)
        with (tmp_path / "a.pkl.gz").open("wb") as file:
            mnist_pickle.write(file, (content, labels), (content, labels))
        for name in "idx", "a.npz", "a.pkl.gz":
            if not refused:
                formats.read(tmp_path / name, "train")
                continue
            with pytest.raises(DataError, match="too large"):
                formats.read(tmp_path / name, "train")
