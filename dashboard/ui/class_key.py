"""The colours of classes in one line, for figures whose lines are classes."""

from __future__ import annotations

import html
from collections.abc import Iterable

import streamlit as st

from dashboard.ui import design, untrusted
from lag_core.runs import Run


def class_key(run: Run, classes: Iterable[int]) -> None:
    """Draw a swatch and the name of each of these class indices."""
    infos = [run.classes[k] for k in classes]
    entries = (
        f'<span><i style="background:{design.css(info.color)}"></i>{html.escape(untrusted.plain(info.name, 40))}</span>'
        for info in infos
    )
    st.html(f'<div class="class-key" role="note" aria-label="Colours of the classes">{"".join(entries)}</div>')
