"""What a step got wrong in a picture, in words: of the classes it knows, and of those that come later."""

from __future__ import annotations

import numpy as np

from dashboard.picture import predictions
from dashboard.ui import untrusted
from dashboard.ui.wording import percent
from lag_core.runs import Run

FOUND = 0.1
"""A class that was never right on a larger share of its pixels was never found."""

TOLD = 0.1
"""A later class is told if a larger share of its pixels is called another class."""


def known_sentence(run: Run, truth: np.ndarray, shares: np.ndarray) -> str:
    """Which known class adds most to the pixels that are wrong now, and one that was never found.

    shares: float [T, K], of each class's pixels, those right after steps 0 .. now; NaN if absent or not introduced.
    """
    missed = _missed(run, truth, shares)
    cls = int(missed.argmax())
    told = [_lost_or_not_found(run, shares, cls) if missed[cls] > 0 else "No class has lost a pixel."]
    unfound = np.where(_best(shares) < FOUND, missed, 0)
    other = int(unfound.argmax())
    if unfound[other] > 0 and other != cls:
        told.append(_not_found(run, shares, other))
    return " ".join(told)


def never_found_sentence(run: Run, truth: np.ndarray, shares: np.ndarray) -> str:
    """The largest known class that was never found; empty if there is none. Arguments as in `known_sentence`."""
    unfound = np.where(_best(shares) < FOUND, _missed(run, truth, shares), 0)
    cls = int(unfound.argmax())
    return _not_found(run, shares, cls) if unfound[cls] > 0 else ""


def later_sentence(run: Run, truth: np.ndarray, labels: np.ndarray, step: int) -> str:
    """A class that comes after `step` and is called another class now; empty if there is none."""
    count, seen = len(run.classes), run.labels.seen(step)
    first = int(run.labels.background is not None)
    found = np.zeros((count, count), np.int64)
    mine = (truth < count) & (labels < count)
    np.add.at(found, (truth[mine], labels[mine]), 1)
    called = found[seen:, first:]
    if not called.size or not called.any():
        return ""
    later, other = np.unravel_index(int(called.argmax()), called.shape)
    cls, share = seen + int(later), float(called[later, other] / (truth == seen + later).sum())
    if share < TOLD:
        return ""
    return (
        f"{_name(run, cls)} comes at step {run.labels.step_of(cls)}; {percent(share)} of its pixels are called "
        f"{_name(run, first + int(other))}."
    )


def _missed(run: Run, truth: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """float [K]: the pixels by which each class makes the share of right ones fall.

    Those of a class of step 0 count from its best step. Of a later class, and of one that was never found, all that
    are wrong count.
    """
    best = _best(shares)
    best[run.labels.seen(0) :] = 1
    best[best < FOUND] = 1
    counts = np.bincount(truth[truth < len(run.classes)], minlength=len(run.classes))
    return np.where(np.isnan(shares[-1]), 0, best - np.nan_to_num(shares[-1])) * counts


def _best(shares: np.ndarray) -> np.ndarray:
    """float [K]: the largest share of each class so far; 0 where it has none."""
    return np.nan_to_num(shares).max(0)


def _lost_or_not_found(run: Run, shares: np.ndarray, cls: int) -> str:
    best, now = _best(shares)[cls], shares[-1, cls]
    later = run.labels.step_of(cls) > 0
    if best < FOUND or (later and best - now < 1 - best):
        return _not_found(run, shares, cls)
    if percent(best) == percent(now):
        return "Almost no pixel was lost."
    step = int(np.nanargmax(shares[:, cls]))
    return (
        f"{_name(run, cls)} lost most: {percent(best)} of its pixels were right after step {step}, "
        f"{percent(now)} are now."
    )


def _not_found(run: Run, shares: np.ndarray, cls: int) -> str:
    now = shares[-1, cls]
    found = "none" if now == 0 else percent(now)
    return f"{_name(run, cls)}, learned at step {run.labels.step_of(cls)}, is found on {found} of its pixels."


def _name(run: Run, cls: int) -> str:
    return f"**{untrusted.name(predictions.class_names(run)[cls])}**"
