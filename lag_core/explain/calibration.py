"""Is confidence calibrated: counts by confidence, expected calibration error, reliability. Pure NumPy.

Counted by the class that a pixel is *called*: of the pixels called cat with a confidence of 0.9, nine in ten should be
cats. Confidence is the probability of that class, the unknown's added to the background's as in every prediction, and 1
at most. Pixels whose true class is still to come do not count. Source: Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017, arXiv 1706.04599 (15 bins of equal width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lag_core.protocol import LabelSpace

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Counts by called class and bin of confidence; any leading shape, bins of equal width from 0 to 1."""

    count: np.ndarray
    """int [..., K, BINS], pixels."""
    right: np.ndarray
    """int [..., K, BINS], those that are of the class."""
    confidence: np.ndarray
    """float [..., K, BINS], sum of their confidences."""

    def at(self, step: int) -> Calibration:
        """The counts of one step."""
        return Calibration(self.count[step], self.right[step], self.confidence[step])

    def of(self, classes: Sequence[int]) -> Reliability:
        """The curve of some called classes together, at one step."""
        chosen = list(classes)
        return Reliability(*(a[chosen].sum(0) for a in (self.count, self.right, self.confidence)))


@dataclass(frozen=True)
class Reliability:
    """A reliability curve. Arrays [BINS]."""

    count: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    """Sum, as in `Calibration`."""

    @property
    def accuracy(self) -> np.ndarray:
        """Share that is right, float64 [BINS]; NaN for an empty bin."""
        return _ratio(self.right, self.count)

    @property
    def mean_confidence(self) -> np.ndarray:
        """Mean confidence, float64 [BINS]; NaN for an empty bin."""
        return _ratio(self.confidence, self.count)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over pixels of |accuracy - confidence| of their bin; NaN without pixels."""
        total = self.count.sum()
        gaps = np.abs(self.right.astype(np.float64) - self.confidence)
        return float(gaps.sum() / total) if total else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def count(confidence: np.ndarray, called: np.ndarray, truth: np.ndarray, classes: int, seen: int) -> Calibration:
    """Count the pixels of one picture whose true class is among the first `seen`.

    Shape: float [...] in 0..1, uint8 [...], uint8 [...] -> arrays [K, BINS].
    """
    known = truth < seen
    sure, named = confidence[known].astype(np.float64), called[known].astype(np.int64)
    codes = named * BINS + np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    shape, length = (classes, BINS), classes * BINS
    right = codes[named == truth[known]]
    return Calibration(
        np.bincount(codes, minlength=length).reshape(shape),
        np.bincount(right, minlength=length).reshape(shape),
        np.bincount(codes, weights=sure, minlength=length).reshape(shape),
    )


def groups(labels: LabelSpace, step: int) -> dict[str, list[int]]:
    """Class indices by group at a step: "old" (introduced before), "new" (at it), "background"; empty ones left out."""
    foreground = int(labels.background is not None)
    fresh = labels.class_indices(step)
    found = {
        "old": list(range(foreground, fresh.start)),
        "new": list(range(max(fresh.start, foreground), fresh.stop)),
        "background": list(range(foreground)),
    }
    return {name: members for name, members in found.items() if members}
