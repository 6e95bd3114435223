"""Two methods on the same images: the uncertainty of their difference over images of the same kind. Ours.

`lag evaluate RUN --write` keeps each image's pixel counts in the run. A draw resamples the images with replacement,
the same for all runs, the windows of a tile together (lag_core/tiles.py). Each draw gives the mean over a method's
seeds, and the difference of two methods. p is twice the smaller share of draws on one side of 0, at least
2 / (draws + 1). It says nothing about another training; the paired test over seeds does (lag_core/groups.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lag_core.groups import Group
from lag_core.image_counts import DRAWS, LEVEL, ImageCounts
from lag_core.metrics import average, seen_only, summarise
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, RunError, read_tensors, write_tensors
from lag_core.tiles import by_tile, tiles_of

FILE = "image_counts.safetensors"
MEASURES = ("old_without_background", "old", "new", "all", "harmonic", "average")
"""What can be computed from right, true and predicted pixels; forgetting on fixed pixels needs whole matrices."""
MOST = 2**46
"""Largest count."""


@dataclass(frozen=True)
class Counted:
    """The pixel counts of a run by image."""

    run: Run
    images: tuple[str, ...]
    counts: np.ndarray
    """int64 [N, T, 3, K], as `ImageCounts.counts`."""


@dataclass(frozen=True)
class ImagePairing:
    """One method against another on the images that they share; fractions."""

    first: str
    second: str
    images: int
    """The number of drawn units: pictures, or tiles if windows were measured."""
    difference: float
    """Of the means over seeds, first - second, on all images."""
    low: float
    high: float
    p: float


def keep(run: Run, found: ImageCounts) -> None:
    """Write the counts into the run. OSError if they cannot be written."""
    ids = np.frombuffer("\n".join(found.by_image).encode("utf-8", "surrogateescape"), np.uint8)
    write_tensors(run.path / FILE, {"ids": ids, "counts": found.counts()})


def kept(run: Run) -> Counted:
    """The counts in the run. RunError if there are none, or if they do not add up to the run's stored metrics."""
    path = run.path / FILE
    command = f"`lag evaluate {run.path} --write` counts them"
    if not path.exists():
        raise RunError(f"{run.name} has no pixel counts of single images: {command}")
    arrays = read_tensors(path)
    try:
        ids = arrays["ids"].astype(np.uint8).tobytes().decode("utf-8", "surrogateescape").split("\n")
        counts = arrays["counts"]
    except (KeyError, ValueError):
        raise RunError(f"{path} holds no pixel counts: {command}") from None
    _check(run, ids, counts, command)
    return Counted(run, tuple(ids), counts)


def _check(run: Run, ids: Sequence[str], counts: np.ndarray, command: str) -> None:
    wanted = (len(ids), len(run.steps), 3, len(run.classes))
    whole = counts.dtype.kind in "iu" and counts.shape == wanted and len(set(ids)) == len(ids)
    if not whole or counts.size == 0 or counts.min() < 0 or counts.max() > MOST:
        raise RunError(f"the pixel counts of {run.name} do not fit the run: {command}")
    confusions = run.confusions()
    if confusions is None or not np.array_equal(counts.sum(0), _margins(confusions, run.labels)):
        raise RunError(f"the pixel counts of {run.name} are of another measurement than its metrics: {command}")


def _margins(confusions: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Right, true and called pixels. Shape: int64 [T, K, K] -> [T, 3, K]."""
    known = [seen_only(matrix, labels.seen(step)) for step, matrix in enumerate(confusions)]
    return np.array([[one.diagonal(), one.sum(1), one.sum(0)] for one in known])


def image_pairings(
    groups: Sequence[Group], counted: Sequence[Sequence[Counted]], measure: str, draws: int = DRAWS, seed: int = 0
) -> list[ImagePairing]:
    """Every two groups. `counted`: the runs of each.

    ValueError for a measure that single images have no counts for, and for runs of different images or truths.
    """
    if measure not in MEASURES:
        raise ValueError(f"over images, {', '.join(MEASURES)} can be tested, not {measure}")
    every = [one for group in counted for one in group]
    for one in every[1:]:
        _check_same_images(every[0], one)
    tiles = tiles_of(every[0].images)
    number = int(tiles.max()) + 1
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), draws)
    weights = np.concatenate([np.ones((1, number), np.int64), weights])  # the undrawn images come first
    drawn = [
        np.mean([_of_draws(one, by_tile(one.counts, tiles), weights, measure) for one in group], 0) for group in counted
    ]
    return [
        _paired(groups[i].name, groups[k].name, drawn[i] - drawn[k], number)
        for i, k in combinations(range(len(groups)), 2)
    ]


def _check_same_images(first: Counted, other: Counted) -> None:
    same = first.images == other.images and [c.name for c in first.run.classes] == [c.name for c in other.run.classes]
    if not same or not np.array_equal(first.counts[:, -1, 1], other.counts[:, -1, 1]):
        raise ValueError(f"{other.run.name} was measured on other images, or other truths, than {first.run.name}")


def _of_draws(counted: Counted, counts: np.ndarray, weights: np.ndarray, measure: str) -> np.ndarray:
    """The measure of each draw. Shape: int64 [N, T, 3, K], int [B, N] -> float64 [B]."""
    sums = (weights @ counts.reshape(len(counts), -1)).reshape(len(weights), *counts.shape[1:])
    right, true, called = (sums[:, :, i].astype(np.float64) for i in range(3))
    union = true + called - right
    ious = np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)
    return np.array([_measure(one, counted.run, measure) for one in ious])


def _measure(ious: np.ndarray, run: Run, measure: str) -> float:
    """As lag_core/comparison.py has it, from IoUs float64 [T, K]."""
    last = len(ious) - 1
    if measure == "average":
        return average(ious)
    grouped = last if len(run.labels.steps) > 1 else len(run.grouping.steps) - 1
    return float(getattr(summarise(ious[last], run.grouping, grouped), measure))


def _paired(first: str, second: str, differences: np.ndarray, images: int) -> ImagePairing:
    """`differences`: float64 [1 + B], that of all images first."""
    drawn = differences[1:][~np.isnan(differences[1:])]
    if not drawn.size:
        return ImagePairing(first, second, images, *(float("nan"),) * 4)
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    tail = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (len(drawn) + 1)
    return ImagePairing(
        first, second, images, float(differences[0]), float(low), float(high), min(1.0, 2 * float(tail))
    )


def image_cells(one: ImagePairing) -> list[str]:
    """A table's line, in points."""
    return [
        f"{one.first} - {one.second}", str(one.images), f"{100 * one.difference:+z.2f}",
        f"{100 * one.low:+z.2f} to {100 * one.high:+z.2f}", f"{one.p:.3g}",
    ]  # fmt: skip
