"""Metrics against the authors' own numbers, torchmetrics, and slow second implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from repository import ROOT
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from lag_core import metrics
from lag_core.protocol import IGNORE, LabelSpace, parse_task
from lag_core.runs import open_run

CHECKPOINTS = ROOT / "checkpoints"

VOC_15_1 = LabelSpace(parse_task("15-1", range(1, 21), 0).steps, 0, True)
AERIAL_2_2_1 = LabelSpace(parse_task("2-2-1", range(1, 6)).steps, None, True)

FINAL_15_1 = """
bg 89.3, aeroplane 79.3, bicycle 38.2, bird 86.0, boat 62.8, bottle 74.7, bus 87.4, car 82.1, cat 90.1, chair
33.1, cow 75.8, table 57.7, dog 86.5, horse 79.8, motorbike 82.2, person 82.7, plant 24.4, sheep 54.3, sofa
24.1, train 46.2, tv 41.8
"""
"""Per-class IoU of the authors' 15-1 run (docs/method.md#logs)."""


def labels_and_answers(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n, (3, 17, 19)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, n, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    return truth, prediction


def test_the_authors_class_ious_give_their_old_new_and_all() -> None:
    ious = np.array([float(entry.split()[-1]) for entry in FINAL_15_1.split(",")]) / 100
    result = metrics.summarise(ious, VOC_15_1, 5)
    # The class IoUs are printed with one decimal, so their means can be off by 0.05 at most.
    assert result.old * 100 == pytest.approx(74.23, abs=0.005)
    assert result.new * 100 == pytest.approx(38.18, abs=0.05)
    assert result.all * 100 == pytest.approx(65.65, abs=0.05)


@pytest.mark.parametrize(("seed", "n"), [(0, 2), (1, 6), (2, 21), (3, 151)])
def test_confusion_and_iou_agree_with_torchmetrics(seed: int, n: int) -> None:
    truth, prediction = labels_and_answers(seed, n)
    matrix = metrics.confusion(truth, prediction, n)
    answers = torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()
    reference = MulticlassConfusionMatrix(n, ignore_index=IGNORE)(*answers)
    jaccard = MulticlassJaccardIndex(n, average="none", ignore_index=IGNORE)(*answers)
    np.testing.assert_array_equal(matrix, reference.numpy())
    np.testing.assert_allclose(metrics.iou(matrix), jaccard.numpy(), atol=1e-6)


def test_confusion_has_rows_for_the_truth() -> None:
    truth = np.array([[0, 1, 1], [2, IGNORE, 2]], np.uint8)
    prediction = np.array([[0, 2, 1], [2, 0, 0]], np.uint8)
    matrix = metrics.confusion(truth, prediction, 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]


def test_confusions_of_batches_add_up() -> None:
    truth, prediction = labels_and_answers(4, 5)
    parts = sum(metrics.confusion(t, p, 5) for t, p in zip(truth, prediction, strict=True))
    np.testing.assert_array_equal(parts, metrics.confusion(truth, prediction, 5))


@pytest.mark.parametrize(
    ("truth", "prediction", "said"),
    [([0, 3], [0, 0], "truth holds label 3"), ([0, 1], [0, 3], "prediction holds label 3"),
     ([0, 1], [0, IGNORE], "prediction holds label 255"), ([-1], [0], "truth holds label -1")],
)  # fmt: skip
def test_foreign_labels_are_refused(truth: list[int], prediction: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        metrics.confusion(np.array(truth), np.array(prediction), 3)


def test_a_prediction_of_255_does_not_matter_where_the_truth_is_ignored() -> None:
    assert metrics.confusion(np.array([IGNORE]), np.array([IGNORE]), 3).sum() == 0


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="must be equal"):
        metrics.confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


def test_absent_class_is_undefined_but_a_wrongly_predicted_one_is_zero() -> None:
    matrix = np.array([[4, 1, 0], [0, 0, 0], [0, 0, 0]])
    ious = metrics.iou(matrix)
    assert ious[0] == pytest.approx(0.8)
    assert ious[1] == 0
    assert math.isnan(ious[2])


def test_future_classes_are_ignored_at_an_intermediate_step() -> None:
    """The same IoUs as if the pixels of classes to come had been 255 in the masks."""
    rng = np.random.default_rng(5)
    truth, prediction = rng.integers(0, 5, 400), rng.integers(0, 2, 400)
    matrix = metrics.seen_only(metrics.confusion(truth, prediction, 5), 2)
    hidden = np.where(truth >= 2, IGNORE, truth)
    np.testing.assert_array_equal(matrix, metrics.confusion(hidden, prediction, 5))


def test_summary_counts_the_background_among_the_old_classes() -> None:
    labels = LabelSpace(((0, 7), (9,)), 0)
    result = metrics.summarise(np.array([0.9, 0.5, 0.2]), labels, 1)
    assert result.old == pytest.approx(0.7)
    assert result.old_without_background == pytest.approx(0.5)
    assert result.new == pytest.approx(0.2)
    assert result.all == pytest.approx(1.6 / 3)
    assert result.harmonic == pytest.approx(2 * 0.7 * 0.2 / 0.9)


def test_without_background_all_old_classes_count() -> None:
    result = metrics.summarise(np.array([0.2, 0.4, 0.6, 0.8, 1.0]), AERIAL_2_2_1, 1)
    assert result.old == result.old_without_background == pytest.approx(0.3)
    assert result.new == pytest.approx(0.7)


def test_step_0_has_no_new_classes() -> None:
    result = metrics.summary(np.diag([5, 5, 5, 5, 5]), AERIAL_2_2_1, 0)
    assert result.old == result.all == 1
    assert math.isnan(result.new) and math.isnan(result.harmonic)


def test_harmonic_mean_of_nothing_is_zero() -> None:
    assert metrics.harmonic_mean(0.0, 0.0) == 0


def history() -> np.ndarray:
    nan = np.nan
    return np.array([[0.8, 0.6, nan, nan], [0.7, 0.7, 0.5, nan], [0.6, 0.1, 0.6, 0.4]])


def test_forgetting_transfer_and_average_by_hand() -> None:
    ious = history()
    np.testing.assert_allclose(metrics.forgetting(ious), [0.2, 0.6, -0.1, np.nan])
    assert metrics.mean_forgetting(ious) == pytest.approx(0.7 / 3)
    np.testing.assert_allclose(metrics.plasticity(ious), [0.8, 0.6, 0.5, 0.4])
    assert metrics.bwt(ious) == pytest.approx((-0.2 - 0.5 + 0.1) / 3)
    assert metrics.average(ious) == pytest.approx((0.7 + 1.9 / 3 + 1.7 / 4) / 3)


def test_forgetting_agrees_with_a_loop() -> None:
    rng = np.random.default_rng(6)
    ious = rng.random((6, 21))
    for step in range(6):
        ious[step, VOC_15_1.seen(step) :] = np.nan
    for c in range(21):
        earlier = [ious[s, c] for s in range(5) if not math.isnan(ious[s, c])]
        expected = max(earlier) - ious[5, c] if earlier else math.nan
        assert metrics.forgetting(ious)[c] == pytest.approx(expected, nan_ok=True)


def test_nothing_is_forgotten_in_one_step() -> None:
    ious = np.array([[0.5, 0.7]])
    assert math.isnan(metrics.mean_forgetting(ious)) and math.isnan(metrics.bwt(ious))
    assert metrics.average(ious) == pytest.approx(0.6)


def test_undefined_values_raise_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    ious = np.full((2, 3), np.nan)
    metrics.forgetting(ious), metrics.bwt(ious), metrics.average(ious), metrics.plasticity(ious)
    assert not recwarn.list


def test_iou_matrix_is_undefined_before_a_class_is_introduced() -> None:
    rng = np.random.default_rng(7)
    confusions = rng.integers(1, 50, (3, 5, 5))
    ious = metrics.iou_matrix(confusions, AERIAL_2_2_1)
    assert np.isnan(ious).tolist() == [[False] * 2 + [True] * 3, [False] * 4 + [True], [False] * 5]
    for step, matrix in enumerate(confusions):
        result = metrics.summary(matrix, AERIAL_2_2_1, step)
        assert metrics.mean(ious[step]) == pytest.approx(result.all)
    assert len(metrics.iou_matrix([], AERIAL_2_2_1)) == 0


def masked(truth: np.ndarray, seen: int) -> np.ndarray:
    return np.where(truth < seen, truth, IGNORE)


def test_iou_between_compares_on_the_pixels_that_the_earlier_step_knows() -> None:
    """The same as IoUs of label maps whose pixels of classes still to come at the earlier step are ignored."""
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 5, 500)
    maps = [rng.integers(0, AERIAL_2_2_1.seen(t), 500) for t in range(3)]
    confusions = np.array([metrics.confusion(truth, answers, 5) for answers in maps])
    for s in range(3):
        for t in range(s, 3):
            found = metrics.iou_between(confusions, AERIAL_2_2_1, s, t)
            seen = AERIAL_2_2_1.seen(s)
            expected = metrics.iou(metrics.confusion(masked(truth, seen), maps[t], 5))
            np.testing.assert_allclose(found[:seen], expected[:seen])
            assert np.isnan(found[seen:]).all()
    with pytest.raises(ValueError, match="earlier step"):
        metrics.iou_between(confusions, AERIAL_2_2_1, 1, 0)


def test_forgetting_on_fixed_pixels_agrees_with_a_loop() -> None:
    rng = np.random.default_rng(9)
    confusions = rng.integers(0, 60, (3, 5, 5))
    found = metrics.forgetting_fixed(confusions, AERIAL_2_2_1)
    changes = []
    for c in range(5):
        first = AERIAL_2_2_1.step_of(c)
        lost = [
            metrics.iou_between(confusions, AERIAL_2_2_1, s, s)[c]
            - metrics.iou_between(confusions, AERIAL_2_2_1, s, 2)[c]
            for s in range(first, 2)
        ]
        assert found[c] == pytest.approx(max(lost, default=math.nan), nan_ok=True)
        changes += [-lost[0]] if lost else []
    assert metrics.bwt_fixed(confusions, AERIAL_2_2_1) == pytest.approx(np.mean(changes))


def test_a_network_that_never_changes_forgets_nothing_on_fixed_pixels() -> None:
    rng = np.random.default_rng(10)
    frozen = metrics.confusion(rng.integers(0, 5, 900), rng.integers(0, 2, 900), 5)
    confusions = np.stack([frozen] * 3)
    assert np.nanmax(np.abs(metrics.forgetting_fixed(confusions, AERIAL_2_2_1))) == 0
    assert metrics.bwt_fixed(confusions, AERIAL_2_2_1) == 0
    assert metrics.mean_forgetting(metrics.iou_matrix(confusions, AERIAL_2_2_1)) > 0.05, "as in the papers it does"


def test_fixed_forgetting_of_one_step_is_undefined() -> None:
    one = np.ones((1, 5, 5), np.int64)
    assert np.isnan(metrics.forgetting_fixed(one, AERIAL_2_2_1)).all()
    assert math.isnan(metrics.bwt_fixed(one, AERIAL_2_2_1))


def test_the_shipped_reference_keeps_impervious_surface_on_fixed_pixels() -> None:
    run = open_run(CHECKPOINTS / "aerial-2-2-1-reference")
    confusions = run.confusions()
    assert confusions is not None
    ious = metrics.iou_matrix(confusions, run.labels)[:, 0]
    assert [round(100 * float(v), 1) for v in (ious[0], ious[2])] == [81.3, 66.8]
    assert round(100 * float(metrics.iou_between(confusions, run.labels, 0, 2)[0]), 1) == 76.4
    assert metrics.forgetting_fixed(confusions, run.labels)[0] == pytest.approx(0.813 - 0.764, abs=1e-3)


def test_forgetting_is_negative_where_a_class_got_better() -> None:
    ious = np.array([[0.5, np.nan], [0.3, 0.6], [0.7, 0.4]])
    np.testing.assert_allclose(metrics.forgetting(ious), [-0.2, 0.2])
    np.testing.assert_allclose(metrics.plasticity(ious), [0.5, 0.6])
    assert metrics.bwt(ious) == pytest.approx((0.2 - 0.2) / 2) and metrics.mean_forgetting(ious) == pytest.approx(0)
    assert metrics.average(ious) == pytest.approx((0.5 + 0.45 + 0.55) / 3)


def test_matrices_of_several_processes_add_up_by_step_and_domain() -> None:
    one, two = np.array([[1, 2], [3, 4]]), np.array([[10, 0], [0, 10]])
    total = metrics.added([[{"rgb": one}, {"rgb": one}], [{"rgb": two, "irrg": two}, {}], [{"irrg": one}, {}]])
    assert {k: v.tolist() for k, v in total[0].items()} == {"rgb": [[11, 2], [3, 14]], "irrg": [[11, 2], [3, 14]]}
    assert {k: v.tolist() for k, v in total[1].items()} == {"rgb": one.tolist()}
    with pytest.raises(ValueError):
        metrics.added([[{}], []])


def test_means_of_nothing_and_of_zeros() -> None:
    assert metrics.mean([]) != metrics.mean([]) and metrics.mean([0.0, np.nan, 1.0]) == 0.5
    assert metrics.harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3) and metrics.harmonic_mean(0.0, 0.0) == 0
    assert math.isnan(metrics.harmonic_mean(np.nan, 0.5)) and metrics.harmonic_mean(1.0, 0.0) == 0


def test_drops_by_hand() -> None:
    labels = LabelSpace(((1,), (2,), (3,)), None, True)
    first = np.array([[8, 0, 0], [0, 0, 0], [0, 0, 0]])
    second = np.array([[4, 4, 0], [0, 6, 0], [5, 5, 0]])
    third = np.array([[2, 2, 4], [0, 3, 3], [0, 0, 9]])
    found = metrics.drops([first, second, third], labels)
    np.testing.assert_allclose(found, [[1 - 2 / 8, np.nan, np.nan], [4 / 8 - 2 / 8, 6 / 10 - 3 / 8, np.nan]])
    np.testing.assert_allclose(metrics.forgetting_fixed([first, second, third], labels), [0.75, 0.225, np.nan])
    assert metrics.bwt_fixed([first, second, third], labels) == pytest.approx(-(0.75 + 0.225) / 2)
    with pytest.raises(ValueError, match="got steps 2 and 1"):
        metrics.iou_between([first, second, third], labels, 2, 1)
