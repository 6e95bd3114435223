"""`optim.compile`: what torch.compile is given trains to the same network.

Its tracer runs; its code generator does not, as that takes minutes (docs/performance.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import tiny_run, write_shapes

from lag_core.runs import Run

pytestmark = pytest.mark.usefixtures("no_fsync")


def test_a_compiled_network_trains_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[str] = []

    def traced(function: object, **options: object) -> object:
        handed.append(getattr(function, "__name__", ""))
        return original(function, backend="eager", **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    data = write_shapes(tmp_path / "shapes")
    short, task = {"epochs": 1, "epochs_later": 1}, {"task": "2-2"}
    plain = tiny_run(data, tmp_path / "plain", "finetune", optim=short, data=task)
    assert not handed
    compiled = tiny_run(data, tmp_path / "compiled", "finetune", optim={**short, "compile": True}, data=task)
    assert handed == ["trunk", "behind_trunk"] * 2
    assert _largest_difference(plain, compiled) < 1e-4


def _largest_difference(one: Run, other: Run) -> float:
    mine, theirs = (run.tensors(run.last_step) for run in (one, other))
    assert mine.keys() == theirs.keys()
    return max(float(np.abs(mine[name] - theirs[name]).max()) for name in mine)
