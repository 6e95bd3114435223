"""Runs in numbers, side by side: what `evaluate` and `compare` print and the dashboard's tables show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lag_core import metrics
from lag_core.runs import Run


@dataclass(frozen=True)
class Row:
    """One run, or one step of it; fractions 0..1, NaN where a number is not defined."""

    name: str
    method: str
    old: float
    new: float
    all: float
    harmonic: float
    average: float
    forgetting: float
    bwt: float

    def as_dict(self) -> dict[str, object]:
        """For JSON: NaN becomes null."""
        pairs = vars(self).items()
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in pairs}


def row(run: Run, confusions: np.ndarray, step: int | None = None) -> Row:
    """The numbers of `run` after `step` (default: the last), from confusion matrices int64 [T, K, K].

    A joint run has one step, which is measured with the old and new classes of its task.
    """
    last = len(confusions) - 1 if step is None else step
    grouped = last if len(run.labels.steps) > 1 else len(run.grouping.steps) - 1
    summary = metrics.summary(confusions[last], run.grouping, grouped)
    several = last > 0
    ious = metrics.iou_matrix(confusions[: last + 1], run.labels)
    return Row(
        name=run.name if step is None else f"step {step}",
        method=run.method,
        old=summary.old,
        new=summary.new,
        all=summary.all,
        harmonic=summary.harmonic,
        average=metrics.average(ious),
        forgetting=metrics.mean_forgetting(ious) if several else math.nan,
        bwt=metrics.bwt(ious) if several else math.nan,
    )


def step_rows(run: Run, confusions: np.ndarray) -> list[Row]:
    """A row for each step."""
    return [row(run, confusions, step) for step in range(len(confusions))]


def table(rows: Sequence[Row]) -> str:
    """Plain text, in percent."""
    numbers = ("old", "new", "all", "harmonic", "average", "forgetting", "bwt")
    width = max([len(r.name) for r in rows] + [4])
    lines = [" ".join(["run".ljust(width), *(n.rjust(10) for n in numbers)])]
    for r in rows:
        values = (getattr(r, n) for n in numbers)
        lines.append(" ".join([r.name.ljust(width), *(percent(v).rjust(10) for v in values)]))
    return "\n".join(lines)


def percent(value: float) -> str:
    """Two decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
