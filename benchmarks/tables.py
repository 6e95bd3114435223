"""Markdown tables of the sweeps: `python benchmarks/tables.py` rewrites the tables of docs/results.md.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a file of benchmarks/results/, or `overview`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
COLUMNS = ("old", "new", "all", "harmonic", "average", "forgetting")
TASKS = ("animals-3-1", "animals-2-2", "aerial-2-2-1", "aerial-4-1", "aerial-2-3", "aerial-2-1", "camvid-6-5")
METHODS = ("joint", "lag+", "reference with replay", "lag", "reference", "mib", "plop", "finetune")


def table(rows: list[dict[str, Any]]) -> str:
    """One line a run, in the order of the file: mean, and standard deviation over seeds where there are several."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["name"]].append(row)
    lines = [
        "| run | seeds | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for name, group in groups.items():
        cells = [spread([row[column] for row in group]) for column in COLUMNS]
        lines.append(f"| {name} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    """ "38.3 ± 1.1" in percent; a dash where a value is not defined."""
    known = [100 * v for v in values if v is not None]
    if not known:
        return "-"
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a sweep; none where it has not run."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def overview() -> str:
    """mIoU over all classes: a line for each method, a column for each task."""
    rows = {task: rows_of(task) for task in TASKS}
    lines = ["| method | " + " | ".join(task.replace("-", " ", 1) for task in TASKS) + " |"]
    lines.append("|---|" + "---|" * len(TASKS))
    for method in METHODS:
        cells = [spread([row["all"] for row in rows[task] if row["name"] == method]) for task in TASKS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def named_table(name: str) -> str:
    """The overview, or the table of a sweep; a sentence where it has not run."""
    if name == "overview":
        return overview()
    rows = rows_of(name)
    return table(rows) if rows else "(not run yet)"


def fill(text: str, made: Callable[[str], str] = named_table) -> str:
    """The page with every table made anew; `made`: its name -> its text."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{made(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w.+-]+) -->.*?<!-- end -->", one, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
