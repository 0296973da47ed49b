"""New digits from old: each image seen through a random affine map and a smooth random warp.

Simard, Steinkraus & Platt 2003 (elastic distortion), Ciresan et al. 2010 (affine and elastic, anew for every epoch).
"""

from dataclasses import dataclass

import numpy as np

CHUNK = 128  # images at a time: their working arrays stay in the cache


def elastic_basis(smooth: float) -> np.ndarray:
    """(knots, 784): what each knot of a coarse grid of random numbers contributes to each pixel's displacement.

    White noise on every pixel, smoothed by a Gaussian of width `smooth`, is as good as white noise on a grid that
    coarse with a Gaussian bump on every knot, and it is one matrix product. The bumps' squares add up to 1 in every
    pixel, so numbers of deviation 1 make displacements of deviation 1.
    """
    knots = np.arange(-smooth, 28 + smooth, smooth)
    bumps = np.exp(-((np.arange(28)[:, None] - knots) ** 2) / (2 * smooth**2))
    bumps /= np.sqrt((bumps**2).sum(axis=1, keepdims=True))
    return np.einsum("yk,xl->klyx", bumps, bumps).reshape(-1, 784)


@dataclass(frozen=True)
class Distortion:
    """How strongly to distort. All zero: not at all.

    rotate: up to so many degrees either way; scale: width and height, each by a factor of up to exp(+-scale); shear: up
    to so many pixels sideways for each pixel up; shift: up to so many pixels, in x and in y (all evenly distributed);
    elastic: standard deviation of the smooth displacement of each pixel, in pixels (Simard's alpha of 34 makes 1.4);
    smooth: that of the Gaussian it is smoothed with, in pixels (Simard: 4; Ciresan: 5 to 6).
    anneal: what share of all these (but `smooth`) is left at the end of a training, in whose second half they weaken.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    smooth: float = 4.0
    anneal: float = 1.0

    def __call__(self, images: np.ndarray, rng: np.random.Generator, progress: float = 0.0) -> np.ndarray:
        """A variant of each image, uint8 (N, 28, 28) -> uint8 (N, 28, 28). The same `rng`, the same variants.

        progress: how far the training has come, from 0 to 1.
        """
        result = np.empty_like(images)
        share = 1 - (1 - self.anneal) * max(0.0, 2 * progress - 1)
        # A pixel's place in the old image is linear in random numbers: those of the knots, and the affine map's.
        centre = np.arange(28) - 13.5
        basis = [*elastic_basis(self.smooth), np.tile(centre, 28), np.repeat(centre, 28), np.ones(784)]
        basis = np.array(basis, np.float32)
        padded = np.zeros((CHUNK, 30, 30), np.float32)  # with a margin of 0, so that every place has four neighbours
        # working arrays, made once: with fresh ones for every chunk it takes half as long again
        places, greys = np.empty((2, CHUNK, 784), np.float32), np.empty((4, CHUNK, 784), np.float32)
        corner = np.empty((CHUNK, 784), np.intp)
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            n = len(part)
            padded[:n, 1:29, 1:29] = part
            np.matmul(self._draw(n, len(basis), rng, share), basis, out=places[:, :n])
            grey = _sample(padded, places[:, :n], corner[:n], greys[:, :n])
            grey += 0.5
            result[start : start + CHUNK].reshape(-1, 784)[:] = grey  # rounded, now that a half is added
        return result

    def _draw(self, n: int, size: int, rng: np.random.Generator, share: float) -> np.ndarray:
        """The factors of the basis for x and y of n images: (2, n, size); those of the affine map are the last 3.

        share: of the strengths.
        """
        factors = np.empty((2, n, size), np.float32)
        factors[..., :-3] = rng.standard_normal((2, n, size - 3), dtype=np.float32)
        factors[..., :-3] *= share * self.elastic
        angle = np.deg2rad(share * self.rotate) * rng.uniform(-1, 1, n)
        wide, high = np.exp(share * self.scale * rng.uniform(-1, 1, (2, n)))
        shear = share * self.shear * rng.uniform(-1, 1, n)
        cos, sin = np.cos(angle), np.sin(angle)
        factors[0, :, -3], factors[0, :, -2] = wide * cos, wide * (sin + shear)
        factors[1, :, -3], factors[1, :, -2] = -high * sin, high * cos
        factors[..., -1] = share * self.shift * rng.uniform(-1, 1, (2, n)) + 14.5  # the middle of the padded image
        return factors


def _sample(padded: np.ndarray, places: np.ndarray, corner: np.ndarray, greys: np.ndarray) -> np.ndarray:
    """The grey values at the places (x, y), (2, n, 784), of padded images (n, 30, 30), by bilinear interpolation.

    Works in its arguments: `corner`, whole numbers (n, 784), and `greys` (4, n, 784), of which the first is returned.
    """
    np.clip(places, 0, 28.999, out=places)
    left, top = np.floor(places, out=greys[:2])
    places -= greys[:2]
    top *= 30
    top += left
    top += 900 * np.arange(len(top), dtype=np.float32)[:, None]
    np.copyto(corner, top, casting="unsafe")  # where the upper left of the four neighbours is in memory
    flat = padded.reshape(-1)
    for i, grey in zip((0, 1, 30, 31), greys, strict=True):
        flat[i:].take(corner, mode="clip", out=grey)
    upper, upper_right, lower, lower_right = greys
    x, y = places
    for a, b, share in (upper, upper_right, x), (lower, lower_right, x), (upper, lower, y):
        b -= a
        b *= share
        a += b  # a + share * (b - a)
    return upper
