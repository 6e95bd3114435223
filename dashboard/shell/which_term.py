"""What each loss term did to an old class: cumulative curves from the journal, and their limits."""

from __future__ import annotations

import streamlit as st

from dashboard.page import Empty, Page
from dashboard.ui import untrusted
from dashboard.ui.term_curves import term_curves
from dashboard.ui.wording import counted
from lag_core.capabilities import trained_here
from lag_core.explain import term_shares
from lag_core.explain.term_shares import ClassCurves, TermCurves
from lag_core.runs import Run

HEIGHT = 300
KEY = "log.shares_every"

NOT_PREDICTED = (
    "Shares do not predict the result of training without a term. Short rollouts without a term rank the terms as the "
    "shares do. Retraining agrees on the largest term without distillation, but not with it (docs/faithfulness.md)."
)
"""What the truth test found."""


def draw(page: Page, run: Run, cls: int | None, step: int) -> None:
    """The curves of a class index (None: mean over the old classes) in a step of `run`."""
    with page.section(
        "Which term did what",
        "Cumulative over the step: above 0 a term pushed the class out, below 0 it held the class.",
        slug="which-term",
        formula=r"\varphi_k = \sum_i \langle \nabla P, \Delta\theta_k^{(i)} \rangle",
        source="docs/method.md#loss-change-allocation, after Lan et al. 2019; P: loss of the class on held-out "
        "training images, never trained on",
    ) as view:
        curves = _curves(run, cls, step)
        view.csv(curves.table)
        st.markdown(untrusted.markdown(term_shares.sentence(_name(run, cls), curves)))
        view.plot(lambda: term_curves(curves, page.ink), _alt(curves), height=HEIGHT, below=True)
        st.caption(NOT_PREDICTED)


def _curves(run: Run, cls: int | None, step: int) -> ClassCurves:
    """The recorded curves; `Empty` says why there are none, and which key of the configuration records them."""
    every = recorded(run)
    name = untrusted.name(run.name)
    if not every and not trained_here(run):
        raise Empty(f"{name} was not trained here, so the effect of its loss terms was not recorded.")
    if not every:
        raise Empty(f"{name} was trained without this record: `{KEY}` above 0 keeps what each loss term did.")
    if step not in every:
        raise Empty(f"{name} has no record of step {step}: the first step has no old classes.")
    found = every[step].of(cls)
    if found is None:
        raise Empty(f"{untrusted.markdown(_name(run, cls))} is not among the old classes probed in step {step}.")
    return found


def recorded(run: Run) -> dict[int, TermCurves]:
    """The recorded shares of a run by step; read again if the journal has grown."""
    path = run.path / "events.jsonl"
    return _recorded(str(run.path), path.stat().st_mtime_ns if path.exists() else 0, _run=run)


@st.cache_resource(max_entries=16, show_spinner=False)
def _recorded(folder: str, stamp: int, *, _run: Run) -> dict[int, TermCurves]:
    return term_shares.of_run(_run)


def _name(run: Run, cls: int | None) -> str:
    return "mean over the old classes" if cls is None else run.classes[cls].name


def _alt(curves: ClassCurves) -> str:
    return (
        f"Cumulated shares of {counted(len(curves.terms), 'loss term')} over "
        f"{counted(int(curves.updates[-1]), 'update')}, in nats"
    )
