"""Put measured tables and output into README.md and docs/*.md, so that no number there is typed by hand.

What was written is kept in tests/bench/log/ too; tests/test_readme.py compares the pages with it.
"""

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
LOG = ROOT / "tests" / "bench" / "log"
PROGRAM = Path(sys.argv[0]).name
STOPPED = 130  # exit code after Ctrl-C
sys.path.insert(0, str(ROOT))  # for the programs that import the project


def start(main: Callable[[], None]) -> None:
    """Run a program. Ctrl-C ends it with one line, as SystemExit: scikit-learn goes on after a KeyboardInterrupt."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(STOPPED))
    try:
        main()
    except SystemExit as end:
        if end.code == STOPPED:
            print(f"{PROGRAM}: stopped", file=sys.stderr)
        raise


def require(*modules: str) -> None:
    """Exit with a message unless these are installed: no published table loses a column."""
    if missing := [name for name in modules if not find_spec(name)]:
        sys.exit(f"{PROGRAM}: not installed: {', '.join(missing)}: pip install -r tests/bench/requirements.txt")


def machine() -> str:
    """One line about the machine, the versions, and the kernels of BLAS if the environment sets them."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.M)
    cores = f"{len(models)} cores of {models[0]}" if models else platform.machine()
    kernels = os.environ.get("OPENBLAS_CORETYPE")
    blas = f" (OPENBLAS_CORETYPE={kernels})" if kernels else ""
    return f"{cores}, {platform.system()}, Python {platform.python_version()}, NumPy {np.__version__}{blas}"


def chosen(description: str, names: list[str], **flags: str) -> argparse.Namespace:
    """The command line: names, by default all, and flags with their help. Exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)} (all)")
    for flag, text in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - {*names}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the names are {', '.join(names)}")
    arguments.names = arguments.names or names
    return arguments


def run(*command: str | Path, cwd: Path = ROOT, **options) -> str:
    """Run one of the project's commands, in its folder or another one; returns its output. SystemExit if it fails."""
    done = subprocess.run([sys.executable, *command], cwd=cwd, text=True, capture_output=True, **options)
    if done.returncode != STOPPED:  # Ctrl-C stops this program too, which says so
        sys.stderr.write(done.stderr)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def mean_std(output: str) -> tuple[float, float]:
    """Mean and std, in percent, from the last line of test.py for several models."""
    return tuple(100 * float(text) for text in re.search(r"(0\.\d+) \+- (0\.\d+)", output.splitlines()[-1]).groups())


def page(name: str) -> Path:
    """The page that has the marks of the table `name`."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return next(path for path in pages if f"<!-- {name} -->" in path.read_text())


def read_rows(name: str) -> list[list[str]]:
    """The rows of the table between the marks of `name`, the header first."""
    block = re.search(rf"<!-- {name} -->(.*)<!-- /{name} -->", page(name).read_text(), re.S)[1]
    found = [[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines() if row[:1] == "|"]
    return [row for i, row in enumerate(found) if i != 1]


def write_block(name: str, text: str) -> None:
    """Replace the text between the marks of `name`, and write it to the log."""
    LOG.mkdir(exist_ok=True)
    (LOG / f"{name}.md").write_text(f"{text}\n")
    path = page(name)
    block = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
    path.write_text(re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _: block, path.read_text(), flags=re.S))


def write_table(name: str, rows: list[list[str]], remark: str = "") -> None:
    """Write a table, whose first row is the header, and a remark between the marks of `name`."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    write_block(name, f"{table}\n\n{remark}" if remark else table)
