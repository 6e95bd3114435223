"""The effect of a loss term over a short stretch: training continues from one state with and without it.

From the state that a step is in, some iterations are made with all terms and again without each of them: the same
batches, samples and learning rates, so the difference between the ends is the term's effect in that stretch,
including its effect on the other terms. A removed term's momentum stays. It is the affordable form
of retraining without the term. The step's state is restored. Source: ours (docs/method.md#loss-change-allocation).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lag_core.training.loop import StepLoop
from lag_core.training.probe import Probe


@dataclass(frozen=True)
class Rollouts:
    """The probe's losses after one stretch, in nats, by old class."""

    first: int
    """Iteration that the stretch begins with."""
    count: int
    before: Tensor
    """float32 [C], where it begins."""
    whole: Tensor
    """float32 [C], with every term."""
    without: dict[str, Tensor]
    """By term: float32 [C], without it."""

    def cost(self, term: str) -> Tensor:
        """How much higher the loss of each old class ends without a term; below 0: lower. Shape: float32 [C]."""
        return self.without[term] - self.whole


def rollouts(loop: StepLoop, probe: Probe, first: int, count: int, terms: Sequence[str]) -> Rollouts:
    """Continue for `count` iterations from iteration `first`, with all terms, then without each of `terms`.

    ValueError for a stretch that leaves the step.
    """
    if not 0 <= first <= first + count <= loop.total:
        raise ValueError(f"iterations {first} to {first + count} leave the step, which has {loop.total}")
    before = probe.losses(loop.student)
    ends = {term: _end(loop, probe, first, count, term) for term in (None, *terms)}
    return Rollouts(first, count, before, ends[None], {term: ends[term] for term in terms})


def _end(loop: StepLoop, probe: Probe, first: int, count: int, without: str | None) -> Tensor:
    with _left_as_it_was(loop):
        for iteration in range(first, first + count):
            loop.advance(iteration, frozenset() if without is None else frozenset({without}))
        return probe.losses(loop.student)


@contextmanager
def _left_as_it_was(loop: StepLoop) -> Iterator[None]:
    state: dict[str, Any] = copy.deepcopy(loop.state_dict())
    try:
        yield
    finally:
        loop.student.load_state_dict(state["student"])
        loop.schedule.optimiser.load_state_dict(state["optimiser"])
        if "scaler" in state:
            loop.schedule.scaler.load_state_dict(state["scaler"])
        if not state["optimiser"]["state"]:
            loop.schedule.optimiser.state.clear()
        loop.objective.load_state_dict(copy.deepcopy(state["objective"]))
