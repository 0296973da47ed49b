"""train.py as a user meets it: what it prints, writes and rejects."""

import csv
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.config import Config
from app.training import has_same_split
from network import Network
from nn.layers import Dense

from .conftest import ROOT, fast, interrupt_epoch


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
    about = Network.load(tmp_path / "models/my.npz").metadata
    assert about["validation_accuracy"] == best and about["epoch"] == int(result[2]) and about["dataset"] == "tiny"
    assert about["recipe"]["hidden"] == [8] and about["recipe"]["batch_size"] == 50
    assert not about["recipe"].keys() & {"out", "data_dir", "repeat"}, "they make no difference to the model"


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


def test_images_larger_than_memory(run, large, idx_folder, tmp_path):
    """Trained, stopped, resumed and tested: the same bytes, from a file that is never held whole."""
    flags = ["--dataset", idx_folder, *fast("--epochs", 2)]
    assert run("train", *flags, "--out", "whole")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_epoch(patch, 2)
        assert run("train", *flags, "--out", "m")[0] == 130
    assert run("train", *flags, "--out", "m", "--resume")[0] == 0
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    code, out, err = run("test", "--model", "m.npz", "--dataset", idx_folder)
    assert code == 0 and err == "" and "(idx, 200 images)" in out
    code, _, err = run("hp_search", "--dataset", idx_folder, "--out", "s")
    assert code == 1 and err.count("\n") == 1 and "search on a part" in err


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


def test_repeat(train, tmp_path):
    code, out, _ = train("--epochs", 1, "--repeat", 3, "--seed", 4, "--out", "m.npz")
    assert code == 0 and re.search(
        r"^validation accuracy 0\.\d{4} \+- 0\.\d{4} \(tiny, 3 seeds\) -> m-seed4.npz", out, re.M
    )
    models = [tmp_path / f"m-seed{seed}.npz" for seed in (4, 5, 6)]
    assert [Network.load(m).metadata["recipe"]["seed"] for m in models] == [4, 5, 6]
    alone = train("--epochs", 1, "--seed", 5, "--out", "alone.npz")
    assert alone[0] == 0 and (tmp_path / "alone.npz").read_bytes() == models[1].read_bytes()


def test_a_teacher(train, tmp_path, monkeypatch):
    """Learns from its outputs; resumed with the same teacher only, wherever its file is."""
    assert train("--epochs", 3, "--label-smoothing", 0, "--out", "teacher.npz")[0] == 0
    flags = ["--epochs", 2, "--label-smoothing", 0, "--activation", "tanh"]
    assert train(*flags, "--out", "without.npz")[0] == 0
    flags += ["--teacher", "teacher.npz", "--out", "m.npz"]
    code, _, err = train(*flags)
    assert code == 0 and err == ""
    whole = Network.load(tmp_path / "m.npz")
    digest = hashlib.sha256((tmp_path / "teacher.npz").read_bytes()).hexdigest()
    assert whole.metadata["recipe"]["teacher"] == "teacher.npz" and whole.metadata["teacher"] == digest
    assert (whole.parameters()["0.W"] != Network.load(tmp_path / "without.npz").parameters()["0.W"]).any()
    interrupt_epoch(monkeypatch, 2)
    assert train(*flags)[0] == 130
    (tmp_path / "without.npz").rename(tmp_path / "other.npz")
    code, _, err = train(*flags, "--resume", "--teacher", "other.npz")
    assert code == 1 and "run with other settings (teacher): use those, or" in err
    (tmp_path / "teacher.npz").rename(tmp_path / "moved.npz")
    assert train(*flags, "--resume", "--teacher", "moved.npz")[0] == 0
    resumed = Network.load(tmp_path / "m.npz")
    assert all((a == whole.arrays()[name]).all() for name, a in resumed.arrays().items())


def test_a_teacher_that_has_seen_the_validation_images(train, tmp_path):
    flags = ["--epochs", 1, "--label-smoothing", 0]
    assert train(*flags, "--out", "teacher.npz")[0] == 0
    assert train(*flags, "--validation", 0, "--out", "all.npz")[0] == 0
    flags += ["--out", "m.npz", "--teacher"]
    assert train(*flags, "teacher.npz")[2] == ""
    (tmp_path / "m.npz").rename(tmp_path / "distilled.npz")
    assert train(*flags, "teacher.npz", "--validation", 0)[2] == "", "no validation"
    for change in ("teacher.npz", "--seed", 1), ("teacher.npz", "--validation", 50), ("all.npz",), ("distilled.npz",):
        code, _, err = train(*flags, *change)
        assert code == 0 and err.count("\n") == 1
        assert f"{change[0]} may have been trained on images that are for validation here: then the validation" in err


def test_splits_that_are_the_same():
    """Those of MNIST's last images are, whatever the seed; random ones are not."""
    config = Config(dataset="mnist", validation=100)

    def same(config, dataset="mnist", data="1", **settings):
        recipe = {"dataset": dataset, "validation": 100, "seed": 7} | settings
        return has_same_split(config, "1", {"data": data, "recipe": recipe})

    assert (
        same(config)
        and same(config, lr=3, label_smoothing=0.5)
        and same(replace(config, dataset="synthetic"), "synthetic")
    )
    assert not (same(config, "mnist-files") or same(config, data="2") or same(config, unseen_writers=True))
    assert not same(replace(config, dataset="digits"), "digits") and same(
        replace(config, dataset="digits", seed=7), "digits"
    )
    unseen = replace(config, unseen_writers=True)
    assert not same(unseen, unseen_writers=True) and same(replace(unseen, seed=7), unseen_writers=True)
    assert not has_same_split(config, "1", {}) and not has_same_split(config, "1", {"recipe": 3})


@pytest.mark.parametrize(
    "flags, message",
    [(["none.npz"], "teacher: no model at none.npz"),
     (["mse.npz"], "teacher: mse.npz was trained with loss = mse: it must be cross_entropy"),
     (["small.npz"], "teacher: small.npz is a model with 9 inputs"),
     (["./m.npz"], "the teacher m.npz would be overwritten: give another --out"),
     (["none.npz", "--loss", "mse"], "a teacher needs loss = cross_entropy, label-smoothing = 0 and processes = 1"),
     (["none.npz", "--label-smoothing", 0.1], "a teacher needs loss = cross_entropy, label-smoothing = 0 and"),
     (["none.npz", "--processes", 2], "a teacher needs loss = cross_entropy, label-smoothing = 0 and processes = 1")],
)  # fmt: skip
def test_teachers_that_cannot_be(train, flags, message, tmp_path):
    Network([Dense(10)], loss="mse").save(tmp_path / "mse.npz")
    Network([Dense(10)], input_shape=(9,)).save(tmp_path / "small.npz")
    code, _, err = train("--label-smoothing", 0, "--teacher", *flags, "--out", "m.npz")
    assert code and message in err and err.count("\n") == 1 and not (tmp_path / "m.npz").exists()


def test_a_resumed_run_that_is_stopped_at_once_keeps_its_model(train, monkeypatch, tmp_path):
    """Before `fit` has measured the images: the model on disk must not become one without their mean and std."""
    interrupt_epoch(monkeypatch, 3)
    flags = ["--epochs", 4, "--label-smoothing", 0.2, "--out", "m.npz"]
    assert train(*flags)[0] == 130
    stopped = (tmp_path / "m.npz").read_bytes()

    def stop_fit(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "fit", stop_fit)
    code, out, _ = train(*flags, "--resume")
    assert code == 130 and "of 4) -> m.npz" in out and (tmp_path / "m.npz").read_bytes() == stopped


def test_repeat_counts_finished_runs_only(train, monkeypatch):
    interrupt_epoch(monkeypatch, 6)
    code, out, _ = train("--epochs", 2, "--repeat", 5, "--out", "m.npz")
    assert code == 130 and "(tiny, 2 seeds) -> m-seed0.npz ... m-seed1.npz" in out.splitlines()[-1]
    assert re.search(r"epoch 1 of 2\) -> m-seed2.npz", out)


def test_repeat_says_how_to_go_on_if_a_seed_had_no_epoch(train, monkeypatch):
    interrupt_epoch(monkeypatch, 1)
    flags = "--epochs", 2, "--repeat", 3, "--out", "m.npz"
    assert train(*flags)[1].splitlines()[-1] == "no model was saved in m-seed0.npz"
    interrupt_epoch(monkeypatch, 3)
    code, out, _ = train(*flags)
    message, result = out.splitlines()[-2:]
    assert code == 130 and result.endswith("-> m-seed0.npz")
    assert message == "no model was saved in m-seed1.npz; with --resume the finished seeds are not trained again"


def test_recipes_and_flags_say_the_same(train, run, archive, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'hidden = [8]\nbatch-size = 50\nvalidation = 100\nepochs = 2\nlr = 1\nnesterov = true\ndataset = "{archive}"\n'
    )
    code, out, _ = run("train", "--config", recipe)
    assert code == 0 and out.endswith("-> models/mine-tiny.npz\n")
    train(
        "--epochs", 2, "--lr", 1.0, "--nesterov", "--weight-decay", 5e-4, "--label-smoothing", 0, "--out", "flags.npz"
    )
    assert (tmp_path / "models/mine-tiny.npz").read_bytes() == (tmp_path / "flags.npz").read_bytes()


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "configs").glob("*.toml")) if "[space]" not in p.read_text()],
    ids=lambda p: p.stem,
)
def test_shipped_recipes_train(path, run, archive, tmp_path):
    if "teacher" in path.read_text():
        assert run("train", "--dataset", archive, *fast("--epochs", 1), "--out", "models/teacher.npz")[0] == 0
    code, _, err = run("train", "--config", path, "--dataset", archive, "--epochs", 1, "--validation", 100)
    assert code == 0 and err == ""
    assert (tmp_path / "models" / f"{path.stem}-tiny.npz").exists()


def test_training_images_that_lack_a_digit(run, digits, tmp_path):
    (x, y), _ = digits
    np.savez(tmp_path / "few.npz", x_train=x[y > 1], y_train=y[y > 1])
    code, _, err = run("train", "--dataset", "few.npz", *fast("--epochs", 1))
    assert code == 0 and err == "WARNING: few.npz has no training images of 0, 1\n"


def test_divergence_leaves_no_model(train, tmp_path):
    code, _, err = train("--lr", 1000, "--out", "m.npz")
    assert code == 1 and "lower lr" in err and err.count("\n") == 1
    assert not (tmp_path / "m.npz").exists() and not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--layers", "conv 16"], "layers: 'conv 16': expected conv FILTERS SIZE"),
        (["--layers", "conv 4 30"], "covers 30 x 30 pixels"),
        (["--layers", "batchnrom"], "no layer is called 'batchnrom'"),
        (["--rotate", "-1"], "rotate must lie in [0, 180], not -1.0"),
        (["--scale", "15"], "scale must lie in [0, 1], not 15.0"),
        (["--augment", "--elastic", "1e39"], "elastic must lie in [0, 28]"),
        (["--rotate", "9"], "rotate has no effect without augment: set it too"),
        (["--nesterov", "--momentum", "0"], "nesterov has no effect without momentum"),
        (["--layers", "relu", "--hidden", "64"], "hidden has no effect with layers: remove one of them,"),
        (["--smooth", "0"], "smooth must lie in [1, 28], not 0"),
    ],
)
def test_bad_layers_and_strengths(train, flags, word):
    code, _, err = train(*flags)
    assert code == 2 and err.count("\n") == 1 and word in err


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--lr", "-1"], 2, "lr must be a number above 0, not -1.0"),
        (["--lr", "nan"], 2, "lr must be"),
        (["--lr", "fast"], 2, "--lr"),
        (["--hidden", "0"], 2, "hidden must hold integers from 1 to 1,000,000"),
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
        (["--out", "folder/"], 2, 'out must name a file, such as models/NAME.npz, not "folder/"'),
        (["--validation", "1"], 2, "validation must be a fraction in [0, 1), or an integer number of images above 1"),
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
        ("batch_size = 64", "unknown key 'batch_size'; did you mean 'batch-size'?"),
        ("colour = 1", "unknown key 'colour'; the keys are the flags of the command, see its --help"),
        ("[space]\nlr = [0.1, 0.2]", "bad.toml is the config of a search: give it to hp_search.py"),
        ("lr = -1", "lr must be"),
        ('lr = "0.1"', "lr must be"),
        ("hidden = 512", "hidden must hold"),
        ("standardize = 1", "standardize must be true or false"),
        ("seed = 0.5", "seed must be an integer of at least 0, not 0.5"),
        (f"lr.{'a.' * 1000}a = 1", "bad.toml"),  # which reason depends on Python's version
        (f"lr.{'a.' * 100_000}a = 1", "is not a TOML file: more than 10,000 bytes"),
        (f"epochs = 0x{'f' * 5000}", "is not a TOML file"),
        ("epochs = 2.5", "epochs must be"),
        ("seed = true", "seed must be"),
        ("lr = ", "not a TOML file"),
        ("hidden = " + "[" * 9_000, "not a TOML file"),
        ('layers = "dense 8, relu"\nhidden = [64]', "bad.toml: hidden has no effect with layers"),
        ("rotate = 9", "bad.toml: rotate has no effect without augment"),
    ],
)
def test_bad_recipes(run, tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    code, _, err = run("train", "--config", "bad.toml")
    assert code == 2 and says in err and err.count("\n") == 1


def test_a_config_without_its_folder_or_suffix_is_suggested(run, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/one.toml").touch()
    for name in "one", "configs/one":
        expected = (
            f"train.py: cannot read the config {name}: No such file or directory: did you mean configs/one.toml?\n"
        )
        assert run("train", "--config", name) == (2, "", expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["train", "hp_search"])
def test_a_config_that_is_no_file_is_not_read(run, tmp_path, monkeypatch, name):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("this might wait for ever"))
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for config in "pipe.toml", "folder.toml":
        expected = f"{name}.py: the config {config} is not a regular file\n"
        assert run(name, "--config", config) == (2, "", expected)


def test_nothing_of_the_users_is_written_over(run, archive, tmp_path):
    """What --out names is told before the work if it is a file that no earlier run made."""
    before = archive.read_bytes()
    for name, more in ("train", []), ("hp_search", ["--workers", 1]):
        code, out, err = run(name, "--dataset", archive, "--validation", 100, "--out", archive.with_suffix(""), *more)
        assert code == 1 and err.count("\n") == 1 and "exists and is not a model of this program" in err and not out
    assert archive.read_bytes() == before


def test_unwritable_output(train, tmp_path):
    (tmp_path / "file").write_text("")
    for out in "file/m.npz", "file":
        code, printed, err = train("--epochs", 1, "--out", out)
        assert (
            code == 1 and err.count("\n") == 1 and "Traceback" not in err and "file" in err and "epoch" not in printed
        )


def test_a_training_says_whose_images_validate(run, archive, monkeypatch):
    monkeypatch.setattr("data.load_writers", lambda *_: np.arange(600) // 50)
    arguments = ["--dataset", archive, "--hidden", 4, "--epochs", 1, "--validation", 100, "--out", "m"]
    assert "500 training and 100 validation images\n" in run("train", *arguments)[1]
    out = run("train", *arguments, "--unseen-writers")[1]
    assert "500 training and 100 validation images of unseen writers\n" in out


def test_writers_are_not_looked_for_without_validation_images(run, archive, tmp_path):
    (tmp_path / "a.toml").write_text("unseen-writers = true\nhidden = [4]\nepochs = 1\n")
    assert "writer" in run("train", "--dataset", archive, "--config", "a.toml", "--validation", 100)[2]
    assert run("train", "--dataset", archive, "--config", "a.toml", "--validation", 0)[::2] == (0, "")
