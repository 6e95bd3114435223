"""The guided tour, docs/tour.md, in the app: a card above the page, one stop at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal
from urllib.parse import parse_qsl

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard.cache import loaders
from dashboard.state import selection
from dashboard.ui.shipped import shipped

TEXT = shipped("docs/tour.md")

_PICTURE = re.compile(r"^!\[.*\]\(.*\)\n+", re.MULTILINE)
_LINKS = re.compile(r"^Open \[.*\.$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\(http://localhost:8501/\w+\?([^)]+)\)")
_ONLY_THERE = re.compile(r"^In the app, .*\n+", re.MULTILINE)
_PLACE, _OPENING = "_tour", "_tour_opening"
"""Number of the station that is shown; absent while the tour is closed. And whether its page is to be opened."""


@dataclass(frozen=True)
class Station:
    """A section of the tour: its heading, what it says (Markdown), and where its links lead."""

    heading: str
    text: str
    pages: tuple[str, ...]
    """Titles of the pages that it is about; the first is opened."""
    settings: tuple[tuple[str, str], ...]
    """What the first link sets: run, step, class and so on."""


def offer() -> None:
    """Draw the button in the sidebar if the project's documents are available; an installed package has none."""
    with st.sidebar:
        button("tour", type="tertiary")


def button(key: str, type: Literal["secondary", "tertiary"] = "secondary") -> None:
    """A button that opens the tour at its first station."""
    if TEXT.exists():
        st.button(
            "Five-minute tour", key, icon=":material/explore:", type=type, width="stretch", on_click=_go, args=(0,)
        )


def guide(pages: Mapping[str, StreamlitPage]) -> None:
    """Draw the card of the station at which the user is, if the tour is open. `pages`: the app's, by title."""
    place = st.session_state.get(_PLACE)
    if place is None or not TEXT.exists():
        return
    found = stations()
    place = min(place, len(found) - 1)
    station = found[place]
    if st.session_state.pop(_OPENING, False):
        selection.wish(_settings_here(station))
        st.switch_page(pages[station.pages[0]])
    with st.container(key="tour-card", border=True):
        st.markdown(f"**{station.heading}**")
        st.markdown(station.text)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.button("Back", "tour.back", on_click=_go, args=(place - 1,), disabled=place == 0)
            st.button("Go on", "tour.next", on_click=_go, args=(place + 1,), disabled=place == len(found) - 1)
            for title in station.pages:
                st.page_link(pages[title], label=f"Open {title}", icon=pages[title].icon or None, width="content")
            st.space("stretch")
            st.button("Close the tour", "tour.close", type="tertiary", on_click=_go, args=(None,))


def _settings_here(station: Station) -> dict[str, str]:
    """What the station's link sets; nothing where its runs are not among those of this session."""
    wanted, names = dict(station.settings), dict(loaders.opened().runs)
    return wanted if wanted["run"] in names and wanted["run2"] in names else {}


def _go(place: int | None) -> None:
    if place is None:
        st.session_state.pop(_PLACE, None)
    else:
        st.session_state[_PLACE] = place
        st.session_state[_OPENING] = True


@cache
def stations() -> tuple[Station, ...]:
    """The tour by sections, without its pictures: the app itself is on view."""
    plain = _ONLY_THERE.sub("", _PICTURE.sub("", TEXT.read_text("utf-8")))
    title, *sections = re.split(r"^##? ", plain, flags=re.MULTILINE)[1:]
    return tuple(_station(part) for part in (title, *sections))


def _station(part: str) -> Station:
    heading, text = part.split("\n", 1)
    links = _LINK.findall(text)
    return Station(
        heading, _LINKS.sub("", text).strip(), tuple(title for title, _ in links), tuple(parse_qsl(links[0][1]))
    )
