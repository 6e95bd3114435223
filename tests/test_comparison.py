"""Runs in numbers: both readings of old, forgetting and backward transfer, in tables and JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lag_core import metrics
from lag_core.comparison import COLUMNS, NOTES, percent, row, step_rows, table
from lag_core.runs import Run, open_run

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def opened(name: str) -> tuple[Run, np.ndarray]:
    run = open_run(CHECKPOINTS / name)
    confusions = run.confusions()
    assert confusions is not None
    return run, confusions


def test_a_row_has_old_without_background_and_with_it() -> None:
    found = row(*opened("animals-3-1-finetune"))
    assert (percent(found.old_without_background), percent(found.old)) == ("0.00", "20.27")


def test_a_row_has_forgetting_and_transfer_on_fixed_pixels_and_as_in_the_papers() -> None:
    run, confusions = opened("aerial-2-2-1-reference")
    found, ious = row(run, confusions), metrics.iou_matrix(confusions, run.labels)
    assert found.forgetting == metrics.mean_forgetting(ious) and found.bwt == metrics.bwt(ious)
    assert found.forgetting_fixed == metrics.mean(metrics.forgetting_fixed(confusions, run.labels))
    assert found.bwt_fixed == metrics.bwt_fixed(confusions, run.labels)
    assert found.forgetting_fixed < found.forgetting / 2, "most of what the papers' measure calls lost is newly counted"


def test_the_row_of_an_earlier_step_knows_nothing_of_later_ones() -> None:
    run, confusions = opened("aerial-2-2-1-finetune")
    expected = metrics.mean(metrics.forgetting_fixed(confusions[:2], run.labels))
    assert step_rows(run, confusions)[1].forgetting_fixed == pytest.approx(expected)


def test_table_and_json_hold_every_column() -> None:
    found = row(*opened("animals-3-1-lag"))
    assert set(COLUMNS) <= set(found.as_dict())
    head, line, *notes = table([found]).splitlines()
    assert head.split() == ["run", *COLUMNS.values()]
    assert line.split()[1:] == [percent(getattr(found, name)) for name in COLUMNS]
    assert notes == list(NOTES)
