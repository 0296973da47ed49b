"""A network: a stack of layers, trained by mini-batch stochastic gradient descent (SGD), saved in one file.

    images (N, 28, 28) uint8 -> standardize -> layer -> layer -> ... -> logits (10, N) -> loss

One training step is `Network.train_step`; `Network.fit` calls it for every batch of every epoch.
"""

import contextlib
import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import storage
from nn import architecture
from nn.architecture import LAYERS, connect
from nn.layers import BatchNorm, Layer, check_choice
from nn.losses import LOSSES, distilled, unsmoothed
from nn.memory import UFUNC_BUFFER, Buffers, ParameterMemory

FORMAT = 1  # version of the model file
UNIT_VECTORS = np.eye(3)  # the (v, W, dW) of `Network.update`
# purposes of a seed, each with a random stream of its own
INITIALISATION, ORDER, SPLIT, SEARCH, AUGMENTATION = range(5)
MAX_LOSS = 100.0  # a higher mean loss of an epoch counts as divergence; uniform guessing gives ln 10 = 2.3
MAX_BATCH_LOSS = 100 * MAX_LOSS  # the same for a single batch
MAX_OUTPUT = 1e15  # of a network; its square can still be computed, for MSE
EVAL_BATCH_SIZE = 1000  # images at a time at inference
BN_STATS_IMAGES = 10_000  # random images that batch norm's statistics are recomputed on
WINDOW, BLOCK = 60_000, 50  # images of a large file that are mixed at a time; that are read together. See `shuffled`

Augment = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]  # images, rng, t in [0, 1) -> augmented images
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "step": lambda t: 0.1 ** ((t >= 0.5) + (t >= 0.75)),
    "exponential": lambda t: 0.01**t,
    "inverse": lambda t: 1 / (1 + 9 * t),
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "plateau": lambda t: 1.0,  # but `fit` halves it after every drop of the validation accuracy
}
"""Factor of the learning rate as a function of the progress t, from 0 (first step) towards 1 (end of training)."""


class DivergenceError(ArithmeticError):
    """Training diverged: the loss is not finite, or too large."""

    exit_code = 1


def spawn_rng(seed: int, *purpose: int) -> np.random.Generator:
    """An independent generator for each purpose of one seed, so that using one does not change the others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


def pixel_mean_std(images: np.ndarray) -> tuple[float, float]:
    """Mean and std of all pixel values (0 to 255), from exact sums; if all are equal, the std is given as 1."""
    count, total, squares = math.prod(images.shape), 0, 0
    for i in range(0, len(images), EVAL_BATCH_SIZE):
        pixels = np.asarray(images[i : i + EVAL_BATCH_SIZE], np.float64).ravel()
        total += int(pixels.sum())
        squares += int(pixels @ pixels)
    return total / count, math.sqrt((count * squares - total**2) / count**2) or 1.0


def shuffled(count: int, window: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The numbers 0 to count - 1, `window` at a time (at the end fewer): sorted, and a random order of these.

    If there are more than fit into a window, blocks of BLOCK consecutive numbers are shuffled, and then the numbers in
    each window: so a window needs only a few parts of a file. (Blocks of 500 instead of 50 are hardly faster, and where
    neighbours are variants of one image, the accuracy was 0.3 points lower.)
    """
    if count <= window:
        yield np.arange(count), rng.permutation(count)
        return
    blocks = np.append(rng.permutation(count // BLOCK), count // BLOCK)  # the last one has fewer numbers, or none
    for start in range(0, count, window):
        position = np.arange(start, min(start + window, count))
        rows = np.sort(BLOCK * blocks[position // BLOCK] + position % BLOCK)
        yield rows, rng.permutation(len(rows))


def epoch_windows(
    images: np.ndarray, labels: np.ndarray, window: int, augment: Augment | None, seed: int, epochs: range
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each window of these epochs: an array of images, the order to take them in, the labels in this order."""
    in_memory = isinstance(images, np.ndarray)  # then an epoch has one window, the array itself
    buffer = None if in_memory else np.empty((min(window, len(images)), *images.shape[1:]), np.uint8)
    for epoch in epochs:
        rng = spawn_rng(seed, AUGMENTATION, epoch)
        for rows, order in shuffled(len(images), window, spawn_rng(seed, ORDER, epoch)):
            source = images if in_memory else images.take(rows, out=buffer[: len(rows)])
            yield augment(source, rng, epoch / epochs.stop) if augment else source, order, labels[rows][order]


def split_batches(windows: Iterable[tuple], batch_size: int) -> Iterator[tuple]:
    """The windows of `epoch_windows`, with the order and the labels of one batch at a time."""
    for images, order, labels in windows:
        for start in range(0, len(order), batch_size):
            batch = slice(start, start + batch_size)
            yield images, order[batch], labels[batch]


def prefetch(items: Iterator) -> Iterator:
    """The same items (not None), each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def sgd(
    v: np.ndarray, w: np.ndarray, dw: np.ndarray, lr: float, momentum: float, weight_decay: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The new velocity and the new values of a parameter: SGD with momentum (Polyak 1964) and L2. See `Network.update`.

    g = dL/dW + weight_decay * W        the gradient of L + weight_decay / 2 * |W|^2
    v = momentum * v + g
    W = W - lr * v                      or, with nesterov, W - lr * (g + momentum * v): Sutskever et al. 2013,
                                        where W is the point at which they evaluate the gradient
    """
    g = dw + weight_decay * w
    v = momentum * v + g
    return v, w - lr * (g + momentum * v if nesterov else v)


class Network:
    """A stack of layers with its parameters, its input statistics and its loss.

    layers: in the order of the forward pass, new ones for each network; input_shape: of one image for the first layer,
    by default (28, 1, 28) if any layer takes images, else (784,); seed: of the initial weights; dtype: float32, or
    float64 for gradient checks. `metadata` is a dict for whatever should be saved with the model: its dataset, config
    and scores.
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
        check_choice(LOSSES, loss=loss)
        if not isinstance(layers, list) or not layers or not all(isinstance(layer, Layer) for layer in layers):
            raise ValueError("layers must be a list of layers, such as [Dense(64), ReLU(), Dense(10)]")
        if any(layer.params for layer in layers):
            raise ValueError("these layers belong to another network: make new ones")
        self.layers, self.input_shape = layers, tuple(input_shape or architecture.input_shape(layers))
        self.loss_name, self.loss, self.dtype = loss, LOSSES[loss](), np.dtype(dtype)
        self.mean, self.std = 0.0, 255.0  # of the pixel values, 0 to 255; `fit` measures them
        self.label_smoothing = 0.0  # of the last `fit`
        self.metadata: dict = {}
        self.buffer = Buffers()
        self.classes = connect(layers, self.input_shape)
        self.memory = ParameterMemory(layers, self.dtype)
        rng = spawn_rng(seed, INITIALISATION)
        for layer in layers:
            layer.state = {name: np.zeros(shape, self.dtype) for name, shape in layer.state_shapes.items()}
            layer.initialise(rng)

    def parameters(self) -> dict[str, np.ndarray]:
        """Every parameter by name, "0.W" for the weights of layer 0. Views, valid until the next update."""
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.params.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the model: its parameters and its layers' state. Views, as in `parameters`."""
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
        """The velocity v of every parameter, in one vector (with padding). A view, valid until the next update."""
        return self.memory.content[0]

    @property
    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(a.size for a in self.parameters().values())

    # --- one training step ------------------------------------------------------------------------------------------

    def train_step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        label_smoothing: float = 0.0,
        teacher: "Network | None" = None,
    ) -> tuple[float, np.ndarray]:
        """One step of SGD on one batch: uint8 (N, 28, 28) and integer labels (N,), each below `classes`.

        Returns the mean loss of the batch, without L2, label smoothing and teacher, and the logits (classes, N), both
        from before the update. The logits are valid until the next call. DivergenceError if the loss is not finite, or
        too large.
        """
        x = self.standardize(images)
        logits = self.forward(x, training=True)
        loss = self.loss.forward(logits, labels)
        if not loss < MAX_BATCH_LOSS:  # NaN fails this comparison too
            raise DivergenceError(f"the loss of a batch reached {loss:.4g} at a learning rate of {lr:.4g}: lower lr")
        dz = self.loss.backward(label_smoothing)
        if teacher:
            dz = distilled(dz, logits, teacher.forward(teacher.standardize(images)))
        self.backward(dz)
        self.update(lr, momentum, weight_decay, nesterov)
        return loss, logits

    def standardize(self, images: np.ndarray) -> np.ndarray:
        """(pixel - mean) / std, as an array (*input_shape, N): the input of `forward`."""
        self.validate_images(images)
        batch = np.asarray(images).reshape(len(images), -1)
        if len(self.input_shape) == 1:  # BLAS takes the transpose of a C-ordered array without a copy
            x = self.buffer("x", batch.shape, self.dtype).T
        else:  # convolution needs the batch last in memory too
            x = self.buffer("x", batch.shape[::-1], self.dtype)
        np.copyto(x, batch.T)
        x -= self.mean
        x *= 1 / self.std
        return x.reshape(*self.input_shape, len(batch))

    def validate_images(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        """ValueError unless these are images; with labels, unless there is at least one, and each has a class."""
        if images.dtype != np.uint8 or images.ndim < 2 or math.prod(images.shape[1:]) != math.prod(self.input_shape):
            raise ValueError(f"images must be uint8, (N, 28, 28), not {images.dtype}, {images.shape}")
        if labels is None:
            return
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be integers, ({len(images)},), not {labels.dtype}, {labels.shape}")
        if not len(images):
            raise ValueError("there are no images to train on or to evaluate")
        if not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"labels must lie in 0 to {self.classes - 1}, not {labels.min()} to {labels.max()}")

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The outputs of the last layer, (classes, N), for inputs (*input_shape, N)."""
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy: np.ndarray) -> None:
        """Fill every layer's `grads`, from dL/dlogits (classes, N). The first layer does not compute dL/dx."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy, need_dx=layer is not self.layers[0])

    def update(self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> None:
        """One `sgd` step of every parameter; weight decay applies to weights only.

        `sgd` is linear in (v, W, dW): new (v, W) = M (v, W, dW) with a 2 x 3 matrix M, whose two rows are `sgd` of the
        three unit vectors. Without momentum and decay, M = [[0, 0, 1], [0, 1, -lr]]. One product of M with the three
        rows of memory updates all parameters in one pass. Written line by line, NumPy needs six passes, and an epoch
        takes 5 to 17 % longer.
        """
        matrices = (sgd(*UNIT_VECTORS, lr, momentum, decay, nesterov) for decay in (0.0, weight_decay))
        self.memory.multiply(*(np.array(matrix, self.dtype) for matrix in matrices))

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
        label_smoothing: float = 0.0,
        teacher: "Network | None" = None,
        standardize: bool = True,
        augment: Augment | None = None,
        seed: int = 0,
        history: list[dict] | None = None,
        processes: int = 1,
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> Iterator[dict]:
        """A generator that trains one epoch at a time and yields its record: nothing happens until you iterate.

        Leave the loop with `break` to stop, or continue the iteration whenever you like.

            images, labels            uint8 (N, 28, 28) and integers (N,); the images of a file larger than memory may
                                      be a `data.formats.ImageFile`: they are shuffled as `shuffled` says
            validation                images and labels that are evaluated after every epoch
            epochs, batch_size        passes over the images; images in a step (the last batch may be smaller)
            lr, schedule              learning rate at the start; its factor over time, one of SCHEDULES
            momentum, nesterov        see `sgd`
            weight_decay              L2, of weights only
            label_smoothing           e: the target of the label is 1 - e + e / C, of the others e / C
            teacher                   a trained network, to learn from its outputs too: see `nn.losses.distilled`
            standardize               measure the pixel mean and std of `images`; if False, use pixel / 255
            augment                   makes augmented images, a new array for each epoch
            seed                      of the order of the images and of `augment`
            history                   records of an earlier `fit` with the same arguments, to resume after its last
                                      epoch; restore all `arrays` and the `velocity` first
            processes                 divide each batch over them, see nn/parallel.py; batch_size must be a multiple
            progress                  wraps the steps of an epoch, for a progress bar

        A record has epoch, lr (of its first step), train_loss and train_accuracy (running means, without L2, label
        smoothing and teacher), validation_loss and validation_accuracy if there is a validation set, and seconds.
        DivergenceError if the loss is not finite, or above MAX_LOSS (mean of an epoch) or MAX_BATCH_LOSS.
        """
        history = list(history or [])
        self.validate_images(images, labels)
        if validation is not None:
            self.validate_images(*validation)
        check_choice(SCHEDULES, schedule=schedule)
        if not (epochs >= 1 and batch_size >= 1 and lr > 0 and weight_decay >= 0):
            raise ValueError("epochs and batch_size must be at least 1, lr above 0, weight_decay at least 0")
        if not (0 <= momentum < 1 and 0 <= label_smoothing < 1):
            raise ValueError("momentum and label_smoothing must lie in [0, 1)")
        if processes < 1 or batch_size % processes:
            raise ValueError(f"batch_size must be a multiple of processes, not {batch_size} of {processes}")
        if teacher:
            if teacher is self or {self.loss_name, teacher.loss_name} != {"cross_entropy"}:
                raise ValueError("a teacher is another network; both need the loss cross_entropy")
            if label_smoothing or processes > 1:
                raise ValueError("a teacher needs label_smoothing = 0 and processes = 1")
            sizes = [(math.prod(network.input_shape), network.classes) for network in (self, teacher)]
            if sizes[0] != sizes[1]:
                raise ValueError("the teacher has other numbers of inputs and classes: {1}, not {0}".format(*sizes))
        if schedule == "plateau" and validation is None:
            raise ValueError("the plateau schedule needs a validation set")
        self.prepare(images, standardize, label_smoothing)
        if not history:
            self.velocity[:] = 0
        steps = math.ceil(len(images) / batch_size)
        window = len(images) if isinstance(images, np.ndarray) else max(1, WINDOW // batch_size) * batch_size
        remaining = range(len(history), epochs)
        windows = epoch_windows(images, labels, window, augment, seed, remaining)
        if augment:  # not for a file alone: with each of its 1,200 parts, two threads would wait for Python's lock
            windows = prefetch(windows)
        train_epoch = self._train_epoch
        with contextlib.ExitStack() as stack:  # ends the processes
            if processes > 1:
                from nn.parallel import data_parallel  # late: multiprocessing is slow to import

                train_epoch = stack.enter_context(data_parallel(self, processes, min(window, len(images))))
            for epoch in remaining:
                started = time.perf_counter()
                epoch_lr = lr
                if schedule == "plateau":
                    accuracies = [record["validation_accuracy"] for record in history]
                    epoch_lr *= 0.5 ** sum(b < a for a, b in itertools.pairwise(accuracies))
                rates = [epoch_lr * SCHEDULES[schedule]((epoch + step / steps) / epochs) for step in range(steps)]
                of_epoch = itertools.islice(windows, math.ceil(len(images) / window))
                step_settings = momentum, weight_decay, nesterov, label_smoothing, teacher
                with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported once, as an error
                    np.setbufsize(UFUNC_BUFFER)  # until the end of this `with`, which restores it
                    loss, accuracy = train_epoch(of_epoch, batch_size, rates, progress, step_settings)
                    if augment or not validation:  # a random subset, because data may be sorted by class
                        rows, order = next(shuffled(len(images), window, spawn_rng(seed, ORDER, epoch)))
                        some = rows[order]
                    if augment:
                        self.update_bn_stats(images.take(some[:BN_STATS_IMAGES], axis=0))
                    # evaluate once more: the last step itself may have diverged
                    some_images = (a.take(some[:batch_size], axis=0) for a in (images, labels))
                    scores = self.evaluate(*(validation or some_images))
                for value, limit in (loss, MAX_LOSS), (scores["loss"], MAX_LOSS if validation else MAX_BATCH_LOSS):
                    if not value < limit:  # NaN fails this comparison too
                        raise DivergenceError(f"the loss reached {value:.4g} in epoch {epoch + 1}: lower lr")
                record = {"epoch": epoch + 1, "lr": rates[0], "train_loss": loss, "train_accuracy": accuracy}
                if validation is not None:
                    record |= {f"validation_{name}": score for name, score in scores.items()}
                record["seconds"] = time.perf_counter() - started
                history.append(record)
                yield record

    def prepare(self, images: np.ndarray, standardize: bool, label_smoothing: float) -> None:
        """Set what belongs to the model and is not trained; see `fit`."""
        self.mean, self.std = pixel_mean_std(images) if standardize else (0.0, 255.0)
        self.label_smoothing = float(label_smoothing)

    def _train_epoch(
        self,
        windows: Iterable[tuple],
        batch_size: int,
        rates: list[float],
        progress: Callable[[Iterable], Iterable],
        step_settings: tuple,
    ) -> tuple[float, float]:
        """A `train_step` for each batch of these windows (images, order, labels): mean loss, accuracy."""
        loss_sum, correct, count = 0.0, 0, 0
        for (images, index, labels), lr in zip(split_batches(windows, batch_size), progress(rates), strict=True):
            loss, logits = self.train_step(self._gather(images, index), labels, lr, *step_settings)
            loss_sum += loss * len(labels)
            correct += int(np.count_nonzero(logits.argmax(axis=0) == labels))
            count += len(labels)
        return loss_sum / count, correct / count

    def _gather(self, images: np.ndarray, index: np.ndarray) -> np.ndarray:
        """images[index], in a buffer."""
        batch = self.buffer("batch", (len(index), *images.shape[1:]), images.dtype)
        return images.take(index, axis=0, out=batch, mode="clip")  # "raise" would copy `out`

    def update_bn_stats(self, images: np.ndarray) -> None:
        """Set batch norm's running averages to those over undistorted images (Ioffe & Szegedy 2015, algorithm 2).

        For a network trained on augmented images, whose averages differ from those of undistorted images. It reduced
        the validation errors of a network with three convolutions by a tenth.
        """
        norms = [layer for layer in self.layers if isinstance(layer, BatchNorm)]
        try:
            for start in range(0, len(images) if norms else 0, EVAL_BATCH_SIZE):
                batch = images[start : start + EVAL_BATCH_SIZE]
                for layer in norms:
                    layer.running_update = len(batch) / (start + len(batch))  # so that every image has the same weight
                self.forward(self.standardize(batch), training=True)
        finally:
            for layer in norms:
                layer.running_update = 1 - layer.momentum

    # --- inference --------------------------------------------------------------------------------------------------

    def logits(self, images: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """A generator of slices of the images, each with its logits (classes, N), which are valid until the next one.

        DivergenceError if a logit is not below MAX_OUTPUT.
        """
        for start in range(0, len(images), EVAL_BATCH_SIZE):
            batch = slice(start, start + EVAL_BATCH_SIZE)
            with np.errstate(over="ignore", invalid="ignore"):
                logits = self.forward(self.standardize(images[batch]))
            if not np.abs(logits).max(initial=0) < MAX_OUTPUT:  # NaN fails this comparison too
                raise DivergenceError("the outputs of the network are too large: train it again, with a lower lr")
            yield batch, logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logits (classes, N) -> the probability of each class (N, classes), as if without label smoothing. A view."""
        return unsmoothed(self.loss.probabilities(logits), self.label_smoothing).T

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class: uint8 (N, 28, 28) -> (N, classes)."""
        result = np.empty((len(images), self.classes), self.dtype)
        for batch, logits in self.logits(images):
            result[batch] = self.probabilities(logits)
        return result

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The most likely class of each image: uint8 (N, 28, 28) -> integers (N,)."""
        result = np.empty(len(images), np.int64)
        for batch, logits in self.logits(images):
            result[batch] = logits.argmax(axis=0)
        return result

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The mean loss, without the L2 term, and the accuracy: {"loss", "accuracy"}. ValueError without images."""
        self.validate_images(images, labels)
        loss, correct = 0.0, 0
        for batch, logits in self.logits(images):
            loss += self.loss.forward(logits, labels[batch]) * logits.shape[1]
            correct += int(np.count_nonzero(logits.argmax(axis=0) == labels[batch]))
        return {"loss": loss / len(images), "accuracy": correct / len(images)}

    # --- model file ---------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the network to one .npz file, atomically: a description in JSON, and the arrays."""
        description = {
            "format": FORMAT,
            "layers": [[type(layer).__name__, layer.config()] for layer in self.layers],
            "input": {"shape": list(self.input_shape), "mean": self.mean, "deviation": self.std},
            "loss": self.loss_name,
            "label_smoothing": self.label_smoothing,
            "dtype": self.dtype.name,
            "about": json.loads(json.dumps(self.metadata)),  # as `load` will read it: keys are text
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
        }
        storage.write(path, description, self.arrays())

    @classmethod
    def load(cls, path: Path) -> "Network":
        """The network in a file that `save` wrote. StorageError if it is missing, damaged or not a model."""
        description, arrays = storage.read(path, "model")
        try:
            if description["format"] != FORMAT:
                raise ValueError(f"its format is {description['format']}, not {FORMAT}")
            layers = [LAYERS[name](**config) for name, config in description["layers"]]
            shape, dtype = tuple(description["input"]["shape"]), description["dtype"]
            if not layers or not shape or dtype not in ("float32", "float64"):
                raise ValueError("no layers, no input, or unsupported dtype")
            connect(layers, shape)
            expected = {
                f"{i}.{name}": (wanted, dtype)
                for i, layer in enumerate(layers)
                for name, wanted in (layer.shapes | layer.state_shapes).items()
            }
            if {name: (a.shape, a.dtype.name) for name, a in arrays.items()} != expected:  # before memory is allocated
                raise ValueError("its arrays do not match its layers")
            network = cls(layers, input_shape=shape, loss=description["loss"], dtype=dtype)
            network.mean = float(description["input"]["mean"])
            network.std = float(description["input"]["deviation"])
            network.label_smoothing = float(description.get("label_smoothing", 0))  # older files have none
            network.metadata = dict(description["about"])
            if not (network.std > 0 and 0 <= network.label_smoothing < 1):
                raise ValueError("the std of its pixels is not above 0, or its label smoothing is not in [0, 1)")
            with np.errstate(all="ignore"):  # what overflows, such as a mean of 1e39 in float32, is refused below
                mean, std, scale = np.array([network.mean, network.std, 1 / network.std]).astype(dtype)
                black, white = (0 - mean) * scale, (255 - mean) * scale  # as `standardize` makes them
                sums = [np.sum(a) for a in arrays.values()]
            if not np.isfinite([mean, std, scale, black, white, *sums]).all():
                raise ValueError("not all its values are finite")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise storage.StorageError(f"{path} is not a model of this program ({error}): train it again") from error
        network.restore(arrays)
        return network

    def __repr__(self) -> str:
        rows = [f"Network: {self.parameter_count:,} parameters, {self.loss_name}, {self.dtype}"]
        for i, layer in enumerate(self.layers):
            shapes = ", ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in layer.params.items())
            rows.append(f"  {i}  {layer!r:34}  {shapes}".rstrip())
        return "\n".join(rows)
