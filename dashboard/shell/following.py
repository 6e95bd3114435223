"""Following a run in training: the app reruns when the trainer has rewritten its run.json."""

from __future__ import annotations

import streamlit as st

from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted
from lag_core.runs import Run, RunError, open_run

SECONDS = 2.0
"""How often a run in training is checked."""

STEADY = (
    "<style>[data-testid=stMain] [data-testid=stElementContainer][data-stale=true] "
    "{ opacity: 1 !important; transition: none !important; }</style>"
)
"""Streamlit dims what it is about to redraw; every two seconds that would flicker."""


def start_over_if_changed(run: Run) -> None:
    """Rerun the whole app once run.json of a run in training has changed: another step, a warning, the end."""
    if run.status != "training":
        return
    try:
        if open_run(run.path).info == run.info:
            return
    except RunError:
        return  # it was moved away; what is already loaded can still be shown
    start_over()


def await_first_step(run: Run) -> None:
    """Shown instead of a page if the run has no finished step yet; if it trains, the page opens by itself."""
    trains = run.status == "training"
    if trains:
        st.html(STEADY)
    st.fragment(_wait, run_every=SECONDS if trains else None)(run)


def _wait(run: Run) -> None:
    start_over_if_changed(run)
    name = untrusted.name(run.name)
    if run.status == "training":
        words = f"{name} is training its first step. This page opens when it is done; until then, see Training."
    else:
        words = f"The training of {name} ended before its first step was done, so there is no step to show."
    st.info(words, icon=":material/hourglass_empty:")
