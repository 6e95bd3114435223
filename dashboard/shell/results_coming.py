"""How far a result is that is worked out in the background: the app runs again when it is there."""

from __future__ import annotations

import streamlit as st

from dashboard.cache.background import Job
from dashboard.shell.following import STEADY
from dashboard.state.starting_over import start_over

SECONDS = 0.5
"""How often it is looked whether the result is there."""


def follow(job: Job, words: str) -> None:
    """Say in `words` what is being worked out, and draw the page anew when it is there."""
    st.html(STEADY)
    _progress(job, words)


@st.fragment(run_every=SECONDS)
def _progress(job: Job, words: str) -> None:
    if job.over:
        start_over()
    st.progress(min(max(job.done, 0.0), 1.0), words)
