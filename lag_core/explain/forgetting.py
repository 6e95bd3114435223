"""What was lost, and where: the fate of each pixel over the steps, from label maps and the truth. Pure NumPy.

Labels are class indices (order of introduction), uint8, 255 = not annotated. A pixel of class c is followed
from the step s that introduces c. At each step t >= s it is in one of five states:

| state | right at t | before t |
|---|---|---|
| never | no | at no step s..t-1 right either |
| learned | yes | at no step s..t-1 right: t is the first time |
| kept | yes | right at every step since it first was, and that was before t |
| forgotten | no | right at some step s..t-1 |
| recovered | yes | right at some step and wrong at a later one, both before t |

Before s it is `absent`, without an annotation `ignored`. Terms and definitions are ours; the paper has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from lag_core import metrics
from lag_core.protocol import IGNORE, LabelSpace
from lag_core.runs import Run, RunError

NO_STEP = -1
"""Stands for "at no step" in arrays of steps."""


class Fate(IntEnum):
    """State of a pixel after a step; the values are those of the arrays."""

    NEVER = 0
    LEARNED = 1
    KEPT = 2
    FORGOTTEN = 3
    RECOVERED = 4
    ABSENT = 5
    IGNORED = 6


@dataclass(frozen=True)
class Provenance:
    """What became of each pixel by one step. All arrays have the shape [H, W]."""

    step: int
    state: np.ndarray
    """uint8, values of `Fate`."""
    first_right: np.ndarray
    """int16, first step at which the pixel was right; -1: never so far."""
    right_since: np.ndarray
    """int16, step since which it has been right without a break; -1: it is wrong now."""
    lost_at: np.ndarray
    """int16, step of its last loss: right at the previous step, wrong at this one; -1: never lost."""
    went_to: np.ndarray
    """uint8, class index predicted at `lost_at`, the class it was lost to; 255: never lost."""

    def counts(self) -> dict[Fate, int]:
        """Number of pixels in each state."""
        counted = np.bincount(self.state.ravel(), minlength=len(Fate))
        return {fate: int(counted[fate]) for fate in Fate}


def provenance(predictions: np.ndarray, truth: np.ndarray, labels: LabelSpace, step: int | None = None) -> Provenance:
    """The fate of every pixel by `step` (default: the last).

    Shape: predictions uint8 [T, H, W], one map per step from step 0 on; truth uint8 [H, W].
    """
    last = _checked_step(predictions, truth, step)
    right, start = _right(predictions, truth), _introduced(truth, labels)
    first, since = np.full(truth.shape, NO_STEP, np.int16), np.full(truth.shape, NO_STEP, np.int16)
    lost, target = np.full(truth.shape, NO_STEP, np.int16), np.full(truth.shape, IGNORE, np.uint8)
    for t in range(last + 1):
        now = right[t] & (t >= start)
        gone = ~now & (since >= 0)
        lost[gone], target[gone] = t, predictions[t][gone]
        since[now & (since < 0)] = t
        since[gone] = NO_STEP
        first[now & (first < 0)] = t
    state = _state(last, start, first, since, lost)
    state[truth == IGNORE] = Fate.IGNORED
    return Provenance(last, state, first, since, lost, target)


def _state(step: int, start: np.ndarray, first: np.ndarray, since: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Fate of annotated pixels at `step`, uint8 [H, W]."""
    conditions = [step < start, first < 0, since < 0, lost >= 0, first == step]
    fates = [Fate.ABSENT, Fate.NEVER, Fate.FORGOTTEN, Fate.RECOVERED, Fate.LEARNED]
    return np.select(conditions, [np.uint8(f) for f in fates], np.uint8(Fate.KEPT))


def fates(predictions: np.ndarray, truth: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """The state after each step. Shape: uint8 [T, H, W], [H, W] -> uint8 [T, H, W], values of `Fate`."""
    return np.stack([provenance(predictions, truth, labels, t).state for t in range(len(predictions))])


def lost_pixels(predictions: np.ndarray, truth: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Pixels of each true class that are forgotten after each step.

    Shape: uint8 [T, H, W], [H, W] -> int64 [T, K].
    """
    _checked_step(predictions, truth, None)
    right, start = _right(predictions, truth), _introduced(truth, labels)
    counts = np.zeros((len(predictions), len(labels.order)), np.int64)
    once = np.zeros(truth.shape, bool)
    for t in range(len(predictions)):
        now = right[t] & (t >= start)
        counts[t] = _per_class(truth[once & ~now], len(labels.order))
        once |= now
    return counts


def transitions(predictions: np.ndarray, truth: np.ndarray, labels: LabelSpace, cls: int) -> np.ndarray:
    """Flows of a Sankey diagram: pixels of true class `cls` by class at step t (rows) and at t + 1 (columns).

    Shape: uint8 [T, H, W], [H, W] -> int64 [T - 1, K, K]. Every step is counted, also those before `cls` is
    introduced: where its pixels went until then is part of the picture.
    """
    _checked_step(predictions, truth, None)
    n, mine = len(labels.order), truth == cls
    flows = np.zeros((len(predictions) - 1, n, n), np.int64)
    for t, flow in enumerate(flows):
        before, after = predictions[t][mine].astype(np.int64), predictions[t + 1][mine]
        flow += np.bincount(before * n + after, minlength=n * n).reshape(n, n)
    return flows


@dataclass(frozen=True)
class BackgroundShift:
    """Where the pixels of old classes go. An old class at step t is one that was introduced before t.

    Counts, int64, of any leading shape [..., K]; rows of classes that are not old are 0. right + background +
    new + other_old is the number of the class's pixels. For the background's own row "background" is 0, as
    that is right. Source: docs/method.md#confusion.
    """

    right: np.ndarray
    background: np.ndarray
    """Predicted as background; 0 for a dataset without one."""
    new: np.ndarray
    """Predicted as a class that this step introduced."""
    other_old: np.ndarray
    """Predicted as another old class, background apart."""

    def shares(self) -> np.ndarray:
        """The four counts, in this order, as fractions.

        Shape: float64 [..., K, 4]; NaN for a class without pixels.
        """
        counts = np.stack([self.right, self.background, self.new, self.other_old], -1).astype(np.float64)
        total = counts.sum(-1, keepdims=True)
        return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def background_shift(confusions: np.ndarray, labels: LabelSpace) -> BackgroundShift:
    """Background shift of every step from confusion matrices, rows truth.

    Shape: int [T, K, K] -> counts [T, K].
    """
    parts = np.zeros((4, *confusions.shape[:2]), np.int64)
    for t, matrix in enumerate(confusions):
        fresh = labels.class_indices(t)
        old = range(fresh.start) if t else range(0)
        for k in old:
            row = matrix[k].astype(np.int64)
            background = int(row[0]) if labels.background is not None and k != 0 else 0
            new = int(row[fresh.start : fresh.stop].sum())
            parts[:, t, k] = row[k], background, new, int(row.sum()) - int(row[k]) - background - new
    return BackgroundShift(*parts)


@dataclass(frozen=True)
class ImageLoss:
    """How much of one image was lost by a step."""

    index: int
    """Place of the image in the ids that were given."""
    id: str
    lost: int
    """Forgotten pixels."""
    share: float
    """`lost` over the image's pixels of these classes; NaN where it has none."""


def rank_images(
    lost: np.ndarray, pixels: np.ndarray, ids: Sequence[str], step: int = -1, cls: int | None = None
) -> list[ImageLoss]:
    """Images by forgotten pixels after `step`, most first, equal ones in the order of `ids`.

    `cls` picks one true class; without it all classes are summed. Images that lost nothing are left out.

    Shape: lost int [N, T, K] (see `lost_pixels`), pixels int [N, K] pixels of each true class.
    """
    by_class = lost[:, step].astype(np.int64)
    gone = by_class.sum(1) if cls is None else by_class[:, cls]
    area = pixels.astype(np.int64).sum(1) if cls is None else pixels[:, cls].astype(np.int64)
    order = np.argsort(-gone, kind="stable")
    return [
        ImageLoss(int(i), ids[i], int(gone[i]), float(gone[i] / area[i]) if area[i] else float("nan"))
        for i in order
        if gone[i] > 0
    ]


@dataclass(frozen=True)
class RunForgetting:
    """What a run kept on its validation set. T steps, K class indices."""

    iou: np.ndarray
    """float64 [T, K], IoU of each class after each step; NaN before it is introduced."""
    forgetting_fixed: np.ndarray
    """float64 [K], forgetting on fixed pixels (metrics.forgetting_fixed); NaN for classes that the last step
    introduced."""
    mean_forgetting_fixed: float
    """Its mean over the classes known before the last step."""
    bwt_fixed: float
    """Backward transfer on fixed pixels, mean over the same classes."""
    forgetting: np.ndarray
    """float64 [K], as in the papers: the best earlier IoU less that of the last step, each on all pixels that its step
    knows."""
    mean_forgetting: float
    """Its mean over the classes known before the last step."""
    bwt: float
    """Backward transfer as in the papers: mean over the same classes of the last IoU less that of the step that
    introduced them."""
    intransigence: np.ndarray | None
    """float64 [K]; None without a joint run."""
    shift: BackgroundShift
    """Where the pixels of old classes go, counts [T, K]."""


def of_run(run: Run, joint: Run | None = None) -> RunForgetting:
    """Forgetting from the run's metrics. `joint`: a run of the same classes, trained on all at once.

    RunError for a run without metrics; ValueError for a joint run of other classes.
    """
    confusions = _confusions(run)
    ious = metrics.iou_matrix(confusions, run.labels)
    lacked = None
    if joint is not None:
        if joint.classes != run.classes:
            raise ValueError(f"{joint.name} has other classes than {run.name}, so their IoUs cannot be compared")
        lacked = intransigence(ious, metrics.iou_matrix(_confusions(joint), joint.labels)[-1])
    fixed = metrics.forgetting_fixed(confusions, run.labels)
    return RunForgetting(
        iou=ious,
        forgetting_fixed=fixed,
        mean_forgetting_fixed=metrics.mean(fixed),
        bwt_fixed=metrics.bwt_fixed(confusions, run.labels),
        forgetting=metrics.forgetting(ious),
        mean_forgetting=metrics.mean_forgetting(ious),
        bwt=metrics.bwt(ious),
        intransigence=lacked,
        shift=background_shift(confusions, run.labels),
    )


def _confusions(run: Run) -> np.ndarray:
    found = run.confusions()
    if found is None:
        raise RunError(f"{run.name} has no metrics yet: run `lag evaluate {run.path} --write`")
    return found


def intransigence(ious: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """joint_c - A[s_c, c]: what a class lacked, when it was introduced, to training on all data at once.

    Shape: IoU matrix float [T, K] (metrics.iou_matrix), IoUs of a joint run [K] -> float64 [K]. Source:
    docs/method.md#accuracy.
    """
    return joint - metrics.plasticity(ious)


@dataclass(frozen=True)
class Changes:
    """How the prediction changed over the steps, for a picture without a truth.

    Pixel arrays have the shape [H, W].
    """

    count: np.ndarray
    """uint8, number of steps at which the class changed."""
    first: np.ndarray
    """int16, first step with another class than the previous step; -1: never."""
    last: np.ndarray
    """int16, the last such step; -1: never."""
    before: np.ndarray
    """uint8, class index before the last change; 255: never changed."""
    after: np.ndarray
    """uint8, class index since the last change; 255: never changed."""
    to_new: np.ndarray
    """bool, whether the last change was to a class that its step introduced: expected where that class truly
    is."""
    shares: np.ndarray
    """float64 [T - 1], share of the pixels that changed at steps 1..T-1."""


def changes(predictions: np.ndarray, labels: LabelSpace) -> Changes:
    """Changes of the predicted class from step to step.

    Shape: uint8 [T, H, W]. Says nothing about right or wrong.
    """
    shape = predictions.shape[1:]
    count, first, last = (
        np.zeros(shape, np.uint8),
        np.full(shape, NO_STEP, np.int16),
        np.full(shape, NO_STEP, np.int16),
    )
    before, after = np.full(shape, IGNORE, np.uint8), np.full(shape, IGNORE, np.uint8)
    to_new, shares = np.zeros(shape, bool), np.zeros(len(predictions) - 1)
    for t in range(1, len(predictions)):
        moved = predictions[t] != predictions[t - 1]
        count += moved
        first[moved & (first < 0)] = t
        last[moved] = t
        before[moved], after[moved] = predictions[t - 1][moved], predictions[t][moved]
        to_new[moved] = np.isin(predictions[t][moved], list(labels.class_indices(t)))
        shares[t - 1] = moved.mean()
    return Changes(count, first, last, before, after, to_new, shares)


def _checked_step(predictions: np.ndarray, truth: np.ndarray, step: int | None) -> int:
    """The step as 0..T-1. ValueError for shapes that do not fit and for a missing step."""
    if predictions.ndim != 3 or predictions.shape[1:] != truth.shape:
        raise ValueError(
            f"predictions {predictions.shape} do not fit the truth {truth.shape}: expected [T, H, W] and [H, W]"
        )
    last = len(predictions) - 1 if step is None else step
    if not 0 <= last < len(predictions):
        raise ValueError(f"there is no step {step}: the label maps are of steps 0 to {len(predictions) - 1}")
    return last


def _right(predictions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """bool [T, H, W]; pixels without an annotation are never right."""
    return (predictions == truth) & (truth != IGNORE)


def _introduced(truth: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Step that introduces each pixel's class, int16 [H, W]; past every step where nothing is annotated."""
    table = np.full(256, np.iinfo(np.int16).max, np.int16)
    table[: len(labels.order)] = [labels.step_of(k) for k in range(len(labels.order))]
    return table[truth]


def _per_class(values: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(values, minlength=n)[:n]
