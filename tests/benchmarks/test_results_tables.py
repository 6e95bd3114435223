"""The tables of docs/results.md: both readings of old and of forgetting, made anew from the stored results."""

from __future__ import annotations

from pathlib import Path

import pytest
import tables
from repository import ROOT

from lag_core import metrics
from lag_core.runs import open_run


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_page_is_what_the_stored_results_say(page: Path) -> None:
    text = page.read_text("utf-8")
    assert tables.fill(text) == text


def test_old_without_background_of_a_stored_row() -> None:
    rows = [row for row in tables.rows_of("animals-3-1") if row["name"] == "finetune"]
    assert rows
    for row in rows:
        assert row["old_without_background"] == pytest.approx(0, abs=1e-4)
        assert row["old"] > 0.2, "all of it is the background"


@pytest.mark.parametrize("name", ["aerial-2-1", "camvid-6-5"])
def test_without_a_background_both_are_equal(name: str) -> None:
    for row in tables.rows_of(name):
        assert row["old_without_background"] == pytest.approx(row["old"], abs=1e-4)


@pytest.mark.parametrize("task", ["4-1", "2-3", "2-1"])
def test_joint_training_of_another_task_is_the_same_network(task: str) -> None:
    """Measured at stride 8; the overview relies on it for the finer map."""
    other, one = (
        next(row for row in tables.rows_of(f"aerial-{name}") if (row["name"], row["seed"]) == ("joint", 0))
        for name in ("2-2-1-stride8", task)
    )
    assert one["iou"] == other["iou"] and one["all"] == other["all"]
    joint = [row["all"] for row in tables.with_joint(f"aerial-{task}-stride4") if row["name"] == "joint"]
    assert joint and joint == [row["all"] for row in tables.rows_of("aerial-2-2-1") if row["name"] == "joint"]


def test_the_shipped_runs_have_forgetting_on_fixed_pixels_beside_that_of_the_papers() -> None:
    lines = {line.split("|")[1].strip(): line for line in tables.shipped().splitlines()}
    run = open_run(ROOT / "checkpoints" / "aerial-2-2-1-reference")
    confusions = run.confusions()
    assert confusions is not None
    fixed = 100 * metrics.mean(metrics.forgetting_fixed(confusions, run.labels))
    papers = 100 * metrics.mean_forgetting(metrics.iou_matrix(confusions, run.labels))
    assert lines[run.name].rstrip(" |").endswith(f"| {fixed:.1f} | {papers:.1f}")
    assert lines["run"].rstrip(" |").endswith("| forgetting | forgetting*")
