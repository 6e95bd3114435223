"""Choices whose default changes with the step: stepping there and back leaves them as they were."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit as st

from dashboard.state import selection


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    state: dict[str, Any] = {"_incoming": {}}
    monkeypatch.setattr(st, "session_state", state)
    return state


def earlier(step: int) -> str:
    """The earlier step on the page Channels: the one before, unless another is chosen."""
    steps = [str(t) for t in range(step)]
    return selection.follow("since", steps, steps[-1], "earlier step")


def test_the_default_is_followed(session: dict[str, Any]) -> None:
    assert [earlier(step) for step in (3, 1, 2, 3)] == ["2", "0", "1", "2"]


def test_a_choice_outlives_a_step_that_does_not_know_it(session: dict[str, Any]) -> None:
    earlier(3)
    session["since"] = "1"
    assert [earlier(step) for step in (3, 1, 2, 3)] == ["1", "0", "1", "1"]
    session["since"] = "2"
    assert [earlier(step) for step in (3, 2, 3)] == ["2", "1", "2"], "the default is no choice"


def test_a_link_is_a_choice(session: dict[str, Any]) -> None:
    session["_incoming"] = {"since": "0"}
    assert [earlier(step) for step in (2, 1, 3)] == ["0", "0", "0"]
    session["_incoming"] = {"since": "7"}
    assert earlier(3) == "2" and "7" in selection.take_notes()[0]


def test_what_the_browser_still_shows_is_no_choice(session: dict[str, Any]) -> None:
    """Two keys at once: the second one brings the value that stood there before the first."""
    earlier(3)
    assert earlier(2) == "1"
    session["since"] = "2"
    assert [earlier(1), earlier(3), earlier(4)] == ["0", "2", "3"]


def test_what_was_put_into_the_session_before_it_was_drawn_counts(session: dict[str, Any]) -> None:
    session["since"] = "0"
    assert earlier(3) == "0"
