"""data/augment.py: each augmentation parameter against its definition."""

import numpy as np
import pytest

from data.augment import CHUNK, Distortion, elastic_basis


@pytest.fixture(scope="module")
def images(digits):
    return digits[0][0][: CHUNK + 10]


def dot(row, column):
    """An image with a bright spot of 3 x 3 pixels."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, row - 1 : row + 2, column - 1 : column + 2] = 255
    return image


def centre(image):
    y, x = np.indices(image.shape)
    return (y * image).sum() / image.sum() - 13.5, (x * image).sum() / image.sum() - 13.5


def test_the_defaults_are_the_identity(images):
    assert (Distortion()(images, np.random.default_rng(0)) == images).all()


def test_the_same_seed_gives_the_same_images(images):
    distortion = Distortion(10, 0.1, 0.1, 1, 1)
    before = images.copy()
    first, again, other = (distortion(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any() and (images == before).all()
    assert first.dtype == np.uint8 and first.shape == images.shape and len(np.unique(first[:2], axis=0)) == 2


def test_annealed_parameters_decrease_in_the_second_half(images):
    full, half = Distortion(10, 0.1, 0.1, 1, 2, anneal=0.5), Distortion(5, 0.05, 0.05, 0.5, 1)
    none = Distortion(10, 0.1, 0.1, 1, 2, anneal=0)

    def augmented(distortion, *progress):
        return distortion(images, np.random.default_rng(1), *progress)

    assert (augmented(full, 0.5) == augmented(full)).all() and (augmented(full, 1) == augmented(half)).all()
    assert (augmented(none, 0.75) == augmented(half)).all() and (augmented(none, 1) == images).all()
    assert (augmented(half, 1) == augmented(half)).all(), "constant by default"


def many(parameters, image, count=400):
    return Distortion(**parameters)(np.repeat(image, count, axis=0), np.random.default_rng(3))


def test_shift():
    at = np.array([centre(image) for image in many({"shift": 3}, dot(14, 14))])
    assert abs(at - centre(dot(14, 14)[0])).max() < 3.01
    assert at.std(axis=0) == pytest.approx([3 / np.sqrt(3)] * 2, rel=0.1) and abs(at.mean(axis=0) - 0.5).max() < 0.25


def test_rotate():
    at = np.array([centre(image) for image in many({"rotate": 30}, dot(5, 14))])
    angle = np.rad2deg(np.arctan2(at[:, 1], -at[:, 0])) - np.rad2deg(np.arctan2(0.5, 8.5))
    assert np.hypot(*at.T) == pytest.approx(np.hypot(0.5, 8.5), abs=0.1), "the distance from the centre does not change"
    assert abs(angle).max() < 30.5 and angle.std() == pytest.approx(30 / np.sqrt(3), rel=0.1)


def test_scale():
    at = np.array([centre(image) for image in many({"scale": 0.3}, dot(6, 20))])
    for length, start in (at[:, 0], -7.5), (at[:, 1], 6.5):
        factor = np.log(length / start)
        assert abs(factor).max() < 0.31 and factor.std() == pytest.approx(0.3 / np.sqrt(3), rel=0.15)
    assert abs(np.corrcoef(at[:, 0], at[:, 1])[0, 1]) < 0.2, "width and height are independent"


def test_shear():
    at = np.array([centre(image) for image in many({"shear": 0.5}, dot(6, 14))])
    assert at[:, 0] == pytest.approx(np.full(len(at), -7.5), abs=0.05), "rows do not change"
    sideways = at[:, 1] - 0.5
    assert abs(sideways).max() < 0.5 * 7.5 + 0.05 and sideways.std() == pytest.approx(3.75 / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("smooth", [4, 6.5])
def test_elastic(smooth):
    basis = elastic_basis(smooth)
    assert (basis**2).sum(axis=0) == pytest.approx(np.ones(784)), "a std of 1 in every pixel"
    field = basis.T @ np.random.default_rng(0).standard_normal((len(basis), 2000))
    for distance in (2, 6):  # the correlation of white noise that a Gaussian has smoothed
        a, b = field[13 * 28 + 8], field[13 * 28 + 8 + distance]
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(np.exp(-(distance**2) / (4 * smooth**2)), abs=0.05)
    at = np.array([centre(image) for image in many({"elastic": 1.5, "smooth": smooth}, dot(14, 14), 1000)])
    assert at.std(axis=0) == pytest.approx([1.5, 1.5], rel=0.1)


@pytest.mark.parametrize("smooth", [3, 4, 6.5])
def test_elastic_correlations_are_those_of_smoothed_noise(smooth):
    """exp(-distance^2 / (4 smooth^2)), less exactly at the last pixels, where a knot may be missing."""
    correlation = (elastic_basis(smooth).T @ elastic_basis(smooth)).reshape(28, 28, 28, 28)
    y, x = np.indices((28, 28))
    for row, column in (13, 14), (9, 17), (0, 14), (14, 0), (0, 0), (27, 27):
        expected = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (4 * smooth**2))
        assert correlation[row, column] == pytest.approx(expected, abs=0.06 if row == 27 else 0.015)
    assert len(elastic_basis(4)) == 9**2, "as many random numbers as ever: the results of a seed depend on it"


def test_scale_stretches_what_is_sheared():
    """The map is: shear, then scale. So the shear is within its own limit after division by the scale."""
    factors = Distortion(scale=0.5, shear=0.4)._sample_factors(2000, 3, np.random.default_rng(0), 1.0)
    shear = factors[0, :, -2] / factors[0, :, -3]
    assert abs(shear).max() < 0.4001 and shear.std() == pytest.approx(0.4 / np.sqrt(3), rel=0.05)


def test_the_affine_map_is_the_documented_one():
    """With the signs and the order of the random numbers, on which the results of earlier trainings depend."""
    factors = Distortion(30, 0.2, 0.3, 2)._sample_factors(50, 4, np.random.default_rng(8), 0.5)
    rng = np.random.default_rng(8)
    rng.standard_normal((2, 50, 1), dtype=np.float32)  # for the elastic displacement
    angle = np.deg2rad(15) * rng.uniform(-1, 1, 50)
    width, height = np.exp(0.1 * rng.uniform(-1, 1, (2, 50)))
    shear, shift = 0.15 * rng.uniform(-1, 1, 50), 1.0 * rng.uniform(-1, 1, (2, 50))
    x = [width * np.cos(angle), width * (np.sin(angle) + shear), shift[0] + 14.5]
    y = [-height * np.sin(angle), height * np.cos(angle), shift[1] + 14.5]
    assert np.allclose(factors[..., 1:].transpose(0, 2, 1), [x, y], atol=1e-6)


def test_pixels_are_interpolated_and_rounded(images):
    """Against bilinear interpolation, pixel by pixel, in float64."""
    distortion, images = Distortion(20, 0.2, 0.2, 2, 1), images[:3]
    axis = np.arange(28) - 13.5
    basis = [*elastic_basis(4), np.tile(axis, 28), np.repeat(axis, 28), np.ones(784)]
    coords = distortion._sample_factors(3, len(basis), np.random.default_rng(2), 1.0) @ np.array(basis)
    for image, x, y, result in zip(images, *coords, distortion(images, np.random.default_rng(2)), strict=True):
        padded = np.pad(image, 20).astype(float)  # 20 - 1 pixels more than in the coordinates
        for column, row, pixel in zip(x + 19, y + 19, result.ravel(), strict=True):
            i, j = int(row), int(column)
            weights = np.outer([i + 1 - row, row - i], [j + 1 - column, column - j])
            assert abs(pixel - (padded[i : i + 2, j : j + 2] * weights).sum()) < 0.51
