"""The same training in PyTorch, step by step."""

import numpy as np
import pytest

from network import Network, mlp

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
