"""A sheet of paper on a darker table."""

import numpy as np
import pytest
from PIL import Image

from data import photo, segment, sheet

BOXES = [(60, 60 + 80 * i, 160, 80 + 80 * i) for i in range(4)]  # top, left, bottom, right on the sheet: digits 1


def on_table(table, boxes=BOXES, margin=80, texture=0, degrees=5, shape=(220, 420)):
    """A photo, uint8, of a sheet of this shape with strokes; the pixel values of the table vary by `texture`."""
    inner = np.full(shape, 220.0)
    for top, left, bottom, right in boxes:
        inner[top:bottom, left:right] = 60
    layers = [np.pad(layer, margin) for layer in (inner, np.ones(shape))]
    light, covered = (np.asarray(Image.fromarray(layer).rotate(degrees, Image.Resampling.BICUBIC)) for layer in layers)
    blocks = np.random.default_rng(0).normal(table, texture, [pixels // 20 + 1 for pixels in covered.shape])
    rough = np.kron(blocks, np.ones((20, 20)))[: covered.shape[0], : covered.shape[1]]
    return np.clip(light + rough * (1 - covered), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("margin", [20, 80, 160])
@pytest.mark.parametrize(("table", "texture"), [(30, 0), (70, 20), (120, 0)])
def test_digits_on_a_sheet_on_a_table(table, texture, margin):
    gray = on_table(table, texture=texture, margin=margin)
    found = segment.digits(gray)
    assert [digit.row for digit in found] == [1, 1, 1, 1]
    middles = [(digit.box[0] + digit.box[2]) / 2 * gray.shape[1] for digit in found]
    assert np.abs(np.subtract(middles, [margin + 70 + 80 * i for i in range(4)])).max() < 20


def test_one_digit_on_a_sheet_is_read_without_the_table():
    [found] = segment.digits(on_table(40, BOXES[1:2]))
    [alone] = segment.digits(on_table(220, BOXES[1:2]))  # a table of the colour of the paper
    assert np.abs(found.image.astype(int) - alone.image).mean() < 3


def test_the_table_becomes_paper():
    gray = on_table(40).astype(float)
    paper = sheet.cut_out(gray)
    assert paper.shape == gray.shape and (np.abs(paper - 220) < 20).mean() > 0.9  # the rest are the strokes


def shadow(strength, width):
    """A sheet that fills the photo, half of it in a shadow; its edge is `width` pixels wide."""
    ramp = np.clip((np.arange(400) - 120) / width + 0.5, 0, 1)
    return np.tile(220 * (1 - strength + strength * ramp), (300, 1))


@pytest.mark.parametrize(
    "gray",
    [
        np.full((300, 400), 200.0),
        on_table(40, []).astype(float),  # nothing is written on it
        on_table(220).astype(float) * np.pad(np.full((220, 420), 1.0), 80, constant_values=0.8),  # a light table
        shadow(0.3, 1) - 50 * (np.arange(400) % 300 == 250),  # a sharp edge, but light
        shadow(0.8, 200) - 50 * (np.arange(400) % 300 == 250),  # dark, but with a soft edge
    ],
    ids=["uniform", "blank", "light table", "light shadow", "soft shadow"],
)
def test_what_is_no_sheet_is_unchanged(gray):
    assert sheet.cut_out(gray) is gray


def test_mnist_images_are_no_sheets(digits):
    for image in digits[0][0][:50]:
        for gray in (image, 255 - image, image[photo.bounding_box(image > 60)]):
            large = photo.resize(gray, 10)
            assert sheet.cut_out(large) is large
