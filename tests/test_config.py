"""app/config.py: the settings of a run, in files and on the command line."""

import inspect
from dataclasses import asdict

import pytest

from app.config import Config, ConfigError
from network import Network


def test_what_is_idle_is_not_in_the_model(tmp_path):
    """So that a recipe that leaves it out is of the same run."""
    shallow, deep = Config(layers="dense 8, relu"), Config(layers="dense 8, relu", hidden=[64], rotate=9, smooth=5)
    assert shallow.settings() == deep.settings() and shallow.to_toml() == deep.to_toml()
    assert Config(augment=True, rotate=9).settings()["rotate"] == 9 and Config(hidden=[64]).settings()["hidden"] == [64]


def test_recipes_are_written_as_they_are_read(tmp_path):
    recipe = Config(hidden=[], lr=0.3, validation=0.2, nesterov=True, dataset='a "b"\\c')
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    assert Config.read(tmp_path / "r.toml", {}) == recipe


def test_every_strength_of_a_recipe_reaches_the_distortion():
    strengths = {"rotate": 1, "scale": 0.2, "shear": 0.3, "shift": 4, "elastic": 5, "smooth": 6, "anneal": 0.7}
    assert asdict(Config(augment=True, **strengths).distortion()) == strengths
    assert Config(**strengths).distortion() is None


def test_the_defaults_are_those_of_fit():
    defaults = {name: spec.default for name, spec in inspect.signature(Network.fit).parameters.items()}
    for name, value in Config().fit_settings().items():
        assert defaults[name] == value, name


def test_the_flag_for_mse_lowers_a_learning_rate_that_nobody_named_for_it(tmp_path):
    path, mse = tmp_path / "a.toml", {"loss": "mse"}
    path.write_text("lr = 0.05")
    assert Config.read(path, {}).lr == 0.05 and Config.read(path, mse).lr == 0.005
    assert Config.read(path, mse | {"lr": 0.3}).lr == 0.3
    path.write_text('lr = 0.05\nloss = "mse"')
    assert Config.read(path, {}).lr == Config.read(path, mse).lr == 0.05


def test_batch_norm_of_single_values_is_refused():
    """Their mean is themselves: what is left is 0, and no layer before would be trained. Images have more values."""
    with pytest.raises(ConfigError, match="batch-size must be above 1 for batchnorm of dense layers"):
        Config(layers="conv 2 5, batchnorm, dense 8, batchnorm, relu", batch_size=1)
    Config(layers="conv 2 5, batchnorm, dense 8, relu", batch_size=1)


def test_settings_that_older_files_do_not_have_are_left_out_where_they_have_no_effect():
    """So that a model, a checkpoint or a search from before a setting is one with the same settings."""
    assert not {"processes", "teacher"} & Config().settings().keys()
    settings = Config(processes=2).settings() | Config(teacher="m.npz").settings()
    assert settings["processes"] == 2 and settings["teacher"] == "m.npz"
