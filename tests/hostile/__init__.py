"""What the parts of torture.py share: their registry, their outcomes, small inputs, and the commands as functions."""

import contextlib
import functools
import importlib
import io
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import plots
from app import cli
from app.config import Config
from data import formats, mnist, synthetic
from search import plots as search_plots
from search import workers
from tests import search_helpers
from tests.conftest import script

WAYS, FAILURES = ("refused", "same", "accepted"), ("crash", "hang", "different", "memory", "broken")
Case = Callable[[random.Random, int], str]  # the random numbers of this case, and its number -> one of WAYS


class Broken(AssertionError):
    """A broken promise, of one of the kinds in FAILURES."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Part(NamedTuple):
    """`make` gets an empty folder and returns the function of a case. `cpu`: limit for a case, seconds."""

    make: Callable[[Path], Case]
    cases: int
    quick: int
    cpu: float


PARTS: dict[str, Part] = {}


def part(cases: int, quick: int, cpu: float = float("inf")) -> Callable:
    """Add a function to PARTS. cases, quick: the number of cases of the long and of the quick run."""
    return lambda make: PARTS.setdefault(make.__name__, Part(make, cases, quick, cpu)).make


def check(condition: object, message: str, kind: str = "broken") -> None:
    """Broken if the condition does not hold."""
    if not condition:
        raise Broken(kind, message)


def refused(error: Exception) -> str:
    """The outcome of an input that is refused, if a command would print the error as one line that names the file."""
    line = cli.one_line(str(error))
    check(line.isprintable() and len(line) <= cli.MAX_MESSAGE, f"not one line: {error!r}")
    return "refused"


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """240 synthetic digits: images and labels."""
    return synthetic.render(240, np.random.default_rng(7))


def split(train: int, test: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Some of them: training images and labels, test images and labels."""
    images, labels = digits()
    return images[:train], labels[:train], images[-test:], labels[-test:]


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind), **options)
    return buffer.getvalue()


def fill(folder: Path) -> None:
    """The files that PATHS names."""
    x, y, u, v = split(60, 20)
    network = Config(hidden=[2]).build_network()
    network.metadata = {"dataset": "tiny"}
    network.save(folder / "m.npz")
    np.savez(folder / "tiny.npz", x_train=x, y_train=y, x_test=u, y_test=v)
    for name in ("photos", "idx", "locked"):
        (folder / name).mkdir()
    _, each_digit = np.unique(y, return_index=True)
    formats.write_idx(folder / "idx", "train", x[each_digit], y[each_digit])
    formats.write_idx(folder / "idx", "test", u[:4], v[:4])
    for path in ("photo.png", "photos/1.png", "photos/2.jpg"):
        (folder / path).write_bytes(encoded(u[0], path[-3:]))
    texts = {"bad.npz": "bad", "bad.png": "bad", "locked/x.npz": "", "locked.npz": "", "bad.toml": "lr = [\n"}
    texts |= {"c.toml": "hidden = [4]\nlr = 0.2\n", "s.toml": "[recipe]\nepochs = 1\n[space]\nlr = [0.1, 0.2]\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "locked.npz").chmod(0)
    (folder / "locked").chmod(0)


@functools.cache
def commands() -> dict[str, ModuleType]:
    """The commands by name."""
    modules = {
        "data": importlib.import_module("data.__main__"),
        "data.convert": importlib.import_module("data.convert"),
    }
    return {name: script(name) for name in ("train", "test", "hp_search", "predict")} | modules


def call(name: str, *arguments: object, out: io.StringIO | None = None) -> tuple[int, str, str]:
    """Call a command in this process: exit code, stdout, stderr."""
    module, out, err = commands()[name], out or io.StringIO(), io.StringIO()
    sys.argv = [module.__file__]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = module.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse leaves this way
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def patch(scratch: Path) -> None:
    """No figures are rendered, no mirrors are asked, and the repository's own data folder is not used."""
    Figure.savefig = lambda self, file, **options: file.write(f"not rendered {options}".encode())
    for name, function in [*vars(plots).items(), *vars(search_plots).items()]:
        if getattr(function, "__annotations__", {}).get("return") is Figure:
            setattr(plots if hasattr(plots, name) else search_plots, name, lambda *_, **__: Figure())
    mnist.MIRRORS[:] = ["http://127.0.0.1:9/"]
    synthetic.__file__ = mnist.__file__ = str(scratch / "data.py")
    synthetic.COUNTS = {"train": 60, "test": 20}
    os.environ.pop("MNIST_DIR", None)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    workers.local_pool = search_helpers.in_process_pool
