"""The numbers of runs, side by side, as `evaluate` and `compare` print them and the dashboard's tables show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lag_core import metrics
from lag_core.runs import Run

COLUMNS: Mapping[str, str] = {
    "old_without_background": "old",
    "old": "old+bg",
    "new": "new",
    "all": "all",
    "harmonic": "harmonic",
    "average": "average",
    "forgetting_fixed": "forgetting",
    "bwt_fixed": "bwt",
    "forgetting": "forgetting*",
    "bwt": "bwt*",
}
"""Numbers of a `Row` in the order in which tables show them, with their headings."""

LOWER_IS_BETTER = frozenset({"forgetting_fixed", "forgetting"})
"""Columns whose lowest number is the best; of the others, the highest is."""

NOTES = (
    "old: classes of step 0 without the background; old+bg: with it, as in the papers (also in all and harmonic).",
    "forgetting, bwt: each class on the same pixels at both steps, those whose class the earlier step knows.",
    "* as in the papers: each step on all pixels that it knows, so newly counted pixels look like forgetting.",
)
"""The meaning of the headings of `COLUMNS`, one sentence each."""


@dataclass(frozen=True)
class Row:
    """One run, or one step of it; fractions 0..1, NaN where a number is not defined."""

    name: str
    method: str
    old_without_background: float
    """Mean IoU of the classes of step 0, without background."""
    old: float
    """The same with the background: the convention of the papers."""
    new: float
    all: float
    harmonic: float
    average: float
    forgetting_fixed: float
    """Mean forgetting on fixed pixels (metrics.forgetting_fixed)."""
    bwt_fixed: float
    forgetting: float
    """Mean forgetting as in the papers (metrics.forgetting)."""
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
    history = confusions[: last + 1]
    ious = metrics.iou_matrix(history, run.labels)
    return Row(
        name=run.name if step is None else f"step {step}",
        method=run.method,
        old_without_background=summary.old_without_background,
        old=summary.old,
        new=summary.new,
        all=summary.all,
        harmonic=summary.harmonic,
        average=metrics.average(ious),
        forgetting_fixed=metrics.mean(metrics.forgetting_fixed(history, run.labels)),
        bwt_fixed=metrics.bwt_fixed(history, run.labels),
        forgetting=metrics.mean_forgetting(ious) if several else math.nan,
        bwt=metrics.bwt(ious) if several else math.nan,
    )


def step_rows(run: Run, confusions: np.ndarray) -> list[Row]:
    """A row for each step."""
    return [row(run, confusions, step) for step in range(len(confusions))]


def table(rows: Sequence[Row]) -> str:
    """Plain text, in percent, with `NOTES` below."""
    width = max([len(r.name) for r in rows] + [4])
    lines = [" ".join(["run".ljust(width), *(heading.rjust(11) for heading in COLUMNS.values())])]
    for r in rows:
        values = (getattr(r, name) for name in COLUMNS)
        lines.append(" ".join([r.name.ljust(width), *(percent(v).rjust(11) for v in values)]))
    return "\n".join([*lines, *NOTES])


def percent(value: float) -> str:
    """Two decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
