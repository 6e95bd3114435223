"""A table of thumbnails, a row per class and a column per step; one cell is chosen by a click or with the keyboard.

The script is in dom.js, turning.js, payload.js and wall.js. Pictures are made only if the browser lacks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from dashboard.components.assets import source
from dashboard.components.payload import Payload, forget_missing, is_sent


@dataclass(frozen=True)
class WallCell:
    """One cell.

    id: of its picture; empty where there is none to choose. version: names the picture's content, so that `image` is
    not called for what the browser already has; empty if the picture cannot be shown: then `text` is shown.
    words: all that the cell says, for screen readers and as a tip.
    """

    id: str
    words: str
    number: str = ""
    tone: Literal["good", "bad"] = "bad"
    text: str = ""
    version: str = ""
    image: Callable[[], bytes] = bytes


_component = st.components.v2.component(
    "lag.wall",
    css=source("base.css", "wall.css"),
    js=source("mount.js", "dom.js", "turning.js", "payload.js", "wall.js"),
)


def wall(
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
    cells: Sequence[Sequence[WallCell]],
    *,
    key: str,
    label: str,
    chosen: tuple[int, int] | None = None,
) -> tuple[int, int] | None:
    """Draw the table; returns (row, column) of the cell that the user just chose, once.

    rows: name and CSS colour of each. cells: [rows][columns]. chosen: the cell that is marked.
    """
    props: dict[str, Any] = {
        "rows": [{"name": name, "color": color} for name, color in rows],
        "columns": list(columns),
        "chosen": chosen,
        "label": label,
    }
    place = st.empty()
    if any(cell.version and not is_sent(cell.version) for row in cells for cell in row):
        with place:  # empty frames at once: nothing jumps when the pictures are made
            empty = props | {"cells": [[_frame(cell) for cell in row] for row in cells]}
            _component(key=f"{key}-frames", data=Payload().pack(empty))
    payload = Payload()
    props["cells"] = [[_props(payload, cell) for cell in row] for row in cells]
    with place:
        result = _component(
            key=key,
            data=payload.pack(props),
            on_choose_change=lambda: None,
            on_missing_change=lambda: forget_missing(key),
        )
    return _place(result.get("choose"), cells)


def _place(raw: object, cells: Sequence[Sequence[WallCell]]) -> tuple[int, int] | None:
    """Row and column that the browser reports, which may be anything."""
    places = {f"{r}-{c}": (r, c) for r, row in enumerate(cells) for c, cell in enumerate(row) if cell.id}
    return places.get(raw) if isinstance(raw, str) else None


def _props(payload: Payload, cell: WallCell) -> dict[str, str]:
    return _frame(cell) | ({"image": payload.lazy_picture(cell.version, cell.image)} if cell.version else {})


def _frame(cell: WallCell) -> dict[str, str]:
    return {
        "id": cell.id, "image": "", "words": cell.words, "number": cell.number, "tone": cell.tone, "text": cell.text,
    }  # fmt: skip
