"""Write finished runs as they ship (for maintainers): float16, shared tensors once, with a model card.

Tensors that several of the given runs share are stored once, in OUT/shared. The metrics are measured again
with the rounded weights, so the datasets must be available. No file is overwritten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lag_core.commands.arguments import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=place, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--out", type=place, required=True, help="folder that the packed runs are written to")
    parser.add_argument("--data", type=place, help="dataset folder (default: the one that each run names)")
    parser.add_argument("--note", default="", help="text that the model cards add about the data and the weights")
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def run(options: argparse.Namespace) -> int:
    from lag_core.commands.train import command_for
    from lag_core.runs import SHARED, open_run
    from lag_core.training.packing import pack
    from lag_core.training.reporting import Reporter

    reporter = Reporter(options.quiet)
    runs = [open_run(path) for path in options.runs]
    commands = [command_for(one.config) for one in runs]
    for path in pack(runs, options.out, data=options.data, note=options.note, commands=commands, progress=reporter.bar):
        reporter.say(f"{path}: {_mebibytes(path):.2f} MiB")
    reporter.say(f"{options.out / SHARED}: {_mebibytes(options.out / SHARED):.2f} MiB")
    return 0


def _mebibytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*")) / 2**20
