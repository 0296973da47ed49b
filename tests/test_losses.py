"""nn/losses.py: values and derivatives of the losses."""

import math

import numpy as np
import pytest

from nn.losses import TEACHER_WEIGHT, TEMPERATURE, CrossEntropy, MeanSquaredError, distilled, unsmoothed

from .test_layers import slope

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquaredError()])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("smoothing", [0, 0.2])
def test_loss_gradients(loss, n, smoothing):
    z, labels = RNG.standard_normal((10, n)) * 3, RNG.integers(0, 10, n)

    def smoothed() -> float:
        """With the target (1 - e) one_hot + e / 10: for both losses, a sum over the classes plus a constant."""
        of_all_classes = np.mean([loss.forward(z, np.full(n, label)) for label in range(10)])
        return (1 - smoothing) * loss.forward(z, labels) + smoothing * of_all_classes

    expected = slope(smoothed, z, direction := RNG.standard_normal(z.shape))
    loss.forward(z, labels)
    dz = loss.backward(smoothing)
    assert (dz * direction).sum() == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_gradient_of_distillation():
    """(1 - w) L + w T^2 KL(q || p): weights and temperature as in Hinton et al. 2015, section 2."""
    z, of_teacher = RNG.standard_normal((2, 10, 6)) * 3
    labels, loss = RNG.integers(0, 10, 6), CrossEntropy()

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(axis=0)

    def total() -> float:
        p, q = softmax(z / TEMPERATURE), softmax(of_teacher / TEMPERATURE)
        divergence = (q * np.log(q / p)).sum(axis=0).mean()
        return (1 - TEACHER_WEIGHT) * loss.forward(z, labels) + TEACHER_WEIGHT * TEMPERATURE**2 * divergence

    expected = slope(total, z, direction := RNG.standard_normal(z.shape))
    loss.forward(z, labels)
    dz = distilled(loss.backward(), z, of_teacher)
    assert (dz * direction).sum() == pytest.approx(expected, rel=1e-7, abs=1e-7)


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
def test_cross_entropy_at_extremes(dtype):
    loss, z = CrossEntropy(), np.zeros((10, 2), dtype)
    z[3] = 1e4, -1e4
    with np.errstate(all="raise", under="ignore"):
        assert loss.forward(z, np.array([3, 0])) == pytest.approx(math.log(9) / 2)
        assert loss.forward(z, np.array([0, 3])) == pytest.approx((1e4 + 1e4 + math.log(9)) / 2)
        assert np.isfinite(loss.backward()).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unsmoothed_inverts_label_smoothing(dtype):
    q = RNG.dirichlet(np.ones(10), 50).T.astype(dtype)
    for e in 0, 0.1, 0.9:
        assert unsmoothed((1 - e) * q + e / 10, e) == pytest.approx(q, abs=1e-5)
    p = unsmoothed(q.copy(), 0.5)  # many are below the least target, 0.05
    assert p.sum(axis=0) == pytest.approx(np.ones(50)) and (p > 0).all() and (p[q < 0.05] < 1e-6).all()
    assert (p.argsort(axis=0) == q.argsort(axis=0)).all(), "the order, and so the runner-up"
    assert unsmoothed(np.full((10, 1), 0.1, dtype), 1 - 1e-12) == pytest.approx(np.full((10, 1), 0.1))
