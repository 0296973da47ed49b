"""Side by side with PyTorch, JAX and scikit-learn: the time to 98 % test accuracy, inference, memory, start-up.

    pip install -r tests/bench/requirements.txt && python tests/bench/peers.py [--rounds 5] [--quick] [--write]

Everyone trains 784-512-10 with ReLU and cross-entropy: batches of 128 images in a new order each epoch, momentum 0.9,
L2 1e-4, and a learning rate that falls from 0.05 to 0 over 5 epochs as a cosine (scikit-learn: the same, in steps of an
epoch). After each epoch the accuracy on the test images is measured; training ends when it reaches 98 %.

    time to 98 %   from the start of the process, with imports, reading MNIST, compilation and evaluation
    peak memory    of that process
    inference      from bytes to classes, the 10,000 test images at once (ours works in batches of 1000)
    start-up       ours: `--help` of the slowest command; the others: `import`, the least that any program needs

Each measurement is a process of its own; they take turns. Who is not installed is left out. The first rounds of all
warm up the caches of the disk and do not count (unless --quick: one round, for a look).
"""

import argparse
import gzip
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
TARGET, HIDDEN, EPOCHS, BATCH, LR, MOMENTUM, DECAY = 0.98, 512, 5, 128, 0.05, 0.9, 1e-4
COMMANDS = ("train.py", "test.py", "hp_search.py", "predict.py")
IMPORTS = {"PyTorch": "import torch", "JAX": "import jax.numpy", "scikit-learn": "import sklearn.neural_network"}
ROWS = {  # measure: title, format, whether less is better
    "seconds": ("time to 98 % test accuracy", "{:.2f} s", True),
    "memory": ("peak memory", "{:.0f} MB", True),
    "inference": ("inference, images a second", "{:,.0f}", False),
    "startup": ("start-up", "{:.2f} s", True),
}
Peer = tuple[Iterator[float], Callable[[np.ndarray], np.ndarray]]  # accuracy after each epoch; images -> classes


def rate(progress: float) -> float:
    """The learning rate as a function of the progress of the training, 0 to 1."""
    return LR * 0.5 * (1 + math.cos(math.pi * progress))


def ours(folder: Path, seed: int) -> Peer:
    """This project, as the example in its README."""
    sys.path.insert(0, str(ROOT))
    import data
    from network import Network
    from nn.architecture import mlp

    images, labels, _ = data.load("mnist", "train", folder)
    network = Network(mlp([HIDDEN]), seed=seed)
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    records = network.fit(images, labels, data.load("mnist", "test", folder)[:2], **settings, seed=seed)
    return (record["validation_accuracy"] for record in records), network.predict


def load(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's images (N, 784) and labels for the others, read as simply as can be."""
    arrays = []
    for kind, header in ("images-idx3", 16), ("labels-idx1", 8):
        content = next(iter(sorted(folder.glob(f"{split}-{kind}-ubyte*")))).read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        arrays.append(np.frombuffer(content, np.uint8, offset=header))
    return arrays[0].reshape(-1, 784), arrays[1].astype(np.int64)


def standardizer(images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """bytes -> (pixel - mean) / std, float32, with the statistics of these images."""
    mean, std = np.float32(images.mean()), np.float32(images.std())
    return lambda images: (images.reshape(len(images), -1).astype(np.float32) - mean) / std


def pytorch(folder: Path, seed: int) -> Peer:
    import torch

    torch.manual_seed(seed)
    (images, labels), (test_images, test_labels) = load(folder, "train"), load(folder, "t10k")
    standardize = standardizer(images)
    x, y = torch.from_numpy(standardize(images)), torch.from_numpy(labels)
    model = torch.nn.Sequential(torch.nn.Linear(784, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    loss_function = torch.nn.CrossEntropyLoss()

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(standardize(images))).argmax(dim=1).numpy()

    def accuracies() -> Iterator[float]:
        for epoch in range(EPOCHS):
            order = torch.randperm(len(x))
            for start in range(0, len(x), BATCH):
                optimizer.param_groups[0]["lr"] = rate((epoch + start / len(x)) / EPOCHS)
                index = order[start : start + BATCH]
                optimizer.zero_grad()
                loss_function(model(x[index]), y[index]).backward()
                optimizer.step()
            yield float(np.mean(predict(test_images) == test_labels))

    return accuracies(), predict


def jax(folder: Path, seed: int) -> Peer:
    import jax
    import jax.numpy as jnp

    (images, labels), (test_images, test_labels) = load(folder, "train"), load(folder, "t10k")
    standardize, rng = standardizer(images), np.random.default_rng(seed)
    x, y = jnp.asarray(standardize(images)), jnp.asarray(labels)
    shapes = {"W1": (784, HIDDEN), "b1": (HIDDEN,), "W2": (HIDDEN, 10), "b2": (10,)}
    scale = {"W1": (2 / 784) ** 0.5, "W2": (2 / HIDDEN) ** 0.5}
    weights = {k: jnp.asarray(scale.get(k, 0) * rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}
    state = weights, {name: jnp.zeros_like(a) for name, a in weights.items()}

    def logits(w, x):
        return jax.nn.relu(x @ w["W1"] + w["b1"]) @ w["W2"] + w["b2"]

    def loss_function(w, x, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits(w, x)), y[:, None], axis=1).mean()

    def step(state, x, y, index, lr):
        w, v = state
        g = jax.grad(loss_function)(w, x[index], y[index])
        v = {name: MOMENTUM * v[name] + g[name] + (DECAY * w[name] if name in scale else 0) for name in w}
        return {name: w[name] - lr * v[name] for name in w}, v

    step, classify = jax.jit(step, donate_argnums=0), jax.jit(lambda w, x: logits(w, x).argmax(axis=1))

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(classify(state[0], standardize(images)))

    def accuracies() -> Iterator[float]:
        nonlocal state
        for epoch in range(EPOCHS):
            order = rng.permutation(len(x))
            for start in range(0, len(x), BATCH):
                state = step(state, x, y, order[start : start + BATCH], rate((epoch + start / len(x)) / EPOCHS))
            yield float(np.mean(predict(test_images) == test_labels))

    return accuracies(), predict


def sklearn(folder: Path, seed: int) -> Peer:
    from sklearn.neural_network import MLPClassifier

    (images, labels), (test_images, test_labels) = load(folder, "train"), load(folder, "t10k")
    standardize = standardizer(images)
    x = standardize(images)
    settings = {"solver": "sgd", "batch_size": BATCH, "momentum": MOMENTUM, "nesterovs_momentum": False}
    first = rate(0.5 / EPOCHS)
    model = MLPClassifier([HIDDEN], alpha=DECAY * BATCH, learning_rate_init=first, random_state=seed, **settings)

    def accuracies() -> Iterator[float]:
        for epoch in range(EPOCHS):
            if epoch:
                model._optimizer.learning_rate = rate((epoch + 0.5) / EPOCHS)
            model.partial_fit(x, labels, classes=np.arange(10))
            yield float(np.mean(predict(test_images) == test_labels))

    def predict(images: np.ndarray) -> np.ndarray:
        return model.predict(standardize(images))

    return accuracies(), predict


PEERS = {  # function, module, package
    "ours": (ours, "numpy", "numpy"),
    "PyTorch": (pytorch, "torch", "torch"),
    "JAX": (jax, "jax", "jax"),
    "scikit-learn": (sklearn, "sklearn", "scikit-learn"),
}


def work(name: str, started: float, folder: Path, seed: int) -> dict:
    """Train to the target, in a process that was started at the time `started`; then measure inference."""
    accuracies, predict = PEERS[name][0](folder, seed)
    reached = next((accuracy for accuracy in accuracies if accuracy >= TARGET), None)
    if reached is None:
        sys.exit(f"{name} did not reach {TARGET:.0%} in {EPOCHS} epochs (seed {seed})")
    seconds = time.time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    images, _ = load(folder, "t10k")
    predict(images)
    begin, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begin < 1:
        predict(images)
        count += 1
    return {"seconds": seconds, "memory": memory, "inference": count * len(images) / (time.perf_counter() - begin)}


def measure(name: str, folder: Path, seed: int) -> dict:
    """All measures of one contestant, each in a new process."""
    command = [sys.executable, __file__, "--work", name, str(time.time()), str(folder), str(seed)]
    result = json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
    startup = []
    codes = [[str(ROOT / command), "--help"] for command in COMMANDS] if name == "ours" else [["-c", IMPORTS[name]]]
    for code in codes:
        start = time.perf_counter()
        subprocess.run([sys.executable, *code], check=True, stdout=subprocess.DEVNULL)
        startup.append(time.perf_counter() - start)
    return result | {"startup": max(startup)}


def table(results: dict[str, list[dict]]) -> list[list[str]]:
    """A row for each measure: medians, and for the others divided by ours, round by round: median, least, largest."""
    rows = [["", *results]]
    for measure, (title, form, _) in ROWS.items():
        row = [title]
        for name, rounds in results.items():
            cell = form.format(statistics.median(each[measure] for each in rounds))
            if name != "ours":
                pairs = [(a[measure], b[measure]) for a, b in zip(results["ours"], rounds, strict=True)]
                ratios = sorted(b / a for a, b in pairs)
                cell += f" ({statistics.median(ratios):.2f}x, {ratios[0]:.2f} to {ratios[-1]:.2f})"
            row.append(cell)
        rows.append(row)
    return rows


def figure(results: dict[str, list[dict]], path: Path) -> None:
    """A panel for each measure, with a bar for each contestant and a line from its least to its largest value."""
    sys.path.insert(0, str(ROOT))
    import plots

    @plots.styled
    def draw() -> None:
        drawing, axes = plots.new_figure(4.4, 2.3, len(ROWS), 2)
        for ax, (measure, (title, form, less)) in zip(axes, ROWS.items(), strict=True):
            labels = []
            for i, (name, rounds) in enumerate(results.items()):
                values = [each[measure] for each in rounds]
                median = statistics.median(values)
                spread = [[median - min(values)], [max(values) - median]]
                ax.bar(i, median, color=plots.BLUE if name == "ours" else "#bbbbbb", yerr=spread, ecolor=plots.GREY)
                labels.append(f"{name}\n{form.format(median)}")
            ax.set(title=f"{title} ({'less' if less else 'more'} is better)", yticks=[])
            ax.set_xticks(range(len(results)), labels)
            ax.grid(False)
        plots.save(drawing, path)

    draw()


def main() -> None:
    """Compare all; or be one of the processes of that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, without warm-up")
    parser.add_argument("--write", action="store_true", help="write the table and docs/peers.png")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once and in silence: the program that started us speaks
        name, started, folder, seed = arguments.work
        print(json.dumps(work(name, float(started), Path(folder), int(seed))))
        return
    from tables import start

    start(lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> None:
    """Measure in turn, print the table, write table and figure."""
    from tables import machine, require, write_table

    if arguments.write:
        require(*(module for _, module, _ in PEERS.values()))
    folder = Path(os.environ.get("MNIST_DIR") or ROOT / "data" / "raw").resolve()
    names = [name for name, (_, module, _) in PEERS.items() if find_spec(module)]
    results = {name: [] for name in names}
    for seed in range(1 if arguments.quick else arguments.rounds + 1):
        for name in names:
            result = measure(name, folder, seed)
            cells = [f"{title} {form.format(result[key])}" for key, (title, form, _) in ROWS.items()]
            print(name.ljust(12), *cells, sep="  ", flush=True)
            if seed or arguments.quick:
                results[name].append(result)
    rows = table(results)
    print("\n".join(" | ".join(row) for row in rows))
    if arguments.write:
        versions = ", ".join(f"{name} {version(PEERS[name][2])}" for name in names[1:])
        remark = f"Median of {len(results['ours'])}; in brackets median and range of the ratios to ours; {machine()}"
        write_table("peers", rows, f"{remark}, {versions}.\n\n![the same as bars](peers.png)")
        figure(results, ROOT / "docs" / "peers.png")


if __name__ == "__main__":
    main()
