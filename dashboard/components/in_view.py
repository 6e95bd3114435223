"""Figures far below the window are drawn when the reader comes near them: a page is there sooner, and steps faster.

What stands around the first picture of a session is drawn when that picture is: Plotly alone is 4.7 MB of script, which
the browser reads in the time in which it could draw the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard.components.assets import source

_SEEN = "_first_picture_seen"
"""In the session: the browser has drawn a picture."""

_component = st.components.v2.component("lag.in-view", js=source("turning.js", "in_view.js"))


def is_near(page: str) -> bool:
    """Whether the figures that this page keeps back are to be drawn; without a browser always."""
    if not st.context.url:
        return True
    state = st.session_state.get(_key(page))
    return isinstance(state, Mapping) and state.get("near") is True


def waits_for_picture(page: str) -> bool:
    """Whether a page keeps back what stands around its picture: until the browser has drawn the first of a session."""
    if is_near(page):
        st.session_state[_SEEN] = True
    return not st.session_state.get(_SEEN, False)


def watch(page: str) -> None:
    """Have the browser say when the reader comes near. Call it at each run of the page; who leaves it begins anew."""
    _component(key=_key(page), on_near_change=lambda: None, height=0)


def place(name: str, height: int) -> None:
    """Room of so many pixels for a figure that is kept back."""
    st.container(key=f"later-{name}", height=height, border=False)


def place_after_picture(name: str, height: int) -> None:
    """Room of so many pixels for what is kept back until the first picture is drawn."""
    st.container(key=f"after-{name}", height=height, border=False)


def _key(page: str) -> str:
    return f"in-view-{page}"
