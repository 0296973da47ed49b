"""The examples of output in README.md and the figures in docs/, made by the commands themselves.

    python tests/bench/docs.py [train] [shipped] [predict] [number] [draw] [search] [--write]

Without --write it prints the examples and keeps no figure. train: `python train.py` and `python test.py`; shipped:
`python test.py` on the models of the repository; predict: `python predict.py` on eight photos rendered from test
images; number: the same for photos of several digits; draw: the drawing window; search: `python hp_search.py`.
Everything runs in a temporary folder.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tables
from digit_numbers import pair, sheet, strip
from matplotlib import rc_context
from matplotlib.figure import Figure
from photos import KINDS, PAPERS
from tables import ROOT, write_block

import plots
from app.drawing import Pad
from data import mnist
from network import Network

PHOTOS = {  # file name: kind of photo, index of the test image
    "grid paper.png": ("squared paper", 32),
    "light on dark.png": ("280 x 280, white on black", 11),
    "off the centre.png": ("off the centre", 4),
    "thick strokes.png": ("thick strokes", 61),
    "thin strokes.png": ("thin strokes", 1),
    "tiny.png": ("40 x 40", 7),
    "transparent.png": ("transparent", 15),
    "uneven light.png": ("uneven light", 0),
}

NUMBERS = {  # file name: paper, how the digits are placed, the first test image, and how many
    "number.png": ("squared paper", strip, 20, 6),
    "sheet.jpg": ("uneven light", sheet, 100, 24),
    "touching.png": ("coloured paper", pair, 14, 2),
}


Made = tuple[str, dict[str, str]]  # an example, or ""; the figures: name in docs/, and the file


def run(command: str) -> str:
    """What a command such as "python train.py --epochs 1" prints, run in the current folder."""
    _, script, *arguments = command.split()
    return tables.run(ROOT / script, *arguments, cwd=Path()).rstrip("\n")


def example(*commands: str, keep: slice | None = None) -> str:
    """Commands and their output as a Markdown block; `keep` leaves out rows of a long table."""
    parts = []
    for command in commands:
        rows = run(command).splitlines()
        if keep and len(rows) > 12:
            rows = [*rows[: keep.start], "  ...", *rows[keep.stop :]]
        parts += [f"$ {command}", *rows]
    return "\n".join(["```text", *parts, "```"])


def train() -> Made:
    """The quick start, and the figures of a training and a test."""
    commands = "python train.py", "python test.py --model models/two_layer.npz"
    text = example(*commands, keep=slice(5, -3))
    return text, {f"{name}.png": f"models/two_layer/{name}.png" for name in ("curves", "pca", "weights", "mistakes")}


def shipped() -> Made:
    """The accuracy of the shipped models. (Their figures are written too, in the temporary folder.)"""
    shutil.copytree(ROOT / "models", "models", ignore=lambda *_: ["final"])
    rows = []
    for model in "models/best.npz", "models/cnn.npz":
        command = f"python test.py --model {model}"
        rows += [f"$ {command} | tail -1", run(command).splitlines()[-1]]
    return "\n".join(["```text", *rows, "```"]), {}


def predict() -> Made:
    """Eight photos and the predictions."""
    images, _ = mnist.load("test")
    Path("photos").mkdir()
    for i, (name, (kind, index)) in enumerate(PHOTOS.items()):
        KINDS[kind](images[index], np.random.default_rng(i)).save(Path("photos", name))
    return example("python predict.py photos --show seen.png").replace(f"{ROOT}/", ""), {"predict.png": "seen.png"}


def number() -> Made:
    """Photos of several digits, and the predictions."""
    images, _ = mnist.load("test")
    Path("numbers").mkdir()
    for name, (paper, make, first, count) in NUMBERS.items():
        rng = np.random.default_rng(first)
        PAPERS[paper](make(images[first : first + count], rng)[0], rng).save(Path("numbers", name))
    return example("python predict.py numbers --show seen.png").replace(f"{ROOT}/", ""), {"number.png": "seen.png"}


def draw() -> Made:
    """The drawing window, with a number drawn in it."""
    network = Network.load(ROOT / "models" / "best.npz")
    with rc_context(plots.STYLE):
        figure = Figure((10, 4.4), layout="constrained")
        pad = Pad(figure, network.predict_proba, Path.cwd())
        two = [(60, 90), (100, 55), (160, 60), (175, 110), (130, 160), (70, 215), (65, 225), (130, 222), (185, 225)]
        seven = [(240, 70), (360, 62), (335, 110), (310, 170), (295, 235)]
        for start, end in [*itertools.pairwise(two), *itertools.pairwise(seven)]:
            pad._draw_line(start, end)
        pad._update()
        plots.save(figure, Path("draw.png"))
    return "", {"draw.png": "draw.png"}


def search() -> Made:
    """The figures of the default search."""
    run("python hp_search.py")
    return "", {f"{name}.png": f"models/best/{name}.png" for name in ("search_pairs", "search_rungs")}


def main() -> None:
    """Make the examples that are named, or all."""
    if "MNIST_DIR" in os.environ:
        os.environ["MNIST_DIR"] = str(Path(os.environ["MNIST_DIR"]).resolve())
    examples = {make.__name__: make for make in (train, shipped, predict, number, draw, search)}
    arguments = tables.chosen(__doc__, [*examples], write="write them into README.md and docs/")
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text, figures = examples[name]()
            if text and arguments.write:
                write_block(name, text)
            elif text:
                print(text)
            for target, source in figures.items() if arguments.write else ():
                shutil.copy(source, ROOT / "docs" / target)


if __name__ == "__main__":
    tables.start(main)
