"""Memory that is allocated once: work buffers, and one array for all parameters of a network."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

UPDATE_CHUNK = 160_000  # columns in one product: OpenBLAS does not copy its input if it has < 10^6 multiplications
ALIGNMENT = 64  # bytes of a cache line
UFUNC_BUFFER = 1024  # values; NumPy copies shorter rows through a buffer: the default, 8192, costs images 3 % more time


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.zeros that starts at a cache line: loads that cross two lines slow down `Network.update` by a tenth."""
    return aligned(np.zeros(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8), shape, dtype)


def aligned(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array in these bytes, which are at least ALIGNMENT more than it needs, that starts at a cache line."""
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


class Buffers:
    """Named work arrays. Each is allocated at the largest size requested and returned as a view of a smaller shape.

    dtype: an np.dtype, such as x.dtype. A new buffer is filled with `fill`, and keeps these values until somebody
    writes to it.
    """

    def __init__(self) -> None:
        self._flat: dict[str, np.ndarray] = {}
        self._views: dict[tuple, np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: np.dtype, fill: float = 0) -> np.ndarray:
        view = self._views.get((name, shape, dtype))
        if view is None:
            size = math.prod(shape)
            flat = self._flat.get(name)
            if flat is None or flat.size < size or flat.dtype != dtype:
                flat = self._flat[name] = aligned_zeros((size,), dtype)
                if fill:
                    flat.fill(fill)
                self._views = {key: old for key, old in self._views.items() if key[0] != name}
            view = self._views[name, shape, dtype] = flat[:size].reshape(shape)
        return view


class ParameterMemory:
    """One array of three rows for all parameters of a network: velocities v, parameters W, gradients dW.

    A matrix product cannot write over its own input. So the rows are one chunk longer than their content, which lies at
    the left end or at the right end. An update moves the content to the other end, chunk by chunk: to the right with
    the last chunk first, to the left with the first chunk first. So no chunk is overwritten before it is read (memmove
    does the same). This array is smaller than two copies, so more of it stays in the processor's cache.

    layers: their `params` and `grads` become views of the rows W and dW, and move with the content. Parameters with
    weight decay come first. rows: an array to use, such as shared memory; by default a new one.
    """

    def __init__(self, layers: Sequence, dtype: np.dtype, rows: np.ndarray | None = None) -> None:
        entries = [(layer, name) for layer in layers for name in layer.shapes]
        entries.sort(key=lambda entry: entry[1] not in entry[0].weight_decayed)
        columns, end, decay_end = {}, 0, 0
        for layer, name in entries:
            size = math.prod(layer.shapes[name])
            columns[layer, name] = slice(end, end + size)
            end += -(-size // 16) * 16  # aligns the next entry; no view shows the padding
            if name in layer.weight_decayed:
                decay_end = end
        gap = min(UPDATE_CHUNK, end)
        self.rows = aligned_zeros((3, end + gap), dtype) if rows is None else rows
        self.positions = left, right = self.rows[:, :end], self.rows[:, gap:]
        boundaries = [*range(0, decay_end, UPDATE_CHUNK), *range(decay_end, end, UPDATE_CHUNK), end]
        chunks = [slice(*pair) for pair in itertools.pairwise(boundaries)]

        def views(row: np.ndarray, layer: object) -> dict[str, np.ndarray]:
            return {name: row[columns[layer, name]].reshape(shape) for name, shape in layer.shapes.items()}

        def moves(old: np.ndarray, new: np.ndarray, order: list[slice]) -> list[tuple]:
            return [(old[:, chunk], new[:2, chunk], chunk.stop <= decay_end) for chunk in order]

        self._layers = layers
        self._views = [[(views(w, layer), views(dw, layer)) for layer in layers] for _, w, dw in self.positions]
        self._moves = moves(left, right, chunks[::-1]), moves(right, left, chunks)
        self.use_position(0)

    def use_position(self, position: int) -> None:
        """Take the content to be at the left end (0) or at the right end (1)."""
        self.position = position
        for layer, (params, grads) in zip(self._layers, self._views[position], strict=True):
            layer.params, layer.grads = params, grads

    @property
    def content(self) -> np.ndarray:
        """The rows v, W and dW, without the free chunk: a view, valid until the next update."""
        return self.positions[self.position]

    def in_use(self, rows: np.ndarray) -> np.ndarray:
        """The same columns of other rows, (..., 3, K)."""
        size = self.content.shape[1]
        return rows[..., -size:] if self.position else rows[..., :size]

    def multiply(self, matrix: np.ndarray, matrix_with_decay: np.ndarray) -> None:
        """(v, W) = matrix @ (v, W, dW); `matrix_with_decay` is for the parameters with weight decay."""
        for old, new, with_decay in self._moves[self.position]:
            np.matmul(matrix_with_decay if with_decay else matrix, old, out=new)
        self.use_position(1 - self.position)
