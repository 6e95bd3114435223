"""Windows by the tile that they were cut from. Pure NumPy. Ours.

A large picture is measured window by window (`data.fit = "windows"`, lag_core/data/windows.py). Windows of one tile
resemble one another, so intervals over pictures resample whole tiles: Davison and
Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_NAME = re.compile(r"(.+)@(\d+),(\d+)", re.DOTALL)


def window_name(tile: str, top: int, left: int) -> str:
    """A window's name."""
    return f"{tile}@{top},{left}"


def named(name: str) -> tuple[str, int, int] | None:
    """(tile, row, column) of a window's name; None for other names."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found and len(found[2]) < 10 and len(found[3]) < 10 else None


def tiles_of(names: Sequence[str]) -> np.ndarray:
    """Place of each image's tile among the tiles, in order of appearance. A picture that is no window is its own tile.

    Shape: int64 [N].
    """
    places: dict[str, int] = {}
    owners = ((name if (window := named(name)) is None else window[0]) for name in names)
    return np.array([places.setdefault(owner, len(places)) for owner in owners], np.int64)


def tiles_in(names: Sequence[str]) -> int:
    """How many tiles there are."""
    return int(tiles_of(names).max(initial=-1)) + 1


def by_tile(counts: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Counts of each tile, the sums over its windows. Shape: [N, ...], int64 [N] -> [tiles, ...]."""
    found = np.zeros((int(tiles.max(initial=-1)) + 1, *counts.shape[1:]), counts.dtype)
    np.add.at(found, tiles, counts)
    return found
