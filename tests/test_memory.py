"""nn/memory.py: work buffers, and the parameters that move through one array."""

import numpy as np
import pytest

from nn import memory
from nn.layers import Dense
from nn.memory import Buffers, ParameterMemory, aligned_zeros

RNG = np.random.default_rng(4)


def test_buffers_are_views_of_the_largest_request():
    buffer = Buffers()
    large = buffer("a", (4, 6), np.dtype("float32"))
    small = buffer("a", (3, 2), np.dtype("float32"))
    assert np.shares_memory(large, small) and small.shape == (3, 2) and small.flags.c_contiguous
    assert buffer("a", (4, 6), np.dtype("float32")) is large
    assert not np.shares_memory(large, buffer("b", (4, 6), np.dtype("float32")))
    larger = buffer("a", (5, 6), np.dtype("float32"))
    assert not np.shares_memory(large, larger) and larger.shape == (5, 6)
    assert buffer("a", (5, 6), np.dtype("float64")).dtype == np.float64
    assert (buffer("ones", (3,), np.dtype("float32"), fill=1) == 1).all()


def test_alignment():
    for size in range(1, 40):
        assert aligned_zeros((size,), np.dtype("float32")).ctypes.data % 64 == 0


@pytest.mark.parametrize("chunk", [160_000, 50, 16])
def test_multiply_applies_the_matrices_to_every_parameter(chunk, monkeypatch):
    """Several updates in both directions, for chunks larger and smaller than the layers, against plain copies."""
    monkeypatch.setattr(memory, "UPDATE_CHUNK", chunk)
    layers = [Dense(5), Dense(7), Dense(3)]
    shape = (11,)
    for layer in layers:
        shape = layer.connect(shape)
    parameters = ParameterMemory(layers, np.dtype("float64"))
    keys = [(layer, name) for layer in layers for name in layer.shapes]
    for layer, name in keys:
        layer.params[name][:] = RNG.standard_normal(layer.shapes[name])
    v = {key: np.zeros(key[0].shapes[key[1]]) for key in keys}
    w = {(layer, name): layer.params[name].copy() for layer, name in keys}
    for _ in range(5):
        plain, decayed = RNG.standard_normal((2, 2, 3))
        for layer, name in keys:
            gradient = layer.grads[name][:] = RNG.standard_normal(layer.shapes[name])
            (a, b, c), (d, e, f) = decayed if name == "W" else plain
            old_v, old_w = v[layer, name], w[layer, name]
            v[layer, name], w[layer, name] = a * old_v + b * old_w + c * gradient, d * old_v + e * old_w + f * gradient
        parameters.multiply(plain, decayed)
        for layer, name in keys:
            assert layer.params[name] == pytest.approx(w[layer, name], rel=1e-12)
    first = layers[0], "W"  # with weight decay, so it comes first
    assert parameters.content[0, : v[first].size] == pytest.approx(v[first].ravel())


def test_parameters_do_not_overlap():
    layers = [Dense(3), Dense(2)]
    layers[0].connect((5,)), layers[1].connect((3,))
    ParameterMemory(layers, np.dtype("float32"))
    arrays = [a for layer in layers for group in (layer.params, layer.grads) for a in group.values()]
    for i, a in enumerate(arrays):
        a[:] = i
    assert all((a == i).all() for i, a in enumerate(arrays))


def test_a_larger_buffer_replaces_a_smaller_one():
    buffer, dtype = Buffers(), np.dtype("float32")
    small, other = buffer("a", (2, 3), dtype), buffer("b", (2, 3), dtype)
    large = buffer("a", (4, 6), dtype)
    assert not np.shares_memory(small, large) and np.shares_memory(buffer("a", (2, 3), dtype), large)
    assert np.shares_memory(buffer("a", (6, 4), dtype), large), "of the same size: nothing is allocated"
    assert buffer("b", (2, 3), dtype) is other


def test_parameters_start_at_cache_lines_on_both_sides():
    layers = [Dense(3), Dense(2)]
    layers[0].connect((5,)), layers[1].connect((3,))
    parameters, lengths = ParameterMemory(layers, np.dtype("float32")), set()
    for _ in range(2):
        assert all(a.ctypes.data % 64 == 0 for layer in layers for a in layer.params.values())
        lengths.add(parameters.content.shape[1])
        parameters.multiply(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32))
    assert len(lengths) == 1
