"""What the commands share: a mistake is one line and an exit code, notes go to stderr, long work has a bar.

Exit codes: 0 done, 1 the work failed (data, model, divergence), 2 wrong usage, 130 stopped with Ctrl-C.
"""

import argparse
import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TextIO

from tqdm import tqdm

from data import DataError
from network import DivergenceError, Network
from recipe import RecipeError
from storage import StorageError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that takes no abbreviations."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def command(main: Callable[[list[str] | None], int | None]) -> Callable[[list[str] | None], int]:
    """Make `main` return an exit code whatever happens, with one line on stderr for what the user can mend."""

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # a caller may have closed them
        try:
            with contextlib.suppress(AttributeError):  # a name that the terminal cannot show is shown as well as it can
                sys.stdout.reconfigure(errors="backslashreplace")
            try:
                return main(argv) or 0
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            return fail("stopped", 130)
        except RecipeError as error:
            return fail(str(error), 2)
        except (DataError, StorageError, DivergenceError) as error:
            return fail(str(error), 1)
        except MemoryError:
            return fail("not enough memory: use a smaller network or smaller batches", 1)
        except BrokenPipeError:  # the reader of our output went away, as in `train.py | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return fail(f"{error.filename or 'cannot write'}: {error.strerror or error}", 1)

    return guarded


def _nowhere() -> TextIO:
    """A stream to write to in vain."""
    return Path(os.devnull).open("w")


def fail(message: str, code: int) -> int:
    """Say in one line on stderr what went wrong; returns the exit code."""
    program = Path(sys.argv[0])
    note(f"{program.parent.name if program.stem == '__main__' else program.name}: {message}")
    return code


def note(line: str) -> None:
    """A line for the reader on stderr, above any progress bar."""
    tqdm.write(printable(line), file=sys.stderr)


def printable(text: str) -> str:
    """The text with what would not stay on its line, such as a line break in a file's name, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def bar(items: Iterable, text: str = "training") -> Iterable:
    """A progress bar over `items` on a terminal; nothing at all in a pipe."""
    return tqdm(items, desc=text, leave=False, disable=None)


def meter(total: int, text: str) -> tqdm:
    """A progress bar to be moved by hand, for work that is not a loop; lines above it are printed with `show`."""
    return tqdm(total=total, desc=text, leave=False, disable=None)


def show(line: str) -> None:
    """A line on stdout, at once, above any progress bar."""
    tqdm.write(line)
    sys.stdout.flush()


def folder(text: str | None) -> Path | None:
    """The folder that --data-dir names, if it does."""
    return Path(text) if text else None


def model(path: Path) -> Network:
    """The network in a model file, if it tells digits apart. StorageError."""
    network = Network.load(path)
    if network.classes != 10 or math.prod(network.input_shape) != 784:
        raise StorageError(f"{path} is a model, but not one that tells ten digits on 28 x 28 pixels apart")
    return network
