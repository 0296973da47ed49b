"""The search space: lists and ranges, in files and on the command line."""

import numpy as np
import pytest

from app.config import ConfigError
from search.space import Dimension, format_value


def test_a_dimension_is_a_list_or_a_range():
    assert Dimension.read("hidden", [64, [256, 128]]).values == [[64], [256, 128]]
    momentum = Dimension.read("momentum", {"low": 0, "high": 0.9, "scale": "linear", "steps": 4})
    assert momentum.values == [0, 0.3, 0.6, 0.9]
    assert Dimension.read("hidden", {"low": 10, "high": 1000, "steps": 3}).values == [[10], [100], [1000]]
    assert Dimension.read("hidden", {"low": 1, "high": 3}).values == [[1], [2], [3]], "each once"
    assert Dimension.read("batch_size", {"low": 10, "high": 99, "steps": 3}).values == [10, 31, 99]
    ends = Dimension.read("momentum", {"low": 0.9, "high": 0.9996, "scale": "linear", "steps": 2})
    assert ends.values == [0.9, 0.9996]


def test_samples_and_bins_of_a_range_are_even_on_its_scale():
    lr = Dimension.read("lr", {"low": 0.001, "high": 0.1, "steps": 3})
    assert lr.values == [0.001, 0.01, 0.1] and lr.bin_labels == ["0.0022", "0.01", "0.046"]
    rng = np.random.default_rng(1)
    samples = [lr.sample(rng) for _ in range(600)]
    assert min(samples) >= 0.001 and max(samples) <= 0.1 and len(set(samples)) > 300
    assert np.bincount([lr.bin_of(x) for x in samples]).min() > 150
    assert [lr.bin_of(x) for x in lr.values] == [0, 1, 2]
    rotate = Dimension.read("rotate", {"low": 10, "high": 40, "steps": 3, "scale": "linear"})
    assert [rotate.bin_of(x) for x in (10, 19, 21, 29, 31, 40)] == [0, 0, 1, 1, 2, 2]


def test_bins_have_different_labels():
    momentum = Dimension.read("momentum", {"low": 0.99, "high": 0.999, "scale": "linear"})
    assert momentum.bin_labels == ["0.991", "0.993", "0.994", "0.996", "0.998"]


def test_samples_and_bins_of_a_list():
    hidden = Dimension.read("hidden", [64, [256, 128]])
    rng = np.random.default_rng(1)
    assert {hidden.bin_of(hidden.sample(rng)) for _ in range(50)} == {0, 1} and hidden.bin_labels == ["64", "256-128"]


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
        ("momentum", {"low": 0, "high": 1.5, "scale": "linear"}, r"not 1\.5$"),
        ("lr", {"low": 0.1}, "a range is"),
        ("lr", {"from": 0.1, "to": 1}, "a range is"),
        ("lr", {"low": 0.1, "high": 1, "scale": "square"}, "a range is"),
        ("hidden", ["a"], "integers"),
        ("activation", ["relu", "step"], "be one of"),
    ],
)
def test_an_invalid_dimension_is_refused(name, values, word):
    with pytest.raises(ConfigError, match=f"^{name}.*{word}"):
        Dimension.read(name, values)


def test_flags_give_the_same_as_files():
    assert Dimension.parse("lr", ["0.01", "1e-1", ".5"]) == [0.01, 0.1, 0.5]
    assert Dimension.parse("lr", ["0.01..0.1"]) == {"low": 0.01, "high": 0.1, "scale": "log"}
    assert Dimension.parse("momentum", ["0..0.9:linear"]) == {"low": 0, "high": 0.9, "scale": "linear"}
    assert Dimension.parse("hidden", ["64", "256,128"]) == [[64], [256, 128]]
    assert Dimension.parse("hidden", ["64..512"]) == {"low": 64, "high": 512, "scale": "log"}
    assert Dimension.parse("nesterov", ["true", "false"]) == [True, False]
    assert Dimension.parse("activation", ["relu", "tanh"]) == ["relu", "tanh"]
    assert Dimension.parse("layers", ["conv 4 5, relu", "relu"]) == ["conv 4 5, relu", "relu"]
    for words in ["fast"], ["0.1..fast"], ["0.1..0.2..0.3"], ["0.1,0.2"]:
        with pytest.raises(ConfigError, match="lr must"):
            Dimension.parse("lr", words)
    with pytest.raises(ConfigError, match="nesterov must"):
        Dimension.parse("nesterov", ["yes"])


def test_format_value():
    assert [format_value(x) for x in (0.05, 0.000541, 1e-5, 0.0, [256, 128], [], "relu", "", 20)] == [
        "0.05", "5.41e-4", "1e-5", "0", "256-128", "none", "relu", "hidden", "20"]  # fmt: skip
