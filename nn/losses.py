"""Losses: the formula and its derivative with respect to the network's outputs, of shape (classes, N).

With label smoothing e, `backward` replaces one_hot(label) by the target (1 - e) one_hot(label) + e / C, so that the
network does not try to make the probability of a label 1 (Szegedy et al. 2016). `forward` is always without it. The
probabilities of such a network are smoothed too; `unsmoothed` inverts that.
"""

import numpy as np

from nn.memory import Buffers

TEMPERATURE, TEACHER_WEIGHT = 4.0, 0.9  # T and w of `distilled`


def unsmoothed(p: np.ndarray, label_smoothing: float) -> np.ndarray:
    """The probabilities q with p = (1 - e) q + e / C, for p (C, N), in the same order of classes.

    Where q would be negative it becomes nearly 0, 1e-6 p (before the sum is made 1), which keeps the order.
    """
    if not label_smoothing:
        return p
    q = np.maximum(p - label_smoothing / len(p), 1e-6 * p)
    return q / q.sum(axis=0)


def distilled(dz: np.ndarray, logits: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """The derivative of (1 - w) L + w T^2 KL(q || p), written over dz = dL/dz: distillation (Hinton et al. 2015).

    p = softmax(logits / T), q = softmax(teacher_logits / T), each (C, N); the derivative of T^2 KL is T (p - q) / N.
    """
    p, q = (CrossEntropy().probabilities(z / TEMPERATURE) for z in (logits, teacher_logits))
    dz *= 1 - TEACHER_WEIGHT
    dz += TEACHER_WEIGHT * TEMPERATURE / dz.shape[1] * (p - q)
    return dz


class Loss:
    """A loss whose derivative is dL/dz = (y - target) / N; `forward` keeps y, the estimated probabilities, (C, N)."""

    def __init__(self) -> None:
        self.buffer = Buffers()

    def backward(self, label_smoothing: float = 0.0) -> np.ndarray:
        """dL/dz (C, N) for the batch of the last `forward`."""
        dz = self.buffer("dz", self.y.shape, self.y.dtype)
        np.copyto(dz, self.y)
        dz[self.label_index] -= 1 - label_smoothing
        if label_smoothing:
            dz -= label_smoothing / len(dz)
        dz /= dz.shape[1]
        return dz


class CrossEntropy(Loss):
    """Softmax and cross-entropy: p = exp(z) / sum exp(z),  L = -mean over the batch of log p[label].

    dL/dz = (p - one_hot(label)) / N.  The largest logit is subtracted first, so that exp cannot overflow.
    """

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax over the classes: (C, N) -> (C, N)."""
        highest = np.maximum.reduce(logits, axis=0)
        self.shifted = np.subtract(logits, highest, out=self.buffer("shifted", logits.shape, logits.dtype))
        p = np.exp(self.shifted, out=self.buffer("p", logits.shape, logits.dtype))
        self.total = np.add.reduce(p, axis=0)
        p /= self.total
        return p

    def forward(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The mean loss of a batch: logits (C, N), integer labels (N,)."""
        self.y, self.label_index = self.probabilities(logits), (labels, np.arange(len(labels)))
        # -log p[label]; not from p, which may be 0
        losses = np.log(self.total) - self.shifted[self.label_index]
        return float(np.add.reduce(losses)) / len(labels)


class MeanSquaredError(Loss):
    """L = 1/2 mean over the batch of |z - one_hot(label)|^2;  dL/dz = (z - one_hot(label)) / N.

    The outputs z estimate the probabilities of the classes directly (Bishop 1995, section 6.1).
    """

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """The outputs, clipped to positive values and scaled to sum to 1: (C, N) -> (C, N)."""
        tiny = np.finfo(outputs.dtype).tiny
        p = np.maximum(outputs, tiny, out=self.buffer("p", outputs.shape, outputs.dtype))
        p[outputs.argmax(axis=0), np.arange(p.shape[1])] += tiny  # keeps the argmax if no output is positive
        p /= p.sum(axis=0)
        return p

    def forward(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """The mean loss of a batch: outputs (C, N), integer labels (N,)."""
        self.y, self.label_index = outputs, (labels, np.arange(len(labels)))
        error = self.buffer("error", outputs.shape, outputs.dtype)
        np.copyto(error, outputs)
        error[self.label_index] -= 1
        return 0.5 * float(np.vdot(error, error)) / len(labels)


LOSSES = {"cross_entropy": CrossEntropy, "mse": MeanSquaredError}
