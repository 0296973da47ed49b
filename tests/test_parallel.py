"""nn/parallel.py: the same training in several processes, and processes that end as they should."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import network
from network import DivergenceError, Network
from nn import parallel
from nn.architecture import mlp, parse
from nn.layers import Dense, Layer
from nn.parallel import ParallelError, start_process

from .conftest import CNN, ROOT, train_process, wait_for_epoch

SETTINGS = {"epochs": 2, "batch_size": 60, "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "label_smoothing": 0.1}


def trained(layers, data, processes, dtype="float64", **settings):
    net = Network(parse(layers), dtype=dtype, seed=3)
    return net, list(net.fit(*data, **SETTINGS | settings, processes=processes))


@pytest.mark.parametrize("layers", ["dense 16, tanh", "conv 3 5, pool 2, relu, dense 8, relu"])
def test_the_same_training_in_two_processes(layers, digits):
    """Up to the last digits of float64; the last batch of 40 images is divided too. An epoch has 9 updates, or 10."""
    data, validation = tuple(a[: 520 if "conv" in layers else 580] for a in digits[0]), digits[1]
    (one, records), (two, others) = (trained(layers, data, n, validation=validation) for n in (1, 2))
    assert not multiprocessing.active_children()
    for name, a in one.parameters().items():
        assert two.parameters()[name] == pytest.approx(a, rel=1e-9, abs=1e-12)
    assert two.velocity == pytest.approx(one.velocity, rel=1e-9, abs=1e-12)
    for record, other in zip(records, others, strict=True):
        assert record.pop("seconds") and other.pop("seconds") and other == pytest.approx(record, rel=1e-9)
        assert {type(value) for value in other.values()} <= {int, float}


def test_images_are_repeated_until_every_process_has_the_same_number(digits):
    """With three processes, 100 images are 102: a last batch of 42."""
    images, labels = (a[:100] for a in digits[0])
    net, _ = trained("dense 6, relu", (images, labels), 3, epochs=1, schedule="constant")
    twin = Network(parse("dense 6, relu"), dtype="float64", seed=3)
    twin.prepare(images, True, 0.1)
    _, order = next(network.shuffled(100, 100, network.spawn_rng(0, network.ORDER, 0)))
    order = np.concatenate([order, order[:2]])
    for index in order[:60], order[60:]:
        twin.train_step(images[index], labels[index], 0.05, 0.9, 1e-2, label_smoothing=0.1)
    for name, a in twin.parameters().items():
        assert net.parameters()[name] == pytest.approx(a, rel=1e-9, abs=1e-12)


def test_batch_norm_takes_the_statistics_of_its_own_process(digits):
    """The gradient is the mean of the gradients of both halves; running averages are those of process 0."""
    images, labels = (a[:60] for a in digits[0])
    layers = "dense 6, batchnorm, relu"
    net, _ = trained(layers, (images, labels), 2, epochs=1, momentum=0, weight_decay=0, label_smoothing=0)
    halves = [Network(parse(layers), dtype="float64", seed=3) for _ in range(2)]
    _, order = next(network.shuffled(60, 60, network.spawn_rng(0, network.ORDER, 0)))
    for i, half in enumerate(halves):
        half.prepare(images, True, 0)
        half.train_step(images[order[i::2]], labels[order[i::2]], 0.05)
    for name, a in net.parameters().items():
        mean = (halves[0].parameters()[name] + halves[1].parameters()[name]) / 2
        assert a == pytest.approx(mean, rel=1e-9, abs=1e-12)
    for mine, theirs in zip(net.layers, halves[0].layers, strict=True):
        for name, a in theirs.state.items():
            assert mine.state[name] == pytest.approx(a, rel=1e-12)


def test_files_larger_than_memory_and_progress(image_file, digits, monkeypatch):
    """Several windows an epoch; the bar ends at the number of steps."""
    monkeypatch.setattr(network, "WINDOW", 240)
    steps = []

    def progress(rates):
        for rate in rates:
            steps.append(rate)
            yield rate

    (one, records), (two, others) = (
        trained("dense 8", (image_file, digits[0][1]), n, batch_size=4, lr=1e-3, progress=progress) for n in (1, 2)
    )
    assert len(steps) == 2 * 2 * 150 and steps[:300] == steps[300:]
    assert others[-1]["train_loss"] == pytest.approx(records[-1]["train_loss"], rel=1e-9)
    assert two.parameters()["0.W"] == pytest.approx(one.parameters()["0.W"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("change", [lambda x: x / 255, lambda x: x[:, :14]])
def test_augmented_images_are_checked(digits, change):
    with pytest.raises(ValueError):
        list(Network(mlp([4])).fit(*digits[0], augment=lambda x, rng, t: change(x), processes=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error", [EOFError, BrokenPipeError])
def test_an_error_of_the_caller_is_not_taken_for_a_dead_process(digits, error):
    def progress(rates):
        for i, rate in enumerate(rates):
            if i == 11:
                raise error
            yield rate

    with pytest.raises(error):
        list(Network(mlp([4])).fit(*digits[0], batch_size=20, processes=2, progress=progress))
    assert not multiprocessing.active_children()


class StrangeError(Exception):
    """It cannot be sent to another process."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Counter(Layer):
    """It counts the batches in its state, and may fail."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def connect(self, shape):
        self.state_shapes = {"count": (1,)}
        return shape

    def forward(self, x, training=False):
        self.state["count"] += training
        if self.state["count"] > self.limit:
            raise StrangeError("this", "that")
        return x

    def backward(self, dy, need_dx=True):
        return dy


def test_the_state_and_the_errors_of_a_layer(digits):
    net = Network([Counter(25), Dense(10)])
    epochs = net.fit(*digits[0], batch_size=60, processes=2)
    for count in 10, 20:
        next(epochs)
        assert net.layers[0].state["count"] == count
    with pytest.raises(RuntimeError, match=r"in forward\n(?s:.*)StrangeError: this and that"):
        next(epochs)
    assert net.layers[0].state["count"] == 20, "a stopped epoch changes nothing"


def test_the_same_bytes_with_three_processes(digits):
    """Whichever process ends first."""
    results = [trained("dense 8", digits[0], 3, dtype="float32", epochs=8) for _ in range(3)]
    records = [[record | {"seconds": 0} for record in records] for _, records in results]
    assert records[0] == records[1] == records[2]
    for net, _ in results[1:]:
        assert all((a == net.arrays()[name]).all() for name, a in results[0][0].arrays().items())


def test_a_divergence_in_a_process(digits):
    with pytest.raises(DivergenceError, match="lower lr"):
        trained("dense 8", digits[0], 2, lr=1e5, dtype="float32")
    assert not multiprocessing.active_children()


def test_leaving_the_loop_ends_the_processes(digits):
    epochs = Network(mlp([4])).fit(*digits[0], processes=2)
    next(epochs)
    assert len(multiprocessing.active_children()) == 2
    epochs.close()
    assert not multiprocessing.active_children()


def test_a_process_that_dies(digits):
    epochs = Network(mlp([4])).fit(*digits[0], processes=2)
    next(epochs)
    os.kill(multiprocessing.active_children()[1].pid, signal.SIGKILL)
    with pytest.raises(ParallelError, match="a process of the training has ended: the reason is above, or"):
        next(epochs)
    assert not multiprocessing.active_children()


def test_a_batch_that_cannot_be_divided(digits, run):
    with pytest.raises(ValueError, match="batch_size must be a multiple of processes, not 128 of 3"):
        next(Network(mlp([4])).fit(*digits[0], processes=3))
    for flags, message in (
        (["--processes", 3], "batch-size must be a multiple of processes, not 64 of 3"),
        (["--processes", 0], "processes must be an integer from 1 to 1,000,000,000, not 0"),
        (["--processes", 8, "--batch-size", 8, "--layers", "dense 4, batchnorm"], "batch-size must be above 8 for"),
    ):
        code, out, err = run("train", *flags)
        assert code == 2 and not out and message in err and err.count("\n") == 1, err


@pytest.mark.parametrize("augment", [[], ["--augment"]])
def test_training_with_a_command_is_resumed_to_the_same_bytes(train, tmp_path, monkeypatch, augment):
    arguments = [*CNN[:2], "--epochs", 3, "--processes", 2, "--batch-size", 50, *augment]
    assert train(*arguments, "--out", "whole.npz")[::2] == (0, "")
    original, left = Network.evaluate, [1]

    def stop(*data):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return original(*data)

    with monkeypatch.context() as patch:
        patch.setattr(Network, "evaluate", stop)
        assert train(*arguments, "--out", "m.npz")[0] == 130
    assert not multiprocessing.active_children()
    assert train(*arguments, "--out", "m.npz", "--resume")[0] == 0
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_processes_end_with_a_stopped_training(archive, tmp_path, number):
    """Ctrl-C reaches all processes of the terminal."""
    arguments = ["--dataset", archive, "--epochs", 50000, "--processes", 2, "--out", "m.npz"]
    process = train_process(*arguments, cwd=tmp_path)
    wait_for_epoch(process, 3)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) >= 2
    for pid in children if number == signal.SIGINT else []:
        os.kill(int(pid), number)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert err.count("\n") == (number != signal.SIGKILL), err
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in children):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a process is left")


@pytest.mark.slow
def test_training_resumes_after_a_process_was_killed(archive, tmp_path):
    arguments = ["--dataset", archive, "--epochs", 50000, "--processes", 2, "--out", "m.npz"]
    process = train_process(*arguments, cwd=tmp_path)
    wait_for_epoch(process, 3)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(max(children, key=int)), signal.SIGKILL)  # the youngest: the first one is multiprocessing's own
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("\n") == 1, err
    assert err.endswith("; the same command with --resume continues\n") and (tmp_path / "m" / "checkpoint.npz").exists()


def test_a_program_without_a_main_guard_is_told(tmp_path, archive):
    program = (
        "import numpy as np\n"
        "from network import Network\n"
        "from nn.layers import Dense\n"
        f"data = np.load({str(archive)!r})\n"
        "for _ in Network([Dense(10)]).fit(data['x_train'], data['y_train'], processes=2):\n"
        "    pass\n"
    )
    (tmp_path / "own.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and "ParallelError" in result.stderr and "__main__" in result.stderr


def environment(pipe):
    pipe.send({name: os.environ.get(name) for name in parallel.THREADS})


def test_a_process_computes_on_one_thread(monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    for name in parallel.THREADS[:2]:
        monkeypatch.delenv(name, raising=False)
    process, pipe = start_process(environment)
    threads = pipe.recv()
    assert [threads[name] for name in parallel.THREADS[:3]] == ["1", "1", "3"]
    assert parallel.THREADS[0] not in os.environ and os.environ["MKL_NUM_THREADS"] == "3"
    process.join(10)
    assert process.exitcode == 0
    with pytest.raises(EOFError):
        pipe.recv()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_sighup_does_not_end_the_resource_tracker():
    program = """
import os, signal, time
from multiprocessing import resource_tracker
from nn.parallel import start_process

start_process(print)
os.kill(resource_tracker._resource_tracker._pid, signal.SIGHUP)
time.sleep(0.3)
print(os.waitpid(resource_tracker._resource_tracker._pid, os.WNOHANG), flush=True)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "(0, 0)\n" in result.stdout
