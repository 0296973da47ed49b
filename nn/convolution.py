"""Layers for images: convolution, max-pooling, and flattening images to vectors.

A batch of N images with C channels of H x W pixels is an array of shape (H, C, W, N): rows first, batch last. The usual
im2col copies every pixel k * k times. In this layout it is enough to unroll the width: a copy that is k times as large,
in which each row of the image is a matrix (C * k, out_width * N). The k rows that one row of the output depends on are
contiguous, so without dilation they already form one matrix (k * C * k, out_width * N), and a row of the output is one
product of the weights with it. An image (28, 28) is (28, 1, 28), byte for byte.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nn.layers import INITIALIZERS, Layer, check_choice, check_int


class Conv2D(Layer):
    """Convolution with filters of k x k pixels, `dilation` apart, at every position (h, w):

        y[h, f, w] = b[f] + sum over i, c, j of W[f, i, c, j] x[h s + i d - p, c, w s + j d - p]

    with stride s, dilation d, padding p (zeros around the image). W: (filters, k, channels, k), b: (filters,).
    dW and dx are the derivatives of the same sum. LeCun et al. 1998; dilation: Yu & Koltun 2016.
    """

    weight_decayed = ("W",)
    takes_images = True

    def __init__(
        self, filters: int, size: int, stride: int = 1, padding: int = 0, dilation: int = 1, init: str = "he"
    ) -> None:
        super().__init__()
        check_int(1, 1000, filters=filters, size=size, stride=stride, dilation=dilation)
        check_int(0, 1000, padding=padding)
        check_choice(INITIALIZERS, init=init)
        self.filters, self.size, self.stride, self.padding, self.dilation = filters, size, stride, padding, dilation
        self.init = init

    def config(self) -> dict:
        names = ("filters", "size", "stride", "padding", "dilation", "init")
        return {name: getattr(self, name) for name in names}

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 3:
            raise ValueError(f"takes images, not inputs of shape {shape}")
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
        self.params["W"][:] = rng.standard_normal(self.shapes["W"]) * INITIALIZERS[self.init](fan_in, fan_out)
        self.params["b"][:] = 0

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        rows, channels, columns, n = self.shape = x.shape
        k, s, d, p = self.size, self.stride, self.dilation, self.padding
        if p:
            x, unpadded = self._zeros("padded", (rows + 2 * p, channels, columns + 2 * p, n), x.dtype), x
            x[p:-p, :, p:-p] = unpadded
        out_width = (x.shape[2] - d * (k - 1) - 1) // s + 1
        im2col = self.buffer("im2col", (x.shape[0], channels, k, out_width, n), x.dtype)
        for j in range(k):
            im2col[:, :, j] = x[:, :, j * d : j * d + s * (out_width - 1) + 1 : s]
        self.patches = self._patches(im2col.reshape(x.shape[0], channels * k, out_width * n), s, "patches")
        y = self.buffer("y", (len(self.patches), self.filters, out_width * n), x.dtype)
        np.matmul(self.params["W"].reshape(self.filters, -1), self.patches, out=y)
        y += self.params["b"][:, None]
        return y.reshape(len(y), self.filters, out_width, n)

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        out_height, _, out_width, n = dy.shape
        dy = dy.reshape(out_height, self.filters, out_width * n)
        dw = self.grads["W"].reshape(self.filters, -1)
        dw_per_row = self.buffer("dW per row", (out_height, *dw.shape), dy.dtype)
        np.matmul(dy, self.patches.transpose(0, 2, 1), out=dw_per_row)
        np.add.reduce(dw_per_row, axis=0, out=dw)
        np.add.reduce(np.add.reduce(dy, axis=2), axis=0, out=self.grads["b"])
        return self._input_gradient(dy, out_width, n) if need_dx else None

    def _input_gradient(self, dy: np.ndarray, out_width: int, n: int) -> np.ndarray:
        """dL/dx: up to k rows of the output depend on each row of the im2col array, so this is again one product."""
        rows, channels, columns, _ = self.shape
        k, s, d, p = self.size, self.stride, self.dilation, self.padding
        margin, padded_height = d * (k - 1), rows + 2 * p
        dilated_dy = self._zeros("dilated dy", (padded_height + margin, self.filters, out_width * n), dy.dtype)
        dilated_dy[margin : margin + s * (len(dy) - 1) + 1 : s] = dy
        # (filters, k, channels, k) -> (channels, k columns, k rows in reverse order, filters)
        kernel = self.params["W"][:, ::-1].transpose(2, 3, 1, 0).reshape(channels * k, -1)
        dim2col = self.buffer("dim2col", (padded_height, channels * k, out_width * n), dy.dtype)
        np.matmul(kernel, self._patches(dilated_dy, 1, "dy patches"), out=dim2col)
        dim2col = dim2col.reshape(padded_height, channels, k, out_width, n)
        dx = self._zeros("dx", (padded_height, channels, columns + 2 * p, n), dy.dtype)
        for j in range(k):
            dx[:, :, j * d : j * d + s * (out_width - 1) + 1 : s] += dim2col[:, :, j]
        return dx[p : p + rows, :, p : p + columns]

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        result = self.buffer(name, shape, dtype)
        result.fill(0)
        return result

    def _patches(self, rows: np.ndarray, stride: int, name: str) -> np.ndarray:
        """(H, K, M) -> (patches, k * K, M): k rows, `dilation` apart, at every stride. A view, unless dilated."""
        row_stride, *inner_strides = rows.strides
        count = (len(rows) - self.dilation * (self.size - 1) - 1) // stride + 1
        shape = (count, self.size, *rows.shape[1:])
        strides = (stride * row_stride, self.dilation * row_stride, *inner_strides)
        patches = as_strided(rows, shape, strides, writeable=False)
        if self.dilation > 1:
            patches, strided = self.buffer(name, shape, rows.dtype), patches
            np.copyto(patches, strided)
        return patches.reshape(count, self.size * rows.shape[1], rows.shape[2])


class MaxPool2D(Layer):
    """y[h, c, w] = max over the window of size x size pixels that starts at x[h s, c, w s], with stride s.

    dx is dy at the position of the maximum (the first one, if several are equal) and 0 elsewhere; where windows
    overlap, these are summed.
    """

    takes_images = True

    def __init__(self, size: int, stride: int | None = None) -> None:
        super().__init__()
        self.size, self.stride = size, size if stride is None else stride
        check_int(1, 1000, size=self.size, stride=self.stride)

    def config(self) -> dict:
        return {"size": self.size, "stride": self.stride}

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 3:
            raise ValueError(f"takes images, not inputs of shape {shape}")
        if min(shape[0], shape[2]) < self.size:
            raise ValueError(f"covers {self.size} x {self.size} pixels, but its input has {shape[0]} x {shape[2]}")
        self.out_height, self.out_width = ((pixels - self.size) // self.stride + 1 for pixels in (shape[0], shape[2]))
        return (self.out_height, shape[1], self.out_width)

    def _window_views(self, x: np.ndarray) -> list[np.ndarray]:
        """For each of the size x size pixels of a window, a view of that pixel in every window."""
        rows, columns = (self.stride * (count - 1) + 1 for count in (self.out_height, self.out_width))
        offsets = np.ndindex(self.size, self.size)
        return [x[i : i + rows : self.stride, :, j : j + columns : self.stride] for i, j in offsets]

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        first, *others = self._window_views(x)
        self.x, self.y = x, self.buffer("y", first.shape, x.dtype)
        np.copyto(self.y, first)
        for view in others:
            np.maximum(self.y, view, out=self.y)
        return self.y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", self.x.shape, dy.dtype)
        dx.fill(0)
        is_max, unassigned = (self.buffer(name, dy.shape, np.dtype(bool)) for name in ("is max", "unassigned"))
        unassigned.fill(True)
        overlapping, gradient = self.stride < self.size, self.buffer("gradient", dy.shape, dy.dtype)
        for x_view, dx_view in zip(self._window_views(self.x), self._window_views(dx), strict=True):
            np.equal(x_view, self.y, out=is_max)
            is_max &= unassigned
            unassigned ^= is_max
            np.multiply(dy, is_max, out=gradient if overlapping else dx_view)
            if overlapping:
                dx_view += gradient
        return dx


class Flatten(Layer):
    """Images (H, C, W, N) to vectors (H * C * W, N): the same values in the same order."""

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.shape = shape
        return (math.prod(shape),)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return x.reshape(-1, x.shape[-1])

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        return dy.reshape(*self.shape, dy.shape[-1]) if need_dx else None
