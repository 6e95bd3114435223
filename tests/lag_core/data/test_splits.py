"""Images of each step: the published counts, and the rules on small sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from repository import ROOT

from lag_core.config import resolve
from lag_core.data.splits import domain_of_step, hold_out, images_of_step, of_domain
from lag_core.data.training_images import from_other_domains
from lag_core.protocol import SETTINGS, LabelSpace, parse_task

DATA = Path(os.environ.get("LAG_TEST_DATA") or ROOT.parent / "shared" / "data")
LISTS = DATA / "lists"

OVERLAPPED = {
    "15-1": [9568, 487, 299, 491, 500, 548],
    "15-5": [9568, 2145],
    "19-1": [10410, 548],
    "10-1": [6139, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548],
    "5-3": [2836, 2331, 1542, 2095, 4484, 1468],
}
DISJOINT = {
    "15-1": [8437, 378, 299, 420, 500, 548],
    "15-5": [8437, 2145],
    "19-1": [10034, 548],
    "10-1": [3706, 188, 868, 227, 201, 3247, 378, 299, 420, 500, 548],
    "5-3": [1753, 1517, 624, 1296, 3924, 1468],
}
TEN_PERCENT_OF_15_1 = [9568, 49, 30, 49, 50, 55]
"""docs/method.md#little-data."""

Present = dict[str, frozenset[int]]


def space(task: str, classes: int = 20) -> LabelSpace:
    return LabelSpace(parse_task(task, range(1, classes + 1), 0).steps, 0)


def read_present(name: str) -> Present:
    path = LISTS / name
    if not path.is_file():
        pytest.skip(f"no {path}: set LAG_TEST_DATA to the folder with the local test data")
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return {first: frozenset(map(int, rest)) for first, *rest in lines}


@pytest.fixture(scope="module")
def voc() -> Present:
    return read_present("voc_train_aug_classes.txt")


def counts(present: Present, task: str, setting: str, **options: object) -> list[int]:
    labels = space(task)
    return [
        len(images_of_step(present, labels, step, setting, **options))  # type: ignore[arg-type]
        for step in range(len(labels.steps))
    ]


def test_sizes_of_voc(voc: Present) -> None:
    assert len(voc) == 10582
    assert len(read_present("voc_val_classes.txt")) == 1449


@pytest.mark.parametrize("task", OVERLAPPED)
def test_published_counts_overlapped(voc: Present, task: str) -> None:
    assert counts(voc, task, "overlapped") == OVERLAPPED[task]


@pytest.mark.parametrize("task", DISJOINT)
def test_published_counts_disjoint(voc: Present, task: str) -> None:
    assert counts(voc, task, "disjoint") == DISJOINT[task]


@pytest.mark.parametrize("selection", ["prefix", "random"])
def test_published_counts_of_ten_percent(voc: Present, selection: str) -> None:
    assert counts(voc, "15-1", "overlapped", fraction=0.1, selection=selection) == TEN_PERCENT_OF_15_1


def test_partitioned_voc_uses_every_image_once(voc: Present) -> None:
    labels = space("15-1")
    steps = [images_of_step(voc, labels, step, "partitioned") for step in range(6)]
    assert sorted(name for step in steps for name in step) == sorted(voc)
    # An image with classes of n steps falls into each with probability 1 / n.
    expected = sum(1 / sum(not set(s).isdisjoint(found) for s in labels.steps) for found in voc.values() if 16 in found)
    assert len(steps[1]) == pytest.approx(expected, abs=4 * expected**0.5)


SMALL: Present = {
    "d": frozenset({0, 1}),
    "a": frozenset({0, 1, 3}),
    "c": frozenset({0, 3}),
    "b": frozenset({0, 2, 4}),
    "f": frozenset({0}),
    "e": frozenset({3, 4}),
}


def test_small_set_overlapped() -> None:
    labels = space("2-1", 4)
    assert images_of_step(SMALL, labels, 0, "overlapped") == ["d", "a", "b"]
    assert images_of_step(SMALL, labels, 1, "overlapped") == ["a", "c", "e"]
    assert images_of_step(SMALL, labels, 2, "overlapped") == ["b", "e"]


@pytest.mark.parametrize("setting", ["disjoint", "sequential"])
def test_small_set_without_future_classes(setting: str) -> None:
    labels = space("2-1", 4)
    assert images_of_step(SMALL, labels, 0, setting) == ["d"]
    assert images_of_step(SMALL, labels, 1, setting) == ["a", "c"]
    assert images_of_step(SMALL, labels, 2, setting) == ["b", "e"]


def test_disjoint_steps_share_no_image_whatever_the_class_order(voc: Present) -> None:
    labels = space("15-1_k")
    steps = [images_of_step(voc, labels, step, "disjoint") for step in range(6)]
    assert sum(map(len, steps)) == len(set().union(*steps)) == len(voc)


def test_without_background_id_0_is_a_class_like_any_other() -> None:
    labels = LabelSpace(((0,), (1,)), None, True)
    present = {"a": frozenset({0}), "b": frozenset({1}), "c": frozenset({0, 1})}
    assert images_of_step(present, labels, 0, "overlapped") == ["a", "c"]
    assert images_of_step(present, labels, 0, "disjoint") == ["a"]


def many(count: int) -> Present:
    return {f"image-{i:04}": frozenset({0, 1 + i % 3, 1 + i % 4}) for i in range(count)}


def test_partitioned_is_a_partition_of_images_that_have_a_class() -> None:
    present = many(400) | {"only background": frozenset({0})}
    labels = space("2-1", 4)
    steps = [images_of_step(present, labels, step, "partitioned", seed=3) for step in range(3)]
    assert sorted(name for names in steps for name in names) == sorted(many(400))
    for step, names in enumerate(steps):
        assert all(present[name] & set(labels.steps[step]) - {0} for name in names)
        assert names == [name for name in present if name in set(names)]


def test_partitioned_changes_with_the_seed_but_not_with_other_images() -> None:
    labels = space("2-1", 4)
    first = images_of_step(many(300), labels, 1, "partitioned", seed=1)
    assert first == images_of_step(many(300), labels, 1, "partitioned", seed=1)
    assert first != images_of_step(many(300), labels, 1, "partitioned", seed=2)
    more = images_of_step(many(400), labels, 1, "partitioned", seed=1)
    assert first == [name for name in more if name in many(300)]


def test_prefix_keeps_the_first_names_of_later_steps() -> None:
    labels = space("2-1", 4)
    every = images_of_step(many(100), labels, 1, "overlapped")
    kept = images_of_step(many(100), labels, 1, "overlapped", fraction=0.3)
    assert kept == every[: round(0.3 * len(every))]
    assert images_of_step(many(100), labels, 0, "overlapped", fraction=0.3) == images_of_step(
        many(100), labels, 0, "overlapped"
    )


def test_random_selection_keeps_file_order_and_grows() -> None:
    labels = space("2-1", 4)

    def kept(fraction: float, seed: int = 0) -> list[str]:
        return images_of_step(many(200), labels, 2, "overlapped", fraction=fraction, selection="random", seed=seed)

    assert kept(0.2) == sorted(kept(0.2)) == kept(0.2)
    assert set(kept(0.2)) < set(kept(0.5)) < set(kept(1.0))
    assert kept(0.2) != kept(0.2, seed=1)
    assert kept(0.2) != kept(1.0)[: len(kept(0.2))]


@pytest.mark.parametrize("selection", ["prefix", "random"])
def test_at_least_one_image_is_kept(selection: str) -> None:
    kept = images_of_step(SMALL, space("2-1", 4), 2, "overlapped", fraction=0.01, selection=selection)  # type: ignore[arg-type]
    assert len(kept) == 1


def test_no_image_for_a_step_is_an_empty_list() -> None:
    assert images_of_step({"a": frozenset({0, 1})}, space("2-1", 4), 2, "overlapped", fraction=0.5) == []


def test_unknown_setting_and_selection_are_refused() -> None:
    with pytest.raises(ValueError, match="setting 'overlaped': allowed are overlapped"):
        images_of_step(SMALL, space("2-1", 4), 0, "overlaped")
    with pytest.raises(ValueError, match="selection 'first'"):
        images_of_step(SMALL, space("2-1", 4), 0, "overlapped", selection="first")  # type: ignore[arg-type]


def domain_of(name: str) -> str:
    """Equal to the domain's name, and another object."""
    return "".join(["r", "gb"] if int(name[-1]) % 2 == 0 else ["ir", "rg"])


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_step_sees_its_domain_alone(setting: str) -> None:
    labels, present = space("2-1", 4), many(300)
    options = {"domain_of": domain_of, "domains": ("rgb", "irrg")}
    for step in range(3):
        names = images_of_step(present, labels, step, setting, **options)  # type: ignore[arg-type]
        assert names and {domain_of(name) for name in names} == {"rgb" if step == 0 else "irrg"}
        if setting != "partitioned":
            own = {name: present[name] for name in of_domain(present, domain_of, domain_of_step(("rgb", "irrg"), step))}
            assert names == images_of_step(own, labels, step, setting)


def test_partitioned_with_domains_loses_no_image_to_a_step_of_another_domain() -> None:
    labels, present = space("2-1", 4), {f"x{i}": frozenset({1, 3, 4}) for i in range(0, 100, 2)}
    names = images_of_step(present, labels, 0, "partitioned", domain_of=domain_of, domains=("rgb", "irrg"))
    assert names == list(present)


@pytest.mark.parametrize(
    ("domains", "expected"),
    [((), [[], [], []]), (("rgb",), [[], [], []]), (("rgb", "irrg"), [[], [2, 3], [2, 3]]),
     (("rgb", "irrg", "rgb"), [[], [2, 3], [4]])],
)  # fmt: skip
def test_old_channels_of_other_domains(domains: tuple[str, ...], expected: list[list[int]]) -> None:
    """Background and unknown belong to no step."""
    labels = LabelSpace(((0, 1, 2), (3,), (4,)), background=0, unknown=True)
    config = resolve({"data": {"dataset": "aerial", "domains": list(domains)}})
    assert [from_other_domains(config, labels, step) for step in range(3)] == expected


def test_domain_of_step() -> None:
    assert [domain_of_step(("rgb", "irrg"), step) for step in range(3)] == ["rgb", "irrg", "irrg"]
    assert domain_of_step(("rgb",), 4) == "rgb"
    assert domain_of_step((), 2) is None
    assert of_domain(["x1", "x2"], domain_of, None) == ["x1", "x2"]


@pytest.mark.parametrize(("share", "held"), [(0.0, 0), (0.1, 12), (0.001, 1), (0.9, 108), (1.0, 119)])
def test_hold_out_shares(share: float, held: int) -> None:
    ids = list(many(120))
    train, aside = hold_out(ids, share, 0)
    assert (len(train), len(aside)) == (120 - held, held)
    assert sorted(train + aside) == ids
    assert train == sorted(train) and aside == sorted(aside)


def test_hold_out_follows_the_seed() -> None:
    ids = list(many(120))
    assert hold_out(ids, 0.1, 5) == hold_out(ids, 0.1, 5)
    assert hold_out(ids, 0.1, 5) != hold_out(ids, 0.1, 6)
    assert hold_out(["one"], 0.5, 0) == (["one"], [])
    assert hold_out([], 0.5, 0) == ([], [])


def test_the_background_gives_an_image_to_no_step() -> None:
    labels = space("2-1", 4)
    present = {"ground": frozenset({0}), "none": frozenset(), "first": frozenset({0, 2})}
    for setting in SETTINGS:
        assert images_of_step(present, labels, 0, setting) == ["first"]
    bare = LabelSpace(parse_task("2-1", range(1, 5)).steps, None, True)
    assert images_of_step({"ground": frozenset({0, 1})}, bare, 0, "disjoint") == [], "0 is a class of no step here"


def test_a_fraction_rounds_and_a_whole_one_keeps_all() -> None:
    labels, present = space("1-1", 2), {f"i{k}": frozenset({2}) for k in range(10)}
    for selection in ("prefix", "random"):
        for fraction, kept in ((0.24, 2), (0.26, 3), (0.04, 1), (0.99, 10), (1.0, 10), (2.0, 10)):
            names = images_of_step(present, labels, 1, "overlapped", fraction=fraction, selection=selection)  # type: ignore[arg-type]
            assert len(names) == kept


def test_a_domain_without_a_way_to_tell_it_keeps_every_image() -> None:
    labels = space("1-1", 2)
    assert images_of_step({"a": frozenset({1})}, labels, 0, "overlapped", domains=("rgb",)) == ["a"]
    assert images_of_step({"a": frozenset({1})}, labels, 0, "overlapped", domain_of=domain_of) == ["a"]


def test_draws_stay_what_they_are() -> None:
    """Stored runs were trained on these images: what a seed draws may never change."""
    labels, present = space("2-1", 4), {f"x{i:02d}": frozenset({1, 3, 4}) for i in range(12)}
    drawn = [images_of_step(present, labels, step, "partitioned", seed=5) for step in range(3)]
    assert drawn[:2] == [["x00", "x01", "x03", "x05", "x11"], ["x06"]]
    assert sorted(name for names in drawn for name in names) == list(present)
    kept = images_of_step(present, labels, 1, "overlapped", fraction=0.3, selection="random", seed=5)
    assert kept == ["x00", "x03", "x05", "x11"]
    assert hold_out(list(present), 0.25, 5)[1] == ["x00", "x02", "x06"]


def test_a_share_that_is_not_positive_and_a_single_image_hold_nothing_out() -> None:
    assert hold_out(["a", "b"], -0.5, 0) == (["a", "b"], [])
    train, held = hold_out(["a", "b"], 1.0, 0)
    assert len(train) == len(held) == 1
    assert [len(hold_out(list("abcdefghij"), share, 0)[1]) for share in (0.04, 0.14, 0.16, 0.95)] == [1, 1, 2, 9]
