"""The arrays of a survey, checked: shape, type and range of each (docs/run-format.md). Pure NumPy.

N images, T steps, K classes, C channels of Z, M metrics; letters in a shape, numbers as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MOST = 2**46
"""Largest count: sums over 255 x 255 cells stay within int64."""
LARGEST = 1e15
"""Largest size of any other number."""


@dataclass(frozen=True)
class Kind:
    """What an array is."""

    shape: str
    low: float
    high: float
    whole: bool
    gaps: bool = False
    """Whether NaN says "none"."""


def counts(shape: str) -> Kind:
    return Kind(shape, 0, MOST, True)


def values(shape: str, low: float = -LARGEST, high: float = LARGEST, *, gaps: bool = False) -> Kind:
    return Kind(shape, low, high, False, gaps)


BASIC: Mapping[str, Kind] = {
    "pixels": counts("N K"),
    "right": counts("N T K"),
    "lost": counts("N T K"),
    "shift": counts("N T 4"),
    "confusion": counts("T K K"),
    "latent_pixels": counts("K"),
    "prototypes": values("T K C"),
    "spread": values("T K", 0, 3, gaps=True),
    "channel_mean": values("T C"),
    "channel_energy": values("T C", 0),
    "top_index": Kind("T C 9", -1, MOST, True),
    "top_activation": values("T C 9", gaps=True),
    "distances": values("M T-1 C", 0),
}
HOLDS: Mapping[str, Kind] = {
    "probe.confusion": counts("T 6 K K"),
    "probe.nearest": counts("T K K"),
    "probe.positions": counts("K"),
    "cka.values": values("6 T T", -1.001, 1.001, gaps=True),
    "confusion.masked": counts("T K K"),
    "calibration.count": counts("T K 15"),
    "calibration.right": counts("T K 15"),
    "calibration.confidence": values("T K 15", 0),
    "shift.called": counts("T K K"),
    "shift.none": counts("T K K"),
    "shift.confidence": values("T K", 0),
    "shift.unlabelled": counts("T K+1"),
    "shift.images": counts("T"),
    "shift.pseudo": counts("T K+1 K+1"),
}
PICTURES: Mapping[str, Kind] = {
    "pictures.rows": counts("N"),
    "pictures.moves": Kind("R 4", 0, 255, True),
    "pictures.moved": counts("R"),
    "pictures.confidence": values("N T K", 0, 1.001, gaps=True),
}
SHARES: Mapping[str, Kind] = {
    "shares.iou": values("R 3", -1000, 1000),
    "shares.points": values("R P", -1000, 1000, gaps=True),
    "shares.error": values("R P", -1000, 1000, gaps=True),
    "shares.repeats": values("R B P+3", -1000, 1000, gaps=True),
    "shares.factor": values("R P+3", 1, 100),
    "shares.interaction": values("R P P", -1000, 1000, gaps=True),
    "shares.corners": values("R 2 2", -1000, 1000, gaps=True),
}


def check(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, Kind], lengths: Mapping[str, int]) -> None:
    """ValueError for the first of `arrays` that is not of its kind; arrays not in `kinds` are not checked."""
    for name, kind in kinds.items():
        if name in arrays:
            _check_one(name, arrays[name], kind, lengths)


def _check_one(name: str, array: np.ndarray, kind: Kind, lengths: Mapping[str, int]) -> None:
    wanted = tuple(_length(axis, lengths) for axis in kind.shape.split())
    if len(array.shape) != len(wanted) or any(
        w is not None and w != n for w, n in zip(wanted, array.shape, strict=True)
    ):
        shown = tuple("any" if one is None else one for one in wanted)
        raise ValueError(f"{name} has the shape {array.shape}, expected {shown}")
    if array.dtype.kind not in ("iu" if kind.whole else "iuf"):
        raise ValueError(f"{name} is of type {array.dtype}, expected {'whole ' * kind.whole}numbers")
    known = array[~np.isnan(array)] if kind.gaps and array.dtype.kind == "f" else array
    if known.size and not (known.min() >= kind.low and known.max() <= kind.high):  # false for NaN, too
        raise ValueError(f"{name} holds values outside {kind.low:g} to {kind.high:g}, or none that are finite")


def _length(axis: str, lengths: Mapping[str, int]) -> int | None:
    """Length of an axis; None if any length is allowed."""
    if axis.isdigit():
        return int(axis)
    letter, more = axis[0], int(axis[1:] or 0)
    return lengths[letter] + more if letter in lengths else None


def check_basic(arrays: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> None:
    """ValueError unless the arrays that every survey has fit together."""
    check(arrays, BASIC, lengths)
    top, strength = arrays["top_index"], arrays["top_activation"]
    if top.size and top.max() >= lengths["N"]:
        raise ValueError(f"top_index names image {top.max()} of {lengths['N']}")
    if np.isnan(strength[top >= 0]).any():
        raise ValueError("top_activation has no value for an image of top_index")
    flows = arrays["flows"]
    if flows.ndim != 2 or flows.shape[1] != 5 or flows.dtype.kind not in "iu":
        raise ValueError(f"flows has the shape {flows.shape} and type {flows.dtype}, expected whole numbers (n, 5)")
    most = np.array([lengths["K"], lengths["T"] - 1, lengths["K"], lengths["K"], MOST])
    if ((flows < 0) | (flows >= most)).any():
        raise ValueError("flows names a class or a step that the run does not have")
