"""Where trials run: processes of this machine, or a Dask cluster. Both are a `concurrent.futures.Executor`.

`local` and `cluster` are context managers that yield submit(function, *arguments), which runs function(*arguments,
*arrays) on a worker and returns its future, and the number of workers.
"""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Place = Iterator[tuple[Callable[..., Future], int]]
ATTEMPTS = 3  # at a task whose worker dies
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PATIENCE = 30  # seconds to wait for the first worker of a cluster


class WorkersError(RuntimeError):
    """There is nobody to do the work; the message says what helps."""


class Mapped:
    """An array in a file. Sent to another process, it arrives as an array that maps the file: nothing is copied."""

    def __init__(self, path: Path, array: np.ndarray) -> None:
        self.path = path
        np.save(path, array)

    def __reduce__(self) -> tuple:
        return np.load, (str(self.path.resolve()), "r")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def local(workers: int, arrays: list[np.ndarray], folder: Path) -> Place:
    """`workers` processes of this machine, which share the arrays through files in `folder`.

    Each computes on one thread, whatever their number, because two BLAS threads round differently from one: so the
    results are the same bits for any number of workers. $OPENBLAS_NUM_THREADS, if set, takes precedence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".digits-*"):  # by a search that was killed
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".digits-", dir=folder))
    try:
        shared = [Mapped(folder / f"{i}.npy", array) for i, array in enumerate(arrays)]
        with _environment(dict.fromkeys(THREADS, "1")), Processes(workers) as executor:
            yield lambda function, *arguments: executor.submit(function, *arguments, *shared), workers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """Variables that processes started meanwhile inherit, unless the user has set them."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class Processes(Executor):
    """Spawned processes, each with a thread here that feeds it. One that dies is replaced, and its task done again.

    Not a ProcessPoolExecutor: that fails all its tasks when a process dies, cannot tell which one it was, and waits for
    ever if it died while sending a result. Leaving the `with` block, and the end of this process in whatever way, ends
    the processes at once.
    """

    def __init__(self, workers: int) -> None:
        resource_tracker.ensure_running()  # or else the first thread would start it, and be open to SIGINT ever after
        self._mine, self._lock, self._closed = threading.local(), threading.Lock(), False
        self._processes: list[multiprocessing.Process] = []
        self._threads = ThreadPoolExecutor(workers, initializer=_leave_ctrl_c_to_the_main_thread)

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        return self._threads.submit(self._do, function, *arguments)

    def _do(self, function: Callable, *arguments: Any) -> Any:
        for _ in range(ATTEMPTS):
            try:
                pipe = self._pipe()
                pipe.send((function, arguments))
                result, error = pipe.recv()
            except (EOFError, OSError):  # OSError: in the middle of an answer
                self._mine.pipe = None
                continue
            if error:
                raise error
            return result
        raise RuntimeError(f"the worker died {ATTEMPTS} times, perhaps for want of memory")

    def _pipe(self) -> Connection:
        """The connection to this thread's process, which is started if need be."""
        if getattr(self._mine, "pipe", None) is None:
            context = multiprocessing.get_context("spawn")
            self._mine.pipe, far_end = context.Pipe()
            with self._lock:
                if self._closed:
                    raise EOFError
                self._processes.append(context.Process(target=_work, args=(far_end,), daemon=True))
                self._processes[-1].start()
            far_end.close()  # so that nobody holds it when the process is gone
        return self._mine.pipe

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._threads.shutdown(wait, cancel_futures=True)
        for process in self._processes:
            process.join()


def _leave_ctrl_c_to_the_main_thread() -> None:
    """Block SIGINT in this thread, and so in the processes that it starts: they are ended from here, silently."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _work(pipe: Connection) -> None:
    """In a process: do one task after the other, until the process that started this one is gone."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        function, arguments = pipe.recv()
        try:
            answer = function(*arguments), None
        except Exception as error:
            answer = None, error
        pipe.send(answer)


def blas_threads() -> str | None:
    """How many threads the environment allows BLAS; Dask's nanny sets it to 1."""
    return next((os.environ[name] for name in THREADS if name in os.environ), None)


@contextlib.contextmanager
def cluster(address: str, arrays: list[np.ndarray]) -> Place:
    """The workers of a Dask scheduler, each given the arrays once. WorkersError says what is missing."""
    try:
        from distributed import Client
    except ImportError:
        raise WorkersError("--scheduler needs Dask: pip install distributed") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise WorkersError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise WorkersError(f"the scheduler has no workers: start some with `dask worker {address}`") from None

        def there(task: bytes, *arrays: np.ndarray) -> Any:
            # Dask sends a function within a function by value, so that only the workers need this project, not the
            # scheduler, which unpickles whatever it passes on.
            # The folder that a worker was started in, the checkout, is not on its path unless we put it there.
            sys.path[:0] = [folder for folder in [str(Path.cwd())] if folder not in sys.path]
            function, arguments = pickle.loads(task)
            return function(*arguments, *arrays)

        executor, held = client.get_executor(pure=False), client.scatter(arrays, broadcast=True)
        try:
            threads = client.run(there, pickle.dumps((blas_threads, ()))).values()
        except ModuleNotFoundError as error:
            raise WorkersError(f"a worker has {error}: start the workers in a checkout of this project") from None
        if any(count != "1" for count in threads):
            raise WorkersError("a worker computes on several threads: start the workers with OPENBLAS_NUM_THREADS=1")
        width = sum(client.ncores().values())
        yield lambda function, *arguments: executor.submit(there, pickle.dumps((function, arguments)), *held), width
