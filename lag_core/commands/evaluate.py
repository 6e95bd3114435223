"""Measure every step of a run on its validation set, and hold it against the stored numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lag_core.commands.adopt import add_device
from lag_core.runs import Run, RunError, open_run
from lag_core.sentences import say

if TYPE_CHECKING:
    from lag_core.training.features import Item, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="dataset folder (default: the one that the run names)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="replace the stored metrics")


def run(options: argparse.Namespace) -> int:
    from lag_core.commands.measuring import measured as measure
    from lag_core.comparison import step_rows, table
    from lag_core.device import device_named
    from lag_core.training.evaluation import measured_ids, totals, write_metrics
    from lag_core.training.reporting import Reporter

    opened = open_run(options.run)
    opened.checked_step()
    dataset = opened.open_dataset(options.data)
    bar = Reporter(options.json).bar
    by_domain = measure(opened, dataset, bar if options.json else _announced(bar), device_named(options.device))
    measured = totals(by_domain)
    verdict = "different" if options.write else _verdict(opened, measured)
    if options.write:
        write_metrics(opened.path / "metrics.json", by_domain, len(measured_ids(dataset, opened.config.data)))
        verdict = "written"
    rows = step_rows(opened, measured)
    if options.json:
        steps = [{**r.as_dict(), "confusion": m.tolist()} for r, m in zip(rows, measured, strict=True)]
        say(json.dumps({"run": opened.name, "stored": verdict, "steps": steps}))
    else:
        say(table(rows))
        say(_SENTENCES[verdict])
    return 0


def _announced(bar: Progress) -> Progress:
    """`bar`, with a line before it: where no terminal shows bars, a minute without a word looks like a standstill."""

    def begin(items: Sequence[Item], what: str) -> Iterator[Item]:
        say(f"{what}, {len(items)} batches …", flush=True)
        return bar(items, what)

    return begin


ROUNDING = 1e-5
"""Share of pixels between two classes that change sides when another machine, or number of threads, rounds."""

_SENTENCES = {
    "equal": "equal to the stored metrics, pixel by pixel",
    "close": "equal to the stored metrics but for a few pixels in a million, as another machine rounds them",
    "different": "different from the stored metrics",
    "unreadable": "the stored metrics are missing or damaged; --write replaces them",
    "written": "written as the stored metrics",
}


def _verdict(run: Run, measured: np.ndarray) -> str:
    """How the stored confusion matrices compare: a key of `_SENTENCES`."""
    try:
        stored = run.confusions()
    except RunError:
        stored = None
    if stored is None:
        return "unreadable"
    if stored.shape != measured.shape:
        return "different"
    moved = np.abs(stored - measured).sum() / 2
    return "equal" if moved == 0 else "close" if moved <= ROUNDING * stored.sum() else "different"
