"""What all commands share: errors in one line with an exit code, messages on stderr, tables, progress bars.

Exit codes: 0 success, 1 the work failed (data, model, divergence), 2 wrong usage, 130 stopped with Ctrl-C, 143 with
SIGTERM, 129 with SIGHUP.
"""

import argparse
import atexit
import contextlib
import difflib
import functools
import io
import os
import re
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

MAX_MESSAGE = 300  # characters of a message on stderr


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that accepts no abbreviations."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        unknown = re.match("unrecognized arguments: (?:.* )?--?([A-Za-z][A-Za-z_-]{1,40})", message)
        flag = f"--{unknown[1].lower()}" if unknown else ""
        if close := difflib.get_close_matches(flag, self._option_string_actions, 1, cutoff=0.7):
            message += f" (did you mean {close[0]}?)"
        self.exit(2, one_line(f"{self.prog}: {message}; see {self.prog} --help") + "\n")

    def parse_args(self, *arguments: Any) -> argparse.Namespace:
        """As always, but flags may stand between the paths, and `--flag --` is an error: argparse takes it for a flag
        with an empty list of values.
        """
        result = self.parse_intermixed_args(*arguments)
        for action in self._actions:
            if action.nargs is None and getattr(result, action.dest, None) == []:
                self.error(f"argument {action.option_strings[0]}: expected one argument")
        return result

    def add_data_dir(self) -> None:
        """Add the flag --data-dir."""
        self.add_argument("--data-dir", type=Path, help="folder with MNIST's files ($MNIST_DIR, else data/raw)")


def positive_int(text: str) -> int:
    """An integer of at least 1, for the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(main: Callable[[list[str] | None], int | None]) -> Callable[[list[str] | None], int]:
    """Make `main` always return an exit code, with one line on stderr for errors that the user can fix.

    These are exceptions with an attribute `exit_code`, Ctrl-C, missing memory, and errors of the system. Any other
    exception is a bug and gives a traceback.
    """

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()  # None if closed
        received: list[int] = []
        try:
            with contextlib.suppress(AttributeError):  # escape characters that the terminal cannot show
                sys.stdout.reconfigure(errors="backslashreplace")
            try:
                with _signals_as_ctrl_c(received):
                    return main(argv) or 0
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt as interrupt:
            return fail_stopped(interrupt, "stopped")
        except MemoryError:
            return fail("not enough memory: use a smaller network, smaller batches or fewer images", 1)
        except BrokenPipeError:  # the reader of our output has gone, as in `train.py | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return fail(f"{error.filename or 'cannot write'}: {error.strerror or error}", 1)
        except Exception as error:
            if hasattr(error, "exit_code"):
                return fail(str(error), error.exit_code)
            if received:  # a library replaced the KeyboardInterrupt by an error of its own
                return fail("stopped", 128 + received[-1])
            raise

    return guarded


def exit_process(exit_code: int) -> NoReturn:
    """End the program; after Ctrl-C or a signal at once, without taking the interpreter apart.

    When an import of compiled code was interrupted, Python sometimes aborts while it does that (1 of 3,600 stops).
    """
    if exit_code > 128:
        atexit._run_exitfuncs()  # of libraries, such as the one that removes Matplotlib's temporary folder
        os._exit(exit_code)
    sys.exit(exit_code)


@contextlib.contextmanager
def _signals_as_ctrl_c(received: list[int]) -> Iterator[None]:
    """Handle SIGTERM and SIGHUP as Ctrl-C, so that they lose nothing, but with their own exit codes.

    Adds the number of each of these signals, and of Ctrl-C, to `received`.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}  # nohup ignores SIGHUP
    usual = {number: old for number, old in handlers.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for number in usual:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, old in usual.items():
            signal.signal(number, old)


def fail_stopped(interrupt: KeyboardInterrupt, message: str) -> int:
    """`fail` after Ctrl-C, SIGTERM or SIGHUP, with the exit code of the signal."""
    return fail(message, *(interrupt.args or (130,)))


def fail(message: str, exit_code: int) -> int:
    """Print an error in one line on stderr; returns the exit code."""
    program = Path(sys.argv[0])
    warn(f"{program.parent.name if program.stem == '__main__' else program.name}: {message}")
    return exit_code


def warn(message: str) -> None:
    """Print one line on stderr, above any progress bar."""
    tqdm.write(one_line(message), file=sys.stderr)


def one_line(message: str) -> str:
    """The message in one printable line of at most MAX_MESSAGE characters: of a longer one, the middle is left out."""
    message = printable(message)
    if len(message) <= MAX_MESSAGE:
        return message
    half = (MAX_MESSAGE - len(" ... ")) // 2
    return f"{message[:half]} ... {message[-half:]}"


def printable(text: str) -> str:
    """The text in one line: characters that cannot be printed, such as line breaks, become escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def progress(items: Iterable | None = None, text: str = "training", **options) -> tqdm:
    """Iterate with a progress bar on a terminal, without one in a pipe. Without items, move it with `update`."""
    return tqdm(items, desc=text, leave=False, disable=None, **options)


def print_row(row: str) -> None:
    """Print one line on stdout at once, above any progress bar."""
    tqdm.write(row)
    sys.stdout.flush()


def format_row(cells: Sequence[Any], widths: Sequence[int]) -> str:
    """A row of a table: each cell right-aligned to its width, two spaces between them."""
    return "  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True))


def first_and_last(paths: Sequence[Any]) -> str:
    """The path, or of several the first and the last one: a.npz ... c.npz."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} ... {paths[-1]}"


def format_mean_std(scores: Sequence[float]) -> str:
    """Mean and sample standard deviation, 0.9850 +- 0.0004; a single score alone, 0.9850."""
    std = f" +- {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.4f}{std}"
