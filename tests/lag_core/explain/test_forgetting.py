"""The fate of pixels, against a second implementation that follows one pixel at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lag_core import metrics
from lag_core.explain.forgetting import (
    Fate,
    background_shift,
    changes,
    fates,
    intransigence,
    lost_pixels,
    provenance,
    rank_images,
    transitions,
)
from lag_core.protocol import IGNORE, LabelSpace

VOC = LabelSpace(((0, 7, 3), (5,), (9, 2)), background=0, unknown=True)
AERIAL = LabelSpace(((1, 2), (3, 4), (5,)), None, unknown=True)


def random_maps(labels: LabelSpace, seed: int = 0, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Label maps that keep most of what was right, so that every fate occurs."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(labels.order), (side, side)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    maps = []
    for t in range(len(labels.steps)):
        guess = rng.integers(0, labels.seen(t), truth.shape).astype(np.uint8)
        right = (truth < labels.seen(t)) & (rng.random(truth.shape) < 0.5)
        maps.append(np.where(right, truth, guess).astype(np.uint8))
    return np.stack(maps), truth


def story(history: list[int], cls: int, labels: LabelSpace, step: int) -> tuple[int, int, int, int, int]:
    """(state, first right, right since, lost at, went to) of one pixel, told step by step."""
    if cls == IGNORE:
        return Fate.IGNORED, -1, -1, -1, 255
    start = labels.step_of(cls)
    if step < start:
        return Fate.ABSENT, -1, -1, -1, 255
    steps = list(range(start, step + 1))
    good = [t for t in steps if history[t] == cls]
    losses = [t for t in steps if t - 1 in good and t not in good]
    first = good[0] if good else -1
    lost = losses[-1] if losses else -1
    went = history[lost] if losses else 255
    since = -1
    if step in good:
        since = step
        while since - 1 in good:
            since -= 1
    if not good:
        state = Fate.NEVER
    elif step not in good:
        state = Fate.FORGOTTEN
    elif losses:
        state = Fate.RECOVERED
    else:
        state = Fate.LEARNED if first == step else Fate.KEPT
    return state, first, since, lost, went


@pytest.mark.parametrize("labels", [VOC, AERIAL])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_provenance_tells_each_pixels_story(labels: LabelSpace, step: int) -> None:
    maps, truth = random_maps(labels)
    found = provenance(maps, truth, labels, step)
    arrays = (found.state, found.first_right, found.right_since, found.lost_at, found.went_to)
    for y, x in np.ndindex(truth.shape):
        expected = story(maps[:, y, x].tolist(), int(truth[y, x]), labels, step)
        assert tuple(int(a[y, x]) for a in arrays) == expected
    assert sum(found.counts().values()) == truth.size


def test_every_fate_occurs_in_the_random_maps() -> None:
    maps, truth = random_maps(VOC)
    assert set(np.unique(fates(maps, truth, VOC))) == set(Fate)


def test_fates_are_the_provenance_of_each_step() -> None:
    maps, truth = random_maps(VOC)
    for t, state in enumerate(fates(maps, truth, VOC)):
        np.testing.assert_array_equal(state, provenance(maps, truth, VOC, t).state)


def test_fates_follow_each_other_only_as_defined() -> None:
    """Nobody is learned twice, and only what was right is forgotten."""
    allowed = {
        Fate.ABSENT: {Fate.ABSENT, Fate.NEVER, Fate.LEARNED},
        Fate.NEVER: {Fate.NEVER, Fate.LEARNED},
        Fate.LEARNED: {Fate.KEPT, Fate.FORGOTTEN},
        Fate.KEPT: {Fate.KEPT, Fate.FORGOTTEN},
        Fate.FORGOTTEN: {Fate.FORGOTTEN, Fate.RECOVERED},
        Fate.RECOVERED: {Fate.RECOVERED, Fate.FORGOTTEN},
        Fate.IGNORED: {Fate.IGNORED},
    }
    labels = LabelSpace(((0, 1), (2,), (3,), (4,), (5,)), background=0, unknown=False)
    states = fates(*random_maps(labels, seed=3, side=60), labels)
    for before, after in pairwise(states):
        pairs = {(Fate(a), Fate(b)) for a, b in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True)}
        assert all(b in allowed[a] for a, b in pairs)


def test_a_lapse_is_lost_then_recovered() -> None:
    labels = LabelSpace(((0, 1), (2,), (3,)), background=0)
    maps = np.array([[[1]], [[2]], [[1]]], np.uint8)
    truth = np.array([[1]], np.uint8)
    assert fates(maps, truth, labels).ravel().tolist() == [Fate.LEARNED, Fate.FORGOTTEN, Fate.RECOVERED]
    found = provenance(maps, truth, labels)
    assert (found.first_right, found.right_since, found.lost_at, found.went_to) == (0, 2, 1, 2)


def test_lost_pixels_count_the_forgotten() -> None:
    maps, truth = random_maps(VOC)
    counted = lost_pixels(maps, truth, VOC)
    states = fates(maps, truth, VOC)
    for t in range(len(maps)):
        for k in range(len(VOC.order)):
            assert counted[t, k] == ((states[t] == Fate.FORGOTTEN) & (truth == k)).sum()
    assert counted[0].sum() == 0 and counted[-1].sum() > 0


def test_transitions_count_pixel_by_pixel() -> None:
    maps, truth = random_maps(AERIAL)
    flows = transitions(maps, truth, AERIAL, cls=1)
    expected = np.zeros_like(flows)
    for t in range(len(maps) - 1):
        for y, x in np.argwhere(truth == 1):
            expected[t, maps[t, y, x], maps[t + 1, y, x]] += 1
    np.testing.assert_array_equal(flows, expected)
    np.testing.assert_array_equal(flows[0].sum(0), flows[1].sum(1))


@pytest.mark.parametrize("labels", [VOC, AERIAL])
def test_background_shift_sorts_each_pixel_into_one_part(labels: LabelSpace) -> None:
    maps, truth = random_maps(labels)
    n = len(labels.order)
    shift = background_shift(np.stack([metrics.confusion(truth, m, n) for m in maps]), labels)
    expected = np.zeros((4, len(maps), n), np.int64)
    for t, m in enumerate(maps):
        for true, predicted in zip(truth.ravel().tolist(), m.ravel().tolist(), strict=True):
            if true == IGNORE or labels.step_of(true) >= t:
                continue
            is_background = labels.background is not None and predicted == 0
            is_new = labels.step_of(predicted) == t
            part = 0 if predicted == true else 1 if is_background else 2 if is_new else 3
            expected[part, t, true] += 1
    found = np.stack([shift.right, shift.background, shift.new, shift.other_old])
    np.testing.assert_array_equal(found, expected)
    shares = shift.shares()
    old = expected.sum(0) > 0
    np.testing.assert_allclose(shares[old].sum(-1), 1)
    assert np.isnan(shares[~old]).all()


def test_images_are_ranked_by_what_they_lost() -> None:
    lost = np.array([[[0, 0], [3, 1]], [[0, 0], [0, 0]], [[0, 0], [1, 9]], [[0, 0], [4, 0]]])
    pixels = np.array([[10, 10], [5, 5], [4, 9], [0, 8]])
    assert [(r.id, r.lost) for r in rank_images(lost, pixels, "abcd")] == [("c", 10), ("a", 4), ("d", 4)]
    by_class = rank_images(lost, pixels, "abcd", cls=0)
    assert [(r.id, r.index, r.lost) for r in by_class] == [("d", 3, 4), ("a", 0, 3), ("c", 2, 1)]
    assert np.isnan(by_class[0].share) and by_class[1].share == 0.3
    assert rank_images(lost, pixels, "abcd", step=0) == []


def test_intransigence_is_what_joint_training_had_more() -> None:
    ious = np.array([[0.8, np.nan], [0.5, 0.3]])
    np.testing.assert_allclose(intransigence(ious, np.array([0.9, 0.7])), [0.1, 0.4])


def test_changes_without_a_truth() -> None:
    maps, _ = random_maps(VOC)
    found = changes(maps, VOC)
    for y, x in np.ndindex(maps.shape[1:]):
        history = maps[:, y, x].tolist()
        moved = [t for t in range(1, len(history)) if history[t] != history[t - 1]]
        assert found.count[y, x] == len(moved)
        assert found.first[y, x] == (moved[0] if moved else -1)
        assert found.last[y, x] == (moved[-1] if moved else -1)
        assert found.before[y, x] == (history[moved[-1] - 1] if moved else 255)
        assert found.after[y, x] == (history[moved[-1]] if moved else 255)
        assert found.to_new[y, x] == (bool(moved) and VOC.step_of(history[moved[-1]]) == moved[-1])
    for t in (1, 2):
        assert found.shares[t - 1] == np.mean(maps[t] != maps[t - 1])


def test_what_does_not_fit_is_refused() -> None:
    maps, truth = random_maps(VOC)
    with pytest.raises(ValueError, match="do not fit"):
        provenance(maps[:, 1:], truth, VOC)
    with pytest.raises(ValueError, match="no step 3"):
        provenance(maps, truth, VOC, 3)
