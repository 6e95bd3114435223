"""Every task of docs/method.md#tasks, the other class orders, and the three names of a class."""

from __future__ import annotations

import numpy as np
import pytest

from lag_core.data import remap
from lag_core.protocol import IGNORE, ClassInfo, LabelSpace, Task, class_order, parse_task

VOC = range(1, 21)
ADE = range(1, 151)
ISPRS = range(1, 6)


def spans(*bounds: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """Steps from first and last id of each."""
    return tuple(tuple(range(first, last + 1)) for first, last in bounds)


def one_each(first: int, last: int) -> list[tuple[int, int]]:
    return [(i, i) for i in range(first, last + 1)]


VOC_TASKS = {
    "offline": spans((0, 20)),
    "19-1": spans((0, 19), (20, 20)),
    "15-5": spans((0, 15), (16, 20)),
    "15-1": spans((0, 15), *one_each(16, 20)),
    "10-1": spans((0, 10), *one_each(11, 20)),
    "5-5": spans((0, 5), (6, 10), (11, 15), (16, 20)),
    "5-3": spans((0, 5), (6, 8), (9, 11), (12, 14), (15, 17), (18, 20)),
    "5-1": spans((0, 5), *one_each(6, 20)),
    "2-2": spans((0, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16), (17, 18), (19, 20)),
    "2-1": spans((0, 2), *one_each(3, 20)),
}
VOC_STEPS = dict(zip(VOC_TASKS, (1, 2, 2, 6, 11, 4, 6, 16, 10, 19), strict=True))
ADE_TASKS = {
    "offline": spans((0, 150)),
    "100-50": spans((0, 100), (101, 150)),
    "100-10": spans((0, 100), (101, 110), (111, 120), (121, 130), (131, 140), (141, 150)),
    "100-5": spans((0, 100), *[(i, i + 4) for i in range(101, 150, 5)]),
    "50-50": spans((0, 50), (51, 100), (101, 150)),
    "50-20": spans((0, 50), (51, 70), (71, 90), (91, 110), (111, 130), (131, 150)),
}
ISPRS_TASKS = {
    "offline": spans((1, 5)),
    "4-1": spans((1, 4), (5, 5)),
    "2-3": spans((1, 2), (3, 5)),
    "2-2-1": spans((1, 2), (3, 4), (5, 5)),
    "2-1": spans((1, 2), *one_each(3, 5)),
    "1-1": spans(*one_each(1, 5)),
}


@pytest.mark.parametrize("name", VOC_TASKS)
def test_voc_tasks(name: str) -> None:
    task = parse_task(name, VOC, 0)
    assert task == Task(name, VOC_TASKS[name])
    assert len(task) == VOC_STEPS[name]


@pytest.mark.parametrize("name", ADE_TASKS)
def test_ade20k_tasks(name: str) -> None:
    assert parse_task(name, ADE, 0).steps == ADE_TASKS[name]


@pytest.mark.parametrize("name", ISPRS_TASKS)
def test_isprs_tasks_are_shifted_by_one_and_have_no_background(name: str) -> None:
    assert parse_task(name, ISPRS).steps == ISPRS_TASKS[name]


def test_a_task_follows_the_given_class_list() -> None:
    assert parse_task("3-1", [12, 8, 15, 13, 10], 0).steps == ((0, 12, 8, 15), (13,), (10,))


def test_the_last_step_takes_what_is_left() -> None:
    assert parse_task("3-4", range(1, 11)).steps == spans((1, 3), (4, 7), (8, 10))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("15", "expected 'offline' or numbers"),
        ("15-", "expected 'offline' or numbers"),
        ("fifteen-one", "expected 'offline' or numbers"),
        ("15-1_x", "expected 'offline' or numbers"),
        ("15-1_a", "expected 'offline' or numbers"),
        ("15-1\n", "expected 'offline' or numbers"),
        ("١٥-١", "expected 'offline' or numbers"),
        ("0-5", "each step needs at least one class"),
        ("15-0", "each step needs at least one class"),
        ("20-1", "names 21 classes, but there are 20"),
    ],
)
def test_wrong_tasks_are_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_task(name, VOC, 0)


def test_a_task_needs_classes() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        parse_task("1-1", [], 0)


LETTERS = "bcdefghijklmnopqrstuvw"


def test_the_22_other_orders_of_15_1_are_different_and_complete() -> None:
    orders = set()
    for letter in LETTERS:
        steps = parse_task(f"15-1_{letter}", VOC, 0).steps
        assert [len(step) for step in steps] == [16, 1, 1, 1, 1, 1]
        assert steps[0][0] == 0
        orders.add(tuple(i for step in steps for i in step))
        assert sorted(i for step in steps for i in step) == list(range(21))
    assert len(orders) == 22
    assert tuple(range(21)) not in orders


def test_an_order_is_the_same_everywhere_and_forever() -> None:
    """Stored runs name their task by the letter: what it stands for may never change."""
    assert parse_task("2-2-1_b", ISPRS).steps == ((3, 4), (2, 5), (1,))
    assert parse_task("15-1_w", VOC, 0).steps[1:] == ((2,), (14,), (15,), (7,), (19,))


def test_an_order_permutes_places_not_ids() -> None:
    names = class_order([10, 20, 30, 40], "f")
    assert [i // 10 for i in names] == class_order([1, 2, 3, 4], "f")


def voc_space(unknown: bool) -> LabelSpace:
    return LabelSpace(parse_task("15-1", VOC, 0).steps, 0, unknown)


def test_channels_with_unknown_class() -> None:
    labels = voc_space(unknown=True)
    assert labels.head_sizes(5) == (1, 1, 15, 1, 1, 1, 1, 1)  # docs/method.md#network
    assert labels.channels(5) == 22
    assert labels.new_channels(2) == range(18, 19)
    assert labels.old_channels(2) == range(2, 18)
    assert labels.class_indices(0) == range(16)


def test_channels_without_unknown_class() -> None:
    labels = voc_space(unknown=False)
    assert labels.head_sizes(5) == (16, 1, 1, 1, 1, 1)
    assert labels.new_channels(1) == range(16, 17)
    assert labels.old_channels(1) == range(1, 16)


@pytest.mark.parametrize("task", ["2-2-1", "1-1", "4-1", "2-3_k"])
@pytest.mark.parametrize("background", [None, 0])
def test_heads_and_channels_add_up_at_every_step(task: str, background: int | None) -> None:
    labels = LabelSpace(parse_task(task, ISPRS, background).steps, background, True)
    for step in range(len(labels.steps)):
        assert sum(labels.head_sizes(step)) == labels.channels(step)
        covered = [*range(labels.first_foreground), *labels.old_channels(step), *labels.new_channels(step)]
        assert sorted(set(covered)) == list(range(labels.channels(step)))
        for index in labels.class_indices(step):
            assert labels.step_of(index) == step


@pytest.mark.parametrize("setting", ["overlapped", "disjoint", "partitioned", "sequential"])
@pytest.mark.parametrize("background", [None, 0])
def test_targets_pixel_by_pixel(setting: str, background: int | None) -> None:
    """The lookup table against the rule, said once more: what is annotated at a step keeps its channel."""
    labels = LabelSpace(parse_task("2-2-1_c", ISPRS, background).steps, background, True)
    mask = np.array([[0, 1, 2, 3], [4, 5, IGNORE, 9]], np.uint8)
    for step in range(3):
        annotated = labels.steps[step] if setting != "sequential" else labels.order[: labels.seen(step)]
        result = remap.targets(mask, labels, step, setting)
        for dataset_id, channel in zip(mask.ravel().tolist(), result.ravel().tolist(), strict=True):
            if dataset_id == IGNORE:
                assert channel == IGNORE
            elif dataset_id in annotated and dataset_id != background:
                assert channel == labels.order.index(dataset_id) + 1
            else:
                assert channel == 0


def test_truth_and_dataset_ids_are_inverse() -> None:
    labels = LabelSpace(parse_task("5-3_q", VOC, 0).steps, 0)
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    truth = remap.truth(mask, labels)
    assert sorted(truth[truth != IGNORE].tolist()) == list(range(21))
    back = remap.dataset_ids(truth, labels)
    np.testing.assert_array_equal(back[mask <= 20], mask[mask <= 20])
    assert (back[mask > 20] == IGNORE).all()


@pytest.mark.parametrize(
    ("steps", "background", "unknown", "said"),
    [
        (((1, 2), (2,)), None, True, "introduced twice"),
        (((1, 255),), None, True, "must lie in 0..254"),
        (((1, 2), (3,)), None, False, "needs the unknown class"),
        (((1, 0), (2,)), 0, False, "background must be the first"),
    ],
)
def test_impossible_label_spaces_are_refused(
    steps: tuple[tuple[int, ...], ...], background: int | None, unknown: bool, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        LabelSpace(steps, background, unknown)


def test_unknown_names_of_classes_are_refused() -> None:
    labels = voc_space(unknown=True)
    with pytest.raises(ValueError, match="no step introduces dataset id 99"):
        labels.index_of(99)
    with pytest.raises(IndexError, match="no class index 21"):
        labels.step_of(21)


@pytest.mark.parametrize(
    ("steps", "background", "expected"),
    [
        (((0,), (1, 2)), 0, (1, 1, 2)),
        (((0, 1), (2,)), 0, (1, 1, 1, 1)),
        (((1,), (2,)), None, (1, 1, 1)),
        (((1, 2), (3,)), None, (1, 2, 1)),
    ],
)
def test_heads_of_small_first_steps(
    steps: tuple[tuple[int, ...], ...], background: int | None, expected: tuple[int, ...]
) -> None:
    """A background alone in step 0 shares no head with classes that are not there."""
    assert LabelSpace(steps, background, True).head_sizes(1) == expected


def test_steps_of_classes_to_the_last_one_and_no_further() -> None:
    labels = LabelSpace(((0, 7), (3, 9), (4,)), 0, True)
    assert [labels.step_of(index) for index in range(5)] == [0, 0, 1, 1, 2]
    assert [labels.index_of(one) for one in labels.order] == list(range(5)) and labels.order == (0, 7, 3, 9, 4)
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"no class index {index}: the task has 5 classes"):
            labels.step_of(index)


def test_channels_of_each_step_by_hand() -> None:
    labels = LabelSpace(((0, 7), (3, 9), (4,)), 0, True)
    assert [labels.seen(step) for step in range(3)] == [2, 4, 5]
    assert [labels.channels(step) for step in range(3)] == [3, 5, 6]
    assert [labels.new_channels(step) for step in range(3)] == [range(1, 3), range(3, 5), range(5, 6)]
    assert [labels.old_channels(step) for step in range(3)] == [range(2, 1), range(2, 3), range(2, 5)]
    assert (labels.catch_all, labels.offset, labels.first_foreground) == (0, 1, 2)
    bare = LabelSpace(((0, 7), (3,)), 0)
    assert (bare.catch_all, bare.offset, bare.first_foreground) == (0, 0, 1)
    assert LabelSpace(((7,), (3,)), None, True).first_foreground == 1


def test_tables_by_hand() -> None:
    labels = LabelSpace(((0, 7), (3, 9)), 0, True)
    target = labels.target_table(1, "overlapped")
    assert target.dtype == np.uint8 and target.shape == (256,)
    assert {int(i): int(target[i]) for i in np.flatnonzero(target)} == {3: 3, 9: 4, 255: 255}
    assert labels.target_table(1, "sequential")[7] == 2 and labels.labelled(1, "sequential") == (7, 3, 9)
    truth, back = labels.truth_table(), labels.dataset_table()
    assert {int(i): int(truth[i]) for i in np.flatnonzero(truth != IGNORE)} == {0: 0, 7: 1, 3: 2, 9: 3}
    assert back[:5].tolist() == [0, 7, 3, 9, IGNORE] and (back[5:] == IGNORE).all()
    assert truth.dtype == back.dtype == np.uint8 and truth.shape == back.shape == (256,)


def test_ids_from_0_to_254_are_allowed() -> None:
    assert LabelSpace(((0, 254),), None, True).order == (0, 254)
    for foreign in (-1, 255):
        with pytest.raises(ValueError, match=r"must lie in 0\.\.254"):
            LabelSpace(((1, foreign),), None, True)


def test_a_task_may_name_every_class_and_repeats_its_last_number() -> None:
    assert parse_task("2-3", range(1, 6)).steps == ((1, 2), (3, 4, 5))
    assert parse_task("1-2-1", range(1, 7)).steps == ((1,), (2, 3), (4,), (5,), (6,))
    assert parse_task("1-1_b", [5, 6], 0).name == "1-1_b"
    assert parse_task("offline", [5, 6], 0) == Task("offline", ((0, 5, 6),))
    with pytest.raises(ValueError, match=r"task '1-1_x'.*'_b' to '_w'"):
        parse_task("1-1_x", [5, 6])


def test_tasks_classes_and_label_spaces_can_be_keys() -> None:
    """Caches are keyed by them, so they never change."""
    for make in (
        lambda: parse_task("2-1", range(1, 4)),
        lambda: ClassInfo(1, "road", (1, 2, 3)),
        lambda: LabelSpace(((1,), (2,)), None, True),
    ):
        assert {make(): "kept"}[make()] == "kept"
