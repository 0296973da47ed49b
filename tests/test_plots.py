"""Figures: they show what they were given."""

import inspect

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import plots
import storage
from search import plots as search_plots

RNG = np.random.default_rng(3)
HISTORY = [{"epoch": e, "train_loss": 1 / e, "train_accuracy": 1 - 0.1 / e, "lr": 0.1} for e in (1, 2, 3)]
VALIDATED = [r | {"validation_loss": 2 / r["epoch"], "validation_accuracy": 0.5} for r in HISTORY]
IMAGES = RNG.integers(0, 256, (9, 28, 28), dtype=np.uint8)
PHOTO = RNG.integers(0, 256, (120, 90, 3), dtype=np.uint8)
WEIGHTS = RNG.standard_normal((30, 28, 28)) * np.arange(1, 31)[:, None, None]
PROBABILITIES = np.arange(10) / 45
FIGURES = {  # arguments of every function that makes a figure, without the title
    plots.curves: (VALIDATED, 2),
    plots.comparison: ({"a$_b": [VALIDATED, VALIDATED[:2]], "b": [HISTORY]},),
    plots.weight_grid: (WEIGHTS,),
    plots.image_grid: (IMAGES[:2], RNG.standard_normal((2, 3, 24, 24))),
    plots.pca: ({"initial": WEIGHTS.reshape(30, 784), "final": WEIGHTS.reshape(30, 784)},),
    plots.histograms: ({"0.W": WEIGHTS, "0.b": np.zeros(30)},),
    plots.confusion: (RNG.integers(0, 50, (10, 10)),),
    plots.gallery: (IMAGES, [f"#{i}" for i in range(9)]),
    plots.predictions: ([("a.png", PHOTO, IMAGES[:1], [PROBABILITIES], [False], [])],),
}


def test_every_figure_is_tested():
    assert set(drawing_functions(plots)) == set(FIGURES)


def drawing_functions(module):
    functions = (function for _, function in inspect.getmembers(module, inspect.isfunction))
    return [function for function in functions if inspect.signature(function).return_annotation is Figure]


def test_all_figures_have_the_same_style():
    for function in drawing_functions(plots) + drawing_functions(search_plots):
        assert hasattr(function, "__wrapped__"), f"{function.__name__} is not decorated with `styled`"


@pytest.mark.figures
@pytest.mark.parametrize("function", FIGURES, ids=lambda function: function.__name__)
def test_every_figure_is_rendered(function, tmp_path):
    """Also if its title is a formula, or has letters that no font has, or bytes that are not text."""
    plots.save(function(*FIGURES[function], title="$x^$ \u6578 \udcff"), tmp_path / "figure.png", "some program")
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.format == "PNG" and figure.info["Software"] == "some program"
        assert figure.width > 300 and np.ptp(np.asarray(figure.convert("L"))) > 200
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.figures
def test_a_figure_of_nothing_is_rendered(tmp_path):
    plots.save(plots.gallery(IMAGES[:0], [], "no misclassified image"), tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as figure:
        assert figure.format == "PNG" and figure.info["Software"].startswith("Matplotlib")


def test_curves_show_the_history():
    figure = plots.curves(VALIDATED, best=2)
    loss, accuracy = figure.axes
    assert loss.get_yscale() == "log" and loss.get_xlabel() == accuracy.get_xlabel() == "epoch"
    assert [list(line.get_ydata()) for line in loss.lines[:2]] == [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]
    assert [list(line.get_ydata()) for line in accuracy.lines[:2]] == [[90, 95, 290 / 3], [50, 50, 50]]
    assert all(list(ax.lines[2].get_xdata()) == [2, 2] for ax in figure.axes)
    assert [text.get_text() for text in figure.legends[0].texts] == ["training", "validation", "kept: epoch 2"]
    assert len(plots.curves(HISTORY).axes[0].lines) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_epochs_are_labelled_with_integers(count):
    ax = plots.curves(HISTORY[:count]).axes[0]
    ticks = [x for x in ax.get_xticks() if 1 <= x <= count]
    assert ticks == list(range(1, count + 1)) and all(x == int(x) for x in ax.get_xticks())


def test_weight_grid_keeps_the_pixels_and_shows_the_largest_norm_first():
    figure = plots.weight_grid(WEIGHTS, "weights", count=20)
    image = figure.axes[0].images[0]
    shown = image.get_array()
    columns, order = shown.shape[1] // 29, plots.by_norm(WEIGHTS, 20)
    for i in range(20):
        top, left = i // columns * 29 + 1, i % columns * 29 + 1
        assert (shown[top : top + 28, left : left + 28] == WEIGHTS[order[i]]).all()
    assert np.ma.count(shown) == 20 * 28 * 28 and image.get_interpolation() == "nearest"
    assert image.norm.vmin == -image.norm.vmax, "white is zero"
    assert figure.get_suptitle() == "weights (20 of 30, largest norm first)"


def test_weight_grid_with_names_keeps_the_order():
    figure = plots.weight_grid(WEIGHTS[:10], "weights", names=list("0123456789"))
    (ax, _), grid = figure.axes, figure.axes[0].images[0].get_array()
    assert [text.get_text() for text in ax.texts] == list("0123456789") and figure.get_suptitle() == "weights"
    for text, weights in zip(ax.texts, WEIGHTS, strict=False):
        left, top = (int(x) // 29 * 29 + 1 for x in text.get_position())
        assert (grid[top : top + 28, left : left + 28] == weights).all()


def test_weight_grid_of_filters():
    figure = plots.weight_grid(WEIGHTS[:, :5, :3], "filters")
    assert figure.get_suptitle() == "filters (largest norm first)"
    shown = figure.axes[0].images[0].get_array()
    order = plots.by_norm(WEIGHTS[:, :5, :3], 30)
    assert (shown[1:6, 1:4] == WEIGHTS[order[0], :5, :3]).all() and (shown[1:6, 5:8] == WEIGHTS[order[1], :5, :3]).all()
    assert list(order) == sorted(range(30), key=lambda i: -np.sum(WEIGHTS[i, :5, :3] ** 2))


def test_image_grid_has_a_row_for_each_image():
    others = IMAGES[1:9].reshape(2, 4, 28, 28)
    shown = {tuple(image.get_extent()): image for image in plots.image_grid(IMAGES[:2], others).axes[0].images}
    for i, j in np.ndindex(2, 5):
        image, expected = shown.pop((j, j + 0.9, i + 0.9, i)), others[i, j - 1] if j else IMAGES[i]
        assert (image.get_array() == expected).all() and (image.norm.vmin, image.norm.vmax) == (0, 255)
    assert not shown
    image, feature_map = plots.image_grid(IMAGES[:1], others[:1, :1] - 100.0).axes[0].images
    assert image.get_cmap() != feature_map.get_cmap() and feature_map.norm.vmin == -feature_map.norm.vmax
    assert (feature_map.get_array() == others[0, 0] - 100.0).all()


def test_principal_components_find_the_directions():
    """Weights made of three known patterns: each is one colour, the one with the largest variance is red."""
    patterns = np.linalg.qr(RNG.standard_normal((784, 3)))[0].T
    amounts = RNG.standard_normal((200, 3)) * [9, 5, 2]
    image = plots.principal_components(amounts @ patterns + 7)
    assert image.shape == (28, 28, 3) and image.min() >= 0 and image.max() == 1
    for channel, pattern in enumerate(patterns):
        values = image[:, :, channel].ravel() - 0.5
        assert abs(values @ pattern) / np.linalg.norm(values) == pytest.approx(1, abs=0.02)
        assert values.max() == np.abs(values).max() == 0.5


def test_two_units_have_one_principal_component():
    """The difference of the units. The other directions have no variance: which vectors stand for them is chance."""
    weights = RNG.standard_normal((2, 784))
    red, *others = np.moveaxis(plots.principal_components(weights), -1, 0) - 0.5
    difference = weights[0] - weights[1]
    assert abs(red.ravel() @ difference) == pytest.approx(np.linalg.norm(red) * np.linalg.norm(difference))
    assert not np.any(others)


def test_directions_without_variance_are_no_principal_components():
    """As after training with much weight decay: the weights have rank 1, up to rounding errors of float32."""
    pattern, amounts = RNG.standard_normal(784), RNG.standard_normal((16, 1))
    red, *others = np.moveaxis(plots.principal_components((amounts * pattern).astype(np.float32)), -1, 0)
    assert np.ptp(red) > 0.5 and (np.array(others) == 0.5).all()
    assert (plots.principal_components(np.zeros((16, 784))) == 0.5).all()


def test_pca_shows_every_stage():
    stages = {"initial": WEIGHTS.reshape(30, 784), "final": WEIGHTS[::-1, ::-1].reshape(30, 784)}
    for ax, (name, weights) in zip(plots.pca(stages).axes, stages.items(), strict=True):
        assert ax.get_title() == name and (ax.images[0].get_array() == plots.principal_components(weights)).all()


@pytest.mark.parametrize("units", [1, 2, 10])
def test_few_units(units):
    assert isinstance(plots.pca({"initial": RNG.standard_normal((units, 784))}), Figure)
    assert isinstance(plots.weight_grid(np.zeros((units, 28, 28))), Figure)


def test_histograms_count_everything():
    parameters = {"0.W": RNG.standard_normal((40, 50)), "0.b": np.zeros(40), "2.W": np.ones((3, 3)), "2.b": np.ones(3)}
    axes = plots.histograms(parameters | {"4.b": np.ones(2)}).axes
    heights = [sum(ax.patches[0].get_data().values) for ax in axes if ax.patches]
    assert heights == [2000, 40, 9, 3, 2] and [ax.get_yscale() for ax in axes[:2]] == ["log", "linear"]
    assert axes[0].get_title().startswith("0.W  (40 x 50)\nmean ") and "mean 1, std 0" in axes[2].get_title()
    assert [ax.get_visible() for ax in axes] == [True] * 5 + [False] * 3


def test_histograms_of_values_next_to_each_other():
    """As batch norm's gamma after hardly any training: float32 has no room for 20 bins between them."""
    values = np.nextafter(np.ones(20, np.float32), np.float32(2) * np.arange(20, dtype=np.float32))
    assert sum(plots.histograms({"1.gamma": values}).axes[0].patches[0].get_data().values) == 20


def test_confusion_shows_every_count():
    (matrix,) = FIGURES[plots.confusion]
    ax = plots.confusion(matrix).axes[0]
    shown = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert shown == {(j, i): count for (i, j), count in np.ndenumerate(matrix) if count}
    assert ax.get_xlabel() == "predicted label" and ax.get_ylabel() == "true label"
    assert isinstance(plots.confusion(np.diag(np.arange(10))), Figure), "no error at all"


def test_gallery_shows_every_image_with_its_caption():
    axes = plots.gallery(*FIGURES[plots.gallery]).axes
    for i, ax in enumerate(axes[:9]):
        assert (ax.images[0].get_array() == IMAGES[i]).all() and ax.get_title() == f"#{i}"
        assert ax.images[0].get_interpolation() == "nearest"
    assert len(axes) == 16 and not any(ax.get_visible() for ax in axes[9:])


def test_predictions_show_photo_input_and_probabilities():
    names = ["a" * 30, "b", "c"]
    results = [(name, PHOTO, [IMAGES[i]], [np.roll(PROBABILITIES, i)], [i == 2], []) for i, name in enumerate(names)]
    axes = plots.predictions(results).axes
    for i, (_, _, [image], [probabilities], _, _) in enumerate(results):
        photo_axes, input_axes, bar_axes = axes[3 * i : 3 * i + 3]
        assert (photo_axes.images[0].get_array() == PHOTO).all() and (input_axes.images[0].get_array() == image).all()
        assert [bar.get_height() for bar in bar_axes.patches] == list(probabilities)
        colors = [bar.get_facecolor() for bar in bar_axes.patches]
        assert colors.count(colors[i - 1]) == 1, "the most likely digit stands out"
        assert bar_axes.get_title() == f"{(i - 1) % 10}{'?' * (i == 2)} (20.0%)" and bar_axes.get_ylim() == (0, 1)
    assert [ax.get_title() for ax in axes[0:9:3]] == ["..." + "a" * 21, "b", "c"]
    assert [ax.get_visible() for ax in axes] == [True] * 9 + [False] * 3


def test_predictions_of_several_digits_show_their_boxes():
    boxes = [(0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1)]
    chances = [np.roll(PROBABILITIES, i) for i in range(3)]
    photo = "a", PHOTO, IMAGES[:3], chances, [False, True, False], boxes
    photo_axes, input_axes, bar_axes = plots.predictions([photo]).axes[:3]
    height, width = PHOTO.shape[:2]
    assert photo_axes.patches[1].get_bbox().bounds == (width / 2 - 0.5, -0.5, width / 2, height / 2)
    answers = ["9", "0?", "1"]
    assert [text.get_text() for text in photo_axes.texts] == answers, "an unsure one has a question mark"
    assert [label.get_text() for label in bar_axes.get_xticklabels()] == answers
    shown = input_axes.images[0].get_array()
    assert (shown[:28, 28:] == IMAGES[1]).all() and (shown[28:, :28] == IMAGES[2]).all() and not shown[28:, 28:].any()
    assert [bar.get_height() for bar in bar_axes.patches] == [max(each) for each in chances]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def histories(tmp_path):
    """Folders models/a-seed0, models/a-seed1 (of fewer epochs), and models/b, which has no validation."""
    for name, history, factor in ("a-seed0", VALIDATED, 1), ("a-seed1", VALIDATED[:2], 3), ("b", HISTORY, 1):
        history = [record | {"train_loss": factor * record["train_loss"]} for record in history]
        storage.write_csv(tmp_path / "models" / name / "history.csv", history[0], history)
    return ["models/a-seed0", "models/a-seed1/", "models/b.npz", "models/b"]


def test_seeds_become_a_mean_and_a_band(run, histories, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append((figure, str(path))))
    monkeypatch.setattr("tests.conftest.script", lambda name: plots)
    assert run("plots", *histories) == (0, "configs: 2, histories: 3 -> models/comparison.png\n", "")
    ((figure, path),) = drawn
    loss, accuracy = figure.axes
    validation, training, b = loss.lines
    assert validation.get_label() == "models/a (2 seeds)" and b.get_label() == "models/b"
    assert list(training.get_xdata()) == [1, 2] and list(training.get_ydata()) == [2, 1], "mean of 1, 1/2 and 3, 3/2"
    assert list(validation.get_ydata()) == [2, 1] and list(b.get_ydata()) == [1, 1 / 2, 1 / 3]
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--", "--"]
    assert training.get_color() == validation.get_color() != b.get_color()
    top = loss.collections[1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(2 + 2**0.5) and len(loss.collections) == len(accuracy.collections) == 3
    assert [text.get_text() for text in figure.legends[0].texts] == ["models/a (2 seeds)", "models/b"]
    assert list(accuracy.lines[0].get_ydata()) == [50, 50] and path == "models/comparison.png"


def test_a_model_beside_the_seeds_is_not_one_of_them(run, histories, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    monkeypatch.setattr("tests.conftest.script", lambda name: plots)
    storage.write_csv(tmp_path / "models" / "a" / "history.csv", HISTORY[0], HISTORY)
    assert run("plots", "models/a", *histories[:2])[1] == "configs: 2, histories: 3 -> models/comparison.png\n"
    labels = [text.get_text() for text in drawn[0].legends[0].texts]
    assert labels == ["models/a", "models/a-seed* (2 seeds)"]


def test_a_single_seed_keeps_its_name(run, histories, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    monkeypatch.setattr("tests.conftest.script", lambda name: plots)
    run("plots", "models/a-seed1", "models/b")
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["models/a-seed1", "models/b"]
    assert run("plots", "a-seed1")[2].endswith("no history at a-seed1/history.csv: did you mean models/a-seed1?\n")
    storage.write_csv(tmp_path / "models/a/history.csv", HISTORY[0], HISTORY)
    run("plots", "models/a", "models/a-seed1")
    assert [text.get_text() for text in drawn[1].legends[0].texts] == ["models/a", "models/a-seed1"]


def test_any_folder_name_is_in_the_legend():
    figure = plots.comparison({"_hidden": [HISTORY], r"x$\frac$": [VALIDATED]})
    assert [text.get_text() for text in figure.legends[0].texts] == ["_hidden", r"x$\frac$"]
    figure.draw_without_rendering()


def test_many_configs_have_colors_of_their_own():
    lines = plots.comparison({str(i): [HISTORY] for i in range(12)}).axes[0].lines
    assert len({tuple(np.atleast_1d(line.get_color())) for line in lines}) == 12


@pytest.mark.figures
def test_the_command_writes_a_figure(run, histories, tmp_path):
    assert run("plots", *histories, "--out", "deep/er/c.png")[:2] == (0, "configs: 2, histories: 3 -> deep/er/c.png\n")
    with Image.open(tmp_path / "deep/er/c.png") as figure:
        assert figure.format == "PNG"


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["models/none"], 1, "no history at models/none/history.csv"),
        (["models/b", "models/b/history.csv"], 1, "models/b/history.csv is not a folder that train.py"),
        (["models/b", "--out", "a.txt"], 2, "--out must end in .png"),
        (["models/b", "--out", "models.png/c.png"], 1, "models.png"),
        ([], 2, "MODEL"),
    ],
)
def test_what_the_command_refuses(run, histories, tmp_path, arguments, code, message):
    (tmp_path / "models.png").touch()
    got, out, err = run("plots", *arguments)
    assert (got, out) == (code, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"epoch\n1\n", b"train_loss,train_accuracy\n1,a\n", b"train_loss,train_accuracy\n1\n", b"\xff\0",
                b"train_loss,train_accuracy\nnan,1\n", b"train_loss,train_accuracy\n1,1,1\n", b"a" * 200_000]
)  # fmt: skip
def test_a_damaged_history(run, histories, tmp_path, content):
    (tmp_path / "models/b/history.csv").write_bytes(content)
    code, _, err = run("plots", *histories)
    assert code == 1 and "models/b/history.csv is damaged" in err and err.count("\n") == 1
    assert not (tmp_path / "models/comparison.png").exists()
