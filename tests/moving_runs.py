"""Runs whose trunk changes after step 0: by weights at one step, by running statistics alone at the next."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from lag_core.model.weights import changed
from lag_core.runs import Run, open_run, read_json, read_tensors, write_json, write_tensors

CONV, MEAN = "backbone.layer2.0.conv.0.0.weight", "backbone.layer3.0.conv.0.1.running_mean"


def with_moving_trunk(run: Run, out: Path) -> Run:
    """A copy of a MobileNetV2 run: step 1 scales one convolution, step 2 shifts one running mean."""
    shutil.copytree(run.path, out)
    _change(out, 1, CONV, 0.5 * run.tensors(0)[CONV])
    _change(out, 2, MEAN, run.tensors(0)[MEAN] + 0.3)
    return open_run(out)


def frozen_again(run: Run, out: Path, step: int, like: int) -> Run:
    """A copy in which the backbone of `step` is that of step `like` again."""
    shutil.copytree(run.path, out)
    opened = open_run(out)
    back = changed(opened.tensors(like), opened.tensors(step))
    for name, value in back.items():
        if name.startswith("backbone."):
            _change(out, step, name, value)
    return open_run(out)


def _change(path: Path, step: int, name: str, value: np.ndarray) -> None:
    """Put one tensor into a step's own file."""
    info = read_json(path / "run.json")
    own = f"step_{step:02d}.safetensors"
    files = [entry for entry in info["steps"][step]["files"] if entry["name"] != own]
    tensors = {**read_tensors(path / own), name: value.astype(np.float32)}
    info["steps"][step]["files"] = [*files, write_tensors(path / own, tensors)]
    write_json(path / "run.json", info)
