"""What a search may try: the space, a few axes with their values, and the plan, which says how to go through it."""

import itertools
import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from network import SEARCH, random_stream
from recipe import AT_LEAST_0, AT_LEAST_1, Recipe, RecipeError, check, checked, flag, named, one_of, setting, toml

FINALISTS = 5  # trials that are repeated with other seeds
RANGE = ("low", "high", "scale", "steps")  # the keys of a range
FIXED = {"epochs", "validation", "seed", "dataset", "data_dir", "out", "repeat"}  # settings that cannot be searched


@dataclass
class Axis:
    """A hyper-parameter and its values: a list, or `steps` points of a range, from anywhere in which may be drawn."""

    name: str
    values: list
    low: float | None = None  # of a range
    high: float | None = None
    scale: str = "log"

    @classmethod
    def read(cls, name: str, values: Any) -> "Axis":
        """An axis as a file has it: [0.01, 0.1] or {low = 0.01, high = 0.1, scale = "log", steps = 5}. RecipeError."""
        if isinstance(values, dict):
            low, high, scale, steps = map({"scale": "log", "steps": 5, **values}.get, RANGE)
            numbers = all(type(x) in (int, float) for x in (low, high))
            if not (set(values) <= set(RANGE) and numbers and scale in ("log", "linear") and type(steps) is int):
                raise RecipeError(f'{flag(name)}: a range is {{low = 0.01, high = 0.1, scale = "log" or "linear"}}')
            if not ((low > 0 or scale == "linear") and low < high < 1e300 and steps > 1):
                raise RecipeError(
                    f"{flag(name)}: a range needs low < high, steps above 1, and low above 0 if it is log"
                )
            result = cls(name, [], low, high, scale)
            points = [result.at(step / (steps - 1)) for step in range(steps)]
            result.values = [point for i, point in enumerate(points) if point not in points[:i]]
            return result
        if not isinstance(values, list) or not values:
            raise RecipeError(
                f"{flag(name)}: the space takes a list of values or a range, not {json.dumps(values, default=str)}"
            )
        result = cls(name, [cls._value(name, value) for value in values])
        if any(result.values.count(value) > 1 for value in result.values):
            raise RecipeError(f"{flag(name)}: a value is given twice")
        return result

    @classmethod
    def parse(cls, name: str, words: list[str]) -> list | dict:
        """An axis as a command line has it, as a file would: 0.01 0.1, 64 256,128 or 0.01..0.1. RecipeError."""
        (spec,) = (spec for spec in fields(Recipe) if spec.name == name)
        kind = int if spec.type == list[int] else spec.type
        try:
            if len(words) == 1 and ".." in words[0]:
                ends, _, scale = words[0].partition(":")
                low, high = (float(end) if kind is float else int(end) for end in ends.split(".."))
                return {"low": low, "high": high, "scale": scale or "log"}
            if kind is bool:
                return [{"true": True, "false": False}[word] for word in words]
            if spec.type == list[int]:
                return [[int(part) for part in word.split(",")] for word in words]
            return [kind(word) for word in words]
        except (ValueError, KeyError):
            raise RecipeError(f"{flag(name)} must {spec.metadata['rule'].text}, not {' '.join(words)}") from None

    @staticmethod
    def _value(name: str, value: Any) -> Any:
        (spec,) = (spec for spec in fields(Recipe) if spec.name == name)
        if spec.type == list[int] and not isinstance(value, list):
            value = [value]  # hidden = [256, 512] are two networks with one hidden layer each
        return checked(spec, value)

    def at(self, share: float) -> Any:
        """The value at `share` of the way (0 to 1) from low to high, to three digits."""
        if self.scale == "log":
            x = self.low * (self.high / self.low) ** share
        else:
            x = self.low + (self.high - self.low) * share
        x = round(x) if self.name in ("hidden", "batch_size") else float(f"{x:.3g}")
        return self._value(self.name, min(max(x, self.low), self.high))

    def draw(self, rng: np.random.Generator) -> Any:
        """Any value of the axis."""
        return self.values[rng.integers(len(self.values))] if self.low is None else self.at(rng.random())

    @property
    def labels(self) -> list[str]:
        """The names of its places: its values; or the middles of as many equal parts of its range."""
        if self.low is None:
            return [show(value) for value in self.values]
        return [show(self.at((i + 0.5) / len(self.values)), digits=2) for i in range(len(self.values))]

    def place(self, value: Any) -> int:
        """At which of its places a value stands."""
        if self.low is None:
            return self.values.index(value)
        x = value[0] if isinstance(value, list) else value
        share = (x - self.low) / (self.high - self.low)
        if self.scale == "log":
            share = math.log(x / self.low) / math.log(self.high / self.low)
        return min(max(int(share * len(self.values)), 0), len(self.values) - 1)


def show(value: Any, digits: int = 6) -> str:
    """A value as people write it: 0.05, 5.4e-4, 256-128."""
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


@dataclass
class Plan:
    """Everything that decides what a search will find."""

    method: str = setting("halving", one_of(["halving", "grid", "random", "coordinate"]), "how the space is searched")
    trials: int = setting(0, AT_LEAST_0, "how many to draw, for halving and random; 0: all points of the grid")
    repeats: int = setting(1, AT_LEAST_1, f"seeds for each of the {FINALISTS} best; the best mean wins")
    recipe: Recipe = field(default_factory=Recipe)
    space: dict[str, Axis] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        if not self.space:
            raise RecipeError("nothing to search: give several values for a setting, say --lr 0.01 0.1")
        if self.method == "random" and not self.trials:
            raise RecipeError("the random search needs to know how many: set trials")
        if not self.recipe.validation:
            raise RecipeError("a search chooses on validation images: set validation above 0")
        for axis in self.space.values():
            for value in axis.values:
                # a RecipeError comes now rather than in the middle
                replace(self.recipe, **{axis.name: value}).refuse_idle(self.space)

    @classmethod
    def read(cls, path: Path, changes: dict[str, Any], axes: dict[str, list | dict]) -> "Plan":
        """The plan in a TOML file with the tables [recipe] and [space], with changes and axes on top. RecipeError.

        An axis of one value is a setting of the recipe.
        """
        values = toml(path)
        tables = {name: values.pop(name, {}) for name in ("recipe", "space")}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise RecipeError(f"{path}: {name} must be a table, [{name}]")
        base, space = (named(Recipe, table, path) for table in tables.values())
        mine = {spec.name for spec in fields(cls)}
        own = named(cls, values, path) | {name: value for name, value in changes.items() if name in mine}
        base |= {name: value for name, value in changes.items() if name not in mine}
        space |= axes
        for name in space:
            if name in FIXED:
                raise RecipeError(f"{flag(name)} cannot be searched")
        read = {name: Axis.read(name, given) for name, given in space.items()}
        base |= {name: axis.values[0] for name, axis in read.items() if len(axis.values) == 1}
        read = {spec.name: read[spec.name] for spec in fields(Recipe) if spec.name in read}  # always in the same order
        read = {name: axis for name, axis in read.items() if len(axis.values) > 1}
        result = cls(**own, recipe=Recipe(**base), space=read)
        result.recipe.refuse_idle([*changes, *axes])
        return result

    def description(self) -> dict:
        """All of it as JSON can hold it."""
        return {
            "method": self.method,
            "trials": self.trials,
            "repeats": self.repeats,
            "recipe": self.recipe.settings(),
            "space": {name: asdict(axis) for name, axis in self.space.items()},
        }

    def grid(self) -> list[Recipe]:
        """A recipe for each combination of values."""
        combinations = itertools.product(*(axis.values for axis in self.space.values()))
        return [replace(self.recipe, **dict(zip(self.space, values, strict=True))) for values in combinations]

    def drawn(self) -> list[Recipe]:
        """`trials` recipes drawn from the space; if 0 or more than there are, all of the grid."""
        rng = random_stream(self.recipe.seed, SEARCH)
        if not self.trials or all(axis.low is None for axis in self.space.values()):
            grid = self.grid()
            few = 0 < self.trials < len(grid)
            return [grid[i] for i in rng.permutation(len(grid))[: self.trials]] if few else grid
        draws = ({name: axis.draw(rng) for name, axis in self.space.items()} for _ in range(self.trials))
        return [replace(self.recipe, **draw) for draw in draws]
