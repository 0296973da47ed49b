"""app/training.py: checkpoints, resuming, Ctrl-C, the best epoch, and the figures."""

import csv
import json
import re
import signal

import numpy as np
import pytest

import data
import plots
import storage
from app import training
from app.config import Config
from network import DivergenceError, Network, spawn_rng
from nn.architecture import LAYER_SYNTAX, LAYERS
from nn.layers import Layer

from .conftest import CNN, fast, train_process, wait_for_epoch


def test_the_best_epoch_is_what_is_kept(train, tmp_path, archive):
    """The model's own validation accuracy, measured again, is the best of the history."""

    train("--epochs", 6, "--lr", 0.6, "--schedule", "constant", "--out", "m.npz")
    net = Network.load(tmp_path / "m.npz")
    images, labels, name = data.load(str(archive), "train")
    _, validation = data.train_validation_split(images, labels, 100, name, spawn_rng(0, 2))
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

    monkeypatch.setitem(LAYER_SYNTAX, "scale", (Scale,))
    monkeypatch.setitem(LAYERS, "Scale", Scale)
    code, _, err = train("--layers", "scale, dense 8, relu", "--epochs", 1, "--out", "m.npz")
    assert code == 0 and err == ""
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"history.csv", "curves.png", "histograms.png"}


def test_the_pictures_show_start_first_epoch_and_end(train, monkeypatch, tmp_path):

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


def test_the_picture_of_a_resumed_run_shows_its_first_epoch(train, monkeypatch):
    drawn, calls = [], []
    pca, train_epoch = plots.pca, Network._train_epoch
    monkeypatch.setattr(plots, "pca", lambda stages, title: drawn.append(stages) or pca(stages, title))
    train("--epochs", 3, "--out", "whole.npz")

    def stop_in_epoch_3(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(Network, "_train_epoch", stop_in_epoch_3)
    assert train("--epochs", 3, "--out", "m.npz")[0] == 130
    assert train("--epochs", 3, "--out", "m.npz", "--resume")[0] == 0
    whole, resumed = (each["after epoch 1"] for each in (drawn[0], drawn[-1]))
    assert (resumed == whole).all() and (resumed != list(drawn[-1].values())[-1]).any()


def test_a_network_on_pictures_has_pictures_of_its_own(train, tmp_path):
    (tmp_path / "m").mkdir()
    for name in "pca.png", "confusion.png", "mistakes-mnist.png", "mistakes.csv":  # of an earlier network
        (tmp_path / "m" / name).touch()
    assert train("--epochs", 1, "--out", "m.npz", *CNN)[0] == 0
    written = {p.name for p in (tmp_path / "m").iterdir()}
    assert written == {"history.csv", "curves.png", "weights.png", "features.png", "augment.png", "histograms.png"}


@pytest.mark.parametrize("hidden, named", [([], True), (["--hidden", 4], False)])
def test_the_weights_of_softmax_regression_have_the_names_of_the_digits(train, monkeypatch, hidden, named):
    drawn, original = [], plots.weight_grid
    monkeypatch.setattr(
        plots, "weight_grid", lambda *shown, names: drawn.append(names) or original(*shown, names=names)
    )
    assert train("--epochs", 1, *(hidden or ["--hidden"]))[0] == 0
    assert drawn == [list("0123456789") if named else []]


def test_filters_and_what_they_find_are_drawn_in_the_same_order(train, tmp_path, monkeypatch):

    drawn = {}

    def spy(name, original):
        monkeypatch.setattr(plots, name, lambda *shown: drawn.setdefault(name, shown) and original(*shown))

    spy("weight_grid", plots.weight_grid), spy("image_grid", plots.image_grid)
    assert train("--epochs", 1, "--out", "m.npz", "--layers", "conv 5 3, relu")[0] == 0
    net = Network.load(tmp_path / "m.npz")
    filters = net.parameters()["0.W"]  # (5, 3, 1, 3)
    assert (drawn["weight_grid"][0] == filters[:, :, 0, :]).all()
    images, maps, _ = drawn["image_grid"]
    found = net.layers[0].forward(net.standardize(images))  # (26, 5, 26, images)
    order = np.argsort([-np.sum(weights**2) for weights in filters])
    for i, unit in enumerate(order):
        assert (maps[:, i] == found[:, unit].transpose(2, 0, 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--schedule", "plateau", "--nesterov"], CNN])
def test_killed_and_resumed_equals_undisturbed(train, archive, tmp_path, more):
    arguments = ["--dataset", archive, "--epochs", 60, *more]
    train(*arguments[2:], "--out", "whole.npz")
    for wanted in (1, 7, 30):
        process = train_process(*arguments, "--out", "m.npz", "--resume", cwd=tmp_path)
        wait_for_epoch(process, wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close(), process.stderr.close()
        assert (tmp_path / "m" / "checkpoint.npz").exists() and not (tmp_path / "m.npz").exists()
    code, out, _ = train(*arguments[2:], "--out", "m.npz", "--resume")
    assert code == 0 and len(out.splitlines()) == 63
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "m" / "checkpoint.npz").exists()
    again = train(*arguments[2:], "--out", "m.npz", "--resume")
    assert again[0] == 0 and again[1].splitlines() == ["m: was finished before", out.splitlines()[-1]], (
        "nothing is left to do"
    )


def test_a_model_older_than_a_setting_is_not_trained_again(train, tmp_path):
    train("--epochs", 2, "--out", "m.npz")
    net = Network.load(tmp_path / "m.npz")
    del net.metadata["recipe"]["smooth"]
    net.save(tmp_path / "m.npz")
    code, out, _ = train("--epochs", 2, "--out", "m.npz", "--resume")
    assert code == 0 and out.startswith("m: was finished before\n"), "nothing is left to do"
    code, out, err = train("--epochs", 2, "--lr", 0.3, "--batch-size", 64, "--out", "m.npz", "--resume")
    assert code == 0 and out.count("\n") > 3, "another run"
    reason = "there is nothing to continue, and it will be replaced"
    assert err == f"WARNING: m.npz was trained with other settings (batch-size, lr): {reason}\n"


@pytest.mark.slow
@pytest.mark.parametrize("number, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ctrl_c_and_signals_keep_the_best_so_far(archive, train, tmp_path, number, exit_code):
    process = train_process("--dataset", archive, "--epochs", 50000, "--out", "m.npz", cwd=tmp_path)
    wait_for_epoch(process, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == exit_code and err.count("\n") == 1 and "--resume" in err
    assert re.search(r"^validation accuracy 0\.\d{4} \(tiny, epoch \d+ of 50000\) -> m.npz$", out, re.M)
    Network.load(tmp_path / "m.npz")
    assert (tmp_path / "m" / "curves.png").exists() and (tmp_path / "m" / "checkpoint.npz").exists()
    code, _, err = train("--epochs", 400, "--out", "m.npz", "--resume")
    assert code == 1 and "m/checkpoint.npz belongs to a run with other settings (epochs): use those, or" in err


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
            assert Network.load(tmp_path / f"m{moment}.npz").metadata["epoch"] < moment
            assert re.search(r"epoch \d of 9\)", out)


def test_ctrl_c_before_the_first_epoch(run, archive, monkeypatch, tmp_path):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "backward", interrupted)
    code, _, err = run("train", *fast("--dataset", archive, "--out", "m.npz"))
    assert code == 130 and err.count("\n") == 1 and "stopped" in err and not (tmp_path / "m.npz").exists()


def test_ctrl_c_while_the_figures_are_drawn(train, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "save_figures", interrupted)
        code, out, err = train("--epochs", 2, "--out", "m.npz")
    assert code == 130 and "stopped while the figures were drawn; the same command with --resume continues" in err
    assert out.endswith("-> m.npz\n") and not (tmp_path / "m" / "curves.png").exists()
    code, out, err = train("--epochs", 2, "--out", "m.npz", "--resume")
    assert code == 0 and err == "" and (tmp_path / "m" / "curves.png").exists()
    assert not (tmp_path / "m" / "checkpoint.npz").exists()


def test_a_network_too_large_for_its_checkpoint_is_not_trained(run, archive, monkeypatch, tmp_path):
    # room for twice the parameters of softmax regression; its checkpoint has nearly four times as many
    monkeypatch.setattr(storage, "MAX_BYTES", 2 * 4 * 7850)
    monkeypatch.setattr(Network, "fit", None)
    code, _, err = run("train", *fast("--dataset", archive, "--out", "m.npz"))
    assert code == 1 and "checkpoint.npz would be larger than" in err and not (tmp_path / "m.npz").exists()


def test_resume_notices_other_data(train, run, archive, tmp_path, digits):
    train("--epochs", 1, "--out", "m.npz")
    (x, y), _ = digits
    other = tmp_path / "tiny.npz"  # the same name
    np.savez(other, x_train=255 - x, y_train=y)
    code, out, err = run("train", *fast("--epochs", 1, "--out", "m.npz", "--resume", "--dataset", other))
    assert code == 0 and "parameters;" in out and "other settings (data):" in err, "trained anew"


def test_resume_after_a_divergence_tries_again(train, monkeypatch, tmp_path):

    original = Network._train_epoch
    calls = []

    def epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise DivergenceError("lower lr")
        return original(self, *arguments)

    monkeypatch.setattr(Network, "_train_epoch", epoch)
    code, out, err = train("--epochs", 4, "--out", "m.npz")
    assert code == 1 and "lower lr" in err and re.search(r"epoch [12] of 4\) -> m.npz", out), "the best epoch is kept"
    assert not (tmp_path / "m" / "checkpoint.npz").exists(), "it would diverge again"
    code, out, _ = train("--epochs", 4, "--out", "m.npz", "--resume")
    assert code == 0 and len(out.splitlines()) == 7


def test_a_divergence_before_an_epoch_keeps_the_checkpoint_of_another_run(train, monkeypatch, tmp_path):
    original, left = Network._train_epoch, [1]

    def stop(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Network, "_train_epoch", stop)
        assert train("--epochs", 3, "--out", "m.npz")[0] == 130
    before = (tmp_path / "m" / "checkpoint.npz").read_bytes()
    assert train("--epochs", 3, "--lr", 1e9, "--out", "m.npz")[0] == 1
    assert (tmp_path / "m" / "checkpoint.npz").read_bytes() == before


def test_leftovers_of_killed_writers_are_swept_away(train, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".checkpoint.npz.abc.part").write_text("half")
    (tmp_path / ".m.npz.abc.part").write_text("half")
    train("--epochs", 1, "--out", "m.npz")
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


@pytest.mark.skipif(not storage.fcntl, reason="the system has no locks")
def test_two_trainings_into_one_model(train, monkeypatch, tmp_path):
    """The second is refused, and touches nothing of the first."""
    original, refused = Network._train_epoch, []

    def epoch(self, *arguments):
        part = tmp_path / "m" / ".checkpoint.npz.abc.part"
        part.touch()
        code, _, err = train("--epochs", 1, "--out", "m.npz", *["--resume"] * len(refused))
        refused.append((code, err))
        assert part.exists()
        part.unlink()
        return original(self, *arguments)

    monkeypatch.setattr(Network, "_train_epoch", epoch)
    assert train("--epochs", 2, "--out", "m.npz")[0] == 0
    assert refused == [(1, "train.py: m.npz is being trained by another process\n")] * 2
    assert not (tmp_path / "m" / ".lock").exists()
    monkeypatch.setattr(Network, "_train_epoch", original)
    assert train("--epochs", 1, "--out", "m.npz")[0] == 0, "the lock is released"


ZEROS = np.zeros(8, np.float32)
VALIDATED = {"validation_loss": 1, "validation_accuracy": 1}


def record(epoch=1, **changes):
    """The record of an epoch."""
    return {"epoch": epoch, "train_loss": 1.5, "train_accuracy": 0.5, "lr": 0.1, "seconds": 2} | VALIDATED | changes


@pytest.fixture(scope="module")
def stopped():
    """A run after an epoch, and its network."""
    config = Config(hidden=[8], epochs=3)
    network = config.build_network()
    run = training.Run({"dataset": "tiny", "data": "0", "recipe": config.settings()})
    run.record_epoch(record(), network)
    return run, network


@pytest.mark.parametrize(
    "changes, more, reason",
    [
        ({"about": None}, {}, r"other settings \(config\): use"),
        ({"about": {"recipe": [1]}}, {}, r"other settings \(config\): use"),
        (
            {"about": {"recipe": {"lr": 0.2, "epochs": 3, "hidden": [8]}, "data": "1"}},
            {},
            r"settings \(lr, data\): use",
        ),
        ({"about": {"recipe": {"epochs": 3, "hidden": [8], "new": 1}, "data": "0"}}, {}, r"settings \(new\): use"),
        ({"history": None}, {}, "not a list of epochs"),
        ({"history": {}}, {}, "not a list of epochs"),
        ({"history": []}, {}, "not a list of epochs"),
        ({"history": [record(epoch) for epoch in range(1, 5)]}, {}, "not a list of epochs"),
        ({"history": ["epoch"]}, {}, "record of epoch 1"),
        ({"history": [record(), {"epoch": 2}]}, {}, "record of epoch 2"),
        ({"history": [record(more=1)]}, {}, "record of epoch 1"),
        ({"history": [record(lr="0.1")]}, {}, "record of epoch 1"),
        ({"history": [record(train_loss=None)]}, {}, "record of epoch 1"),
        ({"history": [record(train_loss=True)]}, {}, "record of epoch 1"),
        ({"history": [record(train_loss=10**400)]}, {}, "record of epoch 1"),
        ({"history": [record(2)]}, {}, "record of epoch 1"),
        ({"history": [record(1.0)]}, {}, "record of epoch 1"),
        ({}, {"velocity": None}, "do not match"),
        ({}, {"best.0.W": None}, "do not match"),
        ({}, {"first.0.W": None}, "do not match"),
        ({}, {"other.0.W": ZEROS}, "do not match"),
        ({}, {"more": ZEROS}, "do not match"),
        ({}, {"now.0.b": np.zeros(1, np.float32)}, "do not match"),
        ({}, {"velocity": np.zeros(1, np.float32)}, "do not match"),
        ({}, {"best.0.b": np.zeros(8)}, "do not match"),
        ({}, {"now.0.b": np.zeros(8, np.int64)}, "do not match"),
        ({}, {"now.0.b": ZEROS * np.nan}, "finite"),
    ],
)
def test_a_checkpoint_with_wrong_content_changes_nothing(stopped, tmp_path, changes, more, reason):
    run, network = stopped
    run.save(tmp_path / "c.npz", network)
    description, arrays = storage.read(tmp_path / "c.npz", "checkpoint")
    arrays = {name: a for name, a in (arrays | more).items() if a is not None}
    storage.write(tmp_path / "c.npz", description | changes, arrays)
    again, fresh = training.Run(run.metadata), Config(hidden=[8], epochs=3, seed=5).build_network()
    before = fresh.snapshot()
    with pytest.raises(storage.StorageError, match=reason) as caught:
        again.resume(tmp_path / "c.npz", fresh)
    assert "\n" not in str(caught.value) and "remove it" in str(caught.value)
    assert again == training.Run(run.metadata)
    assert all((a == before[name]).all() for name, a in fresh.arrays().items()) and not fresh.velocity.any()


def test_a_checkpoint_holds_a_long_history(tmp_path):
    """Up to 100,000 epochs, with numbers as long as they get; here a tenth of them, to save time."""
    config = Config(hidden=[], epochs=100_000)
    network, run = config.build_network(), training.Run({"dataset": "tiny", "data": "0", "recipe": config.settings()})
    third = -1 / 30_000
    run.record_epoch(record(), network)
    losses = dict.fromkeys(("train_loss", "train_accuracy", "lr", "seconds", *VALIDATED), third)
    run.history = [record(epoch, **losses) for epoch in range(90_001, 100_001)]
    assert 10 * len(json.dumps(run.history)) < training.MAX_CHECKPOINT_TEXT
    run.history = [record | {"epoch": epoch} for epoch, record in enumerate(run.history, 1)]
    run.save(tmp_path / "c.npz", network)
    again = training.Run(run.metadata)
    again.resume(tmp_path / "c.npz", network)
    assert again.history == run.history


def test_a_checkpoint_restores_all(stopped, tmp_path):
    run, network = stopped
    run.save(tmp_path / "c.npz", network)
    again, fresh = training.Run(run.metadata), Config(hidden=[8], epochs=3, seed=5).build_network()
    again.resume(tmp_path / "c.npz", fresh)
    assert again.history == run.history and again.best.keys() == run.best.keys()
    assert all((a == network.arrays()[name]).all() for name, a in fresh.arrays().items())


@pytest.mark.parametrize(
    "thread, process, steps, threads, warned",
    [
        (0.97, 1.9, 100, None, False),  # quiet
        (0.6, 1.2, 100, None, True),
        (0.5, 1.8, 100, None, False),  # our own augmentation takes the other core
        (0.6, 1.2, 100, "2", True),
        (0.6, 1.2, 100, "1", False),  # what the hint says has been done
        (0.6, 1.2, 20, None, False),  # too short to tell
    ],
)
def test_a_busy_machine_is_noticed(capsys, monkeypatch, thread, process, steps, threads, warned):
    """With clocks on which every step takes 50 ms, on two cores."""
    now = [0.0]
    for name, speed in ("perf_counter", 1), ("thread_time", thread), ("process_time", process):
        monkeypatch.setattr(training.time, name, lambda speed=speed: speed * now[0])
    monkeypatch.setattr(training.cli, "cores", lambda: 2)
    monkeypatch.setattr(training, "blas_threads", lambda: threads)
    training.warn_busy.cache_clear()
    done = []
    for _ in range(3):  # epochs
        for step in training.watch_load(range(steps)):
            done.append(step)
            now[0] += 0.05
    err = capsys.readouterr().err
    assert done == 3 * list(range(steps)) and err.count("\n") == warned, "once, or never"
    assert ("set OPENBLAS_NUM_THREADS=1" in err and len(err) < 300) == warned


def test_training_watches_the_load(train, monkeypatch, idx_folder, request):
    """But not with a file larger than memory, where it may wait for the disk."""
    watched = []
    monkeypatch.setattr(training, "watch_load", lambda steps: watched.append(1) or steps)
    assert train("--epochs", 2, "--out", "m")[0] == 0 and len(watched) == 2
    request.getfixturevalue("large")
    assert train("--epochs", 2, "--out", "n", "--dataset", idx_folder)[0] == 0 and len(watched) == 2


def test_a_finished_model_without_scores_is_trained_again(train, tmp_path):
    train("--epochs", 2, "--out", "m.npz")
    whole = (tmp_path / "m.npz").read_bytes()
    for key, value in ("epoch", None), ("validation_accuracy", "0.9"), ("train_loss", float("1e999")):
        net = Network.load(tmp_path / "m.npz")
        net.metadata[key] = value if key != "train_loss" else "inf"
        net.save(tmp_path / "m.npz")
        code, out, err = train("--epochs", 2, "--out", "m.npz", "--resume")
        assert (code, err) == (0, "") and len(out.splitlines()) == 5, "not only the result"
        assert (tmp_path / "m.npz").read_bytes() == whole


def test_the_history_of_a_resumed_run_has_the_same_columns(stopped, tmp_path):
    """In a checkpoint the keys of a record are sorted."""
    run, network = stopped
    run.save(tmp_path / "c.npz", network)
    again = training.Run(run.metadata)
    again.resume(tmp_path / "c.npz", network)
    headers = []
    for each in run, again:
        training.save_best(each, network, tmp_path / "m.npz", finished=False)
        headers.append((tmp_path / "m" / "history.csv").read_text().splitlines()[0])
    assert headers[0] == headers[1] and set(headers[0].split(",")) == again.history[0].keys()
