"""The promises of this project at length: hostile files, kills, full disks, bad servers, two processes at once.

    python tests/torture.py                                        the long run, for hours
    python tests/torture.py --quick                                a sample of every part, in a minute
    python tests/torture.py --part models --seed 3 --case 1234     one case again, such as one that failed

Every input ends in one of three ways: refused with one line, read as the same, or accepted as something valid. A
failure is everything else: a traceback (crash), more CPU time than the limit (hang), a damaged file that is read as
something else (different), too much memory for an input that is refused (memory), another broken promise (broken).

The long run adds each finished part to tests/torture.csv. If it is stopped, it continues with the parts that are
missing there. At the end it writes the figures into README.md. To run a part again, name it with --part.
"""

import argparse
import contextlib
import csv
import errno
import functools
import gzip
import hashlib
import http.server
import importlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, NamedTuple
from unittest import mock

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy starts threads, which do not survive a fork
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

import data  # noqa: E402
import plots  # noqa: E402
import storage  # noqa: E402
from app import cli, drawing, training  # noqa: E402
from app.config import Config  # noqa: E402
from data import formats, mnist, mnist_pickle, photo, synthetic  # noqa: E402
from network import DivergenceError, Network  # noqa: E402
from nn.convolution import Conv2D, Flatten, MaxPool2D  # noqa: E402
from nn.layers import BatchNorm, Dense, ReLU  # noqa: E402
from search import report, workers  # noqa: E402
from search import plots as search_plots  # noqa: E402
from search.config import SearchConfig  # noqa: E402
from search.trial import SearchError, checksum  # noqa: E402
from tests import mutants, search_helpers  # noqa: E402
from tests.bench import tables  # noqa: E402
from tests.conftest import ROOT, script, start_command  # noqa: E402

RESULTS = ROOT / "tests" / "torture.csv"
COLUMNS = "part seed cases refused same accepted crash hang different memory broken peak_mb slowest cpu_s".split()
WAYS, FAILURES = ("refused", "same", "accepted"), ("crash", "hang", "different", "memory", "broken")
MAX_MEMORY = 300  # MB above the start, for an input that is refused
WALL_SECONDS = 120  # for one case; the process is ended then
CHUNK = 2000  # cases in a process
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


# --- files ----------------------------------------------------------------------------------------------------------


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """240 synthetic digits: images and labels."""
    return synthetic.render(240, np.random.default_rng(7))


def split(train: int, test: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Some of them: training images and labels, test images and labels."""
    images, labels = digits()
    return images[:train], labels[:train], images[-test:], labels[-test:]


def layout(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    """Arrays in a form in which == means the same to the bit."""
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


@part(cases=1_000_000, quick=5000, cpu=2)
def models(folder: Path) -> Case:
    """Model files."""
    path, samples = folder / "m.npz", []
    stacks = {(4,): [[Dense(3), ReLU(), Dense(2)], [Dense(3)]]}
    stacks[5, 1, 5] = [[Conv2D(2, 3), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Dense(2)]]
    for shape, layers in ((shape, layers) for shape, some in stacks.items() for layers in some):
        network = Network(layers, input_shape=shape, seed=1)
        network.metadata = {"dataset": "mnist", "recipe": {"epochs": 2, "hidden": [3]}, "accuracy": 0.5}
        network.save(path)
        samples.append((path.read_bytes(), *storage.read(path, "model")))

    def case(rng: random.Random, number: int) -> str:
        content, description, arrays = rng.choice(samples)
        signed = rng.random() < 0.4
        path.write_bytes(mutants.resigned(rng, description, arrays) if signed else mutants.archive(rng, content))
        try:
            network = Network.load(path)
        except storage.StorageError as error:
            return refused(error)
        if not signed:
            found = storage.read(path, "model")
            same = found[0] == description and layout(found[1]) == layout(arrays)
            check(same, "it was read as another model", "different")
            return "same"
        images = np.repeat(np.array([[0], [100], [255]], np.uint8), np.prod(network.input_shape), axis=1)
        try:
            check(np.isfinite(network.predict_proba(images)).all(), "predictions that are not finite")
        except DivergenceError as error:
            return refused(error)
        return "accepted"

    return case


def data_files() -> dict[str, dict[str, bytes]]:
    """Digits in every format: format -> path -> content."""
    x, y, u, v = split(8, 4)
    idx = {
        formats.idx_names(name, kind)[1]: formats.idx_bytes(array)
        for name, pair in {"train": (x, y), "test": (u, v)}.items()
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }
    stored, deflated, triple, table = (io.BytesIO() for _ in range(4))
    np.savez(stored, x_train=x, y_train=y, x_test=u, y_test=v)
    formats.write_npz(deflated, {"train": (x, y), "test": (u, v)})
    mnist_pickle.write(triple, (x, y), (u, v))
    formats.write_csv(table, x, y)
    files = {
        "idx": idx,
        "idx.gz": {f"{name}.gz": gzip.compress(content, 1) for name, content in idx.items()},
        "npz": {"a.npz": stored.getvalue()},
        "npz, deflated": {"a.npz": deflated.getvalue()},
        "pkl.gz": {"a.pkl.gz": triple.getvalue()},
        "csv": {"a.csv": table.getvalue()},
        "csv.gz": {"train.csv.gz": gzip.compress(table.getvalue(), 1)},
        "folders": {f"{y[i]}/{i}.{kind}": encoded(x[i], kind) for i, kind in enumerate(["png", "jpg"] * 2)},
        "pkl, lists": {"a.pkl": pickle.dumps(((x.tolist(), y.tolist()), (u, v)), 0)},
    }
    return files | {f"pkl {p}": {"a.pkl": pickle.dumps(((x, y), (u, v)), p)} for p in range(6)}


@functools.cache
def data_bombs() -> list[tuple[str, dict[str, bytes]]]:
    """Small files that decompress to 400 MB, each with what else its format needs."""
    megabyte, count, header = bytes(2**20), 400, mutants.to_npy(np.zeros(0, np.uint8))
    images, labels = (f"{name}.gz" for name in list(data_files()["idx"])[:2])
    few = formats.idx_bytes(split(8, 4)[1])
    heads = {
        n: formats.idx_bytes(np.zeros((0, 28, 28)))[:4] + np.array([n, 28, 28], ">u4").tobytes() for n in (8, 534_000)
    }
    large = b"\x93NUMPY\1\0" + header[8:].replace(b"(0,), }" + b" " * 20, b"(534000, 28, 28), }" + b" " * 8)
    large_labels, small_labels = large.replace(b"(534000, 28, 28)", b"(400000000,)    "), mutants.to_npy(split(8, 4)[1])
    one_argument = b"\x80\x02B" + np.array([count * 2**20], "<u4").tobytes()
    return [
        *(("", {images: mutants.gzip_bomb(head, megabyte, count), labels: few}) for head in (b"", *heads.values())),
        ("", {images: gzip.compress(heads[8]), labels: mutants.gzip_bomb(few[:8], megabyte, count)}),
        ("a.pkl.gz", {"a.pkl.gz": mutants.gzip_bomb(one_argument, megabyte, count, b".")}),
        ("a.pkl", {"a.pkl": mutants.gzip_bomb(b"\x80\x02(", b"K\0" * 2**19, count, b"t.")}),
        (
            "a.npz",
            {"a.npz": mutants.zip_bomb(("x_train.npy", large, megabyte, count), ("y_train.npy", small_labels, b"", 0))},
        ),
        (
            "a.npz",
            {"a.npz": mutants.zip_bomb(("x_train.npy", large, b"", 0), ("y_train.npy", large_labels, megabyte, count))},
        ),
        (
            "a.npz",
            {"a.npz": mutants.zip_bomb(("x_train.npy", header, megabyte, count), ("y_train.npy", header, b"", 0))},
        ),
        *(
            ("a.csv.gz", {"a.csv.gz": mutants.gzip_bomb(b"", block, count)})
            for block in (megabyte, b"\n" * 2**20, b"0," * 2**19)
        ),
    ]


@part(cases=100_000, quick=1500, cpu=2)
def datasets(folder: Path) -> Case:
    """Files and folders of digits in every format that data/formats.py reads."""
    files = data_files()
    for form, contents in files.items():
        for name, content in contents.items():
            (folder / form / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / form / name).write_bytes(content)

    def mutant(rng: random.Random, form: str, name: str) -> bytes:
        content = files[form][name]
        if name.endswith(".gz"):
            return mutants.zipped(rng, content, mutants.pickled if "pkl" in form else mutants.flip)
        change = {"npz": mutants.archive, "pkl": mutants.pickled, "png": mutants.png}.get(name[-3:], mutants.flip)
        return change(rng, content) if rng.random() < 0.7 else mutants.flip(rng, content)

    def case(rng: random.Random, number: int) -> str:
        if number % 100 == 0:
            name, contents = data_bombs()[number // 100 % len(data_bombs())]
            form = "bomb"
        else:
            form = rng.choice(list(files))
            changed = rng.choice(list(files[form]))
            name = "" if len(files[form]) > 1 or form == "csv.gz" else changed
            contents = {changed: mutant(rng, form, changed)}
        (folder / form).mkdir(exist_ok=True)
        for file, content in contents.items():
            (folder / form / file).write_bytes(content)
        try:
            images, labels = formats.read(
                folder / form / name, rng.choice(("train", "test")) if form != "bomb" else "train"
            )
        except formats.DataError as error:
            return refused(error)
        finally:
            for file in contents:
                if form == "bomb":
                    (folder / form / file).unlink()
                else:
                    (folder / form / file).write_bytes(files[form][file])
        check(images.dtype == np.uint8 and images.shape == (len(labels), 28, 28) and len(labels), "no images")
        check(labels.dtype == np.int64 and labels.min() >= 0 and labels.max() <= 9, "labels out of range")
        return "accepted"

    return case


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind), **options)
    return buffer.getvalue()


@part(cases=20_000, quick=250, cpu=1)
def photos(folder: Path) -> Case:
    """Photos of all formats, some of them with EXIF data."""
    gray = np.pad(255 - digits()[0][0].repeat(2, axis=0).repeat(2, axis=1), 8, constant_values=255)
    colour, exif = np.stack([gray, gray, gray // 2 + 100], axis=2), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a digit"
    deep = gray.astype(np.int32) * 250
    samples = [
        (kind, encoded(image, kind)) for kind in ("png", "jpg", "bmp", "gif", "tif", "webp") for image in (gray, colour)
    ]
    samples += [(kind, encoded(colour, kind, exif=exif)) for kind in ("png", "jpg", "tif", "webp")]
    samples += [("png", encoded(deep.astype(np.uint16), "png")), ("tif", encoded(gray.astype(np.float32), "tif"))]
    samples += [("jpg", encoded(colour, "jpg", progressive=True)), ("webp", encoded(colour, "webp", lossless=True))]
    samples += [("tif", encoded(gray, "tif", compression=c)) for c in ("tiff_lzw", "tiff_deflate", "packbits")]

    def case(rng: random.Random, number: int) -> str:
        kind, content = rng.choice(samples)
        content = mutants.png(rng, content) if kind == "png" and rng.random() < 0.6 else mutants.flip(rng, content)
        path = folder / f"a.{rng.choice((kind, kind, kind, 'png'))}"
        path.write_bytes(content)
        try:
            image = photo.digit(path)
            photo.thumbnail(path)
        except photo.PhotoError as error:
            return refused(error)
        check(image.dtype == np.uint8 and image.shape == (28, 28), "no image")
        return "accepted"

    return case


# --- checkpoints and journals ---------------------------------------------------------------------------------------


@part(cases=60_000, quick=1200, cpu=2)
def checkpoints(folder: Path) -> Case:
    """Checkpoints of a training that is resumed."""
    x, y, u, v = split(40, 20)
    path, samples = folder / "checkpoint.npz", []
    configs = Config(hidden=[1]), Config(layers="conv 1 9 stride 9, batchnorm, relu", validation=0)
    for config in (replace(config, epochs=4, batch_size=20, dataset="tiny") for config in configs):
        network, run = config.build_network(), training.Run({"dataset": "tiny", "recipe": config.settings()})
        for record in network.fit(x, y, (u, v) if config.validation else None, **config.fit_settings() | {"epochs": 2}):
            run.record_epoch(record, network)
        run.save(path, network)
        samples.append((config, run, path.read_bytes(), *storage.read(path, "checkpoint")))

    def state(run: training.Run, network: Network) -> tuple:
        groups = network.arrays(), run.after_epoch_1, run.best, {"velocity": network.velocity}
        return run.history, *map(layout, groups)

    def resumed(config: Config, metadata: dict) -> tuple[training.Run, Network]:
        run, network = training.Run(metadata), config.build_network()
        run.resume(path, network)
        return run, network

    states = []
    for config, run, content, *_ in samples:
        path.write_bytes(content)
        states.append(state(*resumed(config, run.metadata)))

    def case(rng: random.Random, number: int) -> str:
        i, signed = rng.randrange(len(samples)), rng.random() < 0.6
        config, original, content, description, arrays = samples[i]
        path.write_bytes(mutants.resigned(rng, description, arrays) if signed else mutants.archive(rng, content))
        try:
            run, network = resumed(config, original.metadata)
        except storage.StorageError as error:
            return refused(error)
        if state(run, network) == states[i]:
            return "same"
        check(signed, "it was resumed in another state", "different")
        with contextlib.suppress(DivergenceError), np.errstate(all="ignore"):
            training.best_epoch(run.history)
            rest = config.fit_settings() | {"history": run.history}
            for record in network.fit(x, y, (u, v) if config.validation else None, **rest):
                run.record_epoch(record, network)
                training.format_record(record, {key: training.COLUMNS[key] for key in record})
        return "accepted"

    return case


@part(cases=40_000, quick=800, cpu=2)
def journals(folder: Path) -> Case:
    """Results files of a search that is resumed."""
    path = folder / "search.jsonl"
    space = search_helpers.dimensions(lr=[0.1, 0.2], weight_decay=[0, 0.01])
    config = SearchConfig("halving", repeats=2, recipe=search_helpers.SMALL, space=space)
    whole, _ = search_helpers.run_search(config, folder)
    lines, original, expected = path.read_bytes().splitlines(True), whole.journal.results, report.finalists(whole)

    def mutant(rng: random.Random, signed: bool) -> bytes:
        some = list(lines)
        for _ in range(rng.choice((1, 1, 2))):
            i, j = rng.randrange(len(some)), rng.randrange(len(some))
            if signed:
                row = {key: value for key, value in json.loads(some[i]).items() if key != "check"}
                row = mutants.edit_json(rng, row)
                row = {**row, "check": checksum(row)} if isinstance(row, dict) else row
                some[i] = json.dumps(row).encode() + b"\n"
            elif rng.random() < 0.3:
                some[i : i + 1] = rng.choice([[], [some[i]] * 2, [some[j]], [b"\n"], [b"{}\n"], [b"[" * 9999 + b"\n"]])
                some = some or [b""]
            else:
                return mutants.flip(rng, b"".join(some))
        return b"".join(some)

    def case(rng: random.Random, number: int) -> str:
        signed = rng.random() < 0.3
        path.write_bytes(mutant(rng, signed))
        results = {}
        try:
            with search_helpers.open_search(config, folder, search_helpers.Submit()) as search:
                results = dict(search.journal.results)
                widths = report.column_widths(config)
                for result in search.run():
                    report.format_result(result, widths)
                report.summary(search)
        except SearchError as error:
            return refused(error)
        if results.items() <= original.items() and report.finalists(search) == expected:
            return "same"
        check(signed, "the search was resumed with other results", "different")
        return "accepted"

    return case


# --- the command line -----------------------------------------------------------------------------------------------


class ValidArguments(Exception):
    """Raised in place of a training or a search: the arguments were accepted."""


def accept(*arguments: object, **more: object) -> None:
    """In place of a training, a search, or the drawing window."""
    raise ValidArguments


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


def check_messages(name: str, code: int, err: str) -> None:
    """Broken unless a failure is one printable line on stderr (of predict.py, one for each photo), after warnings."""
    lines = err.splitlines()
    check(code in (0, 1, 2), f"exit code {code}: {err}")
    check(
        all(line.isprintable() and len(line) <= cli.MAX_MESSAGE for line in lines), f"not printable, or long: {err!r}"
    )
    errors = [line for line in lines if not line.startswith(("WARNING", "downloading MNIST", "the shipped model"))]
    check(len(errors) == (code != 0) or (code == 1 and name == "predict" and errors), f"exit code {code}: {err!r}")
    check(code != 2 or len(lines) == 1, f"several lines: {err!r}")


WORDS = [
    "",
    " ",
    "0",
    "1",
    "2",
    "-1",
    "8",
    "0.5",
    "1e9",
    "1e400",
    "-inf",
    "nan",
    "0x10",
    "1_000",
    "\u0663",
    "9" * 400,
    "-",
    "--",
]
WORDS += [
    "\x1b[2J",
    "a\nb",
    "\udcff",
    "x" * 5000,
    "é" * 200,
    "\r\t",
    "true",
    "0.01..0.1",
    "1..0",
    "..",
    "1..2:cubic",
    "8,16",
    "a,b",
]
WORDS += ["auto", "mnist", "synthetic", "relu", "conv 2 3, pool 2", "conv 99999999 1", "dense 0", "dense " * 200, ", ,"]
PATHS = [
    "m.npz",
    "bad.npz",
    "tiny.npz",
    "tiny.npz/x",
    "photo.png",
    "bad.png",
    "photos",
    "idx",
    "c.toml",
    "bad.toml",
    "s.toml",
    ".",
]
PATHS += [
    "none.npz",
    "none/none.npz",
    "new.npz",
    "new.csv",
    "new.png",
    "new",
    "/dev/null",
    "/dev/full",
    "/proc/none/x",
    "pipe",
]
PATHS += [
    "locked/x.npz",
    "locked.npz",
    "loop",
    "photos/1.png",
    "new.pkl.gz",
    "new.csv.gz",
    "~",
    "a" * 255,
    "../none",
    "\x07.png",
]


def vector(rng: random.Random, flags: list[argparse.Action]) -> list[str]:
    """Arguments for a command: its own flags and others, with plausible values and with others."""

    def value(action: argparse.Action) -> str:
        kind = rng.random()
        if kind < 0.55 and action.choices:
            return str(rng.choice(list(action.choices)))
        if kind < 0.55 and action.type in (int, float):
            return rng.choice(["1", "2", "8", "0.1", "0", "100"])
        if kind < 0.85 and action.type not in (int, float):
            return rng.choice(PATHS)
        return rng.choice([*WORDS, *PATHS])

    words = []
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 6))):
        action = rng.choice(flags)
        count = {None: 1, "*": rng.randrange(4), "+": rng.randint(1, 3), 0: 0}[action.nargs]
        count += rng.choice((0,) * 15 + (1, -1))
        flag, values = rng.choice(action.option_strings or [None]), [value(action) for _ in range(count)]
        if flag and rng.random() < 0.05:
            flag = rng.choice(
                [flag[:-1], flag.upper(), f"{flag}=", f"{flag}={rng.choice(WORDS)}", flag[1:], f"{flag} "]
            )
        words += [*([flag] if flag else []), *values]
        if rng.random() < 0.05:
            words += rng.choice([words, [rng.choice(WORDS)], ["--no-such-flag"]])
    return [word.replace("\0", "") for word in words]


def fill(folder: Path) -> None:
    """The files that PATHS names."""
    x, y, u, v = split(60, 20)
    network = Config(hidden=[2]).build_network()
    network.metadata = {"dataset": "tiny"}
    network.save(folder / "m.npz")
    np.savez(folder / "tiny.npz", x_train=x, y_train=y, x_test=u, y_test=v)
    for name in ("photos", "idx", "locked"):
        (folder / name).mkdir()
    formats.write_idx(folder / "idx", "train", x[:8], y[:8])
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


@part(cases=100_000, quick=1200, cpu=5)
def arguments(folder: Path) -> Case:
    """Command lines. Some of those that are refused are given to real processes too."""
    fill(folder)
    before = {path: path.lstat() for path in folder.rglob("*")}
    flags = {}
    for name, module in commands().items():
        parser = module.parser() if hasattr(module, "parser") else cli.Parser(add_help=True)
        if not hasattr(module, "parser"):
            parser.add_data_dir()
        flags[name] = parser._actions
    commands()["train"].train = commands()["hp_search"].run = drawing.open_window = accept

    def case(rng: random.Random, number: int) -> str:
        name = rng.choice(list(flags))
        words = vector(rng, flags[name])
        try:
            code, _, err = call(name, *words)
        except ValidArguments:
            code, err = 0, ""
            outcome = "accepted"
        else:
            outcome = "refused" if code else "accepted"
        try:
            check_messages(name, code, err)
            if number % 120 == 0 and (code == 2 or (outcome == "refused" and name in ("test", "predict"))):
                command = [sys.executable, "-m", name] if "data" in name else [sys.executable, ROOT / f"{name}.py"]
                environment = {**os.environ, "PYTHONPATH": str(ROOT), "MNIST_DIR": str(folder)}
                real = subprocess.run([*command, *words], capture_output=True, text=True, env=environment, timeout=60)
                same = real.returncode == code and real.stderr.splitlines()[-1:] == err.splitlines()[-1:]
                check(same, f"a real process: exit code {real.returncode}, {real.stderr!r}, not {err!r}")
        except Broken as error:
            raise Broken("broken", f"{error}; {name} {words}") from None
        for path in folder.rglob("*"):
            if path not in before and (path.parent == folder or path.parent in before):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        changed = [
            path.name for path, old in before.items() if path.lstat().st_mtime_ns != old.st_mtime_ns and path.is_file()
        ]
        check(not changed, f"changed {changed}: {name} {words}")
        return outcome

    return case


# --- kills ----------------------------------------------------------------------------------------------------------


class Scenario(NamedTuple):
    """A command that writes into the folder out/. `again` are its arguments to continue after a failure."""

    command: str
    arguments: tuple
    again: tuple = ()
    old: tuple = ()  # a scenario to run before, whose files are there already

    def run(self, *more: object, out: io.StringIO | None = None) -> tuple[int, str, str]:
        """Call the command in this process: exit code, stdout, stderr."""
        return call(self.command, *self.arguments, *more, out=out)

    def prepare(self) -> None:
        """Make out/ as it is before the command."""
        shutil.rmtree("out", ignore_errors=True)
        for scenario in self.old:
            check(scenario.run()[0] == 0, "cannot prepare")


QUICK = ("--dataset", "in/tiny.npz", "--hidden", 4, "--batch-size", 20, "--validation", 40, "--epochs", 3)
TRAIN = Scenario("train", (*QUICK, "--out", "out/m"), ("--resume",))
OLD = Scenario("train", (*QUICK, "--out", "out/m", "--seed", 9))
SEARCH = Scenario("hp_search", (*QUICK, "--trials", 0, "--lr", 0.05, 0.2, "--weight-decay", 0, "--out", "out/m"))
TEST = Scenario("test", ("--model", "out/m.npz", "--dataset", "in/tiny.npz"), (), (OLD,))
PREDICT = Scenario("predict", ("in/photos", "--model", "in/m.npz", "--csv", "out/a.csv", "--show", "out/a.png"))
SCENARIOS = {
    "train": TRAIN,
    "train again": TRAIN._replace(old=(OLD,)),
    "search": SEARCH,
    "search again": SEARCH._replace(old=(OLD,)),
    "test": TEST,
    "test again": TEST._replace(old=(OLD, TEST)),
    "predict": PREDICT,
    "predict again": PREDICT._replace(old=(PREDICT._replace(arguments=("in/photo.png", *PREDICT.arguments[1:])),)),
    "predict json": Scenario("predict", ("in/photos", "--model", "in/m.npz", "--json")),
    **{f"convert {form}": Scenario("data.convert", ("in/idx", f"out/x{form}")) for form in (".npz", ".pkl.gz", "")},
    "convert .csv": Scenario("data.convert", ("in/idx", "out/x.csv", "--part", "test")),
    **{
        f"convert {form}": Scenario("data.convert", ("in/idx", "out/x", "--as", form)) for form in ("csv", "png", "jpg")
    },
}


def state(folder: Path = Path("out")) -> dict[str, object]:
    """The files in a folder by name, without what differs from run to run: the seconds, and the rendered figures."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "/." not in str(path)):
        content: object = path.read_bytes()
        if path.name == "history.csv":
            content = [line.rpartition(b",")[0] for line in content.splitlines()]
        elif path.name == "search.jsonl":
            content = search_helpers.journal_content(path)
        elif path.suffix == ".png" and content[:4] == b"\x89PNG" and "x" not in path.parts:
            content = b"not rendered"
        found[str(path.relative_to(folder))] = content
    return found


@functools.cache
def expected(name: str) -> tuple[dict, dict, float]:
    """The files before and after an undisturbed run of a scenario, and its seconds."""
    SCENARIOS[name].prepare()
    before, started = state(), time.perf_counter()
    code, _, err = SCENARIOS[name].run()
    check(code == 0, f"{name}: {err}")
    return before, state(), time.perf_counter() - started


def fill_inputs() -> None:
    """The folder in/, which the scenarios read."""
    shutil.rmtree("in", ignore_errors=True)
    Path("in").mkdir()
    fill(Path("in"))
    x, y, u, v = split(160, 80)
    np.savez("in/tiny.npz", x_train=x, y_train=y, x_test=u, y_test=v)


def start(scenario: Scenario, *more: object, delay: float = 0.0) -> int:
    """Start a command in a forked process, which writes its stderr into a file: the process's id."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(delay)
        code, out, err = scenario.run(*more)
        Path(f"{os.getpid()}.txt").write_text(f"{err}\0{out}")
    except BaseException:
        Path(f"{os.getpid()}.txt").write_text(f"{traceback.format_exc()}\0")
    finally:
        os._exit(code)


def finish(pid: int) -> tuple[int, str, str]:
    """Wait for a process of `start`: exit code, or minus the number of the signal; stdout, stderr."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    file = Path(f"{pid}.txt")
    err, _, out = file.read_text().partition("\0") if file.exists() else ("", "", "")
    file.unlink(missing_ok=True)
    return code, out, err


def start_real(scenario: Scenario, *more: object) -> subprocess.Popen:
    """Start a command as a new process."""
    command = [sys.executable, ROOT / f"{scenario.command}.py", *map(str, [*scenario.arguments, *more])]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@functools.cache
def real_seconds(name: str) -> float:
    """Seconds of a scenario as a new process."""
    shutil.rmtree("out", ignore_errors=True)
    started = time.perf_counter()
    check(start_real(SCENARIOS[name]).wait() == 0, "cannot run")
    return time.perf_counter() - started


@part(cases=1200, quick=30)
def kills(folder: Path) -> Case:
    """SIGKILL or SIGTERM at random moments of a training, or (every sixth) a search, which is then resumed."""
    fill_inputs()
    for name in "train", "search":
        expected(name), real_seconds(name)

    def case(rng: random.Random, number: int) -> str:
        name = "train" if number % 6 else "search"
        scenario, real = SCENARIOS[name], number % 30 < 2
        shutil.rmtree("out", ignore_errors=True)
        for _ in range(rng.choice((1, 1, 2, 3))):
            process = start_real(scenario, *scenario.again) if real else None
            pid = process.pid if process else start(scenario, *scenario.again)
            time.sleep(rng.uniform(0, 1.1) * (real_seconds(name) if real else expected(name)[2]))
            sent = rng.choice((signal.SIGKILL, signal.SIGTERM))
            os.kill(pid, sent)
            code, err = finish(pid)[::2] if not process else (process.returncode, process.communicate()[1])
            code = process.returncode if process else code
            check(code in (0, -sent, 128 + sent), f"exit code {code}: {err}")
            check(code != 143 or len(err.splitlines()) == 1, f"not one line: {err!r}")
        code, _, err = scenario.run(*scenario.again)
        check(code == 0, f"cannot be resumed: {err}")
        found, wanted = ({k: v for k, v in files.items() if k[-4:] != ".png"} for files in (state(), expected(name)[1]))
        check(found == wanted, f"other files: {differing(found, wanted)}")
        return "same"

    return case


def differing(one: dict, other: dict) -> list[str]:
    """The keys of two dicts that differ."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


# --- full disks, read-only and vanishing folders ----------------------------------------------------------------------


class Watched:
    """A file opened to write that reports every write before it happens."""

    def __init__(self, file: IO[bytes], report: Callable[[str, object], None]) -> None:
        self._file, self._report = file, report

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> int:
        """Write all, or half of it if `report` raises an error."""
        try:
            self._report("write", None)
        except OSError:
            self._file.write(memoryview(content).cast("B")[: len(content) // 2])
            raise
        return self._file.write(content)


class WatchedText(io.StringIO):
    """The same for stdout."""

    report: Callable[[str, object], None]

    def write(self, text: str) -> int:
        """Write the text."""
        self.report("write", None)
        return super().write(text)


@contextlib.contextmanager
def watching(report: Callable[[str, object], None]) -> Iterator[None]:
    """Call `report` with the name of each operation on files, and the path, before it happens."""
    open_file, open_descriptor = io.open, os.open

    def watched_open(file: object, mode: str = "r", *more: object, **options: object) -> object:
        writes = bool(set(mode) & set("wax+"))
        if not isinstance(file, int):
            report("open" if writes else "look", file)
        opened = open_file(file, mode, *more, **options)
        return Watched(opened, report) if writes and "b" in mode else opened

    def watched_descriptor(path: object, flags: int, *more: object, **options: object) -> int:
        report("open" if flags & os.O_CREAT else "look", path)
        return open_descriptor(path, flags, *more, **options)

    def watched(name: str, operation: str) -> Callable:
        original = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            report(operation, arguments[0])
            return original(*arguments, **options)

        return call

    operations = {
        "fsync": "write",
        "mkdir": "open",
        "replace": "open",
        "rename": "open",
        "unlink": "remove",
        "rmdir": "remove",
    }
    with contextlib.ExitStack() as stack:
        for name, operation in operations.items():
            stack.enter_context(mock.patch.object(os, name, watched(name, operation)))
        stack.enter_context(mock.patch.object(os, "open", watched_descriptor))
        stack.enter_context(mock.patch.object(io, "open", watched_open))
        stack.enter_context(mock.patch("builtins.open", watched_open))
        yield


ERRORS = {"full": errno.ENOSPC, "full once": errno.ENOSPC, "read-only": errno.EROFS, "forbidden": errno.EACCES}
FAILING = {"full": ("open", "write"), "full once": ("open", "write")}  # operations; of the other kinds, those below


def disturbed(scenario: Scenario, kind: str, at: int) -> tuple[int, str, int]:
    """Run a scenario with a fault of this kind from operation `at` on: exit code, stderr, number of operations."""
    count = 0

    def report(operation: str, path: object) -> None:
        nonlocal count
        count += 1
        if kind.startswith("gone") and count == at:
            with mock.patch.multiple(os, open=real_open, unlink=real_unlink, rmdir=real_rmdir):
                shutil.rmtree(kind.split()[1], ignore_errors=True)
        fails = count >= at if kind != "full once" else count == at
        if fails and kind in ERRORS and operation in FAILING.get(kind, ("open", "remove")):
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), *([str(path)] if path else []))

    real_open, real_unlink, real_rmdir = os.open, os.unlink, os.rmdir
    out, (_, hard) = WatchedText(), resource.getrlimit(resource.RLIMIT_FSIZE)
    out.report = report
    if kind == "limit":  # of the system, on the size of any file; not in all
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        with watching(report) if kind != "limit" else contextlib.nullcontext():
            code, _, err = scenario.run(out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return code, err, count


@functools.cache
def positions(*kinds: str) -> list[tuple[str, str, int]]:
    """Each scenario with each kind of fault at each operation on files, shuffled."""
    result = []
    for name, scenario in SCENARIOS.items():
        sizes = [len(content) for content in expected(name)[1].values() if isinstance(content, bytes)]
        scenario.prepare()
        code, err, count = disturbed(scenario, "none", 0)
        check(code == 0, err)
        for kind in kinds:
            steps = range(0, max(sizes, default=0), 997) if kind == "limit" else range(1, count + 1)
            result += [(name, kind, at) for at in steps]
    random.Random(0).shuffle(result)
    return result


def faults(kinds: Iterable[str]) -> Case:
    """Each scenario with each of these kinds of faults."""
    fill_inputs()
    cases = positions(*kinds)

    def case(rng: random.Random, number: int) -> str:
        name, kind, at = cases[number % len(cases)]
        scenario, (before, after, _), where = SCENARIOS[name], expected(name), f"{name}, {kind}, operation {at}"
        if not Path("in").exists():  # it vanished in the case before
            fill_inputs()
        scenario.prepare()
        failed, err, _ = disturbed(scenario, kind, at)
        one_line = len(err.splitlines()) == failed or (scenario.command == "predict" and failed)
        check(one_line and failed in (0, 1), f"{where}: exit code {failed}, {err!r}")
        hidden = [path for path in Path("out").rglob("*") if path.name[0] == "."]
        check(not hidden or kind in ("read-only", "forbidden"), f"{where}: left {hidden}")
        for file in Path("out").rglob("search.jsonl"):  # its last line may be incomplete
            file.write_bytes(file.read_bytes().rpartition(b"\n")[0] + b"\n")
        for file in Path("out").rglob("checkpoint.npz"):
            storage.read(file, "checkpoint")
        found = state()
        for file, content in found.items():
            other = file.endswith(("checkpoint.npz", "search.jsonl")) or kind == "gone in"  # fewer photos
            check(other or content in (before.get(file), after.get(file)), f"{where}: half written {file}")
        gone = kind.startswith("gone")
        check(gone or before.keys() <= found.keys(), f"{where}: lost {differing(before, found)}")
        check(failed or gone or found == after, f"{where}: success, but {differing(found, after)}")
        if not Path("in").exists():
            fill_inputs()
        if gone:
            scenario.prepare()
        if scenario.command != "data.convert" or found != after:
            code, _, err = scenario.run(*scenario.again)
            check(code == 0, f"{where}: not again: {err}")
            check(state() == after, f"{where}: other files: {differing(state(), after)}")
        return "refused" if failed else "same"

    case.total = len(cases)
    return case


@part(cases=0, quick=150, cpu=20)
def full_disks(folder: Path) -> Case:
    """The disk is full from some write on, or for one write only; or files may have at most so many bytes."""
    return faults(("full", "full once", "limit"))


@part(cases=0, quick=150, cpu=20)
def folders(folder: Path) -> Case:
    """Folders become read-only, or vanish, at any moment."""
    return faults(("read-only", "forbidden", "gone out", "gone in"))


# --- mirrors --------------------------------------------------------------------------------------------------------


def answer(code: int, content: bytes = b"", length: int | None = None, **headers: str) -> Callable:
    """A complete answer of a mirror."""

    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return send


def drip(start: bytes, piece: bytes) -> Callable:
    """An answer that sends a few bytes at a time for a long time."""

    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        for _ in range(100):
            handler.wfile.write(piece)
            time.sleep(0.05)

    return send


def reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@part(cases=0, quick=30, cpu=10)
def mirrors(folder: Path) -> Case:
    """Three mirrors, each good or with a fault, in all orders."""
    x, y, *_ = split(200, 40)
    good, npz = formats.idx_bytes(y), io.BytesIO()
    np.savez_compressed(npz, x_train=x, y_train=y)
    mnist.DIGESTS = {key: hashlib.sha256(good).hexdigest() for key in mnist.DIGESTS}
    mnist.READ_TIMEOUT, mnist.DOWNLOAD_TIMEOUT = 0.5, 1.0
    packed, other = gzip.compress(good, 1), gzip.compress(formats.idx_bytes(9 - y), 1)
    head = b"HTTP/1.0 200 OK\r\nContent-Length: 99999\r\n"
    sends = {
        "good": answer(200, packed),
        "good-npz": answer(200, npz.getvalue()),
        "404": answer(404, b"<html>not here</html>"),
        "403": answer(403),
        "503": answer(503, b"\x1b[31mtry later\n" * 99),
        "page": answer(200, b"<html>log in first</html>"),
        "empty": answer(200),
        "cut": answer(200, packed[:-9], len(packed)),
        "good-longer": answer(200, packed + b"more", len(packed)),
        "other": answer(200, other),
        "raw": answer(200, bytes(range(256)) * 10),
        "bomb": answer(200, data_bombs()[0][1]["train-images-idx3-ubyte.gz"]),
        "too-large": answer(200, bytes(mnist.MAX_BYTES + 2**20)),
        "loop": lambda handler: answer(302, Location=handler.path)(handler),
        "elsewhere": answer(302, Location="ftp://127.0.0.1:9/x"),
        "slow-head": drip(b"HTTP/1.0 200 OK\r\n", b"X-A: b\r\n"),
        "slow-body": drip(head + b"\r\n", b"x"),
        "silent": lambda handler: time.sleep(2),
        "junk": drip(b"\xff\x00\n" * 50, b""),
        "reset": reset,
    }
    orders = list(itertools.product(sends, repeat=3))
    random.Random(0).shuffle(orders)

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # the client has gone
                sends[self.path.split("/")[1]](self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def case(rng: random.Random, number: int) -> str:
        order = orders[number % len(orders)]
        address = f"http://127.0.0.1:{server.server_port}"
        endings = [
            "data.npz" if kind == "good-npz" or (kind[:4] != "good" and rng.random() < 0.3) else "" for kind in order
        ]
        mnist.MIRRORS[:] = [f"{address}/{kind}/{ending}" for kind, ending in zip(order, endings, strict=True)]
        shutil.rmtree("mnist", ignore_errors=True)
        works = next((url for url, kind in zip(mnist.MIRRORS, order, strict=True) if kind.startswith("good")), None)
        log = []
        try:
            content = mnist.fetch("train", "labels", Path("mnist"), log.append)
        except mnist.NotFound as error:
            check(not works, f"{order}: the good mirror was not used: {error}")
            check(all(url in str(error) for url in mnist.MIRRORS), f"{order}: not all are named: {error}")
            check(not Path("mnist").exists(), f"{order}: files are left")
            check(str(error).isprintable(), f"{order}: {str(error)!r}")
            return refused(error)
        check(content == good and log[-1] == f"downloaded from {works}", f"{order}: {log}")
        check(
            [mnist.read_verified("train", "labels", path) for path in Path("mnist").iterdir()] == [good],
            f"{order}: saved",
        )
        return "accepted"

    case.total = len(orders)
    return case


# --- two processes at once --------------------------------------------------------------------------------------------


@part(cases=600, quick=30)
def pairs(folder: Path) -> Case:
    """Two processes at once: trainings and searches of one model, a training and a test, downloads, conversions."""
    fill_inputs()
    names = ["train", "train again", "search", "convert csv"]
    seconds = {name: expected(name)[2] for name in names}
    SCENARIOS["test"].prepare()
    answers = {TEST.run()[1]}
    TRAIN.run()
    answers.add(TEST.run()[1])
    BUSY = (
        "is being trained by another process",
        "is in use by another search",
        "exists: remove it",
        "is being written",
    )

    def case(rng: random.Random, number: int) -> str:
        name = names[number % len(names)]
        scenario, delay = SCENARIOS[name], rng.uniform(0, 1.2) * seconds[name]
        second = TEST if name == "train again" and rng.random() < 0.7 else scenario
        scenario.prepare()
        pids = start(scenario), start(second, delay=delay)
        results = [finish(pid) for pid in pids]
        failed = [err for code, _, err in results if code]
        check(len(failed) < 2, f"{name}: both failed: {failed}")
        for (code, out, err), each in zip(results, (scenario, second), strict=True):
            check(code in (0, 1) and len(err.splitlines()) == (code != 0), f"{name}: exit code {code}, {err!r}")
            check(not code or each is TEST or any(busy in err for busy in BUSY), f"{name}: {err!r}")
            check(code or each is not TEST or out in answers, f"{name}: {out!r}")
        if second is TEST:
            found = {file: content for file, content in state().items() if file in expected(name)[1]}
        else:
            code, _, err = scenario.run(*scenario.again) if scenario.command != "data.convert" else (0, "", "")
            check(code == 0, f"{name}: not again: {err}")
            found = state()
        check(found == expected(name)[1], f"{name}: other files: {differing(found, expected(name)[1])}")
        return "refused" if failed else "same"

    return case


# --- the runs -------------------------------------------------------------------------------------------------------


def one_case(name: str, case: Case, seed: int, number: int) -> tuple[str, float, str]:
    """The outcome of a case, its CPU seconds, and the message of a failure."""
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)  # its signal ends the process, wherever that hangs
    started, printed, message = time.process_time(), os.fstat(2).st_size, ""
    try:
        outcome = case(random.Random(f"{name} {seed} {number}"), number)
    except Broken as error:
        outcome, message = error.kind, str(error)
    except BaseException as error:
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        outcome, message = "crash", f"{type(error).__name__}: {error} ({' '.join(where[-4:])})"
    cpu = time.process_time() - started
    if os.fstat(2).st_size > printed and outcome in WAYS:  # a file, see `work`
        with open("/dev/fd/2") as file:
            outcome, message = "broken", f"printed on stderr: {file.read()[printed:]}"
    if cpu > PARTS[name].cpu:
        outcome, message = "hang", f"{cpu:.1f} s of CPU time, then {outcome}"
    return outcome, cpu, message


def megabytes() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def work(name: str, numbers: list[int], seed: int, scratch: Path, current: SimpleNamespace, pipe: Connection) -> None:
    """The main function of a process: some cases of a part. Sends its figures, and the cases that are left."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    os.chdir(folder)
    os.dup2(os.open("stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND), 2)
    counts, failures, slowest, numbers = Counter(), [], 0.0, list(numbers)
    case = PARTS[name].make(folder)
    start = megabytes()
    while numbers and megabytes() - start < MAX_MEMORY:
        number = current.value = numbers.pop(0)
        outcome, cpu, message = one_case(name, case, seed, number)
        if outcome == "refused" and megabytes() - start > MAX_MEMORY:
            outcome, message = "memory", f"{megabytes() - start:.0f} MB for an input that is refused"
        counts[outcome] += 1
        slowest = max(slowest, cpu)
        if message:
            failures.append((number, outcome, message))
    signal.setitimer(signal.ITIMER_REAL, 0)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in usage)
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)
    pipe.send((counts, failures, slowest, megabytes() - start, cpu, numbers))


def run_part(name: str, cases: int, seed: int, workers: int, scratch: Path) -> dict:
    """All cases of a part, in processes of at most CHUNK cases each: its figures. Prints its failures."""
    context, size = multiprocessing.get_context("fork"), max(1, min(CHUNK, -(-cases // workers)))
    waiting = [list(range(start, min(start + size, cases))) for start in range(0, cases, size)][::-1]
    running, counts, row = {}, Counter(), {"slowest": 0.0, "peak_mb": 0.0, "cpu_s": 0.0}
    with cli.progress_bar(cases, name, " cases") as bar:
        while waiting or running:
            while waiting and len(running) < workers:
                numbers, (near, far) = waiting.pop(), context.Pipe(duplex=False)
                current = context.Value("q", -1, lock=False)
                process = context.Process(target=work, args=(name, numbers, seed, scratch, current, far))
                process.start()
                far.close()
                running[near] = process, numbers, current
            for near in wait(list(running)):
                process, numbers, current = running.pop(near)
                try:
                    found, failures, slowest, peak, cpu, left = near.recv()
                except EOFError:  # the process died: the case is the failure, the others are repeated
                    process.join()
                    kind = "hang" if process.exitcode == -signal.SIGALRM else "crash"
                    left = [number for number in numbers if number != current.value]
                    found, failures = Counter([kind]), [(current.value, kind, f"exit code {process.exitcode}")]
                    slowest = peak = cpu = 0.0
                process.join()
                counts += found
                bar.update(found.total())
                row["slowest"], row["peak_mb"] = max(row["slowest"], slowest), max(row["peak_mb"], peak)
                row["cpu_s"] += cpu
                for number, kind, message in failures:
                    cli.print_row(
                        f"FAILED --part {name} --seed {seed} --case {number}: {kind}: {cli.one_line(message)}"
                    )
                if left:
                    waiting.append(left)
    row = {key: round(value, 2) for key, value in row.items()}
    return {"part": name, "seed": seed, "cases": cases} | {way: counts[way] for way in WAYS + FAILURES} | row


def main() -> int:
    """Run the parts that are asked for, print a row of figures for each, and the verdict."""
    parser = cli.Parser(prog="torture.py", description="Test the promises of this project at length.")
    parser.add_argument("--quick", action="store_true", help="a sample of every part; writes no results")
    parser.add_argument("--scale", type=float, default=1, help="fraction of the cases; below 1 it writes no results")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers [0]")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="only these parts: " + ", ".join(PARTS))
    parser.add_argument("--case", type=int, help="only this case")
    parser.add_argument("--workers", type=int, default=2, help="processes [2]")
    arguments = parser.parse_args()
    results = {}
    if RESULTS.exists() and not arguments.quick and arguments.scale == 1:
        results = {row["part"]: row for row in csv.DictReader(RESULTS.read_text().splitlines())}
    names = arguments.part or [name for name in PARTS if name not in results]
    widths = [max(12, len(column)) if column == "part" else max(8, len(column)) for column in COLUMNS]
    print(cli.format_row(COLUMNS, widths))
    failed = total = 0
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in memory, where there is such a folder
    with tempfile.TemporaryDirectory(prefix="torture-", dir=shared) as scratch:
        patch(Path(scratch))
        for name in names:
            (warm := Path(scratch, "warm")).mkdir()
            os.chdir(warm)
            case = PARTS[name].make(warm)  # here too: what it caches is then there in every process
            cases = getattr(case, "total", 0) or PARTS[name].cases
            if arguments.case is not None:
                print(*one_case(name, case, arguments.seed, arguments.case))
                continue
            cases = min(cases, PARTS[name].quick) if arguments.quick else max(1, round(cases * arguments.scale))
            row = run_part(name, cases, arguments.seed, arguments.workers, Path(scratch))
            print(cli.format_row([row[column] for column in COLUMNS], widths), flush=True)
            shutil.rmtree(warm)
            failed, total = failed + sum(row[kind] for kind in FAILURES), total + cases
            if not arguments.quick and arguments.scale == 1:
                results[name] = row
                storage.write_csv(RESULTS, COLUMNS, [results[name] for name in PARTS if name in results])
    print(f"{total:,} cases: {f'{failed:,} PROMISES BROKEN' if failed else 'no promise was broken'}")
    return 1 if failed else 0


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


if __name__ == "__main__":
    sys.exit(main())
