"""A recipe: every setting of one training run. Its keys are the flags of train.py and the keys in configs/*.toml."""

import argparse
import json
import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from architecture import connect, input_shape, mlp, parse
from data.augment import Distortion
from layers import ACTIVATIONS, INITS, LOSSES
from network import SCHEDULES, Network


class RecipeError(ValueError):
    """A setting that is unknown or out of range; the message names it and what it may be."""


class Rule(NamedTuple):
    """What a value must be, in words and as a test; and the words to choose from, if it is one of a few."""

    text: str
    holds: Callable[[Any], bool] = lambda value: True
    words: tuple[str, ...] = ()


def one_of(table: Iterable[str]) -> Rule:
    """The value must be a key of a table."""
    words = tuple(table)
    return Rule(f"be one of {', '.join(words)}", words.__contains__, words)


def up_to(most: int, least: int = 0) -> Rule:
    """The value must lie between these two."""
    return Rule(f"lie in [{least}, {most}]", lambda x: least <= x <= most)


AT_LEAST_1 = Rule("be a whole number from 1 to 1,000,000,000", lambda n: 1 <= n <= 10**9)
AT_LEAST_0 = Rule("be a number of at least 0", lambda x: 0 <= x < math.inf)
ABOVE_0 = Rule("be a number above 0", lambda x: 0 < x < math.inf)
SHARE = Rule("lie in [0, 1)", lambda x: 0 <= x < 1)
SIZES = Rule("hold whole numbers from 1 to a million", lambda sizes: all(1 <= size <= 10**6 for size in sizes))
PART = Rule(
    "be a whole number of images or a share in [0, 1)", lambda x: 0 <= x < 1 or (1 <= x < math.inf and x == int(x))
)
YES_OR_NO = Rule("be true or false")
SOURCE = Rule("be auto, mnist, synthetic or a path that can be printed", lambda text: text and text.isprintable())
TEXT = Rule("be a text")
STRENGTHS = [spec.name for spec in fields(Distortion)]  # settings of a recipe by the same names
MODEL = Rule("name a file", lambda text: text == "" or Path(text).name.removesuffix(".npz").strip(".") != "")


def setting(default: Any, rule: Rule, text: str) -> Any:
    """A field of the recipe: its default, the rule it must keep, and what it is for."""
    about = {"rule": rule, "text": text}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=about)
    return field(default=default, metadata=about)


@dataclass
class Recipe:
    """Every setting of one training run. The order is that of the command line's help."""

    hidden: list[int] = setting([512], SIZES, "units of each hidden layer; none: softmax regression")
    activation: str = setting("relu", one_of(ACTIVATIONS), "after each hidden layer")
    layers: str = setting("", TEXT, "other layers instead, like 'conv 16 5, pool 2, relu, dense 128, batchnorm, relu'")
    init: str = setting("he", one_of(INITS), "distribution of the first weights")
    loss: str = setting("cross_entropy", one_of(LOSSES), "what is minimised")
    epochs: int = setting(20, AT_LEAST_1, "passes over the training images")
    batch_size: int = setting(128, AT_LEAST_1, "images a step")
    lr: float = setting(0.1, ABOVE_0, "learning rate at the start")
    schedule: str = setting("cosine", one_of(SCHEDULES), "how the learning rate falls")
    momentum: float = setting(0.9, SHARE, "share of a step that goes into the next one")
    nesterov: bool = setting(False, YES_OR_NO, "look ahead along the momentum")
    weight_decay: float = setting(5e-4, AT_LEAST_0, "L2 on the weights")
    validation: float = setting(10_000, PART, "training images kept aside, a number or a share; 0: none")
    augment: bool = setting(False, YES_OR_NO, "train on variants of the images, new ones for every epoch")
    rotate: float = setting(14, up_to(180), "degrees, up to so many either way")
    scale: float = setting(0.15, up_to(1), "width and height by factors of up to exp(+-X)")
    shear: float = setting(0.24, up_to(1), "pixels sideways for each pixel up, at most")
    shift: float = setting(0.3, up_to(28), "pixels, at most")
    elastic: float = setting(0.8, up_to(28), "deviation of each pixel's smooth displacement, in pixels")
    smooth: float = setting(4, up_to(28, least=1), "width of the Gaussian that smooths the displacement, in pixels")
    anneal: float = setting(
        1, up_to(1), "share of the strengths that is left at the end; they weaken in the second half"
    )
    standardize: bool = setting(True, YES_OR_NO, "measure mean and deviation of the greys; if not, grey / 255")
    seed: int = setting(0, AT_LEAST_0, "of everything random")
    dataset: str = setting("auto", SOURCE, "auto, mnist, synthetic, or the path of a file or folder of digits")

    # where and how often, which makes no difference to the model
    data_dir: str = setting("", TEXT, "folder with MNIST's files ($MNIST_DIR, else data/raw)")
    out: str = setting("", MODEL, "model file to write (models/NAME.npz, NAME from the recipe and the data)")
    repeat: int = setting(1, AT_LEAST_1, "train this many models, seed after seed")

    def __post_init__(self) -> None:
        check(self)
        if self.layers:
            try:
                stack = parse(self.layers, self.init)
                connect(stack, input_shape(stack))
            except ValueError as error:
                raise RecipeError(f"layers: {error}") from None
        if self.schedule == "plateau" and not self.validation:
            raise RecipeError("schedule = plateau needs a validation set: set validation above 0")

    @classmethod
    def read(cls, path: Path, changes: dict[str, Any]) -> "Recipe":
        """The recipe in a TOML file, with `changes` on top. RecipeError names the file or the key that is wrong."""
        values = named(cls, toml(path), path)
        try:
            cls(**values).refuse_idle(values)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from None
        result = cls(**values | changes)
        result.refuse_idle(changes)
        return result

    @property
    def idle(self) -> dict[str, str]:
        """The settings that do nothing because of another one, and what to do about it."""
        replaced = dict.fromkeys(("hidden", "activation"), "beside layers: leave one of them out")
        strengths = dict.fromkeys(STRENGTHS, "without augment: set that too")
        return (replaced if self.layers else {}) | ({} if self.augment else strengths)

    def refuse_idle(self, asked: Iterable[str]) -> None:
        """RecipeError for the first of the settings somebody asked for that does nothing."""
        for name in asked:
            if name in self.idle:
                raise RecipeError(f"{flag(name)} does nothing {self.idle[name]}")

    def settings(self) -> dict[str, Any]:
        """What makes a difference to the model. What makes none because it is idle has its default."""
        values = asdict(self) | {name: value for name, value in asdict(Recipe()).items() if name in self.idle}
        return {name: value for name, value in values.items() if name not in ("data_dir", "out", "repeat")}

    def to_toml(self) -> str:
        """The text of a file that `read` turns into the same settings again."""
        used = {name: value for name, value in self.settings().items() if name not in self.idle}
        return "".join(f"{flag(name)} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in used.items())

    @property
    def title(self) -> str:
        """The layers in a few words: 784-512-10."""
        return self.layers or "-".join(map(str, [784, *self.hidden, 10]))

    def network(self) -> Network:
        """The untrained network."""
        stack = parse(self.layers, self.init) if self.layers else mlp(self.hidden, self.activation, self.init)
        return Network(stack, loss=self.loss, seed=self.seed)

    def distortion(self) -> Distortion | None:
        """What makes the variants of the training images, if there are to be any."""
        if not self.augment:
            return None
        return Distortion(**{name: getattr(self, name) for name in STRENGTHS})

    def fit_settings(self) -> dict[str, Any]:
        """The settings that `Network.fit` takes."""
        names = "epochs batch_size lr schedule momentum nesterov weight_decay standardize seed".split()
        return {name: getattr(self, name) for name in names} | {"augment": self.distortion()}


def flag(name: str) -> str:
    """The key of a setting as it is written in files and, behind two dashes, on the command line."""
    return name.replace("_", "-")


def toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. RecipeError if there is none."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a TOML file: {error}") from None


def named(cls: type, values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values in a file, by the name of the field of `cls` that each is for. RecipeError for a key without field."""
    known = {flag(spec.name): spec.name for spec in fields(cls)}
    for key in values:
        if key not in known:
            raise RecipeError(f"{path}: unknown key {key!r}; the keys are {', '.join(known)}")
    return {known[key]: value for key, value in values.items()}


def check(settings: Any) -> None:
    """Check every setting of a recipe, or of another dataclass with such fields. RecipeError for the first bad one."""
    for spec in fields(settings):
        if "rule" in spec.metadata:
            setattr(settings, spec.name, checked(spec, getattr(settings, spec.name)))


def checked(spec: Field, value: Any) -> Any:
    """`value` if it is of the field's type and keeps its rule; a whole number may stand for any number. RecipeError."""
    kind, rule = spec.type, spec.metadata["rule"]
    if kind == list[int]:
        fits = isinstance(value, list) and all(type(item) is int for item in value)
    else:
        fits = type(value) is kind or (kind is float and type(value) is int and abs(value) < 1e300)
    if not fits or not rule.holds(value):
        raise RecipeError(f"{flag(spec.name)} must {rule.text}, not {json.dumps(value, default=str)}")
    return int(value) if kind is float and value == int(value) else value


def add_flags(parser: argparse.ArgumentParser, cls: type = Recipe, names: Iterable[str] | None = None) -> None:
    """One flag for every setting, or for those in `names`; only those that are given end up in the namespace.

    The help says in brackets what holds if neither the command line nor the recipe says anything.
    """
    for spec in fields(cls):
        if "rule" not in spec.metadata or (names is not None and spec.name not in names):
            continue
        rule, text = spec.metadata["rule"], spec.metadata["text"]
        default = spec.default_factory() if spec.default is MISSING else [spec.default]
        if default != [""]:
            text += f" [{' '.join(map(str, default)).lower()}]"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if spec.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif spec.type == list[int]:
            options |= {"type": int, "nargs": "*", "metavar": "N"}
        else:
            options |= {"type": spec.type, "metavar": {int: "N", float: "X", str: "WORD"}[spec.type]}
        if rule.words:
            options |= {"choices": rule.words, "help": f"{text}: {', '.join(rule.words)}"}
        parser.add_argument(f"--{flag(spec.name)}", **options)


def given(arguments: argparse.Namespace, *classes: type) -> dict[str, Any]:
    """The settings of a recipe, or of these classes, that were given as flags."""
    names = {spec.name for cls in classes or [Recipe] for spec in fields(cls)}
    return {name: value for name, value in vars(arguments).items() if name in names}
