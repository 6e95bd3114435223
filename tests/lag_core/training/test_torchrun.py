"""A real torchrun on the CPU: of two processes one is killed; a sentence says so, and the run can be gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shapes import tables, write_shapes, write_toml

from lag_core import config as configuration
from lag_core.runs import open_run
from lag_core.training.continual import train
from lag_core.training.reporting import Reporter

pytestmark = [
    pytest.mark.usefixtures("no_fsync"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are told apart by /proc"),
]

PATIENCE = 900
"""Seconds before the test gives up, on a machine however busy; it takes 18 seconds of one core."""


def worker(launcher: int, rank: int) -> int:
    """Process id of one of the processes that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    environments = {int(child): Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
    return next(child for child, names in environments.items() if f"RANK={rank}".encode() in names)


def trained(out: Path) -> int:
    """Iterations of step 1 so far; 0 before its first, or while a line is written."""
    try:
        lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return 0
    return sum(line["step"] == 1 for line in lines)


def test_a_killed_worker_ends_torchrun_with_a_sentence_and_a_folder_to_go_on_from(tmp_path: Path) -> None:
    config = configuration.resolve(
        tables(
            write_shapes(tmp_path / "shapes"), "finetune",
            data={"task": "2-2"}, optim={"epochs": 1, "epochs_later": 1, "min_iterations": 60},
            log={"events_every": 1, "gradients_every": 100, "resume_seconds": 0.0, "shares_every": 0},
        )
    )  # fmt: skip
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "lag_core", "train", "--config", str(write_toml(tmp_path / "run.toml", config)),
        "--method", "finetune", "--out", str(out),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        deadline = time.monotonic() + PATIENCE
        while trained(out) < 2 and launcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if trained(out) >= 2 and launcher.poll() is None:
            os.kill(worker(launcher.pid, 1), signal.SIGKILL)
        else:
            launcher.terminate()
        said, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode not in (0, None), (said, errors)
    assert said.count("finetune on folder 2-2") == 1, "one process speaks"
    told = [line for line in errors.splitlines() if line.startswith("lag: ")]
    assert len(told) == 1 and told[0].endswith(f"the last saved point is kept in {out}"), errors
    assert not any(line.startswith("Traceback") and "lag_core" in line for line in errors.splitlines())
    run = open_run(out)
    assert run.status == "failed" and run.info["processes"] == 2 and len(run.steps) == 1
    assert any("process" in warning for warning in run.warnings)
    saved = trained(out)
    assert 2 <= saved < 60
    again = train(config, out, resume=True, reporter=Reporter(quiet=True))
    assert again.status == "finished" and len(again.steps) == 2 and trained(out) == 60
