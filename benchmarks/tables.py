"""Markdown tables of the sweeps: `python benchmarks/tables.py` rewrites the tables of docs/results.md and README.md.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a file of benchmarks/results/, `overview`, or
`shipped`: the runs in checkpoints/, from their confusion matrices.
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
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
COLUMNS = {
    "old_without_background": "old",
    "old": "old + bg",
    "new": "new",
    "all": "all",
    "harmonic": "harmonic",
    "average": "average",
    "forgetting_fixed": "forgetting",
    "forgetting": "forgetting*",
}
"""Columns of a table with their headings; * is "as in the papers". One that no row knows is left out."""
OF_TASK = re.compile(r"(animals|aerial|camvid)-(\d+)(?=-|$)")
"""Dataset, and number of foreground classes of step 0, in the name of a sweep."""
WITH_BACKGROUND = ("animals",)
TASKS = (
    "animals-3-1", "animals-3-1-two-stages", "animals-2-2",
    "aerial-2-2-1", "aerial-4-1-stride4", "aerial-2-3-stride4", "aerial-2-1-stride4", "camvid-6-5",
)  # fmt: skip
TITLES = {
    "animals-3-1-two-stages": "animals 3-1, better step 0",
    **{f"aerial-{task}-stride4": f"aerial {task}" for task in ("4-1", "2-3", "2-1")},
}
JOINT = {f"aerial-{task}-stride4": "aerial-2-2-1" for task in ("4-1", "2-3", "2-1")}
"""Joint training is the same whatever the task: the sweeps that leave it to another one of their recipe."""
METHODS = ("joint", "lag+", "reference with replay", "lag", "reference", "mib", "dkd", "star", "plop", "finetune")


def table(rows: list[dict[str, Any]]) -> str:
    """One line per run, in the order of the file: mean, and standard deviation over seeds where there are several."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["name"]].append(row)
    columns = [column for column in COLUMNS if any(row.get(column) is not None for row in rows)]
    lines = [
        "| run | seeds | " + " | ".join(COLUMNS[column] for column in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for name, group in groups.items():
        cells = [spread([row.get(column) for row in group]) for column in columns]
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
    rows = json.loads(path.read_text()) if path.exists() else []
    task = OF_TASK.search(name)
    for row in rows:
        if task and row.get("old_without_background") is None:
            row["old_without_background"] = without_background(row, task[1] in WITH_BACKGROUND, int(task[2]))
    return rows


def without_background(row: dict[str, Any], background: bool, classes: int) -> float | None:
    """Mean last IoU of the first `classes` foreground classes, which older rows do not hold."""
    first = int(background)
    known = [v for v in row["iou"][-1][first : first + classes] if v is not None]
    return mean(known) if known else None


def shipped() -> str:
    """A line for each run in checkpoints/, from its confusion matrices."""
    from lag_core.comparison import row
    from lag_core.runs import open_run

    rows = []
    for path in sorted(path.parent for path in (ROOT / "checkpoints").glob("*/run.json")):
        run = open_run(path)
        confusions = run.confusions()
        if confusions is not None:
            rows.append(row(run, confusions).as_dict())
    return table(rows)


def title(task: str) -> str:
    """A task in words: the name of its sweep, or what TITLES says."""
    return TITLES.get(task, task.replace("-", " ", 1))


def with_joint(task: str) -> list[dict[str, Any]]:
    """The rows of a task. Those of joint training may be another sweep's: only their `all` and `iou` hold here."""
    rows = rows_of(task)
    if task not in JOINT or any(row["name"] == "joint" for row in rows):
        return rows
    return [*rows, *(row for row in rows_of(JOINT[task]) if row["name"] == "joint")]


def overview() -> str:
    """mIoU over all classes: a line for each method, a column for each task."""
    rows = {task: with_joint(task) for task in TASKS}
    lines = ["| method | " + " | ".join(title(task) for task in TASKS) + " |"]
    lines.append("|---|" + "---|" * len(TASKS))
    for method in METHODS:
        cells = [spread([row["all"] for row in rows[task] if row["name"] == method]) for task in TASKS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def named_table(name: str) -> str:
    """The overview, the runs that ship, or the table of a sweep; a sentence where it has not run."""
    if name == "overview":
        return overview()
    if name == "shipped":
        return shipped()
    rows = rows_of(name)
    return table(rows) if rows else "(not run yet)"


def fill(text: str, made: Callable[[str], str] = named_table) -> str:
    """The page with every table made anew; `made`: its name -> its text."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{made(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w.+-]+) -->.*?<!-- end -->", one, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text("utf-8")), "utf-8")
