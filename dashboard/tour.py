"""The guided tour, docs/tour.md, in the app: a small link in the sidebar opens it."""

from __future__ import annotations

import re
from pathlib import Path

import streamlit as st

TEXT = Path(__file__).resolve().parent.parent / "docs" / "tour.md"

_PICTURE = re.compile(r"^!\[.*\]\(.*\)\n+", re.MULTILINE)


def offer() -> None:
    """Draw the link, where the project's documents are here; an installed package has none."""
    if TEXT.exists():
        label = "Five-minute tour"
        if st.sidebar.button(label, "tour", icon=":material/explore:", type="tertiary", width="stretch"):
            _show()


def text() -> str:
    """The tour without its title and pictures: the app itself is beside it."""
    return _PICTURE.sub("", TEXT.read_text("utf-8")).split("\n", 1)[1]


@st.dialog("A tour in five minutes", width="large")
def _show() -> None:
    st.markdown(text())
