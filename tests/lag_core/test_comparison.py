"""Runs in numbers: both readings of old, forgetting and backward transfer, in tables and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from repository import ROOT

from lag_core import metrics
from lag_core.cli import main
from lag_core.comparison import COLUMNS, NOTES, percent, row, step_rows, table
from lag_core.runs import Run, open_run

CHECKPOINTS = ROOT / "checkpoints"


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


RUNS = [str(CHECKPOINTS / f"animals-3-1-{method}") for method in ("finetune", "lagplus")]


def test_compare_says_what_became_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *RUNS, "--verdicts", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in said["runs"]] == [one["name"] for one in said["verdicts"]]
    lost, kept = (one["classes"]["dog"] for one in said["verdicts"])
    assert lost["verdict"] == "lost" and lost["now"] < 0.05 < lost["start"]
    run, confusions = opened("animals-3-1-lagplus")
    dog = run.class_index("dog")
    assert kept["start"] == metrics.iou_between(confusions, run.labels, 0, 0)[dog] and kept["verdict"] != "lost"
    assert main(["compare", *RUNS, "--verdicts"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert lines[0].split()[2:] == [one.name for one in run.classes]
    assert lines[1].split()[0] == "animals-3-1-finetune" and "lost" in lines[1] and "90 %" in lines[3]


def test_compare_says_in_which_settings_the_runs_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *RUNS, "--settings", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["settings"]
    assert said[0] == {"setting": "method.name", "values": ["finetune", "lag+"]}
    assert all(len(set(one["values"])) == 2 and one["setting"] != "optim.seed" for one in said)
    assert main(["compare", RUNS[0], RUNS[0], "--settings"]) == 0
    assert "the same settings" in capsys.readouterr().out
    assert main(["compare", *RUNS, "--group", "--settings", "--verdicts", "--format", "markdown"]) == 0
    assert "| method.name | finetune | lag+ |" in capsys.readouterr().out


def test_compare_follows_a_class_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", RUNS[0], str(CHECKPOINTS / "aerial-2-2-1-lag"), "--verdicts", "--format", "csv"]) == 0
    heading, animal, tile = capsys.readouterr().out.split("\n\n")[1].splitlines()
    places = {name: i for i, name in enumerate(heading.split(","))}
    assert animal.split(",")[places["building"]] == "-" == tile.split(",")[places["dog"]]
