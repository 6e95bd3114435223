"""Captions and grey words have a contrast of at least 4.5:1 on their ground, and the truth leaves a photograph's
background as it is (Chromium)."""

from __future__ import annotations

import pytest
from browser import settle, window
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

STATE = "run=animals-3-1-finetune&run2=animals-3-1-lagplus&step=1&class=dog"
LEAST = 4.5
"""Of small text (WCAG 2.2, 1.4.3)."""

CONTRASTS = """() => {
    const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const over = (ground, colour, alpha) => {  // the browser itself mixes, whatever a colour is written in
        paint.globalAlpha = 1; paint.fillStyle = `rgb(${ground.join(' ')})`; paint.fillRect(0, 0, 1, 1);
        paint.globalAlpha = alpha; paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const light = (c) => {
        const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const chain = (e) => (e ? [...chain(e.parentElement), e] : []);
    const found = [];
    const captions = '[data-testid=stCaptionContainer] p, [data-testid=stMarkdownContainer] span[style*=color]';
    for (const e of document.querySelectorAll(captions)) {
        if (!e.textContent.trim() || !e.getClientRects().length) continue;
        if (e.closest('[aria-disabled=true], :disabled')) continue;
        let ground = [255, 255, 255], alpha = 1;
        for (const one of chain(e)) {
            ground = over(ground, getComputedStyle(one).backgroundColor, 1);
            alpha *= Number(getComputedStyle(one).opacity);
        }
        const text = over(ground, getComputedStyle(e).color, alpha);
        const [high, low] = [light(text), light(ground)].sort((a, b) => b - a);
        found.push([e.textContent.trim().slice(0, 60), (high + 0.05) / (low + 0.05)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("slug", "most"), [("overview", 12), ("training", 8), ("compare", 4)])
def test_captions_can_be_read(browser: Browser, address: str, slug: str, scheme: str, most: int) -> None:
    """`most`: so many captions the page has at least."""
    with window(browser, f"{address}/{slug}?{STATE}", scheme=scheme) as page:  # type: ignore[arg-type]
        page.locator("[data-testid=stMain] .js-plotly-plot").first.wait_for()
        settle(page)
        found = page.evaluate(CONTRASTS)
        assert len(found) >= most
        assert {text: round(ratio, 2) for text, ratio in found if ratio < LEAST} == {}


CORNER = "(canvas) => [...canvas.getContext('2d').getImageData(2, 2, 1, 1).data]"


@pytest.mark.parametrize("slug", ["steps", "forgetting"])
def test_the_truth_does_not_paint_the_background(browser: Browser, address: str, slug: str) -> None:
    """On Forgetting it was once painted black, the colour of that class."""
    with window(browser, f"{address}/{slug}?{STATE}&image=photo:dog") as page:
        small = page.locator(".viewer .item canvas")
        small.nth(1).wait_for()
        settle(page)
        assert small.nth(1).evaluate(CORNER) == small.nth(0).evaluate(CORNER)
