"""Captions and buttons reach a contrast of 4.5:1 under the app's style sheet, in light and dark."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from browser import ROOT, chromium, served, settle, window

from dashboard.ui import design

SCRIPT = f"""
import streamlit as st
st.html("{ROOT}/dashboard/style.css")
if st.context.theme.type == "dark":
    st.html("{ROOT}/dashboard/dark.css")
st.caption("words in a caption")
st.sidebar.caption("words in the sidebar")
st.button("words on a button", type="primary")
"""
COLOURS = """(node) => {
    const pixel = (fills) => {
        const context = new OffscreenCanvas(1, 1).getContext("2d");
        for (const fill of fills) { context.fillStyle = fill; context.fillRect(0, 0, 1, 1); }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const grounds = [];
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) {
        grounds.unshift(getComputedStyle(at).backgroundColor);
        opacity *= Number(getComputedStyle(at).opacity);
    }
    const ground = pixel(grounds), text = pixel([...grounds, getComputedStyle(node).color]);
    return [text.map((value, i) => value * opacity + ground[i] * (1 - opacity)), ground];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(tmp_path: Path, scheme: str) -> None:
    shutil.copytree(ROOT / "dashboard" / ".streamlit", tmp_path / ".streamlit")
    script = tmp_path / "words.py"
    script.write_text(SCRIPT)
    with served(script) as url, chromium() as browser, window(browser, url, scheme=scheme) as page:  # type: ignore[arg-type]
        page.get_by_text("words on a button").wait_for()
        settle(page)
        words = page.get_by_text("words ")
        assert words.count() == 3
        for one in words.all():
            text, ground = one.evaluate(COLOURS)
            assert design.contrast(text, ground) >= 4.5, one.inner_text()
