"""Measuring runs of any kind, for the commands that write or check their metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lag_core.capabilities import require
from lag_core.data.dataset import Dataset
from lag_core.runs import Run
from lag_core.sentences import say

if TYPE_CHECKING:
    from lag_core.training.evaluation import Listener
    from lag_core.training.features import Progress


def measured(
    run: Run,
    dataset: Dataset,
    bar: Progress,
    device: str,
    listener: Listener | None = None,
    windows: float | None = None,
) -> list[dict[str, np.ndarray]]:
    """Confusion matrices int64 [K, K] by domain, of each step, on the images that the run measures on.

    `windows`: overlap of windows at an image's own resolution; None: the run's own way.
    """
    from lag_core.explain.measuring import confusions, window_confusions
    from lag_core.training.evaluation import evaluate, measured_ids

    if windows is not None:
        require(run, "logits")
        names = bar(measured_ids(dataset, run.config.data), "validation")
        return window_confusions(run, dataset, names, windows, device, listener)
    if run.kind == "segmenter":
        return evaluate(run, dataset, bar, device, listener)
    return confusions(run, dataset, bar(measured_ids(dataset, run.config.data), "validation"), device, listener)


def write_measured(run: Run, dataset: Dataset, device: str) -> None:
    """Measure a run, write its metrics.json, and print its table."""
    from lag_core.comparison import step_rows, table
    from lag_core.training.evaluation import measured_ids, totals, write_metrics
    from lag_core.training.reporting import Reporter

    found = measured(run, dataset, Reporter(False).bar, device)
    write_metrics(run.path / "metrics.json", found, len(measured_ids(dataset, run.config.data)))
    say(table(step_rows(run, totals(found))))
