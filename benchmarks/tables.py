"""Markdown tables of the sweeps: `python benchmarks/tables.py` rewrites the tables of docs/results.md.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a file of benchmarks/results/.
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


def sweep_table(name: str) -> str:
    """The table of a sweep; a sentence where it has not run."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return table(json.loads(path.read_text())) if path.exists() else "(not run yet)"


def fill(text: str, made: Callable[[str], str] = sweep_table) -> str:
    """The page with every table made anew; `made`: its name -> its text."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{made(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w.+-]+) -->.*?<!-- end -->", one, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
