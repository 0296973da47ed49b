"""Layers for pictures: convolution, max-pooling, and the step from pictures to vectors.

A batch of N pictures with C channels of H x W is an array of shape (H, C, W, N): rows first, batch last. Why: unrolled
along its width, a copy k times as large, each row of the picture is a matrix (C * k, wide * N), where `wide` is the
width of the output, and the k rows that a row of the output looks at lie behind each other in memory. Unless they are
dilated, they are one matrix already, (k * C * k, wide * N), and a row of the output is one product with the weights.
The usual unrolling copies k * k times. An image (28, 28) is (28, 1, 28), byte for byte.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from layers import INITS, Layer, known, whole


class Conv2D(Layer):
    """Each filter f looks at each place (h, w), k x k pixels of every channel, `dilation` apart:

        y[h, f, w] = b[f] + sum over i, c, j of W[f, i, c, j] x[h s + i d - p, c, w s + j d - p]

    with stride s, dilation d, padding p (zeros around the picture). W: (filters, k, channels, k), b: (filters,).
    dW and dx are the same sum, read for W and for x. LeCun et al. 1998; dilation: Yu & Koltun 2016.
    """

    decayed = ("W",)
    pictures = True

    def __init__(
        self, filters: int, size: int, stride: int = 1, padding: int = 0, dilation: int = 1, init: str = "he"
    ) -> None:
        super().__init__()
        whole(1, 1000, filters=filters, size=size, stride=stride, dilation=dilation)
        whole(0, 1000, padding=padding)
        known(INITS, init=init)
        self.filters, self.size, self.stride, self.padding, self.dilation = filters, size, stride, padding, dilation
        self.init = init

    def config(self) -> dict:
        names = ("filters", "size", "stride", "padding", "dilation", "init")
        return {name: getattr(self, name) for name in names}

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 3:
            raise ValueError(f"takes pictures, not inputs of shape {shape}")
        rows, channels, columns = shape
        extent = self.dilation * (self.size - 1) + 1
        out = [(pixels + 2 * self.padding - extent) // self.stride + 1 for pixels in (rows, columns)]
        if min(out) < 1:
            raise ValueError(f"covers {extent} x {extent} pixels, but its input has {rows} x {columns}")
        self.shapes = {"W": (self.filters, self.size, channels, self.size), "b": (self.filters,)}
        return (out[0], self.filters, out[1])

    def initialise(self, rng: np.random.Generator) -> None:
        area = self.size * self.size
        fan_in, fan_out = area * self.shapes["W"][2], area * self.filters
        self.params["W"][:] = rng.standard_normal(self.shapes["W"]) * INITS[self.init](fan_in, fan_out)
        self.params["b"][:] = 0

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        rows, channels, columns, n = self.shape = x.shape
        k, s, d, p = self.size, self.stride, self.dilation, self.padding
        if p:
            x, inner = self._zeros("padded", (rows + 2 * p, channels, columns + 2 * p, n), x.dtype), x
            x[p:-p, :, p:-p] = inner
        wide = (x.shape[2] - d * (k - 1) - 1) // s + 1  # columns of the output
        unrolled = self.buffer("unrolled", (x.shape[0], channels, k, wide, n), x.dtype)
        for j in range(k):
            unrolled[:, :, j] = x[:, :, j * d : j * d + s * (wide - 1) + 1 : s]
        self.windows = self._windows(unrolled.reshape(x.shape[0], channels * k, wide * n), s, "windows")
        y = self.buffer("y", (len(self.windows), self.filters, wide * n), x.dtype)
        np.matmul(self.params["W"].reshape(self.filters, -1), self.windows, out=y)
        y += self.params["b"][:, None]
        return y.reshape(len(y), self.filters, wide, n)

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        high, _, wide, n = dy.shape
        dy = dy.reshape(high, self.filters, wide * n)
        each = self.buffer("dW of each row", (high, *self.params["W"].reshape(self.filters, -1).shape), dy.dtype)
        np.matmul(dy, self.windows.transpose(0, 2, 1), out=each)
        np.add.reduce(each, axis=0, out=self.grads["W"].reshape(self.filters, -1))
        np.add.reduce(np.add.reduce(dy, axis=2), axis=0, out=self.grads["b"])
        return self._input_gradient(dy, wide, n) if need_dx else None

    def _input_gradient(self, dy: np.ndarray, wide: int, n: int) -> np.ndarray:
        """dL/dx: each row of the unrolled input was seen by up to k rows of the output, so it is one product again."""
        rows, channels, columns, _ = self.shape
        k, s, d, p = self.size, self.stride, self.dilation, self.padding
        margin, high = d * (k - 1), rows + 2 * p
        spread = self._zeros("spread", (high + margin, self.filters, wide * n), dy.dtype)
        spread[margin : margin + s * (len(dy) - 1) + 1 : s] = dy
        # (filters, k, channels, k) -> (channels, k of columns, k of rows backwards, filters)
        kernel = self.params["W"][:, ::-1].transpose(2, 3, 1, 0).reshape(channels * k, -1)
        unrolled = self.buffer("dunrolled", (high, channels * k, wide * n), dy.dtype)
        np.matmul(kernel, self._windows(spread, 1, "dwindows"), out=unrolled)
        unrolled = unrolled.reshape(high, channels, k, wide, n)
        dx = self._zeros("dx", (high, channels, columns + 2 * p, n), dy.dtype)
        for j in range(k):
            dx[:, :, j * d : j * d + s * (wide - 1) + 1 : s] += unrolled[:, :, j]
        return dx[p : p + rows, :, p : p + columns]

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        result = self.buffer(name, shape, dtype)
        result.fill(0)
        return result

    def _windows(self, rows: np.ndarray, stride: int, name: str) -> np.ndarray:
        """(H, K, M) -> (windows, k * K, M): k rows, `dilation` apart, from every stride-th on. Copied only if apart."""
        step, *inner = rows.strides
        count = (len(rows) - self.dilation * (self.size - 1) - 1) // stride + 1
        shape = (count, self.size, *rows.shape[1:])
        windows = as_strided(rows, shape, (stride * step, self.dilation * step, *inner), writeable=False)
        if self.dilation > 1:
            windows, apart = self.buffer(name, shape, rows.dtype), windows
            np.copyto(windows, apart)
        return windows.reshape(count, self.size * rows.shape[1], rows.shape[2])


class MaxPool2D(Layer):
    """y[h, c, w] = the largest of the size x size pixels from x[h s, c, w s] on, with stride s.

    dx is dy at that pixel, at the first of several equal ones, and 0 elsewhere; summed, where windows overlap.
    """

    pictures = True

    def __init__(self, size: int, stride: int | None = None) -> None:
        super().__init__()
        self.size, self.stride = size, size if stride is None else stride
        whole(1, 1000, size=self.size, stride=self.stride)

    def config(self) -> dict:
        return {"size": self.size, "stride": self.stride}

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 3:
            raise ValueError(f"takes pictures, not inputs of shape {shape}")
        if min(shape[0], shape[2]) < self.size:
            raise ValueError(f"covers {self.size} x {self.size} pixels, but its input has {shape[0]} x {shape[2]}")
        self.high, self.wide = ((pixels - self.size) // self.stride + 1 for pixels in (shape[0], shape[2]))
        return (self.high, shape[1], self.wide)

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        """For each of the size x size places in a window, that pixel of every window."""
        rows, columns = (self.stride * (count - 1) + 1 for count in (self.high, self.wide))
        places = np.ndindex(self.size, self.size)
        return [x[i : i + rows : self.stride, :, j : j + columns : self.stride] for i, j in places]

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        first, *others = self._parts(x)
        self.x, self.y = x, self.buffer("y", first.shape, x.dtype)
        np.copyto(self.y, first)
        for part in others:
            np.maximum(self.y, part, out=self.y)
        return self.y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", self.x.shape, dy.dtype)
        dx.fill(0)
        won, still_to_find = (self.buffer(name, dy.shape, np.dtype(bool)) for name in ("won", "still to find"))
        still_to_find.fill(True)
        apart, share = self.stride >= self.size, self.buffer("share", dy.shape, dy.dtype)
        for x_part, dx_part in zip(self._parts(self.x), self._parts(dx), strict=True):
            np.equal(x_part, self.y, out=won)
            won &= still_to_find
            still_to_find ^= won
            np.multiply(dy, won, out=dx_part if apart else share)
            if not apart:  # a pixel that several windows see
                dx_part += share
        return dx


class Flatten(Layer):
    """Pictures (H, C, W, N) to vectors (H * C * W, N): the same numbers in the same order."""

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.shape = shape
        return (math.prod(shape),)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return x.reshape(-1, x.shape[-1])

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        return dy.reshape(*self.shape, dy.shape[-1]) if need_dx else None
