"""What analysis_NN.safetensors may hold (docs/run-format.md): shape and range of every array, by group.

If one array of a group (`prototypes`, `statistics`, `channels`) is wrong, the whole group counts as absent: its arrays
are used together. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

LARGEST = 1e12
"""Above it, squares leave float32."""

_SHAPES = {
    "prototypes.mean": "KC",
    "prototypes.count": "K",
    "statistics.count": "K",
    "statistics.mean": "KF",
    "statistics.pairs": "K",
    "statistics.pair_mean": "KF",
    "statistics.pair_product": "KF",
    "channels.distance": "C",
    "channels.invariant": "C",
    "channels.defined": "1",
}
_COUNTS = ("prototypes.count", "statistics.count", "statistics.pairs", "channels.distance")
"""Never below 0."""
_FLAGS = ("channels.invariant", "channels.defined")
_TOGETHER = ({"prototypes.mean", "prototypes.count"}, {"statistics.mean", "statistics.count"})


def checked_arrays(arrays: Mapping[str, np.ndarray], rows: int, channels: int) -> tuple[Arrays, list[str]]:
    """(arrays without the groups that are wrong, a sentence for each of these). K = `rows`, C = `channels`."""
    replayed = arrays["statistics.mean"].shape[-1:] if "statistics.mean" in arrays else ()
    width = replayed[0] if replayed else channels
    reasons: dict[str, str] = {}
    for name, array in arrays.items():
        reason = _wrong(name, array, {"K": rows, "C": channels, "F": width, "1": 1})
        if reason:
            reasons.setdefault(_group(name), f"{name} {reason}")
    for names in _TOGETHER:
        if names & arrays.keys() and not names <= arrays.keys():
            missing = min(names - arrays.keys())
            reasons.setdefault(_group(missing), f"{missing} is missing")
    kept = {name: array for name, array in arrays.items() if _group(name) not in reasons}
    return kept, [f"{reason}; {group} are left out" for group, reason in reasons.items()]


def _group(name: str) -> str:
    return name.partition(".")[0]


def _wrong(name: str, array: np.ndarray, lengths: Mapping[str, int]) -> str:
    """What is wrong with an array; "" if nothing, or if no shape is known for its name."""
    shapes = _shapes_of(name, lengths)
    if not shapes:
        return ""
    if array.shape not in shapes:
        return f"has the shape {array.shape}, expected {' or '.join(map(str, shapes))}"
    if array.dtype.kind not in "fiu":
        return f"is of type {array.dtype}, expected numbers"
    if array.size and not (np.isfinite(array).all() and abs(array.astype(np.float64)).max() <= LARGEST**2):
        return "holds values that are not finite"
    if name in _COUNTS and (array < 0).any():
        return "holds values below 0"
    if name in _FLAGS and (array > 1).any():
        return "holds values besides 0 and 1"
    return ""


def _shapes_of(name: str, lengths: Mapping[str, int]) -> list[tuple[int, ...]]:
    if name == "statistics.scatter":
        return [(lengths["K"], lengths["F"]), (lengths["K"], lengths["F"], lengths["F"])]
    return [tuple(lengths[axis] for axis in _SHAPES[name])] if name in _SHAPES else []
