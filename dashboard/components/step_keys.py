"""J and L in the browser: the step changes there at once, and the server is told which step it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from dashboard.components.assets import source

_KEY = "step.keys"

_component = st.components.v2.component(
    "lag.step-keys", js=source("mount.js", "steps.js", "history.js", "turning.js", "step_keys.js")
)


def step_keys(step: int, last: int, choose: Callable[[int], None]) -> None:
    """Listen to the keys J and L and to the buttons `step.back` and `step.next`, and call `choose` with a step 0..last.

    Viewers whose layers name their step show it before the server answers.
    """

    def chosen() -> None:
        found = _target(last)
        if found is not None:
            choose(found[0])

    found = _target(last)
    _component(
        key=_KEY, data={"step": step, "last": last, "seen": found[1] if found else 0}, on_target_change=chosen, height=0
    )


def _target(last: int) -> tuple[int, int] | None:
    """(step, how many were chosen so far) as the browser says; anything may be in there."""
    state = st.session_state.get(_KEY)
    target = state.get("target") if isinstance(state, Mapping) else None
    if not isinstance(target, Mapping):
        return None
    step, count = target.get("step"), target.get("count")
    if not isinstance(step, int) or not isinstance(count, int):
        return None
    return min(max(step, 0), last), count
