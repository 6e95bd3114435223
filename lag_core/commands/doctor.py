"""Show the device, the versions, the datasets and the runs, and what is wrong with each.

Every file that a run lists is read and compared with its digest. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lag_core.commands.arguments import place
from lag_core.config import ConfigError
from lag_core.data.catalogue import DataError, DatasetMissing
from lag_core.runs import BrokenRun, Run, RunError, list_runs
from lag_core.sentences import counted, say, sentence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=place, default=Path("checkpoints"), help="folder of run folders")
    parser.add_argument("--data", type=place, help="dataset folder, instead of those that the runs name")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    found = list_runs(options.runs)
    report = {
        **_machine(),
        "runs_folder": str(options.runs) if options.runs.is_dir() else f"{options.runs} (there is no such folder)",
        "runs": [_run_report(one) for one in found],
        "datasets": list(_datasets(found, options.data)),
    }
    say(json.dumps(report, indent=1) if options.json else "\n".join(_lines(report)))
    return 0


def _machine() -> dict[str, Any]:
    """Device, versions and caches of this machine."""
    import torch

    from lag_core.data.presence import cache_dir
    from lag_core.training.surroundings import describe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {"device": str(device), **describe(device), "cache": str(cache_dir())}


def _run_report(one: Run | BrokenRun) -> dict[str, Any]:
    if isinstance(one, BrokenRun):
        return {"name": one.name, "status": "unreadable", "problems": [one.reason], "warnings": []}
    return {
        "name": one.name,
        "method": one.method,
        "dataset": one.info["dataset"]["name"],
        "status": one.status,
        "steps": len(one.steps),
        "steps_of_task": len(one.labels.steps),
        "problems": list(_problems(one)),
        "warnings": list(one.warnings),
    }


def _problems(opened: Run) -> Iterator[str]:
    """What is wrong with a run's files (digests, tensors, metrics, analysis); whether it is unfinished."""
    from lag_core.explain.survey import METADATA, open_survey
    from lag_core.model.weights import load_steps

    if opened.kind == "segmenter":
        yield from _tried(lambda: _nothing(load_steps(opened)))
    if opened.steps and not os.path.lexists(opened.path / "metrics.json"):
        yield f"it has no metrics; `lag evaluate {opened.path} --write` measures them"
    yield from _tried(opened.faults)
    yield from _tried(lambda: _nothing(opened.events()))
    if os.path.lexists(opened.path / METADATA):
        yield from _tried(lambda: open_survey(opened).faults)
    if opened.status != "finished":
        yield f"it is not finished (status {opened.status!r}); `lag train … --resume` goes on with it"


def _nothing(_: object) -> tuple[str, ...]:
    """No message: the result is there."""
    return ()


def _tried(look: Callable[[], Iterable[str]]) -> Iterator[str]:
    """The result of `look`, or a sentence if it fails: a broken run must not hide the others."""
    try:
        yield from look()
    except RunError as error:
        yield str(error)
    except Exception as error:
        yield sentence(f"it cannot be read ({type(error).__name__}: {error})", 300)


def _datasets(found: list[Run | BrokenRun], data: Path | None) -> Iterator[dict[str, Any]]:
    """Every dataset that a run names, and the result of opening it."""
    seen = set()
    for one in found:
        if isinstance(one, BrokenRun):
            continue
        root = str(data) if data is not None and one.config.data.dataset != "aerial" else one.config.data.root
        key = (one.info["dataset"]["name"], root)
        if key in seen:
            continue
        seen.add(key)
        report: dict[str, Any] = {
            "name": key[0],
            "kind": one.config.data.dataset,
            "root": root,
            "problems": [],
        }
        try:
            dataset = one.open_dataset(root)
            report |= {split: len(dataset.ids(split)) for split in ("train", "val")}
        except (DatasetMissing, DataError, ConfigError) as error:
            report["problems"] = [str(error)]
        except Exception as error:
            report["problems"] = [sentence(f"it cannot be read ({type(error).__name__}: {error})", 300)]
        yield report


def _lines(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    size = f"{machine['cores']} cores, {machine['threads']} threads"
    yield f"device    {report['device']}: {machine['device']}, {size}"
    yield f"versions  {versions}, revision {report['git']}"
    yield f"cache     {report['cache']}"
    yield f"runs      {report['runs_folder']}"
    for one in report["runs"]:
        about = f"{one['method']} on {one['dataset']}, " if "method" in one else ""
        steps = f", step {one['steps']} of {one['steps_of_task']}" if "steps" in one else ""
        yield from _item(one, f"{about}{one['status']}{steps}")
    yield "datasets"
    for one in report["datasets"]:
        place = f" in {one['root']}" if one["root"] else ", generated"
        count = f": {one['train']} training, {counted(one['val'], 'validation image')}" if "train" in one else ""
        yield from _item(one, f"{one['kind']}{place}{count}")


def _item(one: dict[str, Any], text: str) -> Iterator[str]:
    """A line of a run or dataset, and one for each problem and each warning of its training."""
    yield f"  {'!' if one['problems'] else '+'} {one['name']} ({text})"
    for line in [*one["problems"], *(f"note: {w}" for w in one.get("warnings", ()))]:
        yield f"      {line}"
