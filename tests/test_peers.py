"""The programs in tests/bench: their tables, their figure, short runs."""

import contextlib
import importlib.util
import os
import subprocess
import sys

import pytest

from .bench import tables
from .conftest import ROOT

BENCH = ROOT / "tests" / "bench"


@pytest.fixture
def peers(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("peers", BENCH / "peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rounds(*seconds):
    return [{"seconds": s, "memory": 100 * s, "inference": 1e5 / s, "startup": s / 10} for s in seconds]


RESULTS = {"ours": rounds(2, 3, 4), "JAX": rounds(4, 12, 4)}


def test_ratios_are_of_the_same_round(peers):
    header, seconds, memory, inference, startup = peers.table(RESULTS)
    assert header == ["", "ours", "JAX"]
    assert seconds == ["time to 98 % test accuracy", "3.00 s", "4.00 s (2.00x, 1.00 to 4.00)"]
    assert memory[1:] == ["300 MB", "400 MB (2.00x, 1.00 to 4.00)"] and startup[1] == "0.30 s"
    assert inference[2] == "25,000 (0.50x, 0.25 to 1.00)"


@pytest.mark.figures
def test_the_figure_has_a_bar_for_everyone(peers, tmp_path):
    peers.figure(RESULTS, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes()[:4] == b"\x89PNG"


def test_the_learning_rate_falls_to_0(peers):
    assert peers.rate(0) == peers.LR and peers.rate(0.5) == pytest.approx(peers.LR / 2) and peers.rate(1) == 0


def test_no_published_table_loses_a_column():
    tables.require("json")
    with pytest.raises(SystemExit, match=r": not installed: not_installed: pip install"):
        tables.require("json", "not_installed")


STUBBORN = """
import contextlib, os, signal
from tests.bench import tables
def main():
    with contextlib.suppress(KeyboardInterrupt):  # as in scikit-learn's MLPClassifier
        os.kill(os.getpid(), signal.SIGINT)
    print("goes on")
tables.start(main)
"""


def test_ctrl_c_always_ends_a_program_with_one_line():
    done = subprocess.run([sys.executable, "-c", STUBBORN], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "-c: stopped\n")


@pytest.mark.parametrize("exit_code, shown", [(0, "a warning\n"), (1, "a warning\n"), (130, "")])
def test_a_command_that_fails_ends_the_program(exit_code, shown, capsys):
    code = f"import sys; print('a warning', file=sys.stderr); print(1); sys.exit({exit_code})"
    with pytest.raises(SystemExit, match=str(exit_code)) if exit_code else contextlib.nullcontext():
        assert tables.run("-c", code) == "1\n"
    assert capsys.readouterr().err == shown


def test_an_imported_benchmark_does_not_limit_the_threads():
    """The commands that later tests start would inherit that, and round differently."""
    code = "import os; before = dict(os.environ); import tests.bench.photos; assert os.environ == before"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MNIST_DIR"), reason="needs MNIST")
def test_a_short_run():
    """Everyone who is installed reaches the target."""
    command = [sys.executable, BENCH / "peers.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    assert "time to 98 % test accuracy | " in done.stdout and "nan" not in done.stdout


@pytest.mark.slow
def test_a_short_run_beside_busy_programs():
    command = [sys.executable, BENCH / "busy.py", "--rounds", "1", "--seconds", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    assert [row.split("  ")[0] for row in map(str.strip, done.stdout.splitlines())][:2] == ["busy programs", "ours"]
