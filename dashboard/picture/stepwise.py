"""The networks of a picture's steps, one after another in the background: a page waits for the step that it shows.

A run of many steps whose trunks all move takes seconds for each of them. A page asks here, and gets all finished steps
as soon as the selected step is done. One thread of the server then runs the others, those next to it first, and the
most recently requested picture before those of other pages and sessions. If the user has stepped on in the meantime,
the step that is selected now goes first.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.one_thread import OneThread
from dashboard.picture import predictions
from dashboard.picture.predictions import Answers
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.trace import Trace

NAME = "steps-in-background"

PATIENCE = 2.0
"""Seconds after the first request in which a page waits for all steps, so that fast networks are drawn once."""

PICTURES = 4
"""At most this many pictures are worked on; older requests are dropped."""


@dataclass
class Work:
    """A picture and the steps of a run that must run on it."""

    trace: Trace
    order: list[int]
    """Steps, those that matter most first."""
    began: float = field(default_factory=time.monotonic)
    failure: Exception | None = None

    @property
    def there(self) -> frozenset[int]:
        """The steps whose network has run."""
        return frozenset(step for step in self.order if self.trace.has(step))

    @property
    def next(self) -> int | None:
        """The step to run; None where nothing is left to do."""
        return None if self.failure else next((step for step in self.order if not self.trace.has(step)), None)


class Queue(OneThread):
    """Works, the newest request last; one thread runs them, the newest first, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self._works: OrderedDict[Hashable, Work] = OrderedDict()
        self._changed = threading.Condition()

    def wish(self, key: Hashable, trace: Trace, step: int) -> Work:
        """Have all steps of a trace run, `step` first and those next to it before others."""
        order = sorted(trace.steps, key=lambda one: (abs(one - step), one))
        with self._changed:
            work = self._works.pop(key, None)
            if work is None or work.trace is not trace:
                work = Work(trace, order)
            work.order = order
            self._works[key] = work
            while len(self._works) > PICTURES:
                self._works.popitem(last=False)
            if work.next is not None:
                self._start(NAME)
            return work

    def wait(self, work: Work, step: int | None = None, seconds: float | None = None) -> None:
        """Until a step has run, or all of them (None); no longer than this. An error is raised, and forgotten."""
        with self._changed:
            self._changed.wait_for(
                lambda: work.next is None if step is None else (work.trace.has(step) or bool(work.failure)), seconds
            )
            if work.failure:
                for key in [key for key, one in self._works.items() if one is work]:
                    del self._works[key]
                raise work.failure

    def _run(self) -> None:
        while True:
            with self._changed:
                work = next((one for one in reversed(self._works.values()) if one.next is not None), None)
                step = None if work is None else work.next
                if work is None or step is None:
                    self._thread = None
                    return
            failure: Exception | None = None
            try:
                work.trace.output(step)
            except Exception as error:  # shown by the page that waits
                failure = error
            with self._changed:
                work.failure = failure
                self._changed.notify_all()
                for key in [key for key, one in self._works.items() if one.next is None and not one.failure]:
                    del self._works[key]


QUEUE = Queue()
"""That of the server."""


def waits_for_all() -> bool:
    """Whether a page computes all that it shows: without a browser it would not be drawn a second time."""
    return not st.context.url


def wish(run: Run, picture: Picture, step: int) -> Work:
    """Have the networks of all steps run, `step` first."""
    return QUEUE.wish((run.digest, picture.digest), loaders.trace(run, picture), step)


def answered(run: Run, picture: Picture) -> bool:
    """Whether all answers are kept, so that no network runs for them."""
    return predictions.kept_answers_of(run, picture) is not None


def answers(run: Run, picture: Picture, step: int, space: Run | None = None) -> Answers:
    """As `predictions.answers`, but steps may be `pending`: they are being computed, `step` before the others.

    Waits if no step is computed yet. An error while a network runs is raised.
    """
    if waits_for_all() or run.kind == "stored" or answered(run, picture):
        return predictions.answers(run, picture, space)
    work = wish(run, picture, step)
    if not work.there:
        with st.spinner(f"Running the network of step {step}…", show_time=True):
            QUEUE.wait(work, step)
    QUEUE.wait(work, seconds=max(0.0, work.began + PATIENCE - time.monotonic()))
    there = work.there
    if len(there) == len(work.order):
        return predictions.answers(run, picture, space)
    return predictions.answers_at(run, picture, there, space)
