"""data/__init__.py: loading any dataset, its fingerprint, the validation split."""

import numpy as np
import pytest

import data
from data import synthetic
from data.formats import DataError


def test_any_folder_or_npz_can_be_loaded(digits, archive, idx_folder):
    for split, (images, labels) in zip(("train", "test"), digits, strict=True):
        for path in (archive, idx_folder):
            x, y, name = data.load(str(path), split)
            assert (x == images).all() and (y == labels).all() and y.dtype == np.int64 and name == path.stem


def test_no_file_is_taken_for_mnist(archive, idx_folder, tmp_path):
    for name in ("mnist", "synthetic"):
        (tmp_path / f"{name}.npz").write_bytes(archive.read_bytes())
        idx_folder = idx_folder.rename(tmp_path / name)
        assert data.load(str(tmp_path / f"{name}.npz"), "train")[2] == f"{name}-files"
        assert data.load(f"{tmp_path}/{name}/", "train")[2] == f"{name}-files"


def test_errors_name_the_file(tmp_path, digits):
    (x, y), _ = digits
    np.savez(tmp_path / "floats.npz", x_train=x / 255, y_train=y)
    np.savez(tmp_path / "labels.npz", x_train=x, y_train=y + 1)
    np.savez(tmp_path / "names.npz", images=x, labels=y)
    np.savez(tmp_path / "objects.npz", x_train=np.array([{}]), y_train=y)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("floats.npz", "labels.npz", "names.npz", "objects.npz", "text.npz", "notes.txt", "nothing", ""):
        with pytest.raises(DataError, match=str(tmp_path / name)) as caught:
            data.load(str(tmp_path / name), "train")
        assert caught.value.exit_code == 1


def test_auto_falls_back_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 300, "test": 100})
    messages = []
    images, labels, name = data.load("auto", "train", tmp_path, messages.append)
    assert name == "synthetic" and images.shape == (300, 28, 28) and labels.shape == (300,)
    assert sum("WARNING" in message for message in messages) == 2 and any("SYNTHETIC" in text for text in messages)
    with pytest.warns(UserWarning) as warned:  # also without a log
        data.load("auto", "train", tmp_path)
    assert "SYNTHETIC" in str(warned[-1].message)
    assert data.load("synthetic", "test", tmp_path)[2] == "synthetic"
    with pytest.raises(DataError, match="MNIST_DIR"):
        data.load("mnist", "train", tmp_path)


def test_fingerprint_depends_on_images_and_labels(digits):
    (x, y), _ = digits
    before = data.fingerprint(x, y)
    assert data.fingerprint(x.copy(), y.copy()) == before and len(before) == 64
    changed = x.copy()
    changed[-1, 14, 14] ^= 1
    assert len({before, data.fingerprint(changed, y), data.fingerprint(x, y[::-1]), data.fingerprint(x[1:], y)}) == 4


def test_the_fingerprint_of_a_file_is_that_of_its_images(digits, image_file, monkeypatch):
    expected = data.fingerprint(*digits[0])
    monkeypatch.setattr(data, "CHUNK", 70)
    assert data.fingerprint(image_file, digits[0][1]) == data.fingerprint(*digits[0]) == expected


def test_validation_images_of_a_file_are_its_last(digits, image_file):
    (x, y), _ = digits
    (a, b), (c, d) = data.train_validation_split(image_file, y, 100, "big", np.random.default_rng(0))
    assert isinstance(a, data.ImageFile) and (np.asarray(a) == x[:500]).all() and (b == y[:500]).all()
    assert (np.asarray(c) == x[500:]).all() and (d == y[500:]).all()
    with pytest.raises(DataError, match="the last 100 images lack a digit"):
        data.train_validation_split(image_file, np.sort(y), 100, "big", np.random.default_rng(0))


def test_fractions_are_rounded():
    images, labels = np.zeros((19, 28, 28), np.uint8), np.zeros(19, np.int64)
    training, validation = data.train_validation_split(images, labels, 0.1, "mnist", np.random.default_rng(0))
    assert (len(training[0]), len(validation[0])) == (17, 2)


def test_validation_split(digits):
    (x, y), _ = digits
    rng = np.random.default_rng(0)
    (a, b), (c, d) = data.train_validation_split(x, y, 100, "mnist", rng)
    assert (a == x[:500]).all() and (b == y[:500]).all() and (c == x[500:]).all() and (d == y[500:]).all()
    assert len(data.train_validation_split(x, y, 0.2, "mnist", rng)[1][0]) == 120
    assert data.train_validation_split(x, y, 0, "mnist", rng)[1] is None
    order = np.argsort(y, kind="stable")  # sorted by class: validation must not be all nines
    training, validation = data.train_validation_split(x[order], y[order], 100, "mine", rng)
    assert len(set(validation[1])) == 10 and sorted([*training[1], *validation[1]]) == sorted(y)
    for count, message in (600, "600"), (0.0001, "less than one"):
        with pytest.raises(DataError, match=message):
            data.train_validation_split(x, y, count, "mnist", rng)


def test_validation_on_unseen_writers(digits):
    (x, y), _ = digits
    writers = np.random.default_rng(3).choice([5, 7, 20, 21, 40, 90], len(x))
    splits = [data.train_validation_split(x, y, 150, "mnist", np.random.default_rng(i), writers) for i in range(2)]
    for training, validation in splits:
        assert sum(map(len, (training[1], validation[1]))) == len(x)
        by_image = {image.tobytes(): writer for image, writer in zip(x, writers, strict=True)}
        seen, unseen = ({by_image[image.tobytes()] for image in split[0]} for split in (training, validation))
        assert not seen & unseen and len(seen) == 6 - len(unseen)
        sizes = [np.count_nonzero(writers == writer) for writer in unseen]
        assert sum(sizes) == len(validation[0]) >= 150 > sum(sizes) - max(sizes)
    assert len({np.sum(validation[0]) for _, validation in splits}) == 2, "each seed has its own split"


def test_unseen_writers_leave_images_for_training(digits):
    x, writers = digits[0][0][:100], np.repeat(np.arange(10), 10)
    rng = np.random.default_rng(0)
    assert len(data.train_validation_split(x, x, 90, "mnist", rng, writers)[0][0]) == 10
    with pytest.raises(data.DataError, match="no images are left for training: lower --validation"):
        data.train_validation_split(x, x, 91, "mnist", rng, writers)


def test_writers_are_known_for_mnist_only(tmp_path):
    warnings = []
    assert data.load_writers("synthetic", None, warnings.append) is None
    assert data.load_writers("mnist", tmp_path, warnings.append) is None
    assert "synthetic" in warnings[0] and "could not be downloaded" in warnings[-1] and "usual" in warnings[-1]
