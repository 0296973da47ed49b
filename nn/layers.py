"""Layers: each implements its formula and its derivatives, in plain NumPy.

The batch is the last axis. A batch of N vectors of length K is an array of shape (K, N), so a dense layer reads as in
the textbook, y = W x + b, and the matrix product writes its result in the layout that the next layer needs.

Five rules hold for every layer:

- `forward` and `backward` change neither `x` nor `dy`.
- What they return belongs to the layer and is valid until its next call, because buffers are allocated once. (`Flatten`
  is the exception: it returns a view of its input.)
- `backward` fills `grads` with the gradients of the loss for the batch of the last `forward`.
- Arrays that the network owns (`params`, `grads`, `state`) are written in place: np.matmul(..., out=self.grads["W"]).
  Assigning a new array, self.grads["W"] = dy @ x.T, breaks the link to the network's memory.
- `forward` is deterministic. A random layer, such as dropout, would break resuming: a checkpoint does not save the
  state of a random generator.

docs/layers.md explains how to add a layer in five steps.
"""

import math
from collections.abc import Iterable
from inspect import signature

import numpy as np

from nn.memory import Buffers

INITIALIZERS = {
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),  # He et al. 2015, for ReLU
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),  # Glorot & Bengio 2010, for tanh and sigmoid
    "small": lambda fan_in, fan_out: 0.01,
}
"""The std of the normal distribution of the initial weights, by name."""


def check_int(low: int, high: int, **values: int) -> None:
    """ValueError for a value that is not an integer in [low, high]."""
    for name, value in values.items():
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high:,}, not {value!r}")


def check_choice(choices: Iterable[str], **values: str) -> None:
    """ValueError for a value that is not one of these names."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


class Layer:
    """One step of the network: y = f(x), with parameters in `params` and their gradients in `grads`.

    The network owns the memory of both: it sets `params` and `grads` to views of its own arrays, in the shapes that
    `connect` put into `shapes`. An update replaces the views; `grads` is undefined until the next `backward`. Arrays
    that belong to the model but have no gradient, such as running averages, are in `state`, with the shapes in
    `state_shapes`.
    """

    weight_decayed: tuple[str, ...] = ()  # names of the parameters with L2
    takes_images = False  # True if the input must be images (H, C, W, N): `architecture.connect` checks it

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.state_shapes: dict[str, tuple[int, ...]] = {}
        self.state: dict[str, np.ndarray] = {}
        self.buffer = Buffers()

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Take the shape of one input, (K,) or (H, C, W), set `shapes`, return the shape of one output. ValueError."""
        return shape

    def initialise(self, rng: np.random.Generator) -> None:
        """Set the initial values of `params` and `state`."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """y = f(x), for x of shape (*input shape, N)."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Fill `grads` from dL/dy and return dL/dx; with need_dx=False skip dL/dx and return None."""
        raise NotImplementedError

    def config(self) -> dict:
        """The constructor's arguments, to build the same layer again: the attributes with their names."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class Dense(Layer):
    """y = W x + b;  dW = dy x^T,  db = sum over the batch of dy,  dx = W^T dy.  W: (units, inputs), b: (units,)."""

    weight_decayed = ("W",)

    def __init__(self, units: int, init: str = "he") -> None:
        super().__init__()
        check_int(1, 10**6, units=units)
        check_choice(INITIALIZERS, init=init)
        self.units, self.init = units, init

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 1:
            raise ValueError(f"takes vectors, not inputs of shape {shape}: put it after layers of images and Flatten")
        self.shapes = {"W": (self.units, shape[0]), "b": (self.units,)}
        return (self.units,)

    def initialise(self, rng: np.random.Generator) -> None:
        fan_out, fan_in = self.shapes["W"]
        self.params["W"][:] = rng.standard_normal((fan_out, fan_in)) * INITIALIZERS[self.init](fan_in, fan_out)
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
        # the sum over the batch as a product: 4 times as fast as dy.sum(axis=1)
        np.matmul(dy, ones, out=self.grads["b"])
        if not need_dx:
            return None
        return np.matmul(self.params["W"].T, dy, out=self.buffer("dx", self.x.shape, dy.dtype))


class BatchNorm(Layer):
    """y = gamma (x - mean) / sqrt(variance + eps) + beta, for each feature, or each channel of images (H, C, W, N).

    In training, mean and variance are taken over the batch: M values (`count`) for each feature. At inference, running
    averages replace them: running = momentum * running + (1 - momentum) * batch (in PyTorch, momentum is 1 minus this),
    with the unbiased variance, M / (M - 1) times that of the batch; or the averages that `Network.update_bn_stats`
    computes.
    With x^ = (x - mean) / sqrt(variance + eps), and sums over the same M values, in training:

        dgamma = sum dy x^    dbeta = sum dy    dx = gamma / sqrt(variance + eps) * (dy - dbeta / M - x^ dgamma / M)

    Ioffe & Szegedy 2015. Gamma and beta: (features,). The bias of the layer before has no effect: it is cancelled by
    subtracting the mean.
    """

    def __init__(self, momentum: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__()
        if not (0 <= momentum < 1 and 0 < eps < 1):
            raise ValueError(f"momentum must lie in [0, 1) and eps in (0, 1), not {momentum!r} and {eps!r}")
        self.momentum, self.eps = momentum, eps
        self.running_update = 1 - momentum  # weight of a new batch in the running averages

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.features, self.positions = (shape[1], shape[0] * shape[2]) if len(shape) == 3 else (shape[0], 1)
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
            if self.count > 1:  # a single value has no variance
                unbiased = variance * (self.count / (self.count - 1))
                for name, value in ("running_mean", mean), ("running_variance", unbiased):
                    self.state[name] *= 1 - self.running_update
                    self.state[name] += self.running_update * value
        self.inv_std = 1 / np.sqrt(variance + self.eps)
        xhat *= self.inv_std[:, None]
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
        dx *= (self.params["gamma"] * self.inv_std)[:, None]
        return dx.reshape(shape)


def _sum(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """The sum of a, or of a * b, over all but the middle axis."""
    if b is None:
        return np.add.reduce(np.add.reduce(a, axis=2), axis=0)
    return np.einsum("hcm,hcm->c", a, b)


class Activation(Layer):
    """y = f(x), element by element. Subclasses write f(x) and dy * f'(x) into `out`."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        raise NotImplementedError

    def multiply_by_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        """out = dy * f'(x), computed from the last output `self.y`."""
        raise NotImplementedError

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self.y = self.buffer("y", x.shape, x.dtype)
        self.function(x, self.y)
        return self.y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", dy.shape, dy.dtype)
        self.multiply_by_derivative(dy, dx)
        return dx


class ReLU(Activation):
    """y = max(x, 0);  y' = 1 where x > 0, else 0."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        # An array of zeros that is never written to: with the scalar 0, np.maximum takes three times as long.
        np.maximum(x, self.buffer("zeros", x.shape, x.dtype), out=out)

    def multiply_by_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        positive = self.buffer("positive", dy.shape, np.dtype(bool))
        np.multiply(dy, np.greater(self.y, 0, out=positive), out=out)


class LeakyReLU(Activation):
    """y = x where x > 0, else slope * x;  y' = 1 or slope.  Maas et al. 2013."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        if not 0 <= slope < 1:
            raise ValueError(f"slope must lie in [0, 1), not {slope!r}")
        self.slope = slope

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        np.multiply(x, self.slope, out=out)
        np.maximum(x, out, out=out)

    def multiply_by_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
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

    def multiply_by_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        np.subtract(1, self.y, out=out)
        out *= self.y
        out *= dy


class Tanh(Activation):
    """y = tanh(x);  y' = 1 - y^2."""

    def function(self, x: np.ndarray, out: np.ndarray) -> None:
        np.tanh(x, out=out)

    def multiply_by_derivative(self, dy: np.ndarray, out: np.ndarray) -> None:
        np.multiply(self.y, self.y, out=out)
        np.subtract(1, out, out=out)
        out *= dy


ACTIVATIONS = {"relu": ReLU, "leaky_relu": LeakyReLU, "sigmoid": Sigmoid, "tanh": Tanh}
