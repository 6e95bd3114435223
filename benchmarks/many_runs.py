"""The dashboard's budgets with many runs: 70 copies of those that ship, each with a name and a seed of its own.

    python benchmarks/many_runs.py              # some six minutes; --runs 7 for the same with few

A copy differs in its seed, so nothing kept of one run serves another. Measured are the first picture, turning to
Overview, Compare and Steps, moving the scrubber there, and, in Chromium, key to paint and page turns, as
benchmarks/dashboard.py does it, which also writes the table (--docs).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from painting import key_to_paint, page_turns
from streamlit_server import ROOT, machine, served
from waits import first_picture, in_milliseconds, page_changes, scrubs

RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("overview", "compare", "steps")
TITLES = ("Overview", "Compare", "Steps")


@contextmanager
def copies(source: Path, count: int) -> Iterator[Path]:
    """A folder of `count` runs, copies by turns of those in `source`; what they share is there once."""
    originals = sorted(path.parent for path in source.glob("*/run.json"))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source / "shared", Path(folder, "shared"))
        for i in range(count):
            round_, place = divmod(i, len(originals))
            original = originals[place]
            copy = Path(folder, f"{original.name}-{round_}" if round_ else original.name)
            shutil.copytree(original, copy)
            described = json.loads((copy / "run.json").read_text())
            described["config"]["optim"]["seed"] = round_
            (copy / "run.json").write_text(json.dumps(described))
        yield Path(folder)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"runs": args.runs, "run": args.run, "threads": args.threads, "machine": machine()}
    with copies(args.source, args.runs) as root:
        found["first_picture"] = first_picture(root, 3, args.threads)
        with served(root, args.threads) as server:
            found["page_change"] = page_changes(server, args.run, PAGES, 60)
            found["scrub"] = scrubs(server, args.run, PAGES, 60)
            keys = key_to_paint(server.url, f"run={args.run}", ("steps",), 20)
            turns = page_turns(server, f"run={args.run}", TITLES, 30)
            found["memory_mb"] = round(server.rss_mb())
    found["key_to_paint"] = {page: in_milliseconds(each) for page, each in keys.items()}
    found["page_turn"] = {page: in_milliseconds(each) for page, each in turns.milliseconds.items()}
    found["page_turns_lost"] = turns.lost
    return found


def table(every: dict[str, dict[str, Any]]) -> str:
    """A line a measure, a column for each number of runs, in Markdown."""
    columns = [every[key] for key in sorted(every, key=int)]
    heads = " | ".join(f"{column['runs']} runs" for column in columns)
    lines = [f"| | budget | {heads} |", f"|---|---:|{'---:|' * len(columns)}"]

    def line(what: str, budget: str, values: list[str]) -> None:
        lines.append(f"| {what} | {budget} | {' | '.join(values)} |")

    line("streamlit run to first picture", "3 s", [f"{c['first_picture']['median_s']:g} s" for c in columns])
    line("page change, p95", "500 ms", [_with_cpu(c["page_change"]) for c in columns])
    for page in PAGES:
        line(f"scrub on {page}, p95", "100 ms", [_with_cpu(c["scrub"][page]) for c in columns])
    keys = [f"{c['key_to_paint']['steps']['p95_ms']:g} ms" for c in columns]
    line("key to painted pixels on steps, p95", "50 ms", keys)
    for page in TITLES:
        turns = [f"{c['page_turn'][page]['p95_ms']:g} ms" for c in columns]
        line(f"turn to {page} in the browser, p95", "500 ms", turns)
    return "\n".join(lines)


def _with_cpu(found: dict[str, float]) -> str:
    return f"{found['p95_ms']:g} ms (cpu {found['mean_cpu_ms']:g} ms)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT / "checkpoints", help="folder of the runs that are copied")
    parser.add_argument("--runs", type=int, default=70, help="how many")
    parser.add_argument("--run", default="aerial-2-2-1-finetune", help="the run that is looked at")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in the server")
    parser.add_argument("--out", type=Path, default=RESULTS / "many_runs.json")
    args = parser.parse_args()
    random.seed(0)
    every = json.loads(args.out.read_text()) if args.out.exists() else {}
    every[str(args.runs)] = found = measure(args)
    args.out.write_text(json.dumps(every, indent=2) + "\n")
    json.dump(found, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
