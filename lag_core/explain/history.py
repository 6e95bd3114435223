"""The course of a training, from its journal: loss terms, gradients, learning rates, pseudo-labels.

`EventLog` reads `events.jsonl` and keeps up with it while `train` writes: each `read` reads only what was
appended. `History` holds the events as arrays. Nothing here imports torch.

A run may come from another trainer, or be damaged: a line that is no event is left out, a number that is
missing is NaN, and nothing raises. Source of the quantities: docs/method.md#terms.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lag_core import reading

EVENTS = "events.jsonl"
HEADS = "heads"
"""The part of the network that is not shared: each step's classes have their own head."""

MOST_NAMES = 64
"""Most terms, or parts of the network, that are distinguished; further names are left out."""

LONGEST_NAME = 100
"""Characters of such a name; longer ones are left out."""

LONGEST_LINE = 1 << 20
"""Bytes of a line; a longer one is no event."""


@dataclass(frozen=True)
class History:
    """The logged iterations of a run, oldest first: N of them. Every array has the shape [N]."""

    step: np.ndarray
    """int64."""
    iteration: np.ndarray
    """int64, counted from 0 within the step."""
    total: np.ndarray
    """int64, iterations of the step; 0 where the file does not say."""
    loss: np.ndarray
    """float64, the weighted sum that was minimised; NaN where not logged, as in all that follow."""
    raw: Mapping[str, np.ndarray]
    """By term: its value before it is weighed. NaN too at iterations where the term was not taken."""
    weight: Mapping[str, np.ndarray]
    """By term: the weight that it entered the sum with."""
    broken: Mapping[str, np.ndarray]
    """By term that was ever NaN or infinite: 1 at these iterations."""
    norm: Mapping[str, np.ndarray]
    """By term: Euclidean norm of the weighted term's gradient on the shared layers; measured now and then."""
    rate: Mapping[str, np.ndarray]
    """By part of the network: learning rate."""
    throughput: np.ndarray
    """Images per second."""
    coverage: np.ndarray
    """Fraction of the pixels without a label of their own that a pseudo-label was given to."""
    precision: np.ndarray
    """Fraction of these pseudo-labels that are right; NaN too where none could be judged."""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names in the order in which they first appear."""
        return tuple(dict.fromkeys([*self.raw, *self.norm]))

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps with an event, ascending. A step that was copied from another run has none."""
        return tuple(int(s) for s in np.unique(self.step))

    def weighted(self, term: str) -> np.ndarray:
        """What a term added to the loss, float64 [N]."""
        return self.raw[term] * self.weight[term]

    def length(self, step: int) -> int:
        """Iterations of a step: as the events say, at least as many as were seen."""
        here = self.step == step
        return int(max(self.total[here].max(initial=0), self.iteration[here].max(initial=-1) + 1))

    def of_step(self, step: int) -> History:
        """The events of one step."""
        return self._rows(self.step == step)

    def _rows(self, keep: np.ndarray) -> History:
        def picked(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return value[keep]
            return {name: column[keep] for name, column in value.items()}

        return History(**{name: picked(value) for name, value in vars(self).items()})

    @property
    def shared_train(self) -> np.ndarray:
        """bool [N]: whether a shared layer was being trained; True where no learning rate was logged."""
        parts = [rate for part, rate in self.rate.items() if part != HEADS]
        known = np.any([np.isfinite(rate) for rate in self.rate.values()], axis=0) if self.rate else False
        moving = np.any([rate > 0 for rate in parts], axis=0) if parts else False
        return np.broadcast_to(np.logical_or(np.logical_not(known), moving), self.step.shape)

    def table(self) -> dict[str, list[Any]]:
        """Everything, by column: for a CSV file."""
        columns: dict[str, np.ndarray] = {
            "step": self.step,
            "iteration": self.iteration,
            "iterations_of_step": self.total,
            "loss": self.loss,
        }
        for term in self.raw:
            columns |= {f"{term}.raw": self.raw[term], f"{term}.weight": self.weight[term]}
            columns[f"{term}.weighted"] = self.weighted(term)
        columns |= {f"{term}.gradient_norm": norm for term, norm in self.norm.items()}
        columns |= {f"lr.{part}": rate for part, rate in self.rate.items()}
        columns |= {
            "images_per_second": self.throughput,
            "pseudo_labels.coverage": self.coverage,
            "pseudo_labels.precision": self.precision,
        }
        return {name: column.tolist() for name, column in columns.items()}


class EventLog:
    """events.jsonl of one run folder, read as it grows. Not safe for several threads at once."""

    def __init__(self, folder: Path):
        self.path = folder / EVENTS
        self._forget()

    def _forget(self) -> None:
        self._offset, self._identity = 0, (0, 0)
        self._rows = 0
        self._columns: dict[tuple[str, str], array[float]] = {}
        self._history: History | None = None

    @property
    def bytes_read(self) -> int:
        """Where the next `read` goes on in the file."""
        return self._offset

    def read(self) -> History:
        """The history up to the last whole line. A file that was replaced or shortened is read from its start."""
        try:
            with reading.opened(self.path, reading.EVENTS, reading.run_folder(self.path)) as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._identity or status.st_size < self._offset:
                    self._forget()
                    self._identity = identity
                file.seek(self._offset)
                self._take(file.read())
        except OSError:
            self._forget()
        if self._history is None:
            self._history = self._arrays()
        return self._history

    def _take(self, appended: bytes) -> None:
        """Read the appended whole lines; an incomplete last line waits for the next call."""
        whole = appended.rfind(b"\n") + 1
        self._offset += whole
        for line in appended[:whole].splitlines():
            event = _event(line)
            if event is not None:
                self._add(event)
                self._history = None

    def _add(self, event: Mapping[str, Any]) -> None:
        last = self._columns.get(("step", ""))
        step = _whole(event.get("step"), int(last[-1]) if last else 0)
        seen = self._columns.get(("iteration", ""))
        again = seen is not None and last is not None and int(last[-1]) == step
        iteration = _whole(event.get("iteration"), int(seen[-1]) + 1 if again and seen else 0)
        for place, value in _numbers(event, step, iteration):
            self._put(place, value)
        self._rows += 1

    def _put(self, place: tuple[str, str], value: float) -> None:
        column = self._columns.get(place)
        if column is None:
            if sum(kind == place[0] for kind, _ in self._columns) >= MOST_NAMES:
                return
            column = self._columns[place] = array("d")
        column.extend([math.nan] * (self._rows - len(column)))
        column.append(value)

    def _arrays(self) -> History:
        """The columns as arrays: by step and iteration, a repeated iteration once, as it was logged last."""
        columns = {place: self._filled(column) for place, column in self._columns.items()}
        nothing = np.full(self._rows, np.nan)
        step = columns.get(("step", ""), nothing)
        iteration = columns.get(("iteration", ""), nothing)
        order = np.lexsort((np.arange(self._rows), iteration, step))
        repeated = (np.diff(step[order]) == 0) & (np.diff(iteration[order]) == 0)
        rows = order[np.append(~repeated, True)] if self._rows else order

        def one(kind: str) -> np.ndarray:
            return columns.get((kind, ""), nothing)[rows]

        def by_name(kind: str) -> dict[str, np.ndarray]:
            return {name: column[rows] for (k, name), column in columns.items() if k == kind}

        raw, weight = by_name("raw"), by_name("weight")
        return History(
            step=one("step").astype(np.int64),
            iteration=one("iteration").astype(np.int64),
            total=np.nan_to_num(one("total")).astype(np.int64),
            loss=one("loss"),
            raw=raw,
            weight={name: weight.get(name, nothing[rows]) for name in raw},
            broken=by_name("broken"),
            norm=by_name("norm"),
            rate=by_name("rate"),
            throughput=one("throughput"),
            coverage=one("coverage"),
            precision=one("precision"),
        )

    def _filled(self, column: Sequence[float]) -> np.ndarray:
        """A column as float64 [N], NaN behind its last value."""
        filled = np.full(self._rows, np.nan)
        filled[: len(column)] = column
        return filled


def _event(line: bytes) -> dict[str, Any] | None:
    """An event from a line; None if it is none."""
    if len(line) > LONGEST_LINE:
        return None
    try:
        event = reading.from_json(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return event if isinstance(event, dict) and ("step" in event or "iteration" in event) else None


def _numbers(event: Mapping[str, Any], step: int, iteration: int) -> Iterable[tuple[tuple[str, str], float]]:
    """Every number of an event, by (kind, name)."""
    yield ("step", ""), step
    yield ("iteration", ""), iteration
    yield ("total", ""), max(_whole(event.get("total"), 0), 0)
    yield ("loss", ""), _number(event.get("loss"))
    yield ("throughput", ""), _number(event.get("images_per_second"))
    for name, term in _entries(event, "terms"):
        # Other trainers may log a bare value: that is a term of weight 1.
        both = term if isinstance(term, dict) else {"raw": term, "weight": 1.0}
        value = both.get("raw")
        yield ("raw", name), _number(value)
        if isinstance(value, float) and not math.isfinite(value):
            yield ("broken", name), 1.0
        yield ("weight", name), _number(both.get("weight", 1.0))
    for name, norm in _entries(event, "gradient_norms"):
        yield ("norm", name), _number(norm)
    rates = event.get("lr")
    for part, rate in _entries(event, "lr") if isinstance(rates, dict) else [("network", rates)]:
        yield ("rate", part), _number(rate)
    for kind, value in _entries(event, "pseudo_labels"):
        if kind in ("coverage", "precision"):
            yield (kind, ""), _number(value)


def _entries(event: Mapping[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    found = event.get(key)
    return [(n, value) for n, value in found.items() if len(n) <= LONGEST_NAME] if isinstance(found, dict) else ()


def _number(value: Any) -> float:
    """A finite or infinite float; NaN for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _whole(value: Any, otherwise: int) -> int:
    number = _number(value)
    return int(number) if 0 <= number < 2**53 else otherwise


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int
    iteration: int
    """Iterations done in the step."""
    total: int
    """Iterations of the step; 0 if unknown."""
    images_per_second: float
    """Median of the last logged iterations; NaN if unknown."""

    def seconds_left(self, batch: int) -> float:
        """Of the step, at the present speed; NaN if unknown."""
        if not (self.total and self.images_per_second > 0):
            return math.nan
        return (self.total - self.iteration) * batch / self.images_per_second


def progress(history: History) -> Progress | None:
    """The progress at the newest event; None before the first."""
    if not len(history):
        return None
    step = history.steps[-1]
    here = history.of_step(step)
    recent = here.throughput[-10:]
    known = recent[np.isfinite(recent)]
    speed = float(np.median(known)) if len(known) else math.nan
    return Progress(step, int(here.iteration[-1]) + 1, int(here.total.max(initial=0)), speed)


def smoothed(values: np.ndarray, strength: float) -> np.ndarray:
    """Exponential moving average; float64 [N], NaN where `values` is not finite.

    strength in [0, 1): weight of the previous values. Bias-corrected, so the first value stays the same.
    """
    out = np.full(len(values), np.nan)
    mean = mass = 0.0
    for i, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            continue
        mean = strength * mean + (1 - strength) * value
        mass = strength * mass + (1 - strength)
        out[i] = mean / mass
    return out
