"""What the tests share: no network, small digits, and the commands called as functions."""

import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import network
from data import formats, mnist, synthetic
from data.formats import ImageFile, idx_bytes
from network import Network

ROOT = Path(__file__).parent.parent
if os.environ.get("MNIST_DIR"):  # tests work in folders of their own
    os.environ["MNIST_DIR"] = str(Path(os.environ["MNIST_DIR"]).resolve())


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test downloads anything: the only mirror is a closed port of this machine."""
    monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/"])


@pytest.fixture(autouse=True)
def unrendered_figures(request, monkeypatch):
    """Figures are built but not rendered, which takes most of their time, except in tests marked `figures`."""
    if not request.node.get_closest_marker("figures"):
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"not rendered"))


@pytest.fixture(scope="session")
def digits():
    """600 training and 200 test digits: (images, labels), (images, labels)."""
    images, labels = synthetic.render(800, np.random.default_rng(7))
    return (images[:600], labels[:600]), (images[600:], labels[600:])


@pytest.fixture(scope="session")
def archive(digits, tmp_path_factory):
    """The same as an npz archive."""
    path = tmp_path_factory.mktemp("digits") / "tiny.npz"
    (x, y), (u, v) = digits
    np.savez(path, x_train=x, y_train=y, x_test=u, y_test=v)
    return path


@pytest.fixture
def idx_folder(digits, tmp_path):
    """The same as four IDX files."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for part, (images, labels) in zip(("train", "t10k"), digits, strict=True):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


@pytest.fixture
def image_file(digits, tmp_path):
    """The 600 training images as a file that counts as too large for memory."""
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(digits[0][0]))
    return ImageFile(path, digits[0][0].shape, 16)


@pytest.fixture
def large(monkeypatch):
    """Images of more than 50,000 bytes count as too large for memory, and are shuffled in windows of 150."""
    monkeypatch.setattr(formats, "MAX_BYTES", 50_000)
    monkeypatch.setattr(network, "WINDOW", 170)
    monkeypatch.setattr(network, "BLOCK", 8)


def script(name: str):
    """One of the commands as a module. (`import test` would find Python's own package of that name.)"""
    spec = importlib.util.spec_from_file_location(f"command_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Call a command in an empty folder: run("train", "--epochs", 1) -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        try:
            code = script(name).main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse leaves this way
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def fast(*more):
    """The flags of a quick training, and more."""
    return [*([] if "--layers" in more else ["--hidden", 8]), "--batch-size", 50, "--validation", 100, *more]


@pytest.fixture
def train(run, archive):
    """Train on the small dataset: train("--epochs", 2, ...) -> (exit code, stdout, stderr)."""
    return lambda *more: run("train", "--dataset", archive, *fast(*more))


def interrupt_epoch(patch, number):
    """Ctrl-C at the start of an epoch: the one with this number, counted from 1 over all trainings from now on."""
    original, numbers = Network._train_epoch, itertools.count(1)

    def epoch(self, *arguments):
        if next(numbers) == number:
            raise KeyboardInterrupt
        return original(self, *arguments)

    patch.setattr(Network, "_train_epoch", epoch)


def train_process(*arguments, **options):
    """train.py with the flags of a quick training, as a process."""
    return start_command("train.py", *fast(*arguments), **options)


def start_command(name, *arguments, **options):
    """A command as a process, which handles signals even where the tests run with ignored ones, as under nohup."""

    def default_signals():
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)

    command = [sys.executable, ROOT / name, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, preexec_fn=default_signals, **pipes, **options)


def wait_for_epoch(process, wanted):
    """Read the table until the row of that epoch is printed."""
    for row in process.stdout:
        if re.match(rf" +{wanted}  ", row):
            return


CNN = ["--layers", "conv 2 5 stride 3, batchnorm, relu, pool 2, dense 8, batchnorm, relu", "--augment"]
