"""Measure what the dashboard shows about the whole validation set, and store it in the run.

Under torchrun each process measures a part of the images, and the first one writes.
"""

from __future__ import annotations

import argparse
import sys
import time

from lag_core.commands.adopt import add_device
from lag_core.commands.arguments import place
from lag_core.sentences import counted, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("--data", type=place, help="dataset folder (default: the one that the run names)")
    add_device(parser)
    parser.add_argument(
        "--operations", type=_tera, metavar="TERA",
        help="10^12 operations per picture that the shares may take: if single stages take more, the first ones are "
        "joined into one part (default: 20)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def _tera(text: str) -> float:
    """10^12 operations, from a number above 0."""
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError("it must be above 0")
    return number * 1e12


def run(options: argparse.Namespace) -> int:
    from lag_core.device import device_named
    from lag_core.explain.stage_groups import OPERATIONS, sentence
    from lag_core.explain.survey import ARRAYS, write_survey
    from lag_core.explain.survey_pass import survey
    from lag_core.processes import ProcessLost, first, together
    from lag_core.runs import RunError, open_run
    from lag_core.training.reporting import Reporter

    opened = open_run(options.run)
    if not opened.steps:
        raise RunError(f"{options.run} has no finished step yet; let the training go on")
    reporter = Reporter(options.quiet or not first())
    began = time.perf_counter()
    device = device_named(options.device)
    dataset = opened.open_dataset(options.data)
    try:
        with together(device):
            found = survey(opened, dataset, reporter.bar, device, reporter.say, options.operations or OPERATIONS)
    except ProcessLost as error:
        say(f"lag: {error}; nothing was written", sys.stderr)
        return 1
    if not first():
        return 0
    size = write_survey(opened, found)
    seconds = time.perf_counter() - began
    reporter.say(
        f"{counted(len(found.ids), 'image')} at {counted(len(opened.steps), 'step')} in {seconds:.1f} s -> "
        f"{opened.path / ARRAYS} ({size / 2**20:.2f} MiB)"
    )
    if found.groups is not None and (said := sentence(found.groups)):
        reporter.say(f"shares: {said}")
    return 0
