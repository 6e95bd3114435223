"""The one step scrubber of the app: slider, buttons with keys J K L (J and L: components/step_keys.py), play.

The session holds the step; the slider only shows it. A browser that has not yet seen the last step sends
the slider's old value along with the next key, which looks like a drag: where a button was pressed, that is
undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from dashboard.components.step_keys import step_keys
from dashboard.state import selection
from dashboard.state.starting_over import start_over
from lag_core.runs import Run

STEP = "step"
"""Key of the step in the session and in the URL."""

SECONDS_PER_STEP = 1.2
"""Pace of playing."""

_SLIDER, _BEFORE, _PRESSED = "step.slider", "_step_before", "_step_pressed"
_PLAYING, _TICKED = "_playing", "_ticked"
_LAST = "_step_last"


def scrubber(run: Run, first: int | None = None) -> int:
    """Draw it; returns the step, 0 .. run.last_step. The default, left out of links, is `first`, else the last step.

    A run whose first step still trains stands at step 0.
    """
    session, last = st.session_state, max(run.last_step, 0)
    if STEP in session and session[STEP] == session.get(_LAST):
        session[STEP] = last  # a user at the last step of the previous run goes to the last step of this one
    session[_LAST] = last
    default = last if first is None else min(first, last)
    step = selection.count(STEP, 0, last, default, "step")
    selection.use(STEP, step, default)
    session[_PRESSED] = False
    session.pop(_BEFORE, None)
    if last == 0:
        st.caption("Step 0, the only one" if run.last_step == 0 else "Step 0 is not finished yet")
        session[_PLAYING] = False
        return 0
    session[_SLIDER] = step
    st.slider("Step", 0, last, key=_SLIDER, on_change=_slide, help="J: back, K: play or pause, L: forward")
    _buttons(step, last)
    step_keys(step, last, _choose)
    if session.get(_PLAYING, False):
        _tick(step, last)
    return step


def _buttons(step: int, last: int) -> None:
    playing = st.session_state.get(_PLAYING, False)
    back, play, forward = st.columns((1, 1.45, 1), gap="xxsmall")  # "Pause" and its key
    with back:
        _button("Back", "step.back", None, _move, (-1, last), step == 0)
    with play:
        _button("Pause" if playing else "Play", "step.play", "K", _play, (last,), False)
    with forward:
        _button("Next", "step.next", None, _move, (1, last), step == last)


def _button(
    label: str, key: str, shortcut: str | None, act: Callable[..., None], args: tuple[int, ...], off: bool
) -> None:
    st.button(label, key, on_click=act, args=args, disabled=off, shortcut=shortcut, width="stretch")


def _slide() -> None:
    """The slider sent another value; `_pressed` undoes it if a button press came with it."""
    session = st.session_state
    if not session.get(_PRESSED):
        session[_BEFORE] = session[STEP]
        session[STEP] = session[_SLIDER]


def _pressed() -> int:
    """The step at which a button was pressed, whichever of the two callbacks ran first."""
    session = st.session_state
    session[_PRESSED] = True
    return int(session.pop(_BEFORE, session[STEP]))


def _move(by: int, last: int) -> None:
    st.session_state[_PLAYING] = False
    st.session_state[STEP] = min(max(_pressed() + by, 0), last)


def _choose(step: int) -> None:
    """A step was chosen in the browser."""
    _pressed()
    st.session_state[_PLAYING] = False
    st.session_state[STEP] = step


def _play(last: int) -> None:
    """Start or pause; from the end it starts over."""
    session = st.session_state
    step, playing = _pressed(), not session.get(_PLAYING, False)
    session[_PLAYING], session[_TICKED] = playing, time.monotonic()
    session[STEP] = 0 if playing and step >= last else step


@st.fragment(run_every=SECONDS_PER_STEP)
def _tick(step: int, last: int) -> None:
    """Advance one step when the time has come; the fragment also runs when the app does, which is no tick."""
    if time.monotonic() - st.session_state[_TICKED] < 0.8 * SECONDS_PER_STEP:
        return
    st.session_state[_TICKED] = time.monotonic()
    if step >= last:
        st.session_state[_PLAYING] = False
        start_over()
    selection.go(step=step + 1)
