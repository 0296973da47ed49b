"""The configuration of a search: its keys are the flags of hp_search.py and the keys in configs/search.toml."""

import itertools
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from app.config import (
    AT_LEAST_1,
    INTEGER_AT_LEAST_0,
    Config,
    ConfigError,
    choice,
    fields_from_keys,
    option_name,
    read_toml,
    setting,
    validate_config,
)
from network import SEARCH, spawn_rng
from search.space import FIXED, NOT_IN_SEARCH, Dimension

FORMAT = 3  # of the results file; in format 1 a trial continued from one rung to the next, in 2 lines had no checksum
FINALISTS = 5  # trials that are repeated with other seeds


@dataclass
class SearchConfig:
    """All settings that affect the result of a search."""

    method: str = setting("halving", choice(["halving", "grid", "random", "coordinate"]), "how the space is searched")
    trials: int = setting(0, INTEGER_AT_LEAST_0, "number of random trials (halving, random); 0 with halving: the grid")
    repeats: int = setting(1, AT_LEAST_1, f"seeds for each of the {FINALISTS} best trials; the best mean wins")
    recipe: Config = field(default_factory=Config)  # the settings that all trials have in common
    space: dict[str, Dimension] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validate_config(self)
        if not self.space:
            raise ConfigError("nothing to search: give several values for a setting, such as --lr 0.01 0.1")
        if self.method == "random" and not self.trials:
            raise ConfigError("the random search needs a number of trials: set trials")
        if not self.recipe.validation:
            raise ConfigError("a search needs validation images: set validation above 0")
        smallest = {"batch_size": min(self.space["batch_size"].values)} if "batch_size" in self.space else {}
        for dimension in self.space.values():
            for value in dimension.values:  # an invalid one must raise ConfigError now, not during the search
                replace(self.recipe, **smallest | {dimension.name: value}).reject_ignored(self.space)

    @classmethod
    def read(cls, path: Path, overrides: dict[str, Any], dimensions: dict[str, list | dict]) -> "SearchConfig":
        """The config in a TOML file with the tables [recipe] and [space], with some settings overridden. ConfigError.

        overrides: settings of the search and of all trials. dimensions: in the form that `Dimension.read` takes; one
        with a single value becomes a setting of all trials.
        """
        content = read_toml(path)
        if single := [key for key in content if key in map(option_name, asdict(Config()))]:
            raise ConfigError(f"{path}: {single[0]} is a setting of a training: put it under [recipe], or use train.py")
        search = fields_from_keys(cls, {"recipe": {}, "space": {}} | content, path)
        tables = {name: search.pop(name) for name in ("recipe", "space")}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: {name} must be a table, [{name}]")
        recipe, space = (fields_from_keys(Config, table, path) for table in tables.values())
        for name, remedy in NOT_IN_SEARCH.items():
            if name in recipe:
                raise ConfigError(f"{path}: {name} is not for searches: {remedy}")
        for name in recipe.keys() & space.keys():
            raise ConfigError(f"{path}: {option_name(name)} is in [recipe] and in [space]: remove one of them")
        if "augment" not in space:
            Config(**recipe).reject_ignored(recipe)
        if "layers" in dimensions:  # they replace the file's
            space = {name: values for name, values in space.items() if name not in ("hidden", "activation")}
        names = {spec.name for spec in fields(cls)}
        search |= {name: value for name, value in overrides.items() if name in names}
        recipe |= {name: value for name, value in overrides.items() if name not in names}
        space |= dimensions
        for name in FIXED & space.keys():
            raise ConfigError(f"{option_name(name)} cannot be searched")
        # in the order of Config's fields: the trials must not depend on the order of keys or flags
        read = {spec.name: Dimension.read(spec.name, space[spec.name]) for spec in fields(Config) if spec.name in space}
        recipe |= {name: dimension.values[0] for name, dimension in read.items() if len(dimension.values) == 1}
        space = {name: dimension for name, dimension in read.items() if len(dimension.values) > 1}
        result = cls(**search, recipe=Config(**recipe), space=space)
        # if some of the layers to try are "", hidden has an effect in these trials
        layers = min(space["layers"].values) if "layers" in space else result.recipe.layers
        replace(result.recipe, layers=layers).reject_ignored([*overrides, *dimensions])
        given = overrides if "method" in overrides else search  # the trials in a file are for its own method
        if given.get("trials") and result.method in ("grid", "coordinate"):
            raise ConfigError(f"trials has no effect with method = {result.method}: remove it")
        return result

    def description(self, fingerprint: str) -> dict:
        """The search as a JSON object, for the first line of the results file; fingerprint: of the data."""
        return {"format": FORMAT} | asdict(self) | {"recipe": self.recipe.settings(), "data": fingerprint}

    def candidates(self) -> list[Config]:
        """The configs of the trials: `trials` samples, or the whole grid. Lists are sampled without repetition."""
        sampled, rng = self.method != "grid" and self.trials, spawn_rng(self.recipe.seed, SEARCH)
        if sampled and any(dimension.low is not None for dimension in self.space.values()):
            chosen = [{name: d.sample(rng) for name, d in self.space.items()} for _ in range(self.trials)]
        else:
            values = itertools.product(*(dimension.values for dimension in self.space.values()))
            chosen = [dict(zip(self.space, combination, strict=True)) for combination in values]
            if sampled:
                chosen = [chosen[i] for i in rng.permutation(len(chosen))[: self.trials]]
        return [replace(self.recipe, **settings) for settings in chosen]
