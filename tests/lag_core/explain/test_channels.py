"""Channels: the split against the method's own, the rest against loops and invariants."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import write_run

from lag_core.explain import channels
from lag_core.explain.latent_maps import covered, on_image
from lag_core.method import decoupling
from lag_core.model.prediction import full_size
from lag_core.runs import open_run, write_tensors

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 0.53, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_the_split_is_the_methods_own(rho: float, ties: bool) -> None:
    distance = RNG.random(31).astype(np.float32)
    if ties:
        distance = np.round(distance * 4).astype(np.float32)
    score = decoupling.ChannelScore(31)
    score.update(torch.from_numpy(distance))
    expected, found = score.split(rho), channels.split(distance, rho)
    np.testing.assert_array_equal(found.invariant, expected.invariant.numpy())
    assert found.defined == expected.defined
    assert (found.invariant ^ found.specific).all()
    np.testing.assert_array_equal(found.curve, np.sort(distance))
    if 0 < rho < 1:
        assert distance[found.invariant].max() == found.cut <= distance[found.specific].min()


def test_a_split_of_equal_models_is_not_defined() -> None:
    assert channels.DEFINED_ABOVE == decoupling.DEFINED_ABOVE
    assert not channels.split(np.zeros(8), 0.5).defined
    assert channels.split(np.full(8, 1e-3), 0.5).defined
    with pytest.raises(ValueError, match="rho"):
        channels.split(np.zeros(8), 1.5)


def test_stability_counts_shared_channels() -> None:
    distances = RNG.random((4, 16))
    found = channels.stability(distances, 0.25)
    for t in range(3):
        first, second = (set(np.argsort(distances[t + i])[:4].tolist()) for i in (0, 1))
        assert found[t] == len(first & second) / len(first | second)
    assert np.isnan(channels.stability(distances, 0.0)).all()
    assert (channels.stability(distances, 1.0) == 1).all()


@pytest.mark.parametrize(("n", "k"), [(6, 3), (6, 5), (5, 1)])
def test_chance_is_the_mean_over_all_pairs_of_sets(n: int, k: int) -> None:
    sets = [set(s) for s in itertools.combinations(range(n), k)]
    expected = np.mean([len(a & b) / len(a | b) for a in sets for b in sets])
    assert channels.chance_jaccard(n, k / n) == pytest.approx(expected)


def test_energy_of_a_group() -> None:
    latent = RNG.random((5, 3, 4)).astype(np.float32)
    mask = np.array([True, False, True, False, False])
    for power in (1, 2):
        expected = np.zeros((3, 4))
        for y, x in np.ndindex(3, 4):
            expected[y, x] = (latent[0, y, x] ** power + latent[2, y, x] ** power) / 2
        np.testing.assert_allclose(channels.energy_map(latent, mask, power), expected, rtol=1e-6)
        np.testing.assert_allclose(channels.energy_map(latent, np.array([0, 2]), power), expected, rtol=1e-6)
    assert (channels.energy_map(latent, np.zeros(5, bool)) == 0).all()
    energy = channels.channel_energy(latent)
    share = channels.energy_share(energy, mask)
    assert share == pytest.approx((latent[mask] ** 2).sum() / (latent**2).sum())
    assert share + channels.energy_share(energy, ~mask) == pytest.approx(1)
    assert np.isnan(channels.energy_share(np.zeros(5), mask))


def test_orders() -> None:
    values = np.array([0.3, -0.9, 0.3, 0.1])
    assert channels.ranked("invariant", values).tolist() == [1, 3, 0, 2]
    assert channels.ranked("changed", values).tolist() == [0, 2, 3, 1]
    assert channels.ranked("relevance", values).tolist() == [1, 0, 2, 3]
    draws = [tuple(channels.ranked("random", values, seed)) for seed in range(20)]
    assert all(sorted(draw) == [0, 1, 2, 3] for draw in draws) and len(set(draws)) > 5
    assert draws[3] == tuple(channels.ranked("random", values, 3))
    with pytest.raises(ValueError, match="not finite"):
        channels.ranked("changed", np.array([np.nan, 1]))


def test_gallery_shows_both_steps_on_one_scale() -> None:
    old, new = RNG.random((2, 6, 3, 3)).astype(np.float32)
    entries = channels.gallery(old, new, [4, 1], np.arange(6))
    assert [(e.channel, e.distance) for e in entries] == [(4, 4), (1, 1)]
    for e in entries:
        np.testing.assert_array_equal(np.stack([e.old, e.new]), np.stack([old[e.channel], new[e.channel]]))
        assert e.high == max(e.old.max(), e.new.max())


def test_distances_that_training_left(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run")
    write_tensors(path / "analysis_02.safetensors", {"channels.distance": np.arange(6, dtype=np.float32)})
    found = channels.run_distances(open_run(path))
    assert np.isnan(found[0]).all() and found[1].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("inside", "size"), [((64, 48), (64, 48)), ((64, 40), (130, 81)), ((17, 33), (17, 33))])
def test_maps_lie_over_the_picture_as_the_logits_do(inside: tuple[int, int], size: tuple[int, int]) -> None:
    maps = RNG.random((2, 4, 4)).astype(np.float32)
    expected = full_size(torch.from_numpy(maps)[None], 64, inside, size)[0].numpy()
    np.testing.assert_allclose(on_image(maps, 64, inside, size), expected, atol=1e-5)
    assert on_image(maps[:0], 64, inside, size).shape == (0, *size)


@pytest.mark.parametrize("inside", [(64, 64), (64, 48), (17, 33), (1, 16)])
def test_covered_cells_touch_the_picture(inside: tuple[int, int]) -> None:
    touched = np.zeros((4, 4), bool)
    for y, x in np.ndindex(inside):
        touched[y // 16, x // 16] = True
    rows, columns = covered((4, 4), 64, inside)
    expected = np.zeros((4, 4), bool)
    expected[:rows, :columns] = True
    np.testing.assert_array_equal(touched, expected)


def test_gallery_of_signed_maps_has_a_symmetric_scale() -> None:
    old, new = RNG.normal(size=(2, 3, 4, 4)).astype(np.float32)
    old[1], new[1] = np.abs(old[1]), np.abs(new[1])
    new[2] = -np.abs(new[2])
    for entry in channels.gallery(old, new, [0, 1, 2]):
        furthest = max(np.abs(entry.old).max(), np.abs(entry.new).max())
        assert entry.high == furthest
        assert entry.low == (0 if entry.channel == 1 else -furthest)


def test_who_lives_and_who_died() -> None:
    before, now = RNG.normal(size=(2, 3, 6, 4, 5)).astype(np.float32)
    before[:, 5] = 0.0  # was dead, and lives
    now[:, 1], now[:, 4] = 0.0, -0.25  # died; constant, though not 0
    found = channels.living(before, now)
    assert found.died.tolist() == [False, True, False, False, True, False]
    assert found.either.all() and found.total == 6
    assert found.words(0, 1) == "2 of 6 channels died at step 1"
    assert found.words(0, 3) == "2 of 6 channels died between steps 0 and 3"
    assert channels.living(before, before).words(0, 1) == "no channel died at step 1"


def test_a_survey_tells_who_lives_as_the_maps_do() -> None:
    latent = RNG.normal(size=(4, 8, 6, 6)).astype(np.float32)
    latent[:, 2], latent[:, 3] = 0.0, 7.3
    latent[:, 4] = 1 + 0.1 * latent[:, 4]  # hardly moves, and lives
    mean, energy = latent.mean((0, 2, 3)), np.square(latent).mean((0, 2, 3))
    found = channels.living_by_moments(mean.astype(np.float32), energy.astype(np.float32))
    assert found.tolist() == channels.alive(latent).tolist() == [True, True, False, False, True, True, True, True]
