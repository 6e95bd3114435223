"""Why, on a chosen part of the pictures: the verdict follows from the survey's counts, the shares do not."""

from __future__ import annotations

import streamlit as st

from dashboard.page import Page
from dashboard.picture import measured_on
from dashboard.ui import untrusted
from dashboard.ui.wording import percent
from lag_core.explain.class_fates import class_fates


def draw(page: Page) -> None:
    """The chip and the verdict on these pictures; nothing where all are looked at."""
    own = measured_on.of_page(page)
    if own is None:
        return
    measured_on.chip(page, own)
    found = class_fates(own.confusions(), page.run.labels, page.step)[page.cls]
    name = untrusted.markdown(page.class_info.name)
    st.markdown(
        f"On these pictures **{name}** is **{found.word}**: IoU {percent(found.start)} when it was introduced, "
        f"{percent(found.now)} now, on the same pixels. *Where* the change lives is told below for all validation "
        "pictures: shares need every hybrid of the networks, and are not kept picture by picture."
    )
