"""predict.py as a user meets it: what it prints, writes and rejects."""

import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from data import photo, segment
from network import Network
from nn.architecture import mlp

from .conftest import ROOT, script


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    """The file of a small network trained on synthetic digits, prepared as photos are."""
    path = tmp_path_factory.mktemp("model") / "small.npz"
    images, labels = (a[:200] for a in digits[0])
    images = np.stack([photo.prepare(image) for image in images])
    network = Network(mlp([64]), seed=1)
    for _ in network.fit(images, labels, epochs=15, batch_size=20, lr=0.05):
        pass
    network.metadata = {"dataset": "tiny"}
    network.save(path)
    return path


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """Twenty photos, black on white, in folders mine/0 to mine/9; and the network's input for each file."""
    folder, inputs = tmp_path_factory.mktemp("photos"), {}
    for i, (image, label) in enumerate(zip(digits[0][0][:20], digits[0][1], strict=False)):
        path = folder / "mine" / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image).resize((200, 200), Image.Resampling.BICUBIC).save(path)
        inputs[str(path.relative_to(folder))] = photo.digit(path)
    return folder, inputs


@pytest.fixture
def photos(made, tmp_path):
    """The same photos in the test's folder; the inputs."""
    folder, inputs = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return inputs


def rows(out):
    """The rows of the table: (file, digit, probability, runner-up, probability, remark)."""
    pattern = r"(.+?) +(\d)  +([01]\.\d{4})  +(\d)  +([01]\.\d{4})(?:  (.*))?"
    return [match.groups() for line in out.splitlines() if (match := re.fullmatch(pattern, line))]


def test_a_row_for_each_photo(run, model, photos, tmp_path):
    code, out, err = run("predict", "mine", "--model", model)
    found = rows(out)
    assert (code, err) == (0, "") and len(found) == 20
    network = Network.load(model)
    for file, digit, probability, runner_up, second, remark in found:
        expected = network.predict_proba(photos[file][None])[0]
        order = np.argsort(-expected)
        assert (int(digit), int(runner_up)) == tuple(order[:2])
        assert float(probability) == pytest.approx(expected.max(), abs=1e-4)
        assert float(second) == pytest.approx(expected[order[1]], abs=1e-4)
        first, second = expected[order[:2]]
        [found_digit], program = segment.digits(photo.read(tmp_path / file)), script("predict")
        threshold = program.WIDE_THRESHOLD if found_digit.wide else program.SHARE_THRESHOLD
        touching = found_digit.wide and found_digit.long
        assert (remark == "unsure") == (touching or first / (first + second) < threshold)
    table = [line for line in out.splitlines() if line.startswith(("photo", "mine"))]
    start = table[0].index("digits")
    assert all(
        line[start - 1 : start + 2] == f" {digit} " for line, (_, digit, *_) in zip(table[1:], found, strict=True)
    )
    assert {len(line.removesuffix("  unsure")) for line in table} == {len(table[0])}, "the table is aligned"
    assert re.fullmatch(rf"20 photos: 20 read, \d+ of them unsure \({model}\)", out.splitlines()[-1])


@pytest.mark.parametrize(
    ("share", "what", "unsure"),
    [(0.91, "", False), (0.89, "", True), (0.98, "wide", True), (0.992, "wide", False), (1.0, "wide long", True),
     (0.91, "long", False), (0.98, "cut", True), (0.992, "cut", False)],
)  # fmt: skip
def test_what_is_unsure(share, what, unsure):
    digit = segment.Digit(np.zeros((28, 28), np.uint8), **dict.fromkeys(what.split(), True))
    probabilities = np.array([0.9 * share, 0.9 * (1 - share), *[0] * 8])  # label smoothing keeps their sum below 1
    assert script("predict").is_unsure(probabilities, digit) is unsure


def count_right(model, photos):
    network = Network.load(model)
    return sum(int(network.predict(image[None])[0]) == int(file.split("/")[1]) for file, image in photos.items())


def test_labels_give_the_accuracy(run, model, photos, tmp_path):
    code, out, _ = run("predict", "mine", "--model", model, "--labels")
    right = count_right(model, photos)
    assert code == 0 and right >= 15 and f"accuracy {right / 20:.4f} ({right} of 20 photos)" in out
    matrix = [line.replace(".", "0").split() for line in out.splitlines() if re.match(r" {15}\d ", line)]
    for label, predicted in np.ndindex(10, 10):
        expected = sum(file.split("/")[1] == str(label) and digit == str(predicted) for file, digit, *_ in rows(out))
        assert int(matrix[label][1 + predicted]) == expected
    wrong = [row for row in rows(out) if row[5] and "wrong" in row[5]]
    assert len(wrong) == 20 - right
    flat, some = tmp_path / "3" / "flat", dict(list(photos.items())[:4])
    flat.mkdir(parents=True)
    for file in some:  # here the labels are in the names of the files
        shutil.copy(tmp_path / file, flat / f"{file.split('/')[1]}_{file.split('/')[2]}")
    expected = f"accuracy {count_right(model, some) / 4:.4f}"
    assert expected in run("predict", flat, "--model", model, "--labels")[1]
    shutil.copy(next(flat.iterdir()), flat / "x.png")
    code, out, err = run("predict", flat, "--model", model, "--labels")
    assert code == 1 and "x.png has no label" in err and expected in out and "5 photos: 4 read" in out


def test_csv(run, model, photos, tmp_path):
    code, out, _ = run("predict", "mine", "--model", model, "--csv", "a.csv", "--labels")
    with (tmp_path / "a.csv").open(newline="") as file:
        assert (
            file.readline()
            == "file,digit,probability,runner_up,runner_up_probability,unsure,real,error,row,left,top,right,bottom\n"
        )
    written = read_csv(tmp_path / "a.csv")
    assert code == 0 and [row["file"] for row in written] == [row[0] for row in rows(out)]
    assert [row["digit"] for row in written] == [row[1] for row in rows(out)]
    assert all(row["real"] == row["file"].split("/")[1] and row["error"] == "" for row in written)
    (tmp_path / "bad.png").write_text("text")
    code, _, err = run("predict", *list(photos)[:2], "bad.png", "--model", model, "--csv", "a.csv")  # its own file
    *good, bad = read_csv(tmp_path / "a.csv")
    assert code == 1 and len(good) == 2 and err == f"predict.py: bad.png {bad['error']}\n" and bad["digit"] == ""
    assert not any(row["real"] for row in good), "without --labels there are no true labels"


@pytest.fixture
def number(digits, tmp_path):
    """A photo of two rows, of three digits and of one; the inputs of the network, in reading order."""
    canvas = np.zeros((90, 130), np.uint8)
    for i, (top, left) in enumerate([(8, 10), (12, 50), (8, 90), (50, 10)]):
        canvas[top : top + 28, left : left + 28] = digits[0][0][i]
    path = tmp_path / "number.png"
    Image.fromarray(255 - canvas).resize((650, 450), Image.Resampling.BICUBIC).save(path)
    return np.stack([digit.image for digit in segment.digits(photo.read(path))])


def test_a_number_is_one_row_and_each_digit_a_record(run, model, number, photos, tmp_path):
    single = next(iter(photos))
    code, out, err = run("predict", "number.png", single, "--model", model, "--csv", "a.csv", "--show", "a.png")
    probabilities = Network.load(model).predict_proba(number)
    a, b, c, d = answers = probabilities.argmax(axis=1)
    assert (code, err, len(number)) == (0, "", 4)
    row = next(line for line in out.splitlines() if line.startswith("number.png"))
    assert re.match(
        rf"number.png +{a}{b}{c} / {d}  +{probabilities.max(axis=1).min():.4f}(  +[1-4] of 4 unsure)?$", row
    )
    assert re.fullmatch(r"2 photos: 2 read, 5 digits, \d of them unsure \(.*\) -> a.csv, a.png", out.splitlines()[-1])
    *several, one = read_csv(tmp_path / "a.csv")
    assert [int(each["digit"]) for each in several] == list(answers) and one["file"] == single
    assert [each["row"] for each in several] == ["1", "1", "1", "2"]
    middle = [(float(each["left"]) + float(each["right"])) / 2 for each in several]
    assert middle == pytest.approx([24 / 130, 64 / 130, 104 / 130, 24 / 130], abs=0.03)
    assert all(0.55 < float(several[3][side]) < 0.9 for side in ("top", "bottom"))
    records = json.loads(run("predict", "number.png", "--model", model, "--json")[1])
    assert [each["digit"] for each in records] == list(answers) and len(records[0]["probabilities"]) == 10


def test_one_digit_if_that_is_asked_for(run, model, number):
    out = run("predict", "number.png", "--model", model, "--one")[1]
    image = photo.digit(Path("number.png"))
    assert int(rows(out)[0][1]) == Network.load(model).predict(image[None])[0] and "1 photo: 1 read, " in out
    (record,) = json.loads(run("predict", "number.png", "--model", model, "--one", "--json")[1])
    assert [record[key] for key in ("row", "left", "top", "right", "bottom")] == [1, 0, 0, 1, 1]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_json(run, model, photos, tmp_path):
    (tmp_path / "mine" / "bad.png").write_text("text")
    code, out, err = run("predict", "mine", "--model", model, "--json", "--labels")
    results = {result["file"]: result for result in json.loads(out)}
    assert code == 1 and len(results) == 21 and err.count("\n") == 1 and "error" in results.pop("mine/bad.png")
    network = Network.load(model)
    for file, result in results.items():
        expected = network.predict_proba(photos[file][None])[0]
        assert result["probabilities"] == pytest.approx(list(expected), abs=1e-6)
        assert result["digit"] == np.argmax(expected) and result["real"] == int(file.split("/")[1])


@pytest.mark.figures
def test_show(run, model, photos, tmp_path):
    folder = next(iter(photos)).rpartition("/")[0]
    count = sum(file.startswith(folder) for file in photos)
    for path in f"{folder}/seen.png", tmp_path / folder / "seen.png":  # is no photo the next time, but may be replaced
        code, out, _ = run("predict", folder, "--model", model, "--show", path)
        assert code == 0 and f" {count} read" in out
        with Image.open(tmp_path / folder / "seen.png") as figure:
            assert figure.width > 800


def test_the_figure_shows_photos_inputs_and_probabilities(run, model, photos, monkeypatch):
    import plots

    shown = []
    original = plots.predictions
    monkeypatch.setattr(plots, "predictions", lambda results: shown.extend(results) or original(results))
    files = sorted(photos)[:3]
    run("predict", *files, "--model", model, "--show", "a.png")
    network = Network.load(model)
    run("predict", *files, "--model", model, "--labels", "--show", "b.png")
    folders, names = zip(*(file.split("/")[1:] for file in files), strict=True)
    assert [name for name, *_ in shown[3:]] == [f"{n}, true: {f}" for n, f in zip(names, folders, strict=True)]
    for (name, thumbnail, [image], [probabilities], [unsure], boxes), file in zip(shown, files, strict=False):
        assert name == file.split("/")[2] and thumbnail.shape == (160, 160, 3) and (image == photos[file]).all()
        assert boxes == [] and unsure == (max(probabilities) / sum(sorted(probabilities)[-2:]) < 0.9)
        assert probabilities == pytest.approx(list(network.predict_proba(photos[file][None])[0]), abs=1e-6)


def test_the_summary_says_how_many_photos_the_figure_shows(capsys):
    command = script("predict")
    for count, end in (24, "-> a.csv, a.png\n"), (25, "-> a.csv, a.png (the first 24)\n"):
        results = [{"file": f"{i}.png", "unsure": False} for i in range(count)]
        command.print_summary(results, command.parse_arguments(["x", "--csv", "a.csv", "--show", "a.png"]))
        assert capsys.readouterr().out.endswith(end)


@pytest.mark.figures
def test_only_the_figure_of_an_earlier_run(run, model, photos, tmp_path):
    command = "predict", "alone", "--model", model, "--show", "alone/seen.png"
    (tmp_path / "alone").mkdir()
    shutil.copy(next(iter(photos)), tmp_path / "alone" / "3.png")
    assert run(*command)[0] == 0 and (tmp_path / "alone" / "seen.png").exists()
    (tmp_path / "alone" / "3.png").unlink()
    code, _, err = run(*command)
    assert code == 1 and "no photos but the figure of an earlier run" in err


def test_unreadable_files_are_reported_and_skipped(run, model, photos, tmp_path):
    mine, good = tmp_path / "mine", (tmp_path / next(iter(photos))).read_bytes()
    (mine / "empty.png").write_bytes(b"")
    (mine / "text.png").write_text("hello")
    (mine / "cut.jpg").write_bytes(good[: len(good) // 2])
    Image.new("1", (12_000, 9_000)).save(mine / "bomb.png")
    (mine / "folder.png").mkdir()
    Image.new("L", (50, 50), 255).save(mine / "blank.png")
    bad = ["blank.png", "bomb.png", "cut.jpg", "empty.png", "folder.png", "text.png"]
    if os.geteuid():  # root may read everything
        (mine / "secret.png").write_bytes(good)
        (mine / "secret.png").chmod(0)
        bad.append("secret.png")
    (mine / "notes.txt").write_text("ignored")
    code, out, err = run("predict", "mine", "--model", model)
    assert code == 1 and len(rows(out)) == 20
    assert sorted(re.findall(r"^predict.py: mine/(\S+) ", err, re.M)) == sorted(bad) and err.count("\n") == len(bad)
    assert f"{20 + len(bad)} photos: 20 read" in out.splitlines()[-1]


@pytest.mark.figures
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give photos or folders, or only --draw and --model"),
        (["--json"], 2, "give photos or folders, or only --draw and --model"),
        (["a.png", "--draw"], 2, "give photos or folders, or only --draw and --model"),
        (["--draw", "--one"], 2, "give photos or folders, or only --draw and --model"),
        (["a.png", "--model", "none.npz"], 1, "no model at none.npz"),
        (["a.png"], 1, "a.png does not exist"),
        (["here"], 1, "here contains no photos"),
        (["a.png", "--csv", "a.txt"], 2, "a.txt must end in .csv"),
        (["a.png", "--show", "a.jpg"], 2, "a.jpg must end in .png"),
        (["--show", "mine.png", "a.png"], 2, "mine.png exists and is not from an earlier run"),
        (["a.png", "--csv", "digits.csv"], 2, "digits.csv exists and is not from an earlier run"),
        (["a.png", "--show", "here/../a.png"], 1, "contains no photos but the figure"),
        (["a.png", "--csv", "mine.png/a.csv"], 1, "mine.png: cannot be made, because a file is in the way"),
        (["a.png", "--show", "mine.png/b/a.png", "c.png"], 1, "mine.png/b: cannot be made, because a file is"),
    ],
)
def test_one_line_for_every_error(run, model, tmp_path, arguments, code, message):
    (tmp_path / "here").mkdir()
    Figure().savefig(tmp_path / "mine.png")  # by Matplotlib, but not by predict.py
    (tmp_path / "digits.csv").write_text("label,1x1\n7,0\n")
    before = (tmp_path / "mine.png").read_bytes()
    got, out, err = run("predict", *arguments, *([] if "--model" in arguments else ["--model", model]))
    assert (got, out) == (code, "") and message in err and err.count("\n") == 1 and "Traceback" not in err
    assert (tmp_path / "mine.png").read_bytes() == before
    assert (tmp_path / "digits.csv").read_text() == "label,1x1\n7,0\n"


def test_flags_may_stand_between_photos(run, model, photos):
    first, second, *_ = photos
    code, out, _ = run("predict", first, "--model", model, "--csv", "a.csv", second)
    assert code == 0 and out.splitlines()[-1].startswith("2 photos: 2 read")


def test_the_default_model_is_the_shipped_one(run, photos):
    code, out, _ = run("predict", next(iter(photos)))
    assert code == 0 and out.splitlines()[-1].endswith(f"({ROOT / 'models' / 'best.npz'})")


class Terminal(io.StringIO):
    """A stream that shows progress bars."""

    def isatty(self):
        return True


def test_looking_for_photos_shows_progress_on_a_terminal_only(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in "a.txt", "sub/b.txt", "sub/c.png":
        (tmp_path / name).touch()
    predict, counts = script("predict"), []
    assert list(predict.find_photos(tmp_path, counts.append)) == [(tmp_path / "sub" / "c.png", "")]
    assert counts == [1, 2], "all files, photos or not"
    for stream, shown in (Terminal(), "looking for photos: 0 files"), (io.StringIO(), ""):
        monkeypatch.setattr(sys, "stderr", stream)
        assert len(predict.find_files([tmp_path], None)) == 1
        assert shown in stream.getvalue() and (shown or not stream.getvalue())
        assert not stream.getvalue().split("\r")[-1].strip(), "it is removed at the end"


def test_folders_are_read_in_the_order_of_their_names(tmp_path):
    names = [f"{i:02d}" for i in range(30)]
    for name in np.random.default_rng(0).permutation(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    found = script("predict").find_photos(tmp_path, id)
    assert [file.parent.name for file, _ in found] == names


def test_ctrl_c_while_looking_for_photos(run, model, monkeypatch, tmp_path):
    def walk(*_):
        yield str(tmp_path), [], ["a.txt"]
        raise KeyboardInterrupt

    monkeypatch.setattr(photo, "walk", walk)
    assert run("predict", tmp_path, "--model", model) == (130, "", "predict.py: stopped\n")
