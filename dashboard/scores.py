"""The numbers of a run that the pages show: one confusion matrix a step, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dashboard import loaders
from lag_core import metrics
from lag_core.runs import Run

HEADLINE: Mapping[str, str] = {
    "old": "Old",
    "new": "New",
    "all": "All",
    "harmonic": "Harmonic",
    "average": "Average",
    "forgetting": "Forgetting",
    "bwt": "BWT",
}
"""Measures in the order in which they are shown, with their titles."""

LOWER_IS_BETTER = ("forgetting",)


@dataclass(frozen=True)
class Scores:
    """What one run reached on one set of validation images."""

    confusions: np.ndarray
    """int64 [T, K, K], rows truth."""
    ious: np.ndarray
    """float64 [T, K] fractions, NaN before a class is introduced."""
    summaries: tuple[metrics.Summary, ...]
    """Old, new and all after each step."""

    def series(self) -> dict[str, np.ndarray]:
        """Old, new and all over the steps, fractions [T]."""
        return {name: np.array([getattr(s, name) for s in self.summaries]) for name in ("old", "new", "all")}

    def headline(self, step: int) -> dict[str, float]:
        """Every measure of HEADLINE as it stood after `step`, as fractions; NaN where it is not defined."""
        now, ious = self.summaries[step], self.ious[: step + 1]
        return {
            "old": now.old,
            "new": now.new,
            "all": now.all,
            "harmonic": now.harmonic,
            "average": metrics.average(ious),
            "forgetting": metrics.mean_forgetting(ious),
            "bwt": metrics.bwt(ious) if step else float("nan"),
        }


def scores(run: Run, domain: str | None = None) -> Scores | None:
    """The scores of a run, on the images of one domain or of all; None where it was not evaluated."""
    matrices = loaders.confusions(run, domain)
    if matrices is None:
        return None
    return Scores(
        matrices,
        metrics.iou_matrix(matrices, run.labels),
        tuple(_summary(matrices[t], run, t) for t in range(len(matrices))),
    )


def _summary(matrix: np.ndarray, run: Run, step: int) -> metrics.Summary:
    """Old/new/all by the steps of the *task*: joint training is one step, yet its classes are old and new."""
    ious = metrics.iou(metrics.seen_only(matrix, run.labels.seen(step)))
    joint = run.labels.steps != run.grouping.steps
    return metrics.summarise(ious, run.grouping, len(run.grouping.steps) - 1 if joint else step)
