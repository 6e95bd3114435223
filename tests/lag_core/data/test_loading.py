"""Images are read ahead by worker processes, and nothing depends on how many there are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import tiny_config, tiny_run, write_shapes

from lag_core.data.pictures import DataError
from lag_core.data.transforms import to_input
from lag_core.runs import Run, open_run
from lag_core.training.continual import train
from lag_core.training.loading import WorkerLost, loaded, normalised
from lag_core.training.reporting import Reporter

pytestmark = pytest.mark.usefixtures("no_fsync")

ORDERS = [([0, 3], [1, 2]), ([2], [9]), ([1, 4], [0, 0])] * 5


def draw(row: int, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands for a picture: tells row and view."""
    return torch.full((3, 2, 2), row, dtype=torch.uint8), torch.full((1, 1), view, dtype=torch.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("loading") / "shapes")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_their_order(workers: int) -> None:
    found = [(i[:, 0, 0, 0].tolist(), m[:, 0, 0].tolist()) for i, m in loaded(draw, iter(ORDERS), workers)]
    assert found == ORDERS


def test_the_network_gets_the_same_bits_as_from_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 5, 3)).astype(np.uint8)
    mine = normalised(torch.from_numpy(images).permute(0, 3, 1, 2), torch.device("cpu"))
    assert mine.numpy().tobytes() == to_input(images).tobytes()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_used_keeps_its_sentence(workers: int) -> None:
    def damaged(row: int, view: int) -> tuple[torch.Tensor, torch.Tensor]:
        if row == 3:
            raise DataError("b.png is damaged: it ends early")
        return draw(row, view)

    with pytest.raises(DataError, match=r"^b\.png is damaged: it ends early$"):
        list(loaded(damaged, [([0], [0]), ([3], [0])], workers))


def dies_at_four(row: int, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    if row == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(row, view)


def test_a_worker_that_dies_is_a_sentence() -> None:
    with pytest.raises(WorkerLost, match="a process that reads images ended"):
        list(loaded(dies_at_four, ORDERS, 1))


def bits(run: Run) -> list[bytes]:
    return [value.tobytes() for step in range(len(run.steps)) for value in run.delta(step).values()]


def test_a_run_has_the_same_bits_with_any_number_of_workers(root: Path, tmp_path: Path) -> None:
    runs = [
        tiny_run(root, tmp_path / str(n), "finetune", data={"views": 0, "workers": n}, optim={"lr_stage": 0.01})
        for n in (0, 2)
    ]
    assert bits(runs[0]) == bits(runs[1])


def test_a_run_goes_on_with_another_number_of_workers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lag_core.training.journal import Journal

    whole = tiny_run(root, tmp_path / "whole", "lag", data={"views": 0})
    original = Journal.event

    def stops(self: Journal, event: dict[str, int]) -> None:
        original(self, event)
        if (event["step"], event["iteration"]) == (1, 2):
            raise KeyboardInterrupt

    parts = {"data": {"views": 0}, "log": {"resume_seconds": 0.0}}
    monkeypatch.setattr(Journal, "event", stops)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(root, "lag", **parts), tmp_path / "run", reporter=Reporter(quiet=True))
    monkeypatch.undo()
    assert len(open_run(tmp_path / "run").steps) == 1
    other = tiny_config(root, "lag", **{**parts, "data": {"views": 0, "workers": 1}})
    run = train(other, tmp_path / "run", resume=True, reporter=Reporter(quiet=True))
    assert bits(run) == bits(whole)
