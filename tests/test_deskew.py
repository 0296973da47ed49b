"""nn/deskew.py: the slant of the ink, and the shear that removes it."""

import numpy as np
import pytest

from nn.deskew import CHUNK, deskewed

RNG = np.random.default_rng(0)


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
    corners = np.zeros((1, 28, 28), np.uint8)  # a slope of 27 pixels a row: most rows leave the image
    corners[0, 10, 0] = corners[0, 11, 27] = 255
    faint = np.zeros((1, 28, 28), np.uint8)
    faint[0, 10, 5] = faint[0, 12, 7] = 1
    for images in digits[0][0][:20], corners, corners[:, :, ::-1], faint, RNG.integers(0, 256, (40, 3, 5), np.uint8):
        result = deskewed(images)
        assert result.dtype == np.uint8 and result.shape == images.shape
        for image, mine in zip(images, result, strict=True):
            assert abs(deskewed_pixel_by_pixel(image) - mine).max() <= 0.501


def test_an_image_gets_the_same_result_in_any_batch():
    images = RNG.integers(0, 256, (2 * CHUNK + 5, 28, 28), np.uint8)
    for image, mine in zip(images, deskewed(images), strict=True):
        assert (deskewed(image[None])[0] == mine).all()


def test_only_images_have_rows():
    with pytest.raises(ValueError, match=r"deskewing takes images \(N, H, W\), not \(3, 784\)"):
        deskewed(np.zeros((3, 784), np.uint8))


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
