"""Where trials are trained: in processes on this machine, or in a Dask cluster.

`local_pool` and `dask_pool` are context managers. They yield a function submit(function, *arguments), which runs
function(*arguments, *arrays) on a worker and returns a future.
"""

import contextlib
import pickle
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from nn.parallel import blas_threads, start_process
from search.trial import SearchError

WorkerPool = Iterator[Callable[..., Future]]
MAX_ATTEMPTS = 3  # at a task whose worker dies
WORKER_TIMEOUT = 30  # seconds to wait for the first worker of a cluster


@contextlib.contextmanager
def local_pool(workers: int, arrays: list[np.ndarray], folder: Path) -> WorkerPool:
    """`workers` processes on this machine, which share the arrays as memory-mapped files in `folder`.

    Each computes on one thread, because two BLAS threads round differently from one: so the results are the same bits
    for any number of workers. $OPENBLAS_NUM_THREADS, if set, takes precedence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".arrays-*"):  # of a killed search
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".arrays-", dir=folder))
    try:
        paths = [folder / f"{i}.npy" for i in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, array)
        with ProcessPool(workers, paths) as pool:
            yield pool.submit
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class ProcessPool(Executor):
    """Spawned processes, each with a thread here that sends it tasks. A process that dies is replaced, its task redone.

    Why not a ProcessPoolExecutor: if a process dies, it fails all tasks, does not tell which one was the cause, and
    waits for ever if that happened while a result was sent. At the end of the `with` block, and when this process ends
    in whatever way, the processes end at once.
    """

    def __init__(self, workers: int, paths: list[Path]) -> None:
        """paths: of the arrays that are the last arguments of every task."""
        self._paths, self._lock, self._closed = paths, threading.Lock(), False
        self._thread_local, self._processes = threading.local(), []
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        return self._threads.submit(self._run_task, function, *arguments)

    def _run_task(self, function: Callable, *arguments: Any) -> Any:
        for _ in range(MAX_ATTEMPTS):
            try:
                pipe = self._pipe()
                pipe.send((function, arguments))
                result, error = pipe.recv()
            except (EOFError, OSError):  # OSError: died while it sent the result
                self._thread_local.pipe = None
                continue
            if error:
                raise error
            return result
        raise RuntimeError(f"the worker died {MAX_ATTEMPTS} times, possibly out of memory")

    def _pipe(self) -> Connection:
        """The connection to this thread's process, which is started if there is none."""
        if getattr(self._thread_local, "pipe", None) is None:
            with self._lock:
                if self._closed:
                    raise EOFError
                process, self._thread_local.pipe = start_process(_work, self._paths)
                self._processes.append(process)
        return self._thread_local.pipe

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._threads.shutdown(wait, cancel_futures=True)
        for process in self._processes:
            process.join()


def _work(pipe: Connection, paths: list[Path]) -> None:
    """The main function of a process: run tasks."""
    arrays = [np.load(path, mmap_mode="r") for path in paths]
    with contextlib.suppress(EOFError, ConnectionError):  # the parent process has ended
        while True:
            function, arguments = pipe.recv()
            try:
                answer = function(*arguments, *arrays), None
            except Exception as error:
                answer = None, error
            pipe.send(answer)


@contextlib.contextmanager
def dask_pool(address: str, arrays: list[np.ndarray]) -> WorkerPool:
    """The workers of a Dask scheduler, each of which gets the arrays once. SearchError if there are none."""
    try:
        from distributed import Client
    except ImportError:
        raise SearchError("--scheduler needs Dask: pip install distributed") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, TypeError, ValueError) as error:  # TypeError: tls:// without certificates
        raise SearchError(f"no Dask scheduler at {address} ({error}): start one with `dask scheduler`") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
        except TimeoutError:
            raise SearchError(f"the scheduler has no workers: start some with `dask worker {address}`") from None

        def run_remote(task: bytes, *arrays: np.ndarray) -> Any:
            # Dask sends a nested function by value, and the task is bytes: so only the workers need this project, not
            # the scheduler. The current folder of a worker is the checkout, but Python does not search it for modules.
            sys.path[:0] = [folder for folder in [str(Path.cwd())] if folder not in sys.path]
            function, arguments = pickle.loads(task)
            return function(*arguments, *arrays)

        executor, scattered = client.get_executor(pure=False), client.scatter(arrays, broadcast=True)
        try:
            threads = client.run(run_remote, pickle.dumps((blas_threads, ()))).values()
        except ModuleNotFoundError as error:
            raise SearchError(f"a worker has {error}: start the workers in a checkout of this project") from None
        if any(count != "1" for count in threads):
            raise SearchError("a worker computes on several threads: start the workers with OPENBLAS_NUM_THREADS=1")
        yield lambda function, *arguments: executor.submit(run_remote, pickle.dumps((function, arguments)), *scattered)
