"""Distorted digits: the identity, the same seed, and each strength against its definition."""

import numpy as np
import pytest

from data.augment import CHUNK, Distortion, elastic_basis


@pytest.fixture(scope="module")
def images(digits):
    return digits[0][0][: CHUNK + 10]


def dot(row, column):
    """A picture with a bright spot of 3 x 3 pixels."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, row - 1 : row + 2, column - 1 : column + 2] = 255
    return image


def centre(image):
    y, x = np.indices(image.shape)
    return (y * image).sum() / image.sum() - 13.5, (x * image).sum() / image.sum() - 13.5


def test_no_strength_is_the_identity(images):
    assert (Distortion()(images, np.random.default_rng(0)) == images).all()


def test_the_same_seed_the_same_digits(images):
    some = Distortion(10, 0.1, 0.1, 1, 1)
    before = images.copy()
    first, again, other = (some(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any() and (images == before).all()
    assert first.dtype == np.uint8 and first.shape == images.shape and len(np.unique(first[:2], axis=0)) == 2


def test_annealed_strengths_weaken_in_the_second_half(images):
    full, half = Distortion(10, 0.1, 0.1, 1, 2, anneal=0.5), Distortion(5, 0.05, 0.05, 0.5, 1)
    none = Distortion(10, 0.1, 0.1, 1, 2, anneal=0)

    def made(distortion, *progress):
        return distortion(images, np.random.default_rng(1), *progress)

    assert (made(full, 0.5) == made(full)).all() and (made(full, 1) == made(half)).all()
    assert (made(none, 0.75) == made(half)).all() and (made(none, 1) == images).all()
    assert (made(half, 1) == made(half)).all(), "unless it says so they stay"


def many(strength, image, count=400):
    return Distortion(**strength)(np.repeat(image, count, axis=0), np.random.default_rng(3))


def test_shift():
    at = np.array([centre(image) for image in many({"shift": 3}, dot(14, 14))])
    assert abs(at - centre(dot(14, 14)[0])).max() < 3.01
    assert at.std(axis=0) == pytest.approx([3 / np.sqrt(3)] * 2, rel=0.1) and abs(at.mean(axis=0) - 0.5).max() < 0.25


def test_rotate():
    at = np.array([centre(image) for image in many({"rotate": 30}, dot(5, 14))])
    angle = np.rad2deg(np.arctan2(at[:, 1], -at[:, 0])) - np.rad2deg(np.arctan2(0.5, 8.5))
    assert np.hypot(*at.T) == pytest.approx(np.hypot(0.5, 8.5), abs=0.1), "the distance from the middle stays"
    assert abs(angle).max() < 30.5 and angle.std() == pytest.approx(30 / np.sqrt(3), rel=0.1)


def test_scale():
    at = np.array([centre(image) for image in many({"scale": 0.3}, dot(6, 20))])
    for length, start in (at[:, 0], -7.5), (at[:, 1], 6.5):
        factor = np.log(length / start)
        assert abs(factor).max() < 0.31 and factor.std() == pytest.approx(0.3 / np.sqrt(3), rel=0.15)
    assert abs(np.corrcoef(at[:, 0], at[:, 1])[0, 1]) < 0.2, "width and height are independent"


def test_shear():
    at = np.array([centre(image) for image in many({"shear": 0.5}, dot(6, 14))])
    assert at[:, 0] == pytest.approx(np.full(len(at), -7.5), abs=0.05), "rows stay"
    sideways = at[:, 1] - 0.5
    assert abs(sideways).max() < 0.5 * 7.5 + 0.05 and sideways.std() == pytest.approx(3.75 / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("smooth", [4, 6.5])
def test_elastic(smooth):
    basis = elastic_basis(smooth)
    assert (basis**2).sum(axis=0) == pytest.approx(np.ones(784)), "a deviation of 1 in every pixel"
    field = basis.T @ np.random.default_rng(0).standard_normal((len(basis), 2000))
    for distance in (2, 6):  # white noise smoothed by a Gaussian of that width has this correlation
        a, b = field[13 * 28 + 8], field[13 * 28 + 8 + distance]
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(np.exp(-(distance**2) / (4 * smooth**2)), abs=0.05)
    at = np.array([centre(image) for image in many({"elastic": 1.5, "smooth": smooth}, dot(14, 14), 1000)])
    assert at.std(axis=0) == pytest.approx([1.5, 1.5], rel=0.1)


def test_scale_stretches_what_is_sheared():
    """The map is: shear, then scale. So the shear that is left when the scale is divided out keeps its own limit."""
    factors = Distortion(scale=0.5, shear=0.4)._draw(2000, 3, np.random.default_rng(0), 1.0)
    shear = factors[0, :, -2] / factors[0, :, -3]
    assert abs(shear).max() < 0.4001 and shear.std() == pytest.approx(0.4 / np.sqrt(3), rel=0.05)
