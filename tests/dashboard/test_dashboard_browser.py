"""The dashboard in a real browser: first screen, keys, clicks, links, upload, both themes, both widths."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from browser import figure, screenshot, served, settle, window
from PIL import Image
from small_runs import write_run

pytestmark = pytest.mark.browser

APP = "dashboard/app.py"
CARDS = (
    "headline",
    "view-steps",
    "view-iou-by-step-and-class",
    "view-old-new-all",
    "view-confusion",
    "view-all-runs",
)
DRAWN = """() => [...document.querySelectorAll("[class*='st-key-plot-']")].every(
    (one) => one.getBoundingClientRect().top >= innerHeight || one.querySelector(".main-svg"))"""
"""Every figure in the window is drawn."""
FIRST = CARDS[:3]
"""Cards that are seen without scrolling at 1920 x 1080."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_run(root, "aerial-2-2-1-finetune", kept=0.15)
    write_run(root, "aerial-2-2-1-reference", method="reference", kept=0.9)
    (root / "torn").mkdir()
    (root / "torn" / "run.json").write_text("{")
    with served(APP, {"LAG_RUNS": str(root)}) as url:
        yield f"{url}/overview"


def ready(page):
    """Wait until Overview is drawn: the last card, the slider, the timeline, and the figures in the window."""
    page.set_default_timeout(60_000)  # the machine may do other work
    page.wait_for_selector(".st-key-view-all-runs")
    page.wait_for_selector("input[type=range]")  # a container can be there before what it holds
    page.locator(".timeline .box").first.wait_for()
    settle(page)
    page.wait_for_function(DRAWN)


def step_shown(page) -> int:
    return int(page.get_by_role("slider", name="Step").input_value())


def old_shown(page) -> str:
    return page.get_by_test_id("stMetricValue").first.inner_text()


def wait_for_step(page, step):
    page.wait_for_function(f"document.querySelector('input[type=range]')?.value === '{step}'")
    settle(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_first_screen(browser, address, scheme, width, height):
    with window(browser, address, width=width, height=height, scheme=scheme) as page:
        ready(page)
        screenshot(page, f"overview-{scheme}-{width}")
        boxes = {name: page.locator(f".st-key-{name}").bounding_box() for name in CARDS}
        for name, box in boxes.items():
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, f"{name} is cut off"
            if width == 1920 and name in FIRST:
                assert box["y"] + box["height"] <= height, f"{name} needs scrolling"
        pictures = page.locator("[data-testid=stSidebar] img, [data-testid=stSidebar] canvas")
        assert pictures.count() >= 1, "a picture without a click"
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0


def test_keys_move_the_scrubber_and_the_link_follows(browser, address):
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        last = old_shown(page)
        page.keyboard.press("j")
        wait_for_step(page, 1)
        page.wait_for_function("location.search.includes('step=1')")
        assert old_shown(page) != last
        page.keyboard.press("j")
        wait_for_step(page, 0)
        page.keyboard.press("l")
        wait_for_step(page, 1)
        page.reload()
        ready(page)
        assert step_shown(page) == 1, "the link brings the state back"


def test_fast_keys_are_not_lost(browser, address):
    """The browser sends the slider and the URL that it knew: that echo must not undo the key before."""
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        page.keyboard.press("j")
        page.wait_for_timeout(120)
        page.keyboard.press("j")
        wait_for_step(page, 0)
        page.wait_for_timeout(1500)
        assert step_shown(page) == 0


def test_play_runs_to_the_end(browser, address):
    with window(browser, f"{address}?step=0", width=1920, height=1080) as page:
        ready(page)
        page.keyboard.press("k")
        wait_for_step(page, 1)
        wait_for_step(page, 2)
        page.get_by_role("button", name="Play").wait_for()


def click_cell(page, view, column, row, columns, rows):
    """Click a cell of a view's heat map."""
    place = figure(page, view).locator(".nsewdrag")
    box = place.bounding_box()
    across, down = (column + 0.5) / columns, (row + 0.5) / rows
    page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)
    page.wait_for_timeout(200)
    page.mouse.down()
    page.mouse.up()


def test_a_cell_of_the_iou_matrix_selects_step_and_class(browser, address):
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        click_cell(page, "iou-by-step-and-class", 1, 3, 3, 5)
        wait_for_step(page, 1)
        page.wait_for_function("location.search.includes('class=tree')")
        page.keyboard.press("l")
        wait_for_step(page, 2)
        page.wait_for_timeout(800)
        assert step_shown(page) == 2, "the click counts once"


def test_a_cell_of_the_confusion_matrix_names_the_pair(browser, address):
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        click_cell(page, "confusion", 2, 1, 5, 5)
        page.get_by_text(re.compile("building.*called.*low vegetation")).wait_for()
        page.wait_for_function("location.search.includes('pair=1-2')")


def test_a_box_of_the_timeline_is_a_step(browser, address):
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        boxes = page.locator(".timeline .box")
        assert boxes.count() == 3 and boxes.nth(2).get_attribute("aria-pressed") == "true"
        boxes.nth(0).click()
        wait_for_step(page, 0)
        assert boxes.nth(0).get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("width", [900, 1280])
def test_the_timeline_cuts_no_name(browser, address, width):
    with window(browser, address, width=width) as page:
        ready(page)
        cut = page.locator(".timeline .box").evaluate_all(
            "boxes => boxes.filter((b) => b.scrollWidth > b.clientWidth || b.scrollHeight > b.clientHeight).length"
        )
        names = page.locator(".timeline .name").all_inner_texts()
        assert cut == 0 and "low vegetation" in names


def test_a_figure_below_is_drawn_when_somebody_scrolls(browser, address):
    with window(browser, address, width=1280, height=500) as page:
        ready(page)
        place = page.locator(".st-key-later-confusion")
        height, top = place.bounding_box()["height"], page.locator(".st-key-view-confusion").bounding_box()["y"]
        assert top > 500 and page.locator(".st-key-plot-confusion").count() == 0
        drawn = figure(page, "confusion")
        assert page.locator(".st-key-plot-confusion").bounding_box()["height"] == height, "nothing jumps"
        page.keyboard.press("j")
        wait_for_step(page, 1)
        assert drawn.is_visible(), "it stays"
        page.get_by_role("link", name="Compare").first.click()
        page.locator(".st-key-view-seeds").wait_for()
        page.get_by_role("link", name="Overview").first.click()
        ready(page)
        assert page.locator(".st-key-later-confusion").count() == 1, "who comes back begins at the top"


def test_choosing_another_thumbnail(browser, address):
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        page.locator("[data-testid=stSidebar]").get_by_text("rgb-val-0002").first.click()
        page.wait_for_function("location.search.includes('image=rgb-val-0002')")


def test_a_hostile_link_is_mended_with_a_message(browser, address):
    with window(browser, f"{address}?step=99&class=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", width=1280) as page:
        page.get_by_text("0 to 2 is possible").wait_for()
        ready(page)
        assert step_shown(page) == 2
        assert page.locator("img[src='x']").count() == 0
        assert "step" not in page.url and "img" not in page.url


def test_an_address_that_names_the_default_page_leads_there(browser, address):
    with window(browser, f"{address.removesuffix('/overview')}/start?step=1&class=tree", width=1280) as page:
        page.get_by_role("button", name="Why?").wait_for()
        settle(page)
        assert step_shown(page) == 1 and "/start" not in page.url and "class=tree" in page.url
        assert page.get_by_text("Page not found").count() == 0
        assert page.get_by_role("link", name="Start").count() == 1


def test_upload_a_picture_and_refuse_what_is_none(browser, address):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(buffer, "PNG")
    with window(browser, address, width=1280) as page:
        ready(page)
        page.get_by_role("button", name="Upload", exact=False).first.click()
        chooser = page.locator("input[type=file]")
        chooser.set_input_files({"name": "evil.png", "mimeType": "image/png", "buffer": b"not a picture"})
        page.get_by_text("not a readable picture").wait_for()
        chooser.set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
        page.wait_for_function("location.search.includes('image=upload')")


def test_copy_link_offers_the_address(browser, address):
    with window(browser, f"{address}?step=1", width=1280, height=1000) as page:
        ready(page)
        page.get_by_role("button", name="Copy link", exact=False).click()
        page.get_by_text(re.compile(r"^http.*step=1")).wait_for()
        page.mouse.move(5, 5)
        shown = page.locator(".st-key-link").get_by_role("button", name="Copy to clipboard")
        shown.wait_for(state="visible")
        assert shown.evaluate("e => e.checkVisibility({opacityProperty: true, visibilityProperty: true})")


def test_downloads(browser, address):
    with window(browser, address, width=1920, height=1080) as page:
        ready(page)
        view = page.locator(".st-key-view-iou-by-step-and-class")
        with page.expect_download() as table:
            view.get_by_role("button", name="CSV").click()
        text = table.value.path().read_text()
        assert text.startswith("class,step 0,step 1,step 2\n") and "building," in text
        figure(page, "iou-by-step-and-class").hover()
        with page.expect_download() as picture:
            view.locator("[data-title^='Download plot']").click()
        assert picture.value.suggested_filename == "aerial-2-2-1-finetune-iou-by-step-and-class.png"
        assert Image.open(picture.value.path()).size[0] == 2700, "900 px at three times"


def test_two_sessions_do_not_share_a_step(browser, address):
    with window(browser, address) as one, window(browser, address) as other:
        ready(one)
        ready(other)
        one.keyboard.press("j")
        wait_for_step(one, 1)
        other.wait_for_timeout(500)
        assert step_shown(other) == 2
