"""Shares: what each part of a network contributed to the change of a class's IoU. Pure NumPy.

A network has parts, such as `aspp` or `old heads`. For a set S of parts let v(S) be the IoU of a class by the hybrid
whose parts in S are as they are now and the others as they were then, on pixels that do not change. The share of a
part is its Shapley value in the game v. The shares add up to v(all) - v(none); a part that did not change gets exactly
0.

A *plan* says which sets are evaluated: all of them for up to EXACT parts, else the prefixes of sampled orders of the
parts, in antithetic pairs (an order and its reverse). A pair is one draw: its two orders are not independent, so the
error of a sampled share is that of a mean of pairs, as wide as Student's t asks for so few of them. v is a ratio of
pixel counts that are kept for each image, so that a bootstrap over images gives an interval for every share at no
further pass of a network. Where the images are windows, whole tiles are drawn (lag_core/tiles.py).

Sources: Shapley, "A value for n-person games" (1953); Castro, Gómez and Tejada, "Polynomial calculation of the Shapley
value based on sampling" (2009); Student, "The probable error of a mean" (1908); Efron's percentile bootstrap, widened
for few images as in Hesterberg, "What teachers should know about the bootstrap" (2015), with the degrees of freedom of
Satterthwaite, "An approximate distribution of estimates of variance components" (1946). The parts and the game are ours
(docs/method.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np

from lag_core.tiles import by_tile

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
TINY = 1e-24
"""Fourth power of points that come from rounding alone."""
LEAST_SHOWING = 5
"""Images that must show a class for intervals: of fewer, the bootstrap's interval can reach beyond 0 and 100."""

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
START = "start"
"""Part of a difference of shares: the difference in the class's initial IoU."""


def is_feature(part: str) -> bool:
    """Whether a part lies in front of the heads."""
    return part in (ASPP, FEATURES) or part.startswith(BACKBONE)


def is_head(part: str) -> bool:
    """Whether a part is a head: the class's own, those of other old classes, that of unknown and background."""
    return part in (OLD_HEADS, UNKNOWN_HEAD) or part.startswith(OWN_HEAD)


PART_WORDS: dict[str, str] = {
    NEWLY: "newly counted pixels",
    START: "what it began with",
    ASPP: "features: ASPP",
    FEATURES: "features",
    OLD_HEADS: "other old heads",
    UNKNOWN_HEAD: "unknown/background head",
    COMPETITION: "newer classes compete",
}
"""Parts as a reader sees them; `part_words` has those with a name of their own as well."""


def part_words(part: str) -> str:
    """A part as a reader sees it. The name of a class is untrusted text."""
    if part.startswith(OWN_HEAD):
        return f"head of {part.removeprefix(OWN_HEAD)}"
    if part.startswith(BACKBONE):
        return f"features: {part.removeprefix(BACKBONE)}"
    return PART_WORDS.get(part, part)


# ---------------------------------------------------------------------- which sets of parts


@dataclass(frozen=True)
class Plan:
    """Which sets of n parts are evaluated, and how the shares follow. A set is a bit mask: bit i is part i."""

    n: int
    orders: tuple[tuple[int, ...], ...]
    """Sampled orders of the parts, each followed by its reverse; empty where every set is evaluated."""
    also: tuple[int, ...] = ()
    """Additional sets that are evaluated because they are shown."""

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

    def by_tile(self, tiles: np.ndarray) -> Counts:
        """The same for whole tiles instead of their windows. Shape: int64 [N], place of each image's tile."""
        return Counts(*(by_tile(one, tiles) for one in (self.hits, self.called, self.true, self.called_new)))


@dataclass(frozen=True)
class Estimate:
    """A number of IoU points with its 95 % interval over the images. NaN bounds: too few images show the class."""

    points: float
    low: float
    high: float


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
    """float [B, P + 3], the bootstrap's points, then its start, fixed and end. Without intervals: B = 0 for one
    image, NaN where too few images show the class."""
    factor: np.ndarray
    """float64 [P + 3], how much wider than the bootstrap's each interval must be, as few images carry it."""
    error: np.ndarray
    """float64 [P], by sampling orders: half of a 95 % interval over NORMAL; 0 where every hybrid was evaluated."""
    interaction: np.ndarray
    """float64 [P, P], interactions of pairs; NaN where not every hybrid was evaluated."""
    corners: np.ndarray
    """float64 [2, 2], IoU points by {features, heads} x {then, now}: [features, heads]."""
    images: int
    exact: bool = True

    @property
    def has_intervals(self) -> bool:
        """Whether enough images show the class (LEAST_SHOWING)."""
        return len(self.repeats) > 0 and not np.isnan(self.repeats[0, 0])

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """By part."""
        return {part: self._estimate(part) for part in self.parts}

    def _estimate(self, part: str) -> Estimate:
        return self.group([part])

    def group(self, parts: Sequence[str]) -> Estimate:
        """The sum of several parts. Its sampling error is taken as if the parts' errors were independent."""
        at = [self.parts.index(part) for part in parts]
        error = float(np.sqrt(np.square(self.error[at]).sum()))
        return _interval(float(self.points[at].sum()), self.repeats[:, at].sum(1), self._factor(at), error)

    @cached_property
    def features(self) -> Estimate:
        """All feature parts together."""
        return self.group([part for part in self.parts if is_feature(part)])

    @cached_property
    def heads(self) -> Estimate:
        """All heads together, competition apart."""
        return self.group([part for part in self.parts if is_head(part)])

    @cached_property
    def competition(self) -> Estimate:
        """What later classes took by competing."""
        return self.group([part for part in self.parts if part == COMPETITION])

    @cached_property
    def newly(self) -> Estimate:
        """What counting pixels of later classes adds to the papers' measure."""
        return self.group([part for part in self.parts if part == NEWLY])

    @cached_property
    def change(self) -> Estimate:
        """fixed - start."""
        start, fixed = len(self.parts), len(self.parts) + 1
        drawn = self.repeats[:, fixed] - self.repeats[:, start]
        return _interval(self.fixed - self.start, drawn, self._factor([start, fixed]), 0.0)

    def _factor(self, columns: Sequence[int]) -> float:
        """Of a sum or difference of columns: that of the widened variances to the plain ones."""
        variance = self.repeats[:, columns].var(0) if len(self.repeats) else np.zeros(len(columns))
        plain = float(variance.sum())
        return math.sqrt(float(np.square(self.factor[columns]) @ variance) / plain) if plain > 0 else 1.0


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
    values = _ious(_sums(counts, np.ones((1, len(counts)))))
    weights = bootstrap_weights(len(counts), repeats, seed)
    shown = (NEWLY, *(every or parts))
    place = [shown.index(part) for part in parts]
    error = np.zeros(len(shown))
    interaction = np.zeros((len(shown), len(shown)))
    centre = _columns(values, planned, place, len(shown))[0]
    if not planned.exact:
        error[place] = sampling_error(planned.order_weights @ values.sets[0])
    interaction[np.ix_(place, place)] = planned.pair_weights @ values.sets[0]
    kept = _columns(_ious(_sums(counts, weights)), planned, place, len(shown))
    if np.count_nonzero(counts.true) < LEAST_SHOWING:
        kept = np.full_like(kept, np.nan)
    without = _columns(_ious(_sums_without_one(counts)), planned, place, len(shown))
    return Shares(
        step_from=steps[0],
        step_to=steps[1],
        start=float(centre[-3]),
        fixed=float(centre[-2]),
        end=float(centre[-1]),
        parts=tuple(shown),
        points=centre[:-3],
        repeats=kept,
        factor=stretch(without),
        error=error,
        interaction=interaction,
        corners=_corners(values.sets[0], parts, planned),
        images=len(counts),
        exact=planned.exact,
    )


def sampling_error(each: np.ndarray) -> np.ndarray:
    """Error of the mean of independent draws: NORMAL times it is half of a 95 % interval by Student's t.

    Shape: float [draws, n] -> float64 [n]. With few draws a normal quantile would be too narrow.
    """
    return each.std(0, ddof=1) / math.sqrt(len(each)) * float(student(np.array(len(each) - 1))) / NORMAL


def stretch(without: np.ndarray) -> np.ndarray:
    """How much wider the bootstrap's deviations of each number must be, by how few images carry it.

    `without`: the numbers without one of the n images, in turn. The images that matter are (sum d^2)^2 / sum d^4 of
    their deviations d: k where k images matter alike and the others not at all. The variance of so few is itself
    uncertain: Student's t with Satterthwaite's degrees of freedom replaces the normal quantile, and sqrt(n / (n - 1))
    is what a bootstrap of n images is too narrow by. A number that no image changes keeps the factor 1.

    Shape: float [n, P] -> float64 [P], at least 1.
    """
    squares = np.square(without - without.mean(0))
    fourth, n = np.square(squares).sum(0), len(without)
    moved = (fourth > TINY) & (n > 1)
    carrying = np.square(squares.sum(0)[moved]) / fourth[moved]
    factor = np.ones(without.shape[1])
    freedom = 2 / np.maximum(1 / carrying - 1 / n, 1 / n**2)
    factor[moved] = math.sqrt(n / max(n - 1, 1)) * student(freedom) / NORMAL
    return factor


def student(freedom: np.ndarray) -> np.ndarray:
    """Two-sided 95 % quantiles of Student's t, from 2 degrees of freedom on to 0.05, from 5 on to 0.002.

    Source: the expansion of Fisher and Cornish, "The percentile points of distributions having known cumulants" (1960).
    """
    z, d = 1.959964, np.asarray(freedom, np.float64)
    terms = (
        (z**3 + z) / (4 * d),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * d**4),
    )
    return z + np.add.reduce(terms)


def bootstrap_weights(images: int, repeats: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each bootstrap sample. Shape: float64 [B, N]; [0, N] for a single image.

    The same for the same number of images and seed, so that two runs on one set of images are resampled alike.
    """
    if images < 2:
        return np.zeros((0, images))
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), repeats).astype(np.float64)


class _Sums(NamedTuple):
    """Pixel counts over several images, for each of B sets of them: hits and called [B, M], true and called_new [B]."""

    hits: np.ndarray
    called: np.ndarray
    true: np.ndarray
    called_new: np.ndarray


def _sums(counts: Counts, weights: np.ndarray) -> _Sums:
    """Of images that count `weights` times. Shape: float64 [B, N] -> B sums."""
    return _Sums(weights @ counts.hits, weights @ counts.called, weights @ counts.true, weights @ counts.called_new)


def _sums_without_one(counts: Counts) -> _Sums:
    """Of all images but one, each in turn."""
    every = (counts.hits, counts.called, counts.true, counts.called_new)
    return _Sums(*(one.sum(0) - one for one in every))


class _Ious(NamedTuple):
    """IoU points of each set of the plan, float64 [B, M], and of the full one as the papers count it, [B]."""

    sets: np.ndarray
    end: np.ndarray


def _ious(sums: _Sums) -> _Ious:
    """A class without a pixel has the IoU 0."""
    union = sums.true[:, None] + sums.called - sums.hits
    ious = 100 * np.divide(sums.hits, union, out=np.zeros(union.shape), where=union > 0)
    whole = union[:, -1] + sums.called_new
    ends = 100 * np.divide(sums.hits[:, -1], whole, out=np.zeros(whole.shape), where=whole > 0)
    return _Ious(ious, ends)


def _columns(values: _Ious, planned: Plan, place: Sequence[int], shown: int) -> np.ndarray:
    """Points of the parts that are shown, NEWLY first, then start, fixed and end. Shape: B values -> [B, shown + 3]."""
    found = np.zeros((len(values.end), shown + 3))
    found[:, place] = values.sets @ planned.weights.T
    found[:, 0] = values.end - values.sets[:, -1]
    found[:, -3:] = np.stack([values.sets[:, 0], values.sets[:, -1], values.end], 1)
    return found


def _corners(values: np.ndarray, parts: Sequence[str], planned: Plan) -> np.ndarray:
    """IoU points of the four networks of {features, heads} x {then, now}. Shape: float64 [2, 2]."""
    features = feature_mask(parts)
    full = 2**planned.n - 1
    found = np.full((2, 2), np.nan)
    for now_features, now_heads in itertools.product((0, 1), repeat=2):
        mask = (features if now_features else 0) | (full & ~features if now_heads else 0)
        found[now_features, now_heads] = values[planned.masks.index(mask)]
    return found


def _interval(points: float, repeats: np.ndarray, factor: float, error: float) -> Estimate:
    """Bootstrap, `factor` times as wide, and widened by the sampling error of the orders (independent of the images).

    Both sides are as wide as the wider one of the two percentiles: where few images carry a number, those that a sample
    missed lie beyond its shorter side.
    """
    if not len(repeats) or np.isnan(repeats[0]):
        return Estimate(points, math.nan, math.nan)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(repeats, (tail, 1 - tail))
    half = math.hypot(factor * max(points - float(low), float(high) - points, 0.0), NORMAL * error)
    return Estimate(points, points - half, points + half)


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


def difference(own: Shares, other: Shares) -> Shares:
    """How two runs differ in a class: the difference of their own shares, part by part.

    Always defined, even if the runs do not begin with the same network: then `start` is the difference in the class's
    initial IoU. start of the result is the other run's IoU now, end this run's, both as in the papers; the
    parts add up. The intervals are paired: both runs' images were resampled alike. ValueError for other images.
    """
    if own.images != other.images or len(own.repeats) != len(other.repeats):
        raise ValueError(f"shares of {own.images} and of {other.images} images cannot be compared")
    names = tuple(dict.fromkeys((NEWLY, START, *own.parts, *other.parts)))
    points, repeats = np.zeros(len(names)), np.zeros((len(own.repeats), len(names) + 3))
    error, factor = np.zeros(len(names)), np.ones(len(names) + 3)
    for sign, one in ((1, own), (-1, other)):
        for at, part in enumerate(one.parts):
            points[names.index(part)] += sign * one.points[at]
            repeats[:, names.index(part)] += sign * one.repeats[:, at]
            factor[names.index(part)] = max(factor[names.index(part)], one.factor[at])
            error[names.index(part)] = math.hypot(error[names.index(part)], one.error[at])
    points[names.index(START)] = own.start - other.start
    repeats[:, names.index(START)] = own.repeats[:, -3] - other.repeats[:, -3]
    factor[names.index(START)] = max(own.factor[-3], other.factor[-3])
    repeats[:, -3], repeats[:, -2], repeats[:, -1] = other.repeats[:, -1], own.repeats[:, -2], own.repeats[:, -1]
    factor[-3:] = other.factor[-1], *own.factor[-2:]
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
        factor=factor,
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
