"""Boundary IoU: the IoU of pixels near the outlines. Pure NumPy.

Source: Cheng et al., "Boundary IoU" (CVPR 2021): in truth and prediction, only pixels within a distance d of their own
mask's outline count; d is 2 % of the image's diagonal. Distances are the larger of both axes, as in the paper.
"""

from __future__ import annotations

import math

import numpy as np

from lag_core.protocol import IGNORE, LabelSpace

SHARE = 0.02
"""Of the image's diagonal: how far from its outline a pixel counts."""


def band(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels of a mask within `distance` of its outline; what is outside the image counts as outside the mask.

    Shape: bool [H, W] -> bool [H, W].
    """
    return mask & ~_eroded(_eroded(mask, distance, 0), distance, 1)


def _eroded(mask: np.ndarray, distance: int, axis: int) -> np.ndarray:
    """Whether all pixels up to `distance` along an axis are set."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (distance + 1, distance)
    sums = np.pad(mask, padding).cumsum(axis, np.int32)
    window = 2 * distance + 1
    length = mask.shape[axis]
    ends = np.take(sums, np.arange(window, window + length), axis)
    return ends - np.take(sums, np.arange(length), axis) == window


def distance_of(shape: tuple[int, ...]) -> int:
    """The band's width in an image of this size, at least one pixel."""
    return max(1, round(SHARE * math.hypot(*shape[:2])))


class BoundaryCounts:
    """Adds up bands of the classes known at each step; pixels of others, and those not annotated, are left out."""

    def __init__(self, labels: LabelSpace, steps: int):
        self.labels = labels
        self.both, self.any = np.zeros((2, steps, len(labels.order)), np.int64)

    def add(self, step: int, image: str, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count an image. Shape: class indices uint8 [H, W] twice, 255 in the truth ignored."""
        seen, distance = self.labels.seen(step), distance_of(truth.shape)
        counted = (truth != IGNORE) & (truth < seen)
        for cls in np.union1d(truth[counted], predicted[counted]).tolist():
            true, called = (band((one == cls) & counted, distance) for one in (truth, predicted))
            self.both[step, cls] += (true & called).sum()
            self.any[step, cls] += (true | called).sum()

    def iou(self) -> np.ndarray:
        """Boundary IoU as a fraction, NaN for an absent class. Shape: float64 [T, K]."""
        found = np.full(self.any.shape, np.nan)
        return np.asarray(np.divide(self.both, self.any, out=found, where=self.any > 0))
