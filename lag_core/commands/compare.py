"""One table over runs: old, new, all, harmonic mean, average, forgetting and BWT, from their stored metrics."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lag_core.sentences import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    from lag_core.comparison import row, table
    from lag_core.runs import RunError, open_run

    rows = []
    for path in options.runs:
        opened = open_run(path)
        confusions = opened.confusions()
        if confusions is None:
            raise RunError(f"{path} has no metrics yet; `lag evaluate {path} --write` measures it")
        rows.append(row(opened, confusions))
    say(json.dumps([r.as_dict() for r in rows], indent=1) if options.json else table(rows))
    return 0
