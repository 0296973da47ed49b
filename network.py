"""A network: a stack of layers, trained by mini-batch gradient descent, kept in one file.

    images (N, 28, 28) uint8 -> standardize -> layer -> layer -> ... -> logits (10, N) -> loss

The way of one training step, in `_epoch`: `standardize` makes numbers of a batch, `forward` runs the layers, `backward`
runs them the other way round, `update` moves the weights. `fit` goes from epoch to epoch.
"""

import itertools
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import architecture
import storage
from architecture import LAYERS, connect
from layers import LOSSES, BatchNorm, Buffers, Layer, aligned_zeros, known

FORMAT = 1  # of the model file
INITIALISATION, ORDER, SPLIT, SEARCH, AUGMENTATION = range(5)  # the independent random streams of one seed
HOPELESS = 100.0  # mean loss of an epoch that no training comes back from; guessing costs 2.3
PREDICT_BATCH = 1000  # images at a time where nothing is learned
SETTLE_ON = 10_000  # images, drawn at random, that batch norm is settled on: enough for its averages
UPDATE_CHUNK = 160_000  # parameters at a time in `update`: OpenBLAS does products of up to 10^6 terms without packing

Augment = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]  # images, progress: to variants of them
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "step": lambda t: 0.1 ** ((t >= 0.5) + (t >= 0.75)),
    "exponential": lambda t: 0.01**t,
    "inverse": lambda t: 1 / (1 + 9 * t),
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "plateau": lambda t: 1.0,  # and halved after every epoch in which validation accuracy dropped: see `drops`
}
"""Factor of the learning rate as a function of progress t, which runs from 0 (first step) towards 1 (the end)."""


class DivergenceError(ArithmeticError):
    """Training that went astray: the loss left the finite numbers or grew out of all proportion."""


def random_stream(seed: int, *purpose: int) -> np.random.Generator:
    """An independent generator for each purpose of one seed: using one more or less changes none of the others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


def drops(history: Iterable[dict]) -> int:
    """How often validation accuracy fell from one epoch to the next."""
    accuracies = [record["validation_accuracy"] for record in history]
    return sum(b < a for a, b in itertools.pairwise(accuracies))


def grey_statistics(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all grey values (0 to 255), exact: from how often each of the 256 occurs."""
    counts = np.zeros(256, np.int64)
    for i in range(0, len(images), PREDICT_BATCH):
        counts += np.bincount(images[i : i + PREDICT_BATCH].ravel(), minlength=256)
    grey = np.arange(256)
    mean = float(counts @ grey / counts.sum())
    deviation = math.sqrt(counts @ (grey - mean) ** 2 / counts.sum())
    return mean, deviation or 1.0


def ahead(augment: Augment, images: np.ndarray, seed: int, remaining: range, epochs: int) -> Iterator[np.ndarray]:
    """The variants of the images for each remaining epoch, made in a thread while those of the one before are used."""

    def variants(epoch: int) -> np.ndarray:
        return augment(images, random_stream(seed, AUGMENTATION, epoch), epoch / epochs)

    with ThreadPoolExecutor(1) as thread:
        tasks = (thread.submit(variants, epoch) for epoch in remaining)
        upcoming = next(tasks, None)
        while upcoming:
            current, upcoming = upcoming, next(tasks, None)
            yield current.result()


class Network:
    """A stack of layers with its parameters, its input statistics and its loss.

    layers: in the order the data takes; input_shape: of one image as the first layer wants it, if not given (28, 1, 28)
    for layers that take pictures and else (784,); seed: of the first weights; dtype: float32, or float64 to check it.
    `about` is a dict for whatever should be kept with the model: its dataset, recipe and scores.
    """

    def __init__(
        self,
        layers: list[Layer],
        *,
        input_shape: tuple[int, ...] | None = None,
        loss: str = "cross_entropy",
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        known(LOSSES, loss=loss)
        self.layers, self.input_shape = layers, tuple(input_shape or architecture.input_shape(layers))
        self.loss_name, self.loss, self.dtype = loss, LOSSES[loss](), np.dtype(dtype)
        self.mean, self.deviation = 0.0, 255.0  # of the grey values, 0 to 255; `fit` measures them
        self.about: dict = {}
        self.buffer = Buffers()
        self.classes = connect(layers, self.input_shape)
        self._allocate()
        for layer in layers:
            layer.state = {name: np.zeros(shape, self.dtype) for name, shape in layer.state_shapes.items()}
        rng = random_stream(seed, INITIALISATION)
        for layer in layers:
            layer.initialise(rng)

    # --- memory: every parameter of every layer lies in one array ---------------------------------------------------

    def _allocate(self) -> None:
        """Give the layers their memory: views into the three rows of one array, velocities, parameters and gradients.

        Rows are a little longer than what they hold, which lies at their left end or, after the next step, at their
        right end: `rows`, the two sides. `update` writes from one side to the other, chunk by chunk, always into places
        that it has just read. With memory of its own for each side an epoch takes up to a fifth longer, because less of
        it stays in the processor's cache. Parameters with L2 lie in front.
        """
        slots = [(layer, name) for layer in self.layers for name in layer.shapes]
        slots.sort(key=lambda slot: slot[1] not in slot[0].decayed)
        places, end, decayed = {}, 0, 0
        for layer, name in slots:
            size = math.prod(layer.shapes[name])
            places[layer, name] = slice(end, end + size)
            end += -(-size // 16) * 16  # the next one starts at a 64-byte boundary; what the gap holds means nothing
            if name in layer.decayed:
                decayed = end
        shift = min(UPDATE_CHUNK, end)
        memory = aligned_zeros((3, end + shift), self.dtype)
        self.rows = left, right = memory[:, :end], memory[:, shift:]

        def views(row: np.ndarray, layer: Layer) -> dict[str, np.ndarray]:
            return {name: row[places[layer, name]].reshape(shape) for name, shape in layer.shapes.items()}

        self._views = [[(views(side[1], layer), views(side[2], layer)) for layer in self.layers] for side in self.rows]
        ends = [*range(0, decayed, UPDATE_CHUNK), *range(decayed, end, UPDATE_CHUNK), end]
        chunks = [slice(*pair) for pair in itertools.pairwise(ends)]
        self._chunks = [  # what is read, what is written, whether L2 applies: in the order that spares what is unread
            [(old[:, chunk], new[:2, chunk], chunk.stop <= decayed) for chunk in order]
            for old, new, order in ((left, right, chunks[::-1]), (right, left, chunks))
        ]
        self._turn_to(0)

    def _turn_to(self, side: int) -> None:
        self.side = side
        for layer, (params, grads) in zip(self.layers, self._views[side], strict=True):
            layer.params, layer.grads = params, grads

    def parameters(self) -> dict[str, np.ndarray]:
        """Every parameter by its plain name, "0.W" for the first layer's weights. Views, valid until the next step."""
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.params.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """All that makes the network what it is: its parameters and its layers' state. Views like `parameters`."""
        states = {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.state.items()}
        return self.parameters() | states

    def snapshot(self) -> dict[str, np.ndarray]:
        """A copy of all `arrays`."""
        return {name: a.copy() for name, a in self.arrays().items()}

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Set all `arrays` from a `snapshot`."""
        for name, a in self.arrays().items():
            a[:] = snapshot[name]

    @property
    def velocity(self) -> np.ndarray:
        """The momentum of every parameter, as one vector; set it to go on where another run stopped."""
        return self.rows[self.side][0]

    @velocity.setter
    def velocity(self, value: np.ndarray | float) -> None:
        self.rows[self.side][0] = value

    @property
    def parameter_count(self) -> int:
        """How many numbers are learned."""
        return sum(a.size for a in self.parameters().values())

    # --- one training step ------------------------------------------------------------------------------------------

    def standardize(self, images: np.ndarray, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(grey - mean) / deviation of images[index], as an array (*input_shape, N): what `forward` takes."""
        self.check(images)
        rows = images.reshape(len(images), -1)
        if isinstance(index, slice):
            batch = rows[index]
        else:
            batch = self.buffer("batch", (len(index), rows.shape[1]), rows.dtype)
            rows.take(index, axis=0, out=batch, mode="clip")
        if len(self.input_shape) == 1:  # the transpose of rows does for a product
            x = self.buffer("x", batch.shape, self.dtype).T
        else:  # convolution wants the batch last in memory too
            x = self.buffer("x", batch.shape[::-1], self.dtype)
        np.copyto(x, batch.T)
        x -= self.mean
        x *= 1 / self.deviation
        return x.reshape(*self.input_shape, len(batch))

    def check(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        """ValueError unless these are images, and a class for each of them if there are labels."""
        if images.dtype != np.uint8 or images.ndim < 2 or math.prod(images.shape[1:]) != math.prod(self.input_shape):
            raise ValueError(f"images must be uint8, (N, 28, 28), not {images.dtype}, {images.shape}")
        if labels is None:
            return
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be integers, ({len(images)},), not {labels.dtype}, {labels.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"labels must lie in 0 to {self.classes - 1}, not {labels.min()} to {labels.max()}")

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The outputs of the last layer, (classes, N), for inputs (*input_shape, N)."""
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy: np.ndarray) -> None:
        """Fill every layer's `grads`, from dL/doutputs (classes, N). The first layer's input needs no gradient."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy, need_dx=layer is not self.layers[0])

    def update(self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> None:
        """One step of gradient descent with momentum (Polyak 1964, or Nesterov's) and L2, for every parameter W.

            g = dL/dW + weight_decay * W        the gradient of L + weight_decay / 2 * |W|^2; only of weights
            v = momentum * v + g
            W = W - lr * v                      or, with nesterov, W - lr * (g + momentum * v), Sutskever et al. 2013
                                                with W the point they look ahead to

        New v and W are linear in the old v, W and dW, so the step is one product of a 2 x 3 matrix with three rows of
        memory, and BLAS does it in one pass. Written line by line, NumPy takes six, and an epoch 5 to 17 % longer.
        """
        pull = 1 + momentum if nesterov else 1.0  # what is subtracted from W: lr * (carry * v + pull * g)
        carry = momentum * momentum if nesterov else momentum
        products = [
            #             v             W                        dW
            np.array([[momentum, decay, 1.0], [-lr * carry, 1.0 - lr * pull * decay, -lr * pull]], self.dtype)
            for decay in (0.0, weight_decay)
        ]
        for old, new, decayed in self._chunks[self.side]:
            np.matmul(products[decayed], old, out=new)
        self._turn_to(1 - self.side)

    # --- training ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        epochs: int = 20,
        batch_size: int = 128,
        lr: float = 0.1,
        schedule: str = "cosine",
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        standardize: bool = True,
        augment: Augment | None = None,
        seed: int = 0,
        history: list[dict] | None = None,
        until: int | None = None,
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> Iterator[dict]:
        """Train, and yield a record after every epoch; leave the loop with `break` to stop, or go on whenever you like.

        images: uint8 (N, 28, 28); labels: integers (N,); validation: the same two, measured after every epoch.
        augment: makes a variant of each image, anew for every epoch; the next epoch's while this one is trained. It is
        told the training's progress, from 0 (the first epoch) towards 1.
        history: the records of an earlier `fit` with the same arguments, to go on after its last epoch; restore the
        parameters and the `velocity` first. until: stop after this epoch, to go on another time. progress: wraps the
        batches of an epoch, for a progress bar.
        A record has epoch, lr (at the epoch's start), train_loss and train_accuracy (running means, L2 left out),
        validation_loss and validation_accuracy if there is a validation set, and seconds.
        DivergenceError once the loss is not finite, or above `HOPELESS` (an epoch's mean) or a hundred times that (a
        batch's).
        """
        history = list(history or [])
        for pair in ((images, labels), validation or (images, labels)):
            self.check(*pair)
        known(SCHEDULES, schedule=schedule)
        if schedule == "plateau" and validation is None:
            raise ValueError("the plateau schedule needs a validation set")
        self.mean, self.deviation = grey_statistics(images) if standardize else (0.0, 255.0)
        if not history:
            self.velocity = 0
        steps = math.ceil(len(images) / batch_size)
        remaining = range(len(history), min(until or epochs, epochs))
        variants = ahead(augment, images, seed, remaining, epochs) if augment else itertools.repeat(images)
        step_settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        for epoch in remaining:
            started, seen = time.perf_counter(), next(variants)
            base = lr * 0.5 ** drops(history) if schedule == "plateau" else lr
            rates = [base * SCHEDULES[schedule]((epoch + step / steps) / epochs) for step in range(steps)]
            order = random_stream(seed, ORDER, epoch).permutation(len(images))
            with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported once, and in words
                loss, accuracy = self._epoch(seen, labels, order, rates, batch_size, step_settings, progress)
                if augment:
                    self.settle(images[order[:SETTLE_ON]])  # mixed, whatever order they come in
                # a last look, because the very last step may have been the fatal one
                scores = self.evaluate(*(validation or (images[order[:batch_size]], labels[order[:batch_size]])))
            limit = HOPELESS if validation else 100 * HOPELESS  # of many images, or of a single batch
            if not (loss < HOPELESS and scores["loss"] < limit):  # nor is nan below it
                worst = loss if not loss < HOPELESS else scores["loss"]
                raise DivergenceError(f"the loss came to {worst:.4g} in epoch {epoch + 1}: lower lr")
            record = {"epoch": epoch + 1, "lr": rates[0], "train_loss": loss, "train_accuracy": accuracy}
            if validation is not None:
                record |= {f"validation_{name}": score for name, score in scores.items()}
            record["seconds"] = time.perf_counter() - started
            history.append(record)
            yield record

    def _epoch(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        rates: list[float],
        batch_size: int,
        step_settings: dict,
        progress: Callable[[Iterable], Iterable],
    ) -> tuple[float, float]:
        """A step for each of `rates`, over the images in `order`; the running means of loss and accuracy."""
        labels = labels[order]
        losses, predicted = 0.0, np.empty(len(order), np.intp)
        for step, rate in enumerate(progress(rates)):
            batch = slice(step * batch_size, (step + 1) * batch_size)
            outputs = self.forward(self.standardize(images, order[batch]), training=True)
            loss = self.loss.forward(outputs, labels[batch])
            if not loss < 100 * HOPELESS:  # nor is nan below it
                raise DivergenceError(
                    f"the loss of a batch came to {loss:.4g} at a learning rate of {rate:.4g}: lower lr"
                )
            outputs.argmax(axis=0, out=predicted[batch])
            self.backward(self.loss.backward())
            self.update(rate, **step_settings)
            losses += loss * outputs.shape[1]
        return losses / len(order), float(np.mean(predicted == labels))

    def settle(self, images: np.ndarray) -> None:
        """Set the averages that batch norm uses to those over these images (Ioffe & Szegedy 2015, algorithm 2).

        After training on variants: the network is used on digits as they are, whose averages are others. A network of
        three convolutions made a tenth fewer mistakes on validation digits for it.
        """
        norms = [layer for layer in self.layers if isinstance(layer, BatchNorm)]
        for start in range(0, len(images) if norms else 0, PREDICT_BATCH):
            part = images[start : start + PREDICT_BATCH]
            for layer in norms:
                layer.share = len(part) / (start + len(part))  # so that every image counts alike
            self.forward(self.standardize(part), training=True)
        for layer in norms:
            layer.share = 1 - layer.momentum

    # --- use --------------------------------------------------------------------------------------------------------

    def _outputs(self, images: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(images), PREDICT_BATCH):
            part = slice(start, start + PREDICT_BATCH)
            yield part, self.forward(self.standardize(images, part))

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class: uint8 (N, 28, 28) -> (N, classes)."""
        result = np.empty((len(images), self.classes), self.dtype)
        for part, outputs in self._outputs(images):
            result[part] = self.loss.probabilities(outputs).T
        return result

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The most likely class of each image: uint8 (N, 28, 28) -> integers (N,)."""
        result = np.empty(len(images), np.int64)
        for part, outputs in self._outputs(images):
            result[part] = outputs.argmax(axis=0)
        return result

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The mean loss, without the L2 term, and the share of right answers: {"loss", "accuracy"}."""
        loss, correct = 0.0, 0
        for part, outputs in self._outputs(images):
            loss += self.loss.forward(outputs, labels[part]) * outputs.shape[1]
            correct += int(np.count_nonzero(outputs.argmax(axis=0) == labels[part]))
        return {"loss": loss / len(images), "accuracy": correct / len(images)}

    # --- the file ---------------------------------------------------------------------------------------------------

    def description(self) -> dict:
        """What the model file says of the network, beside the arrays."""
        return {
            "format": FORMAT,
            "layers": [[type(layer).__name__, layer.config()] for layer in self.layers],
            "input": {"shape": list(self.input_shape), "mean": self.mean, "deviation": self.deviation},
            "loss": self.loss_name,
            "dtype": self.dtype.name,
            "about": self.about,
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
        }

    def save(self, path: Path) -> None:
        """Write the network to one .npz file, atomically."""
        storage.write(path, self.description(), self.arrays())

    @classmethod
    def load(cls, path: Path) -> "Network":
        """The network in a file that `save` wrote. StorageError if it is missing, damaged or not a model."""
        description, arrays = storage.read(path, "model")
        if description.get("format") != FORMAT:
            raise storage.StorageError(
                f"{path} has format {description.get('format')}, this program reads {FORMAT}: train it anew"
            )
        try:
            layers = [LAYERS[name](**config) for name, config in description["layers"]]
            shape, dtype = tuple(description["input"]["shape"]), description["dtype"]
            if not layers or not shape or dtype not in ("float32", "float64"):
                raise ValueError("no layers, no input, or numbers of an unknown kind")
            connect(layers, shape)
            expected = {
                f"{i}.{name}": (wanted, dtype)
                for i, layer in enumerate(layers)
                for name, wanted in (layer.shapes | layer.state_shapes).items()
            }
            if {name: (a.shape, a.dtype.name) for name, a in arrays.items()} != expected:  # before memory is asked for
                raise ValueError("its arrays do not fit its layers")
            network = cls(layers, input_shape=shape, loss=description["loss"], dtype=dtype)
            network.mean = float(description["input"]["mean"])
            network.deviation = float(description["input"]["deviation"])
            network.about = dict(description["about"])
            numbers = [network.mean, 1 / network.deviation, *(np.sum(a) for a in arrays.values())]
            if not np.isfinite(numbers).all():
                raise ValueError("not all its numbers are finite")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise storage.StorageError(f"{path} is not a model of this program ({error}); train it anew") from error
        network.restore(arrays)
        return network

    def __repr__(self) -> str:
        rows = [f"Network: {self.parameter_count:,} parameters, {self.loss_name}, {self.dtype}"]
        for i, layer in enumerate(self.layers):
            shapes = ", ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in layer.params.items())
            rows.append(f"  {i}  {layer!r:34}{shapes}".rstrip())
        return "\n".join(rows)
