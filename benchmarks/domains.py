"""IoU of each domain by itself, from the surveys of the aerial runs.

A method may learn in one domain what it loses in the other.

    python benchmarks/domains.py                          # the runs that ship, after their last step
    python benchmarks/domains.py --runs RUN RUN --step 1

Prints a Markdown table; needs no network, as a survey counts the pixels of each validation tile.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lag_core.explain.survey import read_survey
from lag_core.metrics import iou
from lag_core.runs import Run, open_run

ROOT = Path(__file__).parents[1]
DOMAINS = {"both": "", "colour": "rgb-", "infrared": "irrg-"}
"""Name -> how the ids of its tiles begin (lag_core/data/aerial.py)."""


def rows(run: Run, step: int) -> Iterator[list[str]]:
    """Cells of a run's rows, one a domain: IoU in percent of each class known at `step`, and their mean."""
    survey = read_survey(run)
    if survey is None or survey.pictures is None:
        raise SystemExit(f"{run.name}: its survey has no counts by picture; make one with `lag survey`")
    names = run.open_dataset().ids("val")
    for domain, prefix in DOMAINS.items():
        chosen = np.array([name.startswith(prefix) for name in names])
        found = 100 * iou(survey.pictures.confusions(chosen)[step])[: run.labels.seen(step)]
        yield [run.name, domain, *(f"{value:.1f}" for value in found), f"{np.nanmean(found):.1f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=sorted((ROOT / "checkpoints").glob("aerial-*")))
    parser.add_argument("--step", type=int, help="default: the last")
    asked = parser.parse_args()
    runs = [open_run(path) for path in asked.runs]
    step = runs[0].last_step if asked.step is None else asked.step
    known = [one.name for one in runs[0].classes[: runs[0].labels.seen(step)]]
    head = ["run", "domain", *known, "mean"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for run in runs:
        for cells in rows(run, step):
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
