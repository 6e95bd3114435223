"""Following a run that trains: the app runs again when the trainer has written its run.json anew."""

from __future__ import annotations

import streamlit as st

from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted
from lag_core.runs import Run, RunError, open_run

SECONDS = 2.0
"""How often a run that trains is looked at."""

STEADY = (
    "<style>[data-testid=stMain] [data-testid=stElementContainer][data-stale=true] "
    "{ opacity: 1 !important; transition: none !important; }</style>"
)
"""Streamlit dims what is about to be drawn anew; every two seconds that would be a flicker."""


def start_over_if_changed(run: Run) -> None:
    """Run the whole app again once run.json of a run that trains has changed: a step more, a warning, the end."""
    if run.status != "training":
        return
    try:
        if open_run(run.path).info == run.info:
            return
    except RunError:
        return  # it was moved away; what is known of it can still be shown
    start_over()


def await_first_step(run: Run) -> None:
    """In place of a page: the run has no finished step yet; where it trains, the page opens by itself."""
    trains = run.status == "training"
    if trains:
        st.html(STEADY)
    st.fragment(_wait, run_every=SECONDS if trains else None)(run)


def _wait(run: Run) -> None:
    start_over_if_changed(run)
    name = untrusted.name(run.name)
    if run.status == "training":
        words = (
            f"{name} trains its first step; this page opens by itself when it is done. Training follows it meanwhile."
        )
    else:
        words = f"The training of {name} ended before its first step was done, so there is no step to look at."
    st.info(words, icon=":material/hourglass_empty:")
