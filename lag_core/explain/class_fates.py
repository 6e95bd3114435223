"""The verdict on every class of a run from its confusion matrices alone: kept, lost, learned later and so on. Pure.

The rules are those of explain.why, on the same pixels at both steps (docs/method.md#accuracy): a class is followed from
the step that introduced it. The cause of a loss is not known here; that needs shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lag_core import metrics
from lag_core.explain.why import HALF, KEPT, LEARNED, was_learned
from lag_core.protocol import LabelSpace

Word = Literal["kept", "weakened", "lost", "never learned", "learned later", "new", "to come"]


@dataclass(frozen=True)
class ClassFate:
    """What became of one class by a step; IoUs are fractions on the pixels known at the step that introduced it."""

    word: Word
    """"new": this very step introduced it; "to come": a later one will."""
    start: float
    """IoU after the step that introduced it; NaN before that, and for a class without pixels."""
    now: float


def class_fates(confusions: np.ndarray, labels: LabelSpace, step: int) -> list[ClassFate]:
    """The fate of each class after `step`. Shape: int [T, K, K]."""
    ious = metrics.iou_matrix(confusions, labels)
    return [_fate(confusions, ious, labels, step, cls) for cls in range(len(labels.order))]


def _fate(confusions: np.ndarray, ious: np.ndarray, labels: LabelSpace, step: int, cls: int) -> ClassFate:
    source = labels.step_of(cls)
    if source > step:
        return ClassFate("to come", float("nan"), float("nan"))
    start, now = (float(metrics.iou_between(confusions, labels, source, t)[cls]) for t in (source, step))
    return ClassFate(_word(start, now, was_learned(ious[source : step + 1, cls]), source == step), start, now)


def _word(start: float, now: float, learned: bool, new: bool) -> Word:
    if not learned:
        return "never learned"
    if new:
        return "new"
    if 100 * max(start, now) < LEARNED:
        return "lost"
    if 100 * start < LEARNED:
        return "learned later"
    if now >= KEPT * start:
        return "kept"
    return "weakened" if now >= HALF * start else "lost"
