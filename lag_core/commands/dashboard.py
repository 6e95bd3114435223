"""Open the dashboard in the browser, on the runs that ship or on those of --runs.

What follows `--` goes to Streamlit: lag dashboard -- --server.port 8502
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from lag_core.commands.arguments import place
from lag_core.runs import RunError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=place, help="folder of run folders, instead of the runs that ship")
    parser.add_argument("--data", type=place, help="dataset folder, instead of those that the runs name")
    parser.add_argument("streamlit", nargs="*", help="options of `streamlit run`, after --")


def run(options: argparse.Namespace) -> int:
    environment = dict(os.environ)
    if options.runs is not None:
        if not options.runs.is_dir():
            raise RunError(f"--runs: there is no folder {options.runs}")
        environment["LAG_RUNS"] = str(options.runs)
    if options.data is not None:
        environment["LAG_DATA"] = str(options.data)
    return subprocess.run([*command(), *options.streamlit], env=environment, check=False).returncode


def command() -> list[str]:
    """How Streamlit starts the app. RunError if the dashboard is not installed."""
    found = importlib.util.find_spec("dashboard")
    if found is None or not found.submodule_search_locations:
        raise RunError("the dashboard is not installed beside lag_core: install the whole project")
    app = Path(found.submodule_search_locations[0]) / "app.py"
    return [sys.executable, "-m", "streamlit", "run", str(app)]
