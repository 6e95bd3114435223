"""Progress of a result computed in the background: the app reruns when it is ready."""

from __future__ import annotations

import streamlit as st

from dashboard.cache.background import Job
from dashboard.shell.following import STEADY
from dashboard.state.starting_over import start_over

SECONDS = 0.5
"""How often to check whether the result is ready."""


def follow(job: Job, words: str) -> None:
    """Say in `words` what is being computed, and redraw the page when it is ready."""
    st.html(STEADY)
    _progress(job, words)


@st.fragment(run_every=SECONDS)
def _progress(job: Job, words: str) -> None:
    if job.over:
        start_over()
    st.progress(min(max(job.done, 0.0), 1.0), words)
