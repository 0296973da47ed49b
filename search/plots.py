"""Figures of a search: arrays in, `matplotlib.figure.Figure` out.

Accuracies are drawn on the log scale of the error, because among good networks small differences matter. Arguments that
the figures share, with an entry for each trial:

    bins          for each hyper-parameter the labels of its bins, and the bin of each trial
    accuracies    nan for a trial that diverged
    epochs        the length of its last rung: only trials of equal length can be compared
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plots import BLUE, GREY, ORANGE, new_figure, styled

Bins = dict[str, tuple[list[str], list[int]]]


def _errors(accuracies: Sequence[float]) -> np.ndarray:
    """Errors in percent; at least 0.01, because 0 has no logarithm."""
    return np.maximum(100 * (1 - np.array(accuracies, float)), 0.01)


def _error_ticks(low: float, high: float) -> tuple[np.ndarray, list[str]]:
    """At most nine round errors (%) between low and high, and their labels: the accuracies."""
    for steps in (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,):
        ticks = np.outer([0.01, 0.1, 1, 10], steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) <= 9:
            break
    if not len(ticks):
        ticks = np.array([low, high])
    return ticks, [f"{100 - tick:.6g}" for tick in ticks]


def _error_axis(ax: Axes, errors: np.ndarray) -> None:
    """Make the y axis a log scale of the error, the smallest at the top."""
    low, high = np.nanmin(errors) / 1.1, np.nanmax(errors) * 1.1
    ax.set(yscale="log", ylim=(high, low), ylabel="validation accuracy (%)")
    ax.set_yticks(*_error_ticks(low, high))
    ax.set_yticks([], minor=True)


def _accuracy_label(error: float, epochs: int, most: int) -> str:
    """The accuracy (%); below it the epochs, if other trials had more."""
    stopped = f"\n{epochs} {'epoch' if epochs == 1 else 'epochs'}" if epochs < most else ""
    return f"{100 - error:.2f}{stopped}"


def _best_trials(keys: Iterable, errors: np.ndarray) -> dict:
    """For each key, sorted, the index of the trial with the smallest error. `keys` has one for each trial."""
    keys = list(keys)
    return dict(sorted({keys[i]: i for i in np.argsort(-errors) if np.isfinite(errors[i])}.items()))


@styled
def heatmaps(bins: Bins, accuracies: Sequence[float], epochs: Sequence[int], title: str = "") -> Figure:
    """The best accuracy for each pair of bins of each pair of hyper-parameters."""
    pairs = list(itertools.combinations(bins, 2)) or [(name, name) for name in bins]
    figure, axes = new_figure(4.3, 3.8, len(pairs), min(3, len(pairs)), title)
    errors = _errors(accuracies)
    norm = LogNorm(np.nanmin(errors), max(np.nanmax(errors), 1.01 * np.nanmin(errors)))
    colors = colormaps["cividis_r"].with_extremes(bad="#eeeeee")
    for ax, (down, across) in zip(axes, pairs, strict=True):
        (row_labels, trial_rows), (column_labels, trial_columns) = bins[down], bins[across]
        grid = np.full((len(row_labels), len(column_labels)), np.nan)
        for (row, column), i in _best_trials(zip(trial_rows, trial_columns, strict=True), errors).items():
            grid[row, column] = errors[i]
            style = {"ha": "center", "va": "center", "fontsize": 8.5}
            style["color"] = "black" if norm(errors[i]) < 0.55 else "white"
            ax.text(column, row, _accuracy_label(errors[i], epochs[i], max(epochs)), **style)
        image = ax.imshow(grid, cmap=colors, norm=norm, aspect="auto", interpolation="nearest")
        ax.set_xticks(range(len(column_labels)), column_labels)
        ax.set_yticks(range(len(row_labels)), row_labels)
        ax.set(xlabel=across, ylabel=down)
        ax.grid(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01, label="best validation accuracy (%)")
    ticks, labels = _error_ticks(norm.vmin, norm.vmax)
    bar.set_ticks(ticks, labels=labels)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    return figure


@styled
def marginals(bins: Bins, accuracies: Sequence[float], epochs: Sequence[int], title: str = "") -> Figure:
    """Every trial in its bin of each hyper-parameter, and the best trial of each bin."""
    figure, axes = new_figure(4, 4, len(bins), len(bins), title)
    errors = _errors(accuracies)
    box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    for ax, (name, (labels, trial_bins)) in zip(axes, bins.items(), strict=True):
        best = _best_trials(trial_bins, errors)
        ax.plot(trial_bins, errors, "o", color=BLUE, alpha=0.35, markersize=5, markeredgewidth=0, label="trial")
        ax.plot(list(best), errors[list(best.values())], "D-", color=ORANGE, label="best trial of the value")
        for x, i in best.items():
            text, point = _accuracy_label(errors[i], epochs[i], max(epochs)), (x, errors[i])
            ax.annotate(text, point, (0, 8), textcoords="offset points", ha="center", fontsize=9, bbox=box)
        ax.set_xticks(range(len(labels)), labels)
        ax.set(xlabel=name, xlim=(-0.5, len(labels) - 0.5))
        _error_axis(ax, errors)
        ax.label_outer()
        ax.tick_params(labelleft=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def learning_curves(rungs: dict[int, dict[str, Sequence[float]]], winner: str, title: str = "") -> Figure:
    """The accuracy after each epoch, a panel for each rung, because each rung trains its trials from the start.

    rungs: for each number of epochs the accuracies of each trial, by its id; winner: the id of a trial.
    """
    lengths = sorted(rungs)
    figure, axes = new_figure(9 / len(lengths), 4.4, len(lengths), len(lengths), title)
    axes[0].get_gridspec().set_width_ratios([length**0.5 for length in lengths])
    errors = [{trial: _errors(accuracies) for trial, accuracies in rungs[length].items()} for length in lengths]
    for ax, length, rung, longer in zip(axes, lengths, errors, [*errors[1:], {}], strict=True):
        spread = 0.2 if length == 1 else 0  # points next to each other
        for (trial, error), shift in zip(rung.items(), np.linspace(-spread, spread, len(rung)), strict=True):
            style = {"color": GREY, "alpha": 0.3, "linewidth": 1, "label": "trial"}
            if trial in longer:
                style |= {"color": BLUE, "alpha": 0.6, "label": "promoted trial", "zorder": 3}
            if trial == winner:
                style |= {"color": ORANGE, "alpha": 1, "linewidth": 1.8, "label": "winner (first seed)", "zorder": 4}
            ax.plot(np.arange(1, len(error) + 1) + shift, error, ".-", **style)
        _error_axis(ax, np.concatenate([error for rung in errors for error in rung.values()]))
        ax.set(xlim=(0.5, length + 0.5), xlabel="epoch", title=f"{len(rung)} trial{'s' * (len(rung) != 1)}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.label_outer()
    lines = {line.get_label(): line for ax in axes for line in ax.lines}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=3)
    return figure
