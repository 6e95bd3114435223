"""Clocks that lie: a training that goes on a year before it began, one whose clock jumps on the way, the app in 2038.

    python benchmarks/clocks.py        # needs faketime (Debian: apt-get install faketime)

Both trainings must end in the same bits as one with a true clock, no page may fail, and no time that is shown or
stored may be negative. The server's log is printed where it tells of an error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from kills import differences, living, tables

from lag_core.runs import open_run

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import json, sys
from lag_core import config
from lag_core.training.continual import train
from lag_core.training.reporting import Reporter
train(config.resolve(json.loads(sys.argv[1])), sys.argv[2], resume=True, reporter=Reporter(quiet=True))
"""
YEAR = "-365d"
PAGES = ("start", "overview", "steps", "forgetting", "channels", "relevance", "prototypes", "training", "why", "report")


@cache
def library() -> str:
    """What is loaded in front of a program; the command `faketime` would stand between us and the one to be killed."""
    return subprocess.check_output(["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], text=True).strip()


def shifted(time: str | Path) -> dict[str, str]:
    """The environment of a program whose clock is off by so much, or by what a file says at that moment."""
    by_file = {"FAKETIME_TIMESTAMP_FILE": str(time), "FAKETIME_NO_CACHE": "1"}
    said = by_file if isinstance(time, Path) else {"FAKETIME": time}
    return {"LD_PRELOAD": library(), **said}


def started(content: dict[str, Any], out: Path, time: str | Path = "+0") -> subprocess.Popen[bytes]:
    """A training with such a clock; what measures durations runs on, as it does where somebody sets a clock."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **shifted(time)}
    variables["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"  # breaks time.sleep, which the app calls and a training does not
    return subprocess.Popen([sys.executable, "-c", CODE, json.dumps(content), str(out)], env=variables)


def when_saved(child: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for the first step and a saved point of the second."""
    while child.poll() is None and not ((out / "step_00.safetensors").exists() and (out / "resume.pt").exists()):
        time.sleep(0.01)
    assert child.poll() is None, "it ended before the clock could change"


def wrong_times(out: Path) -> list[str]:
    """What of run.json is a time below 0."""
    info = json.loads((out / "run.json").read_text())
    found = {"hours": info["hours"], **{f"seconds of step {s['step']}": s["seconds"] for s in info["steps"]}}
    return [f"{name} = {value}" for name, value in found.items() if not value >= 0]


def measure(data: Path, work: Path) -> dict[str, Any]:
    from shapes import lively_backbone

    content = tables(data, lively_backbone(data, work / "backbone.pt"), "lag", "2-1-1", 32)
    assert started(content, work / "whole").wait() == 0
    whole = open_run(work / "whole")
    print(f"living channels: {living(whole)}", file=sys.stderr, flush=True)
    first = started(content, work / "resumed")
    when_saved(first, work / "resumed")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert started(content, work / "resumed", YEAR).wait() == 0
    (work / "clock").write_text("+0\n")
    jumps = started(content, work / "jumped", work / "clock")
    when_saved(jumps, work / "jumped")
    (work / "clock").write_text(f"{YEAR}\n")
    assert jumps.wait() == 0
    return {
        name: differences(open_run(work / name), whole) + wrong_times(work / name) or "equal"
        for name in ("resumed", "jumped")
    }


def in_2038() -> str:
    from streamlit_client import Client
    from streamlit_server import served

    with served(ROOT / "checkpoints", 1, variables=shifted("@2038-02-01 00:00:00")) as server:
        with Client(server.url) as client:
            for page in PAGES:
                client.open(page)
        if server.errors():
            print(server.log.read_text(errors="replace")[-8000:], file=sys.stderr, flush=True)
        return f"{len(PAGES)} pages drawn, {len(server.errors())} errors in the log"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder dataset (default: rectangles)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        from shapes import write_shapes  # kills has said where it lies

        data = write_shapes(Path(work, "shapes")) if options.data is None else options.data.resolve()
        found = measure(data, Path(work))
    found["app in 2038"] = in_2038()
    print(json.dumps(found, indent=1))
    raise SystemExit(0 if found["resumed"] == found["jumped"] == "equal" else "a clock changed a training")


if __name__ == "__main__":
    main()
