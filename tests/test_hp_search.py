"""hp_search.py: the command with all of the search."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import storage
from network import Network
from search import workers

from .conftest import ROOT, start_command
from .search_helpers import in_process_pool, is_gone, journal_content

TINY = ["--hidden", 8, "--lr", 0.05, 0.2, "--weight-decay", 0, 0.01, "--batch-size", 50, "--validation", 100]
TINY += ["--trials", 0, "--repeats", 2, "--epochs", 5]


@pytest.fixture
def hp_search(run, archive):
    return lambda *more: run("hp_search", "--dataset", archive, *TINY, *more)


@pytest.fixture
def in_process(monkeypatch):
    """No processes: the trials are trained in this one."""
    monkeypatch.setattr(workers, "local_pool", in_process_pool)


def test_it_finds_trains_and_saves(in_process, hp_search, run, tmp_path):
    code, out, err = hp_search()
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert lines[0] == "halving search over lr, weight-decay: 500 training and 100 validation images of tiny"
    assert re.fullmatch(
        r"best of 4 trials: validation accuracy 0\.\d{4} \+- 0\.\d{4} \(tiny\), then trained on 600 images -> "
        r"models/best-tiny.npz, models/best-tiny/config.toml", lines[-1]
    )  # fmt: skip
    rows = [line.removesuffix("  <- best so far") for line in lines[1 : 2 + 4 + 4]]
    assert len({len(row) for row in rows}) == 1, "the table is aligned"
    assert lines[2].endswith("  <- best so far") and "best accuracy" in out and "finalists" in out
    repeats = [line for line in lines[2 : 2 + 4 + 4] if line.split()[1] != "0"]
    assert repeats and not any("best so far" in line for line in repeats), "they count by their mean"
    folder = tmp_path / "models" / "best-tiny"
    figures = [
        "curves",
        "weights",
        "pca",
        "histograms",
        *(f"search_{p}" for p in ("pairs", "values", "rungs")),
    ]
    assert {p.name for p in folder.iterdir()} == {
        "config.toml", "search.jsonl", "history.csv", *(f"{figure}.png" for figure in figures)}  # fmt: skip
    # the config makes the model
    assert run("train", "--config", folder / "config.toml", "--out", "again.npz")[0] == 0
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "models" / "best-tiny.npz").read_bytes()
    metadata = Network.load(tmp_path / "again.npz").metadata
    assert metadata["recipe"]["validation"] == 0 and "validation_accuracy" not in metadata


def test_a_finished_search_is_not_repeated_nor_overwritten(in_process, hp_search, tmp_path):
    code, out, _ = hp_search()
    files = [tmp_path / "models/best-tiny/search.jsonl", tmp_path / "models/best-tiny.npz"]
    before = [path.stat().st_mtime_ns for path in files]
    code, again, err = hp_search()
    assert code == 0 and again.splitlines()[-1] == out.splitlines()[-1] and err == ""
    for more in ["--seed", 1], ["--method", "grid"], ["--lr", 0.05, 0.3], ["--repeats", 1]:
        code, _, err = hp_search(*more)
        assert code == 1 and err.count("\n") == 1 and "give another --out" in err
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_damaged_checkpoint_of_the_winner_is_replaced(in_process, hp_search, tmp_path):
    hp_search("--out", "m")
    model = tmp_path / "m.npz"
    content, metadata = model.read_bytes(), Network.load(model).metadata
    model.unlink()
    storage.write(tmp_path / "m" / "checkpoint.npz", {"about": metadata, "history": "none"}, {})
    code, _, err = hp_search("--out", "m")
    assert code == 0 and err == "" and model.read_bytes() == content


def test_results_of_paused_trials_are_refused(in_process, hp_search, tmp_path):
    """In an earlier version halving continued its trials, and their results had no format."""
    hp_search()
    path = tmp_path / "models/best-tiny/search.jsonl"
    path.write_text(path.read_text().replace('"format": 3, ', ""))
    before = path.read_bytes()
    code, _, err = hp_search()
    assert code == 1 and err.count("\n") == 1 and "search with other settings (format): give another --out" in err
    assert path.read_bytes() == before


def test_a_shipped_model_is_kept(in_process, hp_search, run, archive, tmp_path, monkeypatch):
    path, backup = tmp_path / "models/best-tiny.npz", tmp_path / "models/best-tiny-before.npz"
    assert run("train", "--dataset", archive, "--epochs", 1, "--validation", 100, "--out", path)[0] == 0
    shipped = path.read_bytes()
    monkeypatch.setattr("app.models.SHIPPED", [path])
    code, _, err = hp_search("--lr", "1e9", "1e8", "--out", "models/best-tiny")
    assert code == 1 and err.count("\n") == 1
    assert path.read_bytes() == shipped and not backup.exists(), "the search failed"
    (tmp_path / "models/best-tiny/search.jsonl").unlink()
    code, _, err = hp_search()
    assert code == 0 and err.count("\n") == 1 and "is kept as models/best-tiny-before.npz" in err
    assert backup.read_bytes() == shipped and path.read_bytes() != shipped
    assert hp_search()[2] == "", "nothing more to replace"
    (tmp_path / "models/best-tiny/search.jsonl").unlink()
    assert hp_search("--seed", 1)[2] == "" and backup.read_bytes() == shipped, "what is kept is never replaced"
    backup.unlink()
    assert hp_search("--seed", 1)[2] == "" and not backup.exists(), "the model is the search's own"


@pytest.mark.parametrize("method", ["grid", "random", "coordinate"])
def test_other_methods(in_process, hp_search, method):
    trials = ["--trials", 2 if method == "random" else 0]
    code, out, err = hp_search("--method", method, *trials, "--lr", 0.01, 0.05, 0.2)
    assert code == 0 and err == "" and out.splitlines()[-1].startswith("best of ")
    assert "best accuracy" in out and "after epochs" not in out, "all were trained alike"


def test_a_winner_whose_schedule_needs_validation_images_keeps_them(in_process, hp_search, tmp_path):
    code, out, _ = hp_search("--schedule", "plateau", "--method", "grid", "--epochs", 2)
    assert code == 0 and "then trained on 500 images" in out.splitlines()[-1]
    assert "validation = 100" in (tmp_path / "models/best-tiny/config.toml").read_text()


@pytest.mark.parametrize(
    "arguments, code, word",
    [
        (["--lr", "fast"], 2, "lr must be a number above 0"),
        (["--lr", "-1", "1"], 2, "lr must be a number above 0"),
        (["--method", "best"], 2, "--method"),
        (["--workers", "1", "--scheduler", "tcp://localhost:1"], 2, "--scheduler: not allowed with argument --workers"),
        (["--workers", "0"], 2, "--workers: must be an integer of at least 1, not '0'"),
        (["--lr", "0.1", "--weight-decay", "0"], 2, "nothing to search"),
        (["--method", "random"], 2, "set trials"),
        (["--validation", "0"], 2, "validation"),
        (["--config", "nowhere.toml"], 2, "nowhere.toml"),
        (["--config", str(ROOT / "configs/two_layer.toml")], 2, "hidden is a setting of a training"),
        (["--lr", "1e9", "1e8"], 1, "no trial succeeded"),
    ],
)
def test_errors_are_one_line(in_process, hp_search, arguments, code, word, tmp_path):
    result, _, err = hp_search(*arguments)
    assert result == code and err.count("\n") == 1 and word in err
    assert not list(tmp_path.glob("models/*.npz"))


def test_an_output_that_cannot_be_written_is_refused_before_the_search(in_process, hp_search, tmp_path):
    path = tmp_path / "other.npz"
    path.write_text("not a model")
    for out in "other", "other.npz/m":
        code, printed, err = hp_search("--out", out)
        assert code == 1 and err.count("\n") == 1 and "other.npz" in err and printed == ""
    assert path.read_text() == "not a model" and len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_says_how_to_continue(hp_search, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "local_pool", interrupted)
    assert hp_search()[::2] == (130, "hp_search.py: stopped; the same command continues\n")


def test_without_dask_a_line_says_what_to_install(hp_search, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = hp_search("--scheduler", "tcp://127.0.0.1:8786")
    assert code == 1 and err.count("\n") == 1 and "pip install distributed" in err


# --- as processes -----------------------------------------------------------------------------------------------------


def command(*arguments, folder):
    """hp_search.py as a process, in a group of its own as a shell would start it."""
    return start_command("hp_search.py", *TINY, *arguments, cwd=folder, start_new_session=True)


def wait_for_rows(process, count):
    rows = (line for line in process.stdout if re.match(r" +\d+  ", line))
    for _ in range(count):
        next(rows)


@pytest.mark.slow
@pytest.mark.parametrize("number, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_and_signals_leave_no_orphans(archive, tmp_path, whole_group, number, exit_code):
    process = command("--dataset", archive, "--workers", 2, "--lr", *np.linspace(0.01, 0.1, 500), folder=tmp_path)
    wait_for_rows(process, 1)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=5)
    assert process.returncode == exit_code and err.count("\n") == 1 and "same command" in err
    assert is_gone(process), "the workers are gone"
    assert not list((tmp_path / "models/best-tiny").glob(".arrays*"))


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(archive, hp_search, tmp_path):
    assert hp_search("--workers", 2, "--out", "whole")[0] == 0
    for moment in 1, 3, 5, 6:
        process = command("--dataset", archive, "--workers", 2, "--out", "m", folder=tmp_path)
        wait_for_rows(process, moment)
        process.kill()
        process.wait()
        process.stdout.close(), process.stderr.close()
        assert is_gone(process), "workers do not outlive a killed search"
    assert hp_search("--workers", 1, "--out", "m")[0] == 0
    assert journal_content(tmp_path / "m/search.jsonl") == journal_content(tmp_path / "whole/search.jsonl")
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert {p.name for p in (tmp_path / "m").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


@pytest.fixture
def dask(tmp_path):
    """A real cluster: the commands of the README, on ports of their own. Yields its address."""
    pytest.importorskip("distributed", reason="Dask is optional")
    started = []

    def start(*arguments, folder):
        program = Path(sys.executable).with_name("dask")
        process = subprocess.Popen(
            [program, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", folder=tmp_path)
    address = next(found for line in scheduler.stderr if (found := re.search(r"tcp://[\d.:]+", line)))[0]
    try:
        yield address, lambda folder: start("worker", address, "--nthreads", "1", "--no-dashboard", folder=folder)
    finally:
        for process in reversed(started):
            process.terminate()
            process.communicate(timeout=30)


@pytest.mark.slow
def test_a_dask_cluster_finds_the_same(dask, archive, hp_search, tmp_path):
    address, start_worker = dask
    for _ in range(2):
        start_worker(ROOT)
    process = command("--dataset", archive, "--scheduler", address, "--out", "m", folder=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert hp_search("--workers", 2, "--out", "whole")[0] == 0
    assert journal_content(tmp_path / "m/search.jsonl") == journal_content(tmp_path / "whole/search.jsonl")
    assert (tmp_path / "m/config.toml").read_text() == (tmp_path / "whole/config.toml").read_text()
