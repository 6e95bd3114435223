"""Offers the best picture of a class where the chosen one does not show it."""

from __future__ import annotations

import streamlit as st

from dashboard.cache import loaders
from dashboard.page import Page
from dashboard.state import selection
from dashboard.ui import untrusted

MOST_READ = 32
"""Pictures that are read one by one if no survey knows what they show."""


def offer(page: Page) -> None:
    """A sentence and a button that leads to the best picture."""
    name = untrusted.markdown(page.class_info.name)
    best = best_picture(page)
    if best is None:
        st.info(f"This picture shows no {name}, and neither does any other available picture.", icon=":material/info:")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"This picture shows no {name}.", width="content")
        if st.button("Show the picture that shows it best", icon=":material/image_search:", key="best-picture"):
            selection.go(image=best)


def best_picture(page: Page) -> str | None:
    """The picture on which most of the class was lost by the step, else the one that shows most of it."""
    here = loaders.image_ids(page.run, page.data_root)
    lost = loaders.lost_shares(page.run, page.step, page.cls)
    for image_id in lost:
        if image_id in here:
            return image_id
    survey = loaders.survey(page.run)
    if survey is not None and set(here) <= set(survey.ids):
        sizes = {name: int(survey.pixels[place, page.cls]) for place, name in enumerate(survey.ids)}
    else:
        sizes = {name: _pixels(page, name) for name in here[:MOST_READ]}
    best = max(here, key=lambda name: sizes.get(name, 0), default=None)
    return best if best is not None and sizes.get(best, 0) > 0 else None


def _pixels(page: Page, name: str) -> int:
    picture = loaders.picture(page.run, page.data_root, name)
    return 0 if picture is None or picture.truth is None else int((picture.truth == page.cls).sum())
