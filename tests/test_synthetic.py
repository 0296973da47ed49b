"""data/synthetic.py: digits rendered from fonts."""

import numpy as np
import pytest

from data import synthetic
from data.augment import Distortion
from network import Network
from nn.architecture import mlp


@pytest.fixture
def few(monkeypatch):
    """Only a few synthetic digits."""
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 300, "test": 100})


def test_the_digits_are_saved_and_always_the_same(tmp_path, few, monkeypatch):
    x, y = synthetic.load("train", tmp_path)
    again, _ = synthetic.load("train", tmp_path / "elsewhere")
    assert (x == again).all()
    monkeypatch.setattr(synthetic, "render", None)  # from now on they must come from the file
    saved, labels = synthetic.load("train", tmp_path)
    assert (saved == x).all() and (labels == y).all()


def test_the_digits_differ_by_split(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 100, "test": 100})
    (x, y), (other, labels) = (synthetic.load(split, tmp_path) for split in ("train", "test"))
    assert (x != other).any() and (y != labels).any()


def test_a_damaged_or_outdated_file_is_rendered_again(tmp_path, few, monkeypatch):
    x, _ = synthetic.load("train", tmp_path)
    (tmp_path / "synthetic-train.npz").write_bytes(b"half")
    assert (synthetic.load("train", tmp_path)[0] == x).all()
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    monkeypatch.setattr(synthetic, "BRIGHTNESS", (0.5, 0.6))
    assert (synthetic.load("train", tmp_path)[0] != x).any()


def test_a_folder_that_cannot_be_written(tmp_path, few):
    (tmp_path / "file").touch()
    assert synthetic.load("test", tmp_path / "file" / "folder")[0].shape == (100, 28, 28)


def test_glyphs_are_in_mnists_form():
    glyphs = synthetic.glyphs()
    assert glyphs.shape == (len(synthetic.FONTS) * len(synthetic.STROKES), 10, 28, 28) and glyphs.dtype == np.uint8
    rows = glyphs.any(axis=3).sum(axis=2)
    assert (rows == 20).mean() > 0.98 and rows.max() == 20, "20 pixels high"
    assert len(np.unique(glyphs.reshape(-1, 784), axis=0)) == glyphs.shape[0] * 10, "no two are equal"
    ink = glyphs.reshape(len(synthetic.FONTS), len(synthetic.STROKES), -1).mean(axis=2)
    assert (np.diff(ink, axis=1) > 0).all(), "strokes get wider"


def test_every_style_is_used(monkeypatch):
    monkeypatch.setattr(synthetic, "DISTORTION", Distortion())
    monkeypatch.setattr(synthetic, "BRIGHTNESS", (1, 1))
    images, labels = synthetic.render(3000, np.random.default_rng(0))
    styles = synthetic.glyphs()
    used = {(style, label) for image, label in zip(images, labels, strict=True)
            for style in np.flatnonzero((styles[:, label] == image).all(axis=(1, 2)))}  # fmt: skip
    assert len(used) > 0.98 * len(styles) * 10


def test_the_digits_look_like_digits(digits):
    (x, y), _ = digits
    assert x.dtype == np.uint8 and set(y) == set(range(10))
    ink = (x > 100).mean(axis=(1, 2))
    assert (ink > 0.02).all() and (ink < 0.6).all()
    assert (x[:, 0] == 0).mean() > 0.9, "the border is empty"
    rows = np.arange(28)
    centre = (x.sum(axis=2) @ rows) / x.sum(axis=(1, 2))
    assert abs(centre - 13.5).mean() < 2
    heights = (x > 100).any(axis=2).sum(axis=1)
    assert 18 < heights.mean() < 22 and heights.std() > 1.5, "of different sizes"
    peaks = x.max(axis=(1, 2))
    assert peaks.min() < 240 and (peaks == 255).mean() > 0.7, "faint digits and bright ones"


@pytest.mark.slow
def test_a_network_learns_them_well_but_not_perfectly():
    x, y = synthetic.render(60_000, np.random.default_rng([0, 0]))
    network = Network(mlp([512], "relu", "he"))
    *_, record = network.fit(x[:50_000], y[:50_000], (x[50_000:], y[50_000:]), epochs=2)
    assert 0.97 < record["validation_accuracy"] < 0.995
