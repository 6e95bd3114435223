"""Where lost pixels went: the forgotten pixels of each class by the class predicted now. Pure NumPy.

A pixel is forgotten at a step if it is wrong there and was right at an earlier step (explain.forgetting). Fixed pixels:
only pixels whose class was known and right before are followed, so no newly counted ones enter. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lag_core.protocol import LabelSpace

if TYPE_CHECKING:
    from lag_core.processes import Processes

NONE_BELOW = 0.5
"""Of a sigmoid network: a pixel for which no class has a probability above this counts as "none"."""


@dataclass(frozen=True)
class LostPixels:
    """Counts over the validation set; T steps, K class indices."""

    called: np.ndarray
    """int64 [T, K, K], forgotten pixels by true class (rows) and called class."""
    none: np.ndarray
    """int64 [T, K, K], those among them for which no class stood out; 0 for softmax networks."""
    confidence: np.ndarray
    """float64 [T, K], sum of the confidences in the predicted class."""

    def mean_confidence(self) -> np.ndarray:
        """Mean confidence of the network on lost pixels. Shape: float64 [T, K], NaN where none is lost."""
        total = self.called.sum(-1)
        return np.divide(self.confidence, total, out=np.full(total.shape, np.nan), where=total > 0)

    def destinations(self, labels: LabelSpace) -> Destinations:
        """The counts by kind of destination, [T, K] each."""
        kinds = np.array([[_kind(k, j, labels) for j in range(len(labels.order))] for k in range(len(labels.order))])
        named = self.called - self.none
        background, newer, other = (np.where(kinds == kind, named, 0).sum(-1) for kind in range(3))
        return Destinations(background, newer, other, self.none.sum(-1))


@dataclass(frozen=True)
class Destinations:
    """Forgotten pixels by destination, int64 [T, K] each; the four add up to all forgotten pixels."""

    background: np.ndarray
    """Called background; 0 for a dataset without one and for the background itself."""
    newer: np.ndarray
    """Called a class that was introduced after theirs."""
    other: np.ndarray
    """Called another class of their own step or of an earlier one, background apart."""
    none: np.ndarray
    """No class stood out (NONE_BELOW), whatever the argmax."""

    def stacked(self) -> np.ndarray:
        """The four counts in this order. Shape: int64 [T, K, 4]."""
        return np.stack([self.background, self.newer, self.other, self.none], -1)


def _kind(true: int, called: int, labels: LabelSpace) -> int:
    """0 background, 1 newer, 2 other; -1 for the class itself."""
    if true == called:
        return -1
    if labels.background is not None and called == 0:
        return 0
    return 1 if labels.step_of(called) > labels.step_of(true) else 2


class LostCounts:
    """Adds up `LostPixels` picture by picture."""

    def __init__(self, labels: LabelSpace):
        steps, n = len(labels.steps), len(labels.order)
        self.labels = labels
        self.called, self.none = np.zeros((2, steps, n, n), np.int64)
        self.confidence = np.zeros((steps, n))

    def add(self, maps: np.ndarray, confidence: np.ndarray, truth: np.ndarray, none_below: float) -> None:
        """Take in a picture: label maps uint8 [T, ...], confidence float [T, ...] in them, truth uint8 [...].

        `none_below`: 0 for softmax networks, NONE_BELOW for sigmoid ones.
        """
        n = len(self.labels.order)
        introduced = np.full(256, len(self.labels.steps), np.int64)
        introduced[:n] = [self.labels.step_of(k) for k in range(n)]
        start, once = introduced[truth], np.zeros(truth.shape, bool)
        for t, (called, sure) in enumerate(zip(maps, confidence, strict=True)):
            right = (called == truth) & (start <= t)
            lost = once & ~right
            once |= right
            if not lost.any():
                continue
            true = truth[lost].astype(np.int64)
            codes = true * n + called[lost]
            self.called[t] += np.bincount(codes, minlength=n * n).reshape(n, n)
            nothing = sure[lost] <= none_below
            self.none[t] += np.bincount(codes[nothing], minlength=n * n).reshape(n, n)
            self.confidence[t] += np.bincount(true, weights=sure[lost], minlength=n)

    def join(self, everywhere: Processes) -> None:
        """Add the counts of the other processes."""
        everywhere.add_up(self.called, self.none, self.confidence)

    def found(self, steps: int) -> LostPixels:
        """The counts of the first `steps` steps."""
        return LostPixels(self.called[:steps], self.none[:steps], self.confidence[:steps])
