"""What the features still hold: each measure against a slow and obvious second way to compute it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from made_holds import some_holds

from lag_core import metrics
from lag_core.data import remap
from lag_core.explain import background_labels, calibration, cka, holds, lost_destinations, probe, task_confusion
from lag_core.explain.background_labels import BackgroundLabels, PseudoLabelTable
from lag_core.explain.calibration import BINS
from lag_core.explain.holds import SITES, Probes
from lag_core.explain.lost_destinations import LostCounts
from lag_core.protocol import IGNORE, LabelSpace

LABELS = LabelSpace(((0, 3, 5), (7,), (9, 2)), background=0, unknown=True)
BARE = LabelSpace(((3, 5), (7,)), unknown=True)
RNG = np.random.default_rng(5)


def picture(n: int, side: int = 12) -> np.ndarray:
    found = RNG.integers(0, n, (side, side)).astype(np.uint8)
    found[0, :3] = IGNORE
    return found


# ---------------------------------------------------------------------- probe


def test_the_probe_solves_the_weighted_ridge_problem() -> None:
    n, width, classes, ridge = 200, 7, 3, 0.05
    x = RNG.normal(size=(n, width)) * np.arange(1, width + 1) + 3
    x[:, 4] = 2.5  # does not vary
    labels, importance = RNG.integers(0, classes, n), RNG.uniform(0.5, 2, n)
    found = probe.fit(x, labels, classes, importance, ridge)

    w = importance / importance.sum()
    mean = (w[:, None] * x).sum(0)
    scale = np.sqrt((w[:, None] * (x - mean) ** 2).sum(0))
    z = np.delete((x - mean) / np.where(scale > 0, scale, 1), 4, axis=1)
    target = np.eye(classes)[labels]
    root = np.sqrt(w)[:, None]
    rows = np.vstack([root * np.hstack([z, np.ones((n, 1))]), np.sqrt(ridge) * np.eye(width - 1, width)])
    goal = np.vstack([root * target, np.zeros((width - 1, classes))])
    solved = np.linalg.lstsq(rows, goal, rcond=None)[0]
    expected = np.hstack([z, np.ones((n, 1))]) @ solved
    np.testing.assert_allclose(found.scores(x), expected, atol=1e-4)
    assert not found.weight[4].any()


def test_a_class_without_a_position_is_never_chosen() -> None:
    found = probe.fit(RNG.normal(size=(30, 4)), RNG.integers(0, 2, 30), 3, np.ones(30))
    assert (found.scores(RNG.normal(size=(500, 4)) * 100).argmax(1) < 2).all()
    with pytest.raises(ValueError, match="at least one"):
        probe.fit(np.zeros((0, 4)), np.zeros(0, int), 3, np.ones(0))


def test_a_probe_finds_classes_that_lie_apart_and_none_in_noise() -> None:
    labels = RNG.integers(0, 3, 900)
    apart = np.eye(3)[labels] * 4 + RNG.normal(size=(900, 3))
    noise = RNG.normal(size=(900, 3))
    half = np.arange(900) < 450
    right = []
    for features in (apart, noise):
        fitted = probe.fit(features[half], labels[half], 3, np.ones(450))
        right.append((fitted.scores(features[~half]).argmax(1) == labels[~half]).mean())
    assert right[0] > 0.95 and right[1] < 0.45


def test_positions_are_chosen_alike_and_up_to_the_limit() -> None:
    labels = np.array([0] * 400 + [1] * 9 + [IGNORE] * 50)
    places, importance = probe.choose(labels, 3, seed=1, per_class=100)
    again, _ = probe.choose(labels, 3, seed=1, per_class=100)
    np.testing.assert_array_equal(places, again)
    assert (np.diff(places) > 0).all()
    assert np.bincount(labels[places]).tolist() == [100, 9]
    assert importance[labels[places] == 0].sum() == pytest.approx(np.sqrt(400))
    assert importance[labels[places] == 1].sum() == pytest.approx(np.sqrt(9))


def test_class_means_one_by_one() -> None:
    x, labels = RNG.normal(size=(40, 5)), RNG.integers(0, 2, 40)
    found = probe.class_means(x, labels, 3)
    for k in range(2):
        np.testing.assert_allclose(found[k], x[labels == k].mean(0), rtol=1e-5)
    assert np.isnan(found[2]).all()


# ---------------------------------------------------------------------- CKA


def test_cka_is_the_ratio_of_hsic_of_gram_matrices() -> None:
    n = 60
    x, y = RNG.normal(size=(n, 5)), RNG.normal(size=(n, 9))
    y[:, :5] += x
    center = np.eye(n) - 1 / n
    grams = [center @ a @ a.T @ center for a in (x, y)]
    hsic = lambda k, m: np.trace(k @ m)  # noqa: E731
    expected = hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))
    assert cka.linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    x = RNG.normal(size=(80, 6))
    turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    assert cka.linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-9)
    assert cka.linear_cka(x, RNG.normal(size=(80, 6))) < 0.3
    assert np.isnan(cka.linear_cka(x, np.ones((80, 2))))
    with pytest.raises(ValueError, match="same positions"):
        cka.linear_cka(x, x[:-1])


def test_the_matrix_is_symmetric_and_exactly_one_for_equal_features() -> None:
    x, y = RNG.normal(size=(2, 50, 4)).astype(np.float32)
    found = cka.cka_matrix([x, x.copy(), y])
    assert found[0, 1] == 1 and (np.diagonal(found) == 1).all()
    np.testing.assert_array_equal(found, found.T)
    assert found[0, 2] == pytest.approx(cka.linear_cka(x, y))


def test_sampled_cells_are_the_same_at_every_call_and_differ_between_images() -> None:
    first, second = (cka.sample(225, 40, i, seed=0, positions=400) for i in (0, 1))
    np.testing.assert_array_equal(first, cka.sample(225, 40, 0, seed=0, positions=400))
    assert len(first) == 10 and len(set(first.tolist())) == 10 and first.max() < 225
    assert first.tolist() != second.tolist()
    assert len(cka.sample(3, 1, 0, seed=0)) == 3


# ---------------------------------------------------------------------- task confusion


@pytest.mark.parametrize("labels", [LABELS, BARE])
def test_within_its_step_pixel_by_pixel(labels: LabelSpace) -> None:
    n = len(labels.order)
    for step in range(len(labels.steps)):
        scores, truth = RNG.uniform(size=(labels.seen(step), 12, 12)), picture(n)
        expected = np.zeros((n, n), np.int64)
        for y, x in product(range(12), range(12)):
            true = int(truth[y, x])
            if true == IGNORE or true >= labels.seen(step):
                continue
            allowed = labels.class_indices(labels.step_of(true))
            best = max(allowed, key=lambda k, y=y, x=x: scores[k, y, x])
            expected[true, best] += 1
        np.testing.assert_array_equal(task_confusion.masked_confusion(scores, truth, labels), expected)


def test_a_class_alone_in_its_step_is_always_right() -> None:
    assert task_confusion.alone(LABELS).tolist() == [False, False, False, True, False, False]
    truth = np.full((4, 4), 3, np.uint8)
    matrix = task_confusion.masked_confusion(RNG.uniform(size=(4, 4, 4)), truth, LABELS)
    assert matrix[3, 3] == 16 == matrix.sum()


# ---------------------------------------------------------------------- calibration


def test_calibration_pixel_by_pixel() -> None:
    truth, called, n = picture(6), picture(6), 6
    called[called == IGNORE] = 0
    sure = RNG.uniform(size=truth.shape)
    sure[1, 1] = 1.0
    found = calibration.count(sure, called, truth, n, seen=4)
    bins: list[list[list[tuple[float, bool]]]] = [[[] for _ in range(BINS)] for _ in range(n)]
    for t, c, s in zip(truth.ravel(), called.ravel(), sure.ravel(), strict=True):
        if t < 4:
            bins[c][min(int(s * BINS), BINS - 1)].append((float(s), t == c))
    for k, b in product(range(n), range(BINS)):
        assert found.count[k, b] == len(bins[k][b])
        assert found.right[k, b] == sum(r for _, r in bins[k][b])
        assert found.confidence[k, b] == pytest.approx(sum(s for s, _ in bins[k][b]))
    pooled = [[pair for k in (1, 2) for pair in bins[k][b]] for b in range(BINS)]
    total = sum(map(len, pooled))
    ece = sum(len(p) / total * abs(np.mean([r for _, r in p]) - np.mean([s for s, _ in p])) for p in pooled if p)
    assert found.of([1, 2]).ece == pytest.approx(ece)


def test_a_network_that_is_always_half_sure_and_half_right_is_calibrated() -> None:
    truth = np.arange(100).reshape(10, 10).astype(np.uint8) % 2
    found = calibration.count(np.full((10, 10), 0.5), np.zeros((10, 10), np.uint8), truth, 2, 2)
    assert found.of([0]).ece == pytest.approx(0)
    assert np.isnan(found.of([1]).ece)


def test_groups_of_a_step() -> None:
    assert calibration.groups(LABELS, 0) == {"new": [1, 2], "background": [0]}
    assert calibration.groups(LABELS, 2) == {"old": [1, 2, 3], "new": [4, 5], "background": [0]}
    assert calibration.groups(BARE, 1) == {"old": [0, 1], "new": [2]}


# ---------------------------------------------------------------------- lost pixels


@pytest.mark.parametrize("labels", [LABELS, BARE])
def test_destinations_pixel_by_pixel(labels: LabelSpace) -> None:
    steps, n = len(labels.steps), len(labels.order)
    counts = LostCounts(labels)
    kinds: dict[tuple[int, int, str], int] = {}
    sums = np.zeros((steps, n))
    for _ in range(3):
        truth = picture(n)
        maps = np.stack([RNG.integers(0, labels.seen(t), truth.shape) for t in range(steps)]).astype(np.uint8)
        for t in range(steps):  # right on half of the picture, so that there is something to lose
            easy = (RNG.uniform(size=truth.shape) < 0.5) & (truth < labels.seen(t))
            maps[t][easy] = truth[easy]
        sure = RNG.uniform(size=maps.shape).astype(np.float32)
        counts.add(maps, sure, truth, 0.5)
        for (y, x), t in product(np.ndindex(truth.shape), range(steps)):
            true, called = int(truth[y, x]), int(maps[t, y, x])
            if true == IGNORE or called == true:
                continue
            if not any(maps[s, y, x] == true for s in range(labels.step_of(true), t)):
                continue
            if sure[t, y, x] <= 0.5:
                kind = "none"
            elif labels.background is not None and called == 0:
                kind = "background"
            else:
                kind = "newer" if labels.step_of(called) > labels.step_of(true) else "other"
            kinds[t, true, kind] = kinds.get((t, true, kind), 0) + 1
            sums[t, true] += sure[t, y, x]
    found = counts.found(steps)
    split = found.destinations(labels)
    for t, k in product(range(steps), range(n)):
        for kind in ("background", "newer", "other", "none"):
            assert getattr(split, kind)[t, k] == kinds.get((t, k, kind), 0), (t, k, kind)
    np.testing.assert_array_equal(split.stacked().sum(-1), found.called.sum(-1))
    np.testing.assert_allclose(found.confidence, sums, rtol=1e-5)


# ---------------------------------------------------------------------- labels of the background


@pytest.mark.parametrize(("labels", "setting"), [(LABELS, "overlapped"), (LABELS, "sequential"), (BARE, "overlapped")])
def test_unlabelled_pixels_one_by_one(labels: LabelSpace, setting: str) -> None:
    ids = [*labels.order, 8, IGNORE]  # 8 belongs to no step
    mask = np.array(ids, np.uint8)[RNG.integers(0, len(ids), (12, 12))]
    for step in range(len(labels.steps)):
        named = set(labels.labelled(step, setting))
        expected = np.zeros(len(labels.order) + 1, np.int64)
        for value in mask.ravel().tolist():
            if value == IGNORE or value in named:
                continue
            expected[labels.order.index(value) if value in labels.order else -1] += 1
        np.testing.assert_array_equal(background_labels.unlabelled(mask, labels, step, setting), expected)


def test_shares_of_the_background() -> None:
    counts = np.array([[80, 0, 0, 10, 5, 5, 0], [50, 20, 10, 0, 10, 5, 5], [0] * 7])
    found = BackgroundLabels(counts, np.array([1, 1, 0])).shares(LABELS)
    np.testing.assert_allclose(found[0], [0.8, 0, 0.2, 0])
    np.testing.assert_allclose(found[1], [0.5, 0.3, 0.15, 0.05])
    assert np.isnan(found[2]).all()


def test_precision_and_coverage_of_pseudo_labels() -> None:
    hidden = np.array([1, 1, 1, 2, 0, 4, 1, IGNORE], np.uint8)
    given = np.array([1, 1, 2, 2, 1, IGNORE, IGNORE, 2], np.uint8)
    free = np.array([1, 1, 1, 1, 1, 1, 1, 1], bool)
    table = background_labels.pseudo_label_table(hidden, given, free, 6)
    assert table.sum() == 8 and table[1, 1] == 2 and table[1, -1] == 1 and table[-1, 2] == 1
    found = PseudoLabelTable(table[None])
    assert found.precision()[0, 1] == pytest.approx(2 / 3)  # given to 3 pixels, 2 of them rightly
    assert found.precision()[0, 2] == pytest.approx(1 / 3)
    assert found.coverage()[0, 1] == pytest.approx(2 / 4)
    assert np.isnan(found.precision()[0, 4]) and found.coverage()[0, 4] == 0


# ---------------------------------------------------------------------- storage


@pytest.mark.parametrize("whole", [True, False])
def test_arrays_and_back(whole: bool) -> None:
    before = some_holds(3, 6, whole)
    after = holds.from_arrays(holds.to_arrays(before), 3, 6)
    assert after is not None and (after.probes is not None) is whole
    again = holds.to_arrays(after)
    for name, value in holds.to_arrays(before).items():
        np.testing.assert_array_equal(again[name], value)
    with pytest.raises(ValueError, match="shape"):
        holds.from_arrays(holds.to_arrays(before), 3, 5)
    assert holds.from_arrays({"pixels": np.zeros(3)}, 3, 6) is None


def test_ious_and_control_of_probes() -> None:
    found = some_holds(3, 6).probes
    assert found is not None
    ious = found.iou()
    for t, s in product(range(3), range(len(SITES))):
        np.testing.assert_allclose(ious[t, s], metrics.iou(found.confusion[t, s]))
    np.testing.assert_allclose(found.control(LABELS)[0], ious[0, :, 3:].mean(-1))
    assert np.isnan(found.control(LABELS)[2]).all()
    never = Probes(found.confusion, found.nearest, np.array([5, 5, 0, 5, 5, 5]))
    assert np.isnan(never.iou()[:, :, 2]).all() and np.isnan(never.nearest_iou()[:, 2]).all()


def test_unlabelled_pixels_follow_the_targets_of_training() -> None:
    mask = np.array([0, 3, 7, 9, IGNORE], np.uint8)
    targets = remap.targets(mask, LABELS, 1, "overlapped")
    assert background_labels.unlabelled(mask, LABELS, 1, "overlapped").sum() == (targets == LABELS.catch_all).sum()
    assert lost_destinations.NONE_BELOW == 0.5
