"""The layers a network is a stack of: each one knows its formula and its derivatives, in plain NumPy.

The batch is the last axis. A batch of N vectors of length K is an array of shape (K, N), so a dense layer reads as in
the textbook, y = W x + b, and the matrix product leaves its result in the layout that the next layer wants.

Four rules hold for every layer:

- `forward` and `backward` change neither `x` nor `dy`.
- What they return belongs to the layer and is valid until its next call: the buffers are allocated once. (`Flatten`
  alone hands on what it was given, in another shape.)
- `backward` fills `grads` with the gradients of the loss for the batch that `forward` saw last.
- What the network owns (`params`, `grads`, `state`) is written in place: np.matmul(dy, x.T, out=self.grads["W"]). A new
  array in its stead, self.grads["W"] = dy @ x.T, is one that the network never sees.

README.md says how to add a layer, in five steps.
"""

import math
from collections.abc import Iterable

import numpy as np

INITS = {
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),  # He et al. 2015, for ReLU
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),  # Glorot & Bengio 2010, for tanh and sigmoid
    "small": lambda fan_in, fan_out: 0.01,
}
"""Standard deviation of the normal distribution that weights are drawn from, by name."""


def whole(least: int, most: int, **values: int) -> None:
    """ValueError for a value that is not a whole number within these bounds."""
    for name, value in values.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most:,}, not {value!r}")


def known(names: Iterable[str], **values: str) -> None:
    """ValueError for a value that is none of these names."""
    for name, value in values.items():
        if value not in names:
            raise ValueError(f"{name} must be one of {', '.join(names)}, not {value!r}")


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.zeros, starting at a cache line of 64 bytes: wide loads across two lines cost `Network.update` a tenth."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class Buffers:
    """Named work arrays, allocated at the largest size asked for and handed out as views in any smaller shape.

    New ones are full of `fill`, and stay so if nobody writes into them.
    """

    def __init__(self) -> None:
        self._flat: dict[str, np.ndarray] = {}
        self._views: dict[tuple, np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: np.dtype, fill: float = 0) -> np.ndarray:
        view = self._views.get((name, shape, dtype))
        if view is None:
            size = math.prod(shape)
            flat = self._flat.get(name)
            if flat is None or flat.size < size or flat.dtype != dtype:
                flat = self._flat[name] = aligned_zeros((size,), dtype)
                if fill:
                    flat.fill(fill)
                self._views = {key: old for key, old in self._views.items() if key[0] != name}
            view = self._views[name, shape, dtype] = flat[:size].reshape(shape)
        return view


class Layer:
    """One step of the network: y = f(x), with parameters in `params` and their gradients in `grads`.

    The network owns the memory of both. It makes `params` and `grads` views into its own arrays, in the shapes that
    `connect` put into `shapes`, and turns to other arrays after every step: look them up, do not keep them. What is
    not learned by its gradient, but belongs to the model all the same, is in `state`, in the shapes of `state_shapes`.
    """

    decayed: tuple[str, ...] = ()  # the parameters that L2 applies to
    pictures = False  # whether it works on pictures, (H, C, W, N), alone

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.state_shapes: dict[str, tuple[int, ...]] = {}
        self.state: dict[str, np.ndarray] = {}
        self.buffer = Buffers()

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Take the shape of one input, set `shapes`, return the shape of one output. ValueError if it cannot fit."""
        return shape

    def initialise(self, rng: np.random.Generator) -> None:
        """Draw the first values of `params`, and set those of `state`."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """y = f(x), x of shape (*input shape, N)."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """From dL/dy to dL/dx; fills `grads`. With need_dx=False dL/dx is not computed and None returned."""
        raise NotImplementedError

    def config(self) -> dict:
        """The arguments that build this layer again."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class Dense(Layer):
    """y = W x + b;  dW = dy x^T,  db = sum over the batch of dy,  dx = W^T dy.  W: (units, inputs), b: (units,)."""

    decayed = ("W",)

    def __init__(self, units: int, init: str = "he") -> None:
        super().__init__()
        whole(1, 10**6, units=units)
        known(INITS, init=init)
        self.units, self.init = units, init

    def config(self) -> dict:
        return {"units": self.units, "init": self.init}

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 1:
            raise ValueError(f"takes vectors, not inputs of shape {shape}")
        self.shapes = {"W": (self.units, shape[0]), "b": (self.units,)}
        return (self.units,)

    def initialise(self, rng: np.random.Generator) -> None:
        fan_out, fan_in = self.shapes["W"]
        self.params["W"][:] = rng.standard_normal((fan_out, fan_in)) * INITS[self.init](fan_in, fan_out)
        self.params["b"][:] = 0

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self.x = x
        y = self.buffer("y", (self.units, x.shape[1]), x.dtype)
        np.matmul(self.params["W"], x, out=y)
        y += self.params["b"][:, None]
        return y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        np.matmul(dy, self.x.T, out=self.grads["W"])
        ones = self.buffer("ones", dy.shape[1:], dy.dtype, fill=1)
        np.matmul(dy, ones, out=self.grads["b"])  # the sum over the batch as a product: 4x as fast as dy.sum(axis=1)
        if not need_dx:
            return None
        return np.matmul(self.params["W"].T, dy, out=self.buffer("dx", self.x.shape, dy.dtype))


class BatchNorm(Layer):
    """y = gamma (x - mean) / sqrt(variance + eps) + beta, for each feature, or each channel of pictures (H, C, W, N).

    In training mean and variance are those of the batch, over all it has of the feature (M numbers); for use they are
    running averages: running = momentum * running + (1 - momentum) * batch, the variance times M / (M - 1), or what
    `Network.settle` made of them.
    With x^ = (x - mean) / sqrt(variance + eps), and sums over the same M numbers, in training:

        dgamma = sum dy x^    dbeta = sum dy    dx = gamma / sqrt(variance + eps) * (dy - dbeta / M - x^ dgamma / M)

    Ioffe & Szegedy 2015. Gamma and beta: (features,). The bias of a layer before this one does nothing, because the
    mean takes it away again.
    """

    def __init__(self, momentum: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__()
        if not (0 <= momentum < 1 and 0 < eps < 1):
            raise ValueError(f"momentum must lie in [0, 1) and eps in (0, 1), not {momentum!r} and {eps!r}")
        self.momentum, self.eps = momentum, eps
        self.share = 1 - momentum  # of a new batch in the running averages

    def config(self) -> dict:
        return {"momentum": self.momentum, "eps": self.eps}

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.features = shape[-2] if len(shape) == 3 else shape[0]
        self.shapes = {"gamma": (self.features,), "beta": (self.features,)}
        self.state_shapes = {"running_mean": (self.features,), "running_variance": (self.features,)}
        return shape

    def initialise(self, rng: np.random.Generator) -> None:
        self.params["gamma"][:] = 1
        self.params["beta"][:] = 0
        self.state["running_mean"][:] = 0
        self.state["running_variance"][:] = 1

    def _view(self, x: np.ndarray) -> np.ndarray:
        """(features, N) as (1, features, N), or (H, C, W, N) as (H, C, W * N)."""
        return x.reshape(*(x.shape[:-3] or (1,)), self.features, -1)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        shape, x = x.shape, self._view(x)
        xhat = self.xhat = self.buffer("xhat", x.shape, x.dtype)
        self.training, self.count = training, x.size // self.features
        mean, variance = self.state["running_mean"], self.state["running_variance"]
        if training:
            mean = _sum(x) / self.count
        np.subtract(x, mean[:, None], out=xhat)
        if training:
            variance = _sum(xhat, xhat) / self.count
            if self.count > 1:  # one number has no variance
                self._average("running_mean", mean)
                self._average("running_variance", variance * (self.count / (self.count - 1)))
        self.inverse = 1 / np.sqrt(variance + x.dtype.type(self.eps))
        xhat *= self.inverse[:, None]
        y = np.multiply(xhat, self.params["gamma"][:, None], out=self.buffer("y", x.shape, x.dtype))
        y += self.params["beta"][:, None]
        return y.reshape(shape)

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        shape, dy = dy.shape, self._view(dy)
        dgamma, dbeta = _sum(dy, self.xhat), _sum(dy)
        self.grads["gamma"][:], self.grads["beta"][:] = dgamma, dbeta
        if not need_dx:
            return None
        dx = self.buffer("dx", dy.shape, dy.dtype)
        if self.training:
            np.multiply(self.xhat, (dgamma / -self.count)[:, None], out=dx)
            dx += dy
            dx -= (dbeta / self.count)[:, None]
        else:
            np.copyto(dx, dy)
        dx *= (self.params["gamma"] * self.inverse)[:, None]
        return dx.reshape(shape)

    def _average(self, name: str, value: np.ndarray) -> None:
        self.state[name] *= 1 - self.share
        self.state[name] += self.share * value


def _sum(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """The sum of a, or of a * b, over all but the middle axis."""
    if b is None:
        return np.add.reduce(np.add.reduce(a, axis=2), axis=0)
    return np.einsum("hcm,hcm->c", a, b)


class Activation(Layer):
    """y = f(x), element by element. Subclasses give f and its derivative, both written into an array of theirs."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        raise NotImplementedError

    def times_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        """out = dy * f'(x), where `self.y` is the last output: it says all there is to know of f'(x)."""
        raise NotImplementedError

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self.y = self.buffer("y", x.shape, x.dtype)
        self.function(x, self.y)
        return self.y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", dy.shape, dy.dtype)
        self.times_derivative(dy, dx)
        return dx


class ReLU(Activation):
    """y = max(x, 0);  y' = 1 where x > 0, else 0."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        # An array of zeros, never written to: with the number 0 NumPy's maximum takes three times as long.
        np.maximum(x, self.buffer("zeros", x.shape, x.dtype), out=out)

    def times_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        positive = self.buffer("positive", dy.shape, np.dtype(bool))
        np.multiply(dy, np.greater(self.y, 0, out=positive), out=out)


class LeakyReLU(Activation):
    """y = x where x > 0, else slope * x;  y' = 1 or slope.  Maas et al. 2013."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        if not 0 <= slope < 1:
            raise ValueError(f"slope must lie in [0, 1), not {slope!r}")
        self.slope = slope

    def config(self) -> dict:
        return {"slope": self.slope}

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        np.multiply(x, self.slope, out=out)
        np.maximum(x, out, out=out)

    def times_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        positive = self.buffer("positive", dy.shape, np.dtype(bool))
        np.multiply(np.greater(self.y, 0, out=positive), 1 - self.slope, out=out)
        out += self.slope
        out *= dy


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which cannot overflow;  y' = y (1 - y)."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        np.multiply(x, 0.5, out=out)
        np.tanh(out, out=out)
        out += 1
        out *= 0.5

    def times_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        np.subtract(1, self.y, out=out)
        out *= self.y
        out *= dy


class Tanh(Activation):
    """y = tanh(x);  y' = 1 - y^2."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        np.tanh(x, out=out)

    def times_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        np.multiply(self.y, self.y, out=out)
        np.subtract(1, out, out=out)
        out *= dy


class CrossEntropy:
    """Softmax and cross-entropy: p = exp(z) / sum exp(z),  L = -mean over the batch of log p[label].

    dL/dz = (p - one_hot(label)) / N.  The largest logit is subtracted first, so +-1e4 is no trouble.
    """

    def __init__(self) -> None:
        self.buffer = Buffers()

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax over the classes: (C, N) -> (C, N)."""
        return self._softmax(logits)[0]

    def forward(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The mean loss of a batch: logits (C, N), integer labels (N,)."""
        self.p, log_sum, shifted = self._softmax(logits)
        self.at = labels, np.arange(len(labels))
        return float(np.add.reduce(log_sum - shifted[self.at])) / len(labels)

    def backward(self) -> np.ndarray:
        """dL/dlogits (C, N) for the batch that `forward` saw last."""
        dz = self.buffer("dz", self.p.shape, self.p.dtype)
        np.copyto(dz, self.p)
        dz[self.at] -= 1
        dz /= dz.shape[1]
        return dz

    def _softmax(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        highest = np.maximum.reduce(logits, axis=0)
        shifted = np.subtract(logits, highest, out=self.buffer("shifted", logits.shape, logits.dtype))
        p = np.exp(shifted, out=self.buffer("p", logits.shape, logits.dtype))
        total = np.add.reduce(p, axis=0)
        p /= total
        return p, np.log(total), shifted


class MeanSquaredError:
    """L = 1/2 mean over the batch of |z - one_hot(label)|^2;  dL/dz = (z - one_hot(label)) / N.

    The outputs z estimate the probabilities of the classes themselves (Bishop 1995, section 6.1).
    """

    def __init__(self) -> None:
        self.buffer = Buffers()

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """The outputs, clipped to be positive and scaled to the sum 1: (C, N) -> (C, N)."""
        tiny = np.finfo(outputs.dtype).tiny
        p = np.maximum(outputs, tiny, out=self.buffer("p", outputs.shape, outputs.dtype))
        p[outputs.argmax(axis=0), np.arange(p.shape[1])] += tiny  # the largest stays it if none is positive
        p /= p.sum(axis=0)
        return p

    def forward(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """The mean loss of a batch: outputs (C, N), integer labels (N,)."""
        self.error = self.buffer("error", outputs.shape, outputs.dtype)
        np.copyto(self.error, outputs)
        self.error[labels, np.arange(len(labels))] -= 1
        return 0.5 * float(np.vdot(self.error, self.error)) / len(labels)

    def backward(self) -> np.ndarray:
        """dL/doutputs (C, N) for the batch that `forward` saw last."""
        dz = self.buffer("dz", self.error.shape, self.error.dtype)
        return np.divide(self.error, len(self.error[0]), out=dz)


ACTIVATIONS = {"relu": ReLU, "leaky_relu": LeakyReLU, "sigmoid": Sigmoid, "tanh": Tanh}
LOSSES = {"cross_entropy": CrossEntropy, "mse": MeanSquaredError}
