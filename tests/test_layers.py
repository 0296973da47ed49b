"""Every layer and loss against its own definition: values, derivatives, and good manners."""

import inspect
import math

import numpy as np
import pytest

from architecture import LAYERS
from convolution import Conv2D, Flatten, MaxPool2D
from layers import BatchNorm, CrossEntropy, Dense, LeakyReLU, MeanSquaredError, ReLU, Sigmoid, Tanh

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


@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquaredError()])
@pytest.mark.parametrize("n", [1, 6])
def test_loss_gradients(loss, n):
    z, labels = RNG.standard_normal((10, n)) * 3, RNG.integers(0, 10, n)
    loss.forward(z, labels)
    dz, direction = loss.backward().copy(), RNG.standard_normal(z.shape)
    assert (dz * direction).sum() == pytest.approx(
        slope(lambda: loss.forward(z, labels), z, direction), rel=1e-7, abs=1e-8
    )


def test_loss_values():
    z, labels = RNG.standard_normal((10, 6)), RNG.integers(0, 10, 6)
    p = np.exp(z) / np.exp(z).sum(axis=0)
    assert CrossEntropy().forward(z, labels) == pytest.approx(
        -np.mean([math.log(p[k, i]) for i, k in enumerate(labels)])
    )
    assert CrossEntropy().probabilities(z) == pytest.approx(p)
    target = np.eye(10)[labels].T
    assert MeanSquaredError().forward(z, labels) == pytest.approx(0.5 * np.mean(((z - target) ** 2).sum(axis=0)))


def test_mse_probabilities_add_up_and_keep_the_winner():
    z = RNG.standard_normal((10, 50))
    z[:, 0] = -1 - RNG.random(10)  # no class at all
    p = MeanSquaredError().probabilities(z)
    assert p.sum(axis=0) == pytest.approx(np.ones(50))
    assert (p >= 0).all() and (p.argmax(axis=0) == z.argmax(axis=0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", [ReLU, LeakyReLU, Sigmoid, Tanh])
def test_activations_at_extremes(layer, dtype):
    x = np.array([[-1e4, -50, -1, 0, 1, 50, 1e4]], dtype)
    layer = layer()
    with np.errstate(all="raise", under="ignore"):
        y, dx = layer.forward(x).copy(), layer.backward(np.ones_like(x))
    expected = {
        "ReLU": np.maximum(x, 0),
        "LeakyReLU": np.where(x > 0, x, 0.01 * x),
        "Tanh": np.tanh(x),
        "Sigmoid": [[0, 0, 0.26894142, 0.5, 0.73105858, 1, 1]],
    }[type(layer).__name__]
    assert y == pytest.approx(np.asarray(expected), abs=1e-7)
    assert np.isfinite(dx).all() and y.dtype == dx.dtype == dtype
    assert dx[0, 3] == {"ReLU": 0, "LeakyReLU": dtype(0.01), "Tanh": 1, "Sigmoid": 0.25}[type(layer).__name__]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_at_extremes(dtype):
    loss, z = CrossEntropy(), np.zeros((10, 2), dtype)
    z[3] = 1e4, -1e4
    with np.errstate(all="raise", under="ignore"):
        assert loss.forward(z, np.array([3, 0])) == pytest.approx(math.log(9) / 2)
        assert loss.forward(z, np.array([0, 3])) == pytest.approx((1e4 + 1e4 + math.log(9)) / 2)
        assert np.isfinite(loss.backward()).all()


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
        assert before.keys() == now.keys() and all(before[name] is now[name] for name in before)


@pytest.mark.parametrize("make, shape, n", CASES)
def test_buffers_fit_every_batch_size(make, shape, n):
    """A large batch, then a small one, then the large one again: the same answers as a layer that saw only that one."""
    layer = ready(make(), shape)
    batches = [RNG.standard_normal((*shape, m)) for m in (8, 3, 8)]
    for x in batches:
        fresh = make()
        fresh.connect(shape)
        fresh.params, fresh.state = layer.params, layer.state
        assert (layer.forward(x) == fresh.forward(x)).all()


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


def slow_convolution(x, W, b, stride, padding, dilation):
    """The definition, in loops."""
    x = np.pad(x, [(padding, padding), (0, 0), (padding, padding), (0, 0)])
    filters, k, channels, _ = W.shape
    extent = dilation * (k - 1) + 1
    high, wide = ((pixels - extent) // stride + 1 for pixels in (x.shape[0], x.shape[2]))
    y = np.zeros((high, filters, wide, x.shape[3]))
    for h, f, w, i, c, j in np.ndindex(high, filters, wide, k, channels, k):
        y[h, f, w] += W[f, i, c, j] * x[h * stride + i * dilation, c, w * stride + j * dilation]
    return y + b[:, None, None]


@pytest.mark.parametrize("case", range(40))
def test_convolution_equals_the_definition(case):
    rng = np.random.default_rng(case)
    size, stride, dilation, filters, channels, n = (int(i) for i in rng.integers(1, 4, 6))
    padding = int(rng.integers(0, 3))
    rows, columns = (int(i) for i in rng.integers(dilation * (size - 1) + 1, 10, 2))
    layer = ready(Conv2D(filters, size, stride, padding, dilation), (rows, channels, columns))
    x = rng.standard_normal((rows, channels, columns, n))
    y = layer.forward(x)
    assert y.shape[:3] == Conv2D(filters, size, stride, padding, dilation).connect(x.shape[:3])
    expected = slow_convolution(x, layer.params["W"], layer.params["b"], stride, padding, dilation)
    assert y == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size, stride", [(2, 2), (3, 2), (2, 3), (1, 1), (17, 1)])
def test_pooling_equals_the_definition(size, stride):
    layer = ready(MaxPool2D(size, stride), (19, 2, 18))
    x = RNG.integers(0, 3, (19, 2, 18, 2)).astype(float)  # many are equal
    y, expected, dx = layer.forward(x), {}, np.zeros_like(x)
    dy = RNG.standard_normal(y.shape)
    for h, c, w, n in np.ndindex(y.shape):
        window = x[h * stride : h * stride + size, c, w * stride : w * stride + size, n]
        expected[h, c, w, n] = window.max()
        i, j = np.unravel_index(window.argmax(), window.shape)
        dx[h * stride + i, c, w * stride + j, n] += dy[h, c, w, n]
    assert (y.ravel() == list(expected.values())).all()
    assert layer.backward(dy) == pytest.approx(dx), "each gradient goes to one pixel, the first of the largest"


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


def test_convolution_starts_by_all_it_looks_at():
    """The first weights of a filter are as wide as He et al. say for channels * k * k inputs."""
    layer = Conv2D(200, 3, init="he")
    layer.connect((9, 8, 9))
    layer.params = {name: np.empty(shape) for name, shape in layer.shapes.items()}
    layer.initialise(RNG)
    assert layer.params["W"].std() == pytest.approx(math.sqrt(2 / (8 * 9)), rel=0.03)
