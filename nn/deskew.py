"""Deskewing: a sheared copy of an image whose strokes stand upright (LeCun et al. 1998, section III.A)."""

import numpy as np

CHUNK = 100  # images at a time: the working arrays stay in the cache


def deskewed(images: np.ndarray) -> np.ndarray:
    """Images without slant, uint8 (N, H, W) -> uint8 (N, H, W): row y is shifted to the left by k (y - y0) pixels.

        I'(x, y) = I(x + k (y - y0), y)     between two pixels by linear interpolation, outside of the image 0
        k = sum I (x - x0) (y - y0) / sum I (y - y0)^2     the slope of the line x(y) that fits the ink best

    I: the pixel values; (x0, y0): their centre of gravity, which stays. The sums are exact, so an image gets the same
    result in any batch.
    """
    if len(images.shape) != 3:
        raise ValueError(f"deskewing takes images (N, H, W), not {images.shape}")
    result = np.empty(images.shape, np.uint8)
    _, height, width = images.shape
    y, x = np.indices((height, width)).reshape(2, -1)
    basis = np.stack([np.ones_like(x), x, y, x * y, y * y], axis=1).astype(np.float64)
    for start in range(0, len(images), CHUNK):
        chunk = np.asarray(images[start : start + CHUNK])  # of a file, too
        n = len(chunk)
        ink, *moments = (chunk.reshape(n, -1).astype(np.float64) @ basis).T
        x0, y0, xy, yy = moments / np.maximum(ink, 1)
        variance = yy - y0**2
        k = np.divide(xy - x0 * y0, variance, out=np.zeros(n), where=variance > 1e-6)
        shift = np.clip(k[:, None] * (np.arange(height) - y0[:, None]), -width, width)
        whole = np.floor(shift).astype(np.intp)
        fraction = (shift - whole).astype(np.float32)[:, :, None]
        padded = np.zeros((n, height, 3 * width + 1), np.float32)
        padded[:, :, width : 2 * width] = chunk
        columns = width + whole[:, :, None] + np.arange(width + 1)
        neighbours = np.take_along_axis(padded, columns, axis=2)
        left, right = neighbours[:, :, :-1], neighbours[:, :, 1:]
        result[start : start + CHUNK] = left + fraction * (right - left) + 0.5  # the conversion rounds down
    return result
