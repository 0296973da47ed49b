"""Pictures: what they show is what they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import plots

RNG = np.random.default_rng(3)
HISTORY = [{"epoch": e, "train_loss": 1 / e, "train_accuracy": 1 - 0.1 / e, "lr": 0.1} for e in (1, 2, 3)]


def test_curves_show_the_history():
    validated = [r | {"validation_loss": 2 / r["epoch"], "validation_accuracy": 0.5} for r in HISTORY]
    loss, accuracy = plots.curves(validated, best=2).axes
    assert loss.get_yscale() == "log" and loss.get_xlabel() == "epoch"
    assert list(loss.lines[1].get_ydata()) == [2, 1, 2 / 3] and list(accuracy.lines[0].get_ydata()) == [90, 95, 290 / 3]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation", "kept: epoch 2"]
    assert len(plots.curves(HISTORY).axes[0].lines) == 1


def test_tiles_keep_the_pixels():
    weights = RNG.standard_normal((30, 784)) * np.arange(1, 31)[:, None]
    image = plots.tiles(weights.reshape(30, 28, 28)).axes[0].images[0]
    assert (image.get_array()[1:29, 1:29] == weights[29].reshape(28, 28)).all(), "the strongest unit comes first"
    assert image.get_interpolation() == "nearest"


def test_principal_components_find_the_directions():
    """Weights made of three known patterns: each colour is one of them, the strongest is red."""
    patterns = np.linalg.qr(RNG.standard_normal((784, 3)))[0].T
    amounts = RNG.standard_normal((500, 3)) * [9, 5, 2]
    picture = plots.principal_components(amounts @ patterns + 7)
    assert picture.shape == (28, 28, 3) and picture.min() >= 0 and picture.max() == 1
    for colour, pattern in enumerate(patterns):
        values = picture[:, :, colour].ravel() - 0.5
        assert abs(values @ pattern) / np.linalg.norm(values) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("units", [1, 2, 10])
def test_few_units_are_no_trouble(units):
    assert isinstance(plots.pca({"initial": RNG.standard_normal((units, 784))}), Figure)
    assert isinstance(plots.tiles(np.zeros((units, 28, 28))), Figure)


def test_confusion_shows_every_count():
    counts = RNG.integers(0, 50, (10, 10))
    ax = plots.confusion(counts).axes[0]
    shown = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert shown == {(j, i): count for (i, j), count in np.ndenumerate(counts) if count}
    assert ax.get_xlabel() == "predicted digit" and ax.get_ylabel() == "real digit"
    assert isinstance(plots.confusion(np.diag(np.arange(10))), Figure), "no mistake at all"


def test_histograms_count_everything():
    figure = plots.histograms({"0.W": RNG.standard_normal((40, 50)), "0.b": np.zeros(40), "2.W": np.ones((3, 3))})
    heights = [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes if ax.patches]
    assert heights == [2000, 40, 9]


def test_gallery_and_files(tmp_path):
    images = RNG.integers(0, 256, (9, 28, 28), dtype=np.uint8)
    figure = plots.gallery(images, [f"#{i}" for i in range(9)])
    shown = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(shown) == 9 and all(image.get_interpolation() == "nearest" for image in shown)
    plots.save(figure, tmp_path / "g.png")
    plots.save(plots.gallery(images[:0], []), tmp_path / "none.png")
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.width > 500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.png", "none.png"]


PLACES = {"hidden": (["64", "128"], [0, 0, 1, 1]), "lr": (["0.01", "0.1"], [0, 1, 0, 1])}


def test_pairs_show_the_best_of_each_pair():
    ax = plots.pairs(PLACES, [0.9, 0.98, np.nan, 1.0], [4, 1, 4, 4]).axes[0]
    assert ax.get_xlabel() == "lr" and ax.get_ylabel() == "hidden"
    errors = ax.images[0].get_array()
    assert np.allclose(errors[0], [10, 2]) and errors.mask[1, 0] and errors[1, 1] == 0.01, "0 has no logarithm"
    assert [text.get_text() for text in ax.texts] == ["90.00", "98.00\nepoch 1", "99.99"]
    three = {**PLACES, "weight-decay": (["0"], [0, 0, 0, 0])}
    assert len(plots.pairs(three, [0.9, 0.98, 0.97, 0.96], [4] * 4).axes) == 3 + 1
    assert len(plots.pairs({"lr": PLACES["lr"]}, [0.9, 0.98, 0.97, 0.96], [4] * 4).axes) == 1 + 1


def test_values_mark_the_best():
    hidden, lr = plots.values(PLACES, [0.9, 0.98, np.nan, 0.95], [4, 1, 4, 4]).axes
    assert np.allclose(hidden.lines[1].get_ydata(), [2, 5]) and np.allclose(lr.lines[1].get_ydata(), [10, 2])
    assert [text.get_text() for text in hidden.texts] == ["98.00\nepoch 1", "95.00"]
    assert hidden.yaxis_inverted() and hidden.get_yscale() == "log", "the best is at the top"


def test_rungs_and_times_show_every_trial():
    (ax,) = plots.rungs([[0.9], [0.8, 0.95], [0.7, 0.96]], [1, 2]).axes
    assert [len(line.get_xdata()) for line in ax.lines[:3]] == [1, 2, 2]
    assert ax.lines[2].get_label() == "the best trial" and [t.get_text() for t in ax.texts] == ["3", "2"]
    (ax,) = plots.times([1, 2, 3], [0.9, 0.95, 0.96], [1, 4, 4], ["128", "64", "128"]).axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[], [2], [1], [3]], "early and late, 64 and 128"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["64", "128"]
    assert "stopped early" in ax.get_xlabel()
    (ax,) = plots.times([1, 2], [0.9, 0.95], [4, 4], ["128", "64"]).axes
    assert "stopped early" not in ax.get_xlabel()


def test_histograms_of_numbers_next_to_each_other():
    """As batch norm's gamma has after hardly any training: float32 has no room for 20 bins between them."""
    values = np.nextafter(np.ones(20, np.float32), np.float32(2) * np.arange(20, dtype=np.float32))
    assert sum(bar.get_height() for bar in plots.histograms({"1.gamma": values}).axes[0].patches) == 20
