"""Is a class lost, or only outscored by classes of other steps: predictions within the true step. Pure NumPy.

Each pixel may only be called a class of the step that introduced its true class. A pixel that is right then and wrong
otherwise is confused between steps; one that stays wrong is confused within the step. The background belongs to step 0,
and the unknown class is folded into it first, as in every prediction (model.prediction). A class that is alone in its
step is always right. Source: the split of class-incremental error into task and within-task confusion, ours for pixels.
"""

from __future__ import annotations

import numpy as np

from lag_core.protocol import IGNORE, LabelSpace


def within_step(scores: np.ndarray, truth: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """The best class among those of the true class's step.

    Shape: scores of the classes known so far float [K, ...], truth uint8 [...] -> uint8 [...]; 255 where nothing is
    annotated or the true class is still to come.
    """
    found = np.full(truth.shape, IGNORE, np.uint8)
    for step in range(len(labels.steps)):
        own = labels.class_indices(step)
        if own.start >= len(scores):
            break
        mine = (truth >= own.start) & (truth < own.stop)
        found[mine] = own.start + scores[own.start : own.stop][:, mine].argmax(0)
    return found


def masked_confusion(scores: np.ndarray, truth: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Counts of pixels by true class and best class of its step. Shape: int64 [K, K], rows truth; rows of classes still
    to come are 0."""
    n = len(labels.order)
    called = within_step(scores, truth, labels)
    counted = called != IGNORE
    codes = truth[counted].astype(np.int64) * n + called[counted]
    return np.bincount(codes, minlength=n * n).reshape(n, n)


def alone(labels: LabelSpace) -> np.ndarray:
    """Whether a class is the only one of its step, so that it cannot be wrong within it. Shape: bool [K]."""
    return np.array([len(labels.steps[labels.step_of(k)]) == 1 for k in range(len(labels.order))])
