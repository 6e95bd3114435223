"""Control sets: alive, of equal energy, and as many as are said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lag_core.explain.controls import BALANCED, Matched, alive, energy


def latent(channels: int = 32, dead: int = 0, seed: int = 0) -> np.ndarray:
    """Z of three pictures; the first `dead` channels are constant, one of them not at 0."""
    rng = np.random.default_rng(seed)
    z = rng.random((3, channels, 4, 5)) * rng.uniform(0.1, 5, (1, channels, 1, 1))
    z[:, :dead] = 0
    if dead:
        z[:, 0] = 0.7
    return z.astype(np.float32)


def test_a_constant_channel_is_dead() -> None:
    assert alive(latent(dead=5)).tolist() == [False] * 5 + [True] * 27
    one = latent()
    one[:, 3] = 0
    one[2, 3, 1, 1] = 1e-3
    assert alive(one)[3]


def test_energy_is_the_mean_square() -> None:
    z = latent()
    slow = [np.mean([float(v) ** 2 for v in z[:, c].ravel()]) for c in range(z.shape[1])]
    assert energy(z) == pytest.approx(slow, rel=1e-6)


def test_controls_live_and_have_the_tested_energies() -> None:
    z = latent(dead=8)
    draw, rng = Matched(energy(z), alive(z)), np.random.default_rng(0)
    tested = np.array([9, 12, 20, 25])
    strata = draw.strata(tested)
    for _ in range(50):
        drawn = draw(tested, rng)
        assert len(set(drawn.tolist())) == len(tested) and (drawn >= 8).all()
        assert sorted(strata[drawn]) == sorted(strata[tested])


def test_dead_channels_are_held_against_dead_ones() -> None:
    z = latent(dead=8)
    draw = Matched(energy(z), alive(z))
    assert set(draw(np.array([2, 5]), np.random.default_rng(0)).tolist()) <= set(range(8))


def test_strata_are_ordered_by_energy() -> None:
    z = latent()
    found = Matched(energy(z), alive(z)).strata(np.array([0]))
    assert len(set(found.tolist())) == 4
    for low, high in itertools.pairwise(sorted(set(found.tolist()))):
        assert energy(z)[found == low].max() <= energy(z)[found == high].min()


def test_how_many_sets_there_are() -> None:
    draw = Matched(np.arange(8.0), np.ones(8, bool))
    tested = np.array([0, 1, 5])  # with two strata of four, half of one and a quarter of the other
    assert draw.distinct(tested) == 6 * 4
    seen = {tuple(sorted(draw(tested, np.random.default_rng(seed)).tolist())) for seed in range(600)}
    assert len(seen) == 24


def test_a_stratum_is_never_tested_almost_whole() -> None:
    """Eight tested channels that are alike in energy: a stratum of eight would leave no other set."""
    draw = Matched(np.arange(32.0), np.ones(32, bool))
    strata = draw.strata(np.arange(8))
    assert (strata == strata[0]).sum() == 16 and draw.distinct(np.arange(8)) == 12870
    assert set(draw.strata(np.arange(30)).tolist()) == {0}


def test_without_living_channels_the_dead_are_drawn() -> None:
    assert len(Matched(np.arange(3.0), np.zeros(3, bool))(np.array([0, 1]), np.random.default_rng(0))) == 2


def test_imbalance_is_the_distance_from_the_mean_control_set() -> None:
    """Against the mean rank of energy of many drawn sets."""
    z = latent(dead=8)
    draw, rng = Matched(energy(z), alive(z)), np.random.default_rng(0)
    order = np.argsort(energy(z)[8:])
    rank = np.argsort(order)
    for tested in (np.array([9, 12, 20, 25]), 8 + order[:8], 8 + order[-6:]):
        drawn = np.mean([rank[draw(tested, rng) - 8].mean() for _ in range(2000)])
        expected = (rank[tested - 8].mean() - drawn) / rank.std()
        assert draw.imbalance(tested) == pytest.approx(expected, abs=0.03)


def test_the_weakest_quarter_has_no_fair_controls() -> None:
    draw = Matched(np.arange(32.0), np.ones(32, bool))
    assert draw.imbalance(np.arange(8)) < -BALANCED and draw.imbalance(np.arange(24, 32)) > BALANCED
    assert abs(draw.imbalance(np.arange(0, 32, 4))) < BALANCED


def test_sets_that_cannot_differ_are_balanced() -> None:
    assert Matched(np.arange(3.0), np.zeros(3, bool)).imbalance(np.array([0, 1])) == 0.0
    assert Matched(np.arange(3.0), np.ones(3, bool)).imbalance(np.arange(3)) == 0.0
