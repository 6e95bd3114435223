"""Shares of every class at every later step of a run, as `lag survey` keeps them: arrays by name. Pure NumPy.

R cases (class, step that introduced it, later step), P part slots, B bootstrap samples. The class's own head has one
slot for all classes.

| array | type | is |
|---|---|---|
| `shares.cases` | int64 [R, 3] | class index, earlier step, later step |
| `shares.iou` | float64 [R, 3] | IoU points then; now on the same pixels; now as in the papers |
| `shares.points` | float64 [R, P] | share of each part; NaN where the case has no such part |
| `shares.error` | float64 [R, P] | its error by sampling orders (`Shares.error`) |
| `shares.repeats` | float16 [R, B, P + 3] | bootstrap samples of the points and of the three IoUs |
| `shares.factor` | float64 [R, P + 3] | how much wider their intervals must be (`Shares.factor`); 1 if missing |
| `shares.interaction` | float32 [R, P, P] | interactions of pairs; NaN where not every hybrid was evaluated |
| `shares.corners` | float64 [R, 2, 2] | IoU points by {features, heads} x {then, now} |
| `shares.names` | uint8 [n] | names of the slots, UTF-8, one a line |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lag_core.explain.shares import BACKBONE, COMPETITION, NEWLY, OLD_HEADS, OWN_HEAD, UNKNOWN_HEAD, Shares

PREFIX = "shares."
_SLOT = "head"
"""Slot of the class's own head."""

Case = tuple[int, int, int]
"""(class index, earlier step, later step)."""


@dataclass(frozen=True)
class StoredShares:
    """Shares by case."""

    by_case: Mapping[Case, Shares]

    def __post_init__(self) -> None:
        for shares in self.by_case.values():  # shared by all readers
            samples = (shares.repeats, shares.factor, shares.error)
            for array in (shares.points, *samples, shares.interaction, shares.corners):
                array.flags.writeable = False

    def of(self, cls: int, step_to: int) -> Shares | None:
        """Shares of a class from the step that introduced it to `step_to`; None where there are none."""
        return next((s for (c, _, t), s in self.by_case.items() if c == cls and t == step_to), None)


def to_arrays(found: Mapping[Case, Shares]) -> dict[str, np.ndarray]:
    """Arrays by name; empty for no case."""
    if not found:
        return {}
    slots = _slots(list(found.values()))
    rows = [_row(shares, slots) for shares in found.values()]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    arrays["cases"] = np.array(list(found), np.int64)
    arrays["names"] = np.frombuffer("\n".join(slots).encode(), np.uint8).copy()
    return {PREFIX + name: value for name, value in arrays.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], classes: Sequence[str], images: int) -> StoredShares | None:
    """The reverse of `to_arrays`; None without such arrays. `classes`: names by class index.

    KeyError for a missing array, ValueError for shapes or values that do not fit.
    """
    if PREFIX + "cases" not in arrays:
        return None
    held = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
    slots = held["names"].astype(np.uint8).tobytes().decode("utf-8").split("\n")
    _check(held, len(slots), len(classes))
    return StoredShares({
        (int(c), int(s), int(t)): _shares((int(c), int(s), int(t)), i, held, slots, classes[int(c)], images)
        for i, (c, s, t) in enumerate(held["cases"])
    })  # fmt: skip


def _slots(every: Sequence[Shares]) -> list[str]:
    """Names of the slots in the order in which they are shown."""
    names = dict.fromkeys(_slot(part) for shares in every for part in shares.parts)
    order = {NEWLY: 0, _SLOT: 3, OLD_HEADS: 4, UNKNOWN_HEAD: 5, COMPETITION: 6}
    return sorted(names, key=lambda name: order.get(name, 1 if name.startswith(BACKBONE) else 2))


def _slot(part: str) -> str:
    return _SLOT if part.startswith(OWN_HEAD) else part


def _row(shares: Shares, slots: list[str]) -> dict[str, np.ndarray]:
    at = [slots.index(_slot(part)) for part in shares.parts]
    width = len(slots)
    points, error = np.full(width, np.nan), np.full(width, np.nan)
    points[at], error[at] = shares.points, shares.error
    interaction = np.full((width, width), np.nan, np.float32)
    interaction[np.ix_(at, at)] = shares.interaction
    repeats, factor = np.full((len(shares.repeats), width + 3), np.nan, np.float16), np.ones(width + 3)
    repeats[:, [*at, width, width + 1, width + 2]] = shares.repeats
    factor[[*at, width, width + 1, width + 2]] = shares.factor
    return {
        "iou": np.array([shares.start, shares.fixed, shares.end]),
        "points": points,
        "error": error,
        "interaction": interaction,
        "repeats": repeats,
        "factor": factor,
        "corners": shares.corners,
    }


def _check(held: Mapping[str, np.ndarray], slots: int, classes: int) -> None:
    cases = held["cases"]
    rows = len(cases)
    samples = held["repeats"].shape[1] if held["repeats"].ndim == 3 else -1
    shapes = {
        "cases": (rows, 3), "iou": (rows, 3), "points": (rows, slots), "error": (rows, slots),
        "repeats": (rows, samples, slots + 3), "interaction": (rows, slots, slots), "corners": (rows, 2, 2),
    }  # fmt: skip
    if "factor" in held:
        shapes["factor"] = (rows, slots + 3)
    for name, shape in shapes.items():
        if held[name].shape != shape:
            raise ValueError(f"{PREFIX}{name} has the shape {held[name].shape}, expected {shape}")
    if ((cases[:, 0] < 0) | (cases[:, 0] >= classes)).any():
        raise ValueError(f"{PREFIX}cases names a class that the run does not have")
    if not np.isfinite(held["iou"]).all():
        raise ValueError(f"{PREFIX}iou holds values that are not finite")


def _shares(case: Case, row: int, held: Mapping[str, np.ndarray], slots: list[str], name: str, images: int) -> Shares:
    own = [i for i, value in enumerate(held["points"][row]) if not np.isnan(value)]
    width = len(slots)
    start, fixed, end = (float(value) for value in held["iou"][row])
    columns = [*own, width, width + 1, width + 2]
    error = held["error"][row, own]
    factor = held["factor"][row, columns] if "factor" in held else np.ones(len(columns))
    return Shares(
        step_from=case[1],
        step_to=case[2],
        start=start,
        fixed=fixed,
        end=end,
        parts=tuple(OWN_HEAD + name if slots[i] == _SLOT else slots[i] for i in own),
        points=held["points"][row, own],
        repeats=held["repeats"][row][:, columns].astype(np.float64),
        factor=factor,
        error=error,
        interaction=held["interaction"][row][np.ix_(own, own)].astype(np.float64),
        corners=held["corners"][row],
        images=images,
        exact=not error.any(),
    )
