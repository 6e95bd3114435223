"""Why preserved and Report in a real browser, on two small runs."""

from __future__ import annotations

import re

import pytest
from browser import figure, screenshot, served, settle, window
from shapes import tiny_run, write_shapes

from lag_core.data.pictures import read_mask

pytestmark = pytest.mark.browser
SIZES = [(1280, 800, "dark"), (1920, 1080, "light")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("why")
    data = write_shapes(root / "shapes", val_images=8)
    for method in ("finetune", "reference"):
        tiny_run(data, root / "runs" / f"shapes-{method}", method)
    with served("dashboard/app.py", {"LAG_RUNS": str(root / "runs"), "LAG_CACHE": str(root / "cache")}) as url:
        yield url


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A validation image that shows the class red; the dataset is the same wherever it is written."""
    data = write_shapes(tmp_path_factory.mktemp("again") / "shapes", val_images=8)
    names = (data / "val.txt").read_text().split()
    return next(n for n in names if (read_mask(data / "masks" / f"{n}.png") == 1).any())


@pytest.mark.parametrize(("width", "height", "scheme"), SIZES)
def test_why_preserved(browser, address, image, width, height, scheme):
    query = f"run=shapes-finetune&run2=shapes-reference&class=red&step=2&image={image}"
    with window(browser, f"{address}/why?{query}", width=width, height=height, scheme=scheme) as page:
        page.wait_for_selector(".st-key-view-waterfall .js-plotly-plot", timeout=90_000)
        figure(page, "beside")
        settle(page)
        assert page.get_by_text(re.compile("red was")).count() >= 1, "the answer"
        assert page.locator(".st-key-view-board img").count() == 6, "picture, truth and the four networks"
        screenshot(page, f"why-{scheme}-{width}")
        page.get_by_text("Detail: channels, relevance, drift").click()
        page.wait_for_selector(".st-key-view-ablation", timeout=90_000)
        settle(page)
        assert page.get_by_text("The features are frozen").count() >= 1
        page.get_by_text("Detail: channels, relevance, drift").click()
        page.get_by_role("radio", name="validation set").click()
        measured = page.get_by_text(re.compile("8 validation images")).first
        ask = page.get_by_role("button", name=re.compile("^(play_arrow)?\\s*Measure"))
        ask.or_(measured).first.wait_for(timeout=90_000)  # what one window measured, the next one need not ask for
        if ask.count():
            ask.first.click()
        measured.wait_for(timeout=90_000)
        settle(page)
        assert "why=set" in page.url


@pytest.mark.parametrize(("width", "height", "scheme"), SIZES)
def test_report(browser, address, tmp_path, width, height, scheme):
    query = "run=shapes-finetune&class=red&step=2"
    with window(browser, f"{address}/report?{query}", width=width, height=height, scheme=scheme) as page:
        page.get_by_role("button", name="Make the report").click(timeout=90_000)
        button = page.get_by_role("button", name="Download the report")
        button.wait_for(timeout=90_000)
        settle(page)
        inside = page.frame_locator(".st-key-view-preview iframe")
        inside.get_by_text("red at step 2 of shapes-finetune").wait_for(timeout=30_000)
        screenshot(page, f"report-page-{scheme}-{width}")
        with page.expect_download() as started:
            button.click()
        content = tmp_path / "report.html"
        started.value.save_as(content)
        assert started.value.suggested_filename == "shapes-finetune-red-step-2.html"
        assert content.read_text("utf-8").startswith("<!doctype html>")
