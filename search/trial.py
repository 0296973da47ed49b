"""A trial: its training, its score, and the journal, which is the results file of a search."""

import json
import math
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import storage
from app.config import Config, differing_keys
from app.training import is_finite_number
from network import DivergenceError

TYPES = {"trial": int, "id": str, "seed": int, "settings": dict, "from": int, "epochs": int, "status": str,
         "reason": str, "validation_accuracy": list, "validation_loss": list, "seconds": float}  # fmt: skip


class SearchError(ValueError):
    """A search that cannot continue; the message says why, and what to do."""

    exit_code = 1


@dataclass
class Trial:
    """A config to try. `id` is a hash of everything that affects its result."""

    number: int
    config: Config
    id: str


def train_trial(config: Config, *arrays: np.ndarray) -> dict:
    """Train the network of a config from the start: the task of a worker.

    arrays: training images, labels, validation images, labels. Returns status ("ok" or "diverged"), reason ("" if ok),
    the validation accuracy and loss of each epoch, and the seconds of training.
    """
    images, labels, *validation = map(np.asarray, arrays)
    result = {"status": "ok", "reason": "", "validation_accuracy": [], "validation_loss": []}
    started = time.perf_counter()
    try:
        for record in config.build_network().fit(images, labels, validation, **config.fit_settings()):
            for key in "validation_accuracy", "validation_loss":
                result[key].append(record[key])
    except DivergenceError as error:
        result |= {"status": "diverged", "reason": str(error)}
    return result | {"seconds": round(time.perf_counter() - started, 3)}


def score(result: dict) -> tuple[float, float]:
    """The validation accuracy of the best epoch, and minus its loss; (-1, -inf) for a trial that is not ok."""
    if result["status"] != "ok":
        return -1.0, -math.inf
    epochs = zip(result["validation_accuracy"], result["validation_loss"], strict=True)
    return max((accuracy, -loss) for accuracy, loss in epochs)


def checksum(record: dict) -> int:
    """The CRC-32 of a record's JSON."""
    return zlib.crc32(json.dumps(record).encode())


def is_intact(result: dict) -> bool:
    """Whether a line of the file is a result that was not damaged; removes its checksum."""
    if result.pop("check", None) != checksum(result) or {key: type(value) for key, value in result.items()} != TYPES:
        return False
    accuracies, losses = result["validation_accuracy"], result["validation_loss"]
    if result["status"] not in ("ok", "diverged", "failed") or len(accuracies) != len(losses):
        return False
    complete = result["status"] != "ok" or len(losses) == result["epochs"] > 0
    return complete and all(map(is_finite_number, [*accuracies, *losses, result["seconds"]]))


class Journal:
    """The results file: a line of JSON that describes the search, then one for each result.

    A result is a trial trained for a number of epochs. It has the keys TYPES; `from` is always 0, and is there for
    programs that read the file. In the file each line has a CRC-32 too, under the key `check`.
    """

    def __init__(self, path: Path, search: dict) -> None:
        """Open or create the file. SearchError if it is of another search, damaged, or open in another process."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            if not storage.try_lock(self._file):
                raise SearchError(f"{path} is in use by another search")
            self.results, end = self._read(search)
        except SearchError:
            self.close()
            raise
        self.resumed = bool(self.results)
        if end < path.stat().st_size:
            self._file.truncate(end)
        if not end:
            self._write({"search": search})

    def _read(self, search: dict) -> tuple[dict[tuple[str, int], dict], int]:
        """The results by trial and epochs, and where to continue: a crash may have left an incomplete last line."""
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        try:
            first, *results = [json.loads(line) for line in content[:end].splitlines()] or [{"search": search}]
            mine, other = ({**each, **each.get("recipe", {}), "recipe": {}} for each in (search, first["search"]))
            different = differing_keys(mine, other)
            if not different and not all(map(is_intact, results)):
                raise ValueError
            finished = {(r["id"], r["epochs"]): r for r in results if r["status"] != "failed"}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise SearchError(f"{self.path} is damaged: remove it, or give another --out") from None
        if different and results:
            reason = f"{self.path} is of a search with other settings ({different})"
            raise SearchError(f"{reason}: give another --out, or remove it")
        return finished, 0 if different else end

    def add(self, result: dict) -> None:
        """Add a result, in memory and on disk."""
        self._write(result)
        self.results[result["id"], result["epochs"]] = result

    def _write(self, record: dict) -> None:
        self._file.write(json.dumps(record | {"check": checksum(record)}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, so that another search may open it."""
        self._file.close()
