"""Data-parallel training: each batch is divided over processes, which share the memory of their parameters.

Each of N processes has a network of its own and takes every `Network.train_step`, with every N-th image of the batch.
Before the update, the gradients are replaced by their mean over all processes (all-reduce). So all processes update in
the same way, and their parameters stay equal. PyTorch calls this DistributedDataParallel, and as there, batch norm
takes mean and variance over the images of its own process, and the first process's running averages are kept.

The threads of BLAS divide only matrix products over the cores; processes divide all the work. But in each step they
wait for each other, twice, and add up their gradients. So this helps networks that compute much with few parameters:
convolutional ones.

`start_process` starts the processes of a search, too.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
import traceback
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
    """A process of the training has ended."""

    exit_code = 1


def blas_threads() -> str | None:
    """The number of BLAS threads that the environment sets; Dask's nanny sets 1."""
    return next((os.environ[name] for name in THREADS if name in os.environ), None)


def start_process(function: Callable, *arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Start a process that runs function(pipe, *arguments); returns it and the other end of its pipe.

    It computes on one thread, unless the variable of its BLAS library sets another number. It ends with this process,
    in whatever way that ends, and ignores Ctrl-C and SIGHUP: this process handles them. Not for two threads at the same
    time.
    """
    pipe, far_end = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run, args=(function, far_end, *arguments), daemon=True)
    unset = [name for name in THREADS if name not in os.environ]
    has_masks = hasattr(signal, "pthread_sigmask")  # the new process inherits the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if has_masks else None
    try:
        os.environ.update(dict.fromkeys(unset, "1"))
        if has_masks:
            resource_tracker.ensure_running()  # now, because it unblocks SIGINT
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process.start()
    finally:
        for name in unset:
            os.environ.pop(name, None)
        far_end.close()  # so that only the process holds it, and `recv` fails when the process dies
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # last, because Ctrl-C may be waiting for it
    return process, pipe


def _run(function: Callable, pipe: Connection, *arguments: Any) -> None:
    """The main function of a process."""

    def exit_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, which has no masks
    threading.Thread(target=exit_with_parent, daemon=True).start()
    function(pipe, *arguments)


@contextlib.contextmanager
def data_parallel(network: Any, processes: int, window: int) -> Iterator[Callable]:
    """Start the processes; yields a function that does the work of `Network._train_epoch`, with the same arguments.

    window: the largest number of images in a window. The layers of the processes are built from their `config`. After
    each window the network gets the parameters and the state of process 0; until then, it is not changed.
    """
    memory, size = network.memory, network.memory.content.shape[1]
    rows = CONTEXT.RawArray("B", processes * memory.rows.nbytes + ALIGNMENT)
    parameters = shared_rows(rows, processes, memory)[0, :2]
    pixels = CONTEXT.RawArray("B", window * math.prod(network.input_shape))
    images = np.frombuffer(pixels, np.uint8).reshape(window, -1)
    links = [CONTEXT.Pipe() for _ in range(processes - 1)]  # between process 0 and the others
    ends = [[a for a, _ in links], *([b] for _, b in links)]
    layers = [type(layer)(**layer.config()) for layer in network.layers]
    settings = {"input_shape": network.input_shape, "loss": network.loss_name, "dtype": network.dtype.name}
    build = partial(type(network), layers, **settings)
    started: list[tuple[SpawnProcess, Connection]] = []

    def train_epoch(
        windows: Iterable[tuple], batch_size: int, rates: list[float], progress: Callable, step_settings: tuple
    ) -> tuple[float, float]:
        bar, rates, means, counts = iter(progress(rates)), iter(rates), [], []
        for source, order, labels in windows:
            network.validate_images(source)
            images[: len(source)] = source.reshape(len(source), -1)
            # every process needs the same number of images: some are taken twice
            order, labels = (np.resize(a, len(a) + -len(a) % processes) for a in (order, labels))
            of_window = list(itertools.islice(rates, math.ceil(len(order) / batch_size)))
            parameters[:, :size] = memory.content[:2]
            common = batch_size // processes, of_window, step_settings, [layer.state for layer in network.layers]
            messages = [(order[rank::processes], labels[rank::processes], *common) for rank in range(processes)]
            answers = _exchange([pipe for _, pipe in started], messages, bar)
            means.append(np.mean([answer[:2] for answer in answers], axis=0))
            counts.append(len(order))
            memory.content[:2] = parameters[:, -size:] if len(of_window) % 2 else parameters[:, :size]
            set_state(network, answers[0][2])
        for _ in bar:  # ends it
            pass
        loss, accuracy = np.average(means, axis=0, weights=counts)
        return float(loss), float(accuracy)

    try:
        for rank, own in enumerate(ends):
            arguments = build, (network.mean, network.std), rows, pixels, processes, rank, own
            started.append(start_process(_train, *arguments))
            for end in own:
                end.close()
        yield train_epoch
    finally:
        for process, _ in started:
            process.kill()
        for process, _ in started:
            process.join()


def shared_rows(rows: Any, processes: int, memory: ParameterMemory) -> np.ndarray:
    """Shared memory as the rows of all processes, (processes, 3, K)."""
    return aligned(np.frombuffer(rows, np.uint8), (processes, *memory.rows.shape), memory.rows.dtype)


def set_state(network: Any, states: list[dict[str, np.ndarray]]) -> None:
    """Set the `state` of every layer."""
    for layer, state in zip(network.layers, states, strict=True):
        for name, a in state.items():
            layer.state[name][:] = a


@contextlib.contextmanager
def _broken_pipes() -> Iterator[None]:
    """ParallelError if the process at the other end of a pipe has ended."""
    try:
        yield
    except (EOFError, ConnectionError):
        text = "a process of the training has ended: the reason is above, or there was not enough memory"
        raise ParallelError(text) from None


def _exchange(pipes: list[Connection], messages: list[tuple], bar: Iterator) -> list[tuple]:
    """Send a message to each process; the answers of all, or the error of one. They may report progress before."""
    answers: dict[Connection, tuple] = {}
    for pipe, message in zip(pipes, messages, strict=True):
        with _broken_pipes():
            pipe.send(message)
    while waiting := [pipe for pipe in pipes if pipe not in answers]:
        for pipe in connection.wait(waiting):
            with _broken_pipes():
                answer = pipe.recv()
            if answer is None:
                next(itertools.islice(bar, REPORTED - 1, None), None)
            elif isinstance(answer, Exception):
                raise answer
            else:
                answers[pipe] = answer
    return [answers[pipe] for pipe in pipes]


def _train(
    pipe: Connection,
    build: Callable,
    statistics: tuple[float, float],
    rows: Any,
    pixels: Any,
    processes: int,
    rank: int,
    links: list[Connection],
) -> None:
    """The work of one process: train with its part of every batch."""
    network = build()
    network.mean, network.std = statistics
    shared = shared_rows(rows, processes, network.memory)
    network.memory = memory = ParameterMemory(network.layers, network.dtype, shared[rank])
    size, update = memory.content.shape[1], network.update
    start, end = size * rank // processes, size * (rank + 1) // processes  # the part of the gradient to average here
    mean = np.empty(end - start, network.dtype)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, math.prod(network.input_shape))

    def barrier() -> None:
        """Wait until all processes are here: process 0 hears from all others, then tells them."""
        if rank:
            links[0].send_bytes(b"here")
        for link in links:
            any(link.poll() for _ in range(SPINS))
            link.recv_bytes()
        for link in () if rank else links:
            link.send_bytes(b"all are here")

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
    with contextlib.suppress(EOFError, ConnectionError):  # another process has ended
        while True:
            order, labels, batch_size, rates, step_settings, states = pipe.recv()
            memory.use_position(0)
            memory.content[:2] = shared[0, :2, :size]
            set_state(network, states)
            try:
                own = [(images, order, labels)]
                loss, accuracy = network._train_epoch(own, batch_size, rates, report_steps, step_settings)
                answer = loss, accuracy, [layer.state for layer in network.layers]
            except (EOFError, ConnectionError):
                raise
            except (ArithmeticError, MemoryError) as error:
                answer = error
            except Exception:
                answer = RuntimeError(traceback.format_exc())
            pipe.send(answer)
