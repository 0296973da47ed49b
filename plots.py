"""Pictures: arrays in, `matplotlib.figure.Figure` out. No pyplot, no window, no state, and no Network in here."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

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
def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with storage.replace(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a letter of a file's name is shown as a box
        figure.savefig(file, format="png")


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, title: str = "") -> tuple[Figure, np.ndarray]:
    """A figure of width x height inches and its axes, (rows, columns)."""
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    if title:  # which may be a file's name: no formulas in it, and nothing that cannot be drawn at all
        figure.suptitle(title.encode(errors="replace").decode(), parse_math=False)
    return figure, axes


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


@styled
def tiles(weights: np.ndarray, title: str = "", most: int = 96) -> Figure:
    """Each row of `weights`, (units, 784), as a 28x28 picture: what a unit of the first layer looks for.

    Units are shown by falling length of their weights, red for positive and blue for negative.
    """
    order = np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")[:most]
    columns = min(12, len(order))
    rows = -(-len(order) // columns)
    sheet = np.full((rows * 29 + 1, columns * 29 + 1), np.nan)
    for place, unit in enumerate(order):
        top, left = (29 * i + 1 for i in divmod(place, columns))
        sheet[top : top + 28, left : left + 28] = weights[unit].reshape(28, 28)
    title = f"{title} ({len(order)} of {len(weights)} units, strongest first)"
    figure, ((ax,),) = _figure(0.75 * columns + 1.4, 0.75 * rows + 0.7, title=title)
    limit = np.nanpercentile(np.abs(sheet), 99.5) or 1
    image = ax.imshow(sheet, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    _bare(ax)
    figure.colorbar(image, ax=ax, label="weight", fraction=0.03, pad=0.01, extend="both")
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
        ax.hist(values.ravel(), bins=80 if many else 20, color=TRAIN, log=many)
        shape = " x ".join(map(str, values.shape))
        ax.set(title=f"{name}   ({shape})   mean {values.mean():.3g}, deviation {values.std():.3g}")
        ax.title.set_fontsize(10)
        ax.set(xlabel="value", ylabel="count (log scale)" if many else "count")
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
    """Pictures (N, 28, 28), each with its caption."""
    rows = max(1, -(-len(images) // columns))
    figure, axes = _figure(1.2 * columns, 1.62 * rows + 0.5, rows, columns, title)
    for ax in axes.flat:
        _bare(ax)
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(caption, fontsize=8.5, linespacing=1.25)
    return figure


def _error_scale(ax: Axes, errors: np.ndarray, axis: str = "y") -> None:
    """Show errors in percent on a log scale, best at the top (or right), with ticks that name the accuracy."""
    low, high = np.nanmin(errors) / 1.1, np.nanmax(errors) * 1.1
    ticks = _accuracy_ticks(low, high)
    getattr(ax, f"set_{axis}scale")("log")
    getattr(ax, f"set_{axis}lim")(high, low)
    getattr(ax, f"set_{axis}ticks")(ticks, [f"{100 - tick:g}" for tick in ticks], minor=False)
    getattr(ax, f"set_{axis}ticks")([], minor=True)


def _accuracy_ticks(low: float, high: float) -> np.ndarray:
    """Errors between low and high, in percent, that make good ticks of an accuracy axis: at most seven."""
    steps = np.array([1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8])
    for subset in steps, steps[[0, 2, 5, 7, 9, 10, 11, 13]], steps[[0, 5, 10]], steps[[0]]:
        ticks = np.array([step * 10**power for power in (-1.0, 0.0, 1.0) for step in subset])
        ticks = ticks[(ticks >= low) & (ticks <= high) & (ticks < 95)]
        if len(ticks) <= 7:
            break
    return ticks


@styled
def pairs(places: dict[str, tuple[list[str], list[int]]], accuracies: Sequence[float], title: str = "") -> Figure:
    """Best accuracy for each pair of hyper-parameters, as heat maps.

    places: for each hyper-parameter the names of its places, and the place of each trial. nan: a trial that diverged.
    """
    names = [(a, b) for i, a in enumerate(places) for b in list(places)[i + 1 :]] or [(name, name) for name in places]
    figure, (axes,) = _figure(4.6 * len(names) + 0.6, 4.4, 1, len(names), title)
    errors = 100 * (1 - np.array(accuracies, float))
    norm = LogNorm(np.nanmin(errors), max(np.nanmax(errors), 1.01 * np.nanmin(errors)))
    colours = colormaps["cividis_r"].with_extremes(bad="#eeeeee")
    for ax, (down, across) in zip(axes, names, strict=True):
        (rows, at_rows), (columns, at_columns) = places[down], places[across]
        best = np.full((len(rows), len(columns)), np.nan)
        for row, column, error in zip(at_rows, at_columns, errors, strict=True):
            best[row, column] = np.fmin(best[row, column], error)
        image = ax.imshow(best, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        for (row, column), error in np.ndenumerate(best):
            text = "-" if np.isnan(error) else f"{100 - error:.2f}"
            dark = np.isnan(error) or norm(error) < 0.5
            ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color="black" if dark else "white")
        ax.set_xticks(range(len(columns)), columns, rotation=30 if max(map(len, columns)) > 6 else 0)
        ax.set_yticks(range(len(rows)), rows)
        ax.set(xlabel=across, ylabel=down)
        ax.grid(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01, label="best validation accuracy (%)")
    ticks = _accuracy_ticks(norm.vmin, norm.vmax)
    bar.set_ticks(ticks, labels=[f"{100 - tick:g}" for tick in ticks], minor=False)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    return figure


@styled
def values(places: dict[str, tuple[list[str], list[int]]], accuracies: Sequence[float], title: str = "") -> Figure:
    """Every trial at its value of each hyper-parameter, and the best one of each value."""
    figure, (axes,) = _figure(4 * len(places), 4, 1, len(places), title)
    errors = 100 * (1 - np.array(accuracies, float))
    for ax, (name, (labels, at)) in zip(axes, places.items(), strict=True):
        best = np.array(
            [np.min(errors[(np.array(at) == i) & np.isfinite(errors)], initial=np.inf) for i in range(len(labels))]
        )
        ax.plot(at, errors, "o", color=TRAIN, alpha=0.35, markersize=5, markeredgewidth=0, label="a trial")
        found = np.flatnonzero(np.isfinite(best))
        ax.plot(found, best[found], "D-", color=VALIDATION, markersize=6, label="the best one")
        for i in found:
            ax.annotate(
                f"{100 - best[i]:.2f}", (i, best[i]), (0, 8), textcoords="offset points", ha="center", fontsize=9
            )
        ax.set_xticks(range(len(labels)), labels, rotation=30 if max(map(len, labels)) > 6 else 0)
        ax.set(xlabel=name, xlim=(-0.5, len(labels) - 0.5))
        _error_scale(ax, errors)
    axes[0].set_ylabel("validation accuracy (%), log scale of the error")
    axes[0].legend(loc="lower right")
    return figure


@styled
def rungs(trials: Sequence[Sequence[float]], stops: Sequence[int], title: str = "") -> Figure:
    """Accuracy over the epochs for each trial, the best one marked; dotted lines where trials had to stop."""
    figure, ((ax,),) = _figure(9, 4.6, title=title)
    errors = [100 * (1 - np.array(trial)) for trial in trials]
    winner = min(range(len(errors)), key=lambda i: (-len(errors[i]), errors[i].min()))
    for i, error in enumerate(errors):
        style = {"color": VALIDATION, "zorder": 3} if i == winner else {"color": TRAIN, "alpha": 0.3, "linewidth": 1}
        ax.plot(range(1, len(error) + 1), error, ".-", label="the best trial" if i == winner else None, **style)
    for stop in stops:
        ax.axvline(stop, color=MARK, linestyle=":", linewidth=1.2)
        count = sum(len(error) >= stop for error in errors)
        ax.annotate(f"{count}", (stop, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9, color=MARK)
    _error_scale(ax, np.concatenate(errors))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch (dotted: a rung's end, and how many trials came that far)")
    ax.set_ylabel("validation accuracy (%), log scale of the error")
    ax.legend(loc="lower right")
    return figure


@styled
def times(seconds: Sequence[float], accuracies: Sequence[float], sizes: Sequence[str], title: str = "") -> Figure:
    """The time that each trial took against the accuracy it got to; one colour for each of `sizes`."""
    figure, ((ax,),) = _figure(9, 4.6, title=title)
    errors, names = 100 * (1 - np.array(accuracies, float)), list(dict.fromkeys(sizes))
    colours = colormaps["cividis"](np.linspace(0, 0.95, len(names)))
    for name, colour in zip(names, colours, strict=True):
        mine = np.array([size == name for size in sizes])
        ax.plot(
            np.array(seconds)[mine], errors[mine], "o", color=colour, markersize=7, markeredgecolor="white", label=name
        )
    _error_scale(ax, errors)
    ax.set(xlabel="seconds of training", xscale="log", ylabel="validation accuracy (%), log scale of the error")
    ax.legend(title="hidden", loc="lower right")
    return figure
