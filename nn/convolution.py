"""Layers for images: convolution, max-pooling, and flattening images to vectors.

A batch of N images with C channels of H x W pixels is an array of shape (H, C, W, N): rows first, batch last. The usual
im2col copies every pixel k * k times. In this layout it is enough to unroll the width: a copy that is k times as large,
in which each row of the image is a matrix (C * k, out_width * N). The k rows that one row of the output depends on are
contiguous (with dilation, see `_group_rows`), so they already form one matrix (k * C * k, out_width * N), and a row of
the output is one product of the weights with it. An image (28, 28) is (28, 1, 28), byte for byte.
"""

import math

import numpy as np

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

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        rows, channels, columns = shape
        check_int(1, 1000, rows=rows, columns=columns)  # a model file may say anything
        extent = self.dilation * (self.size - 1) + 1
        out = [(pixels + 2 * self.padding - extent) // self.stride + 1 for pixels in (rows, columns)]
        if min(out) < 1:
            raise ValueError(f"covers {extent} x {extent} pixels, but its input has {rows} x {columns}")
        self.shapes = {"W": (self.filters, self.size, channels, self.size), "b": (self.filters,)}
        self.out_height, self.out_width = out
        k, s, d = self.size, self.stride, self.dilation
        # of the padded input: the columns that meet column j of the kernel, and all (h, i) that meet row h s + i d
        self.columns = [slice(j * d, j * d + s * (self.out_width - 1) + 1, s) for j in range(k)]
        self.taps = [[] for _ in range(rows + 2 * self.padding)]
        for h, i in np.ndindex(self.out_height, k):
            self.taps[h * s + i * d].append((h, i))
        return (self.out_height, self.filters, self.out_width)

    def initialise(self, rng: np.random.Generator) -> None:
        area = self.size * self.size
        fan_in, fan_out = area * self.shapes["W"][2], area * self.filters
        self.params["W"][:] = rng.standard_normal(self.shapes["W"]) * INITIALIZERS[self.init](fan_in, fan_out)
        self.params["b"][:] = 0

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        rows, channels, columns, n = self.shape = x.shape
        k, p = self.size, self.padding
        if p:
            padded = self.buffer("padded", (rows + 2 * p, channels, columns + 2 * p, n), x.dtype)
            padded.fill(0)
            padded[p:-p, :, p:-p] = x
            x = padded
        x = self._group_rows("grouped x", x, self.dilation)
        im2col = self.buffer("im2col", (*x.shape[:3], k, self.out_width, n), x.dtype)
        for j, columns_of_j in enumerate(self.columns):
            im2col[:, :, :, j] = x[:, :, :, columns_of_j]
        im2col = im2col.reshape(*im2col.shape[:2], channels * k, -1)
        self.patches = [_stack_rows(im2col, h * self.stride, k) for h in range(self.out_height)]
        y = self.buffer("y", (self.out_height, self.filters, self.out_width * n), x.dtype)
        kernel = self.params["W"].reshape(self.filters, -1)
        for y_row, patch in zip(y, self.patches, strict=True):
            np.matmul(kernel, patch, out=y_row)
        y += self.params["b"][:, None]
        return y.reshape(self.out_height, self.filters, self.out_width, n)

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        dy = dy.reshape(self.out_height, self.filters, -1)
        # dW^T = patch dy^T: OpenBLAS takes a third less time for it than for dW = dy patch^T
        dw_per_row = self.buffer("dW per row", (self.out_height, len(self.patches[0]), self.filters), dy.dtype)
        for dw_row, dy_row, patch in zip(dw_per_row, dy, self.patches, strict=True):
            np.matmul(patch, dy_row.T, out=dw_row)
        self.grads["W"].reshape(self.filters, -1)[:] = np.add.reduce(dw_per_row, axis=0).T
        ones = self.buffer("ones", dy.shape[2:], dy.dtype, fill=1)
        np.add.reduce(dy @ ones, axis=0, out=self.grads["b"])
        return self._input_gradient(dy) if need_dx else None

    def _input_gradient(self, dy: np.ndarray) -> np.ndarray:
        """dL/dx, row by row: up to k rows of the output depend on each row of the im2col array: one product again.

        The taps of an input row are the pairs (h, i) of a row of the output and a row of the kernel that use it. From
        one tap to the next, h rises by d / gcd(d, s) and i falls by s / gcd(d, s).
        """
        rows, channels, columns, n = self.shape
        k, p, gcd = self.size, self.padding, math.gcd(self.dilation, self.stride)
        dy = self._group_rows("grouped dy", dy, self.dilation // gcd)
        # (filters, k, channels, k) -> (channels, k columns, k rows in reverse order, filters)
        kernel = np.ascontiguousarray(self.params["W"][:, ::-1].transpose(2, 3, 1, 0)).reshape(channels * k, k, -1)
        dim2col = self.buffer("dim2col", (channels, k, self.out_width, n), dy.dtype)
        dx = self.buffer("dx", (rows, channels, columns + 2 * p, n), dy.dtype)
        dx.fill(0)
        for dx_row, taps in zip(dx, self.taps[p : p + rows], strict=True):
            if taps:
                (first_h, first_i), (_, last_i) = taps[0], taps[-1]
                part = kernel[:, k - 1 - first_i : k - last_i : self.stride // gcd].reshape(channels * k, -1)
                np.matmul(part, _stack_rows(dy, first_h, len(taps)), out=dim2col.reshape(channels * k, -1))
                for j, columns_of_j in enumerate(self.columns):
                    dx_row[:, columns_of_j] += dim2col[:, j]
        return dx[:, :, p : p + columns]

    def _group_rows(self, name: str, rows: np.ndarray, d: int) -> np.ndarray:
        """(H, ...) -> (d, ceil(H / d), ...): rows that are d apart become neighbours, row r is at [r % d, r // d]."""
        if d == 1:
            return rows[None]
        result = self.buffer(name, (d, -(-len(rows) // d), *rows.shape[1:]), rows.dtype)
        for r in range(d):
            result[r, : len(rows[r::d])] = rows[r::d]
        return result


def _stack_rows(grouped: np.ndarray, first: int, count: int) -> np.ndarray:
    """Of rows (K, M) that `_group_rows` grouped: row `first` and the next ones, d apart: (count * K, M), a view."""
    group, start = grouped[first % len(grouped)], first // len(grouped)
    return group[start : start + count].reshape(-1, grouped.shape[-1])


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

    def connect(self, shape: tuple[int, ...]) -> tuple[int, ...]:
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
        self.masks = self._first_maxima() if training else None  # now, while x and y are in the processor's cache
        return self.y

    def _first_maxima(self) -> np.ndarray:
        """For each of the size x size pixels of a window: is it the maximum, and the first one? (size * size, *y)."""
        masks = self.buffer("masks", (self.size**2, *self.y.shape), np.dtype(bool))
        unassigned = self.buffer("unassigned", self.y.shape, np.dtype(bool))
        unassigned.fill(True)
        for view, mask in zip(self._window_views(self.x), masks, strict=True):
            np.equal(view, self.y, out=mask)
            mask &= unassigned
            unassigned ^= mask
        return masks

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        if not need_dx:
            return None
        masks = self._first_maxima() if self.masks is None else self.masks
        dx = self.buffer("dx", self.x.shape, dy.dtype)
        overlapping, gradient = self.stride < self.size, self.buffer("gradient", dy.shape, dy.dtype)
        if overlapping or dx.size > self.size**2 * dy.size:  # else the windows cover x, and all of dx is written below
            dx.fill(0)
        for mask, dx_view in zip(masks, self._window_views(dx), strict=True):
            np.multiply(dy, mask, out=gradient if overlapping else dx_view)
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
