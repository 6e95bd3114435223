"""Intervals of an IoU: pixel counts of each image, resampled with replacement. Pure NumPy. Ours.

The windows of a tile are drawn together (lag_core/tiles.py). One tile alone has no interval: NaN. The interval says how
much an IoU would change with other images of the same kind. It says nothing about another training: for that, train
with several seeds and group them (`lag compare --group`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lag_core.metrics import confusion, seen_only
from lag_core.protocol import LabelSpace
from lag_core.tiles import by_tile, tiles_of

DRAWS, LEVEL = 1000, 95.0


@dataclass
class ImageCounts:
    """Pixels by step, image and class: right, true, and called, the last two among the classes known at the step."""

    labels: LabelSpace
    by_image: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    """Image -> step -> int64 [3, K]."""

    def add(self, step: int, image: str, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count an image. Shape: class indices uint8 [H, W] twice, 255 in the truth ignored."""
        classes = len(self.labels.order)
        matrix = seen_only(confusion(truth, predicted, classes), self.labels.seen(step))
        self.by_image.setdefault(image, {})[step] = np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])

    def counts(self) -> np.ndarray:
        """All counts. Shape: int64 [N, T, 3, K]."""
        rows = [[found[step] for step in sorted(found)] for found in self.by_image.values()]
        return np.array(rows, np.int64)

    def intervals(self, draws: int = DRAWS, seed: int = 0) -> Intervals:
        """IoUs with their bootstrap intervals."""
        counts = by_tile(self.counts(), tiles_of(list(self.by_image)))
        whole = self._ious(counts.sum(0)[None])[0]
        if len(counts) < 2:
            return Intervals(whole, np.full_like(whole, np.nan), np.full_like(whole, np.nan))
        weights = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
        drawn = self._ious((weights @ counts.reshape(len(counts), -1)).reshape(draws, *counts.shape[1:]))
        return Intervals(whole, *_bounds(drawn))

    def _ious(self, sums: np.ndarray) -> np.ndarray:
        """IoU of each class, then the mean over the known ones. Shape: [B, T, 3, K] -> [B, T, K + 1]."""
        right, true, called = (sums[:, :, i].astype(np.float64) for i in range(3))
        union = true + called - right
        ious = np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)
        for step in range(ious.shape[1]):
            ious[:, step, self.labels.seen(step) :] = np.nan
        defined = ~np.isnan(ious)
        total = np.nansum(ious, -1)
        mean = np.divide(total, defined.sum(-1), out=np.full(total.shape, np.nan), where=defined.any(-1))
        return np.concatenate([ious, mean[..., None]], -1)


@dataclass(frozen=True)
class Intervals:
    """IoUs as fractions, NaN where undefined; the last column is the mean over the classes known at the step."""

    iou: np.ndarray
    """float64 [T, K + 1]."""
    low: np.ndarray
    high: np.ndarray

    def as_dict(self, step: int) -> dict[str, list[float | None]]:
        """For JSON: NaN becomes null."""
        return {
            name: [None if np.isnan(value) else round(float(value), 6) for value in getattr(self, name)[step]]
            for name in ("iou", "low", "high")
        }


def _bounds(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle `LEVEL` percent. Shape: [B, ...] -> twice [...]; NaN where no draw is defined."""
    tail = (100 - LEVEL) / 2
    empty = np.isnan(drawn).all(0)
    filled = np.where(empty, 0.0, drawn)
    low, high = np.nanpercentile(filled, [tail, 100 - tail], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
