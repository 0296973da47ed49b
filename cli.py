"""What the commands share: a mistake is one line and an exit code, notes go to stderr, long work has a bar.

Exit codes: 0 done, 1 the work failed (data, model, divergence), 2 wrong usage, 130 stopped with Ctrl-C.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from data import DataError
from network import DivergenceError
from recipe import RecipeError
from storage import StorageError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def command(main: Callable[[list[str] | None], int | None]) -> Callable[[list[str] | None], int]:
    """Make `main` return an exit code whatever happens, with one line on stderr for what the user can mend."""

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            return fail("stopped", 130)
        except RecipeError as error:
            return fail(str(error), 2)
        except (DataError, StorageError, DivergenceError) as error:
            return fail(str(error), 1)
        except BrokenPipeError:  # the reader of our output went away, as in `train.py | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)

    return guarded


def fail(message: str, code: int) -> int:
    """Say in one line on stderr what went wrong; returns the exit code."""
    program = Path(sys.argv[0])
    note(f"{program.parent.name if program.stem == '__main__' else program.name}: {message}")
    return code


def note(line: str) -> None:
    """A line for the reader on stderr, above any progress bar."""
    tqdm.write(line, file=sys.stderr)


def bar(items: Iterable, text: str = "training") -> Iterable:
    """A progress bar over `items` on a terminal; nothing at all in a pipe."""
    return tqdm(items, desc=text, leave=False, disable=None)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """The flag that says where MNIST lies."""
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files ($MNIST_DIR, else data/raw)")


def count(text: str) -> int:
    """A whole number of at least 1, as the type of a flag."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number
