"""The search methods, with made-up results: which trials they train, and which one wins."""

import itertools
import json
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from search import methods
from search.config import SearchConfig
from search.methods import rungs
from search.trial import SearchError

from .search_helpers import (
    DIVERGED,
    SMALL,
    Submit,
    completed,
    dimensions,
    journal_content,
    made_up,
    open_search,
    run_search,
)

EIGHT = replace(SMALL, epochs=8)
SPACE = dimensions(lr=[0.05, 0.1, 0.2, 0.3, 5], weight_decay=[0.0, 0.01, 0.1])
LARGE = dimensions(lr=np.linspace(0.1, 0.3, 9).tolist(), weight_decay=[0.0, 0.01, 0.1])  # enough for three rungs


def test_rungs():
    assert rungs(100, 10) == [(100, 1), (20, 2), (4, 10)]
    assert rungs(125, 20) == [(125, 1), (25, 4), (5, 20)]
    assert rungs(3, 20) == [(3, 20)]
    assert rungs(64, 1) == [(64, 1)]


@pytest.mark.parametrize("method", ["grid", "random", "halving", "coordinate"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_every_method_finds_the_best(method, repeats, tmp_path):
    config = SearchConfig(method, 15 if method == "random" else 0, repeats, recipe=EIGHT, space=SPACE)
    submit = Submit()
    search, results = run_search(config, tmp_path, submit)
    winner = search.ranking[0]
    assert (winner.trial.config.lr, winner.trial.config.weight_decay) == (0.2, 0.0) and len(winner.scores) == repeats
    assert winner.trial.config.epochs == 8
    assert len(results) == len(submit.submitted) == len(set(submit.submitted)), "nothing is done twice"
    cost = sum(epochs for *_, epochs in submit.submitted)
    assert cost <= search.cost() and (cost == search.cost() or method == "coordinate")


def test_halving_trains_the_best_again_for_longer(tmp_path):
    submit = Submit()
    _, results = run_search(SearchConfig(recipe=EIGHT, space=SPACE), tmp_path, submit)
    assert {epochs for *_, epochs in submit.submitted[:15]} == {2}, "each rung has a schedule of its own length"
    assert set(submit.submitted[15:]) == {(0.2, wd, 0, 8) for wd in (0.0, 0.01, 0.1)}
    assert {(r["from"], len(r["validation_accuracy"])) for r in results if r["epochs"] == 8} == {(0, 8)}


def test_a_trial_has_the_same_id_in_every_rung(tmp_path):
    search, results = run_search(SearchConfig(recipe=EIGHT, space=SPACE), tmp_path)
    ids = {json.dumps(r["settings"]): {q["id"] for q in results if q["settings"] == r["settings"]} for r in results}
    assert len(ids) == 15 and all(len(each) == 1 for each in ids.values())
    other = SearchConfig(recipe=replace(EIGHT, seed=1), space=SPACE)
    assert not {r["id"] for r in run_search(other, tmp_path / "other")[1]} & search.trials.keys()


def test_halving_takes_the_next_best_if_the_best_diverge(tmp_path):
    def diverges_late(config):
        return DIVERGED if config.lr == 0.2 and config.epochs == 8 else made_up(config)

    search, _ = run_search(SearchConfig(recipe=EIGHT, space=SPACE), tmp_path, Submit(diverges_late))
    assert search.ranking[0].trial.config.lr != 0.2 and search.ranking[0].scores[0] > 0


def test_coordinate_changes_one_hyper_parameter_at_a_time(tmp_path):
    submit = Submit()
    run_search(SearchConfig("coordinate", recipe=SMALL, space=SPACE), tmp_path, submit)
    assert {task[:2] for task in submit.submitted[:5]} == {(lr, 0.01) for lr in (0.05, 0.1, 0.2, 0.3, 5)}
    assert {task[:2] for task in submit.submitted[5:]} == {(0.2, 0.0), (0.2, 0.1)}


def test_the_best_mean_over_seeds_wins(tmp_path):
    """With one seed lr 0.2 is better by 0.1; here its other seeds are much worse."""

    def unstable(config):
        result = made_up(config)
        if config.lr == 0.2 and config.seed:
            result["validation_accuracy"] = [accuracy / 2 for accuracy in result["validation_accuracy"]]
        return result

    config = SearchConfig("grid", repeats=3, recipe=SMALL, space=dimensions(lr=[0.1, 0.2, 5]))
    search, results = run_search(config, tmp_path, Submit(unstable))
    assert [finalist.trial.config.lr for finalist in search.ranking] == [0.1, 0.2]
    assert sorted(r["seed"] for r in results if r["settings"]["lr"] == 0.1) == [0, 1, 2]
    assert len(search.final_results()) == 3, "other seeds are not trials of their own"


def test_a_seed_that_diverges_counts_as_0(tmp_path):
    def unstable(config):
        return DIVERGED if config.lr == 0.2 and config.seed else made_up(config)

    config = SearchConfig("grid", repeats=2, recipe=SMALL, space=dimensions(lr=[0.1, 0.2]))
    search, _ = run_search(config, tmp_path, Submit(unstable))
    assert search.ranking[1].trial.config.lr == 0.2 and search.ranking[1].scores[1] == 0


@pytest.mark.parametrize("function", [made_up, lambda config: made_up(replace(config, lr=0.1, weight_decay=0.0))])
@pytest.mark.parametrize("method", ["grid", "halving", "coordinate"])
def test_the_order_in_which_trials_finish_does_not_matter(method, function, tmp_path, monkeypatch):
    """Not even if all trials are equally good."""
    config = SearchConfig(method, repeats=2, recipe=EIGHT, space=LARGE)
    search, _ = run_search(config, tmp_path / "a", Submit(function))
    for name, order in ("b", lambda futures: list(futures)), ("c", lambda futures: list(futures)[::-1]):
        monkeypatch.setattr(methods, "as_completed", order)
        other, _ = run_search(config, tmp_path / name, Submit(function))
        assert other.ranking == search.ranking
        assert other.final_results() == search.final_results()
        assert journal_content(tmp_path / name / "search.jsonl") == journal_content(tmp_path / "a" / "search.jsonl")


def test_a_failed_trial_is_reported_and_tried_again(tmp_path):
    def broken(config):
        if config.lr == 0.2:
            raise MemoryError("no room")
        return made_up(config)

    config = SearchConfig("grid", recipe=SMALL, space=dimensions(lr=[0.1, 0.2, 0.3]))
    search, results = run_search(config, tmp_path, Submit(broken))
    failed = {r["settings"]["lr"]: r["reason"] for r in results if r["status"] == "failed"}
    assert failed == {0.2: "MemoryError: no room"} and len(search.ranking) == 2
    assert [r["seconds"] for r in results if r["status"] == "failed"] == [0]
    submit = Submit()
    search, _ = run_search(config, tmp_path, submit)
    assert search.ranking[0].trial.config.lr == 0.2 and len(submit.submitted) == 1


def test_lost_workers_end_the_search(tmp_path):
    def lost(config):
        raise ConnectionError

    config = SearchConfig("grid", recipe=SMALL, space=dimensions(lr=[0.1, 0.2]))
    with pytest.raises(SearchError, match=r"lost the workers \(ConnectionError\): the same command continues"):
        run_search(config, tmp_path, Submit(lost))
    assert len((tmp_path / "search.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("trials", [2, 30])  # one rung, two rungs
def test_a_search_in_which_all_trials_diverge(trials, tmp_path):
    config = SearchConfig(recipe=SMALL, space=dimensions(lr=list(range(5, 5 + trials))))
    with pytest.raises(SearchError, match=r"no trial succeeded.*diverged: lower lr"):
        run_search(config, tmp_path)


@pytest.mark.parametrize("method", ["halving", "coordinate"])
def test_a_stopped_search_resumes_and_repeats_nothing(method, tmp_path):
    config = SearchConfig(method, repeats=2, recipe=replace(SMALL, epochs=20), space=LARGE)
    whole, results = run_search(config, tmp_path / "whole")
    assert {r["epochs"] for r in results} == ({1, 4, 20} if method == "halving" else {20})
    for stop in range(len(results) + 1):
        folder, submit = tmp_path / str(stop), Submit()
        with open_search(config, folder, Submit()) as search:
            generator = search.run()
            list(itertools.islice(generator, stop))
            generator.close()
        resumed, again = run_search(config, folder, submit)
        assert len(submit.submitted) == len(results) - stop and len(again) == len(results)
        assert journal_content(folder / "search.jsonl") == journal_content(tmp_path / "whole" / "search.jsonl")
        assert resumed.ranking == whole.ranking


def test_a_stopped_search_cancels_what_is_pending(tmp_path):
    futures = []

    def submit(config):
        futures.append(Future() if futures else completed(made_up, config))
        return futures[-1]

    with open_search(SearchConfig("grid", recipe=SMALL, space=SPACE), tmp_path, submit) as search:
        generator = search.run()
        next(generator)
        generator.close()
    assert len(futures) == 15 and all(future.cancelled() for future in futures[1:])


def test_the_largest_networks_are_trained_first(tmp_path):
    sizes = []

    def submit(config):
        sizes.append(sum(config.hidden))
        return completed(made_up, config)

    run_search(SearchConfig("grid", recipe=SMALL, space=dimensions(hidden=[8, [64, 32], 4, 80])), tmp_path, submit)
    assert sizes == [96, 80, 8, 4]
