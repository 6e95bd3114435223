"""The viewer's settings on their way between browser, session and URL, so that a link shows the same picture.

The keys mean the same on every page that shows a viewer: opacity, threshold, hidden, outlines, colours,
split, pixel.
"""

from __future__ import annotations

from typing import cast

import streamlit as st

from dashboard.components.viewer import NOTHING, Mode, Split, ViewerSettings, viewer_settings
from dashboard.state import selection

OPACITY = 0.55


def kept_settings(key: str, classes: int, *, split: Split = "swipe") -> ViewerSettings:
    """Settings for the viewer `key`: those of a new link, else those set in the browser, else the defaults.

    classes: number of class indices that may be hidden, besides NOTHING. Call it before the viewer; it puts them into
    the URL.
    """
    told = viewer_settings(key)
    if told is not None and selection.fresh(f"{key}/settings", told):
        _keep(told)
    hidden = selection.text("hidden", lambda text: _classes(text, classes) is not None, "", "hidden classes")
    found = ViewerSettings(
        opacity=selection.measure("opacity", 0, 1, OPACITY, "opacity"),
        threshold=selection.measure("threshold", 0, 1, 0, "confidence threshold"),
        hidden=_classes(hidden, classes) or (),
        outlines=selection.choose("outlines", ("on", "off"), "off", "outlines") == "on",
        mode=cast(Mode, selection.choose("colours", ("classes", "errors"), "classes", "colours")),
        split=cast(Split, selection.choose("split", ("swipe", "side"), split, "comparison")),
    )
    selection.use("opacity", f"{found.opacity:g}", f"{OPACITY:g}")
    selection.use("threshold", f"{found.threshold:g}", "0")
    selection.use("hidden", hidden, "")
    selection.use("outlines", "on" if found.outlines else "off", "off")
    selection.use("colours", found.mode, "classes")
    selection.use("split", found.split, split)
    return found


def kept_pixel(size: tuple[int, int]) -> tuple[int, int] | None:
    """The chosen pixel (x, y) of a picture of size (W, H), from a link or the session; else None."""
    text = selection.text("pixel", lambda text: _pixel(text, size) is not None, "", "pixel")
    return _pixel(text, size)


def keep_pixel(pixel: tuple[int, int]) -> None:
    """Remember a pixel that was just chosen."""
    st.session_state["pixel"] = f"{pixel[0]}-{pixel[1]}"


def _keep(told: ViewerSettings) -> None:
    session = st.session_state
    session["opacity"], session["threshold"] = told.opacity, told.threshold
    session["hidden"] = "-".join(str(k) for k in told.hidden)
    session["outlines"] = "on" if told.outlines else "off"
    session["colours"], session["split"] = told.mode, told.split


def _numbers(text: str) -> tuple[int, ...] | None:
    """The numbers in "3-14-15"; None where the text is something else."""
    parts = text.split("-") if text else []
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 for part in parts):
        return None
    return tuple(int(part) for part in parts)


def _classes(text: str, classes: int) -> tuple[int, ...] | None:
    found = _numbers(text)
    if found is None or any(k >= classes and k != NOTHING for k in found) or len(set(found)) != len(found):
        return None
    return tuple(sorted(found))


def _pixel(text: str, size: tuple[int, int]) -> tuple[int, int] | None:
    found = _numbers(text)
    if found is None or len(found) != 2 or found[0] >= size[0] or found[1] >= size[1]:
        return None
    return found[0], found[1]
