"""The commands as a user meets them: what they print, write, refuse, and survive."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import cli
import training
from architecture import LAYERS, WORDS, mlp
from data import formats, mnist
from layers import Layer
from network import Network
from recipe import Recipe

from .conftest import ROOT, script


def fast(*more):
    """The flags of a quick training, and more."""
    return [*([] if "--layers" in more else ["--hidden", 8]), "--batch-size", 50, "--validation", 100, *more]


@pytest.fixture
def train(run, archive):
    """Train on the small digits: train("--epochs", 2, ...) -> (code, out, err)."""
    return lambda *more: run("train", "--dataset", archive, *fast(*more))


# --- train.py ---------------------------------------------------------------------------------------------------------


def test_train_prints_a_table_and_writes_everything(train, tmp_path):
    code, out, err = train("--epochs", 3, "--out", "models/my.npz")
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert len(lines) == 2 + 3 + 1 and len({len(line) for line in lines[1:-1]}) == 1, "the table is aligned"
    result = re.fullmatch(r"validation accuracy (0\.\d{4}) \(tiny, epoch (\d) of 3\) -> models/my.npz", lines[-1])
    assert result
    written = {p.name for p in (tmp_path / "models" / "my").iterdir()}
    assert written == {"history.csv", "curves.png", "weights.png", "pca.png", "histograms.png"}
    with (tmp_path / "models/my/history.csv").open() as file:
        history = list(csv.DictReader(file))
    best = max(float(row["validation_accuracy"]) for row in history)
    assert len(history) == 3 and float(result[1]) == best
    about = Network.load(tmp_path / "models/my.npz").about
    assert about["validation_accuracy"] == best and about["epoch"] == int(result[2]) and about["dataset"] == "tiny"
    assert about["recipe"]["hidden"] == [8] and about["recipe"]["batch_size"] == 50
    assert not about["recipe"].keys() & {"out", "data_dir", "repeat"}, "they make no difference to the model"


def test_the_best_epoch_is_what_is_kept(train, tmp_path, archive):
    """The model's own validation accuracy, measured again, is the best of the history."""
    import data
    from network import random_stream

    train("--epochs", 6, "--lr", 0.6, "--schedule", "constant", "--out", "m.npz")
    net = Network.load(tmp_path / "m.npz")
    images, labels, name = data.load(str(archive), "train")
    _, validation = data.split(images, labels, 100, name, random_stream(0, 2))
    accuracy = net.evaluate(*validation)["accuracy"]
    with (tmp_path / "m" / "history.csv").open() as file:
        assert accuracy == max(float(row["validation_accuracy"]) for row in csv.DictReader(file))


def test_of_equal_epochs_the_one_with_the_lowest_loss_is_best():
    accuracies, losses = [0.5, 0.9, 0.9, 0.9], [0.1, 0.4, 0.2, 0.3]
    history = [
        {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}
        for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), 1)
    ]
    assert training.best_epoch(history) == 3
    assert training.best_epoch([{"epoch": 1}, {"epoch": 2}]) == 2, "without validation, the last one"


def test_any_layer_may_come_first(train, tmp_path, monkeypatch):
    """Pictures of first-layer weights are for layers we know, not for whatever calls a parameter W."""

    class Scale(Layer):
        def connect(self, shape):
            self.shapes = {"W": shape}
            return shape

        def initialise(self, rng):
            self.params["W"][:] = 1

        def forward(self, x, training=False):
            self.x = x
            return x * self.params["W"][:, None]

        def backward(self, dy, need_dx=True):
            self.grads["W"][:] = (dy * self.x).sum(axis=1)
            return dy * self.params["W"][:, None]

    monkeypatch.setitem(WORDS, "scale", (Scale,))
    monkeypatch.setitem(LAYERS, "Scale", Scale)
    code, _, err = train("--layers", "scale, dense 8, relu", "--epochs", 1, "--out", "m.npz")
    assert code == 0 and err == ""
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"history.csv", "curves.png", "histograms.png"}


def test_no_validation(train, tmp_path):
    code, out, _ = train("--epochs", 2, "--validation", 0, "--out", "m.npz")
    assert code == 0 and re.search(r"^training accuracy 0\.\d{4} \(tiny, epoch 2 of 2\) -> m.npz$", out, re.M)
    assert "validation loss" not in out and (tmp_path / "m" / "curves.png").exists()


@pytest.mark.parametrize("out", ["v1.2", "v1.2.npz", "deep/er/v1.2", "數字 $a_$b$", "é"])
def test_any_name(train, tmp_path, out):
    code, _, err = train("--epochs", 1, "--out", out)
    model = tmp_path / (out.removesuffix(".npz") + ".npz")
    assert code == 0 and model.exists() and (model.with_suffix("") / "curves.png").exists() and err == ""


def test_same_seed_same_bytes(train, tmp_path):
    for name, seed in ("a", 5), ("b", 5), ("c", 6):
        train("--epochs", 2, "--seed", seed, "--out", f"{name}.npz")
    a, b, c = (tmp_path / f"{name}.npz" for name in "abc")
    assert a.read_bytes() == b.read_bytes()
    a, c = (Network.load(path).parameters()["0.W"] for path in (a, c))
    assert (a != c).mean() > 0.9


def test_the_seed_reaches_everything_random(train, monkeypatch, archive):
    """First weights, order of the images, and the split of data of unknown order."""
    seen = {}
    original = Network.fit

    def fit(self, images, labels, validation, **settings):
        seen[settings["seed"]] = self.snapshot()["0.W"], validation[1]
        return original(self, images, labels, validation, **settings)

    monkeypatch.setattr(Network, "fit", fit)
    train("--epochs", 1, "--repeat", 2, "--seed", 3, "--out", "m.npz")
    assert sorted(seen) == [3, 4]
    for a, b in zip(seen[3], seen[4], strict=True):
        assert (a != b).any()


def test_the_pictures_show_start_first_epoch_and_end(train, monkeypatch, tmp_path):
    import plots

    drawn = {}
    original = plots.pca
    monkeypatch.setattr(plots, "pca", lambda stages, title: drawn.update(stages) or original(stages, title))
    train("--epochs", 1, "--out", "short.npz", "--schedule", "constant", "--validation", 0)
    after_one = Network.load(tmp_path / "short.npz").parameters()["0.W"]
    start = drawn["initial"].copy()
    drawn.clear()
    train("--epochs", 3, "--out", "long.npz", "--schedule", "constant", "--validation", 0)
    end = Network.load(tmp_path / "long.npz").parameters()["0.W"]
    assert list(drawn) == ["initial", "after epoch 1", "final (epoch 3)"]
    for shown, expected in zip(drawn.values(), (start, after_one, end), strict=True):
        assert (shown == expected).all()
    assert (start != after_one).any() and (after_one != end).any()


def test_repeat(train, run, archive, tmp_path):
    code, out, _ = train("--epochs", 1, "--repeat", 3, "--seed", 4, "--out", "m.npz")
    assert code == 0 and re.search(
        r"^validation accuracy 0\.\d{4} \+- 0\.\d{4} \(tiny, 3 seeds\) -> m-seed4.npz", out, re.M
    )
    models = [tmp_path / f"m-seed{seed}.npz" for seed in (4, 5, 6)]
    assert [Network.load(m).about["recipe"]["seed"] for m in models] == [4, 5, 6]
    code, out, _ = run("test", "--dataset", archive, "--model", *models)
    singles = [float(x) for x in re.findall(r": accuracy (0\.\d{4})", out)]
    mean, deviation = re.search(r"^test accuracy (\S+) \+- (\S+) \(tiny, 200 images, 3 models\)$", out, re.M).groups()
    assert code == 0 and len(singles) == 3
    assert float(mean) == pytest.approx(np.mean(singles), abs=1e-4)
    assert float(deviation) == pytest.approx(np.std(singles, ddof=1), abs=1e-4)
    alone = train("--epochs", 1, "--seed", 5, "--out", "alone.npz")
    assert alone[0] == 0 and (tmp_path / "alone.npz").read_bytes() == models[1].read_bytes()


def test_recipes_and_flags_say_the_same(train, run, archive, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'hidden = [8]\nbatch-size = 50\nvalidation = 100\nepochs = 2\nlr = 1\nnesterov = true\ndataset = "{archive}"\n'
    )
    code, out, _ = run("train", "--config", recipe)
    assert code == 0 and out.endswith("-> models/mine-tiny.npz\n")
    train("--epochs", 2, "--lr", 1.0, "--nesterov", "--weight-decay", 5e-4, "--out", "flags.npz")
    assert (tmp_path / "models/mine-tiny.npz").read_bytes() == (tmp_path / "flags.npz").read_bytes()


def test_what_is_idle_is_not_in_the_model(tmp_path):
    """So that a recipe that leaves it out is of the same run."""
    shallow, deep = Recipe(layers="dense 8, relu"), Recipe(layers="dense 8, relu", hidden=[64], rotate=9, smooth=5)
    assert shallow.settings() == deep.settings() and shallow.to_toml() == deep.to_toml()
    assert Recipe(augment=True, rotate=9).settings()["rotate"] == 9 and Recipe(hidden=[64]).settings()["hidden"] == [64]


def test_recipes_are_written_as_they_are_read(tmp_path):
    recipe = Recipe(hidden=[], lr=0.3, validation=0.2, nesterov=True, dataset='a "b"\\c')
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    assert Recipe.read(tmp_path / "r.toml", {}) == recipe


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "configs").glob("*.toml")) if "[space]" not in p.read_text()],
    ids=lambda p: p.stem,
)
def test_shipped_recipes_train(path, run, archive, tmp_path):
    code, _, err = run("train", "--config", path, "--dataset", archive, "--epochs", 1, "--validation", 100)
    assert code == 0 and err == ""
    assert (tmp_path / "models" / f"{path.stem}-tiny.npz").exists()


# --- stopping and going on --------------------------------------------------------------------------------------------


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *map(str, fast(*arguments))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def epochs_seen(process, wanted):
    """Read the table until `wanted` epochs were printed."""
    for line in process.stdout:
        if re.match(rf" +{wanted}  ", line):
            return


PICTURES = ["--layers", "conv 2 5 stride 3, batchnorm, relu, pool 2, dense 8, batchnorm, relu", "--augment"]


@pytest.mark.parametrize("more", [[], ["--schedule", "plateau", "--nesterov"], PICTURES])
def test_killed_and_resumed_equals_undisturbed(train, archive, tmp_path, more):
    arguments = ["--dataset", archive, "--epochs", 60, *more]
    train(*arguments[2:], "--out", "whole.npz")
    for wanted in (1, 7, 30):
        process = command(*arguments, "--out", "m.npz", "--resume", cwd=tmp_path)
        epochs_seen(process, wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close(), process.stderr.close()
        assert (tmp_path / "m" / "checkpoint.npz").exists() and not (tmp_path / "m.npz").exists()
    code, out, _ = train(*arguments[2:], "--out", "m.npz", "--resume")
    assert code == 0 and len(out.splitlines()) == 63
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "m" / "checkpoint.npz").exists()
    again = train(*arguments[2:], "--out", "m.npz", "--resume")
    assert again[0] == 0 and again[1].splitlines() == out.splitlines()[-1:], "nothing is left to do"


def test_every_strength_of_a_recipe_reaches_the_distortion():
    strengths = {"rotate": 1, "scale": 0.2, "shear": 0.3, "shift": 4, "elastic": 5, "smooth": 6, "anneal": 0.7}
    assert asdict(Recipe(augment=True, **strengths).distortion()) == strengths
    assert Recipe(**strengths).distortion() is None


def test_a_model_older_than_a_setting_is_not_trained_again(train, tmp_path):
    train("--epochs", 2, "--out", "m.npz")
    net = Network.load(tmp_path / "m.npz")
    del net.about["recipe"]["smooth"]
    net.save(tmp_path / "m.npz")
    code, out, _ = train("--epochs", 2, "--out", "m.npz", "--resume")
    assert code == 0 and out.count("\n") == 1, "nothing is left to do"
    code, out, _ = train("--epochs", 2, "--lr", 0.3, "--out", "m.npz", "--resume")
    assert code == 0 and out.count("\n") > 3, "another run"


def test_a_network_on_pictures_has_pictures_of_its_own(train, tmp_path):
    assert train("--epochs", 1, "--out", "m.npz", *PICTURES)[0] == 0
    written = {p.name for p in (tmp_path / "m").iterdir()}
    assert written == {"history.csv", "curves.png", "weights.png", "features.png", "augment.png", "histograms.png"}


def test_filters_and_what_they_find_are_drawn_in_the_same_order(train, tmp_path, monkeypatch):
    import plots

    drawn = {}

    def spy(name, original):
        monkeypatch.setattr(plots, name, lambda *shown: drawn.setdefault(name, shown) and original(*shown))

    spy("tiles", plots.tiles), spy("rows", plots.rows)
    assert train("--epochs", 1, "--out", "m.npz", "--layers", "conv 5 3, relu")[0] == 0
    net = Network.load(tmp_path / "m.npz")
    filters = net.parameters()["0.W"]  # (5, 3, 1, 3)
    assert (drawn["tiles"][0] == filters[:, :, 0, :]).all()
    images, maps, _ = drawn["rows"]
    found = net.layers[0].forward(net.standardize(images))  # (26, 5, 26, images)
    order = np.argsort([-np.sum(weights**2) for weights in filters])
    for i, unit in enumerate(order):
        assert (maps[:, i] == found[:, unit].transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--layers", "conv 16"], "layers: 'conv 16': say conv filters size"),
        (["--layers", "conv 4 30"], "covers 30 x 30 pixels"),
        (["--layers", "batchnrom"], "no layer is called 'batchnrom'"),
        (["--rotate", "-1"], "rotate must lie in [0, 180], not -1.0"),
        (["--scale", "15"], "scale must lie in [0, 1], not 15.0"),
        (["--augment", "--elastic", "1e39"], "elastic must lie in [0, 28]"),
        (["--rotate", "9"], "rotate does nothing without augment: set that too"),
        (["--layers", "relu", "--hidden", "64"], "hidden does nothing beside layers: leave one of them out"),
        (["--smooth", "0"], "smooth must lie in [1, 28], not 0"),
    ],
)
def test_bad_layers_and_strengths(train, flags, word):
    code, _, err = train(*flags)
    assert code == 2 and err.count("\n") == 1 and word in err


def test_ctrl_c_keeps_the_best_so_far(archive, train, tmp_path):
    process = command("--dataset", archive, "--epochs", 50000, "--out", "m.npz", cwd=tmp_path)
    epochs_seen(process, 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.count("\n") == 1 and "--resume" in err
    assert re.search(r"^validation accuracy 0\.\d{4} \(tiny, epoch \d+ of 50000\) -> m.npz$", out, re.M)
    Network.load(tmp_path / "m.npz")
    assert (tmp_path / "m" / "curves.png").exists() and (tmp_path / "m" / "checkpoint.npz").exists()
    code, _, err = train("--epochs", 400, "--out", "m.npz", "--resume")
    assert code == 1 and "other settings" in err


def test_ctrl_c_while_an_epoch_is_taken_in(train, monkeypatch, tmp_path):
    """Whenever it comes, what is kept fits together."""
    original = Network.snapshot
    for moment in range(1, 5):
        calls = iter(range(1, 100))

        def snapshot(self, calls=calls, moment=moment):
            if next(calls) == moment:
                raise KeyboardInterrupt
            return original(self)

        monkeypatch.setattr(Network, "snapshot", snapshot)
        code, out, _ = train("--epochs", 9, "--out", f"m{moment}.npz")
        assert code == 130
        if moment > 1:
            assert Network.load(tmp_path / f"m{moment}.npz").about["epoch"] < moment
            assert re.search(r"epoch \d of 9\)", out)


def test_resume_notices_other_data(train, run, archive, tmp_path, digits):
    train("--epochs", 1, "--out", "m.npz")
    (x, y), _ = digits
    other = tmp_path / "tiny.npz"  # the same name
    np.savez(other, x_train=255 - x, y_train=y)
    code, out, _ = run("train", *fast("--epochs", 1, "--out", "m.npz", "--resume", "--dataset", other))
    assert code == 0 and "parameters;" in out, "trained anew"


def test_resume_after_a_divergence_tries_again(train, monkeypatch, tmp_path):
    from network import DivergenceError

    original = Network._epoch
    calls = []

    def epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise DivergenceError("lower lr")
        return original(self, *arguments)

    monkeypatch.setattr(Network, "_epoch", epoch)
    code, out, err = train("--epochs", 4, "--out", "m.npz")
    assert code == 1 and "lower lr" in err and re.search(r"epoch [12] of 4\) -> m.npz", out), "the best epoch is kept"
    code, out, _ = train("--epochs", 4, "--out", "m.npz", "--resume")
    assert code == 0 and len(out.splitlines()) == 7


def test_leftovers_of_killed_writers_are_swept_away(train, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".checkpoint.npz.abc.part").write_text("half")
    (tmp_path / ".m.npz.abc.part").write_text("half")
    train("--epochs", 1, "--out", "m.npz")
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


def test_repeat_counts_finished_runs_only(train, monkeypatch):
    original = Network._epoch
    calls = []

    def epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Network, "_epoch", epoch)
    code, out, _ = train("--epochs", 2, "--repeat", 5, "--out", "m.npz")
    assert code == 130 and "(tiny, 2 seeds) -> m-seed0.npz ... m-seed1.npz" in out.splitlines()[-1]
    assert re.search(r"epoch 1 of 2\) -> m-seed2.npz", out)


def test_ctrl_c_before_the_first_epoch(run, archive, monkeypatch, tmp_path):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "backward", interrupted)
    code, _, err = run("train", *fast("--dataset", archive, "--out", "m.npz"))
    assert code == 130 and err.count("\n") == 1 and "stopped" in err and not (tmp_path / "m.npz").exists()


def test_divergence_leaves_no_model(train, tmp_path):
    code, _, err = train("--lr", 1000, "--out", "m.npz")
    assert code == 1 and "lower lr" in err and err.count("\n") == 1
    assert not (tmp_path / "m.npz").exists() and not (tmp_path / "m").exists()


# --- test.py ----------------------------------------------------------------------------------------------------------


def test_test_reports_what_numpy_says(train, run, archive, digits, tmp_path):
    train("--epochs", 2, "--out", "m.npz")
    code, out, err = run("test", "--model", "m.npz", "--dataset", archive)
    images, labels = digits[1]
    predicted = Network.load(tmp_path / "m.npz").predict(images)
    assert code == 0 and err == ""
    assert out.splitlines()[-1] == f"test accuracy {(predicted == labels).mean():.4f} (tiny, 200 images)"
    per_digit = [float(x) for x in re.search(r"accuracy  ( .*)", out)[1].split()]
    assert per_digit == pytest.approx([(predicted[labels == d] == d).mean() for d in range(10)], abs=1e-4)
    with (tmp_path / "m" / "mistakes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(r["index"]) for r in rows} == set(np.flatnonzero(predicted != labels))
    assert all(int(r["predicted"]) == predicted[int(r["index"])] != int(r["real"]) for r in rows)
    sure = [float(r["probability"]) for r in rows]
    assert sure == sorted(sure, reverse=True) and min(sure) > 0.1
    assert (tmp_path / "m" / "confusion.png").exists() and (tmp_path / "m" / "mistakes.png").exists()


def test_the_pictures_of_a_test_show_the_mistakes(train, run, archive, digits, tmp_path, monkeypatch):
    import plots

    drawn = {}

    def spy(name, original):
        monkeypatch.setattr(plots, name, lambda *shown: drawn.update({name: shown}) or original(*shown))

    spy("gallery", plots.gallery), spy("confusion", plots.confusion)
    train("--epochs", 2, "--out", "m.npz")
    run("test", "--model", "m.npz", "--dataset", archive)
    images, labels = digits[1]
    probabilities = Network.load(tmp_path / "m.npz").predict_proba(images)
    predicted = probabilities.argmax(axis=1)
    wrong = sorted(np.flatnonzero(predicted != labels), key=lambda i: -probabilities[i, predicted[i]])[:40]
    shown, captions, title = drawn["gallery"]
    assert (shown == images[wrong]).all() and len(captions) == len(wrong)
    first = wrong[0]
    sure = 100 * probabilities[first, predicted[first]]
    assert captions[0] == f"#{first}\n{predicted[first]}, not {labels[first]}\n{sure:.1f}% sure"
    count = (predicted != labels).sum()
    assert f"the 40 most confident of {count} mistakes" in title if count > 40 else f"all {count} mistakes" in title
    counts, title = drawn["confusion"]
    assert (
        counts[labels[first], predicted[first]] == ((labels == labels[first]) & (predicted == predicted[first])).sum()
    )
    assert counts.sum() == 200 and f"{(predicted == labels).mean():.2%} of 200 right" in title


def test_a_perfect_model_can_be_drawn_too(train, run, archive, tmp_path, digits):
    train("--epochs", 1, "--out", "m.npz")
    _, (images, labels) = digits
    predicted = Network.load(tmp_path / "m.npz").predict(images)
    np.savez(tmp_path / "easy.npz", x_test=images[predicted == labels], y_test=labels[predicted == labels])
    code, out, _ = run("test", "--model", "m.npz", "--dataset", "easy.npz")
    assert code == 0 and "test accuracy 1.0000" in out


def test_test_wants_to_know_which_data(train, run, archive):
    train("--epochs", 1, "--out", "m.npz")
    code, _, err = run("test", "--model", "m.npz")
    assert code == 1 and "tiny" in err and "--dataset" in err


# --- what a user may get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--lr", "-1"], 2, "lr must be a number above 0, not -1.0"),
        (["--lr", "nan"], 2, "lr must be"),
        (["--lr", "fast"], 2, "--lr"),
        (["--hidden", "0"], 2, "hidden must hold whole numbers from 1 to a million"),
        (["--hidden", "3.5"], 2, "--hidden"),
        (["--momentum", "1"], 2, "momentum must lie in [0, 1)"),
        (["--activation", "swish"], 2, "--activation"),
        (["--epochs", "0"], 2, "epochs must be"),
        (["--validation", "1.5"], 2, "validation must be"),
        (["--validation", "-5"], 2, "validation must be"),
        (["--validation=-inf"], 2, "validation must be"),
        (["--validation", "600"], 1, "600"),
        (["--schedule", "plateau", "--validation", "0"], 2, "validation"),
        (["--repeat", "0"], 2, "repeat must be"),
        (["--wings", "2"], 2, "--wings"),
        (["--epoch", "2"], 2, "--epoch"),
        (["--out", "."], 2, "out must name a file"),
        (["--out", ".npz"], 2, "out must name a file"),
        (["--validation", "0.0005"], 1, "--validation"),
        (["--hidden", "1000000", "1000000"], 1, "memory"),
        (["--config", "nothing.toml"], 2, "nothing.toml"),
        (["--dataset", "nothing"], 1, "nothing"),
        (["--dataset", "mnist", "--data-dir", "empty"], 1, "MNIST_DIR"),
    ],
)
def test_one_line_for_every_mistake(train, tmp_path, arguments, code, says):
    got, _, err = train("--out", "m.npz", *arguments)
    assert got == code and says in err and "Traceback" not in err
    lines = [line for line in err.splitlines() if "downloading" not in line]
    assert len(lines) == 1 and lines[0].startswith("train.py: ")
    assert not (tmp_path / "m.npz").exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("leraning-rate = 0.1", "unknown key 'leraning-rate'"),
        ("lr = -1", "lr must be"),
        ('lr = "0.1"', "lr must be"),
        ("hidden = 512", "hidden must hold"),
        ("standardize = 1", "standardize must be true or false"),
        ("epochs = 2.5", "epochs must be"),
        ("seed = true", "seed must be"),
        ("lr = ", "not a TOML file"),
        ("hidden = " + "[" * 20_000, "not a TOML file"),
        ('layers = "dense 8, relu"\nhidden = [64]', "bad.toml: hidden does nothing beside layers"),
        ("rotate = 9", "bad.toml: rotate does nothing without augment"),
    ],
)
def test_bad_recipes(run, tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    code, _, err = run("train", "--config", "bad.toml")
    assert code == 2 and says in err and err.count("\n") == 1


def test_bad_models(run, tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    Network(mlp([], classes=3)).save(tmp_path / "three.npz")
    Network(mlp([])).save(tmp_path / "suffix")
    cases = [("none.npz", "no model at"), ("text.npz", "not a model"), ("other.npz", "not a model")]
    for name, says in [*cases, ("three.npz", "ten digits"), ("suffix", "suffix.npz")]:
        code, _, err = run("test", "--model", name)
        assert code == 1 and says in err and name in err and err.count("\n") == 1


def test_nothing_of_the_users_is_written_over(run, archive, tmp_path):
    """What --out names is told before the work if it is a file that no earlier run made."""
    before = archive.read_bytes()
    for name, more in ("train", []), ("hp_search", ["--workers", 1]):
        code, out, err = run(name, "--dataset", archive, "--validation", 100, "--out", archive.with_suffix(""), *more)
        assert code == 1 and err.count("\n") == 1 and "is there, and no model of ours" in err and not out
    assert archive.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_is_full_or_closed(archive, train, tmp_path):
    train("--epochs", 1, "--out", "m.npz")
    test = [sys.executable, ROOT / "test.py", "--model", tmp_path / "m.npz", "--dataset", archive]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(test, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "test.py: cannot write: No space left on device\n"
    for closed, other in (1, "stderr"), (2, "stdout"):
        done = subprocess.run(test, preexec_fn=lambda fd=closed: os.close(fd), **{other: subprocess.PIPE}, text=True)
        assert done.returncode == 0 and "Traceback" not in (done.stderr or "")


def test_names_stay_on_their_line():
    assert cli.printable("a\nb\x1b[31m é") == "a\\nb\\x1b[31m é"


def test_unwritable_output(train, tmp_path):
    (tmp_path / "file").write_text("")
    for out in "file/m.npz", "file":
        code, printed, err = train("--epochs", 1, "--out", out)
        assert (
            code == 1 and err.count("\n") == 1 and "Traceback" not in err and "file" in err and "epoch" not in printed
        )


def test_help_is_quick():
    """Not a time, which depends on the machine, but its cause: matplotlib is not even imported."""
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n"
        "    print('matplotlib' in sys.modules)\n"
    )
    for name in ("train.py", "test.py", "hp_search.py"):
        command = [sys.executable, "-c", code, name]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert result.stdout.splitlines()[-1] == "False", result.stderr


README = (ROOT / "README.md").read_text()
COMMANDS = [match.groups() for match in re.finditer(r"(?:^|&& )python (\w+)\.py *([^#&\n]*)", README, re.M)]


@pytest.mark.parametrize("name, arguments", COMMANDS)
def test_the_commands_in_the_readme_are_understood(name, arguments):
    module = script(name)
    arguments = module.parser().parse_args(shlex.split(arguments))
    config = getattr(arguments, "config", None)
    assert config is None or config.exists() or config.parent.name == "best"


def test_the_code_in_the_readme_runs(tmp_path, idx_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.setattr("data.load", lambda *_: (*formats.read(idx_folder, "train"), "tiny"))
    exec(first.replace(":50000", ":500").replace("50000:", "500:"), {})
    assert Network.load(tmp_path / "models/mine.npz").about == {"dataset": "tiny"}
    monkeypatch.chdir(ROOT)
    exec(second, {})


# --- the rules of the house -------------------------------------------------------------------------------------------


def test_only_test_opens_the_test_files(tmp_path, idx_folder):
    """An audit hook in every process, workers too, tells of every test file that is opened."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, args):\n"
        "    if event == 'open' and 't10k' in str(args[0]):\n"
        "        os.write(1, b'OPENED')\n"
        "sys.addaudithook(hook)\n"
    )

    def watched(script, *arguments):
        command = [sys.executable, ROOT / script, *arguments, "--dataset", idx_folder]
        environment = {**os.environ, "PYTHONPATH": str(hook)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    settings = ["--epochs", "1", "--validation", "50", "--out"]
    for command in (["train.py", *settings, "m"], ["hp_search.py", "--trials", "2", *settings, "best"]):
        result = watched(*command)
        assert "validation accuracy" in result.stdout and "OPENED" not in result.stdout, result.stderr
    assert "OPENED" in watched("test.py", "--model", "m.npz").stdout, "the hook sees such files"
    code = "import os, search.workers\nif __name__ == '__main__':\n    from pathlib import Path\n"
    code += "    with search.workers.local(1, [], Path('shared')) as (submit, _):\n"
    code += "        submit(os.open, 't10k', os.O_RDONLY | os.O_CREAT).result()\n"
    (tmp_path / "peek.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{hook}{os.pathsep}{ROOT}"}
    peek = subprocess.run([sys.executable, "peek.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "OPENED" in peek.stdout, "in workers too"


def test_data_command(run, tmp_path, monkeypatch):
    code, out, err = run("data/__main__", "--data-dir", "empty")
    assert code == 1 and "no mirror" in err and all(m in err for m in mnist.MIRRORS) and out.count("missing") == 4


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_closed_pipe(archive, tmp_path, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = command("--dataset", archive, "--epochs", 3, "--out", "m.npz", cwd=tmp_path, env=environment)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 1
    process.stderr.close()


def test_a_model_can_be_tested_where_nothing_can_be_written(train, run, archive, tmp_path):
    train("--epochs", 1, "--out", "models/m.npz")
    shutil.rmtree(tmp_path / "models" / "m")
    (tmp_path / "models" / "m").write_text("in the way")
    code, out, err = run("test", "--model", "models/m.npz", "--dataset", archive)
    assert code == 1 and out.splitlines()[-1].startswith("test accuracy 0.") and err.count("\n") == 1


def test_a_model_that_does_not_say_what_it_was_trained_on(train, run, archive, tmp_path):
    """Does not pass for one of MNIST."""
    train("--epochs", 1, "--out", "m.npz")
    net = Network.load(tmp_path / "m.npz")
    net.about = {}
    net.save(tmp_path / "m.npz")
    code, _, err = run("test", "--model", "m.npz")
    assert code == 1 and err.count("\n") == 1 and "trained on data it does not name: say with --dataset" in err
    code, out, err = run("test", "--model", "m.npz", "--dataset", archive)
    assert code == 0 and "WARNING: trained on data it does not name" in err and out.endswith("images)\n")


def test_an_mnist_model_without_mnist(train, run, tmp_path, monkeypatch):
    """Is tested on what there is, says loudly that the figure is not MNIST's, and leaves MNIST's pictures alone."""
    from data import synthetic

    monkeypatch.setattr(synthetic, "COUNTS", {"train": 300, "test": 100})
    train("--epochs", 1, "--out", "m.npz")
    net = Network.load(tmp_path / "m.npz")
    net.about["dataset"] = "mnist"
    net.save(tmp_path / "m.npz")
    code, out, err = run("test", "--model", "m.npz", "--data-dir", "empty")
    assert code == 0 and out.endswith("(synthetic, 100 images)\n") and err.count("WARNING") == 3
    assert (tmp_path / "m" / "mistakes-synthetic.png").exists() and not (tmp_path / "m" / "mistakes.png").exists()
