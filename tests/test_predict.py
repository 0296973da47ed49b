"""predict.py as a user meets it, and its drawing window."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent
from matplotlib.figure import Figure
from PIL import Image

from architecture import mlp
from data import picture
from network import Network

from .conftest import ROOT, script


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    """A small network that knows the synthetic digits, and its file."""
    path = tmp_path_factory.mktemp("model") / "small.npz"
    (images, labels), _ = digits
    images = np.stack([picture.prepare(image) for image in images])
    network = Network(mlp([64]), seed=1)
    for _ in network.fit(images, labels, epochs=15, batch_size=20, lr=0.05):
        pass
    network.about = {"dataset": "tiny"}
    network.save(path)
    return path


@pytest.fixture
def pictures(digits, tmp_path):
    """Twenty large pictures in folders 0 to 9, black on white, and the network's form of each."""
    images, labels = digits[0]
    seen = {}
    for i, (image, label) in enumerate(zip(images[:20], labels, strict=False)):
        large = Image.fromarray(255 - image).resize((200, 200), Image.Resampling.BICUBIC)
        path = tmp_path / "mine" / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        large.save(path)
        seen[str(path.relative_to(tmp_path))] = picture.digit(path)
    return seen


def rows(out):
    """The lines of the table as (file, digit, probability, runner-up, probability, remark)."""
    pattern = r"(.+?) +(\d)  +([01]\.\d{4})  +(\d)  +([01]\.\d{4})(?:  (.*))?"
    return [match.groups() for line in out.splitlines() if (match := re.fullmatch(pattern, line))]


def test_a_line_for_each_picture(run, model, pictures):
    code, out, err = run("predict", "mine", "--model", model)
    found = rows(out)
    assert (code, err) == (0, "") and len(found) == 20
    network = Network.load(model)
    for file, digit, probability, runner_up, second, remark in found:
        expected = network.predict_proba(pictures[file][None])[0]
        order = np.argsort(-expected)
        assert (int(digit), int(runner_up)) == tuple(order[:2])
        assert float(probability) == pytest.approx(expected.max(), abs=1e-4)
        assert float(second) == pytest.approx(expected[order[1]], abs=1e-4)
        assert (remark == "unsure") == (expected.max() < script("predict").UNSURE)
    table = [line for line in out.splitlines() if line.startswith(("picture", "mine"))]
    end = table[0].index("digit") + len("digit")
    assert all(line[end - 2 : end + 1] == f" {digit} " for line, (_, digit, *_) in zip(table[1:], found, strict=True))
    assert {len(line.removesuffix("  unsure")) for line in table} == {len(table[0])}, "the table is aligned"
    assert re.fullmatch(rf"20 pictures: 20 read, \d+ of them unsure \({model}\)", out.splitlines()[-1])


def test_labels_score_the_answers(run, model, pictures, tmp_path):
    code, out, _ = run("predict", "mine", "--model", model, "--labels")
    network = Network.load(model)
    right = sum(int(network.predict(image[None])[0]) == int(file.split("/")[1]) for file, image in pictures.items())
    assert code == 0 and right >= 15 and f"accuracy {right / 20:.4f} ({right} of 20 pictures)" in out
    matrix = [line.split() for line in out.splitlines() if re.match(r" {15}\d ", line)]
    assert sum(int(row[1 + int(row[0])].replace(".", "0")) for row in matrix) == right
    wrong = [row for row in rows(out) if row[5] and "wrong" in row[5]]
    assert len(wrong) == 20 - right
    # the label may stand in the file's name instead
    flat = tmp_path / "3" / "flat"  # which says nothing of each
    flat.mkdir(parents=True)
    for file in pictures:
        shutil.copy(tmp_path / file, flat / f"{file.split('/')[1]}_{file.split('/')[2]}")
    assert f"accuracy {right / 20:.4f}" in run("predict", flat, "--model", model, "--labels")[1]
    shutil.copy(next(flat.iterdir()), flat / "x.png")
    code, out, err = run("predict", flat, "--model", model, "--labels")
    assert code == 1 and "x.png has no label" in err and "20 read" in out


def test_csv_json_and_show(run, model, pictures, tmp_path):
    code, out, err = run("predict", "mine", "--model", model, "--csv", "a.csv", "--show", "a.png", "--labels")
    with (tmp_path / "a.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    shown = rows(out)
    assert code == 0 and [row["file"] for row in written] == [row[0] for row in shown]
    assert [row["digit"] for row in written] == [row[1] for row in shown]
    assert all(row["real"] == row["file"].split("/")[1] and row["error"] == "" for row in written)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800
    for out in "mine/seen.png", tmp_path / "mine" / "seen.png":  # is not looked at the next time
        assert "20 pictures: 20 read" in run("predict", "mine", "--model", model, "--show", out)[1]
    (tmp_path / "mine" / "seen.png").unlink()
    (tmp_path / "mine" / "bad.png").write_text("text")
    again = run("predict", "mine", "--model", model, "--show", "a.png")[0]  # it may replace its own picture
    code, out, err = run("predict", "mine", "--model", model, "--json")
    answers = json.loads(out)
    assert again == 1 and code == 1 and len(answers) == 21 and err.count("\n") == 1
    assert next(answer for answer in answers if "error" in answer)["file"] == "mine/bad.png"
    for answer in answers:
        if "error" not in answer:
            assert len(answer["probabilities"]) == 10 and np.argmax(answer["probabilities"]) == answer["digit"]


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(run, model, pictures, tmp_path):
    mine, good = tmp_path / "mine", (tmp_path / next(iter(pictures))).read_bytes()
    (mine / "empty.png").write_bytes(b"")
    (mine / "text.png").write_text("hello")
    (mine / "cut.jpg").write_bytes(good[: len(good) // 2])
    Image.new("1", (30000, 30000)).save(mine / "bomb.png")
    (mine / "folder.png").mkdir()
    Image.new("L", (50, 50), 255).save(mine / "blank.png")
    bad = ["blank.png", "bomb.png", "cut.jpg", "empty.png", "folder.png", "text.png"]
    if os.geteuid():  # nothing is forbidden to root
        (mine / "secret.png").write_bytes(good)
        (mine / "secret.png").chmod(0)
        bad.append("secret.png")
    (mine / "notes.txt").write_text("is passed over")
    code, out, err = run("predict", "mine", "--model", model)
    assert code == 1 and len(rows(out)) == 20
    assert sorted(re.findall(r"^mine/(\S+) ", err, re.M)) == sorted(bad) and err.count("\n") == len(bad)
    assert f"{20 + len(bad)} pictures: 20 read" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "give pictures or folders, or --draw"),
        (["a.png", "--draw"], 2, "give pictures or folders, or --draw"),
        (["a.png", "--model", "none.npz"], 1, "no model at none.npz"),
        (["a.png"], 1, "a.png does not exist"),
        (["here"], 1, "here has no pictures in it"),
        (["a.png", "--csv", "a.txt"], 2, "a.txt should end in .csv"),
        (["a.png", "--show", "a.jpg"], 2, "a.jpg should end in .png"),
        (["--show", "mine.png", "a.png"], 2, "mine.png is there already"),
        (["a.png", "--csv", "digits.csv"], 2, "digits.csv is there already"),
        (["a.png", "--show", "./a.png"], 2, "a.png cannot be both looked at and written"),
    ],
)
def test_mistakes(run, model, tmp_path, arguments, code, says):
    (tmp_path / "here").mkdir()
    Figure().savefig(tmp_path / "mine.png")  # a picture by Matplotlib, but not by predict.py
    (tmp_path / "digits.csv").write_text("label,1x1\n7,0\n")
    before = (tmp_path / "mine.png").read_bytes()
    got, _, err = run("predict", *arguments, *([] if "--model" in arguments else ["--model", model]))
    assert got == code and says in err and err.count("\n") == 1 and "Traceback" not in err
    assert (tmp_path / "mine.png").read_bytes() == before
    assert (tmp_path / "digits.csv").read_text() == "label,1x1\n7,0\n"


def test_the_default_model_is_the_shipped_one_from_anywhere(run, pictures):
    code, out, _ = run("predict", "mine")
    assert code == 0 and out.splitlines()[-1].endswith(f"({ROOT / 'models' / 'best.npz'})")


# --- the window -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pad(tmp_path):
    """The pad on a figure without a window. Its network finds the share of ink in each tenth of the image."""
    from drawing import Pad

    def predict(image):
        parts = np.array([part.sum() for part in np.array_split(image.astype(float).ravel(), 10)])
        return parts / max(parts.sum(), 1)

    figure = Figure((10, 4.6), layout="constrained")
    made = Pad(figure, predict, tmp_path)
    figure.canvas.draw()
    return made


def mouse(pad, name, axes, x, y, button=1):
    """What matplotlib sends when the mouse does something at (x, y) of an axes."""
    place = axes.transData.transform((x, y))
    event = MouseEvent(name, pad.figure.canvas, *place, button=button)
    pad.figure.canvas.callbacks.process(name, event)


def drag(pad, *points, button=1):
    mouse(pad, "button_press_event", pad.sheet, *points[0], button)
    for point in points[1:]:
        mouse(pad, "motion_notify_event", pad.sheet, *point, button)
    mouse(pad, "button_release_event", pad.sheet, *points[-1], button)


def click(pad, name):
    for kind in "button_press_event", "button_release_event":
        mouse(pad, kind, pad.buttons[name].ax, 0.5, 0.5)


def test_drawing_with_the_mouse(pad):
    assert pad.probabilities is None and (pad.paper == 255).all()
    drag(pad, (140, 40), (140, 240))
    ink = np.argwhere(pad.paper < 128)
    assert ink[:, 0].min() == pytest.approx(40 - 9, abs=1.5) and ink[:, 0].max() == pytest.approx(240 + 9, abs=1.5)
    assert ink[:, 1].min() == pytest.approx(140 - 9, abs=1.5) and ink[:, 1].max() == pytest.approx(140 + 9, abs=1.5)
    assert (pad.seen == picture.prepare(pad.paper)).all() and pad.probabilities.argmax() in range(10)
    assert len(pad.answer.patches) == 10 and (pad.small_image.get_array() == pad.seen).all()
    before = pad.paper.copy()
    mouse(pad, "motion_notify_event", pad.sheet, 20, 20)  # the pen is up
    drag(pad, (20, 20), (40, 40), button=3)  # another button
    mouse(pad, "button_press_event", pad.small, 5, 5)  # outside the paper
    mouse(pad, "motion_notify_event", pad.sheet, 30, 30)
    assert (pad.paper == before).all()


def test_a_stroke_ends_at_the_edge_and_goes_on_where_it_comes_back(pad):
    mouse(pad, "button_press_event", pad.sheet, 20, 140)
    mouse(pad, "motion_notify_event", pad.small, 5, 5)  # off the paper, the button still down
    mouse(pad, "motion_notify_event", pad.sheet, 140, 20)
    mouse(pad, "motion_notify_event", pad.sheet, 200, 20)
    assert pad.paper[140, 20] == pad.paper[20, 140] == pad.paper[20, 170] == 0
    assert pad.paper[60:100, 60:100].min() == 255, "no line from where it left to where it came back"


def test_a_dot_is_a_dot(pad):
    drag(pad, (100, 100))
    assert (pad.paper < 128).sum() == pytest.approx(np.pi * 9**2, rel=0.1)


def test_clear_and_save(pad, tmp_path):
    drag(pad, (100, 60), (200, 60), (150, 240))
    paper = pad.paper.copy()
    click(pad, "save")
    click(pad, "save")
    saved = sorted(path.name for path in tmp_path.glob("digit-*.png"))
    assert saved == ["digit-1.png", "digit-2.png"] and "digit-2.png" in pad.message.texts[0].get_text()
    assert (picture.read(tmp_path / "digit-1.png") == paper).all()
    click(pad, "clear")
    assert (
        (pad.paper == 255).all()
        and pad.probabilities is None
        and not any(bar.get_height() for bar in pad.answer.patches)
    )
    pad.folder = tmp_path / "digit-1.png"  # no folder at all
    click(pad, "save")
    assert "not saved" in pad.message.texts[0].get_text()
    KeyEvent("key_press_event", pad.figure.canvas, "x")._process()  # keys do nothing


def test_without_a_display_there_is_one_clear_line(model, tmp_path):
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key} | {"MPLBACKEND": "agg"}
    command = [sys.executable, ROOT / "predict.py", "--draw", "--model", model]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--draw needs a display" in done.stderr
