"""A trial is a recipe to be tried. What is here trains it for a while, says how well it did, and writes that down."""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows, where two searches at once are not noticed
    fcntl = None

from network import DivergenceError
from recipe import Recipe, flag

KEYS = set("trial id seed settings from epochs status validation_accuracy validation_loss seconds".split())  # of a line


class SearchError(ValueError):
    """A search that cannot go on; the message says why, and what helps."""


@dataclass
class Trial:
    """A recipe to be tried. `id` is a hash of everything that decides how it will do."""

    number: int
    recipe: Recipe
    id: str


def advance(
    recipe: Recipe, epochs: int, history: list[dict], state: dict[str, np.ndarray], *digits: np.ndarray
) -> dict:
    """Train a trial on to the end of an epoch, from its `state` or from the beginning: what a worker does.

    digits: training images, labels, validation images, labels. Returns the new history, the state unless that was
    the last epoch, and how it went.
    """
    images, labels, *validation = map(np.asarray, digits)
    network = recipe.network()
    if history:
        network.velocity = state["velocity"]
        network.restore(state)
    history, started, outcome = list(history), time.perf_counter(), {"status": "ok", "reason": ""}
    try:
        settings = recipe.fit_settings()
        for record in network.fit(images, labels, validation, history=history, until=epochs, **settings):
            history.append(record)
    except DivergenceError as error:
        outcome = {"status": "diverged", "reason": str(error)}
    seconds = time.perf_counter() - started
    state = network.snapshot() | {"velocity": network.velocity.copy()} if epochs < recipe.epochs else {}
    return outcome | {"history": history, "state": state, "seconds": seconds}


def score(line: dict) -> tuple[float, float]:
    """How good a result is: the validation accuracy of its best epoch, then minus its loss there; higher is better."""
    if line["status"] != "ok":
        return -1.0, -math.inf
    return max((a, -loss) for a, loss in zip(line["validation_accuracy"], line["validation_loss"], strict=True))


class Journal:
    """The results file: a line of JSON that says which search this is, then one for each finished rung of a trial."""

    def __init__(self, path: Path, search: dict) -> None:
        """Open the file, or begin it. SearchError if it belongs to another search, or another process has it open."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.lines, end = self._read(search)
        except BlockingIOError:
            self.close()
            raise SearchError(f"{path} is in use: another search is writing there") from None
        except SearchError:
            self.close()
            raise
        self.resumed = bool(self.lines)
        if end < self.path.stat().st_size:
            self._file.truncate(end)
        if not end:
            self._write({"search": search})

    def _read(self, search: dict) -> tuple[dict[tuple[str, int], dict], int]:
        """The results by trial and epochs, and where the last of them ends: a crash may have torn the next."""
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        try:
            first, *rest = [json.loads(line) for line in content[:end].splitlines()] or [{"search": search}]
            if any(not line.keys() >= KEYS for line in rest):
                raise ValueError
            lines = {(line["id"], line["epochs"]): line for line in rest if line["status"] != "failed"}
            different = [flag(name) for name in search if first["search"].get(name) != search[name]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise SearchError(f"{self.path} is damaged: remove it, or give another --out") from None
        if different and rest:
            raise SearchError(f"{self.path} is of a search with another {', '.join(different)}: give another --out")
        return lines, 0 if different else end

    def add(self, line: dict) -> None:
        """Take in a result, and put it on the disk."""
        self._write(line)
        self.lines[line["id"], line["epochs"]] = line

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()
