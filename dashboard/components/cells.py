"""Heat maps by keyboard: Tab reaches each, arrow keys move over its cells, a screen reader reads their content."""

from __future__ import annotations

import streamlit as st

from dashboard.components.assets import source

_component = st.components.v2.component(
    "lag.cells", css=source("cells.css"), js=source("mount.js", "dom.js", "cells.js")
)


def cell_keys() -> None:
    """Listen on the whole page, whichever figures it draws. Call once in a run of the script."""
    _component(key="cells", height=0)
