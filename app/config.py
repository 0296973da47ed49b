"""The configuration of one training run. Its keys are the flags of train.py and the keys in configs/*.toml."""

import argparse
import difflib
import json
import math
import tomllib
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import data
import storage
from data.augment import Distortion
from network import SCHEDULES, SPLIT, Network, spawn_rng
from nn.architecture import connect, input_shape, mlp, parse
from nn.layers import ACTIVATIONS, INITIALIZERS, BatchNorm
from nn.losses import LOSSES


class ConfigError(ValueError):
    """A setting that is unknown or invalid; the message names it and the valid values."""

    exit_code = 2


class Rule(NamedTuple):
    """What a value must be, as text and as a test, and the choices if there are only a few."""

    text: str
    is_valid: Callable[[Any], bool] = lambda value: True
    choices: tuple[str, ...] = ()


def choice(names: Iterable[str]) -> Rule:
    """The value must be one of these names."""
    choices = tuple(names)
    return Rule(f"be one of {', '.join(choices)}", choices.__contains__, choices)


def in_range(low: int, high: int) -> Rule:
    """The value must lie in [low, high]."""
    return Rule(f"lie in [{low}, {high}]", lambda x: low <= x <= high)


AT_LEAST_1 = Rule("be an integer from 1 to 1,000,000,000", lambda n: 1 <= n <= 10**9)
AT_LEAST_0 = Rule("be a number of at least 0", lambda x: 0 <= x < math.inf)
INTEGER_AT_LEAST_0 = Rule("be an integer of at least 0", lambda n: n >= 0)
ABOVE_0 = Rule("be a number above 0", lambda x: 0 < x < math.inf)
FRACTION = Rule("lie in [0, 1)", lambda x: 0 <= x < 1)
SIZES = Rule("hold integers from 1 to 1,000,000", lambda sizes: all(1 <= size <= 10**6 for size in sizes))
COUNT_OR_FRACTION = Rule(
    "be a fraction in [0, 1), or an integer number of images above 1",
    lambda x: 0 <= x < 1 or (1 < x < math.inf and x == int(x)),
)
BOOL = Rule("be true or false")
DATASET = Rule("be auto, mnist, synthetic or a printable path", lambda text: text and text.isprintable())
STRING = Rule("be a string")
MAX_TOML = 10_000  # bytes of a config file, which has a few hundred: for 100,000 tomllib may need 20 GB
AUGMENTATION = [spec.name for spec in fields(Distortion)]  # the settings with these names are its parameters
MODEL_FILE = Rule(
    "name a file, such as models/NAME.npz",
    lambda text: "\0" not in text and (text == "" or text.rpartition("/")[2].removesuffix(".npz").strip(".") != ""),
)


def setting(default: Any, rule: Rule, text: str) -> Any:
    """A field of a config: its default, the rule for its values, and its help text."""
    return field(default_factory=lambda: copy(default), metadata={"rule": rule, "text": text})


@dataclass
class Config:
    """All settings of one training run, in the order of the command line's help."""

    hidden: list[int] = setting([512], SIZES, "units of each hidden layer; none: softmax regression")
    activation: str = setting("relu", choice(ACTIVATIONS), "after each hidden layer")
    layers: str = setting("", STRING, "layers instead of hidden, such as 'conv 16 5, pool 2, relu, dense 64, relu'")
    init: str = setting("he", choice(INITIALIZERS), "distribution of the initial weights")
    loss: str = setting("cross_entropy", choice(LOSSES), "loss function (train.py: mse without --lr divides lr by 10)")
    epochs: int = setting(20, AT_LEAST_1, "passes over the training images")
    batch_size: int = setting(128, AT_LEAST_1, "images in a training step")
    lr: float = setting(0.1, ABOVE_0, "learning rate at the start")
    schedule: str = setting("cosine", choice(SCHEDULES), "how the learning rate decreases")
    momentum: float = setting(0.9, FRACTION, "momentum of SGD")
    nesterov: bool = setting(False, BOOL, "use Nesterov momentum")
    weight_decay: float = setting(5e-4, AT_LEAST_0, "L2 on the weights")
    label_smoothing: float = setting(0.0, FRACTION, "target of the label: 1 - X + X / 10, of each other class: X / 10")
    teacher: str = setting("", STRING, "model file of a trained network, to learn from its outputs too: distillation")
    validation: float = setting(10_000, COUNT_OR_FRACTION, "training images for validation, a number or a fraction")
    unseen_writers: bool = setting(False, BOOL, "use the images of other writers for validation (MNIST only)")
    augment: bool = setting(False, BOOL, "train on augmented images, new ones each epoch")
    rotate: float = setting(14, in_range(0, 180), "rotation by up to +-X degrees")
    scale: float = setting(0.15, in_range(0, 1), "width and height times a random factor from exp(-X) to exp(X)")
    shear: float = setting(0.24, in_range(0, 1), "horizontal shear of up to +-X pixels per row")
    shift: float = setting(0.3, in_range(0, 28), "shift by up to +-X pixels")
    elastic: float = setting(0.8, in_range(0, 28), "std of the elastic displacement of each pixel, in pixels")
    smooth: float = setting(4, in_range(1, 28), "std of the Gaussian that smooths the displacement, in pixels")
    anneal: float = setting(1, in_range(0, 1), "factor of the augmentation at the end; it falls over the second half")
    standardize: bool = setting(True, BOOL, "standardize with the pixel mean and std; if not, use pixel / 255")
    seed: int = setting(0, INTEGER_AT_LEAST_0, "random seed")
    processes: int = setting(1, AT_LEAST_1, "divide each batch over this many processes: faster for convolutions")
    dataset: str = setting("auto", DATASET, "auto, mnist, synthetic, or the path of a file or folder of digits")

    # these do not affect the model
    data_dir: str = setting("", STRING, "folder with MNIST's files ($MNIST_DIR, else data/raw)")
    out: str = setting("", MODEL_FILE, "model file to write (models/NAME.npz, NAME from the config and the dataset)")
    repeat: int = setting(1, AT_LEAST_1, "train this many models, with consecutive seeds")

    def __post_init__(self) -> None:
        validate_config(self)
        if self.layers:
            try:
                stack = parse(self.layers, self.init)
                connect(stack, input_shape(stack))
            except ValueError as error:
                raise ConfigError(f"layers: {error}") from None
            norms = [layer for layer in stack if isinstance(layer, BatchNorm)]
            if self.batch_size == self.processes and any(layer.positions == 1 for layer in norms):
                text = "for batchnorm of dense layers: one value has no variance"
                raise ConfigError(f"batch-size must be above {self.processes} {text}")
        if self.batch_size % self.processes:
            raise ConfigError(f"batch-size must be a multiple of processes, not {self.batch_size} of {self.processes}")
        if self.teacher and (self.loss != "cross_entropy" or self.label_smoothing or self.processes > 1):
            raise ConfigError("a teacher needs loss = cross_entropy, label-smoothing = 0 and processes = 1")
        if self.schedule == "plateau" and not self.validation:
            raise ConfigError("schedule = plateau needs a validation set: set validation above 0")

    @classmethod
    def read(cls, path: Path, overrides: dict[str, Any]) -> "Config":
        """The config in a TOML file, with some settings overridden. ConfigError names the file or the key."""
        content = read_toml(path)
        if content.keys() & {"recipe", "space"}:
            raise ConfigError(f"{path} is the config of a search: give it to hp_search.py")
        values = fields_from_keys(cls, content, path)
        try:
            cls(**values).reject_ignored(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        result = cls(**values | overrides)
        if overrides.get("loss") == "mse" and values.get("loss") != "mse" and "lr" not in overrides:
            result.lr /= 10  # the gradient of MSE is larger: with the lr of cross-entropy, training diverges
        result.reject_ignored(overrides)
        return result

    @property
    def ignored(self) -> dict[str, str]:
        """The settings that have no effect because of another setting, with the reason and the remedy."""
        replaced = dict.fromkeys(("hidden", "activation"), "with layers: remove one of them, or set layers to ''")
        unused = {} if self.augment else dict.fromkeys(AUGMENTATION, "without augment: set it too")
        if not self.momentum:
            unused["nesterov"] = "without momentum: set momentum above 0"
        if not self.validation:
            unused["unseen_writers"] = "without validation images: set validation above 0"
        return (replaced if self.layers else {}) | unused

    def reject_ignored(self, names: Iterable[str]) -> None:
        """ConfigError if one of these settings has no effect."""
        for name in names:
            if name in self.ignored:
                raise ConfigError(f"{option_name(name)} has no effect {self.ignored[name]}")

    def settings(self) -> dict[str, Any]:
        """The settings that affect the model; the default for one that is ignored."""
        values = asdict(self) | {name: value for name, value in asdict(Config()).items() if name in self.ignored}
        left_out = {"data_dir", "out", "repeat"}
        defaults = {"processes": 1, "teacher": ""}  # left out, as in files from before these settings
        left_out |= {name for name, value in defaults.items() if getattr(self, name) == value}
        return {name: value for name, value in values.items() if name not in left_out}

    def to_toml(self) -> str:
        """The text of a TOML file from which `read` gets the same settings."""
        used = {name: value for name, value in self.settings().items() if name not in self.ignored}
        rows = (f"{option_name(name)} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in used.items())
        return "".join(rows)

    @property
    def title(self) -> str:
        """A short description of the layers: 784-512-10."""
        return self.layers or "-".join(map(str, [784, *self.hidden, 10]))

    def build_network(self) -> Network:
        """The untrained network."""
        stack = parse(self.layers, self.init) if self.layers else mlp(self.hidden, self.activation, self.init)
        return Network(stack, loss=self.loss, seed=self.seed)

    def split(self, images: np.ndarray, labels: np.ndarray, writers: np.ndarray | None) -> tuple[tuple, tuple | None]:
        """The training and the validation data, see `data.train_validation_split`."""
        rng = spawn_rng(self.seed, SPLIT)
        return data.train_validation_split(images, labels, self.validation, self.dataset, rng, writers)

    def distortion(self) -> Distortion | None:
        """The augmentation, if there is one."""
        if not self.augment:
            return None
        return Distortion(**{name: getattr(self, name) for name in AUGMENTATION})

    def fit_settings(self) -> dict[str, Any]:
        """The arguments for `Network.fit`; not the teacher, which is a path here and a network there."""
        names = "epochs batch_size lr schedule momentum nesterov weight_decay label_smoothing standardize seed".split()
        return {name: getattr(self, name) for name in [*names, "processes"]} | {"augment": self.distortion()}


def option_name(name: str) -> str:
    """The name of a setting in files and, after two dashes, on the command line."""
    return name.replace("_", "-")


def differing_keys(mine: dict, other: dict) -> str:
    """The names, as in a config file, of the keys with other values in `other`: "lr, seed", or ""."""
    names = [name for name in mine | other if mine.get(name) != other.get(name)]
    return ", ".join(map(option_name, names))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. ConfigError."""
    try:
        if path.is_file() or not path.exists():  # reading a pipe might never end
            if path.exists() and path.stat().st_size > MAX_TOML:
                raise ValueError(f"more than {MAX_TOML:,} bytes")
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            json.dumps(content, default=str)  # as in messages: fails if it is nested too deeply
            return content
    except OSError as error:
        hint = storage.suggestion(path, "configs", ".toml")
        raise ConfigError(f"cannot read the config {path}: {error.strerror}{hint}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None
    raise ConfigError(f"the config {path} is not a regular file")


def fields_from_keys(cls: type, values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values in a file, by field name of the dataclass `cls`. ConfigError for an unknown key."""
    fields_by_key = {option_name(spec.name): spec.name for spec in fields(cls)}
    for key in values:
        if key not in fields_by_key:
            close = difflib.get_close_matches(key, fields_by_key, 1)
            hint = f"did you mean {close[0]!r}?" if close else "the keys are the flags of the command, see its --help"
            raise ConfigError(f"{path}: unknown key {key!r}; {hint}")
    return {fields_by_key[key]: value for key, value in values.items()}


def validate_config(config: Any) -> None:
    """Validate every field that has a rule, of a `Config` or another dataclass. ConfigError for the first bad one."""
    for spec in fields(config):
        if "rule" in spec.metadata:
            setattr(config, spec.name, validate_field(spec, getattr(config, spec.name)))


def validate_field(spec: Field, value: Any) -> Any:
    """`value`, if its type and its rule are satisfied; an int is accepted for a float. ConfigError."""
    kind, rule = spec.type, spec.metadata["rule"]
    if kind == list[int]:
        fits = isinstance(value, list) and all(type(item) is int for item in value)
    else:
        fits = type(value) is kind or (kind is float and type(value) is int and abs(value) < 1e300)
    if not fits or not rule.is_valid(value):
        raise ConfigError(f"{option_name(spec.name)} must {rule.text}, not {json.dumps(value, default=str)}")
    return int(value) if kind is float and value == int(value) else value


def add_flags(parser: argparse.ArgumentParser, cls: type = Config, names: Iterable[str] | None = None) -> None:
    """Add a flag for every setting, or for those in `names`; the namespace gets only those that the user gives."""
    for spec in fields(cls):
        if "rule" not in spec.metadata or (names is not None and spec.name not in names):
            continue
        rule, text = spec.metadata["rule"], spec.metadata["text"]
        default = spec.default_factory()
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default).lower()
        if shown:
            text += f" [{shown}]"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if spec.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif spec.type == list[int]:
            options |= {"type": _integer, "nargs": "*", "metavar": "N"}
        else:
            options |= {"type": spec.type, "metavar": {int: "N", float: "X", str: "TEXT"}[spec.type]}
        if rule.choices:
            options |= {"choices": rule.choices, "help": f"{text}: {', '.join(rule.choices)}"}
        parser.add_argument(f"--{option_name(spec.name)}", **options)


def _integer(text: str) -> int:
    """One of several integers on the command line."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"integers are divided by spaces: 256 128, not {text!r}") from None


def settings_from_flags(arguments: argparse.Namespace, *classes: type) -> dict[str, Any]:
    """The settings of a `Config`, or of these dataclasses, that were given as flags."""
    names = {spec.name for cls in classes or [Config] for spec in fields(cls)}
    return {name: value for name, value in vars(arguments).items() if name in names}
