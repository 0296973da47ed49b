"""Pictures: arrays in, `matplotlib.figure.Figure` out. No pyplot, no window, no state, and no Network in here."""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

import storage

TRAIN, VALIDATION, MARK = "#0072b2", "#d55e00", "#555555"  # Okabe & Ito 2008: told apart by the colour-blind too
DIVERGING = "RdBu_r"  # red above zero, blue below
STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


styled = rc_context(STYLE)  # as a decorator: what a function draws is in the one style of all our pictures


@styled
def save(figure: Figure, path: Path, maker: str | None = None) -> None:
    """Write a figure as PNG, atomically. maker: what made it, as the file says; if not given, Matplotlib."""
    with storage.replace(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a letter of a file's name is shown as a box
        figure.savefig(file, format="png", metadata={"Software": maker} if maker else None)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, title: str = "") -> tuple[Figure, np.ndarray]:
    """A figure of width x height inches and its axes, (rows, columns)."""
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    if title:  # which may be a file's name: no formulas in it, and nothing that cannot be drawn at all
        figure.suptitle(_printable(title), parse_math=False)
    return figure, axes


def _printable(text: str) -> str:
    """The text without what cannot be drawn at all."""
    return text.encode(errors="replace").decode()


def _bare(ax: Axes) -> None:
    """An axes that only carries an image."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


@styled
def curves(history: Sequence[dict], best: int | None = None, title: str = "") -> Figure:
    """Loss (log scale) and accuracy over the epochs; `best` marks the epoch that was kept."""
    figure, ((loss, accuracy),) = _figure(9, 3.8, 1, 2, title)
    epochs = [record["epoch"] for record in history]
    for name, colour in ("train", TRAIN), ("validation", VALIDATION):
        if f"{name}_loss" in history[0]:
            style = {"color": colour, "marker": ".", "label": {"train": "training"}.get(name, name)}
            loss.plot(epochs, [record[f"{name}_loss"] for record in history], **style)
            accuracy.plot(epochs, [100 * record[f"{name}_accuracy"] for record in history], **style)
    loss.set(xlabel="epoch", ylabel="mean loss (without L2)", yscale="log")
    accuracy.set(xlabel="epoch", ylabel="accuracy (%)")
    for ax in loss, accuracy:
        ax.xaxis.get_major_locator().set_params(integer=True)
        if best is not None:
            ax.axvline(best, color=MARK, linestyle=":", linewidth=1.2, label=f"kept: epoch {best}")
    loss.legend()
    return figure


def strongest(weights: np.ndarray, most: int) -> np.ndarray:
    """Which pictures of weights, (N, height, width), come first if they are shown by falling length."""
    return np.argsort(-np.linalg.norm(weights, axis=(1, 2)), kind="stable")[:most]


@styled
def tiles(weights: np.ndarray, title: str = "", most: int = 96) -> Figure:
    """What the first layer looks for: weights (N, height, width), a picture for each unit or filter.

    The `strongest` first, red for positive and blue for negative.
    """
    order = strongest(weights, most)
    columns = min(12, len(order))
    rows = -(-len(order) // columns)
    high, wide = (pixels + max(1, pixels // 28) for pixels in weights.shape[1:])
    sheet = np.full((rows * high + 1, columns * wide + 1), np.nan)
    for place, unit in enumerate(order):
        top, left = place // columns * high + 1, place % columns * wide + 1
        sheet[top : top + weights.shape[1], left : left + weights.shape[2]] = weights[unit]
    title = f"{title} ({len(order)} of {len(weights)}, strongest first)"
    figure, ((ax,),) = _figure(0.75 * columns + 1.4, 0.75 * rows + 0.7, title=title)
    limit = np.nanpercentile(np.abs(sheet), 99.5) or 1
    image = ax.imshow(sheet, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    _bare(ax)
    figure.colorbar(image, ax=ax, label="weight", fraction=0.03, pad=0.01, extend="both")
    return figure


@styled
def rows(images: np.ndarray, others: np.ndarray, title: str = "") -> Figure:
    """In each row an image, (rows, 28, 28), and then pictures made from it, (rows, pictures, height, width)."""
    figure, axes = _figure(
        1.0 * (1 + others.shape[1]), 1.0 * len(images) + 0.4, len(images), 1 + others.shape[1], title
    )
    for line, image, pictures in zip(axes, images, others, strict=True):
        line[0].imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        for ax, picture in zip(line[1:], pictures, strict=True):
            ax.imshow(picture, cmap="gray_r", vmin=others.min(), vmax=others.max(), interpolation="nearest")
        for ax in line:
            _bare(ax)
        line[0].spines[:].set(visible=True, color=TRAIN, linewidth=1.5)
    return figure


def principal_components(weights: np.ndarray) -> np.ndarray:
    """The three main directions of the rows of `weights`, (units, 784), as one picture (28, 28, 3) with values 0 to 1.

    Each pixel's colour tells how strongly the first (red), second (green) and third (blue) component use it.
    """
    centred = weights - weights.mean(axis=0)
    _, _, directions = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    picture = np.zeros((784, 3))
    for i, direction in enumerate(directions[:3]):
        picture[:, i] = direction * np.sign(direction[np.argmax(np.abs(direction))])  # the sign is free: fix it
    limit = np.abs(picture).max(axis=0)
    return (0.5 + 0.5 * picture / np.where(limit > 0, limit, 1)).reshape(28, 28, 3)


@styled
def pca(stages: dict[str, np.ndarray], title: str = "") -> Figure:
    """`principal_components` of the first layer at several stages of the training, side by side."""
    figure, (axes,) = _figure(3.1 * len(stages), 3.6, 1, len(stages), title)
    for ax, (name, weights) in zip(axes, stages.items(), strict=True):
        ax.imshow(principal_components(weights), interpolation="nearest")
        ax.set_title(name)
        _bare(ax)
    return figure


@styled
def histograms(parameters: dict[str, np.ndarray], title: str = "") -> Figure:
    """How the values of every parameter array are spread; counts on a log scale."""
    columns = min(2, len(parameters))
    rows = -(-len(parameters) // columns)
    figure, axes = _figure(9, 2.6 * rows + 0.4, rows, columns, title)
    for ax in axes.flat[len(parameters) :]:
        ax.set_visible(False)
    for ax, (name, values) in zip(axes.flat, parameters.items(), strict=False):
        many = values.size > 1000
        values = values.astype(np.float64)  # which has room for bins between numbers next to each other
        ax.hist(values.ravel(), bins=80 if many else 20, color=TRAIN, log=many)
        shape = " x ".join(map(str, values.shape))
        ax.set(title=f"{name}   ({shape})   mean {values.mean():.3g}, deviation {values.std():.3g}")
        ax.title.set_fontsize(10)
        ax.set(xlabel="value", ylabel="count (log scale)" if many else "count")
        ax.locator_params(axis="x", nbins=6)  # more can run into each other
    return figure


@styled
def confusion(counts: np.ndarray, title: str = "") -> Figure:
    """How often digit i (row) was taken for digit j (column); the colour shows the mistakes only."""
    figure, ((ax,),) = _figure(6.4, 5.8, title=title)
    mistakes = counts.astype(float)
    np.fill_diagonal(mistakes, np.nan)
    colours = colormaps["Oranges"].with_extremes(bad="#f2f2f2")
    image = ax.imshow(mistakes, cmap=colours, vmin=0, vmax=max(1, np.nanmax(mistakes)), interpolation="nearest")
    for (i, j), count in np.ndenumerate(counts):
        if count:
            dark = i != j and count > 0.6 * np.nanmax(mistakes)
            ax.text(j, i, count, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    ax.set(xlabel="predicted digit", ylabel="real digit", xticks=range(len(counts)), yticks=range(len(counts)))
    ax.grid(False)
    figure.colorbar(image, ax=ax, label="mistakes", fraction=0.045)
    return figure


@styled
def gallery(images: np.ndarray, captions: Sequence[str], title: str = "", columns: int = 8) -> Figure:
    """Pictures (N, 28, 28), each below its caption."""
    rows = max(1, -(-len(images) // columns))
    figure, axes = _figure(1.2 * columns, 1.8 * rows + 0.5, rows, columns, title)
    for ax in axes.flat:
        _bare(ax)
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(caption, fontsize=8.5, linespacing=1.25, pad=2)
        ax.set_anchor("N")  # the room below: between a picture and the next one's caption
    return figure


def _errors(accuracies: Sequence[float]) -> np.ndarray:
    """Errors in percent; at least 0.01, because log scales have no place for 0."""
    return np.maximum(100 * (1 - np.array(accuracies, float)), 0.01)


def _error_axis(ax: Axes, errors: np.ndarray) -> None:
    """Errors (%) upwards on a log scale, the smallest at the top; the ticks name the accuracy."""
    low, high = np.nanmin(errors) / 1.1, np.nanmax(errors) * 1.1
    ticks = _error_ticks(low, high)
    ax.set_yscale("log")
    ax.set_ylim(high, low)
    ax.set_yticks(ticks, [f"{100 - tick:g}" for tick in ticks])
    ax.set_yticks([], minor=True)
    ax.set_ylabel("validation accuracy (%)")


def _error_ticks(low: float, high: float) -> np.ndarray:
    """Round errors (%) between low and high, as many as have room."""
    for steps in (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,):
        ticks = np.outer([0.01, 0.1, 1, 10], steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) <= 9:
            break
    return ticks


def _reached(error: float, epochs: int, most: int) -> str:
    """The accuracy (%) a trial got to; if it was stopped before others, also when."""
    return f"{100 - error:.2f}" + (f"\nepoch {epochs}" if epochs < most else "")


@styled
def pairs(
    places: dict[str, tuple[list[str], list[int]]],
    accuracies: Sequence[float],
    epochs: Sequence[int],
    title: str = "",
) -> Figure:
    """Best accuracy for each pair of hyper-parameters, as heat maps.

    places: for each hyper-parameter the names of its places, and the place of each trial. nan: a trial that diverged.
    epochs: how long each trial was trained. What was stopped earlier than others says so: it cannot be compared.
    The colour follows the logarithm of the error, because among good networks small differences matter.
    """
    names = list(itertools.combinations(places, 2)) or [(name, name) for name in places]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = _figure(4.6 * columns + 0.6, 4.2 * rows + 0.4, rows, columns, title)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    errors = _errors(accuracies)
    norm = LogNorm(np.nanmin(errors), max(np.nanmax(errors), 1.01 * np.nanmin(errors)))
    colours = colormaps["cividis_r"].with_extremes(bad="#eeeeee")
    for ax, (down, across) in zip(axes.flat, names, strict=False):
        best = np.full((len(places[down][0]), len(places[across][0])), np.nan)
        trained = np.zeros(best.shape, int)
        for row, column, error, length in zip(places[down][1], places[across][1], errors, epochs, strict=True):
            if not error >= best[row, column]:  # nor is nan at least anything
                best[row, column], trained[row, column] = error, length
        image = ax.imshow(best, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        for (row, column), error in np.ndenumerate(best):
            if np.isfinite(error):
                colour = "black" if norm(error) < 0.5 else "white"
                text = _reached(error, trained[row, column], max(epochs))
                ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
        ax.set_xticks(range(best.shape[1]), places[across][0])
        ax.set_yticks(range(best.shape[0]), places[down][0])
        ax.set(xlabel=across, ylabel=down)
        ax.grid(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01, label="best validation accuracy (%)")
    ticks = _error_ticks(norm.vmin, norm.vmax)
    bar.set_ticks(ticks, labels=[f"{100 - tick:g}" for tick in ticks], minor=False)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    return figure


@styled
def values(
    places: dict[str, tuple[list[str], list[int]]],
    accuracies: Sequence[float],
    epochs: Sequence[int],
    title: str = "",
) -> Figure:
    """Every trial at its value of each hyper-parameter, and the best one of each value. Arguments as for `pairs`."""
    figure, (axes,) = _figure(4 * len(places), 4, 1, len(places), title)
    errors = _errors(accuracies)
    for ax, (name, (labels, at)) in zip(axes, places.items(), strict=True):
        ax.plot(at, errors, "o", color=TRAIN, alpha=0.35, markersize=5, markeredgewidth=0, label="a trial")
        best = {}
        for i in np.argsort(-errors):  # nan comes last
            if np.isfinite(errors[i]):
                best[at[i]] = i
        best = {place: best[place] for place in sorted(best)}
        ax.plot(list(best), errors[list(best.values())], "D-", color=VALIDATION, markersize=6, label="the best one")
        above = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
        above["bbox"] = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
        for place, i in best.items():
            ax.annotate(_reached(errors[i], epochs[i], max(epochs)), (place, errors[i]), (0, 8), **above)
        ax.set_xticks(range(len(labels)), labels)
        ax.set(xlabel=name, xlim=(-0.5, len(labels) - 0.5))
        _error_axis(ax, errors)
        ax.label_outer()
        ax.tick_params(labelleft=True)
    axes[-1].legend()
    return figure


@styled
def rungs(trials: Sequence[Sequence[float]], stops: Sequence[int], title: str = "") -> Figure:
    """Accuracy over the epochs for each trial, the best one marked; dotted lines where trials had to stop."""
    figure, ((ax,),) = _figure(9, 4.6, title=title)
    errors = [_errors(trial) for trial in trials]
    winner = min(range(len(errors)), key=lambda i: (-len(errors[i]), errors[i].min()))
    for i, error in enumerate(errors):
        style = {"color": VALIDATION, "zorder": 3} if i == winner else {"color": TRAIN, "alpha": 0.3, "linewidth": 1}
        ax.plot(range(1, len(error) + 1), error, ".-", label="the best trial" if i == winner else None, **style)
    for stop in stops:
        ax.axvline(stop, color=MARK, linestyle=":", linewidth=1.2)
        count = sum(len(error) >= stop for error in errors)
        ax.annotate(f"{count}", (stop, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9, color=MARK)
    _error_axis(ax, np.concatenate(errors))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch (dotted: a rung's end, and how many trials came that far)")
    ax.legend(loc="lower right")
    return figure


@styled
def times(
    seconds: Sequence[float],
    accuracies: Sequence[float],
    epochs: Sequence[int],
    networks: Sequence[str],
    title: str = "",
) -> Figure:
    """The time that each trial took against the accuracy it got to, in a colour for each of `networks`.

    A larger dot is a trial trained for the most epochs, a smaller one was stopped early.
    """
    figure, ((ax,),) = _figure(9, 4.6, title=title)
    errors, names = _errors(accuracies), sorted(set(networks), key=lambda name: (len(name), name))
    colours = colormaps["cividis"](np.linspace(0, 0.95, len(names)))
    early = np.array(epochs) < max(epochs)
    for name, colour in zip(names, colours, strict=True):
        mine = np.array(networks) == name
        style = {"color": colour, "markeredgecolor": "white", "linestyle": ""}
        ax.plot(np.array(seconds)[mine & early], errors[mine & early], marker="o", markersize=5, **style)
        ax.plot(np.array(seconds)[mine & ~early], errors[mine & ~early], marker="o", markersize=9, label=name, **style)
    _error_axis(ax, errors)
    ax.set(xlabel="seconds of training" + ("   (small dots: stopped early)" if early.any() else ""), xscale="log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    if len(names) <= 12:  # more would cover the dots
        ax.legend(title="network")
    return figure


@styled
def predictions(
    looks: Sequence[tuple[str, np.ndarray, np.ndarray, Sequence[float]]], title: str = "", columns: int = 2
) -> Figure:
    """For each picture its name, the picture (h, w, 3), the (28, 28) that the network saw, the probabilities."""
    rows = max(1, -(-len(looks) // columns))
    figure, axes = _figure(5.4 * columns, 1.75 * rows + 0.3, rows, 3 * columns, title)
    for ax in axes.flat[3 * len(looks) :]:
        ax.set_visible(False)
    for i, (name, original, seen, probabilities) in enumerate(looks):
        left, middle, right = axes.flat[3 * i : 3 * i + 3]
        left.imshow(original, interpolation="nearest" if max(original.shape) < 100 else "antialiased")
        left.set_title(_printable(name if len(name) <= 24 else f"...{name[-21:]}"), fontsize=8.5, parse_math=False)
        middle.imshow(seen, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        middle.set_title("as the network sees it", fontsize=8.5)
        for ax in left, middle:
            _bare(ax)
        bars(right, probabilities)
    return figure


def bars(ax: Axes, probabilities: Sequence[float]) -> None:
    """The probabilities of the ten digits, the most likely one in another colour."""
    best = int(np.argmax(probabilities))
    ax.bar(range(10), probabilities, color=[VALIDATION if digit == best else TRAIN for digit in range(10)])
    ax.set(ylim=(0, 1), xticks=range(10), yticks=[0, 0.5, 1])
    ax.tick_params(labelsize=8)
    ax.set_title(f"{best} ({100 * probabilities[best]:.1f}%)", fontsize=10)
