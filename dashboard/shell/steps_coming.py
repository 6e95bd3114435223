"""Progress of the steps that are still being computed: the app reruns as they finish."""

from __future__ import annotations

import streamlit as st

from dashboard.cache.loaders import Picture
from dashboard.page import Page
from dashboard.picture import stepwise
from dashboard.picture.predictions import Answers
from dashboard.shell.following import STEADY
from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted
from lag_core.runs import Run
from lag_core.sentences import counted

SECONDS = 1.0
"""How often to check whether another step is ready."""

Coming = tuple[Run, int, int]
"""A run with missing steps, the selected step, and how many were missing when the page was drawn."""


def follow(page: Page, found: Answers, other: Answers | None = None) -> None:
    """Say what is still being computed, and redraw the page with each step; nothing if all are ready."""
    coming = [(page.run, page.step, len(found.pending))]
    if page.run2 and other:
        coming.append((page.run2, page.step2, len(other.pending)))
    coming = [one for one in coming if one[2]]
    if coming:
        st.html(STEADY)
        _progress(page.picture(), coming)


@st.fragment(run_every=SECONDS)
def _progress(picture: Picture, coming: list[Coming]) -> None:
    works = [stepwise.wish(run, picture, step) for run, step, _ in reversed(coming)][::-1]  # the last goes first
    missing = [len(work.order) - len(work.there) for work in works]
    failed = any(work.failure for work in works)
    if failed or any(now < before for now, (_, _, before) in zip(missing, coming, strict=True)):
        start_over()
    total = sum(len(work.order) for work in works)
    names = " and ".join(untrusted.name(run.name) for run, _, _ in coming)
    st.progress(
        1 - sum(missing) / total,
        f"{names}: {total - sum(missing)} of {counted(total, 'step')} are computed. The others follow, the chosen one "
        "first.",
    )
