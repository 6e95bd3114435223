"""From label maps to IoU, old/new/all, forgetting and backward transfer. Pure NumPy.

Everything follows from one confusion matrix per step: rows are the truth, columns the prediction, both as class
indices (order of introduction). All measures are fractions 0..1, never percent; NaN means "not defined here"
(a class that occurs neither in truth nor prediction, a step that has no new classes) and is left out of every
mean.

Forgetting and backward transfer exist twice. *As in the papers* (`forgetting`, `bwt`), each step's IoU counts the
pixels of all classes known at that step. So pixels of later classes are ignored at first and counted afterwards, and
a network that never changes seems to forget. *On fixed pixels* (`forgetting_fixed`, `bwt_fixed`; ours), an earlier
step s and a later step t are compared on the same pixels: those whose true class is known at s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lag_core.protocol import IGNORE, LabelSpace

_AT_ONCE = 4 * 2**20
"""Pixels that are counted at once, at 8 bytes each."""


def confusion(truth: np.ndarray, prediction: np.ndarray, n: int) -> np.ndarray:
    """Counts of pixels by true and predicted class.

    Shape: integers [...], [...] -> int64 [n, n]; rows truth, columns prediction. Truth 255 is ignored.
    ValueError for any other label outside 0..n-1, also for a prediction of 255 on a pixel that counts: a
    model must predict everywhere, and `seen_only` drops labels that it has not learned.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}: they must be equal")
    counts = np.zeros(n * n, np.int64)
    flat = truth.reshape(-1), prediction.reshape(-1)
    for begin in range(0, truth.size, _AT_ONCE):
        true, called = (one[begin : begin + _AT_ONCE] for one in flat)
        valid = true != IGNORE
        rows, columns = true[valid].astype(np.int64), called[valid].astype(np.int64)
        _check_labels("truth", rows, n)
        _check_labels("prediction", columns, n)
        counts += np.bincount(rows * n + columns, minlength=n * n)
    return counts.reshape(n, n)


def added(counted: Sequence[list[dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
    """The sum of several processes' counts: confusion matrices of each step by domain."""
    first, *others = counted
    for other in others:
        for total, more in zip(first, other, strict=True):
            for domain, matrix in more.items():
                total[domain] = total[domain] + matrix if domain in total else matrix
    return first


def _check_labels(what: str, labels: np.ndarray, n: int) -> None:
    foreign = labels[(labels < 0) | (labels >= n)]
    if foreign.size:
        raise ValueError(f"the {what} holds label {foreign[0]}: expected class indices 0..{n - 1}")


def seen_only(matrix: np.ndarray, seen: int) -> np.ndarray:
    """The confusion matrix without the rows of classes that are still to come (docs/method.md#setting: their pixels
    are ignored, not counted as background). Shape: [n, n] -> [n, n], rows from `seen` on are zero."""
    result = matrix.copy()
    result[seen:] = 0
    return result


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class. Shape: integers [n, n] -> float64 [n].

    NaN for a class in neither truth nor prediction; 0 for one that is predicted but never true.
    """
    hits = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


@dataclass(frozen=True)
class Summary:
    """Mean IoUs after a step, as fractions 0..1; NaN where there are no such classes."""

    old: float
    """Classes of step 0, background included: the field's convention in tables (MiB counts without)."""
    new: float
    """Classes of the steps after step 0 that are known by now."""
    all: float
    """All classes that are known by now."""
    harmonic: float
    """Harmonic mean of old and new."""
    old_without_background: float


def summary(matrix: np.ndarray, labels: LabelSpace, step: int) -> Summary:
    """old/new/all of a confusion matrix [n, n] taken after `step`; classes still to come are ignored."""
    return summarise(iou(seen_only(matrix, labels.seen(step))), labels, step)


def summarise(ious: np.ndarray, labels: LabelSpace, step: int) -> Summary:
    """old/new/all of the IoUs [n] of the classes after `step`."""
    first, seen = labels.seen(0), labels.seen(step)
    foreground = int(labels.background is not None)
    old, new = mean(ious[:first]), mean(ious[first:seen])
    return Summary(old, new, mean(ious[:seen]), harmonic_mean(old, new), mean(ious[foreground:first]))


def mean(values: np.ndarray | Sequence[float]) -> float:
    """Mean of the values that are defined; NaN, without a warning, if none is."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else float("nan")


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 if both are 0; NaN if one is."""
    return 2 * a * b / (a + b) if a + b != 0 else 0.0


def iou_matrix(confusions: np.ndarray | Sequence[np.ndarray], labels: LabelSpace) -> np.ndarray:
    """A[t, c], the IoU of class c after step t. Shape: [T, n, n] -> float64 [T, n], NaN before c is
    introduced."""
    rows = []
    for step, matrix in enumerate(confusions):
        seen = labels.seen(step)
        row = iou(seen_only(matrix, seen))
        row[seen:] = np.nan
        rows.append(row)
    return np.array(rows)


def iou_between(confusions: np.ndarray | Sequence[np.ndarray], labels: LabelSpace, s: int, t: int) -> np.ndarray:
    """IoU of each class after step t, on the fixed pixels of step s: those whose true class is known at s.

    Shape: int [T, n, n] -> float64 [n]; NaN for classes that s does not know. With s = t this is row t of
    `iou_matrix`. ValueError for s > t: an earlier step cannot have known the pixels of a later one.
    """
    if s > t:
        raise ValueError(f"fixed pixels are those of the earlier step: got steps {s} and {t}")
    seen = labels.seen(s)
    result = iou(seen_only(confusions[t], seen))
    result[seen:] = np.nan
    return result


def drops(
    confusions: np.ndarray | Sequence[np.ndarray], labels: LabelSpace, among: np.ndarray | None = None
) -> np.ndarray:
    """IoU of each class at each earlier step s less that at the last step, both on the fixed pixels of s.

    Shape: int [T, n, n] -> float64 [T - 1, n]; NaN where s does not know the class. `among`: bool [n], the classes that
    count; the others are NaN.
    """
    last = len(confusions) - 1
    rows = [
        iou_between(confusions, labels, s, s) - iou_between(confusions, labels, s, last) for s in range(max(last, 0))
    ]
    found = np.array(rows).reshape(len(rows), len(labels.order))
    return found if among is None else np.where(among, found, np.nan)


def forgetting_fixed(
    confusions: np.ndarray | Sequence[np.ndarray], labels: LabelSpace, among: np.ndarray | None = None
) -> np.ndarray:
    """Largest of `drops` of each class: its forgetting on fixed pixels.

    Shape: int [T, n, n] -> float64 [n]; NaN for classes that the last step introduced.
    """
    return np.fmax.reduce(drops(confusions, labels, among), axis=0, initial=np.nan)


def bwt_fixed(
    confusions: np.ndarray | Sequence[np.ndarray], labels: LabelSpace, among: np.ndarray | None = None
) -> float:
    """Backward transfer on fixed pixels: mean over the older classes (those of `among`, as in `drops`) of the last IoU
    less that of the step that introduced the class, both on the pixels known at that step."""
    found = drops(confusions, labels, among)
    older = range(labels.seen(len(found) - 1)) if len(found) else range(0)
    return mean([-found[labels.step_of(c), c] for c in older])


def forgetting(ious: np.ndarray) -> np.ndarray:
    """As in the papers: max over earlier steps of A[s, c], minus A[last, c]; negative if the class is better than ever.

    Shape: [T, n] -> [n], NaN for classes that the last step introduced.
    """
    best = np.full(ious.shape[1], np.nan)
    for row in ious[:-1]:
        best = np.fmax(best, row)
    return best - ious[-1]


def mean_forgetting(ious: np.ndarray) -> float:
    """Mean `forgetting`, as in the papers, over the classes known before the last step."""
    return mean(forgetting(ious))


def plasticity(ious: np.ndarray) -> np.ndarray:
    """A[s_c, c], how well each class was learned at the step s_c that introduced it. Shape: [T, n] -> [n]."""
    defined = ~np.isnan(ious)
    return np.where(defined.any(0), ious[defined.argmax(0), np.arange(ious.shape[1])], np.nan)


def bwt(ious: np.ndarray) -> float:
    """Backward transfer as in the papers: mean of A[last, c] - A[s_c, c] over the classes known before the last
    step."""
    known = ~np.isnan(ious[:-1]).all(0)
    return mean((ious[-1] - plasticity(ious))[known])


def average(ious: np.ndarray) -> float:
    """Mean over all steps, step 0 included, of the mean IoU of the classes known there. Shape: [T, n] ->
    scalar."""
    return mean([mean(row) for row in ious])
