"""The Steps page in a real browser, on two small runs that are trained here."""

from __future__ import annotations

import io

import numpy as np
import pytest
from browser import screenshot, served, settle, window
from PIL import Image
from small_aerial import train_small

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app on two runs of the same task."""
    root = tmp_path_factory.mktemp("runs")
    train_small(root, "finetune", "reference")
    with served("dashboard/app.py", {"LAG_RUNS": str(root)}) as url:
        yield f"{url}/steps"


def ready(page):
    """Wait for the viewer's first drawing; the first one imports torch."""
    page.wait_for_selector(".viewer .item", timeout=90_000)
    page.wait_for_selector(".st-key-view-classes")
    settle(page)


@pytest.fixture
def page(browser, address):
    with window(browser, address) as opened:
        ready(opened)
        yield opened


def tags(page):
    return page.locator(".viewer .tag").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_first_screen(browser, address, scheme, width, height):
    with window(browser, address, width=width, height=height, scheme=scheme) as page:
        ready(page)
        page.locator(".viewer .stage").click(position={"x": 200, "y": 220})
        page.locator(".st-key-view-pixel [data-testid=stDataFrame]").wait_for()
        settle(page)
        screenshot(page, f"steps-{scheme}-{width}")
        box = page.locator(".viewer").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        if width == 1920:
            assert box["y"] + box["height"] <= height, "the viewer needs scrolling"


def test_opens_on_the_last_step_beside_the_truth(page):
    assert tags(page) == ["Step 2 · aerial-2-2-1-finetune", "Ground truth"]
    assert page.locator(".viewer .item").count() == 2 + 3 + 3, "picture, truth, and three steps of two runs"
    assert page.get_by_text("of the pixels of known classes are right").is_visible()


def test_the_strip_moves_the_global_scrubber(page):
    from playwright.sync_api import expect

    page.locator(".viewer .item", has_text="Step 0").first.click()
    page.wait_for_url("**step=0**")
    expect(page.get_by_role("slider", name="Step Step")).to_have_value("0", timeout=30_000)
    settle(page)
    assert tags(page)[0].startswith("Step 0")
    page.keyboard.press("l")
    page.wait_for_url("**step=1**")
    page.locator(".viewer .tag", has_text="Step 1").wait_for()


def test_the_compared_run_stands_beside(browser, address):
    with window(browser, f"{address}?beside=run2&split=swipe") as page:
        ready(page)
        assert tags(page) == ["Step 2 · aerial-2-2-1-finetune", "Step 2 · aerial-2-2-1-reference"]
        assert page.locator(".viewer .divider").is_visible()


def test_a_pixel_is_kept_in_the_link_and_its_history_is_told(browser, address, page):
    page.locator(".viewer .stage").click(position={"x": 150, "y": 220})
    page.wait_for_url("**pixel=**")
    table = page.locator(".st-key-view-pixel [data-testid=stDataFrame]")
    table.wait_for()
    pixel = page.url.split("pixel=")[1].split("&")[0]
    with window(browser, page.url) as again:
        ready(again)
        x, y = pixel.split("-")
        assert again.get_by_text(f"Pixel {x}, {y}").first.is_visible()


def test_settings_go_into_the_link_and_come_back(browser, address, page):
    page.get_by_role("slider", name="Overlay").fill("0.8")
    page.locator(".viewer .class").first.click()
    page.wait_for_url("**opacity=0.8**")
    page.wait_for_url("**hidden=0**")
    with window(browser, page.url) as again:
        ready(again)
        assert again.get_by_role("slider", name="Overlay").input_value() == "0.8"
        assert again.locator(".viewer .class").first.get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("query", ["pixel=9-9999", "hidden=7-7", "opacity=nan", "beside=../x", "split=no"])
def test_a_hostile_link_falls_back_with_a_sentence(browser, address, query):
    with window(browser, f"{address}?{query}") as page:
        ready(page)
        page.get_by_test_id("stToast").first.wait_for()
        assert "The link" in page.get_by_test_id("stToast").first.inner_text()


def test_an_upload_is_stepped_through(page):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (90, 1300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    page.get_by_role("button", name="Upload").click()
    chooser = page.locator("input[type=file]")
    chooser.set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    page.get_by_text("This picture has no annotation").first.wait_for(timeout=60_000)
    page.keyboard.press("Escape")
    settle(page)
    assert page.locator(".viewer .item", has_text="Ground truth").count() == 0
    assert page.get_by_text("Shown at 1024 x 71 pixels").is_visible()


# ---------------------------------------------------------------------- nothing is cut off

READOUT = """(rows) => [...rows.querySelectorAll('.run:not(.unnamed)')].map((run) => {
    const edge = run.getBoundingClientRect(), name = run.querySelector('.group-name').getBoundingClientRect();
    const lines = [...run.querySelectorAll('.line')].map((line) => line.getBoundingClientRect());
    return lines.length === 3 && lines.every((line) =>
        line.top >= name.bottom - 1 && line.left >= edge.left - 1 && line.right <= edge.right + 1);
})"""

CUT = """(node) => [node, ...node.querySelectorAll('*')].some((one) =>
    ['auto', 'scroll', 'hidden'].includes(getComputedStyle(one).overflowY) && one.scrollHeight > one.clientHeight + 1
    && one.clientHeight > 40)"""


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_a_run_stays_together_in_the_readout_and_its_last_step_is_shown(browser, address, width, height):
    with window(browser, address, width=width, height=height) as page:
        ready(page)
        page.locator(".viewer .stage").click(position={"x": 200, "y": 220})
        settle(page)
        assert page.locator(".viewer .rows").evaluate(READOUT) == [True, True]
        rows = page.locator(".viewer .rows").evaluate("(n) => [n.scrollHeight, n.clientHeight]")
        assert rows[0] <= rows[1] + 1, "no line is hidden"
        assert "Drag the divider" not in page.locator(".st-key-view-picture").inner_text(), "side by side has none"


def test_what_does_not_fit_is_scrolled_line_by_line(page):
    page.set_viewport_size({"width": 1920, "height": 1080})
    settle(page)
    page.locator(".viewer .panel").evaluate("(n) => { n.style.minHeight = '0'; n.style.height = '225px'; }")
    settle(page)
    last = """(rows) => {
        const ends = [rows, ...rows.querySelectorAll('.line')].map((node) => node.getBoundingClientRect().bottom);
        return Math.min(...ends.slice(1).map((end) => Math.abs(end - ends[0])));
    }"""
    assert page.locator(".viewer .rows").evaluate("(n) => n.scrollHeight > n.clientHeight + 1")
    assert page.locator(".viewer .rows").evaluate(last) <= 1.5, "the list ends with a whole line"


def test_nothing_jumps_where_the_answer_takes_two_lines(page):
    stage = page.locator(".viewer .stage")
    before = stage.bounding_box()["y"]
    lines = page.locator(".st-key-answer p").evaluate(
        """(p) => { p.textContent = 'word '.repeat(45); return p.getBoundingClientRect().height
            / parseFloat(getComputedStyle(p).lineHeight); }"""
    )
    settle(page)
    assert 1.5 < lines < 2.5
    assert abs(stage.bounding_box()["y"] - before) < 0.6


def test_tables_end_with_a_whole_row(page):
    page.locator(".viewer .stage").click(position={"x": 200, "y": 220})
    table = page.locator(".st-key-view-pixel .dvn-scroller")
    table.wait_for()
    settle(page)
    for name in ("pixel", "classes"):
        found = page.locator(f".st-key-view-{name} .dvn-scroller").evaluate("(n) => [n.scrollHeight, n.clientHeight]")
        assert 0 <= found[1] - found[0] + 1 < 4, name


def test_the_pause_button_is_readable(page):
    page.get_by_test_id("stSidebar").get_by_role("button", name="Play").click()
    label = page.get_by_test_id("stSidebar").get_by_role("button", name="Pause").locator("p")
    label.wait_for()
    assert label.evaluate("(p) => p.scrollWidth <= p.clientWidth + 1")


def test_the_strip_of_two_runs_is_whole_in_a_narrow_viewer(browser, address):
    with window(browser, address.replace("/steps", "/relevance")) as page:
        page.wait_for_selector(".viewer .item", timeout=90_000)
        settle(page)
        widths = page.locator(".viewer .strip").evaluate("(n) => [n.scrollWidth, n.clientWidth]")
        assert widths[0] <= widths[1] + 1
        axis = page.locator(".st-key-view-channels .xtitle, .xtitle").first
        axis.wait_for()
        inside = "(t) => t.getBoundingClientRect().right <= t.closest('.js-plotly-plot').getBoundingClientRect().right"
        assert axis.evaluate(inside)


def test_the_terms_are_explained_to_the_end(browser, address):
    with window(browser, address.replace("/steps", "/training")) as page:
        terms = page.locator(".st-key-view-what-the-terms-are")
        terms.wait_for(timeout=90_000)
        settle(page)
        assert not terms.evaluate(CUT)
