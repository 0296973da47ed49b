"""The same training in PyTorch, step by step."""

import numpy as np
import pytest

from network import Network
from nn.architecture import mlp, parse

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_twins(loss, nesterov):
    """20 steps from the same weights, in float64: momentum, L2 and a falling rate; every parameter within 1e-6."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 16, 784)), rng.integers(0, 10, (20, 16))
    net = Network(mlp([30, 20]), loss=loss, dtype="float64")
    twin = torch.nn.Sequential(
        torch.nn.Linear(784, 30), torch.nn.ReLU(), torch.nn.Linear(30, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10)
    ).double()
    weights = [p for p in twin.parameters() if p.ndim == 2]
    biases = [p for p in twin.parameters() if p.ndim == 1]
    for ours, theirs in zip(net.parameters().values(), twin.parameters(), strict=True):
        theirs.data = torch.from_numpy(ours.copy())
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=nesterov)
    for step in range(20):
        lr = 0.02 / (1 + step / 5)
        optimiser.param_groups[0]["lr"] = optimiser.param_groups[1]["lr"] = lr
        outputs = twin(torch.from_numpy(x[step]))
        target = torch.from_numpy(y[step])
        if loss == "mse":
            their_loss = 0.5 * ((outputs - torch.nn.functional.one_hot(target, 10)) ** 2).sum(dim=1).mean()
        else:
            their_loss = torch.nn.functional.cross_entropy(outputs, target)
        optimiser.zero_grad()
        their_loss.backward()
        optimiser.step()
        our_loss = net.loss.forward(net.forward(np.ascontiguousarray(x[step].T)), y[step])
        net.backward(net.loss.backward())
        net.update(lr, 0.9, 0.01, nesterov)
        assert our_loss == pytest.approx(their_loss.item(), abs=1e-9)
    for ours, theirs in zip(net.parameters().values(), twin.parameters(), strict=True):
        assert ours == pytest.approx(theirs.detach().numpy(), abs=1e-6)


def test_twins_with_convolution():
    """With convolution (stride, padding, dilation), pooling, batch normalisation, label smoothing; then in use."""
    text = "conv 4 3 padding 1, batchnorm, relu, pool 2, conv 5 3 dilation 2 stride 2, pool 3 stride 1, relu, "
    row = parse(text + "dense 12, batchnorm, tanh")
    net = Network(row, dtype="float64")
    nn = torch.nn
    twin = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, dilation=2, stride=2), nn.MaxPool2d(3, stride=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(45, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 10),
    ).double()  # fmt: skip

    def as_theirs(a):
        """Ours are (filters, k, channels, k), and dense weights look at (H, C, W); theirs at (C, H, W)."""
        if a.ndim == 4:
            return a.transpose(0, 2, 1, 3)
        return a.reshape(-1, 3, 5, 3).transpose(0, 2, 1, 3).reshape(-1, 45) if a.shape == (12, 45) else a

    for ours, theirs in zip(net.parameters().values(), twin.parameters(), strict=True):
        theirs.data = torch.from_numpy(as_theirs(ours).copy())
    weights = [p for p in twin.parameters() if p.ndim > 1]
    others = [p for p in twin.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=0.02, momentum=0.9)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 16, 28, 28)), rng.integers(0, 10, (20, 16))

    def ours_takes(images):
        return np.ascontiguousarray(images.transpose(1, 2, 0))[:, None]

    for images, labels in zip(x, y, strict=True):
        optimiser.zero_grad()
        outputs, targets = twin(torch.from_numpy(images[:, None])), torch.from_numpy(labels)
        their_loss = nn.functional.cross_entropy(outputs, targets)
        nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1).backward()
        optimiser.step()
        our_loss = net.loss.forward(net.forward(ours_takes(images), training=True), labels)
        net.backward(net.loss.backward(label_smoothing=0.1))
        net.update(0.02, 0.9, 0.01)
        assert our_loss == pytest.approx(their_loss.item(), abs=1e-8)
    for ours, theirs in zip(net.parameters().values(), twin.parameters(), strict=True):
        assert as_theirs(ours) == pytest.approx(theirs.detach().numpy(), abs=1e-6)
    twin.eval()
    expected = twin(torch.from_numpy(x[0][:, None])).detach().numpy().T
    assert net.forward(ours_takes(x[0])) == pytest.approx(expected, abs=1e-6)
