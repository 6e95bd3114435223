"""Which classes belong to which step, and the three kinds of class ids in the program.

A class has three names: the *dataset id* found in mask files, the *class index* 0..K-1 in order of
introduction (used for display and measurement), and the *training channel* of the network. `LabelSpace` owns
all three; `lag_core.data.remap` applies it to arrays. Nothing else adds or subtracts one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

IGNORE = 255
"""Label of pixels that are ignored in training and evaluation."""

Setting = Literal["overlapped", "disjoint", "sequential", "partitioned"]
SETTINGS: tuple[str, ...] = get_args(Setting)


@dataclass(frozen=True)
class ClassInfo:
    """One class of a dataset: its id in the masks, its name, its colour (RGB, 0..255)."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """The dataset ids that each step introduces. The background, if there is one, comes first in step 0."""

    name: str
    steps: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.steps)


def parse_task(name: str, classes: Sequence[int], background: int | None = None) -> Task:
    """The task `name` over `classes` (dataset ids in order of introduction, without the background).

    "a-b" puts `a` classes into step 0 and `b` into each later one; "a-b-c" gives every step its own number
    and repeats the last; "offline" is one step. The last step takes the rest. A suffix "_b" to "_w"
    introduces the classes in another order (see `class_order`). ValueError says what is wrong.
    """
    if not classes:
        raise ValueError("a task needs at least one class besides the background")
    first = () if background is None else (background,)
    if name == "offline":
        return Task(name, (first + tuple(classes),))
    match = re.fullmatch(r"([0-9]+(?:-[0-9]+)+)(?:_([b-w]))?", name)
    if not match:
        raise ValueError(
            f"task {name!r}: expected 'offline' or numbers such as '15-1' or '2-2-1', "
            "with '_b' to '_w' after them for another order of the classes"
        )
    numbers, letter = match.groups()
    sizes = list(_step_sizes([int(part) for part in numbers.split("-")], len(classes), name))
    bounds = [0, *np.cumsum(sizes).tolist()]
    ordered = class_order(classes, letter) if letter else classes
    steps = [tuple(ordered[a:b]) for a, b in pairwise(bounds)]
    return Task(name, (first + steps[0], *steps[1:]))


def class_order(classes: Sequence[int], letter: str) -> list[int]:
    """The other order of `classes` for a task's letter b..w: a fixed shuffle of their positions.

    Ours: the letters are those of the reference code's 22 orders of 15-1, the orders are not. The background,
    which is not among `classes`, stays first in step 0.
    """
    places = sorted(range(len(classes)), key=lambda i: hashlib.sha256(f"{letter}/{i}".encode()).digest())
    return [classes[i] for i in places]


def _step_sizes(parts: list[int], total: int, name: str) -> Iterator[int]:
    """Sizes of the steps: the given ones, the last repeated until every class is used."""
    if min(parts) < 1:
        raise ValueError(f"task {name!r}: each step needs at least one class")
    if sum(parts) > total:
        raise ValueError(f"task {name!r} names {sum(parts)} classes, but there are {total}")
    yield from parts
    left = total - sum(parts)
    while left > 0:
        size = min(parts[-1], left)
        yield size
        left -= size


@dataclass(frozen=True)
class LabelSpace:
    """Dataset id <-> class index <-> training channel, at each step.

    Channels: the unknown class (if modelled) is channel 0, then the background (if the dataset has one), then
    the classes in order of introduction. A dataset without background always has the unknown class: pixels
    that carry no label of the current step need a channel to go to (docs/method.md#reference).
    """

    steps: tuple[tuple[int, ...], ...]
    background: int | None = None
    unknown: bool = False

    def __post_init__(self) -> None:
        ids = [i for step in self.steps for i in step]
        if len(set(ids)) != len(ids):
            raise ValueError("a class is introduced twice")
        if not all(0 <= i < IGNORE for i in ids):
            raise ValueError(f"class ids must lie in 0..{IGNORE - 1}")
        if self.background is None and not self.unknown:
            raise ValueError("a dataset without background needs the unknown class (method.unknown = true)")
        if self.background is not None and self.steps[0][0] != self.background:
            raise ValueError("the background must be the first class of step 0")

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Dataset ids in order of introduction; the position is the class index."""
        return tuple(i for step in self.steps for i in step)

    @property
    def offset(self) -> int:
        """Channels in front of the first class index."""
        return int(self.unknown)

    @property
    def catch_all(self) -> int:
        """Channel of pixels that carry no label of the current step: unknown, else background. Always 0."""
        return 0

    def seen(self, step: int) -> int:
        """Number of classes (class indices) known after `step`."""
        return sum(len(s) for s in self.steps[: step + 1])

    def channels(self, step: int) -> int:
        """Number of logits after `step`."""
        return self.seen(step) + self.offset

    def head_sizes(self, step: int) -> tuple[int, ...]:
        """Channels of each head after `step`: [unknown, background,] step 0, step 1, … (docs/method.md#network)."""
        sizes = [len(s) for s in self.steps[: step + 1]]
        if not self.unknown:
            return tuple(sizes)
        if self.background is None:
            return (1, *sizes)
        if sizes[0] == 1:
            return (1, *sizes)
        return (1, 1, sizes[0] - 1, *sizes[1:])

    def class_indices(self, step: int) -> range:
        """Class indices introduced at `step`."""
        return range(self.seen(step) - len(self.steps[step]), self.seen(step))

    def new_channels(self, step: int) -> range:
        """Channels introduced at `step`; at step 0 all but the unknown one."""
        return range(self.class_indices(step).start + self.offset, self.class_indices(step).stop + self.offset)

    def old_channels(self, step: int) -> range:
        """Channels of real classes introduced before `step`: neither unknown nor background."""
        return range(self.first_foreground, self.new_channels(step).start)

    @property
    def first_foreground(self) -> int:
        """First channel that is neither unknown nor background."""
        return self.offset + int(self.background is not None)

    def step_of(self, index: int) -> int:
        """Step that introduced class `index`; IndexError if there is no such class."""
        if not 0 <= index < len(self.order):
            raise IndexError(f"there is no class index {index}: the task has {len(self.order)} classes")
        return next(t for t in range(len(self.steps)) if index < self.seen(t))

    def index_of(self, dataset_id: int) -> int:
        """Class index of a dataset id; ValueError if no step introduces it."""
        if dataset_id not in self.order:
            raise ValueError(f"no step introduces dataset id {dataset_id}")
        return self.order.index(dataset_id)

    def labelled(self, step: int, setting: str) -> tuple[int, ...]:
        """Dataset ids that are annotated at `step`, without background."""
        shown = self.steps[: step + 1] if setting == "sequential" else (self.steps[step],)
        return tuple(i for s in shown for i in s if i != self.background)

    def target_table(self, step: int, setting: str) -> np.ndarray:
        """Lookup table uint8 [256]: dataset id -> training channel at `step`; unlabelled -> catch-all, 255 ->
        255."""
        table = np.full(256, self.catch_all, np.uint8)
        table[IGNORE] = IGNORE
        for dataset_id in self.labelled(step, setting):
            table[dataset_id] = self.index_of(dataset_id) + self.offset
        return table

    def truth_table(self) -> np.ndarray:
        """Lookup table uint8 [256]: dataset id -> class index; ids that no step introduces -> 255."""
        table = np.full(256, IGNORE, np.uint8)
        for index, dataset_id in enumerate(self.order):
            table[dataset_id] = index
        return table

    def dataset_table(self) -> np.ndarray:
        """Lookup table uint8 [256]: class index -> dataset id; everything else -> 255."""
        table = np.full(256, IGNORE, np.uint8)
        table[: len(self.order)] = self.order
        return table
