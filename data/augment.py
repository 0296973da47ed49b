"""Augmentation: a random affine map and a random smooth displacement (elastic distortion) of each image.

Simard, Steinkraus & Platt 2003 (elastic distortion); Ciresan et al. 2010 (affine and elastic, new for each epoch).
"""

from dataclasses import dataclass

import numpy as np

CHUNK = 128  # images at a time: the working arrays stay in the cache


def elastic_basis(smooth: float) -> np.ndarray:
    """B, (knots, 784), for displacements z B of all pixels: z are random numbers of std 1, one for each knot.

    B[k, p] = exp(-|p - k|^2 / (2 smooth^2)) / norm(p), with norm(p) such that the displacements have std 1 as well.

    The knots k are a grid over the image with spacing `smooth`. The displacements have nearly the same correlation as
    white noise on all pixels that a Gaussian of std `smooth` smooths, exp(-distance^2 / (4 smooth^2)), for less work.
    """
    knots = np.arange(-smooth, 28 + smooth, smooth)
    bumps = np.exp(-((np.arange(28)[:, None] - knots) ** 2) / (2 * smooth**2))
    bumps /= np.sqrt((bumps**2).sum(axis=1, keepdims=True))
    return np.einsum("yk,xl->klyx", bumps, bumps).reshape(-1, 784)


@dataclass(frozen=True)
class Distortion:
    """Augmentation with these parameters; the defaults do not change the images.

    The pixel (x, y), measured from the centre of the image, gets the intensity of the input image at

        x' = width * ( cos(angle) * x + (sin(angle) + shear) * y) + shift_x + elastic_x
        y' = height * (-sin(angle) * x + cos(angle) * y)          + shift_y + elastic_y

    rotate: largest angle, degrees; scale: largest log(width) and log(height), where a width above 1 makes the digit
    narrower; shear: its largest value; shift: the largest shift in x and in y, pixels; all are uniformly distributed
    from minus to plus this value. elastic: std of the displacement of each pixel, pixels (Simard's alpha of 34 gives
    1.4); smooth: std of the Gaussian that smooths it, pixels (Simard: 4; Ciresan: 5 to 6). anneal: fraction of the
    parameters (except `smooth`) that is left at the end of training; they decrease linearly in its second half.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    smooth: float = 4.0
    anneal: float = 1.0

    def __call__(self, images: np.ndarray, rng: np.random.Generator, t: float = 0.0) -> np.ndarray:
        """The augmented images, uint8 (N, 28, 28) -> uint8 (N, 28, 28); the same for the same state of `rng`.

        t: progress of the training, from 0 to 1, for `anneal`.
        """
        result = np.empty_like(images)
        fraction = 1 - (1 - self.anneal) * max(0.0, 2 * t - 1)
        # the coordinates are linear in the factors, so one matrix product computes them
        axis = np.arange(28) - 13.5
        basis = [*elastic_basis(self.smooth), np.tile(axis, 28), np.repeat(axis, 28), np.ones(784)]  # ..., x, y, 1
        basis = np.array(basis, np.float32)
        padded = np.zeros((CHUNK, 30, 30), np.float32)  # a border of 0, so that all coordinates have four neighbours
        # buffers, allocated once: new ones for each chunk take 50 % longer
        coords, corners = np.empty((2, CHUNK, 784), np.float32), np.empty((4, CHUNK, 784), np.float32)
        top_left = np.empty((CHUNK, 784), np.intp)
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            n = len(chunk)
            padded[:n, 1:29, 1:29] = chunk
            np.matmul(self._sample_factors(n, len(basis), rng, fraction), basis, out=coords[:, :n])
            pixels = _bilinear_sample(padded, coords[:, :n], top_left[:n], corners[:, :n])
            pixels += 0.5  # the conversion to integers rounds down
            result[start : start + CHUNK].reshape(-1, 784)[:] = pixels
        return result

    def _sample_factors(self, n: int, size: int, rng: np.random.Generator, fraction: float) -> np.ndarray:
        """Random factors of the basis for x' and y' of n images, (2, n, size); the last 3 are the affine map.

        fraction: of the parameters, see `anneal`.
        """
        factors = np.empty((2, n, size), np.float32)
        factors[..., :-3] = rng.standard_normal((2, n, size - 3), dtype=np.float32)
        factors[..., :-3] *= fraction * self.elastic
        angle = np.deg2rad(fraction * self.rotate) * rng.uniform(-1, 1, n)
        width, height = np.exp(fraction * self.scale * rng.uniform(-1, 1, (2, n)))
        shear = fraction * self.shear * rng.uniform(-1, 1, n)
        cos, sin = np.cos(angle), np.sin(angle)
        factors[0, :, -3], factors[0, :, -2] = width * cos, width * (sin + shear)
        factors[1, :, -3], factors[1, :, -2] = -height * sin, height * cos
        factors[..., -1] = fraction * self.shift * rng.uniform(-1, 1, (2, n)) + 14.5  # the centre of the padded image
        return factors


def _bilinear_sample(padded: np.ndarray, coords: np.ndarray, top_left: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of images (n, 30, 30) at the coordinates (x, y), (2, n, 784): pixel values (n, 784).

    Overwrites `coords` and the buffers `top_left`, integers (n, 784), and `corners` (4, n, 784), and returns a view of
    `corners`.
    """
    np.clip(coords, 0, 28.999, out=coords)
    left, top = np.floor(coords, out=corners[:2])
    coords -= corners[:2]
    top *= 30
    top += left
    top += 900 * np.arange(len(top), dtype=np.float32)[:, None]
    np.copyto(top_left, top, casting="unsafe")  # index of the first of the four neighbours in memory
    flat = padded.reshape(-1)
    for offset, corner in zip((0, 1, 30, 31), corners, strict=True):
        flat[offset:].take(top_left, mode="clip", out=corner)
    upper, upper_right, lower, lower_right = corners
    x, y = coords
    for a, b, weight in (upper, upper_right, x), (lower, lower_right, x), (upper, lower, y):
        b -= a
        b *= weight
        a += b  # a + weight * (b - a)
    return upper
