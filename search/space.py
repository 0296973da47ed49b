"""The search space: a dimension is one hyper-parameter with the values to try."""

import json
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from app.config import Config, ConfigError, option_name, validate_field

RANGE_KEYS = ("low", "high", "scale", "steps")
SETTINGS = {spec.name: spec for spec in fields(Config)}  # the fields of a config by name
NOT_IN_SEARCH = {"repeat": "set repeats, outside of [recipe]", "processes": "remove it", "teacher": "remove it"}
FIXED = {*"epochs validation unseen_writers seed dataset data_dir out".split(), *NOT_IN_SEARCH}  # cannot be searched


@dataclass
class Dimension:
    """A hyper-parameter with a list of values, or with a range: any of its values can be sampled, its grid has few."""

    name: str
    values: list  # the list, or the grid of the range
    low: float | None = None  # None: a list
    high: float | None = None
    scale: str = "log"

    @classmethod
    def read(cls, name: str, values: Any) -> "Dimension":
        """A dimension in a file: [0.01, 0.1] or {low = 0.01, high = 0.1, scale = "log", steps = 5}. ConfigError."""
        if isinstance(values, dict):
            return cls._read_range(name, values)
        if not isinstance(values, list) or not values:
            given = json.dumps(values, default=str)
            raise ConfigError(f"{option_name(name)}: the space takes a list of values or a range, not {given}")
        result = cls(name, [_validate(name, value) for value in values])
        if any(result.values.count(value) > 1 for value in result.values):
            raise ConfigError(f"{option_name(name)}: a value is given twice")
        return result

    @classmethod
    def _read_range(cls, name: str, keys: dict) -> "Dimension":
        low, high, scale, steps = map({"scale": "log", "steps": 5, **keys}.get, RANGE_KEYS)
        numbers = all(type(x) in (int, float) for x in (low, high))
        if not (set(keys) <= set(RANGE_KEYS) and numbers and scale in ("log", "linear") and type(steps) is int):
            form = '{low = 0.01, high = 0.1, scale = "log" or "linear"}'
            raise ConfigError(f"{option_name(name)}: a range is {form}")
        if not ((low > 0 or scale == "linear") and -1e300 < low < high < 1e300 and steps > 1):
            rule = "low < high, steps above 1, and low above 0 unless it is linear (0..1:linear on the command line)"
            raise ConfigError(f"{option_name(name)}: a range needs {rule}")
        result = cls(name, [], low, high, scale)
        result.value_at(1.0)  # first: if it is not valid, the message names the number that the user gave
        points = [result.value_at(step / (steps - 1)) for step in range(steps)]
        result.values = [point for i, point in enumerate(points) if point not in points[:i]]
        return result

    @classmethod
    def parse(cls, name: str, words: list[str]) -> list | dict:
        """A dimension on the command line, in the form of a file: 0.01 0.1, 64 256,128 or 0.01..0.1. ConfigError."""
        spec = SETTINGS[name]
        converters = {
            bool: {"true": True, "false": False}.__getitem__,
            list[int]: lambda word: [int(part) for part in word.split(",")],
        }
        convert = converters.get(spec.type, spec.type)
        number = float if spec.type is float else int
        try:
            if len(words) == 1 and ".." in words[0]:
                ends, _, scale = words[0].partition(":")
                low, high = map(number, ends.split(".."))
                return {"low": low, "high": high, "scale": scale or "log"}
            return [convert(word) for word in words]
        except (ValueError, KeyError):
            raise ConfigError(f"{option_name(name)} must {spec.metadata['rule'].text}, not {' '.join(words)}") from None

    def value_at(self, fraction: float) -> Any:
        """The value at a fraction (0 to 1) of the range: an integer, or a number with three digits."""
        if self.scale == "log":
            x = self.low * (self.high / self.low) ** fraction
        else:
            x = self.low + (self.high - self.low) * fraction
        x = float(f"{x:.3g}") if SETTINGS[self.name].type is float else round(x)
        return _validate(self.name, min(max(x, self.low), self.high))

    def sample(self, rng: np.random.Generator) -> Any:
        """A random value."""
        return self.values[rng.integers(len(self.values))] if self.low is None else self.value_at(rng.random())

    @property
    def bin_labels(self) -> list[str]:
        """Names of the bins: the values of a list; the middles of as many equal parts of a range as its grid has."""
        if self.low is None:
            return [format_value(value) for value in self.values]
        bins = len(self.values)
        middles = [self.value_at((i + 0.5) / bins) for i in range(bins)]
        for digits in range(2, 7):  # as few as tell them apart
            labels = [format_value(middle, digits) for middle in middles]
            if len(set(labels)) == len(set(map(str, middles))):
                break
        return labels

    def bin_of(self, value: Any) -> int:
        """The index of the bin that a value belongs to."""
        if self.low is None:
            return self.values.index(value)
        x = value[0] if isinstance(value, list) else value
        if self.scale == "log":
            fraction = math.log(x / self.low) / math.log(self.high / self.low)
        else:
            fraction = (x - self.low) / (self.high - self.low)
        return min(max(int(fraction * len(self.values)), 0), len(self.values) - 1)


def format_value(value: Any, digits: int = 6) -> str:
    """The text of a value: 0.05, 5.4e-4, 256-128."""
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    if value == "":  # of `layers`
        return "hidden"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _validate(name: str, value: Any) -> Any:
    spec = SETTINGS[name]
    if spec.type == list[int] and not isinstance(value, list):
        value = [value]  # hidden = [256, 512] are two networks with one hidden layer each
    return validate_field(spec, value)
