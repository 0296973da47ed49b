"""app/models.py: names of model files, shipped models, the confusion matrix."""

import numpy as np
import pytest

from app import models
from app.models import confusion_matrix, keep_shipped, load_digit_classifier, model_path
from network import Network
from nn.architecture import mlp
from nn.layers import Dense
from storage import StorageError


@pytest.mark.parametrize(
    "out, name, dataset, expected",
    [
        ("", "mlp", "mnist", "models/mlp.npz"),
        ("", "mlp", "synthetic", "models/mlp-synthetic.npz"),
        ("a/v1.2", "mlp", "synthetic", "a/v1.2.npz"),
        ("b.npz", "mlp", "mnist", "b.npz"),
    ],
)
def test_model_path(out, name, dataset, expected):
    assert str(model_path(out, name, dataset)) == expected


def test_a_folder_of_models_is_no_name_of_a_model(tmp_path):
    """But the folder of a model, with its checkpoint, is."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "checkpoint.npz").touch()
    assert model_path(str(tmp_path / "m"), "mlp", "mnist") == tmp_path / "m.npz"
    (tmp_path / "m" / "other.npz").touch()
    for out in "m", "m.npz":
        with pytest.raises(StorageError, match=r"m is a folder of models: name a file in it, such as --out .*m/mlp"):
            model_path(str(tmp_path / out), "mlp", "mnist")
    (tmp_path / "m.npz").touch()
    assert model_path(str(tmp_path / "m"), "mlp", "mnist") == tmp_path / "m.npz", "its folder may hold other models"


def test_a_file_is_no_name_of_a_model(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(StorageError, match=r"notes.md is a file: choose another name with --out$"):
        model_path(str(tmp_path / "notes.md"), "mlp", "mnist")


def test_a_shipped_model_is_kept_when_it_is_overwritten(tmp_path, monkeypatch, capsys):
    shipped, own = tmp_path / "best.npz", tmp_path / "own.npz"
    monkeypatch.setattr(models, "SHIPPED", [shipped])
    shipped.write_text("shipped"), own.write_text("own")
    keep_shipped(own)
    keep_shipped(shipped)
    before = tmp_path / "best-before.npz"
    assert before.read_text() == shipped.read_text() == "shipped", "it is there, whatever happens to the new one"
    assert own.exists()
    assert str(before) in capsys.readouterr().err
    shipped.write_text("second")
    keep_shipped(shipped)
    assert before.read_text() == "shipped" and shipped.read_text() == "second", "only the first one is the shipped one"
    assert capsys.readouterr().err == ""


def test_a_shipped_model_in_a_linked_folder_is_kept(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "best.npz").write_text("shipped")
    (tmp_path / "models").symlink_to("disk")
    monkeypatch.setattr(models, "SHIPPED", [tmp_path / "models" / "best.npz"])
    models.keep_shipped(tmp_path / "models" / "best.npz")
    assert (tmp_path / "disk" / "best-before.npz").read_text() == "shipped"


def test_training_keeps_a_shipped_model(train, tmp_path, monkeypatch):
    train("--epochs", 1, "--out", "m.npz")
    monkeypatch.setattr(models, "SHIPPED", [tmp_path / "m.npz"])
    content = (tmp_path / "m.npz").read_bytes()
    code, _, err = train("--epochs", 1, "--seed", 1, "--out", "m.npz")
    assert code == 0 and err.count("\n") == 1 and "m-before.npz" in err
    assert (tmp_path / "m-before.npz").read_bytes() == content != (tmp_path / "m.npz").read_bytes()


def test_confusion_matrix():
    labels, predicted = np.array([3, 3, 9, 0]), np.array([3, 5, 9, 3])
    expected = np.zeros((10, 10), int)
    expected[3, 3] = expected[3, 5] = expected[9, 9] = expected[0, 3] = 1
    assert (confusion_matrix(labels, predicted) == expected).all()


def test_only_digit_classifiers_are_loaded(tmp_path):
    Network(mlp([])).save(tmp_path / "ten.npz")
    assert load_digit_classifier(tmp_path / "ten.npz").classes == 10
    Network([Dense(3)]).save(tmp_path / "three.npz")
    with pytest.raises(StorageError, match="784 inputs and 3 outputs: reading digits takes"):
        load_digit_classifier(tmp_path / "three.npz")
