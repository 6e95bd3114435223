"""Where a loss lives: what each part of a network contributed to the change of a class's IoU. Pure NumPy.

A network has parts, such as `aspp` or `old heads`. For a set S of parts let v(S) be the IoU of a class by the hybrid
whose parts in S are as they are now and the others as they were then, on pixels that do not change. The share of a
part is its Shapley value in the game v. The shares add up to v(all) - v(none); a part that did not change gets exactly
0.

A *plan* says which sets are evaluated: all of them for up to EXACT parts, else the prefixes of sampled orders of the
parts, in antithetic pairs (an order and its reverse). A pair is one draw: its two orders are not independent, so the
error of a sampled share is that of a mean of pairs, as wide as Student's t asks for so few of them. v is a ratio of
pixel counts that are kept for each image, so that a bootstrap over images gives an interval for every share at no
further pass of a network.

Sources: Shapley, "A value for n-person games" (1953); Castro, Gómez and Tejada, "Polynomial calculation of the Shapley
value based on sampling" (2009); Student, "The probable error of a mean" (1908); Efron's percentile bootstrap, widened
for few images as in Hesterberg, "What teachers should know about the bootstrap" (2015). The parts and the game are ours
(docs/method.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

EXACT = 10
"""Most parts for which every hybrid is evaluated: all that a network of ours has. Six of them are features; the 64 maps
Z of these are what costs, and sampled orders would need nearly as many."""
ORDERS = 32
"""Antithetic pairs of orders that are sampled for more parts."""
NORMAL = 1.96
"""Half of a 95 % interval in standard errors of a normal distribution."""
REPEATS = 600
"""Bootstrap samples of the images."""
LEVEL = 0.95
"""Of the intervals."""

NEWLY = "newly counted pixels"
COMPETITION = "competition"
OLD_HEADS = "old heads"
UNKNOWN_HEAD = "unknown head"
ASPP = "aspp"
FEATURES = "features"
"""The one feature part of a network that names no stages: everything up to Z."""
OWN_HEAD = "head: "
"""In front of the class's name."""
BACKBONE = "backbone."
"""In front of a stage's name."""


def is_feature(part: str) -> bool:
    """Whether a part lies in front of the heads."""
    return part in (ASPP, FEATURES) or part.startswith(BACKBONE)


def is_head(part: str) -> bool:
    """Whether a part is a head: the class's own, those of other old classes, that of unknown and background."""
    return part in (OLD_HEADS, UNKNOWN_HEAD) or part.startswith(OWN_HEAD)


# ---------------------------------------------------------------------- which sets of parts


@dataclass(frozen=True)
class Plan:
    """Which sets of n parts are evaluated, and how the shares follow. A set is a bit mask: bit i is part i."""

    n: int
    orders: tuple[tuple[int, ...], ...]
    """Sampled orders of the parts, each followed by its reverse; empty where every set is evaluated."""
    also: tuple[int, ...] = ()
    """Sets that are evaluated besides, because they are shown."""

    @property
    def exact(self) -> bool:
        return not self.orders

    @cached_property
    def masks(self) -> tuple[int, ...]:
        """The sets that are evaluated, ascending; the empty one first, the full one last."""
        if self.exact:
            return tuple(range(2**self.n))
        found = {0, 2**self.n - 1, *self.also}
        for order in self.orders:
            found.update(itertools.accumulate((1 << part for part in order), int.__or__))
        return tuple(sorted(found))

    @cached_property
    def weights(self) -> np.ndarray:
        """Shares are these weights times the values of `masks`. Shape: float64 [n, M]."""
        return self._exact_weights() if self.exact else self.order_weights.mean(0)

    @cached_property
    def order_weights(self) -> np.ndarray:
        """The same for each antithetic pair of orders by itself. Shape: float64 [pairs, n, M]."""
        place = {mask: i for i, mask in enumerate(self.masks)}
        found = np.zeros((len(self.orders) // 2, self.n, len(self.masks)))
        for i, order in enumerate(self.orders):
            mask = 0
            for part in order:
                found[i // 2, part, place[mask | 1 << part]] += 0.5
                found[i // 2, part, place[mask]] -= 0.5
                mask |= 1 << part
        return found

    def _exact_weights(self) -> np.ndarray:
        found = np.zeros((self.n, 2**self.n))
        for part, mask in itertools.product(range(self.n), range(2**self.n)):
            if not mask >> part & 1:
                size = mask.bit_count()
                weight = math.factorial(size) * math.factorial(self.n - size - 1) / math.factorial(self.n)
                found[part, mask | 1 << part] += weight
                found[part, mask] -= weight
        return found

    @cached_property
    def pair_weights(self) -> np.ndarray:
        """Interactions of two parts, as weights. Shape: float64 [n, n, M]; 0 on the diagonal, NaN where not exact.

        Source: Grabisch and Roubens, "An axiomatic approach to the concept of interaction" (1999).
        """
        found = np.zeros((self.n, self.n, len(self.masks)))
        if not self.exact:
            return np.full_like(found, np.nan)
        for a, b in itertools.permutations(range(self.n), 2):
            both = 1 << a | 1 << b
            for mask in (m for m in self.masks if not m & both):
                size = mask.bit_count()
                weight = math.factorial(size) * math.factorial(self.n - size - 2) / math.factorial(self.n - 1)
                for other, sign in ((both, 1), (1 << a, -1), (1 << b, -1), (0, 1)):
                    found[a, b, mask | other] += sign * weight
        return found


def plan(parts: Sequence[str], orders: int = ORDERS, seed: int = 0) -> Plan:
    """The plan for these parts: every set for up to EXACT of them, else `orders` antithetic pairs of orders.

    The four sets of {features, heads} x {then, now} are always among those that are evaluated.
    """
    n = len(parts)
    if n <= EXACT:
        return _every_set(n)
    features = feature_mask(parts)
    both = (features, (2**n - 1) & ~features)
    return Plan(n, tuple(one for order in _drawn(n, orders, seed) for one in (order, order[::-1])), both)


@lru_cache(maxsize=EXACT + 1)
def _every_set(n: int) -> Plan:
    """The exact plan of n parts; its weights are found once."""
    return Plan(n, ())


def _drawn(n: int, pairs: int, seed: int) -> list[tuple[int, ...]]:
    """Orders of n parts of which none is another's reverse: all different as pairs, so that none counts twice."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < min(pairs, math.factorial(n) // 2):
        order = tuple(rng.permutation(n).tolist())
        if order[::-1] not in found:
            found[order] = None
    return list(found)


def feature_mask(parts: Sequence[str]) -> int:
    """The set of the feature parts."""
    return sum(1 << i for i, part in enumerate(parts) if is_feature(part))


# ---------------------------------------------------------------------- from counts to shares


@dataclass(frozen=True)
class Counts:
    """Pixels of one class by every hybrid of a plan, for each of N images.

    hits, called: int [N, M], pixels of the class that the hybrid finds, and pixels that it calls the class, both on
    the fixed pixels. true: int [N], pixels of the class. called_new: int [N], pixels of classes that came later which
    the full hybrid calls the class; they count in the papers' measure alone.
    """

    hits: np.ndarray
    called: np.ndarray
    true: np.ndarray
    called_new: np.ndarray

    def __len__(self) -> int:
        return len(self.true)


@dataclass(frozen=True)
class Estimate:
    """A number of IoU points with its 95 % interval over the images. NaN bounds: there is one image."""

    points: float
    low: float
    high: float

    @property
    def apart_from_zero(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Shares:
    """Which part contributed what to the change of a class's IoU, in points.

    start: IoU then. fixed: IoU now on the same pixels. end: IoU now as in the papers, where pixels of classes that came
    later count too. The parts add up to end - start; without NEWLY, to fixed - start.
    """

    step_from: int
    step_to: int
    start: float
    fixed: float
    end: float
    parts: tuple[str, ...]
    """NEWLY first; then in the network's order."""
    points: np.ndarray
    """float64 [P]."""
    repeats: np.ndarray
    """float [B, P + 3], the bootstrap's points, then its start, fixed and end, all widened for few images (`stretch`);
    B = 0 for one image."""
    error: np.ndarray
    """float64 [P], by sampling orders: half of a 95 % interval over NORMAL; 0 where every hybrid was evaluated."""
    interaction: np.ndarray
    """float64 [P, P], interactions of pairs; NaN where not every hybrid was evaluated."""
    corners: np.ndarray
    """float64 [2, 2], IoU points by {features, heads} x {then, now}: [features, heads]."""
    images: int
    exact: bool = True

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """By part."""
        return {part: self._estimate(part) for part in self.parts}

    def _estimate(self, part: str) -> Estimate:
        at = self.parts.index(part)
        return _interval(float(self.points[at]), self.repeats[:, at], float(self.error[at]))

    def group(self, parts: Sequence[str]) -> Estimate:
        """The sum of several parts. Its sampling error is taken as if the parts' errors were independent."""
        at = [self.parts.index(part) for part in parts]
        error = float(np.sqrt(np.square(self.error[at]).sum()))
        return _interval(float(self.points[at].sum()), self.repeats[:, at].sum(1), error)

    @property
    def features(self) -> Estimate:
        """All feature parts together."""
        return self.group([part for part in self.parts if is_feature(part)])

    @property
    def heads(self) -> Estimate:
        """All heads together, competition apart."""
        return self.group([part for part in self.parts if is_head(part)])

    @property
    def competition(self) -> Estimate:
        """What later classes took by competing."""
        return self.group([part for part in self.parts if part == COMPETITION])

    @property
    def newly(self) -> Estimate:
        """What counting pixels of later classes adds to the papers' measure."""
        return self.group([part for part in self.parts if part == NEWLY])

    @property
    def change(self) -> Estimate:
        """fixed - start."""
        width = len(self.parts)
        return _interval(self.fixed - self.start, self.repeats[:, width + 1] - self.repeats[:, width], 0.0)


def shares_of(
    counts: Counts,
    parts: Sequence[str],
    planned: Plan,
    steps: tuple[int, int],
    *,
    every: Sequence[str] = (),
    repeats: int = REPEATS,
    seed: int = 0,
) -> Shares:
    """Shares with their intervals from the pixel counts of every hybrid of a plan.

    `parts`: names of the plan's parts, those that changed. `every`: names of all parts in the order in which they are
    shown, those that did not change among them (their share is exactly 0).
    """
    values = _values(counts, np.ones((1, len(counts))))[0]
    weights = bootstrap_weights(len(counts), repeats, seed)
    drawn = _values(counts, weights)
    shown = (NEWLY, *(every or parts))
    place = [shown.index(part) for part in parts]
    points, error = np.zeros(len(shown)), np.zeros(len(shown))
    interaction = np.zeros((len(shown), len(shown)))
    points[place] = planned.weights @ values.sets
    if not planned.exact:
        error[place] = sampling_error(planned.order_weights @ values.sets)
    interaction[np.ix_(place, place)] = planned.pair_weights @ values.sets
    points[0] = values.end - values.sets[-1]
    kept = np.zeros((len(weights), len(shown) + 3))
    for row, one in enumerate(drawn):
        kept[row, place] = planned.weights @ one.sets
        kept[row, 0] = one.end - one.sets[-1]
        kept[row, -3:] = one.sets[0], one.sets[-1], one.end
    centre = np.array([*points, values.sets[0], values.sets[-1], values.end])
    kept = centre + stretch(int(np.count_nonzero(counts.true))) * (kept - centre)
    return Shares(
        step_from=steps[0],
        step_to=steps[1],
        start=float(values.sets[0]),
        fixed=float(values.sets[-1]),
        end=float(values.end),
        parts=tuple(shown),
        points=points,
        repeats=kept,
        error=error,
        interaction=interaction,
        corners=_corners(values.sets, parts, planned),
        images=len(counts),
        exact=planned.exact,
    )


def sampling_error(each: np.ndarray) -> np.ndarray:
    """Error of the mean of independent draws: NORMAL times it is half of a 95 % interval by Student's t.

    Shape: float [draws, n] -> float64 [n]. With few draws a normal quantile would promise too much.
    """
    return each.std(0, ddof=1) / math.sqrt(len(each)) * student(len(each) - 1) / NORMAL


def stretch(images: int) -> float:
    """How much wider the bootstrap's deviations must be where that many images show the class.

    A bootstrap of n images is too narrow by sqrt((n - 1) / n), and its quantiles are those of many images. With less
    than six images the factor is that of six: what so few images say cannot be mended by a factor.
    """
    n = max(images, 6)
    return math.sqrt(n / (n - 1)) * student(n - 1) / NORMAL


def student(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t, from 5 degrees of freedom on to 0.01.

    Source: the expansion of Fisher and Cornish, "The percentile points of distributions having known cumulants" (1960).
    """
    z, d = 1.959964, freedom
    terms = (
        (z**3 + z) / (4 * d),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3),
    )
    return z + sum(terms)


def bootstrap_weights(images: int, repeats: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each bootstrap sample. Shape: float64 [B, N]; [0, N] for a single image.

    The same for the same number of images and seed, so that two runs on one set of images are resampled alike.
    """
    if images < 2:
        return np.zeros((0, images))
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), repeats).astype(np.float64)


@dataclass(frozen=True)
class _Values:
    sets: np.ndarray
    """IoU points of each set of the plan, float64 [M]."""
    end: float


def _values(counts: Counts, weights: np.ndarray) -> list[_Values]:
    """IoUs with weighted images. Shape: float64 [B, N] -> B values. A class without a pixel has the IoU 0."""
    hits, called = weights @ counts.hits, weights @ counts.called
    true, extra = (weights @ counts.true)[:, None], weights @ counts.called_new
    union = true + called - hits
    ious = 100 * np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    whole = union[:, -1] + extra
    ends = 100 * np.divide(hits[:, -1], whole, out=np.zeros_like(whole), where=whole > 0)
    return [_Values(sets, float(end)) for sets, end in zip(ious, ends, strict=True)]


def _corners(values: np.ndarray, parts: Sequence[str], planned: Plan) -> np.ndarray:
    """IoU points of the four networks of {features, heads} x {then, now}. Shape: float64 [2, 2]."""
    features = feature_mask(parts)
    full = 2**planned.n - 1
    found = np.full((2, 2), np.nan)
    for now_features, now_heads in itertools.product((0, 1), repeat=2):
        mask = (features if now_features else 0) | (full & ~features if now_heads else 0)
        found[now_features, now_heads] = values[planned.masks.index(mask)]
    return found


def _interval(points: float, repeats: np.ndarray, error: float) -> Estimate:
    """Percentile bootstrap, widened by the sampling error of the orders (independent of the images)."""
    if not len(repeats):
        return Estimate(points, math.nan, math.nan)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(repeats, (tail, 1 - tail))
    sampled = NORMAL * error
    below, above = max(points - float(low), 0.0), max(float(high) - points, 0.0)
    return Estimate(points, points - math.hypot(below, sampled), points + math.hypot(above, sampled))


# ---------------------------------------------------------------------- as a waterfall


@dataclass(frozen=True)
class Bar:
    """One bar of a waterfall, in IoU points: from `base` to `tip`. kind: of an IoU ("level") or of a part ("part")."""

    name: str
    base: float
    tip: float
    kind: Literal["level", "part"]
    estimate: Estimate | None = None
    """Of a part: its points with their interval."""


def waterfall(shares: Shares, first: str, last: str) -> list[Bar]:
    """The IoU then, a bar for each part that changed something, the IoU now. Each bar begins where the last one ends.

    `first`, `last`: names of the two levels.
    """
    level = shares.start
    found = [Bar(first, 0.0, level, "level")]
    for part, one in shares.estimates.items():
        if one.points == 0 and not one.low < 0 < one.high:
            continue
        found.append(Bar(part, level, level + one.points, "part", one))
        level += one.points
    return [*found, Bar(last, 0.0, shares.end, "level")]


# ---------------------------------------------------------------------- beside another run

START = "start"
"""Part of a difference of shares: how much more or less the class had to begin with."""


def difference(own: Shares, other: Shares) -> Shares:
    """What sets two runs apart in a class, as the difference of their own shares, part by part.

    Always defined, also where the runs do not begin with the same network: then `start` takes what the class had more
    or less to begin with. start of the result is the other run's IoU now, end this run's, both as in the papers; the
    parts add up. The intervals are paired: both runs' images were resampled alike. ValueError for other images.
    """
    if own.images != other.images or len(own.repeats) != len(other.repeats):
        raise ValueError(f"shares of {own.images} and of {other.images} images cannot be compared")
    names = tuple(dict.fromkeys((NEWLY, START, *own.parts, *other.parts)))
    points, repeats = np.zeros(len(names)), np.zeros((len(own.repeats), len(names) + 3))
    error = np.zeros(len(names))
    for sign, one in ((1, own), (-1, other)):
        for at, part in enumerate(one.parts):
            points[names.index(part)] += sign * one.points[at]
            repeats[:, names.index(part)] += sign * one.repeats[:, at]
            error[names.index(part)] = math.hypot(error[names.index(part)], one.error[at])
    points[names.index(START)] = own.start - other.start
    repeats[:, names.index(START)] = own.repeats[:, -3] - other.repeats[:, -3]
    repeats[:, -3], repeats[:, -2], repeats[:, -1] = other.repeats[:, -1], own.repeats[:, -2], own.repeats[:, -1]
    empty = np.full((len(names), len(names)), np.nan)
    return Shares(
        step_from=other.step_to,
        step_to=own.step_to,
        start=other.end,
        fixed=own.fixed,
        end=own.end,
        parts=names,
        points=points,
        repeats=repeats,
        error=error,
        interaction=empty,
        corners=np.full((2, 2), np.nan),
        images=own.images,
        exact=own.exact and other.exact,
    )


# ---------------------------------------------------------------------- as JSON


def as_json(shares: Shares) -> dict[str, object]:
    """For summary.json: IoU points that add up to `to` - `from`; null where there is no interval."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "step_from": shares.step_from,
        "step_to": shares.step_to,
        "from": shares.start,
        "to": shares.end,
        "fixed": shares.fixed,
        "parts": {
            part: {"points": one.points, "low": number(one.low), "high": number(one.high)}
            for part, one in shares.estimates.items()
        },
        "images": shares.images,
        "exact": shares.exact,
    }
