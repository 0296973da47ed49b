"""The real digits, where MNIST_DIR has them."""

import os

import pytest

import data
from data import mnist

pytestmark = pytest.mark.skipif(not os.environ.get("MNIST_DIR"), reason="MNIST_DIR is not set")


def test_counts_and_first_labels():
    for part, count, first in [("train", 60_000, [5, 0, 4, 1, 9]), ("test", 10_000, [7, 2, 1, 0, 4])]:
        images, labels = mnist.load(part)
        assert images.shape == (count, 28, 28) and list(labels[:5]) == first
    assert data.load("auto", "test")[2] == "mnist"


def test_quick_recipe(run):
    from .conftest import ROOT

    code, out, err = run("train", "--config", ROOT / "configs" / "quick.toml", "--out", "q.npz")
    assert code == 0 and err == "" and "50,000 training and 10,000 validation" in out
    code, out, _ = run("test", "--model", "q.npz")
    assert code == 0 and float(out.split()[-4]) > 0.93 and out.endswith("(mnist, 10000 images)\n")
