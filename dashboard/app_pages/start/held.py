"""What became of the old classes of one or two runs, for the Start page. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lag_core import metrics
from lag_core.protocol import ClassInfo, LabelSpace
from lag_core.runs import Run

MOST_CLASSES = 6
"""Classes that fit beside one another."""


@dataclass(frozen=True)
class Held:
    """IoU of a run's old classes, in percent, on the pixels known when each was learned."""

    name: str
    classes: tuple[ClassInfo, ...]
    then: np.ndarray
    """float64 [n], at the step that introduced the class."""
    course: np.ndarray
    """float64 [T, n], after each step; NaN before the class is learned."""
    step: int
    """The selected step."""

    @property
    def now(self) -> np.ndarray:
        """float64 [n], at the selected step."""
        return self.course[self.step]

    def of(self, class_id: int) -> tuple[float, float] | None:
        """(then, now) of the class with a dataset id; None where it is not among them."""
        found = [i for i, info in enumerate(self.classes) if info.id == class_id]
        return (float(self.then[found[0]]), float(self.now[found[0]])) if found else None


def held(run: Run, confusions: np.ndarray, step: int) -> Held:
    """Old classes of `step`, without background, those that lost most first; at step 0 the classes it introduced.

    confusions: int64 [T, K, K].
    """
    labels = run.labels
    first = int(labels.background is not None)
    old = range(first, labels.seen(max(step - 1, 0)))
    then = {c: _percent(confusions, labels, c, labels.step_of(c)) for c in old}
    now = {c: _percent(confusions, labels, c, step) for c in old}
    learned = [c for c in old if np.isfinite(then[c])]
    kept = sorted(learned, key=lambda c: np.nan_to_num(now[c]) - then[c])[:MOST_CLASSES]
    course = [
        [_percent(confusions, labels, c, t) if t >= labels.step_of(c) else np.nan for c in kept]
        for t in range(len(confusions))
    ]
    return Held(
        run.name,
        tuple(run.classes[c] for c in kept),
        np.array([then[c] for c in kept], np.float64),
        np.array(course, np.float64).reshape(len(confusions), len(kept)),
        step,
    )


def _percent(confusions: np.ndarray, labels: LabelSpace, cls: int, step: int) -> float:
    """IoU of a class after `step` on the pixels known when it was introduced, percent."""
    return float(100 * metrics.iou_between(confusions, labels, labels.step_of(cls), step)[cls])
