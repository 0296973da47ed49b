"""What a search prints and draws, after a search with made-up results."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from search import plots, report
from search.config import SearchConfig

from .search_helpers import RESULT, SMALL, Submit, dimensions, made_up, run_search

SPACE = dimensions(hidden=[4, [8, 4]], lr=[0.01, 0.05, 0.2, 1e4], weight_decay=[0, 0.1, 5])


def uneven(config):
    """Made up so that the best trial of a value is not always the last one."""
    return made_up(replace(config, weight_decay=5 - config.weight_decay if config.lr == 0.05 else config.weight_decay))


@pytest.fixture
def halving(tmp_path):
    config = SearchConfig(repeats=2, recipe=replace(SMALL, epochs=5), space=SPACE)
    return run_search(config, tmp_path, Submit(uneven))


def test_the_table_is_aligned(halving):
    search, results = halving
    widths = report.column_widths(search.config)
    assert list(widths) == ["trial", "seed", "epochs", "hidden", "lr", "weight-decay", "validation accuracy", "seconds"]
    assert widths == {title: max(len(title), 8 if title in ("hidden", "lr") else 0) for title in widths}
    rows = [
        report.format_result(result, widths) for result in [*results, RESULT | {"settings": results[0]["settings"]}]
    ]
    assert len(set(map(len, rows))) == 1 and any(" diverged " in row for row in rows)
    assert rows[-1].split()[-2:] == ["0.5000", "0.10"] and any(" 8-4 " in row for row in rows)


def test_the_best_of_each_value_is_shown_with_its_epochs(halving):
    search, _ = halving
    lines = report.summary(search).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("lr "))
    values, accuracies, epochs = (re.split(r"  +", line)[1:] for line in lines[start : start + 3])
    assert values == ["0.01", "0.05", "0.2", "10000"] and accuracies[-1] == epochs[-1] == "-", "all diverged"
    best_is_last = []
    for value, accuracy, length in zip(values[:-1], accuracies, epochs, strict=False):
        tried = [r for r in search.final_results() if r["settings"]["lr"] == float(value)]
        best = max(tried, key=lambda r: (max(r["validation_accuracy"]), r["epochs"]))
        assert (accuracy, length) == (f"{max(best['validation_accuracy']):.4f}", f"{best['epochs']}")
        best_is_last.append(best is tried[-1])
    assert not all(best_is_last), "or else this could not fail"
    assert len({len(line) for line in lines[start : start + 3]}) == 1, "aligned"


def test_without_rungs_the_epochs_are_left_out(tmp_path):
    search, _ = run_search(SearchConfig("grid", recipe=SMALL, space=SPACE), tmp_path)
    assert "best accuracy" in report.summary(search) and "after epochs" not in report.summary(search)


def test_the_finalists_and_the_cost(halving):
    search, results = halving
    *_, finalists, total = report.summary(search).split("\n\n")
    header, first, *others = finalists.splitlines()
    assert header.split() == ["finalists", "hidden", "lr", "weight-decay", "validation", "accuracy"]
    assert first.split()[:4] == ["1", "4", "0.2", "0"] and re.search(r"0\.\d{4} \+- 0\.\d{4}$", first)
    assert len(others) == len(search.ranking) - 1 and len({len(row) for row in finalists.splitlines()}) == 1
    epochs, seconds = (sum(r[key] for r in results) for key in ("epochs", "seconds"))
    assert total == f"24 trials, {epochs} epochs, {seconds:.0f} s of training"


@pytest.fixture
def drawn(halving, tmp_path, monkeypatch):
    """The arguments that each figure got."""
    arguments = {}
    for name in "heatmaps", "marginals", "learning_curves":
        original = getattr(plots, name)
        monkeypatch.setattr(
            plots,
            name,
            lambda *given, _name=name, _original=original: arguments.update({_name: given}) or _original(*given),
        )
    report.save_figures(halving[0], tmp_path / "m", "m (tiny)")
    return arguments


def test_the_figures_show_the_first_seed(drawn, halving, tmp_path):
    search, _ = halving
    names = "pairs", "rungs", "values"
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [f"search_{name}.png" for name in names]
    bins, accuracies, epochs, _ = drawn["heatmaps"]
    assert drawn["marginals"][:3] == (bins, accuracies, epochs) and set(epochs) == {1, 5}
    shown = search.final_results()
    expected = [max(r["validation_accuracy"], default=np.nan) for r in shown]
    assert np.array_equal(accuracies, expected, equal_nan=True) and np.isfinite(accuracies).sum() == 18
    assert bins["lr"] == (["0.01", "0.05", "0.2", "10000"], [SPACE["lr"].bin_of(r["settings"]["lr"]) for r in shown])
    rungs, winner, _ = drawn["learning_curves"]
    assert rungs == {
        length: {r["id"]: r["validation_accuracy"] for r in search.results() if r["epochs"] == length and not r["seed"]}
        for length in (1, 5)
    }
    assert winner == search.ranking[0].trial.id and winner in rungs[5]


def test_a_trial_that_diverged_late_is_drawn_without_a_score(tmp_path):
    def late(config):
        result = made_up(config)
        for key in ("validation_accuracy", "validation_loss") if config.lr == 0.2 else ():
            result |= {"status": "diverged", "reason": "lower lr", key: result[key][:2]}
        return result

    config = SearchConfig("grid", recipe=SMALL, space=dimensions(lr=[0.1, 0.2, 0.3]))
    search, _ = run_search(config, tmp_path, Submit(late))
    report.save_figures(search, tmp_path, "m")
    assert " - " in report.summary(search) or "-\n" in report.summary(search)


@pytest.mark.figures
def test_the_figures_can_be_rendered(halving, tmp_path):
    report.save_figures(halving[0], tmp_path / "m", "m")
    for path in (tmp_path / "m").iterdir():
        with Image.open(path) as image:
            assert image.width > 500
