"""The config of a search: its file, and the trials that follow from it."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from app.config import Config, ConfigError
from search.config import SearchConfig

from .conftest import ROOT
from .search_helpers import dimensions

SEARCH = ROOT / "configs" / "search.toml"


def settings(config):
    return [json.dumps(candidate.settings()) for candidate in config.candidates()]


def test_the_shipped_configs():
    grid = SearchConfig.read(ROOT / "configs" / "grid.toml", {}, {})
    assert len(set(settings(grid))) == 100 and grid.recipe.epochs == 10
    assert len(set(settings(SearchConfig.read(SEARCH, {}, {})))) >= 50
    elastic = SearchConfig.read(ROOT / "configs" / "search_elastic.toml", {}, {})
    assert len(set(settings(elastic))) == 24 and elastic.recipe.augment


def test_the_grid_is_taken_whole_and_a_list_is_sampled_without_repetition():
    config = SearchConfig(trials=5, space=dimensions(lr=[0.1, 0.2, 0.3], hidden=[1, 2]))
    assert len(set(settings(config))) == 5 and settings(config) == settings(config)
    for whole in replace(config, trials=0), replace(config, trials=99), replace(config, method="grid"):
        assert len(set(settings(whole))) == 6
    other = replace(config, recipe=Config(seed=1))
    assert [c.lr for c in other.candidates()] != [c.lr for c in config.candidates()]


def test_a_range_is_sampled_or_its_grid_taken():
    config = SearchConfig(trials=7, space=dimensions(lr={"low": 0.01, "high": 0.1, "steps": 3}, hidden=[1, 2]))
    assert len(config.candidates()) == len(set(settings(config))) == 7 and settings(config) == settings(config)
    assert {c.lr for c in replace(config, trials=0).candidates()} == {0.01, 0.0316, 0.1}
    assert len(replace(config, method="grid").candidates()) == 6


def test_the_order_of_the_space_is_always_the_same():
    """And so are the trials sampled from it, however the flags or the keys of the file are ordered."""
    given = {"lr": [0.1, 0.2], "hidden": [1, 2], "init": ["he", "xavier"]}
    for names in itertools.permutations(given):
        config = SearchConfig.read(SEARCH, {}, {name: given[name] for name in names})
        assert list(config.space) == ["hidden", "init", "lr", "weight_decay"]


def test_flags_override_the_file():
    config = SearchConfig.read(SEARCH, {"trials": 9, "epochs": 3}, {"lr": [0.1]})
    assert (config.trials, config.recipe.epochs, config.recipe.lr) == (9, 3, 0.1) and "lr" not in config.space


@pytest.mark.parametrize(
    "space, word",
    [
        ({"layers": ["batchnrom", "relu"]}, "no layer is called 'batchnrom'"),
        ({"rotate": [5, 10]}, "rotate has no effect without augment"),
        ({"rotate": [5]}, "rotate has no effect without augment"),
        ({"epochs": [1, 2]}, "epochs cannot be searched"),
        ({"layers": ["dense 8, relu", "dense 4, relu"], "hidden": [8]}, "hidden has no effect with layers"),
        ({"hidden": {"low": -math.inf, "high": 5, "scale": "linear"}}, "a range needs"),
    ],
)
def test_an_invalid_space_is_refused(space, word):
    with pytest.raises(ConfigError, match=word):
        SearchConfig.read(SEARCH, {}, space)


def test_layers_replace_the_files_hidden():
    config = SearchConfig.read(SEARCH, {}, {"layers": ["dense 8, relu", "dense 4, relu"]})
    assert "layers" in config.space and "hidden" not in config.space


def test_samples_of_ranges_need_no_grid(monkeypatch):
    monkeypatch.setattr(itertools, "product", None)  # of many ranges it would not fit into memory
    assert len(SearchConfig(trials=3, space=dimensions(lr={"low": 0.01, "high": 0.1})).candidates()) == 3


@pytest.mark.parametrize("method", ["grid", "coordinate"])
def test_trials_without_effect_are_refused(method):
    with pytest.raises(ConfigError, match=f"trials has no effect with method = {method}"):
        SearchConfig.read(SEARCH, {"method": method, "trials": 5}, {})
    assert SearchConfig.read(SEARCH, {"method": method}, {}).method == method  # those of the file count for others


def test_trials_in_a_file_without_effect_are_refused(tmp_path):
    (tmp_path / "grid.toml").write_text('method = "grid"\ntrials = 2')
    with pytest.raises(ConfigError, match="trials has no effect with method = grid"):
        SearchConfig.read(tmp_path / "grid.toml", {}, {"hidden": [4, 8]})


def test_layers_that_a_batch_size_of_the_space_does_not_allow():
    space = {"layers": ["dense 8, relu", "dense 8, batchnorm, relu"], "batch_size": [32, 1]}
    with pytest.raises(ConfigError, match="batch-size must be above 1"):
        SearchConfig.read(SEARCH, {}, space)
    assert SearchConfig.read(SEARCH, {}, space | {"batch_size": [32, 2]}).space["batch_size"].values == [32, 2]


@pytest.mark.parametrize(
    "text, word",
    [
        ("base = 1", "unknown key 'base'"),
        ("recipe = 1", r"a table, \[recipe\]"),
        ("[recipe]\nrotate = 9", "rotate has no effect"),
        ("[recipe]\nrepeat = 4", "repeat is not for searches: set repeats"),
        ("[recipe]\nteacher = 'm.npz'", "teacher is not for searches: remove it"),
        ("[recipe]\nlr = 0.5\n[space]\nlr = [0.1, 0.2]", r"lr is in \[recipe\] and in \[space\]"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, text, word):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=word):
        SearchConfig.read(tmp_path / "bad.toml", {}, {"lr": [0.1, 0.2]})
