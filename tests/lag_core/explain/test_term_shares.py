"""Shares of the loss terms as a reader has them: curves, what they leave, words; and the view that draws them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_runs import write_run
from streamlit.testing.v1 import AppTest

from dashboard.ui import design
from dashboard.ui.term_curves import term_curves
from lag_core.explain import term_shares
from lag_core.explain.term_shares import ALL, ClassCurves, sentence


def record(step: int, updates: int, loss: float, terms: Mapping[str, float]) -> dict[str, Any]:
    """A line of the journal; the mean has half of what the class has."""
    half = {name: value / 2 for name, value in terms.items()}
    shares = {
        "updates": updates,
        "loss": {"1": loss, ALL: loss / 2},
        "net": {"1": dict(terms), ALL: half},
        "gross": {"1": {name: abs(value) for name, value in terms.items()}, ALL: half},
    }
    return {"step": step, "iteration": updates, "shares": shares}


LINES = [
    {"step": 1, "iteration": 5, "loss": 2.0},
    record(1, 0, 1.0, {}),
    record(1, 20, 1.5, {"segmentation.new": 1.0, "sfp": -0.7}),
    record(1, 40, 1.2, {"segmentation.new": 2.0, "sfp": -1.9, "nsc": 0.01}),
]


def curves(lines: list[dict[str, Any]] = LINES) -> ClassCurves:
    found = term_shares.read(lines)[1].of(1)
    assert found is not None
    return found


def test_shares_and_remainder_are_the_measured_change() -> None:
    found = curves()
    assert found.updates.tolist() == [0, 20, 40]
    assert (found.net.sum(1) + found.unexplained).tolist() == pytest.approx(found.change.tolist())
    assert found.change.tolist() == pytest.approx([0, 0.5, 0.2])
    assert found.unexplained.tolist() == pytest.approx([0, 0.2, 0.09])
    assert list(found.last) == ["segmentation.new", "sfp", "nsc"] and found.remainder == pytest.approx(0.045)
    assert all(len(column) == 3 for column in found.table().values())


def test_in_balance_is_less_than_a_tenth_of_the_larger_force() -> None:
    assert curves().in_balance  # 2.01 against 1.9
    assert not curves([*LINES[:2], record(1, 40, 1.2, {"a": 2.0, "b": -1.7})]).in_balance
    assert not curves([*LINES[:2], record(1, 40, 1.0, {"a": 0.02, "b": -0.02})]).in_balance  # nothing to balance
    text = sentence("cat", curves())
    assert "labels of the new classes +2.00, SFP −1.90" in text and "unexplained +0.09" in text
    assert "In balance: pushed out by 2.01, held by 1.90" in text and term_shares.CAUTION in text
    assert term_shares.COARSE not in text
    coarse = sentence("cat", curves([*LINES[:3], record(1, 40, 1.9, {"a": 2.0, "b": -1.6})]))
    assert term_shares.COARSE in coarse and "In balance" not in coarse
    assert "kept by" not in text and "NSC" not in text


def test_a_class_that_was_not_probed_has_no_curves() -> None:
    found = term_shares.read(LINES)[1]
    assert found.of(2) is None
    mean = found.of(None)
    assert mean is not None and mean.change.tolist() == pytest.approx([0, 0.25, 0.1])


@pytest.mark.parametrize(
    "damaged",
    [None, 3, {}, {"updates": 1}, {**LINES[1]["shares"], "net": {"1": {"a": "x"}, ALL: {}}},
     {**LINES[1]["shares"], "loss": {"1": float("nan")}}, {**LINES[1]["shares"], "gross": {}}],
)  # fmt: skip
def test_damaged_records_are_left_out(damaged: object) -> None:
    lines = [*LINES, {"step": 1, "shares": damaged}, {"step": "x", "shares": LINES[1]["shares"]}]
    assert curves(lines).net.tolist() == curves().net.tolist()
    assert term_shares.read([{"step": 2, "shares": damaged}]) == {}


def test_a_record_that_was_written_twice_counts_once() -> None:
    again = [*LINES[:3], record(1, 20, 1.4, {"segmentation.new": 0.9}), LINES[3]]
    assert curves(again).updates.tolist() == [0, 20, 40] and curves(again).loss[1] == 1.4


def test_the_figure_has_a_line_for_each_term_and_for_what_is_left() -> None:
    figure = term_curves(curves(), design.DARK)
    names = [trace.name for trace in figure.data]
    assert names == ["labels of the new classes", "SFP", "NSC", "measured change", "unexplained"]
    assert list(figure.data[1].y) == pytest.approx([0, -0.7, -1.9])


def _page(root: str, cls: int) -> None:
    from dashboard.page import Page
    from dashboard.shell import which_term
    from dashboard.ui.design import LIGHT
    from lag_core.runs import open_run

    run = open_run(root)
    which_term.draw(Page(run, None, 1, cls, "", "", ink=LIGHT), run, cls, 1)


def shown(run: Path, cls: int = 1) -> AppTest:
    return AppTest.from_function(_page, kwargs={"root": str(run), "cls": cls}).run()


def test_the_view_says_what_it_needs_or_draws(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run")
    (run / "events.jsonl").unlink(missing_ok=True)
    assert "log.shares_every" in shown(run).info[0].value
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    app = shown(run)
    assert not app.exception and not app.error and not app.info
    assert any("unexplained +0.09" in one.value.replace("\\", "") for one in app.markdown)
    assert "not among the old classes" in shown(run, 2).info[0].value


def test_a_run_of_another_system_is_not_asked_for_a_setting_of_ours(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run")
    about = json.loads((run / "run.json").read_text())
    imported = {"format": "ssul", "norm": None, "files": []}
    (run / "run.json").write_text(json.dumps({**about, "imported": imported}))
    (run / "events.jsonl").unlink(missing_ok=True)
    said = shown(run).info[0].value
    assert "was not trained here" in said and "log.shares_every" not in said
