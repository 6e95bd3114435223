"""What the features still hold, as the dashboard draws it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_holds import some_holds
from small_runs import write_run
from small_surveys import add_survey
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.why import held_figures as figures
from dashboard.app_pages.why import still_holds as page
from dashboard.app_pages.why.held_figures import Held
from dashboard.ui import design, untrusted
from lag_core.explain.background_labels import PseudoLabelTable
from lag_core.explain.holds import SITES, Holds
from lag_core.explain.survey import write_survey
from lag_core.runs import open_run

SCRIPT = """
from pathlib import Path
from dashboard.app_pages.why import still_holds
from dashboard.page import Page
from lag_core.runs import open_run
run = open_run(Path({path!r}))
still_holds.draw(Page(run=run, run2=None, step=2, cls={cls}, image_id="", data_root=""), run, {cls}, 2)
"""


def drawn(path: Path, cls: int = 0) -> AppTest:
    at = AppTest.from_string(SCRIPT.format(path=str(path), cls=cls), default_timeout=60).run()
    assert not at.exception and not at.error, [e.value for e in [*at.exception, *at.error]]
    return at


def surveyed(path: Path, whole: bool = True) -> Holds:
    run = open_run(path)
    survey, held = add_survey(run, ["a", "b", "c"]), some_holds(3, 5, whole)
    write_survey(run, replace(survey, holds=held))
    return held


def test_without_a_survey_it_names_the_command(tmp_path: Path) -> None:
    at = drawn(write_run(tmp_path, "bare"))
    assert any("lag survey bare" in info.value for info in at.info)


def test_a_survey_of_before_names_the_command_too(tmp_path: Path) -> None:
    path = write_run(tmp_path, "early")
    add_survey(open_run(path), ["a", "b"])
    assert any("lag survey early" in info.value for info in drawn(path).info)


def test_it_says_what_network_and_probe_reach(tmp_path: Path) -> None:
    path = write_run(tmp_path, "whole")
    held = surveyed(path)
    assert held.probes is not None
    at = drawn(path)
    words = [c.value for c in at.caption]
    probe = 100 * held.probes.iou()[:, -1, 0]
    assert any(f"a probe on Z {probe[0]:.0f} → {probe[2]:.0f}" in w for w in words), words
    assert any("Mean confidence of the wrong answer" in w for w in words)
    assert any("Expected calibration error" in w for w in words)
    assert held.pseudo is not None
    table = at.dataframe[0].value
    assert table["pseudo-labels: right (%)"][1] == f"{100 * held.pseudo.precision()[1, 0]:.1f}"


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    path = write_run(tmp_path, "bare")
    surveyed(path, whole=False)
    at = drawn(path)
    assert any("No probe" in c.value for c in at.caption)
    assert any("training images were not available" in info.value for info in at.info)


def test_lines_of_a_class(tmp_path: Path) -> None:
    path = write_run(tmp_path, "whole")
    held, run = surveyed(path), open_run(path)
    survey = add_survey(run, ["a", "b", "c"])
    spoken = page.answer(run, survey, held, 4, 1)
    assert spoken == f"{untrusted.name(run.classes[4].name)} is introduced at step 2."


def test_held_lines_carry_percent_and_clicks_carry_the_step() -> None:
    lines = [Held("network", np.array([0.5, np.nan, 0.25]), "#000000"), Held("probe", np.array([0.4] * 3), "#0072B2")]
    figure = figures.held_lines(lines, design.LIGHT, step=1)
    assert [t.name for t in figure.data[:2]] == ["network", "probe"]
    np.testing.assert_array_equal(figure.data[0].y, [50, np.nan, 25])
    assert [tuple(c) for c in figure.data[-1].customdata] == [(0,), (2,), (0,), (1,), (2,)]


def test_destination_bars_stand_on_one_another_and_are_percent_of_the_class() -> None:
    counts = np.array([[0, 0, 0, 0], [10, 20, 5, 0], [0, 30, 0, 10]])
    figure = figures.destination_bars(counts, 200, design.LIGHT, step=2)
    tops = [np.array(bar.base) + np.array(bar.y) for bar in figure.data]
    np.testing.assert_allclose(tops[-1], 100 * counts.sum(1) / 200)
    for lower, bar in zip(tops, figure.data[1:], strict=False):
        np.testing.assert_allclose(bar.base, lower)
    names = [bar.name for bar in figures.destination_bars(counts, 200, design.DARK, step=2, background=False).data]
    assert names == ["a newer class", "another class", "none"]


def test_reliability_leaves_empty_bins_out() -> None:
    confidence, right = np.array([0.1, np.nan, 0.9]), np.array([0.2, np.nan, 0.5])
    figure = figures.reliability_lines({"old": (confidence, right, np.array([10, 0, 30]))}, design.LIGHT)
    (line,) = figure.data
    np.testing.assert_allclose(line.x, [10, 90])
    np.testing.assert_allclose(line.y, [20, 50])


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_sites_have_a_colour_each(ink: design.Ink) -> None:
    assert len(set(figures.site_colors(len(SITES), ink))) >= len(SITES) - 1


def test_pseudo_labels_of_a_step_without_any_are_a_dash(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path, "whole"))
    held = replace(some_holds(3, 5), pseudo=PseudoLabelTable(np.zeros((3, 6, 6), np.int64)))
    assert set(page._label_table(run, held, 0)["pseudo-labels: right (%)"]) == {"–"}
