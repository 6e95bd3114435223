"""A page of thumbnails to choose one from: images of a run, channels of a layer.

The script is in dom.js, turning.js, payload.js and gallery.js. Pictures are made only for the page that is shown, and
only if the browser does not have them yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import streamlit as st

from dashboard.components.assets import source
from dashboard.components.payload import Payload, forget_missing, is_sent, told

Tone = Literal["neutral", "good", "bad", "accent"]


@dataclass(frozen=True)
class Thumbnail:
    """One entry. image: JPEG or PNG, or a function that makes it.

    version: names the picture's content (a digest, or run, image and step), so that `image` is not called
    for what the browser already has; without it, the picture is made and hashed at every run of the page it
    is on.
    """

    id: str
    image: bytes | Callable[[], bytes]
    caption: str
    badge: str = ""
    tone: Tone = "neutral"
    version: str = ""
    ticked: bool = False


_component = st.components.v2.component(
    "lag.gallery",
    css=source("base.css", "gallery.css"),
    js=source("mount.js", "dom.js", "turning.js", "payload.js", "gallery.js"),
)


def thumbnails(
    items: Sequence[Thumbnail],
    *,
    key: str,
    selected: str | None = None,
    page_size: int = 24,
    size: int = 112,
    aspect: float = 1.0,
    label: str = "Images",
    empty: str = "Nothing to show here.",
    on_tick: Callable[[str], None] | None = None,
) -> str | None:
    """Show a page of `items`; returns the id that the user just chose, once.

    selected: id of the marked entry; when it changes, its page is shown. size:
    width of a thumbnail in CSS pixels. aspect: its width over its height; the picture's middle fills it.
    label: what the entries are, for screen readers and the page count. empty: the sentence for an empty list.
    on_tick: called with the id of an entry whose box the user ticked or unticked (a click on it, or the space bar);
    without `on_tick` there are no boxes.
    """
    pages = max(1, -(-len(items) // page_size))
    page = _page(key, items, selected, page_size, pages)
    shown = items[page * page_size : (page + 1) * page_size]
    props: dict[str, Any] = {
        "selected": selected,
        "page": page,
        "pages": pages,
        "first": page * page_size,
        "total": len(items),
        "size": size,
        "aspect": aspect,
        "label": label,
        "empty": empty,
        "ticks": on_tick is not None,
    }
    place = st.empty()
    if any(item.version and not is_sent(item.version) for item in shown):
        with place:  # empty frames at once: nothing jumps when the pictures are made, and the script is loaded by then
            _component(key=f"{key}-frames", data=Payload().pack(props | {"items": [_frame(item) for item in shown]}))
    payload = Payload()
    props["items"] = [_props(payload, item) for item in shown]
    with place:
        result = _component(
            key=key,
            data=payload.pack(props),
            on_choose_change=lambda: None,
            on_page_change=partial(_turn, key, pages),
            on_tick_change=partial(_tick, key, shown, on_tick),
            on_missing_change=lambda: forget_missing(key),
        )
    chosen = result.get("choose")
    return chosen if any(item.id == chosen for item in shown) else None


def _page_key(key: str) -> str:
    return f"{key}/page"


def _page(key: str, items: Sequence[Thumbnail], selected: str | None, page_size: int, pages: int) -> int:
    """The page to show: the one last turned to, or the one that holds a newly selected entry."""
    state = st.session_state.get(_page_key(key), {"page": 0, "selected": None, "turned": False})
    page = state["page"]
    if selected != state["selected"] and not state["turned"]:
        at = next((i for i, item in enumerate(items) if item.id == selected), None)
        page = at // page_size if at is not None else page
    page = min(page, pages - 1)
    st.session_state[_page_key(key)] = {"page": page, "selected": selected, "turned": False}
    return page


def _turn(key: str, pages: int) -> None:
    """The user turned to another page; the number comes from the browser and may be anything."""
    page = told(key, "page")
    if isinstance(page, int) and 0 <= page < pages:
        st.session_state[_page_key(key)] = {**st.session_state[_page_key(key)], "page": page, "turned": True}


def _tick(key: str, shown: Sequence[Thumbnail], on_tick: Callable[[str], None] | None) -> None:
    """The user ticked or unticked an entry; its id comes from the browser and may be anything."""
    ticked = told(key, "tick")
    if on_tick is not None and isinstance(ticked, str) and any(item.id == ticked for item in shown):
        on_tick(ticked)


def _props(payload: Payload, item: Thumbnail) -> dict[str, Any]:
    name = payload.lazy_picture(item.version, partial(_image, item)) if item.version else payload.picture(_image(item))
    return _frame(item) | {"image": name}


def _frame(item: Thumbnail) -> dict[str, Any]:
    return {
        "id": item.id, "image": "", "caption": item.caption, "badge": item.badge, "tone": item.tone,
        "ticked": item.ticked,
    }  # fmt: skip


def _image(item: Thumbnail) -> bytes:
    return item.image if isinstance(item.image, bytes) else item.image()
