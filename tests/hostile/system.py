"""Kills, full disks, read-only and vanishing folders, two processes at once."""

import contextlib
import errno
import functools
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple
from unittest import mock

import numpy as np
from tqdm import tqdm

import storage
from tests import search_helpers
from tests.conftest import ROOT
from tests.hostile import Case, call, check, fill, part, split


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
        tqdm.set_lock(threading.RLock())  # the usual one is shared by all processes: a killed one would keep it
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
            file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(True) if line[-1:] == b"\n"))
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


@part(cases=0, quick=100, cpu=20)
def full_disks(folder: Path) -> Case:
    """The disk is full from some write on, or for one write only; or files may have at most so many bytes."""
    return faults(("full", "full once", "limit"))


@part(cases=0, quick=100, cpu=20)
def folders(folder: Path) -> Case:
    """Folders become read-only, or vanish, at any moment."""
    return faults(("read-only", "forbidden", "gone out", "gone in"))


# --- two processes at once ---


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
