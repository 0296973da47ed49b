"""The figures of a search: what they show is what they were given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from plots import BLUE, GREY, ORANGE
from search.plots import _error_ticks, heatmaps, learning_curves, marginals

BINS = {"hidden": (["64", "128"], [0, 0, 1, 1]), "lr": (["0.01", "0.1"], [0, 1, 0, 1])}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_heatmaps_show_the_best_of_each_pair():
    ax = heatmaps(BINS, [0.9, 0.98, np.nan, 1.0], [4, 1, 4, 4]).axes[0]
    assert ax.get_xlabel() == "lr" and ax.get_ylabel() == "hidden"
    errors = ax.images[0].get_array()
    assert np.allclose(errors[0], [10, 2]) and errors.mask[1, 0] and errors[1, 1] == 0.01, "0 has no logarithm"
    assert texts(ax) == ["90.00", "98.00\n1 epoch", "99.99"]
    three = {**BINS, "weight-decay": (["0"], [0, 0, 0, 0])}
    assert len(heatmaps(three, [0.9, 0.98, 0.97, 0.96], [4] * 4).axes) == 3 + 1
    assert len(heatmaps({"lr": BINS["lr"]}, [0.9, 0.98, 0.97, 0.96], [4] * 4).axes) == 1 + 1
    ax = heatmaps({"lr": BINS["lr"]}, [0.9, 0.98, 0.95, np.nan], [4] * 4).axes[0]
    assert texts(ax) == ["95.00", "98.00"], "of several trials the best"


def test_marginals_mark_the_best():
    hidden, lr = marginals(BINS, [0.9, 0.98, np.nan, 0.95], [4, 2, 4, 4]).axes
    assert np.allclose(hidden.lines[1].get_ydata(), [2, 5]) and np.allclose(lr.lines[1].get_ydata(), [10, 2])
    assert np.allclose(hidden.lines[0].get_ydata(), [10, 2, np.nan, 5], equal_nan=True), "every trial"
    assert texts(hidden) == ["98.00\n2 epochs", "95.00"]
    assert hidden.yaxis_inverted() and hidden.get_yscale() == "log", "the best is at the top"
    assert hidden.get_ylim() == pytest.approx((11, 2 / 1.1))
    assert [label.get_text() for label in lr.get_xticklabels()] == ["0.01", "0.1"]
    (legend,) = hidden.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["trial", "best trial of the value"]


def test_learning_curves_show_each_rung_from_its_first_epoch():
    rungs = {
        1: {"a": [0.9], "b": [0.7], "c": [], **{str(i): [0.5] for i in range(8)}},
        3: {"b": [0.8, 0.95, 0.96], "a": [0.7, 0.8, 0.9]},
        5: {"b": [0.9] * 5},
    }
    figure = learning_curves(rungs, winner="b")
    first, second, third = figure.axes
    assert [len(line.get_ydata()) for line in first.lines] == [1, 1, 0, *[1] * 8], "a trial that diverged has no curve"
    assert [list(line.get_xdata()) for line in second.lines] == [[1, 2, 3]] * 2
    assert np.allclose(second.lines[0].get_ydata(), [20, 5, 4])
    colors = [[to_hex(line.get_color()) for line in ax.lines] for ax in figure.axes]
    assert colors == [[BLUE, ORANGE, *[GREY] * 9], [ORANGE, GREY], [ORANGE]]
    assert [ax.get_title() for ax in figure.axes] == ["11 trials", "2 trials", "1 trial"]
    assert first.get_ylim() == third.get_ylim() and first.yaxis_inverted(), "one scale"
    (legend,) = figure.legends
    labels = {
        text.get_text(): to_hex(line.get_color()) for text, line in zip(legend.texts, legend.get_lines(), strict=True)
    }
    assert labels["winner (first seed)"] == ORANGE and set(labels.values()) == {BLUE, ORANGE, GREY}
    (ax,) = learning_curves({2: {"a": [0.9, 0.91], "b": [0.7, 0.8]}}, winner="a").axes
    assert len(ax.lines) == 2


@pytest.mark.parametrize(
    "low, high, ticks",
    [
        (1, 2, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (2, 9, [2, 2.5, 3, 3.5, 4, 5, 6, 7, 8]),
        (1, 9, [1, 1.5, 2, 3, 4, 5, 7]),
        (0.1, 20, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]),
        (0.01, 50, [0.01, 0.1, 1, 10]),
    ],
)
def test_the_axis_has_at_most_nine_round_errors(low, high, ticks):
    errors, labels = _error_ticks(low, high)
    assert errors == pytest.approx(ticks) and labels == [f"{100 - tick:g}" for tick in ticks]


def test_an_axis_without_round_errors_has_its_ends():
    errors, labels = _error_ticks(0.81, 0.99)
    assert list(errors) == [0.81, 0.99] and labels == ["99.19", "99.01"]


def test_figures_have_no_title_by_default():
    scores = [0.9, 0.98, 0.97, 0.95], [4] * 4
    figures = heatmaps(BINS, *scores), marginals(BINS, *scores), learning_curves({1: {"a": [0.9]}}, "a")
    for figure in figures:
        assert not figure.get_suptitle()
