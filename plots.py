"""Figures: arrays and dicts in, `matplotlib.figure.Figure` out. No pyplot, no window, no global state, no `Network`.

As a command, it compares trainings:  python plots.py models/a models/b-seed*

    configs: 2, histories: 6 -> models/comparison.png
"""

import argparse
import csv
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator

import storage
from app import cli

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#555555"  # colour-blind safe (Okabe & Ito 2008)
FRAME = "#d0d0d0"  # of images
COLORS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # of the same authors
SIGNED = "RdBu_r"  # colour map: red above zero, blue below
STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}

styled = rc_context(STYLE)  # decorator of every function that draws: all figures have the same style


@styled
def save(figure: Figure, path: Path, software: str | None = None) -> None:
    """Write a figure as PNG, atomically. software: the program named in the file, by default Matplotlib."""
    with storage.atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # such a letter of a name is shown as a box
        figure.savefig(file, format="png", metadata={"Software": software} if software else None)


def new_figure(
    width: float, height: float, count: int = 1, columns: int = 1, title: str = ""
) -> tuple[Figure, list[Axes]]:
    """A figure and its `count` axes of width x height inches each, row by row."""
    rows = max(1, math.ceil(count / columns))
    lines = textwrap.wrap(drawable(title), int(9 * columns * width))  # about nine characters per inch
    figure = Figure((columns * width, rows * height + 0.25 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(lines), parse_math=False)  # no formulas: the title may be the name of a file
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def drawable(text: str) -> str:
    """The text, with a question mark for every character that cannot be encoded."""
    return text.encode(errors="replace").decode()


def show_image(ax: Axes, image: np.ndarray, frame: str = FRAME, **options) -> AxesImage:
    """Show an array in a frame, each element as a square. By default pixel values: 0 is white, 255 black."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, color=frame)
    return ax.imshow(image, **{"cmap": "gray_r", "vmin": 0, "vmax": 255, "interpolation": "nearest"} | options)


@styled
def curves(history: Sequence[dict], best: int | None = None, title: str = "") -> Figure:
    """Loss (log scale) and accuracy over the epochs; `best` marks the epoch whose weights were kept."""
    figure, (loss, accuracy) = new_figure(4.5, 3.9, 2, 2, title)
    epochs = [record["epoch"] for record in history]
    for split, label, color in ("train", "training", BLUE), ("validation", "validation", ORANGE):
        if f"{split}_loss" in history[0]:
            style = {"color": color, "marker": ".", "label": label}
            loss.plot(epochs, [record[f"{split}_loss"] for record in history], **style)
            accuracy.plot(epochs, [100 * record[f"{split}_accuracy"] for record in history], **style)
    for ax in loss, accuracy:
        if best is not None:
            ax.axvline(best, color=GREY, linestyle=":", linewidth=1.2, label=f"kept: epoch {best}")
    label_curves(figure, loss, accuracy)
    return figure


def label_curves(figure: Figure, loss: Axes, accuracy: Axes, columns: int = 3) -> None:
    """Add the scales, the names of the axes and the legend of `curves`."""
    loss.set(xlabel="epoch", ylabel="loss (no L2, no label smoothing)", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter("")
    accuracy.set(xlabel="epoch", ylabel="accuracy (%)")
    for ax in loss, accuracy:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    # Matplotlib itself leaves out names that begin with _; lines without a name are called _child1, ...
    lines = [line for line in loss.lines if line.get_label() and not line.get_label().startswith("_child")]
    legend = figure.legend(lines, [line.get_label() for line in lines], loc="outside lower center", ncols=columns)
    for text in legend.texts:
        text.set_parse_math(False)  # a name may hold a $


@styled
def comparison(runs: dict[str, Sequence[Sequence[dict]]], title: str = "") -> Figure:
    """Loss and accuracy of several configs: name -> the history of each seed; only the epochs that all seeds have.

    Solid lines are validation, dashed lines training; of several seeds the mean, in a band of +-std.
    """
    figure, axes = new_figure(4.5, 3.9 + 0.1 * len(runs), 2, 2, title)
    colors = COLORS if len(runs) <= len(COLORS) else colormaps["turbo"](np.linspace(0, 1, len(runs)))
    for (name, histories), color in zip(runs.items(), colors, strict=False):
        length = min(map(len, histories))
        epochs = range(1, length + 1)
        label = drawable(name) + (f" ({len(histories)} seeds)" if len(histories) > 1 else "")
        named = "validation" if all("validation_loss" in history[0] for history in histories) else "train"
        for split, style in ("validation", "-"), ("train", "--"):
            for ax, score, factor in (axes[0], f"{split}_loss", 1), (axes[1], f"{split}_accuracy", 100):
                if not all(score in history[0] for history in histories):
                    continue
                values = factor * np.array([[record[score] for record in history[:length]] for history in histories])
                mean, std = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0
                low = np.maximum(mean - std, mean / 10)  # the scale of the loss has no zero
                ax.fill_between(epochs, low, mean + std, color=color, alpha=0.2, linewidth=0)
                ax.plot(epochs, mean, style, color=color, marker=".", label=label if split == named else "")
    label_curves(figure, *axes, columns=1 if max(map(len, runs)) > 36 else 2)
    return figure


def by_norm(weights: np.ndarray, count: int) -> np.ndarray:
    """The indices of the `count` arrays in `weights`, (N, height, width), with the largest norm, largest first."""
    return np.argsort(-np.linalg.norm(weights, axis=(1, 2)), kind="stable")[:count]


@styled
def weight_grid(weights: np.ndarray, title: str = "", count: int = 96, names: Sequence[str] = ()) -> Figure:
    """The weights of the first layer, (N, height, width), an image for each unit or filter; the first `by_norm`.

    names: of the units; then all are shown, in their order.
    """
    order = by_norm(weights, count) if not names else np.arange(len(names))
    columns = min(12, math.ceil(math.sqrt(2 * len(order))))  # about twice as wide as high
    rows = math.ceil(len(order) / columns)
    with_gap = np.pad(weights[order], ((0, 0), (1, 0), (1, 0)), constant_values=np.nan)  # of one pixel
    grid = montage(with_gap, columns, np.nan)
    if not names:
        some = f"{len(order)} of {len(weights)}, " if len(order) < len(weights) else ""
        title = f"{title} ({some}largest norm first)"
    side = np.clip(8 / columns, 0.75, 1.5)  # inches of an image
    figure, (ax,) = new_figure(side * columns + 1.15, side * rows + 0.1, title=title)
    limit = np.nanpercentile(np.abs(grid), 99.5) or 1
    image = show_image(ax, grid, "none", cmap=SIGNED, vmin=-limit, vmax=limit)
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        ax.text(column * with_gap.shape[2] + 2, row * with_gap.shape[1] + 2, name, va="top")
    figure.colorbar(image, ax=ax, label="weight", fraction=0.03, pad=0.01, extend="both")
    return figure


@styled
def image_grid(images: np.ndarray, others: np.ndarray, title: str = "") -> Figure:
    """In each row an image, (rows, 28, 28), and arrays made of it, (rows, columns, height, width).

    The arrays are images too, or values with a sign, such as feature maps: red above zero, blue below.
    """
    rows, columns = others.shape[:2]
    limit = np.percentile(np.abs(others), 99.5) or 1
    style = {} if others.dtype == np.uint8 else {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    figure, (ax,) = new_figure(0.78 * (1 + columns), 0.78 * rows, title=title)  # axes for each image would be slow
    for i, j in np.ndindex(rows, 1 + columns):
        cell = {"extent": (j, j + 0.9, i + 0.9, i)}
        show_image(ax, others[i, j - 1] if j else images[i], "none", **cell, **(style if j else {}))
        ax.add_patch(Rectangle((j, i), 0.9, 0.9, fill=False, ec=FRAME if j else BLUE, linewidth=0.8))
    ax.set(xlim=(-0.02, columns + 0.92), ylim=(rows - 0.08, -0.02))
    return figure


def principal_components(weights: np.ndarray) -> np.ndarray:
    """The first three principal components of the rows of `weights`, (units, 784), as one image (28, 28, 3).

    Each component is one channel (red, green, blue): 0.5 is zero, and its largest value is 1. Where there are
    fewer directions with a variance, as with two units, a channel is 0.5 everywhere.
    """
    centred = (weights - weights.mean(axis=0)).astype(np.float64)
    variances, components = np.linalg.eigh(centred.T @ centred)  # in rising order
    image = np.zeros((784, 3))
    for i in range(3):
        component = components[:, -1 - i]
        if variances[-1 - i] > 1e-12 * np.sum(weights**2, dtype=float):  # others are rounding errors
            # the sign of a component is arbitrary: make its largest value positive
            image[:, i] = component / component[np.argmax(np.abs(component))]
    return (0.5 + 0.5 * image).reshape(28, 28, 3)


@styled
def pca(stages: dict[str, np.ndarray], title: str = "") -> Figure:
    """The `principal_components` of the first layer at several stages of training."""
    figure, axes = new_figure(3.1, 3.3, len(stages), len(stages), title)
    for ax, (name, weights) in zip(axes, stages.items(), strict=True):
        show_image(ax, principal_components(weights), "none")
        ax.set_title(name)
    return figure


@styled
def histograms(parameters: dict[str, np.ndarray], title: str = "") -> Figure:
    """The distribution of the values of every parameter array; for large arrays the counts are on a log scale."""
    columns = min(4, len(parameters))
    figure, axes = new_figure(max(2.5, 5 / columns), 2.3, len(parameters), columns, title)
    for ax, (name, values) in zip(axes, parameters.items(), strict=True):
        large = values.size > 1000
        values = values.astype(np.float64)  # float32 cannot represent bin edges between neighbouring values
        ax.stairs(*np.histogram(values, bins=80 if large else 20), fill=True, color=BLUE)
        ax.set_yscale("log" if large else "linear")
        shape = " x ".join(map(str, values.shape))
        ax.set_title(f"{name}  ({shape})\nmean {values.mean():.2g}, std {values.std():.2g}", fontsize=9)
        ax.set_ylabel("count (log scale)" if large else "count", fontsize=9)
        ax.tick_params(labelsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.offsetText.set_fontsize(9)
        if not large:
            ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supxlabel("value", fontsize=11)
    return figure


@styled
def confusion(matrix: np.ndarray, title: str = "") -> Figure:
    """A confusion matrix: how often digit i (row) was predicted as digit j (column). The colour shows errors only."""
    figure, (ax,) = new_figure(6.4, 5.5, title=title)
    errors = matrix.astype(float)
    np.fill_diagonal(errors, np.nan)
    most = max(1, np.nanmax(errors))
    cmap = colormaps["Oranges"].with_extremes(bad="#f2f2f2")
    image = ax.imshow(errors, cmap=cmap, vmin=0, vmax=most, interpolation="nearest")
    for (i, j), count in np.ndenumerate(matrix):
        if count:
            color = "white" if i != j and count > 0.6 * most else "black"
            ax.text(j, i, count, ha="center", va="center", fontsize=9, color=color)
    ax.set(xlabel="predicted label", ylabel="true label", xticks=range(len(matrix)), yticks=range(len(matrix)))
    ax.grid(False)
    figure.colorbar(image, ax=ax, label="errors", fraction=0.045, ticks=MaxNLocator(integer=True))
    return figure


@styled
def gallery(images: np.ndarray, captions: Sequence[str], title: str = "") -> Figure:
    """Images (N, 28, 28), each with a caption above it."""
    figure, axes = new_figure(1.25, 1.7, len(images), columns=8, title=title)
    for ax, image, caption in zip(axes, images, captions, strict=True):
        show_image(ax, image)
        ax.set_title(caption, fontsize=8.5, linespacing=1.2, pad=3)
    return figure


@styled
def predictions(results: Sequence[tuple], title: str = "") -> Figure:
    """Photos, each (name, photo (height, width, 3), inputs, probabilities, unsure, boxes).

    The last four have an entry for each digit: the network's input (28, 28), the ten probabilities, whether it is
    unsure (shown as a question mark), and its box (left, top, right, bottom, as fractions of the photo). A photo of one
    digit has no boxes.
    """
    several = any(boxes for *_, boxes in results)  # they need a larger photo
    width, columns = (2.4, 3) if several else (1.8, 3 * min(2, len(results)))
    figure, axes = new_figure(width, 1.8, 3 * len(results), columns, title)
    if several:
        axes[0].get_gridspec().set_width_ratios([2, 1, 1])
    for i, (name, photo, inputs, probabilities, unsure, boxes) in enumerate(results):
        answers = [f"{np.argmax(each)}{'?' * doubt}" for each, doubt in zip(probabilities, unsure, strict=True)]
        photo_axes, input_axes, bar_axes = axes[3 * i : 3 * i + 3]
        show_image(photo_axes, photo, interpolation="nearest" if max(photo.shape) < 100 else "antialiased")
        (height, width), small = photo.shape[:2], len(boxes) > 12
        for (left, top, right, bottom), answer in zip(boxes, answers, strict=False):
            corner = (width * left - 0.5, height * top - 0.5)
            sides = width * (right - left), height * (bottom - top)
            photo_axes.add_patch(Rectangle(corner, *sides, fill=False, ec=BLUE, linewidth=0.6 if small else 1))
            label = {"weight": "bold", "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}}
            photo_axes.text(*corner, answer, color=ORANGE, fontsize=5 if small else 8, **label)
        name = name if len(name) <= 24 else f"...{name[-21:]}"
        photo_axes.set_title(drawable(name), fontsize=9, parse_math=False)
        show_image(input_axes, montage(inputs))
        input_axes.set_title("network input", fontsize=9)
        plot_probabilities(bar_axes, probabilities, answers)
    return figure


def montage(images: Sequence[np.ndarray], columns: int = 0, blank: float = 0) -> np.ndarray:
    """Images of one shape as one image, row by row; by default as a square. `blank` fills the last row."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    missing = -len(images) % columns
    grid = np.stack([*images, *[np.full_like(images[0], blank)] * missing]).reshape(-1, columns, *images[0].shape)
    return np.block([[*row] for row in grid])


def plot_probabilities(ax: Axes, probabilities: Sequence[Sequence[float]], answers: Sequence[str]) -> None:
    """The probabilities of the ten digits as bars, the most likely in another colour; or that of each of several.

    answers: the text for each digit, such as "7".
    """
    if len(answers) == 1:
        bars, ticks = probabilities[0], range(10)
        colors = [ORANGE if digit == np.argmax(bars) else BLUE for digit in ticks]
        ax.set_title(f"{answers[0]} ({100 * max(bars):.1f}%)", fontsize=10)
    else:
        bars, ticks, colors = [max(each) for each in probabilities], answers, ORANGE
        ax.set_title(f"{len(answers)} digits, lowest {100 * min(bars):.2f}%", fontsize=9)
    ax.bar(range(len(bars)), bars, color=colors)
    ax.set(ylim=(0, 1), yticks=[0, 0.5, 1])
    if len(bars) > 12:  # no space for the digits
        ax.set_xticks([])
    else:
        ax.set_xticks(range(len(bars)), ticks)
    ax.set_ylabel("probability", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.grid(axis="x", visible=False)


def read_history(path: Path) -> list[dict[str, float]]:
    """The records in a history.csv. StorageError."""
    if path.parent.is_file():
        raise storage.StorageError(f"{path.parent} is not a folder that train.py wrote")
    if not path.exists():
        meant = Path("models", path.parent)
        found = (meant / path.name).is_file()
        hint = f": did you mean {meant}?" if found else ": name models, or their folders, that train.py wrote"
        raise storage.StorageError(f"no history at {path}{hint}")
    try:
        with path.open(newline="") as file:
            history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        complete = {"train_loss", "train_accuracy"} <= history[0].keys()
        if not complete or not np.isfinite([list(record.values()) for record in history]).all():
            raise ValueError
    except (ValueError, TypeError, LookupError, AttributeError, csv.Error):
        raise storage.StorageError(f"{path} is damaged or not a history of train.py") from None
    return history


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Draw the histories of several trainings in one figure."""
    arguments = parser().parse_args(argv)
    if arguments.out.suffix != ".png":
        parser().error(f"--out must end in .png, not {arguments.out}")
    folders = dict.fromkeys(path.with_suffix("") if path.suffix == ".npz" else path for path in arguments.models)
    runs: dict[str, list] = {}
    without_seed = [re.sub(r"-seed\d+$", "", str(folder)) for folder in folders]
    for folder, name in zip(folders, without_seed, strict=True):
        beside = Path(name) in folders  # the model without a seed
        if without_seed.count(name) == 1 + beside:  # a single seed keeps its name
            name = str(folder)
        elif beside and name != str(folder):
            name += "-seed*"
        runs.setdefault(name, []).append(read_history(folder / "history.csv"))
    validated = any("validation_loss" in history[0] for histories in runs.values() for history in histories)
    save(comparison(runs, "solid: validation, dashed: training" if validated else "training"), arguments.out)
    print(f"configs: {len(runs)}, histories: {len(folders)} -> {arguments.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog="plots.py", description="Draw the histories of several trainings in one figure.")
    text = "folders that train.py wrote, or the models beside them; NAME-seed0, NAME-seed1, ... become mean and band"
    result.add_argument("models", type=Path, nargs="+", metavar="MODEL", help=text)
    default = Path("models/comparison.png")
    result.add_argument("--out", type=Path, default=default, help=f"the figure ({default})")
    return result


if __name__ == "__main__":
    cli.exit_process(main())
