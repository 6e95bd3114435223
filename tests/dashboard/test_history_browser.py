"""Back through the browser's history, and keys at speed: the page keeps its server, no key is lost (Chromium)."""

from __future__ import annotations

import os

import pytest
from browser import settle, window
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

REPEATS = int(os.environ.get("LAG_REPEATS", "2"))
"""How often the sequence that once lost the server is tried; 30 before a release."""

PAUSE = 120
"""Milliseconds between keys."""

STATE = "run=animals-3-1-finetune&run2=animals-3-1-lagplus"


def ready(page: Page, heading: str) -> None:
    """The page is drawn, and the component that listens to keys has arrived."""
    page.get_by_role("heading", name=heading).first.wait_for()
    page.wait_for_function("globalThis[Symbol.for('lag.history')]")
    settle(page)


def slider(page: Page, step: int) -> None:
    expect(page.get_by_role("slider", name="Step Step")).to_have_value(str(step), timeout=60_000)


def visit(page: Page, title: str) -> None:
    page.get_by_role("link", name=title).first.click()
    page.get_by_role("heading", name=title).first.wait_for()
    page.wait_for_function("location.search.includes('run2')")


@pytest.mark.parametrize("attempt", range(REPEATS))
def test_back_then_keys_at_speed(browser: Browser, address: str, attempt: int) -> None:
    with window(browser, "about:blank", width=1280, height=800, fresh=True) as page:  # fails if the console has errors
        page.set_default_timeout(120_000)
        page.goto(f"{address}/training?{STATE}&step=1")
        ready(page, "Training")
        for title in ("Overview", "Training", "Overview", "Steps"):
            visit(page, title)
        page.locator(".viewer .item").first.wait_for()
        for _ in range(2):
            page.keyboard.press("j")
            page.wait_for_timeout(PAUSE)
        visit(page, "Relevance")
        for _ in range(5):
            page.evaluate("setTimeout(() => history.back(), 0)")
            page.wait_for_timeout(PAUSE)
        for key in "jjlljjll":
            page.keyboard.press(key)
            page.wait_for_timeout(PAUSE)
        page.wait_for_timeout(2000)
        settle(page)  # on whichever page: a key sent while Back is still on its way belongs to the page before
        for _ in range(4):
            page.keyboard.press("j")
        slider(page, 0)


def test_a_page_is_one_entry_and_steps_are_none(browser: Browser, address: str) -> None:
    with window(browser, f"{address}/training?{STATE}&step=0", width=1280, height=800, fresh=True) as page:
        page.set_default_timeout(120_000)
        ready(page, "Training")
        before = page.evaluate("history.length")
        visit(page, "Steps")
        page.locator(".viewer .item").first.wait_for()
        page.keyboard.press("l")
        page.wait_for_function("location.search.includes('step=1')")
        settle(page)
        assert page.evaluate("history.length") == before + 1
        page.evaluate("setTimeout(() => history.back(), 0)")
        page.get_by_role("heading", name="Training").first.wait_for()


PRESS_AND_WATCH = """(viewer, key) => new Promise((done) => {
    const shown = () => viewer.querySelector(".tag").textContent;
    const before = shown(), began = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
    const look = () => (shown() !== before
        ? requestAnimationFrame(() => done(performance.now() - began))
        : requestAnimationFrame(look));
    look();
})"""


def test_the_picture_does_not_wait_for_the_server_and_no_key_is_lost(browser: Browser, address: str) -> None:
    with window(browser, f"{address}/steps?{STATE}&step=0", width=1280, height=800) as page:
        page.set_default_timeout(120_000)
        page.locator(".viewer .item").first.wait_for()
        settle(page)
        waits = [page.locator(".viewer").first.evaluate(PRESS_AND_WATCH, key) for key in "lljlj"]
        assert sorted(waits)[2] < 250, f"key to paint took {waits} ms"  # the aim is 50 on an idle machine
        slider(page, 1)
        assert page.locator(".viewer .tag").first.inner_text().startswith("Step 1")


SAY_AND_LEAVE = """wait => {
    const deep = (root) => [...root.querySelectorAll("*")].flatMap((e) =>
        [...(e.matches(".viewer input[type=range]") ? [e] : []), ...(e.shadowRoot ? deep(e.shadowRoot) : [])]);
    const [slider] = deep(document);
    slider.value = slider.value === "0.5" ? "0.7" : "0.5";
    for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));
    const link = [...document.querySelectorAll("a")].find((a) => a.textContent.trim().endsWith("Training"));
    setTimeout(() => link.click(), wait);
}"""
"""A setting of the viewer, which tells the server 400 ms later, and a click on a page's link after `wait`."""


def test_a_page_comes_although_a_component_speaks_at_the_same_moment(browser: Browser, address: str) -> None:
    """Streamlit names the page before in what is sent between the click and the new page, and goes back to it."""
    with window(browser, f"{address}/steps?{STATE}&step=1", width=1280, height=800) as page:
        page.set_default_timeout(60_000)
        for wait in (0, 380, 400):
            ready(page, "Steps")
            page.locator(".viewer .item").first.wait_for()
            page.wait_for_timeout(500)
            page.evaluate(SAY_AND_LEAVE, wait)
            page.wait_for_timeout(500)
            ready(page, "Training")
            visit(page, "Steps")
