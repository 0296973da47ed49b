"""The workers: processes that share arrays, compute on one thread, and may die."""

import gc
import multiprocessing
import os
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from types import SimpleNamespace

import numpy as np
import pytest

from search.trial import SearchError
from search.workers import ProcessPool, dask_pool, local_pool

from .conftest import ROOT
from .search_helpers import completed, is_gone


def total(a, b):
    return type(a).__name__, float(a.sum() + b.sum()), os.environ.get("OPENBLAS_NUM_THREADS"), os.getpid()


def die_the_first_time(marker):
    if not marker.exists():
        marker.write_text("")
        os._exit(1)
    return "alive"


def die():
    os._exit(1)


def die_while_sending_the_result(marker):
    if not marker.exists():
        marker.write_text("")
        (pipe,) = (thing for thing in gc.get_objects() if isinstance(thing, Connection) and thing.writable)
        os.write(pipe.fileno(), struct.pack("!i", 1000) + b"half of 1000 bytes")
        os._exit(1)
    return "alive"


def fail():
    raise MemoryError("no room")


def test_workers_share_arrays_and_compute_on_one_thread(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    arrays, folder = [np.arange(6, dtype=np.uint8), np.ones(3)], tmp_path / "shared"
    (folder / ".arrays-stale").mkdir(parents=True)
    with local_pool(2, arrays, folder.relative_to(tmp_path)) as submit:
        futures = [submit(total) for _ in range(4)]
        results = [future.result(60) for future in futures]
        assert {result[:3] for result in results} == {("memmap", 18.0, "1")}
        assert os.getpid() not in {result[3] for result in results}
        assert len(multiprocessing.active_children()) == 2 and len(list(folder.iterdir())) == 1
    assert not list(folder.iterdir()) and "OPENBLAS_NUM_THREADS" not in os.environ
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(tmp_path):
    with local_pool(1, [], tmp_path / "shared") as submit:
        assert submit(die_the_first_time, tmp_path / "marker").result(60) == "alive"
        assert submit(die_while_sending_the_result, tmp_path / "marker 2").result(60) == "alive"
        deadly, other = submit(die), submit(os.getpid)
        with pytest.raises(RuntimeError, match="died 3 times"):
            deadly.result(60)
        pid = other.result(60)  # the tasks behind it are done all the same
        with pytest.raises(MemoryError, match="no room"):
            submit(fail).result(60)
        assert submit(os.getpid).result(60) == pid, "an exception does not end the worker"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 60], ids=["idle", "busy"])
def test_workers_end_with_a_killed_process(seconds, tmp_path):
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from search.workers import local_pool\n"
        "if __name__ == '__main__':\n"
        "    with local_pool(2, [], Path('shared')) as submit:\n"
        "        futures = [submit(os.getpid), submit(os.getpid)]\n"
        "        assert all(future.result() for future in futures)\n"
        f"        futures = [submit(time.sleep, {seconds}) for _ in range(2)]\n"
        "        time.sleep(0.5)\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "killed.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "killed.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert is_gone(process, 20) and process.communicate() == (None, "") and process.returncode == -9


def test_a_task_is_tried_three_times(monkeypatch):
    attempts = []

    def dead(self):
        attempts.append(self)
        raise EOFError

    monkeypatch.setattr(ProcessPool, "_pipe", dead)
    with ProcessPool(1, []) as pool, pytest.raises(RuntimeError, match="died 3 times"):
        pool.submit(total).result(60)
    assert len(attempts) == 3


def test_no_process_is_started_after_the_end():
    pool = ProcessPool(1, [])
    pool.shutdown()
    with pytest.raises(EOFError):
        pool._pipe()
    assert not multiprocessing.active_children()


class Cluster:
    """In place of Dask's client: its only worker is this process."""

    def __init__(self, address, timeout):
        if "nobody" in address:
            raise OSError("refused")
        self.address = address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_for_workers(self, count, timeout):
        assert count == 1 and timeout > 1
        if "empty" in self.address:
            raise TimeoutError

    def run(self, function, *arguments):
        if "elsewhere" in self.address:
            raise ModuleNotFoundError("No module named 'app'")
        return {"worker": function(*arguments)}

    def get_executor(self, pure):
        assert not pure, "equal tasks are all computed"
        return SimpleNamespace(submit=lambda function, *arguments: completed(function, *arguments))

    def scatter(self, arrays, broadcast):
        return arrays


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Cluster))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def first_folder():
    return sys.path[0]


def test_a_cluster_computes_with_the_arrays_in_the_folder_of_its_workers(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with dask_pool("tcp://here", [np.arange(3), np.ones(2)]) as submit:
        assert submit(total).result() == ("ndarray", 5.0, "1", os.getpid())
        with pytest.raises(TypeError):
            submit(total, "one argument too many").result()
    with dask_pool("tcp://here", []) as submit:
        assert [submit(first_folder).result() for _ in range(2)] == [str(tmp_path)] * 2
        assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    "address, threads, message",
    [
        ("tcp://nobody", "1", "no Dask scheduler at tcp://nobody .refused."),
        ("tcp://empty", "1", "the scheduler has no workers: start some with `dask worker tcp://empty`"),
        ("tcp://elsewhere", "1", "a worker has No module named 'app': start the workers in a checkout"),
        ("tcp://here", "4", "a worker computes on several threads"),
    ],
)
def test_a_cluster_that_cannot_be_used(cluster, monkeypatch, address, threads, message):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    with pytest.raises(SearchError, match=message), dask_pool(address, []):
        pass
