"""nn/convolution.py against the definition, in loops. The gradients are checked in test_layers.py."""

import math

import numpy as np
import pytest

from nn.architecture import connect
from nn.convolution import Conv2D, MaxPool2D

from .test_layers import ready

RNG = np.random.default_rng(1)


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


@pytest.mark.parametrize("case", range(60))
def test_convolution_equals_the_definition(case):
    """And dx and dW are those of a sum that is linear in x and in W, and so known from other values of x and W."""
    rng = np.random.default_rng(case)
    size, stride, dilation, filters, channels, n = (int(i) for i in rng.integers(1, [4, 5, 5, 4, 4, 4]))
    padding = int(rng.integers(0, 3))
    rows, columns = (int(i) for i in rng.integers(dilation * (size - 1) + 1, 12, 2))
    layer = ready(Conv2D(filters, size, stride, padding, dilation), (rows, channels, columns))
    x = rng.standard_normal((rows, channels, columns, n))
    y = layer.forward(x)
    assert y.shape[:3] == Conv2D(filters, size, stride, padding, dilation).connect(x.shape[:3])
    expected = slow_convolution(x, layer.params["W"], layer.params["b"], stride, padding, dilation)
    assert y == pytest.approx(expected, abs=1e-12)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy)
    other_x, other_w = (rng.standard_normal(a.shape) for a in (x, layer.params["W"]))
    for gradient, other, pair in (
        (dx, other_x, (other_x, layer.params["W"])),
        (layer.grads["W"], other_w, (x, other_w)),
    ):
        y = slow_convolution(*pair, np.zeros(filters), stride, padding, dilation)
        assert (gradient * other).sum() == pytest.approx((dy * y).sum(), rel=1e-10, abs=1e-10)
    assert layer.grads["b"] == pytest.approx(dy.sum(axis=(0, 2, 3)))


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


@pytest.mark.parametrize("init, fan", [("he", 8 * 9), ("xavier", 8 * 9 + 200 * 9)])
def test_convolution_starts_by_all_it_looks_at(init, fan):
    """As the papers say for channels * k * k inputs and, with xavier, filters * k * k outputs."""
    layer = Conv2D(200, 3, init=init)
    assert Conv2D(200, 3).init == "he", "the default"
    layer.connect((9, 8, 9))
    layer.params = {name: np.empty(shape) for name, shape in layer.shapes.items()}
    layer.initialise(RNG)
    assert layer.params["W"].std() == pytest.approx(math.sqrt(2 / fan), rel=0.03)


def test_initialise_sets_the_bias_to_zero():
    layer = ready(Conv2D(3, 3), (5, 2, 5))
    assert (layer.params["b"] != 0).any()
    layer.initialise(RNG)
    assert (layer.params["b"] == 0).all()


@pytest.mark.parametrize("layer", [Conv2D(1, 1), MaxPool2D(1)])
def test_vectors_are_refused(layer):
    with pytest.raises(ValueError, match=r"takes images, not inputs of shape \(784,\)"):
        connect([layer], (784,))
