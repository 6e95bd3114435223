"""Markdown tables of the sweeps: `python benchmarks/tables.py` rewrites the tables of docs/results.md.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a file of benchmarks/results/.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
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


def fill(text: str) -> str:
    """The page with every table made anew."""

    def one(match: re.Match[str]) -> str:
        rows = json.loads((ROOT / "benchmarks" / "results" / f"{match[1]}.json").read_text())
        return f"<!-- table {match[1]} -->\n{table(rows)}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w.+-]+) -->.*?<!-- end -->", one, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
