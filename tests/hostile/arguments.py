"""Hostile command lines."""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

from app import cli, drawing
from tests.conftest import ROOT
from tests.hostile import Broken, Case, call, check, commands, fill, part

WORDS = "0 1 2 -1 8 0.5 1e9 1e400 -inf nan 0x10 1_000 - -- true 0.01..0.1 1..0 .. 1..2:cubic 8,16 a,b auto".split()
WORDS += ["", " ", "mnist", "synthetic", "relu", "conv 2 3, pool 2", "conv 99999999 1", "dense 0", "dense " * 200]
WORDS += [", ,", "9" * 400, "\x1b[2J", "a\nb", "\udcff", "x" * 5000, "é" * 200, "\r\t", "\u0663"]
PATHS = "m.npz bad.npz tiny.npz tiny.npz/x photo.png bad.png photos idx c.toml bad.toml s.toml . none.npz".split()
PATHS += "none/x.npz new.npz new.csv new.png new new.pkl.gz new.csv.gz photos/1.png pipe loop locked.npz".split()
PATHS += ["locked/x.npz", "../none", "/dev/null", "/dev/full", "/proc/none/x", "~", "a" * 255, "\x07.png"]


class ValidArguments(Exception):
    """Raised in place of a training or a search: the arguments were accepted."""


def accept(*arguments: object, **more: object) -> None:
    """In place of a training, a search, or the drawing window."""
    raise ValidArguments


def check_messages(name: str, code: int, err: str) -> None:
    """Broken unless a failure is one printable line on stderr (of predict.py, one for each photo), after warnings."""
    lines = err.splitlines()
    check(code in (0, 1, 2), f"exit code {code}: {err}")
    check(
        all(line.isprintable() and len(line) <= cli.MAX_MESSAGE for line in lines), f"not printable, or long: {err!r}"
    )
    errors = [line for line in lines if not line.startswith(("WARNING", "downloading ", "the shipped model"))]
    check(len(errors) == (code != 0) or (code == 1 and name == "predict" and errors), f"exit code {code}: {err!r}")
    check(code != 2 or len(lines) == 1, f"several lines: {err!r}")


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
    heavy = (commands()["train"], "train"), (commands()["hp_search"], "run"), (drawing, "open_window")

    def case(rng: random.Random, number: int) -> str:
        name = rng.choice(list(flags))
        words = vector(rng, flags[name])
        try:
            with contextlib.ExitStack() as stack:
                for place in heavy:
                    stack.enter_context(mock.patch.object(*place, accept))
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
