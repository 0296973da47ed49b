"""The search: its space, its journal, its methods, its workers, and the command with all of them."""

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from network import Network
from recipe import Recipe, RecipeError
from search import Axis, Journal, Plan, Search, SearchError, advance, score, show, workers
from search.methods import rungs

from .conftest import ROOT

SMALL = Recipe(hidden=[8], epochs=4, batch_size=50, validation=100, dataset="tiny")


def axes(**given):
    return {name: Axis.read(name, values) for name, values in given.items()}


# --- the space --------------------------------------------------------------------------------------------------------


def test_an_axis_is_a_list_or_a_range():
    assert Axis.read("hidden", [64, [256, 128]]).values == [[64], [256, 128]]
    lr = Axis.read("lr", {"low": 0.001, "high": 0.1, "steps": 3})
    assert lr.values == [0.001, 0.01, 0.1] and lr.labels == ["0.0022", "0.01", "0.046"]
    assert Axis.read("momentum", {"low": 0, "high": 0.9, "scale": "linear", "steps": 4}).values == [0, 0.3, 0.6, 0.9]
    assert Axis.read("hidden", {"low": 10, "high": 1000, "steps": 3}).values == [[10], [100], [1000]]
    assert Axis.read("hidden", {"low": 1, "high": 3}).values == [[1], [2], [3]], "each once"
    assert Axis.read("batch_size", {"low": 10, "high": 99, "steps": 3}).values == [10, 31, 99]
    assert Axis.read("momentum", {"low": 0.9, "high": 0.9996, "scale": "linear", "steps": 2}).values == [0.9, 0.9996]
    rng = np.random.default_rng(1)
    draws = [lr.draw(rng) for _ in range(600)]
    assert min(draws) >= 0.001 and max(draws) <= 0.1 and len(set(draws)) > 300
    assert np.bincount([lr.place(x) for x in draws]).min() > 150, "even on its scale"
    assert [lr.place(x) for x in lr.values] == [0, 1, 2]


@pytest.mark.parametrize(
    "name, values, word",
    [
        ("lr", [0.1, -1], "above 0"),
        ("lr", [], "list"),
        ("lr", 0.1, "list"),
        ("lr", [0.1, 0.1], "twice"),
        ("lr", 3j, "list"),
        ("hidden", {"low": 1, "high": 10**400}, "low < high"),
        ("lr", {"low": 0, "high": 1}, "above 0"),
        ("lr", {"low": 1, "high": 0.1}, "low < high"),
        ("lr", {"low": 0.1}, "a range is"),
        ("lr", {"from": 0.1, "to": 1}, "a range is"),
        ("lr", {"low": 0.1, "high": 1, "scale": "square"}, "a range is"),
        ("hidden", ["a"], "whole numbers"),
        ("activation", ["relu", "step"], "be one of"),
    ],
)
def test_a_bad_axis_is_refused(name, values, word):
    with pytest.raises(RecipeError, match=f"^{name}.*{word}"):
        Axis.read(name, values)


def test_show():
    assert [show(x) for x in (0.05, 0.000541, 1e-5, 0.0, [256, 128], [], "relu", 20)] == [
        "0.05", "5.41e-4", "1e-5", "0", "256-128", "none", "relu", "20"]  # fmt: skip


def test_flags_say_the_same_as_files():
    assert Axis.parse("lr", ["0.01", "1e-1"]) == [0.01, 0.1]
    assert Axis.parse("lr", ["0.01..0.1"]) == {"low": 0.01, "high": 0.1, "scale": "log"}
    assert Axis.parse("momentum", ["0..0.9:linear"]) == {"low": 0, "high": 0.9, "scale": "linear"}
    assert Axis.parse("hidden", ["64", "256,128"]) == [[64], [256, 128]]
    assert Axis.parse("hidden", ["64..512"]) == {"low": 64, "high": 512, "scale": "log"}
    assert Axis.parse("nesterov", ["true", "false"]) == [True, False]
    assert Axis.parse("activation", ["relu", "tanh"]) == ["relu", "tanh"]
    assert Axis.parse("layers", ["conv 4 5, relu", "relu"]) == ["conv 4 5, relu", "relu"]
    for words in ["fast"], ["0.1..fast"], ["0.1..0.2..0.3"], ["0.1,0.2"]:
        with pytest.raises(RecipeError, match="lr must"):
            Axis.parse("lr", words)


def test_the_shipped_plans():
    grid = Plan.read(ROOT / "configs" / "grid.toml", {}, {})
    assert len({json.dumps(recipe.settings()) for recipe in grid.grid()}) == 100 and grid.recipe.epochs == 10
    assert len(Plan.read(ROOT / "configs" / "search.toml", {}, {}).drawn()) >= 50


def test_drawing_from_a_list_draws_none_twice():
    plan = Plan(trials=5, space=axes(lr=[0.1, 0.2, 0.3], hidden=[1, 2]))
    some = [json.dumps(recipe.settings()) for recipe in plan.drawn()]
    assert len(set(some)) == 5 and some == [json.dumps(recipe.settings()) for recipe in plan.drawn()]
    assert len(replace(plan, trials=0).drawn()) == len(replace(plan, trials=99).drawn()) == 6
    other = replace(plan, recipe=Recipe(seed=1))
    assert [r.lr for r in other.drawn()] != [r.lr for r in plan.drawn()]


def test_the_order_of_the_space_is_always_the_same():
    """And so are the trials drawn from it, however the flags or the keys of the file are ordered."""
    given = {"lr": [0.1, 0.2], "hidden": [1, 2], "init": ["he", "xavier"]}
    for names in itertools.permutations(given):
        plan = Plan.read(ROOT / "configs" / "search.toml", {}, {name: given[name] for name in names})
        assert list(plan.space) == ["hidden", "init", "lr", "weight_decay"]


@pytest.mark.parametrize(
    "axes, word",
    [
        ({"layers": ["batchnrom", "relu"]}, "no layer is called 'batchnrom'"),
        ({"layers": ["tanh", "relu"]}, "hidden does nothing beside layers"),
        ({"layers": ["tanh"]}, "hidden does nothing beside layers"),
        ({"rotate": [5, 10]}, "rotate does nothing without augment"),
        ({"rotate": [5]}, "rotate does nothing without augment"),
        ({"epochs": [1, 2]}, "epochs cannot be searched"),
    ],
)
def test_bad_plans(axes, word):
    with pytest.raises(RecipeError, match=word):
        Plan.read(ROOT / "configs" / "search.toml", {}, axes)


def test_rungs():
    assert rungs(100, 10) == [(100, 1), (20, 2), (4, 10)]
    assert rungs(125, 20) == [(125, 1), (25, 4), (5, 20)]
    assert rungs(3, 20) == [(3, 20)]
    assert rungs(64, 1) == [(64, 1)]


# --- a trial ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(digits):
    (images, labels), _ = digits
    return [images[:500], labels[:500], images[500:], labels[500:]]


def test_a_trial_that_rested_equals_one_that_did_not(sets):
    whole = advance(SMALL, 3, [], {}, *sets)
    part = advance(SMALL, 1, [], {}, *sets)
    assert len(part["history"]) == 1
    part = advance(SMALL, 3, part["history"], part["state"], *sets)
    assert [r["validation_loss"] for r in part["history"]] == [r["validation_loss"] for r in whole["history"]]
    assert all((part["state"][name] == a).all() for name, a in whole["state"].items())


def test_a_diverged_trial_is_a_result(sets):
    result = advance(replace(SMALL, lr=1e4), 4, [], {}, *sets)
    assert result["status"] == "diverged" and "lower lr" in result["reason"]


def test_score_takes_the_best_epoch():
    line = {"status": "ok", "validation_accuracy": [0.8, 0.9, 0.9, 0.7], "validation_loss": [1, 3, 2, 0.5]}
    assert score(line) == (0.9, -2)
    assert score(line | {"status": "diverged"}) < (0, 0)


# --- the journal ------------------------------------------------------------------------------------------------------

LINE = {"trial": 1, "id": "a", "seed": 0, "settings": {"lr": 0.1}, "from": 0, "epochs": 1, "status": "ok", "reason": "",
        "validation_accuracy": [0.5], "validation_loss": [1.2], "seconds": 0.1}  # fmt: skip


def journal_of(path, search, *lines):
    """Open a journal, add lines, close it."""
    with contextlib.closing(Journal(path, search)) as journal:
        for line in lines:
            journal.add(line)
    return journal


def test_the_journal_keeps_what_is_done(tmp_path):
    path = tmp_path / "m" / "search.jsonl"
    journal = Journal(path, {"method": "grid"})
    journal.add(LINE)
    journal.add(LINE | {"id": "b", "status": "failed"})
    assert not journal.resumed and len(path.read_text().splitlines()) == 3
    with pytest.raises(SearchError, match="in use"):
        Journal(path, {"method": "grid"})
    journal.close()
    again = journal_of(path, {"method": "grid"})
    assert again.resumed and again.lines == {("a", 1): LINE}, "what failed is tried again"


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "search.jsonl"
    journal_of(path, {}, LINE)
    whole = path.read_bytes()
    for torn in b'{"id": "b', b"{", b"\x00\x00":
        path.write_bytes(whole + torn)
        assert list(journal_of(path, {}).lines) == [("a", 1)] and path.read_bytes() == whole
    path.write_bytes(whole[:5])
    assert not journal_of(path, {}).resumed, "not even the first line is whole"


def test_another_search_and_a_damaged_journal_are_refused(tmp_path):
    path = tmp_path / "search.jsonl"
    journal_of(path, {"method": "grid"}), journal_of(path, {"method": "grid", "space": 1}, LINE)  # the first is empty
    with pytest.raises(SearchError, match="another method: give another --out"):
        Journal(path, {"method": "random", "space": 1})
    whole = path.read_bytes()
    damages = [b"nonsense\n" + whole, whole + b"[1]\n", b'{"a": 1}\n', whole.replace(b'"id"', b'"di"')]
    damages += [whole.replace(b"validation_loss", b"loss"), whole + b"[" * 100_000 + b"\n"]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(SearchError, match="damaged"):
            Journal(path, {"method": "grid", "space": 1})
        assert path.read_bytes() == damaged


# --- the methods ------------------------------------------------------------------------------------------------------


def made_up(recipe, epochs, history, state):
    """A trial without training: accuracy grows with the epochs, and is best at lr 0.2 and weight_decay 0.01."""
    if recipe.lr > 1:
        return {"status": "diverged", "reason": "lower lr", "history": [], "state": {}, "seconds": 0.0}
    assert len(history) == state.get("epochs", 0), "history and state belong together"
    level = 0.9 - abs(recipe.lr - 0.2) - recipe.weight_decay / 10 - 0.01 * recipe.seed * (recipe.lr == 0.2)
    history = [
        {"epoch": e, "validation_accuracy": level * e / (e + 1), "validation_loss": 1 / e} for e in range(1, epochs + 1)
    ]
    state = {"epochs": np.array(epochs)}
    return {"status": "ok", "reason": "", "history": history, "state": state, "seconds": 1.0}


class Here:
    """An executor that computes at once, and tells what it was asked for; it may stop after some tasks."""

    def __init__(self, function=made_up, limit=10**9):
        self.function, self.limit, self.asked = function, limit, []

    def __call__(self, recipe, epochs, history, state):
        if len(self.asked) == self.limit:
            raise KeyboardInterrupt
        self.asked.append((recipe.lr, recipe.weight_decay, recipe.seed, len(history), epochs))
        future = Future()
        try:
            future.set_result(self.function(recipe, epochs, history, state))
        except MemoryError as error:
            future.set_exception(error)
        return future


def searched(plan, folder, here, width=3):
    with contextlib.closing(Journal(folder / "search.jsonl", plan.description())) as journal:
        search = Search(plan, "digits", journal, here, width)
        return search, list(search.run())


SPACE = axes(lr=[0.05, 0.1, 0.2, 0.3, 5], weight_decay=[0.0, 0.01, 0.1])


@pytest.mark.parametrize("method", ["grid", "random", "halving", "coordinate"])
def test_methods_find_the_best(method, tmp_path):
    plan = Plan(method, 15 if method == "random" else 0, recipe=replace(SMALL, epochs=8), space=SPACE)
    here = Here()
    search, lines = searched(plan, tmp_path, here)
    best = search.standings[0]
    assert (best.recipe.lr, best.recipe.weight_decay) == (0.2, 0.0)
    assert len(lines) == len(here.asked) == len(set(here.asked)), "nothing is done twice"
    assert sum(line["epochs"] - line["from"] for line in lines) <= search.cost()
    assert not (tmp_path / "trials").exists()


def test_halving_goes_on_with_the_best(tmp_path):
    here = Here()
    searched(Plan(recipe=replace(SMALL, epochs=8), space=SPACE), tmp_path, here)
    assert {asked[3:] for asked in here.asked[:15]} == {(0, 2)}
    assert set(here.asked[15:]) == {(0.2, wd, 0, 2, 8) for wd in (0.0, 0.01, 0.1)}


def test_halving_takes_the_next_best_if_the_best_diverges(tmp_path):
    def late(recipe, epochs, history, state):
        return made_up(replace(recipe, lr=9) if recipe.lr == 0.2 and epochs == 8 else recipe, epochs, history, state)

    search, _ = searched(Plan(recipe=replace(SMALL, epochs=8), space=SPACE), tmp_path, Here(late))
    assert search.standings[0].recipe.lr != 0.2 and search.standings[0].mean > 0


def test_coordinate_goes_one_by_one(tmp_path):
    here = Here()
    searched(Plan("coordinate", recipe=SMALL, space=SPACE), tmp_path, here)
    assert {asked[:2] for asked in here.asked[:5]} == {(lr, 0.01) for lr in (0.05, 0.1, 0.2, 0.3, 5)}
    assert {asked[:2] for asked in here.asked[5:]} == {(0.2, 0.0), (0.2, 0.1)}


def test_the_best_mean_over_seeds_wins(tmp_path):
    """With one seed lr 0.2 is ahead by 0.1; here its other seeds do worse and worse."""

    def fickle(recipe, *rest):
        result = made_up(recipe, *rest)
        if recipe.lr == 0.2 and recipe.seed:
            for record in result["history"]:
                record["validation_accuracy"] /= 2
        return result

    plan = Plan("grid", repeats=3, recipe=SMALL, space=axes(lr=[0.1, 0.2, 5]))
    search, lines = searched(plan, tmp_path, Here(fickle))
    assert [standing.recipe.lr for standing in search.standings] == [0.1, 0.2]
    assert [line["seed"] for line in lines if line["settings"]["lr"] == 0.1] == [0, 1, 2]
    assert len(search.results()) == 3, "other seeds are not trials of their own"


def test_what_failed_is_told_and_tried_again(tmp_path):
    def broken(recipe, *rest):
        if recipe.lr == 0.2:
            raise MemoryError("no room")
        return made_up(recipe, *rest)

    plan = Plan("grid", recipe=SMALL, space=axes(lr=[0.1, 0.2, 0.3]))
    search, lines = searched(plan, tmp_path, Here(broken))
    assert {line["settings"]["lr"]: line["reason"] for line in lines if line["status"] == "failed"} == {
        0.2: "MemoryError: no room"
    }
    assert len(search.standings) == 2
    here = Here()
    assert searched(plan, tmp_path, here)[0].standings[0].recipe.lr == 0.2 and len(here.asked) == 1


def test_a_search_in_which_all_diverge(tmp_path):
    with pytest.raises(SearchError, match=r"not one trial.*diverged: lower lr"):
        searched(Plan("halving", recipe=SMALL, space=axes(lr=[5, 6])), tmp_path, Here())


def contents(path):
    """What a journal says, order and times aside; no result may be there twice."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(line["id"], line["epochs"]) for line in lines[1:]]
    assert len(keys) == len(set(keys))
    return sorted(json.dumps({**line, "seconds": 0}, sort_keys=True) for line in lines)


@pytest.mark.parametrize("method", ["halving", "coordinate"])
def test_stopped_anywhere_it_goes_on(method, tmp_path):
    """With three rungs. No epoch is trained twice: `from` tells where each trial went on from."""
    space = axes(lr=np.linspace(0.1, 0.3, 9).tolist(), weight_decay=[0.0, 0.01, 0.1])
    plan = Plan(method, repeats=2, recipe=replace(SMALL, epochs=20), space=space)
    whole, lines = searched(plan, tmp_path / "whole", Here())
    assert {(line["from"], line["epochs"]) for line in lines} == (
        {(0, 1), (1, 4), (4, 20), (0, 20)} if method == "halving" else {(0, 20)})  # fmt: skip
    for limit in range(len(contents(tmp_path / "whole" / "search.jsonl"))):
        folder = tmp_path / str(limit)
        here = Here(limit=limit)
        try:
            searched(plan, folder, here)
        except KeyboardInterrupt:
            later = Here()
            (folder / "trials").mkdir(exist_ok=True)
            (folder / "trials" / f".{lines[0]['id']}-{lines[0]['epochs']}.npz.left.part").touch()  # as a kill may leave
            search, _ = searched(plan, folder, later, width=1)
        else:
            search, later = searched(plan, folder, here)[0], Here()
        assert contents(folder / "search.jsonl") == contents(tmp_path / "whole" / "search.jsonl")
        assert search.standings == whole.standings
        assert not (folder / "trials").exists() or method == "coordinate"


# --- the workers ------------------------------------------------------------------------------------------------------


def total(a, b):
    return type(a).__name__, float(a.sum() + b.sum()), os.environ.get("OPENBLAS_NUM_THREADS"), os.getpid()


def die_the_first_time(marker):
    if not marker.exists():
        marker.write_text("")
        os._exit(1)
    return "alive"


def die():
    os._exit(1)


def die_in_the_middle_of_the_answer(marker):
    if not marker.exists():
        marker.write_text("")
        (pipe,) = (thing for thing in gc.get_objects() if isinstance(thing, Connection) and thing.writable)
        os.write(pipe.fileno(), struct.pack("!i", 1000) + b"half of 1000 bytes")
        os._exit(1)
    return "alive"


def test_local_workers_share_arrays_and_compute_on_one_thread(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    arrays = [np.arange(6, dtype=np.uint8), np.ones(3)]
    with workers.local(2, arrays, tmp_path / "shared") as (submit, width):
        results = [submit(total).result(60) for _ in range(4)]
        assert width == 2 and {result[:3] for result in results} == {("memmap", 18.0, "1")}
        assert os.getpid() not in {result[3] for result in results}
    assert not list((tmp_path / "shared").iterdir()) and "OPENBLAS_NUM_THREADS" not in os.environ
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_replaced(tmp_path):
    with workers.local(1, [], tmp_path / "shared") as (submit, _):
        assert submit(die_the_first_time, tmp_path / "marker").result(60) == "alive"
        assert submit(die_in_the_middle_of_the_answer, tmp_path / "marker 2").result(60) == "alive"
        deadly, other = submit(die), submit(os.getpid)
        with pytest.raises(RuntimeError, match="died 3 times"):
            deadly.result(60)
        assert other.result(60), "the tasks behind it are done all the same"


# --- hp_search.py -----------------------------------------------------------------------------------------------------

TINY = ["--hidden", 8, "--lr", 0.05, 0.2, "--weight-decay", 0, 0.01, "--batch-size", 50, "--validation", 100]
TINY += ["--trials", 0, "--repeats", 2, "--epochs", 5]


@pytest.fixture
def hp_search(run, archive):
    return lambda *more: run("hp_search", "--dataset", archive, *TINY, *more)


def test_hp_search_finds_trains_and_saves(hp_search, run, tmp_path, archive):
    code, out, err = hp_search("--workers", 1)
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert re.fullmatch(
        r"best of 4 trials: validation accuracy 0\.\d{4} \+- 0\.\d{4} \(tiny\), then trained on 600 images -> "
        r"models/best-tiny.npz, models/best-tiny/recipe.toml", lines[-1]
    )  # fmt: skip
    table = [line.removesuffix("  <- best so far") for line in lines[1 : 2 + 4 + 1 + 1]]
    assert len({len(line) for line in table}) == 1, "the table is aligned"
    folder = tmp_path / "models" / "best-tiny"
    pictures = {
        "curves",
        "weights",
        "pca",
        "histograms",
        *(f"search_{p}" for p in ("pairs", "values", "rungs", "times")),
    }
    assert {p.name for p in folder.iterdir()} == {
        "recipe.toml", "search.jsonl", "history.csv", *(f"{picture}.png" for picture in pictures)}  # fmt: skip
    # the recipe makes the model
    assert run("train", "--config", folder / "recipe.toml", "--out", "again.npz")[0] == 0
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "models" / "best-tiny.npz").read_bytes()
    about = Network.load(tmp_path / "again.npz").about
    assert about["recipe"]["validation"] == 0 and "validation_accuracy" not in about
    # once more: everything is there already
    before = {path: path.stat().st_mtime_ns for path in (folder / "search.jsonl", tmp_path / "models/best-tiny.npz")}
    code, again, _ = hp_search("--workers", 1)
    assert code == 0 and again.splitlines()[-1] == lines[-1]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # another search: not here
    for more in ["--seed", 1], ["--method", "grid"], ["--lr", 0.05, 0.3], ["--repeats", 1]:
        code, _, err = hp_search(*more)
        assert code == 1 and err.count("\n") == 1 and "give another --out" in err
    assert before[folder / "search.jsonl"] == (folder / "search.jsonl").stat().st_mtime_ns


def test_the_report_says_how_long_the_best_of_each_value_was_trained(hp_search, tmp_path, monkeypatch):
    import plots

    shown, original = [], plots.times
    monkeypatch.setattr(plots, "times", lambda seconds, *more: shown.extend(seconds) or original(seconds, *more))
    code, out, _ = hp_search("--workers", 1, "--hidden", 4, 8, "--lr", 0.01, 0.05, 0.2, "--weight-decay", 0, 0.1, 5)
    lines, folder = out.splitlines(), tmp_path / "models" / "best-tiny"
    results = [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()[1:]]
    at = next(i for i, line in enumerate(lines) if line.startswith("lr "))
    rows = [line.split() for line in lines[at : at + 3]]
    assert code == 0 and rows[0][1:] == ["0.01", "0.05", "0.2"] and rows[2][:2] == ["after", "epochs"]
    best_is_last = []
    for lr, accuracy, epochs in zip(rows[0][1:], rows[1][2:], rows[2][2:], strict=True):
        tried = [line for line in results if line["settings"]["lr"] == float(lr) and line["seed"] == 0]
        best = max(tried, key=lambda line: (max(line["validation_accuracy"]), line["epochs"]))
        assert (accuracy, epochs) == (f"{max(best['validation_accuracy']):.4f}", f"{best['epochs']}")
        best_is_last.append(best is tried[-1])
    assert not all(best_is_last), "or else this could not fail"
    first_seed = sum(line["seconds"] for line in results if line["seed"] == 0)
    assert sum(shown) == pytest.approx(first_seed), "in the picture a trial's rungs are taken together"


@pytest.mark.parametrize("method", ["grid", "random", "coordinate"])
def test_other_methods(hp_search, method):
    code, out, err = hp_search("--workers", 1, "--method", method, "--trials", 2, "--lr", 0.01, 0.05, 0.2)
    assert code == 0 and err == "" and out.splitlines()[-1].startswith("best of ")
    assert "best accuracy" in out and "after epochs" not in out, "all were trained alike"


@pytest.mark.parametrize(
    "arguments, code, word",
    [
        (["--lr", "fast"], 2, "lr must be a number above 0"),
        (["--lr", "-1", "1"], 2, "lr must be a number above 0"),
        (["--method", "best"], 2, "--method"),
        (["--workers", "0"], 2, "--workers"),
        (["--lr", "0.1", "--weight-decay", "0"], 2, "nothing to search"),
        (["--method", "random"], 2, "set trials"),
        (["--validation", "0"], 2, "validation"),
        (["--config", "nowhere.toml"], 2, "nowhere.toml"),
        (["--config", str(ROOT / "configs/two_layer.toml")], 2, "unknown key 'hidden'"),
        (["--lr", "1e9", "1e8"], 1, "not one trial"),
    ],
)
def test_hp_search_refuses_in_one_line(hp_search, arguments, code, word, tmp_path):
    result, _, err = hp_search("--workers", 1, *arguments)
    assert result == code and err.count("\n") == 1 and word in err
    assert not list(tmp_path.glob("models/*.npz"))


def command(*arguments, folder):
    """hp_search.py as a process, in a group of its own as a shell would start it."""
    return subprocess.Popen(
        [sys.executable, ROOT / "hp_search.py", *map(str, [*TINY, *arguments])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
    )  # fmt: skip


def group(process):
    """The living processes of its group: itself and its workers."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(process.pid) and "Z" not in line.split()[1]]


def alone(process, seconds=10):
    """Wait until the process and its workers are gone."""
    end = time.monotonic() + seconds
    while group(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not group(process)


def rows_seen(process, wanted):
    rows = (line for line in process.stdout if re.match(r" +\d+  ", line))
    for _ in range(wanted):
        next(rows)


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_leaves_no_orphans(archive, hp_search, tmp_path, whole_group):
    process = command("--dataset", archive, "--workers", 2, "--lr", *np.linspace(0.01, 0.1, 500), folder=tmp_path)
    rows_seen(process, 1)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130 and err.count("\n") == 1 and "same command" in err
    assert alone(process), "the workers are gone"
    assert not list((tmp_path / "models/best-tiny").glob(".digits*"))


def test_killed_at_any_moment_it_ends_the_same(archive, hp_search, tmp_path):
    assert hp_search("--workers", 2, "--out", "whole")[0] == 0
    for moment in 1, 3, 5, 6:
        process = command("--dataset", archive, "--workers", 2, "--out", "m", folder=tmp_path)
        rows_seen(process, moment)
        process.kill()
        process.wait()
        process.stdout.close(), process.stderr.close()
        assert alone(process), "workers do not outlive a killed search"
    assert hp_search("--workers", 1, "--out", "m")[0] == 0
    assert contents(tmp_path / "m/search.jsonl") == contents(tmp_path / "whole/search.jsonl")
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert {p.name for p in (tmp_path / "m").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_without_dask_a_line_says_what_to_install(hp_search, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = hp_search("--scheduler", "tcp://127.0.0.1:8786")
    assert code == 1 and err.count("\n") == 1 and "pip install distributed" in err


@pytest.fixture
def dask(tmp_path):
    """A real cluster: the commands of the README, on ports of their own. Yields its address."""
    pytest.importorskip("distributed", reason="Dask is optional")
    started = []

    def start(*arguments, folder):
        program = Path(sys.executable).with_name("dask")
        process = subprocess.Popen(
            [program, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", folder=tmp_path)
    address = next(found for line in scheduler.stderr if (found := re.search(r"tcp://[\d.:]+", line)))[0]
    try:
        yield address, lambda folder: start("worker", address, "--nthreads", "1", "--no-dashboard", folder=folder)
    finally:
        for process in reversed(started):
            process.terminate()
            process.communicate(timeout=30)


def test_a_dask_cluster_finds_the_same(dask, archive, hp_search, tmp_path):
    address, start_worker = dask
    for _ in range(2):
        start_worker(ROOT)
    process = command("--dataset", archive, "--scheduler", address, "--out", "m", folder=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert hp_search("--workers", 2, "--out", "whole")[0] == 0
    assert contents(tmp_path / "m/search.jsonl") == contents(tmp_path / "whole/search.jsonl")
    assert (tmp_path / "m/recipe.toml").read_text() == (tmp_path / "whole/recipe.toml").read_text()
