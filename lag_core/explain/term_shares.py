"""What each loss term did to an old class along a step: the curves of the recorded shares, and sentences from them.

Read from events.jsonl (docs/run-format.md, `shares`); nothing here imports torch. A share is an amount of nats of the
probe's loss: below 0 the term held the class, above 0 it pushed the class out. The difference between the
measured change and the shares is never distributed; it is *unexplained*. Two forces are *in balance* if their sum is
less than a tenth of the larger one. A share says what a term did on this path, not what would have happened without it.

Source: docs/method.md#loss-change-allocation; the rule for "in balance" is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lag_core.loss_terms import LOSS_TERMS
from lag_core.runs import Run

ALL = "all"
"""Stands for the mean over the old classes."""
BALANCE = 0.1
"""Forces whose sum is below this share of the larger one are in balance."""
TOLERATED = 0.15
"""Largest remainder, as a share of the largest share, up to which the sizes are trusted. docs/method.md."""
NOTHING = 0.05
"""Nats; smaller forces and terms are not mentioned."""
MOST_NAMES = 64
"""Most terms that are distinguished in an unknown file."""


@dataclass(frozen=True)
class TermCurves:
    """The cumulated shares of one step. M measurements, C classes with `ALL` behind them, T terms."""

    step: int
    updates: np.ndarray
    """int64 [M], how many updates were made."""
    classes: tuple[str, ...]
    """Class indices as text, then ALL."""
    terms: tuple[str, ...]
    loss: np.ndarray
    """float64 [M, C], the probe's loss in nats."""
    net: np.ndarray
    """float64 [M, C, T], cumulated shares."""
    gross: np.ndarray
    """float64 [M, C, T], cumulated sizes of the shares."""

    def of(self, cls: int | None) -> ClassCurves | None:
        """The curves of a class index, or of the mean over the old classes (None); None where it was not probed."""
        name = ALL if cls is None else str(cls)
        if name not in self.classes:
            return None
        at = self.classes.index(name)
        return ClassCurves(self.step, self.updates, self.terms, self.loss[:, at], self.net[:, at], self.gross[:, at])


@dataclass(frozen=True)
class ClassCurves:
    """The cumulated shares of one class in one step."""

    step: int
    updates: np.ndarray
    """int64 [M]."""
    terms: tuple[str, ...]
    loss: np.ndarray
    """float64 [M], nats."""
    net: np.ndarray
    """float64 [M, T]."""
    gross: np.ndarray
    """float64 [M, T]."""

    @property
    def change(self) -> np.ndarray:
        """Measured change of the probe's loss since the step began, float64 [M]."""
        return self.loss - self.loss[0]

    @property
    def unexplained(self) -> np.ndarray:
        """The measured change minus the shares, float64 [M]."""
        return self.change - self.net.sum(1)

    @cached_property
    def last(self) -> dict[str, float]:
        """The terms' shares at the last measurement, largest size first."""
        found = dict(zip(self.terms, self.net[-1].tolist(), strict=True))
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    @property
    def pushed(self) -> float:
        """The sum of the shares that push the class out, nats."""
        return sum(value for value in self.last.values() if value > 0)

    @property
    def held(self) -> float:
        """The size of the sum of the shares that hold the class, nats."""
        return -sum(value for value in self.last.values() if value < 0)

    @property
    def in_balance(self) -> bool:
        """Whether two real forces cancel: their sum is below BALANCE of the larger one."""
        larger = max(self.pushed, self.held)
        return larger > NOTHING and abs(self.pushed - self.held) < BALANCE * larger

    @property
    def remainder(self) -> float:
        """|unexplained| as a share of the largest share; NaN where no term acted."""
        largest = max(map(abs, self.last.values()), default=0.0)
        return abs(float(self.unexplained[-1])) / largest if largest > 0 else math.nan

    def table(self) -> dict[str, list[float]]:
        """By column, for a CSV file."""
        columns: dict[str, list[float]] = {"updates": self.updates.tolist(), "probe_loss": self.loss.tolist()}
        columns |= {name: self.net[:, at].tolist() for at, name in enumerate(self.terms)}
        return columns | {"measured_change": self.change.tolist(), "unexplained": self.unexplained.tolist()}


def of_run(run: Run) -> dict[int, TermCurves]:
    """The recorded shares by step; empty where the run has none."""
    return read(run.events())


def read(events: Iterable[Mapping[str, Any]]) -> dict[int, TermCurves]:
    """The same from the lines of a journal. Records that are damaged are left out."""
    records: dict[int, list[Mapping[str, Any]]] = {}
    for event in events:
        step, record = event.get("step"), event.get("shares")
        if isinstance(step, int) and _sound(record):
            records.setdefault(step, []).append(record)  # type: ignore[arg-type]
    return {step: found for step, own in sorted(records.items()) if (found := _curves(step, own)) is not None}


def _sound(record: object) -> bool:
    """Whether a record has everything: finite numbers by class, and by class and term."""
    if not isinstance(record, Mapping) or not isinstance(record.get("updates"), int):
        return False
    loss, net, gross = (record.get(name) for name in ("loss", "net", "gross"))
    if not (_numbers(loss) and isinstance(net, Mapping) and isinstance(gross, Mapping)):
        return False
    return all(_numbers(net.get(cls)) and _numbers(gross.get(cls)) for cls in loss)  # type: ignore[union-attr]


def _numbers(table: object) -> bool:
    return isinstance(table, Mapping) and all(isinstance(v, int | float) and math.isfinite(v) for v in table.values())


def _curves(step: int, records: list[Mapping[str, Any]]) -> TermCurves | None:
    classes = tuple(cls for cls in records[0]["loss"] if all(cls in one["loss"] for one in records))
    if not classes:
        return None
    terms = tuple(dict.fromkeys(term for one in records for cls in classes for term in one["net"][cls]))[:MOST_NAMES]
    records = list(_in_order(records))

    def array(name: str) -> np.ndarray:
        rows = [[[one[name][cls].get(term, 0.0) for term in terms] for cls in classes] for one in records]
        return np.array(rows, np.float64).reshape(len(records), len(classes), len(terms))

    return TermCurves(
        step=step,
        updates=np.array([one["updates"] for one in records], np.int64),
        classes=classes,
        terms=terms,
        loss=np.array([[one["loss"][cls] for cls in classes] for one in records], np.float64),
        net=array("net"),
        gross=array("gross"),
    )


def _in_order(records: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """By updates; of records that a resumed training wrote twice the last one counts."""
    by_updates = {one["updates"]: one for one in records}
    return (by_updates[key] for key in sorted(by_updates))


# ---------------------------------------------------------------------- words

WORDS: Mapping[str, str] = {
    "segmentation.new": "labels of the new classes",
    "segmentation.unlabelled": "unlabelled pixels",
    "segmentation.pseudo": "pseudo-labels",
    "segmentation.old": "labels of old classes",
    **{name: term.short for name, term in LOSS_TERMS.items()},
}
"""The terms' names in a sentence; others keep their own name."""

COARSE = "That is over 15 % of the largest share: trust the order, not the sizes. A lower log.shares_every is finer."
CAUTION = "This is what the terms did in this training, not what would have happened without them."


def term_words(name: str) -> str:
    """A term's name in a sentence."""
    return WORDS.get(name, name)


def sentence(name: str, curves: ClassCurves) -> str:
    """What the terms did to a class in a step, in nats, always with the unexplained part."""
    change, left = float(curves.change[-1]), float(curves.unexplained[-1])
    found = [f"{term_words(term)} {nats(value)}" for term, value in curves.last.items() if abs(value) >= NOTHING]
    head = f"Step {curves.step}, {name}: the probe's loss changed by {nats(change)} nats"
    if not found:
        return f"{head}; no term moved it by {NOTHING:g} nats or more."
    balance = f" In balance: pushed out by {curves.pushed:.2f}, held by {curves.held:.2f}." if curves.in_balance else ""
    coarse = f" {COARSE}" if curves.remainder > TOLERATED else ""
    return f"{head}: {', '.join(found)}; unexplained {nats(left)}.{coarse}{balance} {CAUTION}"


def nats(value: float) -> str:
    """With its sign and two decimals."""
    return f"{'+' if value >= 0 else '−'}{abs(value):.2f}"
