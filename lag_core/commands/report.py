"""Write one HTML file about a picture, a class and a step: pictures, plots, numbers, checksums, verdict.

The file opens offline and needs nothing else. An existing file is never overwritten.
"""

from __future__ import annotations

import argparse

from lag_core.commands import subject
from lag_core.commands.arguments import place
from lag_core.config import ConfigError
from lag_core.sentences import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--out", type=place, required=True, help="the HTML file to write")


def run(options: argparse.Namespace) -> int:
    from lag_core.explain.report import report
    from lag_core.writing import write_atomically

    if options.out.exists():
        raise ConfigError(f"{options.out} exists and is never overwritten; choose another --out")
    opened, found = subject.explain(options)
    page = report(opened, found, subject.command("report", options, opened, found)).encode()
    write_atomically(options.out, page)
    if not options.quiet:
        say(f"{opened.name}, step {found.subject.step} -> {options.out} ({len(page) / 2**20:.1f} MiB)")
    return 0
