"""The predicted classes of every validation picture's pixels at every step, by picture. Pure NumPy. Ours.

With them, any part of the validation set can be measured without a network: confusion matrices, flows and IoUs of
some pictures are sums over their rows.

N pictures, T steps, K class indices; n rows, those of a picture one after the other.

| array | type | is |
|---|---|---|
| `pictures.rows` | int64 [N] | rows of each picture |
| `pictures.moves` | uint8 [n, 4] | step, true class, class at the previous step, class at the step |
| `pictures.moved` | uint32 [n] | pixels of that kind |
| `pictures.confidence` | float16 [N, T, K] | mean probability of the answer on a true class's pixels; NaN: none |

At step 0 the class at the previous step is the class at the step. Stored label maps have no confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PREFIX = "pictures."


@dataclass(frozen=True)
class PictureCounts:
    """Rows of all pictures. Arrays are read-only."""

    rows: np.ndarray
    """int64 [N], rows of each picture."""
    moves: np.ndarray
    """uint8 [n, 4]: step, true class, class at the step before, class at the step."""
    moved: np.ndarray
    """int64 [n], pixels."""
    confidence: np.ndarray | None
    """float [N, T, K]; None where the answers have no probabilities."""
    steps: int
    classes: int

    def __post_init__(self) -> None:
        for array in (self.rows, self.moves, self.moved, self.confidence):
            if array is not None:
                array.flags.writeable = False

    def confusions(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Confusion matrices of every step on the chosen pictures, rows truth.

        Shape: bool [N], None for all -> int64 [T, K, K].
        """
        step, true, _, now, pixels = self._columns(chosen)
        found = np.zeros((self.steps, self.classes, self.classes), np.int64)
        np.add.at(found, (step, true, now), pixels)
        return found

    def flows(self, cls: int, chosen: np.ndarray | None = None) -> np.ndarray:
        """Pixels of a true class by class at step t (rows) and at t + 1 (columns), on the chosen pictures.

        Shape: bool [N], None for all -> int64 [T - 1, K, K].
        """
        step, true, before, now, pixels = self._columns(chosen)
        mine = (true == cls) & (step > 0)
        found = np.zeros((self.steps - 1, self.classes, self.classes), np.int64)
        np.add.at(found, (step[mine] - 1, before[mine], now[mine]), pixels[mine])
        return found

    def called(self, step: int, true: int, now: int) -> np.ndarray:
        """Pixels of a true class that the step calls `now`, of each picture. Shape: int64 [N]."""
        mine = (self.moves[:, 0] == step) & (self.moves[:, 1] == true) & (self.moves[:, 3] == now)
        pictures = np.repeat(np.arange(len(self.rows)), self.rows)[mine]
        return np.bincount(pictures, self.moved[mine], minlength=len(self.rows)).astype(np.int64)

    def _columns(self, chosen: np.ndarray | None) -> tuple[np.ndarray, ...]:
        moves, moved = self.moves, self.moved
        if chosen is not None:
            mine = np.repeat(chosen, self.rows)
            moves, moved = moves[mine], moved[mine]
        return (*(column.astype(np.int64) for column in moves.T), moved)


class PictureCounter:
    """Counts pictures one after the other."""

    def __init__(self, pictures: int, steps: int, classes: int):
        self.steps, self.classes = steps, classes
        self.found: list[tuple[np.ndarray, np.ndarray]] = [
            (np.zeros((0, 4), np.uint8), np.zeros(0, np.int64)) for _ in range(pictures)
        ]
        self.confidence = np.full((pictures, steps, classes), np.nan, np.float32)

    def add(self, place: int, maps: np.ndarray, true: np.ndarray) -> None:
        """Count one picture. Shape: label maps uint8 [T, H, W], truth uint8 [H, W], 255 where nothing is annotated."""
        n, known = self.classes, true < self.classes
        truth = true[known].astype(np.int64)
        codes = np.concatenate([
            ((t * n + truth) * n + maps[max(t - 1, 0)][known]) * n + maps[t][known] for t in range(self.steps)
        ])  # fmt: skip
        kinds, counts = np.unique(codes, return_counts=True)
        moves = np.stack(np.unravel_index(kinds, (self.steps, n, n, n)), 1).astype(np.uint8)
        self.found[place] = moves, counts.astype(np.int64)

    def add_confidence(self, place: int, step: int, sure: np.ndarray, true: np.ndarray) -> None:
        """How sure a step is of its answer on one picture. Shape: probability of the answer [H, W], truth [H, W]."""
        known = true < self.classes
        counts = np.bincount(true[known], minlength=self.classes)
        sums = np.bincount(true[known], sure[known], minlength=self.classes)
        self.confidence[place, step] = np.divide(sums, counts, out=np.full(self.classes, np.nan), where=counts > 0)

    def take(self, others: Sequence[PictureCounter]) -> None:
        """Add the counts of several counters, each of its own pictures."""
        for place in range(len(self.found)):
            for one in others:
                if len(one.found[place][0]):
                    self.found[place], self.confidence[place] = one.found[place], one.confidence[place]

    def counts(self) -> PictureCounts:
        """What was counted."""
        moves, moved = (np.concatenate(parts) for parts in zip(*self.found, strict=True))
        sure = None if np.isnan(self.confidence).all() else self.confidence.copy()
        rows = np.array([len(own) for own, _ in self.found], np.int64)
        return PictureCounts(rows, moves, moved, sure, self.steps, self.classes)


def to_arrays(counts: PictureCounts) -> dict[str, np.ndarray]:
    """Arrays by name, as they are stored."""
    found = {"rows": counts.rows, "moves": counts.moves, "moved": counts.moved.astype(np.uint32)}
    if counts.confidence is not None:
        found["confidence"] = counts.confidence.astype(np.float16)
    return {PREFIX + name: array for name, array in found.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], confusion: np.ndarray) -> PictureCounts | None:
    """The reverse of `to_arrays`; None without such arrays. `confusion`: of the whole set, int64 [T, K, K].

    KeyError for a missing array, ValueError for rows that do not fit together or do not add up to `confusion`.
    """
    if PREFIX + "rows" not in arrays:
        return None
    rows, moves, moved = (arrays[PREFIX + name] for name in ("rows", "moves", "moved"))
    if int(rows.sum()) != len(moves) or len(moves) != len(moved):
        raise ValueError(f"{PREFIX}rows names {int(rows.sum())} rows, there are {len(moves)} and {len(moved)}")
    steps, classes = confusion.shape[:2]
    if len(moves) and (moves.max(0) >= (steps, classes, classes, classes)).any():
        raise ValueError(f"{PREFIX}moves names a step or a class that the run does not have")
    sure = arrays.get(PREFIX + "confidence")
    found = PictureCounts(
        rows.astype(np.int64), moves.astype(np.uint8), moved.astype(np.int64),
        None if sure is None else sure.astype(np.float32), steps, classes,
    )  # fmt: skip
    if not np.array_equal(found.confusions(), confusion):
        raise ValueError(f"{PREFIX}moved does not add up to the confusion matrices")
    return found
