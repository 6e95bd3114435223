"""Figures far below the window are drawn when the reader comes near them: a page appears sooner, and steps faster.

What the browser would have to load a script for is drawn after the first picture of a session. Plotly's 4.7 MB are
fetched then too: the next page is likely to need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import streamlit as st

from dashboard.components.assets import source

_SEEN = "_first_picture_seen"
"""In the session: the browser has drawn a picture."""

_component = st.components.v2.component("lag.in-view", js=source("mount.js", "turning.js", "in_view.js"))


def is_near(page: str) -> bool:
    """Whether to draw the figures that this page has held back; always without a browser."""
    if not st.context.url:
        return True
    state = st.session_state.get(_key(page))
    return isinstance(state, Mapping) and state.get("near") is True


def waits_for_picture(page: str) -> bool:
    """Whether a page holds back everything but its picture, until the browser has drawn the first one of a session."""
    if is_near(page):
        st.session_state[_SEEN] = True
    return not st.session_state.setdefault(_SEEN, False)


def picture_awaited() -> bool:
    """Whether a page of this session holds something back until the browser has drawn the first picture."""
    return st.session_state.get(_SEEN) is False


def watch(page: str) -> None:
    """Have the browser say when the reader comes near. Call it at each run of the page; leaving the page resets it."""
    _component(key=_key(page), data={"fetch": _plot_scripts()}, on_near_change=lambda: None, height=0)


@cache
def _plot_scripts() -> list[str]:
    """The scripts with which Streamlit draws a plot, relative to the app's address; none if they have other names."""
    scripts = Path(st.__file__).parent / "static" / "static" / "js"
    return [f"static/js/{file.name}" for file in scripts.glob("PlotlyChart.*.js")]


def place(name: str, height: int) -> None:
    """Empty space of this many pixels for a figure that is held back."""
    st.container(key=f"later-{name}", height=height, border=False)


def place_after_picture(name: str, height: int) -> None:
    """Empty space of this many pixels for what is held back until the first picture is drawn."""
    st.container(key=f"after-{name}", height=height, border=False)


def _key(page: str) -> str:
    return f"in-view-{page}"
