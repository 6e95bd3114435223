"""The steps of a run beside one another, each a box with its classes; one is chosen by a click or with the keyboard.

The script is in dom.js, turning.js and timeline.js. Names wrap, so a narrow window cuts none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from dashboard.components.assets import source


@dataclass(frozen=True)
class StepBox:
    """One step: a line about its training, and (name, CSS colour) of the classes that it introduces."""

    note: str
    classes: Sequence[tuple[str, str]]


_component = st.components.v2.component(
    "lag.timeline", css=source("base.css", "timeline.css"), js=source("mount.js", "dom.js", "turning.js", "timeline.js")
)


def timeline(boxes: Sequence[StepBox], *, key: str, label: str, step: int, most: int = 6) -> int | None:
    """Draw a box for each step, `step` marked; returns the step that the user just chose, once.

    Classes beyond `most` are only counted.
    """
    data = {
        "label": label,
        "step": step,
        "boxes": [
            {
                "note": box.note,
                "classes": [{"name": name, "color": color} for name, color in box.classes[:most]],
                "more": max(len(box.classes) - most, 0),
            }
            for box in boxes
        ],
    }
    result = _component(key=key, data=data, on_choose_change=lambda: None)
    chosen = result.get("choose")  # from the browser: anything may be in there
    return chosen if isinstance(chosen, int) and 0 <= chosen < len(boxes) else None
