"""app/cli.py: errors in one line, exit codes, tables."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import cli
from storage import StorageError

from .conftest import ROOT, train_process


def test_names_stay_on_their_line():
    assert cli.printable("a\nb\x1b[31m é") == "a\\nb\\x1b[31m é"


def test_a_long_message_loses_its_middle():
    text = "start " + "x\n" * 10**6 + " end"
    line = cli.one_line(text)
    assert 290 < len(line) <= 300 and line.startswith("start x\\n") and " ... " in line and line.endswith(" end")
    assert cli.one_line("x" * 300) == "x" * 300 and len(cli.one_line("x" * 301)) <= 300


def one_short_line(stderr):
    return stderr.endswith("\n") and stderr[:-1].isprintable() and len(stderr) <= 301


def test_warnings_and_errors_are_one_short_line(capsys):
    for message in "a\nb\x1b[31m", "x" * 10**5:
        cli.warn(message)
        assert one_short_line(capsys.readouterr().err)
        assert cli.fail(message, 1) == 1
        assert one_short_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "argument", ["--wings\n2", "--lr=a\nb\x1b[31m", "--activation=\x1b]0;title\x07", "--x" * 10**5]
)
def test_errors_about_arguments_are_one_short_line(run, argument):
    code, _, err = run("train", argument)
    assert code == 2 and one_short_line(err) and err.startswith("train.py: ")
    assert err.endswith("; see train.py --help\n")


@pytest.mark.parametrize(
    "argument, meant",
    [("--epoch=1", "--epochs"), ("--weight_decay", "--weight-decay"), ("-LR", "--lr"), ("x.toml --sed", "--seed"),
     ("configs/softmax.toml", None), ("--model", None)],
)  # fmt: skip
def test_an_unknown_argument(run, argument, meant):
    code, out, err = run("train", *argument.split(), "5")
    hint = f" (did you mean {meant}?)" if meant else ""
    assert (code, out, err) == (2, "", f"train.py: unrecognized arguments: {argument} 5{hint}; see train.py --help\n")


@pytest.mark.parametrize("words", [["--config", "--"], ["--lr", "--"], ["--lr", "--", "--"]])
def test_a_flag_without_its_value(run, words):
    code, out, err = run("train", *words)
    assert (code, out) == (2, "") and err.count("\n") == 1


def test_integers_with_commas(run):
    code, _, err = run("train", "--hidden", "256,128")
    assert code == 2 and "integers are divided by spaces: 256 128, not '256,128'" in err


@pytest.mark.parametrize("exit_code", [0, 1, 130, 143])
def test_a_stopped_program_is_not_taken_apart(exit_code):
    code = f"""
import atexit, os
from app import cli
class Aborts:
    def __del__(self):
        os.abort()
aborts = Aborts() if {exit_code} > 128 else None
atexit.register(print, "cleaned up", flush=True)
cli.exit_process({exit_code})"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "cleaned up\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_is_full_or_closed(archive, train, tmp_path):
    train("--epochs", 1, "--out", "m.npz")
    test = [sys.executable, ROOT / "test.py", "--model", tmp_path / "m.npz", "--dataset", archive]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(test, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "test.py: cannot write: No space left on device\n"
    for closed, other in (1, "stderr"), (2, "stdout"):
        done = subprocess.run(test, preexec_fn=lambda fd=closed: os.close(fd), **{other: subprocess.PIPE}, text=True)
        assert done.returncode == 0 and "Traceback" not in (done.stderr or "")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_closed_pipe(archive, tmp_path, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = train_process("--dataset", archive, "--epochs", 3, "--out", "m.npz", cwd=tmp_path, env=environment)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 1
    process.stderr.close()


@pytest.mark.slow
def test_help_is_quick():
    """Not a time, which depends on the machine, but its cause: matplotlib is not even imported."""
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n"
        "    print('matplotlib' in sys.modules)\n"
    )
    for name in ("train.py", "test.py", "hp_search.py"):
        command = [sys.executable, "-c", code, name]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert result.stdout.splitlines()[-1] == "False", result.stderr


class OwnError(ValueError):
    exit_code = 7


@pytest.mark.parametrize(
    "error, exit_code, message",
    [
        (OwnError("what is wrong"), 7, "what is wrong"),
        (StorageError("a\nb"), 1, "a\\nb"),
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "not enough memory"),
        (OSError(28, "No space left on device", "x.npz"), 1, "x.npz: No space left on device"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(capsys, error, exit_code, message):
    @cli.command
    def main(argv=None):
        raise error

    assert main() == exit_code
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.count("\n") == 1


def test_a_bug_gives_a_traceback():
    @cli.command
    def main(argv=None):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


def test_rows_are_right_aligned():
    assert cli.format_row(["a", 1.5, "long"], [3, 5, 2]) == "  a    1.5  long"


def test_mean_and_std():
    assert cli.format_mean_std([0.5]) == "0.5000" and cli.format_mean_std([0.5, 0.7]) == "0.6000 +- 0.1414"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
@pytest.mark.parametrize("number, exit_code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_do_what_ctrl_c_does(capsys, number, exit_code):
    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP

    @cli.command
    def main(argv=None):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            print("saved")
            raise

    assert main() == exit_code and signal.getsignal(number) is signal.SIG_DFL
    signal.signal(number, before)
    out, err = capsys.readouterr()
    assert out == "saved\n" and err.count("\n") == 1 and "stopped" in err


@pytest.mark.parametrize(
    "number, usual, exit_code",
    [(signal.SIGINT, signal.default_int_handler, 130), (signal.SIGTERM, signal.SIG_DFL, 143)],
)
def test_a_signal_that_a_library_turns_into_an_error(capsys, number, usual, exit_code):
    """Matplotlib's compiled code replaces the KeyboardInterrupt by a ValueError without context."""
    before = signal.signal(number, usual)  # a shell's background job ignores SIGINT

    @cli.command
    def main(argv=None):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise ValueError("invalid bounding box")

    try:
        assert main() == exit_code and capsys.readouterr().err.endswith(": stopped\n")
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored(monkeypatch):
    """As under nohup, which ignores SIGHUP."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert cli.command(lambda argv=None: signal.raise_signal(signal.SIGTERM))() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
