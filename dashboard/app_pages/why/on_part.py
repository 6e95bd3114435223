"""Why, on a part of the pictures: the verdict follows from the survey's counts, the shares are measured again."""

from __future__ import annotations

import streamlit as st

from dashboard.app_pages.why.account import Where
from dashboard.page import Page
from dashboard.picture import measured_on
from dashboard.picture.measured_on import MeasuredOn
from dashboard.ui import untrusted
from dashboard.ui.wording import percent
from lag_core.explain.class_fates import class_fates


def draw(page: Page, where: Where) -> MeasuredOn | None:
    """The chip and the verdict on these pictures; returns the part that shares are measured on, None for all."""
    own = measured_on.of_page(page)
    if own is None:
        return None
    measured_on.chip(page, own)
    found = class_fates(own.confusions(), page.run.labels, page.step)[page.cls]
    name = untrusted.markdown(page.class_info.name)
    apart = "" if where == "set" else " *Where* the change lives is measured on the chosen picture alone."
    st.markdown(
        f"On these pictures **{name}** is **{found.word}**: IoU {percent(found.start)} when it was introduced, "
        f"{percent(found.now)} now, on the same pixels.{apart} *What the features still hold* is that of all pictures."
    )
    return own if where == "set" else None
