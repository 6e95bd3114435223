"""Figures are drawn once for equal arguments, and never mistaken for each other."""

from __future__ import annotations

import gc

import numpy as np
import plotly.graph_objects as go

from dashboard.shell import memory_release
from dashboard.ui import remembered as module
from dashboard.ui.remembered import remembered

calls = []


@remembered
def bars(values: np.ndarray, *, color: str = "red") -> go.Figure:
    calls.append(color)
    return go.Figure(go.Bar(y=values, marker_color=color))


@remembered
def lines(values: np.ndarray, *, color: str = "red") -> go.Figure:
    return go.Figure(go.Scatter(y=values, line_color=color))


@remembered
def of_a_function(values: object) -> go.Figure:
    calls.append("function")
    return go.Figure()


def test_equal_arguments_draw_once_and_one_changed_number_draws_anew():
    values = np.zeros(1_000_000)
    calls.clear()
    first = bars(values)
    assert bars(values.copy()) is first and len(calls) == 1
    values[500_001] = 1e-9
    assert bars(values) is not first and len(calls) == 2
    assert bars(values, color="blue").data[0].marker.color == "blue"


def test_two_functions_with_equal_arguments_keep_their_own_figures():
    values = np.arange(3.0)
    assert bars(values).data[0].type == "bar" and lines(values).data[0].type == "scatter"


def test_what_cannot_be_compared_is_drawn_each_time():
    calls.clear()
    of_a_function(lambda: None)
    of_a_function(lambda: None)
    assert len(calls) == 2


def test_the_oldest_figure_goes_first():
    calls.clear()
    oldest = bars(np.array([-1.0]))
    for i in range(module.KEPT):
        bars(np.array([float(i), 0.5]))
    assert len(module._kept) == module.KEPT
    assert bars(np.array([-1.0])) is not oldest


def test_modules_are_set_aside_once():
    memory_release._modules = 0
    try:
        memory_release.spare_modules()
        assert gc.get_freeze_count() > 10_000
        gc.unfreeze()
        memory_release.spare_modules()
        assert gc.get_freeze_count() == 0, "nothing was imported since"
    finally:
        gc.unfreeze()


def test_the_answer_does_not_wait_until_modules_are_set_aside(monkeypatch):
    """Setting them aside takes 0.2 to 0.3 s with torch loaded, and stood at the end of a page's first run."""
    waited = []

    class Timer:
        def __init__(self, seconds, work):
            waited.append((seconds, work))

        def start(self):
            pass

        def is_alive(self):
            return True

    monkeypatch.setattr(memory_release, "_modules", 0)
    monkeypatch.setattr(memory_release, "_pending", None)
    monkeypatch.setattr(memory_release.threading, "Timer", Timer)
    before = gc.get_freeze_count()
    for _ in range(3):
        memory_release.tidy()
    assert gc.get_freeze_count() == before
    assert waited == [(memory_release.SPARE_SECONDS, memory_release.spare_modules)], "once for all of them"
