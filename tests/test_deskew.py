"""nn/deskew.py: the slant of the ink, and the shear that removes it."""

import numpy as np
import pytest

from nn.deskew import CHUNK, deskewed


def stroke(slant, height=20, width=28):
    """An image of one stroke, 3 pixels wide, that leans by `slant` pixels a row."""
    image = np.zeros((1, height, width), np.uint8)
    for y in range(3, height - 3):
        start = round(width / 2 + slant * (y - height / 2))
        image[0, y, start : start + 3] = 255
    return image


def covariance(image):
    """Of the x and the y of its ink, pixels."""
    y, x = np.indices(image.shape)
    weights = image / image.sum()
    return (weights * (x - (weights * x).sum()) * (y - (weights * y).sum())).sum()


def deskewed_pixel_by_pixel(image):
    """The formula, with loops."""
    height, width = image.shape
    ink = {(x, y): float(image[y, x]) for y in range(height) for x in range(width)}
    total = sum(ink.values())
    x0, y0 = (sum(at[axis] * value for at, value in ink.items()) / total for axis in (0, 1))
    slope = sum(value * (x - x0) * (y - y0) for (x, y), value in ink.items())
    slope /= sum(value * (y - y0) ** 2 for (x, y), value in ink.items())
    result = np.zeros((height, width))
    for x, y in ink:
        source = x + slope * (y - y0)
        left = int(np.floor(source))
        pair = ink.get((left, y), 0), ink.get((left + 1, y), 0)
        result[y, x] = pair[0] + (source - left) * (pair[1] - pair[0])
    return result


def test_it_is_the_formula(digits):
    images = digits[0][0][: CHUNK + 5]
    result = deskewed(images)
    assert result.dtype == np.uint8 and result.shape == images.shape
    for image, mine in zip(images[:20], result[:20], strict=True):
        assert abs(deskewed_pixel_by_pixel(image) - mine).max() <= 0.501
    for i in 0, CHUNK - 1, CHUNK + 4:  # an image gets the same result in any batch
        assert (deskewed(images[i : i + 1]) == result[i]).all()


@pytest.mark.parametrize("slant", [-0.9, -0.3, 0.5])
def test_a_leaning_stroke_stands_upright(slant):
    image = stroke(slant)
    result = deskewed(image)
    assert abs(covariance(image[0])) > 5 and abs(covariance(result[0])) < 0.3
    assert np.ptp(np.nonzero(result[0].sum(axis=0) > 255)[0]) <= 4 < 5 < np.ptp(np.nonzero(image[0].any(axis=0))[0])
    assert result.sum(axis=2) == pytest.approx(image.sum(axis=2, dtype=int), abs=6), "the ink of each row stays"


def test_what_has_no_slant_stays():
    images = np.concatenate([stroke(0), np.zeros_like(stroke(0)), np.full_like(stroke(0), 255)])
    line = np.zeros_like(stroke(0))
    line[0, 5, 4:20] = 200  # one row: its slant is not defined
    images = np.concatenate([images, line])
    before = images.copy()
    assert (deskewed(images) == before).all() and (images == before).all()
    assert deskewed(images[:0]).shape == (0, 20, 28)
