"""Whether each loss term moved the layers that old and new classes share, step by step.

Computed from the journal's gradient norms and the trainer's findings (`run.json`). A term without a gradient cannot
act (docs/method.md#terms); the words for what a term did are ours. No torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from lag_core.explain.history import History
from lag_core.method.reach import heads_only
from lag_core.runs import Run

SEGMENTATION = "segmentation"
"""The term that learns the new classes; the terms that preserve old ones are compared with it."""

HARDLY = 0.01
"""A term whose gradient is below this share of segmentation's hardly moves anything. Ours."""

__all__ = ["Effect", "Findings", "StepEffects", "TermEffect", "effects", "findings", "heads_only"]

_DEAD = re.compile(r"step (\d+): term (\S+) has no gradient: (.+)")
_NOT_FINITE = re.compile(r"step (\d+): term (\S+) is (nan|-?inf)\b")


class Effect(StrEnum):
    """What a term did to the shared layers in a step."""

    MOVED = "moved"
    """Its gradient was above zero."""
    HARDLY = "hardly"
    """Above zero, and below HARDLY of segmentation's."""
    ZERO = "zero"
    """Measured while the shared layers trained, and zero every time."""
    DEAD = "dead"
    """It has no gradient on any trained parameter: nothing that it could move."""
    HEADS = "heads"
    """It moved the heads alone: no shared layer trained, or the term reaches none of them by design."""
    UNMEASURED = "unmeasured"
    """No gradient norm was logged while the shared layers trained."""


@dataclass(frozen=True)
class TermEffect:
    """What one term did in one step."""

    name: str
    effect: Effect
    norm: float
    """Median gradient norm while the shared layers trained; NaN if never measured."""
    largest: float
    """Largest |raw value|; 0 for a term that was 0 throughout."""
    measured: int
    """Gradient norms behind the median."""


@dataclass(frozen=True)
class StepEffects:
    """What the terms of one step did."""

    step: int
    terms: tuple[TermEffect, ...]
    why_dead: str
    """Why the dead terms are dead, as the trainer said; empty if it said nothing."""
    joined: int | None
    """First logged iteration at which a shared layer trained; None if none did."""
    length: int
    """Iterations of the step; 0 if unknown."""
    not_finite: tuple[str, ...] = ()
    """Terms that became NaN or infinite."""
    finished: bool = True

    def names(self, *effects: Effect) -> tuple[str, ...]:
        """Terms with one of these effects."""
        return tuple(term.name for term in self.terms if term.effect in effects)

    def term(self, name: str) -> TermEffect | None:
        return next((term for term in self.terms if term.name == name), None)


@dataclass(frozen=True)
class Findings:
    """The problems in run.json, sorted by step."""

    dead: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    why: Mapping[int, str] = field(default_factory=dict)
    not_finite: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    """Other warnings, unchanged."""


def findings(run: Run) -> Findings:
    """Dead terms and NaN failures of a run. Warnings speak of the step that is still training, too."""
    dead = {info.step: dict.fromkeys(info.dead_terms) for info in run.steps if info.dead_terms}
    why: dict[int, str] = {}
    broken: dict[int, dict[str, None]] = {}
    others = []
    for sentence in run.warnings:
        if found := _DEAD.fullmatch(sentence):
            step = int(found[1])
            dead.setdefault(step, {})[found[2]] = None
            why[step] = found[3]
        elif found := _NOT_FINITE.match(sentence):
            broken.setdefault(int(found[1]), {})[found[2]] = None
        else:
            others.append(sentence)
    return Findings(
        {step: tuple(names) for step, names in dead.items()},
        why,
        {step: tuple(names) for step, names in broken.items()},
        tuple(others),
    )


def effects(
    history: History, found: Findings, finished: int, on_heads: Collection[str] = ()
) -> tuple[StepEffects, ...]:
    """What each term did at each step that has events, or of which run.json says something.

    `finished`: number of finished steps. `on_heads`: the terms of `heads_only`; a gradient of 0 on the shared layers is
    no failure of theirs, as long as they have a value.
    """
    steps = sorted({*history.steps, *found.dead, *found.not_finite})
    return tuple(_step_effects(history.of_step(t), t, found, t < finished, on_heads) for t in steps)


def _step_effects(
    history: History, step: int, found: Findings, finished: bool, on_heads: Collection[str]
) -> StepEffects:
    dead = found.dead.get(step, ())
    trained = history.shared_train
    present = [name for name in history.terms if _seen(history, name)]
    names = [*present, *(name for name in dead if name not in present)]
    ordered = sorted(names, key=lambda name: name != SEGMENTATION)
    reference = _median(history.norm.get(SEGMENTATION), trained)
    terms = tuple(_on_heads(_term_effect(history, n, n in dead, trained, reference), on_heads) for n in ordered)
    not_finite = [*found.not_finite.get(step, ())]
    not_finite += [n for n, at in history.broken.items() if n not in not_finite and (at == 1).any()]
    return StepEffects(
        step=step,
        terms=terms,
        why_dead=found.why.get(step, ""),
        joined=int(history.iteration[trained][0]) if trained.any() else None,
        length=history.length(step),
        not_finite=tuple(not_finite),
        finished=finished,
    )


def _on_heads(term: TermEffect, on_heads: Collection[str]) -> TermEffect:
    """A term that acts on the heads alone did so if it had a value; without one it did nothing."""
    acts = term.effect is Effect.ZERO and term.name in on_heads and term.largest > 0
    return replace(term, effect=Effect.HEADS) if acts else term


def _seen(history: History, name: str) -> bool:
    columns = [table[name] for table in (history.raw, history.norm) if name in table]
    return any(bool((~np.isnan(column)).any()) for column in columns)


def _term_effect(history: History, name: str, dead: bool, trained: np.ndarray, reference: float) -> TermEffect:
    norms = history.norm.get(name, np.full(len(history), np.nan))
    measured = int((np.isfinite(norms) & trained).sum())
    norm = _median(norms, trained)
    values = np.abs(history.raw.get(name, norms))
    largest = float(values[np.isfinite(values)].max(initial=0.0))
    moved = bool((norms[trained & np.isfinite(norms)] > 0).any())
    return TermEffect(name, _effect(dead, trained, measured, moved, norm, reference), norm, largest, measured)


def _effect(dead: bool, trained: np.ndarray, measured: int, moved: bool, norm: float, reference: float) -> Effect:
    if dead:
        return Effect.DEAD
    if not trained.any():
        return Effect.HEADS
    if not measured:
        return Effect.UNMEASURED
    if not moved:
        return Effect.ZERO
    return Effect.HARDLY if norm < HARDLY * reference else Effect.MOVED


def _median(norms: np.ndarray | None, where: np.ndarray) -> float:
    """Median of the finite norms at the iterations `where`; NaN if there are none."""
    if norms is None:
        return math.nan
    kept = norms[where & np.isfinite(norms)]
    return float(np.median(kept)) if len(kept) else math.nan
