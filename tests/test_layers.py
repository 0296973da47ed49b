"""Every layer and loss against its own definition: values, derivatives, and good manners."""

import inspect
import math

import numpy as np
import pytest

from layers import INITS, LAYERS, CrossEntropy, Dense, LeakyReLU, MeanSquaredError, ReLU, Sigmoid, Tanh

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
]


def ready(layer, shape):
    """The layer with parameters and gradients of its own, in float64."""
    layer.connect(shape)
    layer.params = {name: RNG.standard_normal(s) for name, s in layer.shapes.items()}
    layer.grads = {name: np.full(s, np.nan) for name, s in layer.shapes.items()}
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


@pytest.mark.parametrize("make, shape, n", CASES)
def test_gradients(make, shape, n):
    """Along a random direction, for a random upstream gradient: the input's and every parameter's."""
    layer = ready(make(), shape)
    x = RNG.standard_normal((*shape, n))
    dy = RNG.standard_normal(layer.forward(x).shape)

    def loss():
        return float((dy * layer.forward(x)).sum())

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
    assert not any(np.shares_memory(a, b) for a, b in [(x, y), (x, dx), (dy, dx), (dy, y), (y, dx)])


@pytest.mark.parametrize("make, shape, n", CASES)
def test_buffers_fit_every_batch_size(make, shape, n):
    """A large batch, then a small one, then the large one again: the same answers as a layer that saw only that one."""
    layer = ready(make(), shape)
    batches = [RNG.standard_normal((*shape, m)) for m in (8, 3, 8)]
    for x in batches:
        fresh = make()
        fresh.connect(shape)
        fresh.params = layer.params
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
    assert init in INITS


@pytest.mark.parametrize("make, shape, n", [*CASES, (lambda: Dense(5, "xavier"), (3,), 1)])
def test_layers_are_built_again_from_their_description(make, shape, n):
    layer = make()
    assert set(layer.config()) == set(inspect.signature(type(layer)).parameters)
    again = LAYERS[type(layer).__name__](**layer.config())
    assert repr(again) == repr(layer)
    assert {**vars(again), "buffer": None} == {**vars(layer), "buffer": None}


@pytest.mark.parametrize(
    "make", [lambda: Dense(0), lambda: Dense(2.5), lambda: Dense(3, "magic"), lambda: LeakyReLU(-1)]
)
def test_bad_arguments(make):
    with pytest.raises(ValueError):
        make()
