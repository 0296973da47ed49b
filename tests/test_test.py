"""test.py as a user meets it: what it prints, writes and rejects."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

import data
import network
import plots
from data import synthetic
from network import Network
from nn.architecture import mlp
from nn.layers import Dense

PATH = Path("models/m.npz")


@pytest.fixture(scope="module")
def trained(digits):
    """A small network that misclassifies some of the test images."""
    network = Network(mlp([8]))
    for _ in network.fit(*digits[0], epochs=2, batch_size=50):
        pass
    network.metadata = {"dataset": "tiny", "data": data.fingerprint(*digits[0])}
    return network


@pytest.fixture
def model(trained, run):
    """The same, loaded from PATH in the test's folder."""
    trained.save(PATH)
    return Network.load(PATH)


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the figures, by function name."""
    calls = {}
    for name in ("confusion", "gallery"):
        original = getattr(plots, name)

        def record(*arguments, name=name, original=original):
            calls[name] = arguments
            return original(*arguments)

        monkeypatch.setattr(plots, name, record)
    return calls


def test_the_printed_result_is_what_numpy_says(run, model, archive, digits):
    code, out, err = run("test", "--model", PATH, "--dataset", archive)
    images, labels = digits[1]
    predicted, scores = model.predict(images), model.evaluate(images, labels)
    accuracy = (predicted == labels).mean()
    first, _, per_digit, last = out.splitlines()
    assert (code, err) == (0, "") and 0.1 < accuracy < 1
    assert first == f"models/m.npz: accuracy {accuracy:.4f}, loss {scores['loss']:.4f}"
    expected = [(predicted[labels == digit] == digit).mean() for digit in range(10)]
    assert [float(x) for x in per_digit.split()[1:]] == pytest.approx(expected, abs=1e-4)
    assert last == f"test accuracy {accuracy:.4f} (tiny, 200 images) -> models/m/"


def test_only_digits_that_occur_are_listed(run, model, archive, digits, tmp_path):
    images, labels = digits[1]
    few = np.isin(labels, (3, 8))
    np.savez(tmp_path / "tiny.npz", x_test=images[few], y_test=labels[few])
    code, out, err = run("test", "--model", PATH, "--dataset", "tiny.npz")
    assert (code, err) == (0, "") and out.splitlines()[1].split() == ["digit", "3", "8"]


def test_misclassified_images_are_written_with_the_highest_confidence_first(
    run, model, archive, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(network, "EVAL_BATCH_SIZE", 77)  # so that there are several batches
    run("test", "--model", PATH, "--dataset", archive)
    images, labels = digits[1]
    predicted, probabilities = model.predict(images), model.predict_proba(images)
    folder = tmp_path / "models" / "m"
    assert {path.name for path in folder.iterdir()} == {"confusion.png", "mistakes.png", "mistakes.csv"}
    with (folder / "mistakes.csv").open() as file:
        assert file.readline() == "index,predicted,real,probability,probability_of_real\n"
        rows = list(csv.reader(file))
    assert {int(row[0]) for row in rows} == set(np.flatnonzero(predicted != labels))
    for index, digit, real, probability, probability_of_real in rows:
        i = int(index)
        assert (int(digit), int(real)) == (predicted[i], labels[i])
        assert probability == f"{probabilities[i, predicted[i]]:.4f}"
        assert probability_of_real == f"{probabilities[i, labels[i]]:.4f}"
    confidence = [float(row[3]) for row in rows]
    assert confidence == sorted(confidence, reverse=True) and min(confidence) > 0.1


def test_the_figures_show_the_errors(run, model, archive, digits, drawn):
    run("test", "--model", PATH, "--dataset", archive)
    images, labels = digits[1]
    probabilities = model.predict_proba(images)
    predicted = probabilities.argmax(axis=1)
    wrong = sorted(np.flatnonzero(predicted != labels), key=lambda i: -probabilities[i, predicted[i]])
    shown, captions, title = drawn["gallery"]
    assert (shown == images[wrong[:40]]).all() and len(captions) == len(shown) == min(40, len(wrong))
    first = wrong[0]
    confidence = 100 * probabilities[first, predicted[first]]
    assert captions[0] == f"#{first}\ntrue {labels[first]}, predicted {predicted[first]}\nconfidence {confidence:.1f}%"
    assert title.startswith(f"m on tiny: misclassified images, {len(shown)} of {len(wrong)}")
    matrix, title = drawn["confusion"]
    for i, j in np.ndindex(10, 10):
        assert matrix[i, j] == np.sum((labels == i) & (predicted == j))
    assert title == f"m on tiny: accuracy {(predicted == labels).mean():.4f} (200 images)"


def test_a_perfect_model(run, model, digits, drawn, tmp_path):
    images, labels = digits[1]
    right = model.predict(images) == labels
    np.savez(tmp_path / "easy.npz", x_test=images[right], y_test=labels[right])
    code, out, _ = run("test", "--model", PATH, "--dataset", "easy.npz")
    assert code == 0 and "test accuracy 1.0000" in out and len(drawn["gallery"][0]) == 0
    written = (tmp_path / "models" / "m" / "mistakes-easy.csv").read_text()
    assert written == "index,predicted,real,probability,probability_of_real\n"


def test_several_models(run, train, archive):
    """The models of `train.py --repeat`: mean and sample standard deviation of their accuracies."""
    train("--epochs", 1, "--repeat", 3, "--out", "m.npz")
    models = [f"m-seed{seed}.npz" for seed in range(3)]
    code, out, err = run("test", "--dataset", archive, "--model", *models)
    singles = [float(x) for x in re.findall(r": accuracy (0\.\d{4})", out)]
    last = r"test accuracy (\S+) \+- (\S+) \(tiny, 200 images, 3 models\) -> m-seed0/ ... m-seed2/\n$"
    mean, std = re.search(last, out).groups()
    assert (code, err) == (0, "") and len(singles) == 3
    assert float(mean) == pytest.approx(np.mean(singles), abs=1e-4)
    assert float(std) == pytest.approx(np.std(singles, ddof=1), abs=1e-4)


def test_models_of_several_datasets(run, model, archive, tmp_path):
    """The figures of each have the name of the dataset only if it is another one."""
    model.metadata["dataset"] = "other"
    model.save(Path("models/o.npz"))
    code, _, err = run("test", "--model", PATH, "models/o.npz", "--dataset", archive)
    assert code == 0 and "trained on other, tiny, but tested on tiny" in err
    assert (tmp_path / "models/m/confusion.png").exists() and (tmp_path / "models/o/confusion-tiny.png").exists()


def test_bad_models(run, tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    Network([Dense(3)]).save(tmp_path / "three.npz")
    Network(mlp([])).save(tmp_path / "suffix")
    cases = [("none.npz", "no model at"), ("text.npz", "not a model"), ("other.npz", "not a model")]
    for name, message in [*cases, ("three.npz", "3 outputs"), ("suffix", "suffix.npz")]:
        code, _, err = run("test", "--model", name)
        assert code == 1 and message in err and name in err and err.count("\n") == 1


def test_data_that_must_be_named(run, model):
    """Only MNIST and the synthetic digits can be found without --dataset."""
    code, _, err = run("test", "--model", PATH)
    assert code == 1 and err.count("\n") == 1 and "trained on tiny: give the test images with --dataset PATH" in err
    model.metadata["dataset"] = "mnist"
    model.save(Path("other.npz"))
    code, _, err = run("test", "--model", PATH, "other.npz")
    assert code == 1 and err.count("\n") == 1 and "trained on mnist, tiny: choose one with --dataset" in err


def test_training_images_are_no_test(run, model, archive, digits):
    model.metadata["data"] = data.fingerprint(*digits[1])
    model.save(PATH)
    code, out, err = run("test", "--model", PATH, "--dataset", archive)
    assert code == 0 and out.endswith("images) -> models/m/\n") and err.count("\n") == 1
    assert "WARNING: the model was trained on these images: this is not a held-out test" in err


def test_a_model_of_an_unnamed_dataset(run, model, archive):
    """Does not pass for one of MNIST."""
    model.metadata = {"data": ["no", "text"]}
    model.save(PATH)
    code, _, err = run("test", "--model", PATH)
    assert code == 1 and err.count("\n") == 1 and "an unnamed dataset: give the test images with --dataset PATH" in err
    code, out, err = run("test", "--model", PATH, "--dataset", archive)
    assert (
        code == 0
        and "WARNING: trained on an unnamed dataset, but tested on tiny" in err
        and out.endswith("images) -> models/m/\n")
    )


def test_an_mnist_model_without_mnist(run, model, monkeypatch, tmp_path):
    """Is tested on synthetic digits, with warnings, and the figures of MNIST are not replaced."""
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 300, "test": 100})
    model.metadata["dataset"] = "mnist"
    model.save(PATH)
    code, out, err = run("test", "--model", PATH, "--data-dir", "empty")
    assert code == 0 and out.endswith("(synthetic, 100 images) -> models/m/\n") and err.count("WARNING") == 3
    assert "trained on mnist, but tested on synthetic: comparable only if both" in err
    names = {path.name for path in (tmp_path / "models" / "m").iterdir()}
    assert names == {"confusion-synthetic.png", "mistakes-synthetic.png", "mistakes-synthetic.csv"}


def test_a_model_is_tested_where_nothing_can_be_written(run, model, archive, tmp_path):
    (tmp_path / "models" / "m").write_text("in the way")
    code, out, err = run("test", "--model", PATH, "--dataset", archive)
    assert code == 1 and out.splitlines()[-1].startswith("test accuracy 0.") and err.count("\n") == 1
