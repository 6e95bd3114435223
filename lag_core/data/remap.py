"""The only place where label ids change: masks to targets, masks to truth, channels to class indices."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from lag_core.protocol import LabelSpace

Scores = TypeVar("Scores")


def targets(mask: np.ndarray, labels: LabelSpace, step: int, setting: str) -> np.ndarray:
    """Training channels of a mask at `step`.

    Shape: uint8 [..., H, W] dataset ids -> uint8 [..., H, W] channels, 255 ignored.
    """
    return labels.target_table(step, setting)[mask]


def truth(mask: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Class indices of a mask, all steps' classes. Shape: uint8 [..., H, W] -> uint8 [..., H, W], 255 ignored."""
    return labels.truth_table()[mask]


def dataset_ids(prediction: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """The reverse of `truth`: class indices to dataset ids. Shape: uint8 [..., H, W] -> same."""
    return labels.dataset_table()[prediction]


def class_scores(scores: Scores, labels: LabelSpace) -> Scores:
    """Scores per class index from scores per channel: unknown is folded into the background, else dropped.

    The fold is a sum (docs/method.md#network: q_bg := q_0 + q_1), so it needs probabilities, not logits.

    Shape: [channels, ...] -> [channels - unknown, ...]; NumPy array or tensor, never changed in place.
    """
    if not labels.unknown:
        return scores
    known: Any = scores[1:]  # type: ignore[index]
    if labels.background is not None:
        known = known.copy() if isinstance(known, np.ndarray) else known.clone()
        known[0] += scores[0]  # type: ignore[index]
    return known
