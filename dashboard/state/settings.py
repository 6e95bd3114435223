"""Widgets of a page whose value is checked, survives a change of page and goes into the URL: one line each.

A key is the name in the URL, so it is unique over all pages unless two pages mean the same thing by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard.state import selection


def select(
    label: str,
    key: str,
    options: Sequence[str],
    default: str | None = None,
    *,
    names: Callable[[str], str] = str,
    stays: bool = False,
    **widget: Any,
) -> str:
    """A drop-down list; `names` turns an option into what is displayed (not Markdown).

    stays: a default that was shown once is kept like a choice, even if the default changes.
    """
    check = selection.choose if stays else selection.follow
    return _pick(st.selectbox, label, key, options, default, names, widget, check)


def segments(
    label: str,
    key: str,
    options: Sequence[str],
    default: str | None = None,
    *,
    names: Callable[[str], str] = str,
    **widget: Any,
) -> str:
    """A segmented control for two to five options; `names` returns Markdown: escape what comes from a run."""
    return _pick(st.segmented_control, label, key, options, default, names, {"required": True} | widget)


def _pick(
    draw: Callable[..., Any],
    label: str,
    key: str,
    options: Sequence[str],
    default: str | None,
    names: Callable[[str], str],
    widget: dict[str, Any],
    check: Callable[[str, Sequence[str], str, str], str] = selection.follow,
) -> str:
    default = options[0] if default is None else default
    check(key, options, default, label.lower())
    value = draw(label, options, format_func=names, key=key, persist_state="session", **widget)
    value = value if value in options else default
    selection.use(key, value, default)
    return value


def slide(label: str, key: str, low: float, high: float, default: float, step: float, **widget: Any) -> float:
    """A slider over numbers."""
    low, high, default, step = float(low), float(high), float(default), float(step)
    selection.measure(key, low, high, default, label.lower())
    value = st.slider(label, low, high, step=step, key=key, persist_state="session", **widget)
    value = min(max(float(value), low), high)
    selection.use(key, f"{value:g}", f"{default:g}")
    return value


def switch(label: str, key: str, default: bool = False, **widget: Any) -> bool:
    """An on/off toggle; the URL says "on" or "off"."""
    words = {True: "on", False: "off"}
    drawn = f"{key}.toggle"
    if drawn in st.session_state:
        st.session_state[key] = words[bool(st.session_state[drawn])]
    st.session_state[drawn] = selection.choose(key, ("on", "off"), words[default], label.lower()) == "on"
    value = bool(st.toggle(label, key=drawn, persist_state="session", **widget))
    selection.use(key, words[value], words[default])
    return value
