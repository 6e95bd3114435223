"""Kill trainings by SIGKILL at random moments, let them go on, and compare each with one that was never interrupted.

    python benchmarks/kills.py                    # three methods, three runs each, up to seven kills a run

Every run is tiny, on the rectangles of tests/shapes.py (--data names another folder dataset), from a random trunk whose
batch norms know the pictures: most latent channels must be alive in the end, or equal runs would say little. A run
counts as equal if its tensors, analysis, matrices, warnings and events are those of the uninterrupted one, bit by bit
(but for the images a second). A kill that would have come after the end is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from lag_core import config as configuration
from lag_core.method.presets import preset
from lag_core.runs import Run, open_run
from lag_core.training.continual import train
from lag_core.training.reporting import Reporter
from lag_core.training.vital_signs import vital_signs

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
METHODS = ("finetune", "lag", "lag+")


def tables(root: Path, weights: Path, method: str, task: str, size: int) -> dict[str, Any]:
    """A run of a few iterations that saves after each of them."""
    small: dict[str, Any] = {
        "data": {"dataset": "folder", "root": str(root), "task": task, "size": size, "views": 2, "holdout": 0.2},
        "model": {"weights": str(weights), "latent": 8, "head_width": 4, "aspp_rates": [1]},
        "optim": {"epochs": 1, "epochs_later": 3, "batch": 4, "threads": 1, "device": "cpu", "lr_stage": 0.0},
        "log": {"events_every": 1, "gradients_every": 2, "shares_every": 3, "resume_seconds": 0.0},
    }
    return configuration.merge([preset(method), small])


def trained(content: dict[str, Any], out: Path, seconds: float | None) -> int:
    """Train, or go on, in a process of its own, killed after `seconds`; its exit status as waitpid gives it."""
    child = os.fork()
    if child == 0:
        try:
            train(configuration.resolve(content), out, resume=True, reporter=Reporter(quiet=True))
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def differences(run: Run, whole: Run) -> list[str]:
    """What of a run is not as in the uninterrupted one."""
    found = [] if run.status == whole.status else [f"it is {run.status}"]
    for step in range(len(whole.steps)):
        for what in ("delta", "analysis"):
            mine, theirs = getattr(run, what)(step), getattr(whole, what)(step)
            if mine.keys() != theirs.keys() or any(mine[name].tobytes() != theirs[name].tobytes() for name in theirs):
                found.append(f"{what} of step {step}")
    if run.confusions().tobytes() != whole.confusions().tobytes():  # type: ignore[union-attr]
        found.append("metrics")
    if [_lasting(e) for e in run.events()] != [_lasting(e) for e in whole.events()]:
        found.append("events")
    if run.warnings != whole.warnings:
        found.append("warnings")
    left = [path.name for path in run.path.iterdir() if path.name.endswith(".partial") or path.name == "resume.pt"]
    return found + left


def _lasting(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "images_per_second"}


def interrupted(content: dict[str, Any], out: Path, kills: int, span: float, chance: random.Random) -> int:
    """Kill a run up to `kills` times, each within `span` seconds after a start, then let it end; returns the kills."""
    done = 0
    for _ in range(kills):
        status = trained(content, out, chance.uniform(0, span))
        done += status == signal.SIGKILL
        if status == 0:  # it had ended before
            return done
        assert status == signal.SIGKILL, status
    assert trained(content, out, None) == 0, f"{out} did not go on"
    return done


def living(run: Run) -> str:
    """Latent channels that say something after each step, of how many. AssertionError if they are few."""
    signs = vital_signs(run, run.open_dataset())
    left = [signs.channels - dead for dead in signs.dead]
    assert min(left) > signs.channels / 2, f"{run.path}: {left} of {signs.channels} channels are alive"
    return f"{', '.join(map(str, left))} of {signs.channels}"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from shapes import lively_backbone, write_shapes

    chance, found, killed = random.Random(options.seed), Counter[str](), Counter[str]()
    data = write_shapes(folder / "shapes") if options.data is None else options.data
    weights, alive = lively_backbone(data, folder / "backbone.pt"), {}
    for method in options.methods:
        content = tables(data, weights, method, options.task, options.size)
        began = time.perf_counter()
        assert trained(content, folder / method, None) == 0
        span, whole = time.perf_counter() - began, open_run(folder / method)
        alive[method] = living(whole)
        for place in range(options.runs):
            out = folder / f"{method}-{place}"
            killed[method] += interrupted(content, out, options.kills, 2.5 * span / options.kills, chance)
            wrong = differences(open_run(out), whole)
            found[", ".join(wrong) or "equal"] += 1
            shutil.rmtree(out)
            print(f"{method} {place}: {killed[method]} kills so far, {wrong or 'equal'}", file=sys.stderr, flush=True)
    return {
        "kills": dict(killed), "kills in all": sum(killed.values()), "runs": dict(found), "living channels": alive,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder dataset (default: rectangles)")
    parser.add_argument("--task", default="2-1-1")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--runs", type=int, default=3, help="of each method")
    parser.add_argument("--kills", type=int, default=7, help="of each run, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # before any operation: no thread may be there when it forks
    os.fsync = lambda file: None  # what a killed process wrote outlives it without
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found))
    raise SystemExit(0 if set(found["runs"]) <= {"equal"} else "a run that went on differs")


if __name__ == "__main__":
    main()
