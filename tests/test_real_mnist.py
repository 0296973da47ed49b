"""The real digits, where MNIST_DIR has them."""

import os
import re
import shutil
from pathlib import Path

import pytest

import data
from data import mnist, photo

from .conftest import ROOT

pytestmark = pytest.mark.skipif(not os.environ.get("MNIST_DIR"), reason="MNIST_DIR is not set")


def test_counts_and_first_labels():
    for part, count, first in [("train", 60_000, [5, 0, 4, 1, 9]), ("test", 10_000, [7, 2, 1, 0, 4])]:
        images, labels = mnist.load(part)
        assert images.shape == (count, 28, 28) and list(labels[:5]) == first
    assert data.load("auto", "test")[2] == "mnist"


@pytest.mark.slow
def test_every_image_is_in_the_form_that_photos_are_brought_into():
    for part in "train", "test":
        assert all(map(photo.is_prepared, mnist.load(part)[0]))


def test_quick_recipe(run, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # no hint about a busy machine
    code, out, err = run("train", "--config", ROOT / "configs" / "quick.toml", "--out", "q.npz")
    assert code == 0 and err == "" and "50,000 training and 10,000 validation" in out
    code, out, _ = run("test", "--model", "q.npz")
    assert code == 0 and float(out.split()[-6]) > 0.93 and "(mnist, 10000 images) -> " in out


@pytest.mark.slow
def test_the_shipped_models_do_as_docs_say(run):
    claims = re.findall(r"\$ python test.py --model (\S+) \| tail -1\n(.*)", (ROOT / "docs/results.md").read_text())
    assert [name for name, _ in claims] == ["models/best.npz", "models/cnn.npz"]
    for name, claim in claims:
        Path("models").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, name)
        assert run("test", "--model", name, "--dataset", "mnist")[1].splitlines()[-1] == claim
