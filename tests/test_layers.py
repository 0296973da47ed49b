"""nn/layers.py (and every other layer): values, derivatives, and the rules that all layers keep."""

import inspect
import math

import numpy as np
import pytest

from nn.architecture import LAYERS
from nn.convolution import Conv2D, Flatten, MaxPool2D
from nn.layers import ACTIVATIONS, BatchNorm, Dense, Layer, LeakyReLU, ReLU, Sigmoid, Tanh

RNG = np.random.default_rng(1)
CASES = [  # layer, shape of one input, batch size
    (lambda: Dense(5), (7,), 4),
    (lambda: Dense(1), (3,), 1),
    (lambda: Dense(3), (1,), 6),
    (ReLU, (5,), 3),
    (LeakyReLU, (5,), 3),
    (lambda: LeakyReLU(0.3), (2,), 1),
    (Sigmoid, (4,), 5),
    (Tanh, (4,), 5),
    (BatchNorm, (4,), 5),
    (BatchNorm, (3, 4, 2), 3),
    (BatchNorm, (3,), 1),
    (lambda: Conv2D(3, 3), (6, 2, 5), 4),
    (lambda: Conv2D(2, 1), (3, 1, 3), 1),
    (lambda: Conv2D(2, 5), (5, 3, 7), 2),
    (lambda: Conv2D(4, 3, stride=2), (8, 2, 7), 3),
    (lambda: Conv2D(2, 3, padding=1), (4, 2, 5), 3),
    (lambda: Conv2D(2, 3, dilation=2), (7, 2, 6), 3),
    (lambda: Conv2D(3, 2, stride=3, padding=2, dilation=2), (7, 2, 9), 2),
    (lambda: MaxPool2D(2), (4, 3, 6), 3),
    (lambda: MaxPool2D(2), (5, 1, 7), 1),
    (lambda: MaxPool2D(3, 2), (7, 2, 8), 3),
    (lambda: MaxPool2D(2, 3), (8, 2, 8), 2),
    (Flatten, (3, 2, 4), 5),
]


def ready(layer, shape):
    """The layer with parameters and gradients of its own, in float64."""
    layer.connect(shape)
    layer.params = {name: RNG.standard_normal(s) for name, s in layer.shapes.items()}
    layer.grads = {name: np.full(s, np.nan) for name, s in layer.shapes.items()}
    layer.state = {name: RNG.uniform(0.5, 2, s) for name, s in layer.state_shapes.items()}
    return layer


def slope(f, a, direction, eps=1e-6):
    """The derivative of f() as `a` moves along `direction`, by central difference."""
    start = a.copy()
    a[...] = start + eps * direction
    up = f()
    a[...] = start - eps * direction
    down = f()
    a[...] = start
    return (up - down) / (2 * eps)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make, shape, n", CASES)
def test_gradients(make, shape, n, training):
    """Along a random direction, for a random upstream gradient: the input's and every parameter's."""
    layer = ready(make(), shape)
    x = RNG.standard_normal((*shape, n))
    dy = RNG.standard_normal(layer.forward(x).shape)

    def loss():
        return float((dy * layer.forward(x, training)).sum())

    loss()
    dx = layer.backward(dy).copy()
    grads = {name: g.copy() for name, g in layer.grads.items()}
    for a, gradient in [(x, dx), *((layer.params[name], grads[name]) for name in grads)]:
        direction = RNG.standard_normal(a.shape)
        assert (gradient * direction).sum() == pytest.approx(slope(loss, a, direction), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", ACTIVATIONS.values())
def test_activations_at_extremes(layer, dtype):
    x = np.array([[-1e4, -50, -1, 0, 1, 50, 1e4]], dtype)
    layer = layer()
    with np.errstate(all="raise", under="ignore"):
        y, dx = layer.forward(x).copy(), layer.backward(np.ones_like(x))
    assert np.isfinite(y).all() and np.isfinite(dx).all() and y.dtype == dx.dtype == dtype
    expected = {  # the values, and the derivative at 0
        "ReLU": (np.maximum(x, 0), 0),
        "LeakyReLU": (np.where(x > 0, x, 0.01 * x), dtype(0.01)),
        "Tanh": (np.tanh(x), 1),
        "Sigmoid": ([[0, 0, 0.26894142, 0.5, 0.73105858, 1, 1]], 0.25),
    }
    if type(layer).__name__ in expected:
        values, slope_at_0 = expected[type(layer).__name__]
        assert y == pytest.approx(np.asarray(values), abs=1e-7) and dx[0, 3] == slope_at_0


@pytest.mark.parametrize("make, shape, n", CASES)
def test_inputs_are_neither_changed_nor_shared(make, shape, n):
    layer = ready(make(), shape)
    x = RNG.standard_normal((*shape, n))
    before = x.copy()
    y = layer.forward(x)
    dy = RNG.standard_normal(y.shape)
    upstream = dy.copy()
    dx = layer.backward(dy)
    assert (x == before).all() and (dy == upstream).all()
    pairs = [(dy, y), (y, dx)] if isinstance(layer, Flatten) else [(x, y), (x, dx), (dy, dx), (dy, y), (y, dx)]
    assert not any(np.shares_memory(a, b) for a, b in pairs)


@pytest.mark.parametrize("make, shape, n", CASES)
def test_the_memory_stays_the_one_that_was_given(make, shape, n):
    """The network would not see another one: nothing would be learned."""
    layer = ready(make(), shape)
    given = {**layer.params}, {**layer.grads}, {**layer.state}
    layer.initialise(RNG)
    layer.backward(layer.forward(RNG.standard_normal((*shape, n)), training=True).copy())
    for before, now in zip(given, (layer.params, layer.grads, layer.state), strict=True):
        assert before.keys() == now.keys()
        replaced = [name for name in before if before[name] is not now[name]]
        assert not replaced, "write in place: self.grads[...][:] = ..., or out=self.grads[...]"


@pytest.mark.parametrize("make, shape, n", CASES)
def test_buffers_fit_every_batch_size(make, shape, n):
    """A large batch, then a small one, then large ones: the same answers as a layer that saw only that one."""
    layer = ready(make(), shape)
    for m, training in (8, True), (3, False), (8, True), (8, False):
        x = RNG.standard_normal((*shape, m))
        fresh = ready(make(), shape)
        fresh.params, fresh.state = layer.params, layer.state
        y = layer.forward(x, training)
        assert (y == fresh.forward(x, training)).all()
        dy = RNG.standard_normal(y.shape)
        assert (layer.backward(dy) == fresh.backward(dy)).all()
        assert all((layer.grads[name] == fresh.grads[name]).all() for name in layer.grads)


def test_need_dx_false_gives_the_same_parameter_gradients():
    layer = ready(Dense(5), (7,))
    x, dy = RNG.standard_normal((7, 4)), RNG.standard_normal((5, 4))
    layer.forward(x)
    layer.backward(dy)
    expected = {name: g.copy() for name, g in layer.grads.items()}
    assert layer.backward(dy, need_dx=False) is None
    assert all((layer.grads[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(
    "init, expected", [("he", math.sqrt(2 / 400)), ("xavier", math.sqrt(2 / 1000)), ("small", 0.01)]
)
def test_initialisation(init, expected):
    layer = ready(Dense(600, init), (400,))
    layer.initialise(np.random.default_rng(0))
    assert layer.params["W"].std() == pytest.approx(expected, rel=0.02)
    assert abs(layer.params["W"].mean()) < 0.02 * expected and (layer.params["b"] == 0).all()


@pytest.mark.parametrize("make, shape, n", [*CASES, (lambda: Dense(5, "xavier"), (3,), 1)])
def test_layers_are_built_again_from_their_description(make, shape, n):
    layer = make()
    assert set(layer.config()) == set(inspect.signature(type(layer)).parameters)
    again = LAYERS[type(layer).__name__](**layer.config())
    assert repr(again) == repr(layer)
    assert {**vars(again), "buffer": None} == {**vars(layer), "buffer": None}


@pytest.mark.parametrize("shape, axes", [((3,), 1), ((4, 3, 5), (0, 2, 3))])
def test_batch_norm_statistics(shape, axes):
    layer = ready(BatchNorm(momentum=0.5), shape)
    layer.initialise(RNG)
    x = RNG.standard_normal((*shape, 8)) * 3 + 2
    y = layer.forward(x, training=True)
    variance = x.var(axis=axes)
    assert y.mean(axis=axes) == pytest.approx(np.zeros(3), abs=1e-12)
    assert y.var(axis=axes) == pytest.approx(variance / (variance + 1e-5), rel=1e-12)
    assert layer.state["running_mean"] == pytest.approx(0.5 * x.mean(axis=axes))
    assert layer.state["running_variance"] == pytest.approx(0.5 + 0.5 * x.var(axis=axes, ddof=1))
    before = {name: a.copy() for name, a in layer.state.items()}
    part = x[..., :2]
    assert (layer.forward(x)[..., :2].copy() == layer.forward(part)).all(), "in use, an image does not see the others"
    assert all((layer.state[name] == a).all() for name, a in before.items())


BAD = [
    lambda: Dense(0), lambda: Dense(2.5), lambda: Dense(3, "magic"), lambda: LeakyReLU(-1), lambda: Conv2D(0, 3),
    lambda: Conv2D(3, 2.0), lambda: Conv2D(3, 3, padding=-1), lambda: Conv2D(3, 3, init="magic"), lambda: MaxPool2D(0),
    lambda: MaxPool2D(2, 0), lambda: BatchNorm(1), lambda: BatchNorm(eps=0),
]  # fmt: skip


@pytest.mark.parametrize("make", BAD)
def test_bad_arguments(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("make, shape, n", CASES)
def test_backward_returns_dx_by_default(make, shape, n):
    layer = ready(make(), shape)
    x = RNG.standard_normal((*shape, n))
    y = layer.forward(x)
    assert layer.backward(np.ones_like(y)).shape == x.shape
    assert layer.backward(np.ones_like(y), need_dx=False) is None
    assert inspect.signature(Layer.backward).parameters["need_dx"].default is True


def test_the_bias_of_a_dense_layer_is_reset():
    layer = ready(Dense(3), (2,))
    layer.initialise(RNG)
    assert (layer.params["b"] == 0).all()
