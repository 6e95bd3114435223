"""Measure every step of a run on its validation set, and hold it against the stored numbers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="dataset folder (default: the one that the run names)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="replace the stored metrics")


def run(options: argparse.Namespace) -> int:
    from lag_core.comparison import step_rows, table
    from lag_core.runs import open_run
    from lag_core.training.evaluation import evaluate, write_metrics
    from lag_core.training.reporting import Reporter

    opened = open_run(options.run)
    dataset = opened.open_dataset(options.data)
    by_domain = evaluate(opened, dataset, Reporter(options.json).bar)
    measured = np.stack([sum(one.values()) for one in by_domain])
    stored = opened.confusions()
    equal = stored is not None and np.array_equal(stored, measured)
    if options.write:
        write_metrics(opened.path / "metrics.json", by_domain, len(dataset.ids("val")))
    rows = step_rows(opened, measured)
    if options.json:
        print(json.dumps({"run": opened.name, "equals_stored": equal, "steps": [r.as_dict() for r in rows]}, indent=1))
    else:
        print(table(rows))
        print("equal to the stored metrics, pixel by pixel" if equal else "different from the stored metrics")
    return 0
