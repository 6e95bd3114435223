"""Which channels of the latent map Z carry the old knowledge: distances, split, energy, gallery, orders.

Distances come from the run (analysis files, measured on the training images with the run's own metric), from
its survey (validation images, every metric) or from one image; the split follows from them by the rule of the
method (method.decoupling.ChannelScore.split). NumPy; torch is loaded for the distances of one image alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lag_core.explain.controls import alive
from lag_core.explain.latent_maps import on_image
from lag_core.runs import Run

if TYPE_CHECKING:
    from torch import Tensor

    from lag_core.explain.traced import Traced
    from lag_core.method.decoupling import Metric

Order = Literal["invariant", "changed", "relevance", "random"]
"""How channels are ranked: least moved first, most moved first, most relevant first, by chance."""

ROUNDING = 1e-5
"""Share of a channel's energy below which its variance is rounding: both were kept as float32."""

DEFINED_ABOVE = 1e-6
"""As method.decoupling.DEFINED_ABOVE: below it no channel has moved and a split is arbitrary."""


@dataclass(frozen=True)
class ChannelSplit:
    """A partition of the C channels of Z by their distance to the previous step. Source: docs/method.md#split."""

    distance: np.ndarray
    """float32 [C]."""
    invariant: np.ndarray
    """bool [C], the semantic-invariant channels; the others are sample-specific."""
    rho: float
    """Share of invariant channels that was asked for."""
    cut: float
    """Largest distance of an invariant channel; NaN if there is none."""
    defined: bool
    """False while no channel has moved: the order is then arbitrary."""

    @property
    def specific(self) -> np.ndarray:
        """bool [C], the sample-specific channels."""
        return ~self.invariant

    @property
    def order(self) -> np.ndarray:
        """int64 [C], channels by ascending distance, equal ones in channel order."""
        return np.argsort(self.distance, kind="stable")

    @property
    def curve(self) -> np.ndarray:
        """float32 [C], the sorted distances; the first round(rho * C) are those of the invariant channels."""
        return self.distance[self.order]


def split(distance: np.ndarray, rho: float) -> ChannelSplit:
    """The round(rho * C) channels with the smallest distance as invariant.

    Shape: float [C]. ValueError for a rho outside 0..1.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho = {rho}: the share of invariant channels must lie in 0..1")
    values = np.asarray(distance, np.float32)
    chosen = np.argsort(values, kind="stable")[: round(rho * len(values))]
    invariant = np.zeros(len(values), bool)
    invariant[chosen] = True
    cut = float(values[chosen[-1]]) if len(chosen) else float("nan")
    return ChannelSplit(values, invariant, rho, cut, bool(values.max(initial=0) >= DEFINED_ABOVE))


def run_distances(run: Run) -> np.ndarray:
    """Distances stored by training, with the metric method.channel_metric on each step's training images.

    Shape: float32 [T - 1, C], row t is of step t + 1 to step t; NaN where a step left none; [0, 0] for a
    single step.
    """
    rows = [run.analysis(step).get("channels.distance") for step in range(1, len(run.steps))]
    width = max((len(row) for row in rows if row is not None), default=0)
    missing = np.full(width, np.nan, np.float32)
    return np.array([missing if row is None else row for row in rows], np.float32).reshape(len(rows), width)


def image_distances(trace: Traced, step: int, source: int, metric: Metric = "entropy_kl") -> np.ndarray:
    """Distance of each channel from step `source` to `step` on one image. Shape: float32 [C]. Loads torch."""
    return latent_distances(trace.run, trace.output(source).latent, trace.output(step).latent, metric)


def latent_distances(run: Run, old: Tensor, new: Tensor, metric: Metric | None = None) -> np.ndarray:
    """Distance of each channel between two latent maps of the same images; default: by the run's own metric.

    Shape: twice [B, C, h, w] -> float32 [C]. Loads torch.
    """
    from lag_core.method.decoupling import channel_distance

    distance = channel_distance(old, new, metric or metric_of(run), seed=run.config.optim.seed)
    return distance.cpu().numpy().astype(np.float32)


def metric_of(run: Run) -> Metric:
    """The channel metric that the run was trained with; the default for runs whose split was drawn at random."""
    chosen: Metric = run.config.method.channel_metric
    return "entropy_kl" if chosen == "random" else chosen


@dataclass(frozen=True)
class Moved:
    """The channels of Z between two steps on one picture, and where each group is active."""

    source: int
    """The earlier step."""
    split: ChannelSplit
    invariant: np.ndarray
    """float32 [H, W], mean of Z^2 of the later step over the invariant channels."""
    specific: np.ndarray
    """float32 [H, W], the same of the others."""


def moved(trace: Traced, step: int, source: int) -> Moved:
    """Distance, split and energy maps of one image, with the metric and the share of the run. Loads torch."""
    found = split(image_distances(trace, step, source, metric_of(trace.run)), trace.run.config.method.rho)
    latent = trace.latent(step)
    maps = np.stack([energy_map(latent, group) for group in (found.invariant, found.specific)])
    invariant, specific = on_image(maps, trace.square, trace.inside, trace.size)
    return Moved(source, found, invariant, specific)


def run_splits(run: Run) -> tuple[ChannelSplit | None, ...]:
    """The split stored by training at each step from 1 on (`run_distances`); None for a step without one."""
    rho = run.config.method.rho
    return tuple(None if np.isnan(row).any() or not len(row) else split(row, rho) for row in run_distances(run))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Shared over all members of two channel sets, bool [C]; NaN if both are empty. Source: docs/method.md#channels."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def stability(distances: np.ndarray, rho: float) -> np.ndarray:
    """Jaccard index of each step's invariant channels with those of the previous step.

    Compare it with `chance_jaccard`: two random halves share a third.

    Shape: float [T - 1, C] distances of steps 1..T-1 -> float64 [T - 2], of steps 2..T-1.
    """
    sets = [split(row, rho).invariant for row in distances]
    return np.array([jaccard(a, b) for a, b in itertools.pairwise(sets)])


def chance_jaccard(channels: int, rho: float) -> float:
    """Expected Jaccard index of two independent random sets of round(rho * channels);

    NaN if they are empty.
    """
    k = round(rho * channels)
    if not k:
        return float("nan")
    low = max(0, 2 * k - channels)
    ways = [comb(k, shared) * comb(channels - k, k - shared) for shared in range(low, k + 1)]
    return sum(w * s / (2 * k - s) for w, s in zip(ways, range(low, k + 1), strict=True)) / sum(ways)


def energy_map(latent: np.ndarray, channels: np.ndarray, power: Literal[1, 2] = 2) -> np.ndarray:
    """Mean over a group of channels of Z (power 1) or Z^2 (power 2); 0 everywhere for an empty group.

    Shape: Z float [C, h, w], channels bool [C] or indices [n] -> float32 [h, w]. Source: docs/method.md#channels.
    """
    chosen = np.asarray(latent[channels], np.float64) ** power
    if not len(chosen):
        return np.zeros(latent.shape[1:], np.float32)
    return chosen.mean(0).astype(np.float32)


def energy_share(energy: np.ndarray, channels: np.ndarray) -> float:
    """The group's part of the energy: sum over it of ||Z_c||^2, over that of all channels; NaN if Z is 0.

    Shape: energy float [C] (`channel_energy`, or a survey's), channels bool [C] or indices. Source:
    docs/method.md#channels.
    """
    total = float(np.sum(energy, dtype=np.float64))
    return float(np.sum(energy[channels], dtype=np.float64)) / total if total > 0 else float("nan")


def channel_energy(latent: np.ndarray) -> np.ndarray:
    """Mean of Z^2 of each channel over the cells. Shape: float [C, h, w] -> float64 [C]."""
    return np.square(latent.reshape(len(latent), -1), dtype=np.float64).mean(1)


@dataclass(frozen=True)
class GalleryEntry:
    """One channel's activation maps at two steps, to be drawn side by side with one scale."""

    channel: int
    old: np.ndarray
    """float32 [h, w], at the earlier step."""
    new: np.ndarray
    """float32 [h, w], at the later step."""
    distance: float
    """As given; NaN without."""
    low: float
    """Common start of the scale: 0, or -`high` where a map is negative somewhere (Z of a network without ReLU)."""
    high: float
    """Common end of the scale: the largest absolute value of both maps."""


def gallery(
    old: np.ndarray, new: np.ndarray, channels: Sequence[int] | np.ndarray, distance: np.ndarray | None = None
) -> list[GalleryEntry]:
    """Old beside new for some channels, in their order.

    Shape: Z float32 [C, h, w] of the earlier and the later step, distance float [C].
    """
    entries = []
    for channel in map(int, channels):
        moved = float("nan") if distance is None else float(distance[channel])
        pair = old[channel], new[channel]
        entries.append(GalleryEntry(channel, *pair, moved, *scale(pair)))
    return entries


def scale(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """One scale for activation maps: from 0 to the largest value, symmetric about 0 where any value is negative."""
    high = max(float(np.abs(one).max(initial=0.0)) for one in maps)
    return (-high if any((one < 0).any() for one in maps) else 0.0), high


# ---------------------------------------------------------------------- living and dead


@dataclass(frozen=True)
class Living:
    """Which channels are alive at an earlier and a later step."""

    before: np.ndarray
    """bool [C]."""
    now: np.ndarray
    """bool [C]."""

    @property
    def total(self) -> int:
        """C."""
        return len(self.now)

    @property
    def died(self) -> np.ndarray:
        """bool [C], alive at the earlier step and not at the later one."""
        return self.before & ~self.now

    @property
    def either(self) -> np.ndarray:
        """bool [C], alive at one of the steps: what a transplant can change."""
        return self.before | self.now

    def words(self, source: int, step: int) -> str:
        """What happened from step `source` to `step`, as a sentence's core: "70 of 96 channels died by step 1"."""
        when = f"at step {step}" if step == source + 1 else f"between steps {source} and {step}"
        count = int(self.died.sum())
        if not count:
            return f"no channel died {when}"
        return f"{count} of {self.total} channels died {when}"


def living(before: np.ndarray, now: np.ndarray) -> Living:
    """By Z of the same pictures at two steps: a channel that is constant over pictures and places is not alive.

    Shape: twice [N, C, h, w].
    """
    return Living(alive(before), alive(now))


def living_by_moments(mean: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """The same from a survey's numbers: constant where the mean of Z^2 is the square of the mean, within rounding.

    Shape: float [..., C] twice -> bool [..., C].
    """
    spread = energy.astype(np.float64) - np.square(mean, dtype=np.float64)
    return spread > ROUNDING * energy


def ranked(order: Order, values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every channel, the first to be taken first; equal values in channel order.

    `values` [C] are distances for "invariant" and "changed", relevance (its absolute value counts) for
    "relevance"; for "random" only their number counts, and `seed` decides.

    Returns int64 [C]. ValueError for another order or for values that are not finite.
    """
    if order not in get_args(Order):
        raise ValueError(f"channel order {order!r}: known are {', '.join(get_args(Order))}")
    if order == "random":
        return np.random.default_rng(seed).permutation(len(values))
    if not np.isfinite(values).all():
        raise ValueError(f"channels cannot be ranked by {order}: some of the values are not finite")
    keys = {"invariant": values, "changed": -values, "relevance": -np.abs(values)}
    return np.argsort(keys[order], kind="stable")
