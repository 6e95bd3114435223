"""95 % intervals: of means over pictures, and of counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 2000
"""Bootstrap samples."""


def mean_interval(values: Sequence[float], pictures: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """Mean, lower and upper bound of 95 %, by drawing pictures anew (percentile bootstrap).

    Values of one picture, of its several classes or steps, stay together, as they are not independent. With a single
    picture there are no bounds: NaN. ValueError for nothing at all.
    """
    if not len(values) or len(values) != len(pictures):
        raise ValueError(f"{len(values)} values of {len(pictures)} pictures: expected as many, and one at least")
    own = np.asarray(values, np.float64)
    names, member = np.unique(np.asarray(pictures), return_inverse=True)
    if len(names) == 1:
        return float(own.mean()), math.nan, math.nan
    sums, counts = np.bincount(member, own), np.bincount(member)
    drawn = np.random.default_rng(seed).integers(0, len(names), (DRAWS, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(own.mean()), float(low), float(high)


def binomial_interval(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Bounds of a share, Clopper and Pearson: the shares at which `hits` would not be surprising from either side."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _root(lambda p: _at_least(hits, trials, p) - tail)
    high = 1.0 if hits == trials else _root(lambda p: tail - (1 - _at_least(hits + 1, trials, p)))
    return low, high


def _at_least(hits: int, trials: int, p: float) -> float:
    """Probability of `hits` or more."""
    if p in (0.0, 1.0):
        return float(p == 1.0 or hits == 0)
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(i + 1)
        - math.lgamma(trials - i + 1)
        + i * math.log(p)
        + (trials - i) * math.log1p(-p)
        for i in range(hits, trials + 1)
    ]
    return math.fsum(map(math.exp, logs))


def _root(rising: Callable[[float], float]) -> float:
    """Where a rising function on 0..1 crosses zero, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
