"""Data-parallel training: each batch is divided over processes, which share the memory of their parameters.

Each of N processes has a network of its own and takes every `Network.train_step`, with every N-th image of the batch.
Before the update, the gradients are replaced by their mean over all processes (all-reduce). So all processes update in
the same way, and their parameters stay equal. PyTorch calls this DistributedDataParallel, and as there, batch norm
takes mean and variance over the images of its own process.

The threads of BLAS divide only matrix products over the cores; processes divide all the work. But in each step they
wait for each other, twice, and add up their gradients. So this helps networks that compute much with few parameters:
convolutional ones.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np

from nn.memory import ALIGNMENT, UFUNC_BUFFER, ParameterMemory, aligned

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}
SPINS = 100  # attempts to pass a barrier, about 1 ms, before the process sleeps: waking up takes nearly as long
REPORTED = 10  # steps between two signs of progress: each wakes the main process, which takes a core
CONTEXT = multiprocessing.get_context("spawn")


class ParallelError(RuntimeError):
    """A process has ended."""

    exit_code = 1


def blas_threads() -> str | None:
    """The number of BLAS threads that the environment sets; Dask's nanny sets 1."""
    return next((os.environ[name] for name in THREADS if name in os.environ), None)


def start_process(function: Callable, *arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Start a process that runs function(pipe, *arguments); returns it and the other end of its pipe.

    It computes on one thread, unless the environment sets another number. It ends with this process, in whatever way
    that ends, and ignores Ctrl-C and SIGHUP: this process handles them. Not for two threads at the same time.
    """
    pipe, far_end = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run, args=(function, far_end, *arguments), daemon=True)
    unset = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    has_masks = hasattr(signal, "pthread_sigmask")
    if has_masks:  # the new process inherits the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        resource_tracker.ensure_running()  # now, because it unblocks SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name in unset:
            del os.environ[name]
    far_end.close()  # so that only the process holds it, and `recv` fails when the process dies
    return process, pipe


def _run(function: Callable, pipe: Connection, *arguments: Any) -> None:
    """The main function of a process."""

    def exit_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError):  # this process is about to end, too
        function(pipe, *arguments)


@contextlib.contextmanager
def data_parallel(network: Any, processes: int, images: tuple[int, ...]) -> Iterator[Callable]:
    """Start the processes; yields a function that does the work of `Network._train_epoch`, with the same arguments.

    images: the shape of the largest array of images. From now on the parameters of the network are in shared memory.
    """
    rows = CONTEXT.RawArray("B", processes * network.memory.rows.nbytes + ALIGNMENT)
    pixels = CONTEXT.RawArray("B", int(np.prod(images)))
    links: list[list[Connection]] = [[] for _ in range(processes)]  # of each process with the others
    for pair in itertools.combinations(links, 2):
        for ends, end in zip(pair, CONTEXT.Pipe(), strict=True):
            ends.append(end)
    layers = [type(layer)(**layer.config()) for layer in network.layers]
    settings = {"input_shape": network.input_shape, "loss": network.loss_name, "dtype": network.dtype.name}
    build = partial(type(network), layers, **settings)
    before = network.memory.content
    share_memory(network, rows, processes, 0)  # so this process sees what process 0 computes
    network.memory.content[:] = before
    window = np.frombuffer(pixels, np.uint8).reshape(images)
    started: list[tuple[SpawnProcess, Connection]] = []

    def train_epoch(
        windows: Iterable[tuple], batch_size: int, rates: list[float], progress: Callable, step_settings: tuple
    ) -> tuple[float, float]:
        bar, rates, means, counts = iter(progress(rates)), iter(rates), [], []
        for array, order, labels in windows:
            window[: len(array)] = array
            # every process needs the same number of images: some are taken twice
            order, labels = (np.resize(a, len(a) + -len(a) % processes) for a in (order, labels))
            of_window = list(itertools.islice(rates, -(-len(order) // batch_size)))
            for rank, (_, pipe) in enumerate(started):
                mine = order[rank::processes], labels[rank::processes]
                pipe.send((network.memory.position, *mine, batch_size // processes, of_window, step_settings))
            means.append(np.mean(_answers([pipe for _, pipe in started], bar), axis=0))
            counts.append(len(order))
            network.memory.use_position((network.memory.position + len(of_window)) % 2)
        for _ in bar:  # ends it
            pass
        loss, accuracy = np.average(means, axis=0, weights=counts)
        return float(loss), float(accuracy)

    try:
        for rank in range(processes):
            arguments = build, (network.mean, network.std), rows, pixels, images, processes, rank, links[rank]
            started.append(start_process(_train, *arguments))
            for link in links[rank]:
                link.close()
        yield train_epoch
    except (EOFError, ConnectionError):
        reason = "not enough memory, or a program of your own without if __name__ == '__main__':"
        raise ParallelError(f"a process of the data-parallel training has ended: {reason}") from None
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def share_memory(network: Any, rows: Any, processes: int, rank: int) -> np.ndarray:
    """Let the parameters of a network be those in its part of shared memory; returns all parts, (processes, 3, K)."""
    shared = aligned(np.frombuffer(rows, np.uint8), (processes, *network.memory.rows.shape), network.dtype)
    network.memory = ParameterMemory(network.layers, network.dtype, shared[rank])
    return shared


def _answers(pipes: list[Connection], bar: Iterator) -> list[tuple[float, float]]:
    """The loss and accuracy of all processes. One of them sends None now and then; an error of one is raised."""
    waiting, answers = list(pipes), []
    while waiting:
        for pipe in connection.wait(waiting):
            answer = pipe.recv()
            if answer is None:
                next(itertools.islice(bar, REPORTED - 1, None), None)
            elif isinstance(answer, Exception):
                raise answer
            else:
                answers.append(answer)
                waiting.remove(pipe)
    return answers


def _train(
    pipe: Connection,
    build: Callable,
    statistics: tuple[float, float],
    rows: Any,
    pixels: Any,
    images: tuple[int, ...],
    processes: int,
    rank: int,
    links: list[Connection],
) -> None:
    """The work of one process: train with its part of every batch."""
    network = build()
    network.mean, network.std = statistics
    shared, memory, update = share_memory(network, rows, processes, rank), network.memory, network.update
    window = np.frombuffer(pixels, np.uint8).reshape(images)
    start, end = (memory.content.shape[1] * i // processes for i in (rank, rank + 1))  # the part of the gradient that
    mean = np.empty(end - start, network.dtype)  # is averaged here

    def barrier() -> None:
        """Wait until all processes are here."""
        for link in links:
            link.send_bytes(b"here")
        for link in links:
            any(link.poll() for _ in range(SPINS))
            link.recv_bytes()

    def average_and_update(*settings: float) -> None:
        """Each process computes its part of the mean gradient, and writes it to all."""
        barrier()
        gradients = memory.in_use(shared)[:, 2, start:end]
        gradients[:] = np.mean(gradients, axis=0, out=mean)
        barrier()
        update(*settings)

    def report_steps(rates: Iterable[float]) -> Iterator[float]:
        for step, lr in enumerate(rates, 1):
            yield lr
            if rank == 0 and step % REPORTED == 0:
                pipe.send(None)

    network.update = average_and_update
    np.seterr(over="ignore", invalid="ignore")  # as `Network.fit` does
    np.setbufsize(UFUNC_BUFFER)
    while True:
        position, order, labels, batch_size, rates, step_settings = pipe.recv()
        memory.use_position(position)
        memory.content[:2] = memory.in_use(shared)[0, :2]
        try:
            answer = network._train_epoch([(window, order, labels)], batch_size, rates, report_steps, step_settings)
        except Exception as error:
            answer = error
        pipe.send(answer)
