"""The drawing window: what the mouse draws is what the network gets."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent
from matplotlib.figure import Figure

from app.drawing import PEN_RADIUS, Pad
from data import photo

from .conftest import ROOT


@pytest.fixture
def pad(tmp_path):
    """A pad on a figure without a window. Its "probabilities" are the fractions of ink in ten parts of the image."""

    def predict(images):
        parts = np.array([[part.sum() for part in np.array_split(image.astype(float).ravel(), 10)] for image in images])
        return parts / parts.sum(axis=1, keepdims=True)

    figure = Figure((10, 4.6), layout="constrained")
    pad = Pad(figure, predict, tmp_path)
    figure.canvas.draw()
    return pad


def mouse(pad, name, axes, x, y, button=1):
    """Send the event of matplotlib for the mouse at (x, y) of an axes."""
    event = MouseEvent(name, pad.figure.canvas, *axes.transData.transform((x, y)), button=button)
    pad.figure.canvas.callbacks.process(name, event)


def drag(pad, *points, button=1):
    mouse(pad, "button_press_event", pad.canvas_axes, *points[0], button)
    for point in points[1:]:
        mouse(pad, "motion_notify_event", pad.canvas_axes, *point, button)
    mouse(pad, "button_release_event", pad.canvas_axes, *points[-1], button)


def click(pad, name):
    for kind in "button_press_event", "button_release_event":
        mouse(pad, kind, pad.buttons[name].ax, 0.5, 0.5)


def test_several_digits_are_read_as_a_number(pad):
    drag(pad, (60, 60), (60, 200))
    drag(pad, (200, 60), (140, 200))
    assert pad.input_axes.images[-1].get_array().shape == (28, 56) and len(pad.bar_axes.patches) == 2


def test_drawing_with_the_mouse(pad):
    assert not any(bar.get_height() for bar in pad.bar_axes.patches) and (pad.canvas == 255).all()
    drag(pad, (140, 40), (140, 240))
    ink = np.argwhere(pad.canvas < 128)
    assert list(ink.min(axis=0)) == pytest.approx([40 - PEN_RADIUS, 140 - PEN_RADIUS], abs=1.5)
    assert list(ink.max(axis=0)) == pytest.approx([240 + PEN_RADIUS, 140 + PEN_RADIUS], abs=1.5)
    shown = pad.input_axes.images[-1].get_array()
    assert len(pad.bar_axes.patches) == 10 and (shown == photo.prepare(pad.canvas)).all()
    before = pad.canvas.copy()
    mouse(pad, "motion_notify_event", pad.canvas_axes, 20, 20)  # the pen is up
    drag(pad, (20, 20), (40, 40), button=3)  # another button
    mouse(pad, "button_press_event", pad.input_axes, 5, 5)  # outside the canvas
    mouse(pad, "motion_notify_event", pad.canvas_axes, 30, 30)
    assert (pad.canvas == before).all()


def test_a_stroke_pauses_outside_the_canvas(pad):
    mouse(pad, "button_press_event", pad.canvas_axes, 20, 140)
    mouse(pad, "motion_notify_event", pad.input_axes, 5, 5)  # off the canvas, with the button still pressed
    mouse(pad, "motion_notify_event", pad.canvas_axes, 140, 20)
    mouse(pad, "motion_notify_event", pad.canvas_axes, 200, 20)
    assert pad.canvas[140, 20] == pad.canvas[20, 140] == pad.canvas[20, 170] == 0
    assert pad.canvas[60:100, 60:100].min() == 255, "no line from where it left to where it came back"


def test_a_dot_is_a_dot(pad):
    drag(pad, (100, 100))
    assert (pad.canvas < 128).sum() == pytest.approx(np.pi * PEN_RADIUS**2, rel=0.1)


def test_clear_and_save(pad, tmp_path):
    drag(pad, (100, 60), (200, 60), (150, 240))
    drawing = pad.canvas.copy()
    click(pad, "save")
    click(pad, "save")
    saved = sorted(path.name for path in tmp_path.glob("digit-*.png"))
    assert saved == ["digit-1.png", "digit-2.png"] and "digit-2.png" in pad.message.get_text()
    assert (photo.read(tmp_path / "digit-1.png") == drawing).all()
    click(pad, "clear")
    assert (pad.canvas == 255).all() and pad.message.get_text() == ""
    assert not any(bar.get_height() for bar in pad.bar_axes.patches) and pad.bar_axes.get_title() == ""
    pad.folder = tmp_path / "digit-1.png"  # not a folder
    click(pad, "save")
    assert "not saved" in pad.message.get_text()
    KeyEvent("key_press_event", pad.figure.canvas, "x")._process()  # keys do nothing


@pytest.mark.slow
def test_without_a_display(tmp_path):
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key} | {"MPLBACKEND": "agg"}
    command = [sys.executable, ROOT / "predict.py", "--draw"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--draw needs a display" in done.stderr
