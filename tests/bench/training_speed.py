"""The speed of training: one epoch of 60,000 images through `Network.fit`, beside its peers, in one run.

    pip install -r tests/bench/requirements.txt && python tests/bench/training_speed.py

Every column does the same work: 784-hidden-10, ReLU, cross-entropy, momentum 0.9, L2 1e-4, float32, the images shuffled
each epoch, the mean loss of the epoch known at its end.

    ours      Network.fit: shuffling, gathering, standardizing bytes, loss, running accuracy, record
    products  only the five matrix products of those shapes and layouts, on one batch that never changes
    torch     PyTorch eager: nn.Linear, optim.SGD, the images standardized beforehand
    jax       JAX: one jitted step a batch, the parameters donated, the images standardized beforehand
    jax-host  JAX: as in its own MNIST example, each batch gathered by NumPy and handed to a jitted step
    jax-scan  JAX: one jitted scan an epoch (the last partial batch dropped); the fastest that we know
    sklearn   scikit-learn: MLPClassifier, the images standardized beforehand

Then the same for convolutional networks, ours with a process for each core and with one process, beside PyTorch, which
uses all cores; and the cost of augmentation.

The columns take turns within each round, so a machine that is slower for a while is slower for all. Prints seconds
(best of the rounds) and, for the peers, how many times as long as ours (best by best, and median by median).
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
from tables import machine, require, start, write_table

from app.cli import cores
from app.config import Config
from network import Network
from nn.architecture import mlp, parse

SHAPES = [(128, 128), (512, 32), (512, 128), (512, 512), (1024, 128), (1000, 40)]
CNNS = {  # layers by name; batches of 64
    name: f"conv 16 {kernel}, pool 2, relu, conv 32 {kernel}, pool 2, relu, dense 128, relu"
    for name, kernel in {"1-16-32, 5x5": "5", "1-16-32, 3x3, dilation 2": "3 dilation 2"}.items()
}
IMAGES, LR, MOMENTUM, DECAY = 60_000, 0.01, 0.9, 1e-4
RNG = np.random.default_rng(0)


def ours(images, x, labels, hidden: int | str, batch: int, **more) -> Callable[[], float]:
    """An epoch of the public class. hidden: units, or a layer specification."""
    network = Network(parse(hidden) if isinstance(hidden, str) else mlp([hidden]))
    settings = {"batch_size": batch, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "schedule": "constant"}
    epochs = network.fit(images, labels, epochs=10**6, **settings, **more)
    return lambda: next(epochs)["train_loss"]


def one_thread(make: Callable) -> Callable:
    """The same on one BLAS thread, which leaves a core to whatever runs beside it."""

    def limited(*arguments):
        from threadpoolctl import threadpool_limits

        return threadpool_limits.wrap(limits=1)(make(*arguments))

    return limited


def products(images, x, labels, hidden: int, batch: int) -> Callable[[], float]:
    """The matrix products of an epoch, and nothing else."""
    x = x[:batch].T
    w, v = (RNG.standard_normal(shape, dtype=np.float32) for shape in ((hidden, 784), (10, hidden)))
    dz = RNG.standard_normal((10, batch), dtype=np.float32)
    z, a, dw, dv, da = (np.empty(s, np.float32) for s in (dz.shape, (hidden, batch), w.shape, v.shape, (hidden, batch)))

    def epoch():
        for _ in range(math.ceil(IMAGES / batch)):
            np.matmul(w, x, out=a)
            np.matmul(v, a, out=z)
            np.matmul(dz, a.T, out=dv)
            np.matmul(v.T, dz, out=da)
            np.matmul(da, x.T, out=dw)
        return math.nan

    return epoch


def torch(images, x, labels, hidden: int | str, batch: int) -> Callable[[], float]:
    """PyTorch, as its users write it."""
    import torch

    if isinstance(hidden, str):
        theirs = {
            "Conv2D": lambda o: torch.nn.LazyConv2d(o.filters, o.size, o.stride, o.padding, o.dilation),
            "MaxPool2D": lambda o: torch.nn.MaxPool2d(o.size, o.stride),
            "Dense": lambda o: torch.nn.LazyLinear(o.units),
            "Flatten": lambda o: torch.nn.Flatten(),
            "ReLU": lambda o: torch.nn.ReLU(),
        }
        model = torch.nn.Sequential(*(theirs[type(layer).__name__](layer) for layer in parse(hidden)))
        x = x.reshape(-1, 1, 28, 28)
        model(torch.from_numpy(x[:1]))  # tells the lazy layers their sizes
    else:
        model = torch.nn.Sequential(torch.nn.Linear(784, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    loss_function = torch.nn.CrossEntropyLoss()
    x, y = torch.from_numpy(x), torch.from_numpy(labels)

    def epoch():
        total, order = torch.zeros(()), torch.randperm(len(x))
        for i in range(0, len(x), batch):
            index = order[i : i + batch]
            optimiser.zero_grad()
            loss = loss_function(model(x[index]), y[index])
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(index)
        return total.item() / len(x)

    return epoch


def jax(images, x, labels, hidden: int, batch: int, way: str = "step") -> Callable[[], float]:
    """JAX, jitted by the step or by the epoch."""
    import jax
    import jax.numpy as jnp

    host_x, host_y = x, labels
    x, y = jnp.asarray(x), jnp.asarray(labels)
    w = {"W1": RNG.standard_normal((784, hidden)) * 0.05, "b1": np.zeros(hidden)}
    w |= {"W2": RNG.standard_normal((hidden, 10)) * 0.05, "b2": np.zeros(10)}
    w = {name: jnp.asarray(a, jnp.float32) for name, a in w.items()}
    state = w, {name: jnp.zeros_like(a) for name, a in w.items()}, jnp.zeros(())
    decay = {"W1": DECAY, "b1": 0.0, "W2": DECAY, "b2": 0.0}

    def loss_function(w, x, y):
        hidden = jax.nn.relu(x @ w["W1"] + w["b1"])
        log_p = jax.nn.log_softmax(hidden @ w["W2"] + w["b2"])
        return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

    def learn(state, x, y):
        w, v, total = state
        loss, g = jax.value_and_grad(loss_function)(w, x, y)
        v = {name: MOMENTUM * v[name] + g[name] + decay[name] * w[name] for name in w}
        return {name: w[name] - LR * v[name] for name in w}, v, total + loss * len(y)

    def step(state, x, y, index):
        return learn(state, x[index], y[index])

    jitted_step, jitted_learn = jax.jit(step, donate_argnums=0), jax.jit(learn)

    @partial(jax.jit, donate_argnums=0)
    def jitted_epoch(state, x, y, order):
        return jax.lax.scan(lambda state, index: (step(state, x, y, index), None), state, order)[0]

    def epoch():
        nonlocal state
        state = *state[:2], jnp.zeros(())
        order = RNG.permutation(len(x))
        if way == "scan":
            state = jitted_epoch(state, x, y, order[: len(x) // batch * batch].reshape(-1, batch))
        for i in range(0, len(x) if way != "scan" else 0, batch):
            index = order[i : i + batch]
            if way == "host":
                state = jitted_learn(state, host_x[index], host_y[index])
            else:
                state = jitted_step(state, x, y, index)
        return float(state[2]) / len(x)

    return epoch


def sklearn(images, x, labels, hidden: int, batch: int) -> Callable[[], float]:
    """scikit-learn, one partial_fit (an epoch) at a time."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier([hidden], solver="sgd", batch_size=batch, learning_rate_init=LR, momentum=MOMENTUM,
                          nesterovs_momentum=False, alpha=DECAY * batch, max_iter=1, random_state=0)  # fmt: skip

    def epoch():
        model.partial_fit(x, labels, classes=np.arange(10))
        return model.loss_

    return epoch


CONTESTANTS: dict[str, Callable] = {
    "ours": ours,
    "products": products,
    "torch": torch,
    "jax": jax,
    "jax-host": partial(jax, way="host"),
    "jax-scan": partial(jax, way="scan"),
    "sklearn": sklearn,
}


def measure(contestants: dict[str, Callable], hidden: int | str, batch: int, rounds: int, data: tuple) -> dict:
    """Seconds of each round for each contestant that is installed."""
    epochs = {}
    for name, make in contestants.items():
        try:
            epochs[name] = make(*data, hidden, batch)
            epochs[name]()  # compile, allocate, warm up
        except ModuleNotFoundError:
            epochs.pop(name, None)
    seconds = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def dense(arguments: argparse.Namespace, data: tuple) -> None:
    """Networks with one hidden layer, beside all peers."""
    table, rows = [["hidden, batch", *CONTESTANTS]], []
    for hidden, batch in SHAPES:
        seconds = measure(CONTESTANTS, hidden, batch, arguments.rounds, data)
        best, ratios = report(f"784-{hidden}-10, batch {batch}", seconds)
        rows.append(ratios)
        table.append([f"{hidden}, {batch}", f"{best['ours']:.2f} s", *(f"{pair[0]:.2f}" for pair in ratios.values())])
    means = {name: [statistics.geometric_mean(row[name][i] for row in rows) for i in (0, 1)] for name in ratios}
    print("geometric mean".ljust(24), *(f"{name} ({a:.2f}, {b:.2f})" for name, (a, b) in means.items()), sep="  ")
    table.append(["geometric mean", "", *(f"**{pair[0]:.2f}**" for pair in means.values())])
    if arguments.write:
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "jax", "scikit-learn"))
        write_table("speed", table, f"Best of {arguments.rounds} rounds, momentum 0.9 and L2; {machine()}, {versions}.")


def cnn(arguments: argparse.Namespace, data: tuple) -> None:
    """Convolutional networks, beside PyTorch; and the cost of augmentation."""
    processes = 2 ** (cores().bit_length() - 1)  # a power of two, which divides the batch
    contestants = {"ours": partial(ours, processes=processes), "one process": ours, "torch": torch}
    table = [["layers, batches of 64", *contestants]]
    for name, layers in CNNS.items():
        best, ratios = report(name, measure(contestants, layers, 64, arguments.rounds, data))
        table.append([name, f"{best['ours']:.2f} s", *(f"{pair[0]:.2f}" for pair in ratios.values())])
    strong = Config(augment=True).distortion()
    contestants = {"ours": ours, "augmented": partial(ours, augment=strong),
                   "one thread": one_thread(ours), "one thread, augmented": one_thread(partial(ours, augment=strong)),
                   "augmentation alone": lambda *_: lambda: strong(data[0], RNG)}  # fmt: skip
    seconds = measure(contestants, 1024, 128, arguments.rounds, data)
    best, _ = report("784-1024-10, batch 128", seconds)
    if "one thread" not in best:
        return
    pairs = ("one thread", "one thread, augmented"), ("ours", "augmented")
    one, both = (f"{100 * (best[b] / best[a] - 1):.0f} % longer than {best[a]:.2f} s" for a, b in pairs)
    text = f"Augmenting 60,000 images takes {best['augmentation alone']:.2f} s on one core. Beside the training of "
    text += f"784-1024-10 in batches of 128, an epoch takes {one} if BLAS has one thread, {both} if it has all cores."
    print(text)
    if arguments.write:
        remark = f"Best of {arguments.rounds} rounds; {machine()}, torch {version('torch')}."
        write_table("speed of cnn", table, f"*ours* with {processes} processes. {text} {remark}")


def report(title: str, seconds: dict) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Print one row. Returns the best times, and how many times ours the others are: by best, and by median."""
    best, median = ({name: f(times) for name, times in seconds.items()} for f in (min, statistics.median))
    ratios = {name: (best[name] / best["ours"], median[name] / median["ours"]) for name in seconds if name != "ours"}
    cells = [f"{name} {best[name]:.3f} ({a:.2f}, {b:.2f})" for name, (a, b) in ratios.items()]
    print(title.ljust(24), f"ours {best['ours']:.3f}", *cells, sep="  ", flush=True)
    return best, ratios


PARTS = {"dense": dense, "cnn": cnn}
NEEDED = {"dense": ["torch", "jax", "sklearn"], "cnn": ["torch", "threadpoolctl"]}  # modules


def main() -> None:
    """Measure every shape, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' or '.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/speed.md")
    arguments = parser.parse_args()
    if not PARTS.keys() >= {*arguments.parts}:
        parser.error(f"the parts are {', '.join(PARTS)}")
    parts = arguments.parts or [*PARTS]
    needed = {module for part in parts for module in NEEDED[part]}
    if arguments.write:
        require(*sorted(needed))
    elif missing := sorted(name for name in needed if not find_spec(name)):
        print(f"left out, because they are not installed: {', '.join(missing)}", file=sys.stderr)
    warnings.filterwarnings("ignore", module="sklearn")
    images = RNG.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)  # digits or noise: the time is the same
    x = ((images.reshape(-1, 784) - images.mean()) / images.std()).astype(np.float32)
    data = images, x, RNG.integers(0, 10, IMAGES)
    print(f"{machine()}; rounds: {arguments.rounds}")
    print("seconds an epoch, and in brackets how many times ours: best by best, median by median")
    for part in parts:
        PARTS[part](arguments, data)


if __name__ == "__main__":
    start(main)
