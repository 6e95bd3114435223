"""Why preserved and Report, without a browser: figures as objects, words as the library's, work that is asked for."""

from __future__ import annotations

import base64
import html
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_shares import made_shares
from PIL import Image
from repository import ROOT
from shapes import tiny_run, write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.report import page as report_page
from dashboard.app_pages.why import figures
from dashboard.app_pages.why.figures import Series
from dashboard.app_pages.why.swap_board import Board, drawn, outlined, reading
from dashboard.app_pages.why.waterfall import part_name, waterfall_figure
from dashboard.cache import loaders
from dashboard.ui import design, untrusted
from lag_core.explain.evidence import class_shares, finish, from_validation, one_picture, why_preserved
from lag_core.explain.networks import Networks
from lag_core.explain.shares import (
    ASPP,
    COMPETITION,
    FEATURES,
    NEWLY,
    OLD_HEADS,
    START,
    UNKNOWN_HEAD,
    part_words,
    waterfall,
)
from lag_core.explain.survey import write_survey
from lag_core.explain.survey_pass import survey
from lag_core.explain.verdict import EffectCurve
from lag_core.runs import open_run

torch.set_num_threads(1)
CLS = 1


def named(figure, name):
    return next(t for t in figure.data if t.name == name)


def test_every_fate_has_its_icon():
    from typing import get_args

    from dashboard.app_pages.why.page import ICONS
    from lag_core.explain.why import Fate

    assert set(ICONS) == set(get_args(Fate))


# ---------------------------------------------------------------------- the swap board in words


@pytest.mark.parametrize(
    ("shows", "annotated", "ious", "said"),
    [
        (False, True, (0.0, 0.0, np.nan, 0.0), "There is no cat here"),
        (True, True, (0.0, 0.0, 0.0, 0.0), "Step 1's network does not find cat here"),
        (False, False, (np.nan, np.nan, np.nan, np.nan), "Step 1's network does not find cat here"),
        (True, True, (60.0, 58.0, 0.0, 0.0), "the heads lost it"),
        (True, True, (60.0, 58.0, 57.0, 59.0), "the present network still finds cat"),
        (True, False, (100.0, 80.0, 82.0, 85.0), "finds less of cat (85 of 100): features and heads both changed"),
        (True, True, (60.0, 59.0, 40.0, 40.0), "the heads lost a part of it"),
        (True, True, (60.0, 10.0, 12.0, 0.0), "neither new features with old heads (10 of 60) nor old features"),
        (True, True, (60.0, 40.0, 40.0, 0.0), "new features or new heads alone still find cat; together they do not"),
        (True, True, (91.0, 68.0, 0.0, 0.0), "(68 of 91): the heads lost it, and the features a part of it"),
        (True, True, (60.0, 0.0, 50.0, 0.0), "the new heads still find cat in the old features (50 of 60)"),
        (True, True, (95.0, 93.0, 0.0, 0.0), "(93 of 95): the heads lost it."),
    ],
)
def test_the_board_is_read_by_what_the_picture_shows(shows, annotated, ious, said):
    truth = np.full((4, 4), CLS if shows else 0, np.uint8)
    board = Board((truth,) * 4, ious, np.zeros((4, 4, 3), np.uint8), truth, annotated)
    assert said in reading(board, "cat", CLS, 1)


def test_the_board_that_is_sent_is_small_and_shows_what_was_drawn():
    run = open_run(ROOT / "checkpoints" / "animals-3-1-lagplus")
    picture = loaders.picture(run, "", loaders.image_ids(run, "/nowhere")[0])
    pixels = picture.pixels[:240, :240]
    truth = np.zeros((240, 240), np.uint8)
    truth[60:180, 80:200] = CLS
    board = Board((truth,) * 4, (50.0,) * 4, pixels, truth, True)
    sent = drawn(run, picture, board, CLS, 0, 1)
    assert sent.nbytes < 250_000, "six PNG files of a photograph are 0.6 MB"
    shown = base64.b64decode(sent.corners[0].partition("base64,")[2])
    difference = np.abs(np.asarray(Image.open(io.BytesIO(shown)), float) - outlined(run, board, truth, CLS))
    assert difference.shape == (240, 240, 3) and np.percentile(difference, 99) < 24


# ---------------------------------------------------------------------- figures


def test_a_line_for_each_series_and_a_mark_for_each_value():
    values = np.array([np.nan, 40.0, 20.0])
    series = [Series("IoU", values), Series("other", values / 2, figures.SECOND, dotted=True)]
    found = figures.over_steps(series, design.LIGHT, step=2, y="IoU (%)", decimals=1, limits=(0, 100))
    line, dotted = named(found, "IoU"), named(found, "other")
    assert np.array_equal(line.y, values, equal_nan=True) and list(line.x) == [0, 1, 2]
    assert line.line.dash == "solid" and dotted.line.dash == "dot" and dotted.marker.color == design.LIGHT.surface
    clicks = named(found, "cells")
    assert [list(d) for d in clicks.customdata] == [[1], [2], [1], [2]]
    assert clicks.text[0] == "IoU<br>step 1: 40.0"
    assert list(found.layout.yaxis.range) == [0, 100]
    assert found.layout.shapes[0].x0 == 2


def curve(size=0.3):
    rng = np.random.default_rng(0)
    return EffectCurve(np.array([1, 2, 4]), np.array([-0.1, -0.2, -0.3]) * size / 0.3, rng.normal(0, 0.01, (3, 20)))


@pytest.mark.parametrize("draw", [figures.ablation_figure, figures.transplant_figure])
def test_an_effect_stands_beside_its_band_from_no_channel_on(draw):
    measured = curve()
    found = draw(measured, design.DARK, 2, 8)
    line = next(t for t in found.data if t.name in ("most invariant", "most changed"))
    assert list(line.x) == [0, 1, 2, 4] and np.allclose(line.y, [0, -10, -20, -30])
    low, high = measured.interval()
    assert np.allclose(named(found, "random channels, 90 %").y, 100 * np.array([0, *low]))
    assert np.allclose(named(found, "high").y, 100 * np.array([0, *high]))
    ring = named(found, "shown")
    assert (ring.x[0], ring.y[0]) == (2, pytest.approx(-20))


def test_effects_below_a_point_do_not_look_large():
    small = EffectCurve(np.array([1]), np.array([-0.002]), np.full((1, 20), 0.001))
    assert list(figures.ablation_figure(small, design.LIGHT, 1, 8).layout.yaxis.range) == [-1.05, 1.05]
    assert figures.ablation_figure(curve(), design.LIGHT, 1, 8).layout.yaxis.range is None


# ---------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of coloured rectangles: one that moves, one whose extractor is frozen."""
    root = tmp_path_factory.mktemp("why")
    data = write_shapes(root / "shapes", val_images=8)
    for method in ("finetune", "reference"):
        tiny_run(data, root / "runs" / f"shapes-{method}", method)
    return root / "runs"


@pytest.fixture
def app(runs, monkeypatch, tmp_path):
    """The app on a page, not yet run."""
    monkeypatch.setenv("LAG_RUNS", str(runs))
    monkeypatch.setenv("LAG_CACHE", str(tmp_path))
    monkeypatch.delenv("LAG_DATA", raising=False)

    def opened(slug, **query):
        def script(slug):
            from dashboard import app

            app.main(default=slug)

        at = AppTest.from_function(script, default_timeout=250, args=(slug,))
        run = open_run(runs / "shapes-finetune")
        dataset = run.open_dataset()
        image = next(n for n in dataset.ids("val") if run.classes[CLS].id in dataset.mask(n))
        asked = {"run": "shapes-finetune", "class": run.classes[CLS].name, "step": "2", "image": image, "run2": "none"}
        at.query_params.update(asked | query)
        return at

    return opened


def said(at):
    return " ".join(m.value for m in at.markdown)


def sound(at):
    return not at.exception and not at.error and not at.warning


def picture_of(at, runs):
    """The run and the picture that the app shows, as the library takes them."""
    from lag_core.data.remap import truth

    run = open_run(runs / "shapes-finetune")
    dataset, name = run.open_dataset(), at.session_state["image"]
    return run, one_picture(dataset.image(name), truth(dataset.mask(name), run.labels), CLS, "red")


def test_the_words_are_the_librarys(app, runs):
    at = app("why", why="image", detail="on").run()
    assert sound(at)
    run, pictures = picture_of(at, runs)
    _, verdict = why_preserved(Networks(run), pictures, CLS, 2)
    words = said(at)
    for finding in (*verdict.findings, *verdict.details):
        assert untrusted.markdown(finding.text) in words


def test_the_board_has_the_four_networks(app, runs):
    at = app("why").run()
    assert sound(at)
    run, pictures = picture_of(at, runs)
    shares = finish(class_shares(Networks(run), pictures, CLS, 2))
    captions = " ".join(c.value for c in at.caption)
    for features, heads in ((0, 0), (1, 0), (0, 1), (1, 1)):
        assert f"IoU **{shares.corners[features, heads]:.0f}**" in captions


def test_a_frozen_run_beside_a_moving_one(app):
    at = app("why", run2="shapes-reference", detail="on").run()
    assert sound(at) and "The features are frozen" in said(at).replace("\\", "")
    assert "in shapes-reference" in said(at).replace("\\", "")


def test_the_validation_set_is_measured_when_asked(app, runs):
    at = app("why", why="set").run()
    assert sound(at) and "Not measured yet" in at.info[0].value
    at = next(b for b in at.button if b.label.startswith("Measure")).click().run()
    assert sound(at) and not at.info
    run = open_run(runs / "shapes-finetune")
    pictures = from_validation(run, run.open_dataset(), CLS)
    _, verdict = why_preserved(Networks(run), pictures, CLS, 2)
    assert untrusted.markdown(verdict.findings[0].text) in said(at)
    again = app("why", why="set").run()
    assert not again.info, "another session need not ask again"


def test_a_survey_answers_at_once(app, runs):
    run = open_run(runs / "shapes-finetune")
    write_survey(run, survey(run, run.open_dataset(), lambda items, what: items))
    try:
        at = app("why").run()
        assert sound(at) and not at.info and "8 validation images" in said(at)
        at = app("why", step="0").run()
        assert any(b.label.startswith("Go to the largest loss") for b in at.button)
    finally:
        for name in ("survey.json", "survey.safetensors"):
            (run.path / name).unlink()


def _work():
    """A page of one piece of work, which stops half way if its button "Cancel" was clicked before."""
    import streamlit as st

    from dashboard.page import guarded
    from dashboard.picture import reasons

    with guarded("work"):
        reasons.wait_for_asking("key", False, "Measure", "Not yet.")
        st.markdown("went on")


def test_what_was_cancelled_waits_for_a_click():
    at = AppTest.from_function(_work).run()
    assert said(at) == "went on"
    at.session_state["_work_stopped"] = "another"
    assert said(at.run()) == "went on", "another work that was cancelled does not matter"
    at.session_state["_work_stopped"] = "key"
    at = at.run()
    assert not at.markdown and at.info[0].value == "Cancelled."
    assert said(at.button[0].click().run()) == "went on"


def _long_work():
    from pathlib import Path
    from types import SimpleNamespace

    import streamlit as st

    from dashboard.page import guarded
    from dashboard.picture import reasons

    def work():
        yield from (0.25, 0.5)
        return "done"

    with guarded("work"):
        reasons.wait_for_asking("key", True, "Measure", "Not yet.")
        st.markdown(reasons.worked_off(work(), SimpleNamespace(digest="d", path=Path()), "key", "Measuring"))


def test_work_is_asked_for_done_and_its_bar_taken_away():
    at = AppTest.from_function(_long_work).run()
    assert at.info[0].value == "Not yet."
    at = at.button[0].click().run()
    assert said(at) == "done" and not at.info and not at.button


def test_a_class_that_the_picture_lacks_leads_to_one_that_shows_it(app, runs):
    run = open_run(runs / "shapes-finetune")
    dataset = run.open_dataset()
    name = next(n for n in dataset.ids("val") if run.classes[CLS].id not in dataset.mask(n))
    at = app("why", image=name).run()
    assert sound(at)
    at = next(b for b in at.button if b.label == "Show the picture that shows it best").click().run()
    assert sound(at) and run.classes[CLS].id in dataset.mask(at.session_state["image"])


def test_before_the_class_is_known_nothing_is_claimed(app, runs):
    run = open_run(runs / "shapes-finetune")
    last = run.classes[-1]
    dataset = run.open_dataset()
    name = next(n for n in dataset.ids("val") if last.id in dataset.mask(n))
    at = app("why", image=name, step="0", **{"class": last.name}).run()
    assert sound(at) and "there is nothing to keep yet" in said(at)


def test_a_waterfall_begins_and_ends_with_the_ious():
    bars = tuple(waterfall(made_shares(own=-40, newly=-3), "then", "now"))
    found = waterfall_figure(bars, design.LIGHT)
    points = named(found, "points")
    assert (points.x[0], points.x[-1]) == (60, 17)
    ends = [base + size for base, size in zip(points.base, points.x, strict=True)]
    assert ends[:-2] == [pytest.approx(one) for one in list(points.base)[1:-1]], (
        "each bar begins where the last one ends"
    )
    assert list(found.layout.yaxis.ticktext)[1] == "newly counted pixels"
    assert points.error_x.array[1] > 0 and "95 % interval" in points.customdata[1]


def test_a_part_that_moved_nothing_is_not_minus_zero():
    bars = tuple(waterfall(made_shares(own=-40, competition=-0.04), "then", "now"))
    found = waterfall_figure(bars, design.LIGHT)
    texts = [*named(found, "numbers").text, *named(found, "points").customdata]
    assert not any("−0.0" in text or "-0.0" in text for text in texts) and any("+0.0" in text for text in texts)


@pytest.mark.parametrize(("key", "value"), [("why", "<b>"), ("share", "2"), ("report_set", "maybe")])
def test_hostile_settings_fall_back(app, key, value):
    at = app("report" if key == "report_set" else "why", detail="on", **{key: value}).run()
    assert sound(at) and "which is not here" in at.toast[0].value


def test_the_report_says_how_the_compared_run_differs_as_why_does(app):
    why = app("why", why="image", run2="shapes-reference").run()
    at = app("report", run2="shapes-reference").run()
    at = next(b for b in at.button if b.label == "Make the report").click().run()
    made = at.session_state["_report"]
    (sentence,) = [one for one in made.contents.words if "in this run" in one]
    assert sound(at) and untrusted.markdown(sentence) in said(why)
    assert html.escape(sentence, quote=True) in made.page and "The difference by part" in made.page
    assert "--against" in made.page and "--own-shares" in made.page


def test_parts_have_one_name_on_the_page_and_in_the_report():
    for part in (NEWLY, START, ASPP, FEATURES, OLD_HEADS, UNKNOWN_HEAD, COMPETITION, "head: dog", "backbone.layer1"):
        assert part_name(part) == part_words(part)


@pytest.mark.parametrize("known", [True, False])
def test_the_list_of_contents_has_ground_truth_only_where_there_is_some(known):
    picture = SimpleNamespace(truth=np.zeros((2, 2), np.uint8) if known else None)
    lines = report_page.holds(SimpleNamespace(picture=lambda: picture, run2=None))
    assert ("its ground truth" in " ".join(lines)) == known == any("became of each pixel" in line for line in lines)


def test_the_report_is_made_when_asked_and_offered(app):
    at = app("report").run()
    assert sound(at) and "the prediction of every step" in said(at)
    at = next(b for b in at.button if b.label == "Make the report").click().run()
    assert sound(at) and not any(b.label == "Make the report" for b in at.button)
    made = at.session_state["_report"]
    assert made.page.startswith("<!doctype html>") and made.contents.pictures >= 7 and made.contents.plots >= 3
    for sentence in made.contents.words:
        assert untrusted.markdown(sentence) in said(at)
    at.session_state["step"] = 1
    at = at.run()
    assert any(b.label == "Make the report" for b in at.button), "a report of another state is not offered"
