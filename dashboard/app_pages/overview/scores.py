"""The numbers of a run that the pages show: one confusion matrix per step, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dashboard.cache import loaders
from dashboard.picture.measured_on import MeasuredOn
from lag_core import metrics
from lag_core.explain.why import was_learned
from lag_core.protocol import LabelSpace
from lag_core.runs import Run

HEADLINE: Mapping[str, str] = {
    "old_without_background": "Old",
    "new": "New",
    "all": "All",
    "harmonic": "Harmonic",
    "average": "Average",
    "forgetting_fixed": "Forgetting",
    "bwt_fixed": "BWT",
}
"""Measures in the order in which they are shown, with their titles."""

BESIDE: Mapping[str, tuple[str, str]] = {
    "old_without_background": ("old", "with background"),
    "forgetting_fixed": ("forgetting", "as in the papers"),
    "bwt_fixed": ("bwt", "as in the papers"),
}
"""Measures that stand beside one of HEADLINE, with what tells the two apart."""

COLUMNS: Mapping[str, str] = {
    **HEADLINE,
    "old": "Old + bg",
    "forgetting": "Forgetting*",
    "bwt": "BWT*",
}
"""Every measure with its heading in tables; * is "as in the papers"."""

LOWER_IS_BETTER = ("forgetting_fixed",)

OF_CHANGE = ("forgetting_fixed", "bwt_fixed")
"""Measures of what was lost, not of what is left: a run that learned nothing has the best of them."""


@dataclass(frozen=True)
class Scores:
    """What one run reached on one set of validation images."""

    confusions: np.ndarray
    """int64 [T, K, K], rows truth."""
    ious: np.ndarray
    """float64 [T, K] fractions, NaN before a class is introduced, and for one that `shown` leaves out."""
    summaries: tuple[metrics.Summary, ...]
    """Old, new and all after each step."""
    labels: LabelSpace
    """Of the run."""
    shown: np.ndarray
    """bool [K]: classes that count. On a chosen part of the pictures, those that some picture shows."""
    whole: np.ndarray
    """As `ious`, on all pictures: whether the run ever learned a class does not depend on the part."""

    def series(self) -> dict[str, np.ndarray]:
        """Old (without background), new and all over the steps, fractions [T]."""
        names = {"old": "old_without_background", "new": "new", "all": "all"}
        return {name: np.array([getattr(s, of) for s in self.summaries]) for name, of in names.items()}

    def headline(self, step: int) -> dict[str, float]:
        """Every measure of COLUMNS as it stood after `step`, as fractions; NaN where it is not defined."""
        now, ious, history = self.summaries[step], self.ious[: step + 1], self.confusions[: step + 1]
        return {
            "old_without_background": now.old_without_background,
            "old": now.old,
            "new": now.new,
            "all": now.all,
            "harmonic": now.harmonic,
            "average": metrics.average(ious),
            "forgetting_fixed": metrics.mean(metrics.forgetting_fixed(history, self.labels, self.shown)),
            "bwt_fixed": metrics.bwt_fixed(history, self.labels, self.shown),
            "forgetting": metrics.mean_forgetting(ious),
            "bwt": metrics.bwt(ious) if step else float("nan"),
        }

    def never_learned(self, step: int) -> list[int]:
        """Older classes, background apart, that no step up to `step` taught (`why.was_learned`)."""
        older = range(int(self.labels.background is not None), self.labels.seen(step - 1) if step else 0)
        return [c for c in older if not was_learned(self.whole[self.labels.step_of(c) : step + 1, c])]

    def not_shown(self, step: int) -> list[int]:
        """Classes known after `step`, background apart, that no chosen picture shows."""
        known = range(int(self.labels.background is not None), self.labels.seen(step))
        return [c for c in known if not self.shown[c]]


def scores(run: Run, domain: str | None = None, own: MeasuredOn | None = None) -> Scores | None:
    """The scores of a run, on the images of one domain or of all, or on a chosen part of its pictures; None where it
    was not evaluated.

    On a part, a class that none of its pictures shows does not count: with one pixel called so, its IoU would be 0.
    """
    every = loaders.confusions(run, domain)
    matrices = every if own is None else own.confusions(domain)
    if matrices is None or not len(matrices):
        return None
    shown = np.ones(matrices.shape[1], bool) if own is None else matrices[-1].sum(1) > 0
    return Scores(
        matrices,
        np.where(shown, metrics.iou_matrix(matrices, run.labels), np.nan),
        tuple(_summary(matrices[t], run, t, shown) for t in range(len(matrices))),
        run.labels,
        shown,
        metrics.iou_matrix(matrices if every is None else every, run.labels),
    )


def _summary(matrix: np.ndarray, run: Run, step: int, shown: np.ndarray) -> metrics.Summary:
    """Old/new/all by the steps of the *task*: joint training is one step, yet its classes are old and new."""
    ious = np.where(shown, metrics.iou(metrics.seen_only(matrix, run.labels.seen(step))), np.nan)
    joint = run.labels.steps != run.grouping.steps
    return metrics.summarise(ious, run.grouping, len(run.grouping.steps) - 1 if joint else step)
