"""Shares against a slow, obvious second implementation, and against what a share must be by definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lag_core.explain import shares as module
from lag_core.explain.shares import (
    COMPETITION,
    LEAST_SHOWING,
    NEWLY,
    OLD_HEADS,
    START,
    UNKNOWN_HEAD,
    Counts,
    Plan,
    Shares,
    as_json,
    bootstrap_weights,
    difference,
    plan,
    shares_of,
)

PARTS = ("aspp", "head: dog", OLD_HEADS, UNKNOWN_HEAD, COMPETITION)
MANY = (*(f"backbone.layer{i}" for i in range(1, 5)), *PARTS)


def counts_of(
    parts: tuple[str, ...],
    images: int = 12,
    seed: int = 0,
    idle: int | None = None,
    masks: tuple[int, ...] | None = None,
) -> Counts:
    """Random counts of every hybrid of a plan; hybrids that differ in part `idle` alone are equal."""
    rng = np.random.default_rng(seed)
    masks = masks or plan(parts).masks
    true = rng.integers(50, 200, images)
    by_mask: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    hits, called = [], []
    for mask in masks:
        key = mask if idle is None else mask & ~(1 << idle)
        if key not in by_mask:
            found = (true * rng.uniform(0.2, 0.9, images)).astype(int)
            by_mask[key] = found, found + rng.integers(0, 60, images)
        hits.append(by_mask[key][0])
        called.append(by_mask[key][1])
    return Counts(np.stack(hits, 1), np.stack(called, 1), true, rng.integers(0, 30, images))


def value(counts: Counts, column: int) -> float:
    hits, called, true = counts.hits[:, column].sum(), counts.called[:, column].sum(), counts.true.sum()
    return 100 * hits / (true + called - hits)


def by_orders(counts: Counts, parts: tuple[str, ...]) -> np.ndarray:
    """Mean over every order of the parts of what each part adds when its turn comes."""
    masks = plan(parts).masks
    found = np.zeros(len(parts))
    orders = list(itertools.permutations(range(len(parts))))
    for order in orders:
        mask = 0
        for part in order:
            after = mask | 1 << part
            found[part] += value(counts, masks.index(after)) - value(counts, masks.index(mask))
            mask = after
    return found / len(orders)


def test_shares_are_the_mean_over_every_order() -> None:
    counts = counts_of(PARTS)
    found = shares_of(counts, PARTS, plan(PARTS), (0, 2))
    assert found.exact and found.points[1:] == pytest.approx(by_orders(counts, PARTS), abs=1e-9)


@pytest.mark.parametrize("parts", [PARTS, MANY])
def test_shares_add_up(parts: tuple[str, ...]) -> None:
    counts = counts_of(parts)
    found = shares_of(counts, parts, plan(parts), (0, 1))
    assert abs(found.points.sum() - (found.end - found.start)) < 1e-6
    assert abs(found.points[1:].sum() - (found.fixed - found.start)) < 1e-6
    assert found.start == pytest.approx(value(counts, 0)) and found.fixed == pytest.approx(value(counts, -1))
    sums = found.repeats[:, : len(found.parts)].sum(1)
    assert np.allclose(sums, found.repeats[:, -1] - found.repeats[:, -3], atol=1e-6)


@pytest.mark.parametrize(("parts", "idle"), [(PARTS, 1), (MANY, 6)])
def test_a_part_without_effect_gets_exactly_nothing(parts: tuple[str, ...], idle: int) -> None:
    found = shares_of(counts_of(parts, idle=idle), parts, plan(parts), (0, 1))
    assert found.estimates[parts[idle]].points == pytest.approx(0, abs=1e-9)


def test_a_part_that_did_not_change_is_shown_with_zero() -> None:
    found = shares_of(counts_of(PARTS), PARTS, plan(PARTS), (0, 1), every=("backbone.stem", *PARTS))
    none = found.estimates["backbone.stem"]
    assert (none.points, none.low, none.high) == (0, 0, 0)


def saturating(n: int, seed: int) -> np.ndarray:
    """IoUs of every set of n parts that take something away each, the more the less is gone. Shape: float64 [2^n]."""
    rng = np.random.default_rng(seed)
    takes = rng.exponential(rng.choice([0.2, 1.0, 3.0], n))
    sets = np.arange(2**n)[:, None] >> np.arange(n) & 1
    return 60 / (1 + np.exp(sets @ takes - 2)) + rng.normal(0, 0.3, 2**n)


def sampled_gaps(game: np.ndarray, first: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """|sampled - exact| over the stated error, for every part and 25 draws of orders, seeds from `first` on."""
    n = int(np.log2(len(game)))
    exact = Plan(n, ()).weights @ game
    monkeypatch.setattr(module, "EXACT", 2)
    found: list[float] = []
    for seed in range(first, first + 25):
        planned = plan(tuple("abcdefg"[:n]), seed=seed)
        each = planned.order_weights @ game[list(planned.masks)]
        found += (np.abs(each.mean(0) - exact) / module.sampling_error(each)).tolist()
    return found


@pytest.mark.parametrize("n", [5, 7])
def test_sampled_shares_lie_inside_their_stated_error(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = np.concatenate([sampled_gaps(saturating(n, seed), 25 * seed, monkeypatch) for seed in range(12)])
    assert np.mean(gaps <= module.NORMAL) >= 0.94 and gaps.max() < 6


def test_the_stated_error_of_few_draws_is_students() -> None:
    """Normal draws, five of which say little: the interval holds the mean in 95 of 100 cases, not in 88."""
    draws = np.random.default_rng(0).normal(0, 1, (8, 20_000))
    inside = np.abs(draws.mean(0)) <= module.NORMAL * module.sampling_error(draws)
    assert inside.mean() == pytest.approx(0.95, abs=0.005)
    assert module.student(np.array([2, 3])) == pytest.approx([4.3027, 3.1824], abs=0.05)
    quantiles = module.student(np.array([5, 7, 15, 31, 1000]))
    assert quantiles == pytest.approx([2.5706, 2.3646, 2.1314, 2.0395, 1.9623], abs=0.002)


def test_sampled_pairs_are_all_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that is drawn twice says nothing new, and all alike would state an error of 0."""
    monkeypatch.setattr(module, "EXACT", 2)
    for parts, pairs in (("abc", 3), ("abcd", 12), ("abcdefg", 32)):
        orders = plan(tuple(parts)).orders
        assert len(set(orders)) == len(orders) == 2 * pairs


def test_parts_of_a_whole_network_are_exact() -> None:
    whole = (*(f"backbone.{name}" for name in ("stem", "layer1", "layer2", "layer3", "layer4")), *PARTS)
    assert plan(whole).exact and len(plan(whole).masks) == 2**10


def test_shares_by_sampled_orders_state_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT", 6)
    planned = plan(MANY)
    sampled = shares_of(counts_of(MANY, masks=planned.masks), MANY, planned, (0, 1), repeats=50)
    assert not sampled.exact and (sampled.error[1:] > 0).all()
    for part, error in zip(sampled.parts[1:], sampled.error[1:], strict=True):
        one = sampled.estimates[part]
        assert one.high - one.points >= module.NORMAL * error - 1e-9 <= one.points - one.low + 1e-9


def test_interactions_of_two_parts() -> None:
    """Two parts of which either alone does all the damage: the second one adds nothing, so they interact against it."""
    parts = ("aspp", "head: dog")
    whole, none = np.full(4, 90), np.full(4, 10)
    counts = Counts(np.stack([whole, none, none, none], 1), np.stack([whole, none, none, none], 1),
                    np.full(4, 100), np.zeros(4, int))  # fmt: skip
    found = shares_of(counts, parts, plan(parts), (0, 1))
    assert found.points[1:] == pytest.approx([-40, -40])
    assert found.interaction[1, 2] == pytest.approx(10 - 10 - 10 + 90)
    assert found.corners == pytest.approx(np.array([[90, 10], [10, 10]]))


def test_the_papers_measure_counts_later_pixels_too() -> None:
    parts = ("aspp",)
    counts = Counts(np.array([[80, 80]]), np.array([[80, 80]]), np.array([100]), np.array([60]))
    found = shares_of(counts, parts, plan(parts), (0, 1))
    assert (found.start, found.fixed, found.end) == pytest.approx((80, 80, 50))
    assert found.newly.points == pytest.approx(-30) and found.features.points == 0


def test_one_image_has_no_interval() -> None:
    found = shares_of(counts_of(PARTS, images=1), PARTS, plan(PARTS), (0, 1))
    assert np.isnan(found.estimates["aspp"].low) and as_json(found)["parts"]["aspp"]["low"] is None  # type: ignore[index]


@pytest.mark.parametrize(("showing", "has"), [(LEAST_SHOWING - 1, False), (LEAST_SHOWING, True)])
def test_a_class_that_hardly_any_image_shows_has_no_intervals(showing: int, has: bool) -> None:
    """Of one dog in three pictures, the heads once "took 62 points (-22 to 147)"."""
    some = counts_of(PARTS, images=8)
    some.hits[showing:] = some.true[showing:] = 0
    found = shares_of(some, PARTS, plan(PARTS), (0, 1))
    assert found.has_intervals == has == (not np.isnan(found.estimates["aspp"].low))
    assert np.isnan(found.change.low) != has
    assert len(found.repeats) == len(shares_of(counts_of(PARTS, images=8), PARTS, plan(PARTS), (0, 1)).repeats)


def test_intervals_of_few_images_hold_the_truth() -> None:
    """Eight images show the class: without `stretch` 87 of 100 intervals hold the population's share, not 93."""
    rng = np.random.default_rng(0)
    parts, images = ("aspp",), 4000
    true = rng.integers(50, 200, images)
    hits = (true[:, None] * rng.beta((4, 2), (2, 3), (images, 2))).astype(int)
    population = Counts(hits, hits + rng.integers(0, 60, (images, 2)), true, np.zeros(images, int))
    wanted = shares_of(population, parts, plan(parts), (0, 1), repeats=0).points[1]
    inside = []
    for seed in range(400):
        at = rng.integers(0, images, 8)
        some = Counts(population.hits[at], population.called[at], true[at], np.zeros(8, int))
        one = shares_of(some, parts, plan(parts), (0, 1), repeats=200, seed=seed).estimates["aspp"]
        inside.append(one.low <= wanted <= one.high)
    assert np.mean(inside) >= 0.93


def test_intervals_of_an_effect_in_few_images_hold_the_truth() -> None:
    """Newer classes take the class in one image of twenty: without `stretch` 88 of 100 intervals hold the truth.

    Samples that hold no such image are left out: their interval has no width, whatever the rule.
    """
    rng = np.random.default_rng(1)
    parts, images = ("competition",), 4000
    true = rng.integers(50, 200, images)
    hits = np.stack([true * 0.8, true * np.where(rng.random(images) < 0.05, rng.uniform(0, 0.6, images), 0.8)], 1)
    population = Counts(hits, hits, true, np.zeros(images, int))
    wanted = shares_of(population, parts, plan(parts), (0, 1), repeats=0).points[1]
    inside = []
    for seed in range(400):
        at = rng.integers(0, images, 100)
        some = Counts(hits[at], hits[at], true[at], np.zeros(100, int))
        one = shares_of(some, parts, plan(parts), (0, 1), repeats=200, seed=seed).estimates["competition"]
        if one.high > one.low:
            inside.append(one.low <= wanted <= one.high)
    assert len(inside) > 380 and np.mean(inside) >= 0.93


def test_a_number_that_one_image_carries_is_stretched_most() -> None:
    """Of 40 images one, six alike, and all alike; and a number that no image changes."""
    without = np.zeros((40, 4))
    without[0, 0], without[:6, 1], without[:, 2] = 1, np.tile([1, -1], 3), np.tile([1, -1], 20)
    one, six, every, none = module.stretch(without)
    assert one > 2 > six > 1.1 > every > 1 and none == 1


def test_an_interval_is_as_wide_to_either_side() -> None:
    one = shares_of(counts_of(PARTS), PARTS, plan(PARTS), (0, 1)).estimates["aspp"]
    assert one.high - one.points == pytest.approx(one.points - one.low)


def test_intervals_narrow_with_images() -> None:
    few, many = (shares_of(counts_of(PARTS, n), PARTS, plan(PARTS), (0, 1)).heads for n in (8, 200))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_json_adds_up() -> None:
    found = as_json(shares_of(counts_of(PARTS), PARTS, plan(PARTS), (0, 2)))
    total = sum(one["points"] for one in found["parts"].values())  # type: ignore[attr-defined]
    assert total == pytest.approx(found["to"] - found["from"])  # type: ignore[operator]
    assert next(iter(found["parts"])) == NEWLY  # type: ignore[call-overload]
    assert (found["step_from"], found["step_to"]) == (0, 2)


def both(seed: int = 0) -> tuple[Shares, Shares]:
    return tuple(shares_of(counts_of(PARTS, seed=seed + i), PARTS, plan(PARTS), (0, 2)) for i in (0, 1))  # type: ignore[return-value]


def test_what_sets_two_runs_apart_adds_up() -> None:
    own, other = both()
    found = difference(own, other)
    assert (found.start, found.end) == (other.end, own.end)
    assert found.points.sum() == pytest.approx(own.end - other.end)
    assert found.estimates[START].points == pytest.approx(own.start - other.start)
    assert np.allclose(found.repeats[:, : len(found.parts)].sum(1), own.repeats[:, -1] - other.repeats[:, -1])


def test_a_run_beside_itself_is_nothing_apart() -> None:
    own, _ = both()
    found = difference(own, own)
    assert not found.points.any() and not found.repeats[:, : len(found.parts)].any()


def test_the_same_images_are_drawn_alike() -> None:
    assert np.array_equal(bootstrap_weights(30, 5), bootstrap_weights(30, 5))
    assert (bootstrap_weights(30, 5).sum(1) == 30).all() and bootstrap_weights(1, 5).shape == (0, 1)
