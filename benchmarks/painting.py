"""What a user waits for in Chromium: from a key to painted pixels, and from a click on a page's link to the page.

The first is taken from the key event's own time stamp to the end of the frame in which the viewer's canvas was painted
anew. That pixels have changed is looked up after the clock has stopped. The second ends with the first frame in which
the new page's script has run, its heading stands and every figure in the window is drawn. A page that does not come is
told with what the browser and the server's threads were doing, and opened anew.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Error
from streamlit_server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")

VIEWER_PAGES = ("steps", "forgetting", "relevance")
"""Pages on which the browser holds a picture of every step."""

PATIENCE_MS = 120_000
LOST_MS = 20_000

PREPARE = """() => {
    const deep = (root) => [...root.querySelectorAll('*')].flatMap((e) =>
        [...(e.matches('.viewer') ? [e] : []), ...(e.shadowRoot ? deep(e.shadowRoot) : [])]);
    const viewer = deep(document)[0];
    const canvas = viewer.querySelector('canvas'), tag = viewer.querySelector('.tag');
    const watch = globalThis.lagWatch = { pixels: () => canvas.toDataURL(), last: null };
    let pressed = null, before = '';
    const frame = new MessageChannel();  // its message comes when the frame in which it was sent has been drawn
    frame.port1.onmessage = ({ data }) => { watch.last = performance.now() - data; };
    const context = canvas.getContext('2d'), clear = context.clearRect;
    context.clearRect = function (...box) {
        if (pressed !== null && tag.textContent !== before) frame.port2.postMessage(pressed), pressed = null;
        return clear.apply(this, box);
    };
    document.addEventListener('keydown', (event) => {
        before = tag.textContent;
        watch.last = null;
        pressed = event.timeStamp;
    }, true);
}"""

ARRIVED = """(title) => {
    const heading = document.querySelector('[data-testid=stMain] h3')?.textContent.includes(title);
    const still = document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning';
    const inside = (one) => one.getBoundingClientRect().top < innerHeight && one.getBoundingClientRect().bottom > 0;
    const seen = (kind) => [...document.querySelectorAll(`[class*='st-key-${kind}-']`)].filter(inside);
    const drawn = seen('plot').every((one) => one.querySelector('.main-svg')) && !seen('later').length;
    if (!heading || !still || !drawn) return false;
    globalThis.lagArrived ??= performance.now();
    return true;
}"""
"""Asked in every frame: the page's script has run, and what the window holds of it is drawn."""

CLICK = """(title) => {
    const link = [...document.querySelectorAll('a')].find((a) => a.textContent.trim().endsWith(title));
    globalThis.lagClicked = performance.now();
    globalThis.lagArrived = undefined;
    link.click();
}"""

SHOWN = """() => ({
    address: location.href,
    headings: [...document.querySelectorAll('[data-testid=stMain] h3')].map((h) => h.textContent),
    ...document.querySelector('[data-testid=stApp]')?.dataset,
})"""

SETTLED = "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium; ends the program with a sentence where there is none."""
    from playwright.sync_api import sync_playwright

    path = next((p for p in CHROMIUM if Path(p).exists()), None)
    if path is None:
        raise SystemExit("This is measured in Chromium (Debian: apt-get install chromium).")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def key_to_paint(url: str, state: str, pages: Sequence[str], times: int) -> dict[str, list[float]]:
    """Milliseconds from J or L to painted pixels, on each page that shows a picture of every step.

    state: query of the address. RuntimeError where a page's picture never changed.
    """
    found = {}
    with chromium() as browser:
        for slug in (page for page in pages if page in VIEWER_PAGES):
            page = _opened(browser, f"{url}/{slug}?{state}&step=0")
            page.locator(".viewer .item, .viewer canvas").first.wait_for()
            page.wait_for_function("globalThis[Symbol.for('lag.history')]")
            _settle(page)
            page.evaluate(PREPARE)
            found[slug] = _keys(page, times)
            print(f"  key to paint on {slug}: {sorted(found[slug])}", file=sys.stderr, flush=True)
            page.close()
    return found


def _keys(page: Page, times: int) -> list[float]:
    """Presses L and J by turns; each waits until the server has followed, as a reader's keys do."""
    milliseconds, pictures = [], set()
    for i in range(times):
        page.keyboard.press("jl"[(i + 1) % 2])
        page.wait_for_function("lagWatch.last !== null")
        milliseconds.append(round(page.evaluate("lagWatch.last"), 1))
        page.wait_for_timeout(150)
        _settle(page)
        pictures.add(page.evaluate("lagWatch.pixels()"))
    if len(pictures) < 2:
        raise RuntimeError(f"No key changed the picture of {page.url}.")
    return milliseconds


@dataclass
class Turns:
    """Changes of pages."""

    milliseconds: dict[str, list[float]]
    """From the click on the link, by the title of the page."""
    lost: list[dict[str, Any]]
    """Those that did not arrive within LOST_MS: which, what the browser showed, where the server's threads stood."""


def page_turns(server: Server, state: str, titles: Sequence[str], times: int) -> Turns:
    """Clicks on the pages' links, at random; every page has been open before."""
    found = Turns({title: [] for title in titles}, [])
    address = f"{server.url}/overview?{state}"
    order = [*titles]
    for _ in range(times):
        order.append(random.choice([title for title in titles if title != order[-1]]))
    with chromium() as browser:
        page = _opened(browser, address)
        for number, (before, now) in enumerate(pairwise(["first", *order])):
            first = number < len(titles)
            try:
                milliseconds = _turn(page, now)
                if first:
                    print(f"  first turn to {now}: {milliseconds:.0f} ms", file=sys.stderr, flush=True)
                else:
                    found.milliseconds[now].append(round(milliseconds, 1))
                page.wait_for_timeout(1500 if first else 400)
                _settle(page)
            except Error as error:
                found.lost.append(_told(page, server, f"{before} to {now}", error))
                page.close()
                page = _opened(browser, address)
        page.close()
    for title, each in found.milliseconds.items():
        print(f"  turn to {title}: {sorted(each)}", file=sys.stderr, flush=True)
    return found


def _turn(page: Page, title: str) -> float:
    page.evaluate(CLICK, title)
    page.wait_for_function(ARRIVED, arg=title, timeout=LOST_MS)
    milliseconds: Any = page.evaluate("lagArrived - lagClicked")
    return float(milliseconds)


def _told(page: Page, server: Server, turn: str, error: Exception) -> dict[str, Any]:
    """What is known of a page that did not come."""
    told = {"turn": turn, "error": str(error)[:500], "browser": page.evaluate(SHOWN), "threads": server.stacks()}
    print(f"  lost: {told}", file=sys.stderr, flush=True)
    return told


def _opened(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address, wait_until="commit")
    page.wait_for_selector("[data-testid=stApp] h3")
    _settle(page)
    return page


def _settle(page: Page) -> None:
    page.wait_for_function(SETTLED)
