"""The Start page: what became of the old classes, in numbers, bars and one sentence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from browser import served, settle, window
from repository import ROOT
from small_runs import write_run
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.start import page
from dashboard.app_pages.start.held import held
from dashboard.components import held_bars
from lag_core import metrics
from lag_core.runs import open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_run(root, "aerial-2-2-1-finetune", kept=0.15)
    write_run(root, "aerial-2-2-1-reference", method="reference", kept=0.9)
    return root


def told(runs, name, step=2):
    run = open_run(runs / name)
    return held(run, run.confusions(), step)


def test_old_classes_are_compared_on_fixed_pixels_the_worst_first(runs):
    run = open_run(runs / "aerial-2-2-1-finetune")
    matrices, labels = run.confusions(), run.labels
    found = held(run, matrices, 2)
    assert len(found.classes) == labels.seen(1)
    for info, then, now in zip(found.classes, found.then, found.now, strict=True):
        c = labels.index_of(info.id)
        s = labels.step_of(c)
        assert then == pytest.approx(100 * metrics.iou_between(matrices, labels, s, s)[c])
        assert now == pytest.approx(100 * metrics.iou_between(matrices, labels, s, 2)[c])
        assert np.isnan(found.course[:s, list(found.classes).index(info)]).all(), "not known before"
        assert found.course[s, list(found.classes).index(info)] == pytest.approx(then)
    assert (np.diff(found.now - found.then) >= 0).all()


def test_background_is_no_old_class():
    run = open_run(ROOT / "checkpoints" / "animals-3-1-finetune")
    names = [info.name for info in held(run, run.confusions(), 1).classes]
    assert sorted(names) == ["cat", "dog", "person"]


def test_bars_of_two_runs_have_one_order_of_classes(runs):
    pair = [told(runs, "aerial-2-2-1-finetune"), told(runs, "aerial-2-2-1-reference")]
    classes = sorted(pair[0].classes, key=lambda info: info.id)
    bars = [page._of_run(run, classes, "#000000") for run in pair]
    for run, found in zip(pair, bars, strict=True):
        np.testing.assert_allclose(found.now[2], [run.of(info.id)[1] for info in classes])
        np.testing.assert_allclose(found.then, [run.of(info.id)[0] for info in classes])


def test_a_class_that_the_compared_run_does_not_have_is_left_open(runs):
    run = told(runs, "aerial-2-2-1-finetune")
    bars = page._of_run(run, [*run.classes, SimpleNamespace(id=999)], "#000000")
    assert np.isnan(bars.then[-1]) and np.isnan(bars.now[:, -1]).all()


def test_bars_are_sent_as_json_with_null_for_what_is_not_known(monkeypatch):
    sent = {}
    monkeypatch.setattr(held_bars, "_component", lambda key, data: sent.update(data))
    run = held_bars.RunBars("run", "#0072B2", np.array([50.0, np.nan]), np.array([[50.0, np.nan], [12.344, np.nan]]))
    held_bars.held_bars([("cat", "red"), ("dog", "blue")], [run], key="x", label="words", step=1)
    assert sent["runs"][0]["then"] == [50.0, None]
    assert sent["runs"][0]["now"] == [[50.0, None], [12.34, None]]
    assert (sent["highest"], sent["step"], sent["play"]) == (50.0, 1, False)
    nothing = held_bars.RunBars("run", "#0072B2", np.array([np.nan]), np.array([[np.nan]]))
    held_bars.held_bars([("cat", "red")], [nothing], key="x", label="words", step=0)
    assert sent["highest"] == held_bars.LEAST_HIGH


def test_the_sentence_names_the_chosen_class_else_the_worst(runs):
    pair = [told(runs, "aerial-2-2-1-finetune"), told(runs, "aerial-2-2-1-reference")]
    worst, best = pair[0].classes[0], pair[0].classes[-1]
    for chosen, expected in ((best, best), (SimpleNamespace(id=999), worst)):
        sentence = page._sentence(SimpleNamespace(step=2, class_info=chosen), pair)
        assert f"**{expected.name}**" in sentence
        assert f"**{pair[1].of(expected.id)[1]:.0f}** of {pair[1].of(expected.id)[0]:.0f}" in sentence
    assert "nothing can be forgotten" in page._sentence(SimpleNamespace(step=0), pair)


def test_without_data_the_page_still_answers(runs, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(runs))
    monkeypatch.setenv("LAG_DATA", "/nowhere")
    at = AppTest.from_string("from dashboard.app import main; main()", default_timeout=60).run()
    assert not at.exception and not at.error
    assert any("came without old data" in m.value for m in at.markdown)


SEEN = """
const seen = (window.seen = []);
const look = () => {
    const roots = [...document.querySelectorAll("*")].map((node) => node.shadowRoot ?? node);
    const tag = roots.map((root) => root.querySelector?.(".viewer .tag")).find(Boolean)?.textContent;
    if (tag && tag !== seen.at(-1)) seen.push(tag);
};
setInterval(look, 100);
"""
"""Keeps what the first tag of the viewer has said, one word after the other."""


@pytest.mark.browser
def test_it_plays_once_and_leads_to_why(browser, address):
    with window(browser, "about:blank", width=1280, height=800, fresh=True) as shown:
        shown.set_default_timeout(120_000)
        shown.emulate_media(reduced_motion="no-preference")
        shown.add_init_script(SEEN)
        shown.goto(address)
        shown.wait_for_function("window.seen?.length == 2")
        assert [tag[:6] for tag in shown.evaluate("window.seen")] == ["Step 0", "Step 1"]
        numbers = shown.locator(".held .number")
        numbers.first.wait_for()
        assert numbers.all_inner_texts()[1::2] == ["0", "0", "0"], "the compared run's bars have fallen"
        settle(shown)
        shown.get_by_role("button", name="Why?").click()
        shown.get_by_role("heading", name="Why preserved").first.wait_for()
        shown.wait_for_url("**/why**")


PAINTED = """
document.addEventListener("lag:painted", () => {
    window.loaded = performance.getEntriesByType("resource").map((one) => one.name);
    window.drawn = !!document.querySelector(".js-plotly-plot");
});
"""
"""Keeps what the browser had loaded when the first picture stood there."""


FETCHED = "performance.getEntriesByType('resource').some((one) => one.name.includes('PlotlyChart'))"


@pytest.mark.browser
def test_bars_follow_a_key_before_the_server_answers(browser, address):
    with window(browser, f"{address}?step=1", width=1280, height=800) as shown:
        numbers = shown.locator(".held .number")
        numbers.first.wait_for()
        settle(shown)
        assert numbers.all_inner_texts()[1::2] == ["0", "0", "0"]
        shown.evaluate("document.dispatchEvent(new CustomEvent('lag:shown', { detail: 0 }))")
        assert all(int(text) > 10 for text in numbers.all_inner_texts())


@pytest.mark.browser
def test_the_first_picture_does_not_wait_for_what_stands_around_it(browser):
    with (
        served("dashboard/app.py", {"LAG_RUNS": str(ROOT / "checkpoints")}) as url,
        window(browser, "about:blank", width=1280, height=800, fresh=True) as shown,
    ):
        shown.set_default_timeout(120_000)
        shown.add_init_script(PAINTED)
        shown.goto(url)
        shown.wait_for_function("window.loaded")
        assert not shown.evaluate("window.drawn")
        loaded = shown.evaluate("window.loaded")
        assert not [name for name in loaded if "PlotlyChart" in name or "SyntaxHighlighter" in name]
        shown.locator(".held .now").first.wait_for()
        shown.wait_for_function(FETCHED)
        shown.get_by_text("python -m lag_core train").wait_for()
        settle(shown)
        shown.keyboard.press("j")  # from now on nothing is kept back
        shown.wait_for_url("**step=0**")
        settle(shown)
        assert shown.locator("[class*='st-key-after-']").count() == 0
