"""Heat maps by keyboard: reached with Tab, read cell by cell, chosen with Enter (Chromium)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import figure, settle, window
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

STATE = "run=animals-3-1-finetune&run2=animals-3-1-lagplus&step=3&class=dog"


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Overview, on runs that ship."""
    with window(browser, f"{address}/overview?{STATE}", width=1280, height=900) as opened:
        opened.locator(".js-plotly-plot[tabindex]").first.wait_for()
        for view in ("iou-by-step-and-class", "confusion"):
            figure(opened, view)
        settle(opened)
        opened.wait_for_function("document.querySelectorAll('.js-plotly-plot[tabindex]').length === 2")
        yield opened


def told(page: Page) -> str:
    """What a screen reader is given to say of the cell."""
    return page.locator(".told[aria-live=polite]").inner_text()


def test_every_heat_map_is_in_the_tab_order_and_no_other_plot(page: Page) -> None:
    kinds = page.locator(".js-plotly-plot").evaluate_all(
        "plots => plots.map(p => [p.tabIndex === 0, p._fullData.some(t => t.type === 'heatmap')])"
    )
    assert [reached for reached, _ in kinds] == [heat for _, heat in kinds]
    assert sum(heat for _, heat in kinds) == 2, "IoU by step and class, and the confusion"


def test_arrow_keys_move_a_cell_whose_value_is_said(page: Page) -> None:
    plot = page.locator(".st-key-plot-iou-by-step-and-class .js-plotly-plot")
    assert "Heat map" in str(plot.get_attribute("aria-label"))
    tips = plot.evaluate("p => p._fullData.find(t => t.type === 'heatmap').customdata")
    plot.focus()
    said = []
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "End", "ArrowRight", "Home", "ArrowUp"):
        page.keyboard.press(key)
        said.append(told(page))
    last = len(tips[0]) - 1
    places = [(0, 0), (1, 0), (1, 1), (1, last), (1, last), (1, 0), (0, 0)]
    for text, (row, column) in zip(said, places, strict=True):
        assert text.split() == tips[row][column].replace("<br>", " ").split(), (row, column)
    cursor = page.locator(".lag-cell-cursor").bounding_box()
    frame = plot.bounding_box()
    assert cursor and frame and cursor["width"] > 10 and cursor["height"] > 10
    assert frame["x"] <= cursor["x"] and cursor["x"] + cursor["width"] <= frame["x"] + frame["width"] + 1


def test_enter_chooses_the_cell(page: Page) -> None:
    plot = page.locator(".st-key-plot-iou-by-step-and-class .js-plotly-plot")
    plot.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "Enter"):  # the third class, after step 1
        page.keyboard.press(key)
    expect(page.get_by_role("slider", name="Step Step")).to_have_value("1", timeout=60_000)
    page.wait_for_function("location.search.includes('step=1')")
