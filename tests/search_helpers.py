"""What the tests of the search share: small configs, results without training, workers without processes."""

import contextlib
import json
import subprocess
import time
from concurrent.futures import Future

from app.config import Config
from search.methods import Search
from search.space import Dimension
from search.trial import Journal

SMALL = Config(hidden=[8], epochs=4, batch_size=50, validation=100, dataset="tiny")
RESULT = {"trial": 1, "id": "a", "seed": 0, "settings": {"lr": 0.1}, "from": 0, "epochs": 1, "status": "ok",
          "reason": "", "validation_accuracy": [0.5], "validation_loss": [1.2], "seconds": 0.1}  # fmt: skip
DIVERGED = {
    "status": "diverged",
    "reason": "lower lr",
    "validation_accuracy": [],
    "validation_loss": [],
    "seconds": 0.0,
}


def dimensions(**values):
    return {name: Dimension.read(name, given) for name, given in values.items()}


def made_up(config):
    """The result of a trial, without training: best at lr 0.2 and weight decay 0; above lr 1 it diverges."""
    if config.lr > 1:
        return DIVERGED
    level = 0.9 - abs(config.lr - 0.2) - config.weight_decay / 10 - 0.01 * config.seed * (config.lr == 0.2)
    epochs = range(1, config.epochs + 1)
    accuracies, losses = [level * e / (e + 1) for e in epochs], [1 / e for e in epochs]
    return DIVERGED | {"status": "ok", "reason": "", "validation_accuracy": accuracies, "validation_loss": losses,
                       "seconds": float(config.epochs)}  # fmt: skip


def completed(function, *arguments):
    """A future with the result of function(*arguments)."""
    future = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


class Submit:
    """Computes at once, and remembers what was submitted: (lr, weight_decay, seed, epochs)."""

    def __init__(self, function=made_up):
        self.function, self.submitted = function, []

    def __call__(self, config):
        self.submitted.append((config.lr, config.weight_decay, config.seed, config.epochs))
        return completed(self.function, config)


@contextlib.contextmanager
def open_search(config, folder, submit):
    with contextlib.closing(Journal(folder / "search.jsonl", config.description("fingerprint"))) as journal:
        yield Search(config, "fingerprint", journal, submit)


def run_search(config, folder, submit=None):
    """Run a search to its end: the search, and the results in the order in which they came in."""
    with open_search(config, folder, submit or Submit()) as search:
        return search, list(search.run())


@contextlib.contextmanager
def in_process_pool(workers, arrays, folder):
    """In place of `workers.local_pool`: trains at once, in this process."""
    yield lambda function, *arguments: completed(function, *arguments, *arrays)


def journal_content(path):
    """The rows of a journal without their order and times; fails if a result is there twice."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(row["id"], row["epochs"]) for row in rows[1:]]
    assert len(keys) == len(set(keys)), "a result is there twice"
    return sorted(json.dumps({**row, "seconds": 0, "check": 0}, sort_keys=True) for row in rows)


def group(process):
    """The living processes of a process group: its leader and the workers."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(process.pid) and "Z" not in line.split()[1]]


def is_gone(process, seconds=10):
    """Whether the process and its workers end in this time."""
    end = time.monotonic() + seconds
    while group(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not group(process)
