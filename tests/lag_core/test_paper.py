"""What a paper's tables need: intervals over images, boundary IoU, seeds in groups, paired tests, formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapes import tiny_run, write_shapes

from lag_core.boundary import BoundaryCounts, band, distance_of
from lag_core.cli import main
from lag_core.comparison import COLUMNS
from lag_core.comparison import row as row_of_matrices
from lag_core.groups import Group, for_paper, grouped, sign_flip
from lag_core.image_counts import ImageCounts
from lag_core.image_pairs import FILE, Counted, image_pairings, kept
from lag_core.metrics import confusion, iou, seen_only
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, RunError, open_run, read_tensors, write_tensors
from lag_core.tabulating import FORMATS, tabulated

pytestmark = pytest.mark.usefixtures("no_fsync")
LABELS = LabelSpace(((0, 1), (2,)), 0)
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train_images=10)


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, Run]:
    """Two methods on two seeds."""
    names = ("finetune", "frozen")
    return {
        f"{n}-{seed}": tiny_run(root, root.parent / f"{n}-{seed}", n, optim={"seed": seed})
        for n in names
        for seed in (0, 1)
    }


@pytest.fixture
def lag(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(one) for one in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


# Intervals over images


def pictures(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    truths = [rng.integers(0, 3, (6, 7)).astype(np.uint8) for _ in range(n)]
    truths[0][0] = 255
    return [(true, np.where(rng.random(true.shape) < 0.6, true % 3, rng.integers(0, 3, true.shape))) for true in truths]


def counted(images: list[tuple[np.ndarray, np.ndarray]]) -> ImageCounts:
    found = ImageCounts(LABELS)
    for place, (true, called) in enumerate(images):
        for step in (0, 1):
            found.add(step, str(place), true, called if step else np.minimum(called, 1))
    return found


def test_the_iou_is_that_of_all_images_together() -> None:
    images = pictures(9)
    found = counted(images).intervals()
    for step, seen in enumerate((2, 3)):
        matrix = sum(confusion(t, c if step else np.minimum(c, 1), 3) for t, c in images)
        expected = iou(seen_only(matrix, seen))
        expected[seen:] = np.nan
        assert np.allclose(found.iou[step, :3], expected, equal_nan=True)
        assert found.iou[step, 3] == pytest.approx(np.nanmean(expected))


def test_the_interval_agrees_with_drawing_images_one_by_one() -> None:
    images = pictures(12)
    found = counted(images).intervals(draws=2000)
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(2000):
        chosen = rng.integers(0, len(images), len(images))
        drawn.append(iou(sum(confusion(*images[i], 3) for i in chosen)))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    assert np.allclose(found.low[1, :3], low, atol=0.01) and np.allclose(found.high[1, :3], high, atol=0.01)


def test_equal_images_leave_nothing_to_chance_and_what_is_not_there_has_no_interval() -> None:
    true = np.zeros((4, 4), np.uint8)
    true[0] = 1
    called = np.zeros((4, 4), np.uint8)
    called[0, :2] = 1
    found = counted([(true, called)] * 5).intervals()
    assert found.iou[0, 1] == found.low[0, 1] == found.high[0, 1] == 0.5
    assert np.isnan(found.low[1, 2]) and found.as_dict(1)["iou"][2] is None


# Boundary IoU


def test_the_band_is_what_is_near_the_outline() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((12, 15)) < 0.8
    for distance in (1, 2, 3):
        padded = np.pad(mask, distance)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * distance + 1, 2 * distance + 1))
        assert np.array_equal(band(mask, distance), mask & ~windows.all((2, 3)))


def test_boundary_iou_sees_an_outline_that_iou_hardly_does() -> None:
    true = np.zeros((100, 100), np.uint8)
    true[20:80, 20:80] = 1
    called = np.zeros_like(true)
    called[22:78, 22:78] = 1
    found = BoundaryCounts(LABELS, 1)
    found.add(0, "a", true, called)
    distance = distance_of(true.shape)
    assert distance == 3
    inner = 56**2 - 50**2
    both = 58 * 0 + (56**2 - 54**2)
    assert found.iou()[0, 1] == pytest.approx(both / (60**2 - 54**2 + inner - both))
    assert found.iou()[0, 1] < 0.5 < iou(confusion(true, called, 3))[1]
    assert np.isnan(found.iou()[0, 2])


def test_pixels_that_are_not_annotated_have_no_outline_of_their_own() -> None:
    true = np.full((50, 50), 255, np.uint8)
    true[:, :25] = 0
    found = BoundaryCounts(LABELS, 1)
    found.add(0, "a", true, np.zeros_like(true))
    assert found.iou()[0, 0] == 1.0


# Groups and tests


def test_seeds_of_one_configuration_are_one_line(lag: Said, runs: dict[str, Run]) -> None:
    paths = [run.path for run in runs.values()]
    status, out, _ = lag("compare", *paths, "--group", "--format", "json")
    found = json.loads(out)
    assert status == 0 and [g["name"] for g in found["groups"]] == ["finetune", "frozen"]
    for group in found["groups"]:
        values = [row["all"] for row in group["runs"]]
        assert group["seeds"] == [0, 1]
        assert group["mean"]["all"] == pytest.approx(np.mean(values))
        assert group["spread"]["all"] == pytest.approx(np.std(values, ddof=1))
    (pair,) = found["paired"]
    differences = [a["all"] - b["all"] for a, b in zip(*(g["runs"] for g in found["groups"]), strict=True)]
    assert pair["difference"] == pytest.approx(np.mean(differences)) and pair["seeds"] == [0, 1]
    assert pair["p"] in (0.5, 1.0), "two pairs: never below 2 / 4"


def test_the_sign_flip_test_counts_all_flips() -> None:
    assert sign_flip(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip(np.array([1.0, 2.0, -3.0])) == 1.0
    assert sign_flip(np.array([0.4, 0.5, 0.6, 0.5, -0.1])) == pytest.approx(4 / 32)


def test_groups_of_one_method_are_told_apart_by_their_settings(root: Path, tmp_path: Path) -> None:
    made = [tiny_run(root, tmp_path / str(e), "frozen", optim={"epochs_later": e}) for e in (1, 2)]
    from lag_core.comparison import row

    names = [group.name for group in grouped(made, [row(one, one.confusions()) for one in made])]
    assert names == ["frozen (optim.epochs_later=1)", "frozen (optim.epochs_later=2)"]


def test_one_seed_twice_is_refused(lag: Said, runs: dict[str, Run]) -> None:
    path = runs["frozen-0"].path
    status, _, err = lag("compare", path, path, "--group")
    assert status == 2 and "has a seed twice" in err


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("group", [(), ("--group",)])
def test_every_format_holds_every_number(lag: Said, runs: dict[str, Run], form: str, group: tuple[str, ...]) -> None:
    paths = [run.path for run in runs.values()]
    _, plain, _ = lag("compare", *paths, "--json")
    status, out, _ = lag("compare", *paths, *group, "--format", form)
    assert status == 0
    for row in json.loads(plain):
        assert f"{100 * row['all']:.2f}" in out
    assert all(heading in out for heading in COLUMNS.values())


def test_csv_and_latex_are_what_they_claim_to_be() -> None:
    heading, rows = ["run", "a,b"], [['x "1"', "1.5 ± 0.2"], ["50 % & lag_x", "-"]]
    assert list(csv.reader(io.StringIO(tabulated(heading, rows, "csv")))) == [heading, *rows]
    latex = tabulated(heading, rows, "latex")
    assert r"50 \% \& lag\_x & - \\" in latex and r"1.5 $\pm$ 0.2" in latex
    assert latex.startswith(r"\begin{tabular}{lr}") and latex.endswith(r"\end{tabular}")
    below = tabulated(["m", "bwt*"], [["a-1", "-31.24 ± 0.10"]], "latex", bold={(0, 1)}, notes=["* as in the papers"])
    assert r"a-1 & \textbf{$-$31.24 $\pm$ 0.10} \\" in below and r"\footnotesize * as in the papers" in below
    assert tabulated(heading, rows, "markdown").splitlines()[1] == "|---|---:|"


def test_the_table_for_a_paper_marks_the_best_of_each_column_and_explains_the_star(
    lag: Said, runs: dict[str, Run]
) -> None:
    one = next(iter(runs.values()))
    matrices = one.confusions()
    assert matrices is not None
    groups = [
        Group(name, (replace(row, all=value, forgetting=value),), (0,))
        for name, value in (("a", 0.2), ("b", 0.4))
        for row in [row_of_matrices(one, matrices)]
    ]
    first, second = (line.split(" | ") for line in for_paper(groups, "markdown").splitlines()[2:4])
    place = 2 + list(COLUMNS).index("all")
    assert (first[place], second[place]) == ("20.00", "**40.00**"), "the higher IoU"
    place = 2 + list(COLUMNS).index("forgetting")
    assert (first[place], second[place]) == ("**20.00**", "40.00"), "the lower forgetting"
    assert r"\* as in the papers" in for_paper(groups, "markdown")
    assert "**" not in for_paper(groups[:1], "markdown"), "alone, nothing is the best"
    _, printed, _ = lag("compare", *(run.path for run in runs.values()), "--group", "--format", "latex")
    assert r"\footnotesize * as in the papers" in printed, "the command prints the same table"


# Other images


def test_compare_and_evaluate_say_that_other_images_were_measured(
    lag: Said, runs: dict[str, Run], root: Path, tmp_path: Path
) -> None:
    first = runs["finetune-0"]
    other = write_shapes(tmp_path / "shapes", train_images=12, val_images=3)
    moved = tiny_run(other, tmp_path / "moved", "frozen")
    _, _, err = lag("compare", first.path, moved.path)
    assert "moved was measured on other images than finetune-0" in err
    _, _, err = lag("compare", first.path, runs["frozen-0"].path)
    assert err == ""
    _, out, _ = lag("evaluate", first.path, "--data", other)
    assert "the dataset is not the one that the stored metrics measured" in out


def test_evaluate_gives_each_class_an_interval_and_its_boundary(lag: Said, runs: dict[str, Run]) -> None:
    run = runs["frozen-0"]
    status, out, _ = lag("evaluate", run.path, "--json", "--boundary")
    steps: list[dict[str, Any]] = json.loads(out)["steps"]
    confusions = open_run(run.path).confusions()
    assert status == 0 and confusions is not None
    for step, found in enumerate(steps):
        expected = iou(seen_only(confusions[step], run.labels.seen(step)))
        for k in range(run.labels.seen(step)):
            if found["classes"]["iou"][k] is not None:
                assert found["classes"]["iou"][k] == pytest.approx(expected[k], abs=1e-6)
                assert found["classes"]["low"][k] <= found["classes"]["iou"][k] <= found["classes"]["high"][k]
        assert len(found["boundary_iou"]) == len(run.classes)
    _, text, _ = lag("evaluate", run.path, "--boundary")
    assert "95 % bootstrap interval" in text and "mean of known classes" in text and "Boundary IoU: 2 %" in text


# Paired over images


def test_methods_are_compared_on_the_same_images(lag: Said, runs: dict[str, Run]) -> None:
    paths = [run.path for run in runs.values()]
    status, _, err = lag("compare", *paths, "--group", "--format", "json")
    assert status == 0 and "no paired test over images" in err and "lag evaluate" in err
    for path in paths:
        assert lag("evaluate", path, "--write")[0] == 0
    _, out, err = lag("compare", *paths, "--group", "--format", "json")
    found = json.loads(out)
    (pair,) = found["paired_over_images"]
    means = [group["mean"]["all"] for group in found["groups"]]
    assert err == "" and pair["difference"] == pytest.approx(means[0] - means[1])
    assert pair["low"] <= pair["difference"] <= pair["high"] and 0 < pair["p"] <= 1
    _, text, _ = lag("compare", *paths, "--group")
    assert f"{100 * pair['difference']:+.2f}" in text and "over images: bootstrap" in text
    _, _, err = lag("compare", *paths, "--group", "--measure", "bwt")
    assert "can be tested, not bwt" in err


def test_a_difference_in_every_image_is_sure_and_none_is_not(runs: dict[str, Run]) -> None:
    run, names = runs["frozen-0"], tuple(f"i{n}" for n in range(30))
    chance = np.random.default_rng(0)
    right = chance.integers(40, 60, (30, len(run.steps), len(run.classes)))
    for step in range(len(run.steps)):
        right[:, step, run.labels.seen(step) :] = 0
    one = np.stack([right, 2 * right, 2 * right], 2)
    better = one.copy()
    better[:, :, 0] += right // 4
    pairs = [[Counted(run, names, better)], [Counted(run, names, one)]]
    groups = [Group("better", (), (0,)), Group("one", (), (0,))]
    (sure,) = image_pairings(groups, pairs, "all", draws=199)
    (equal,) = image_pairings(groups, [pairs[0], pairs[0]], "all", draws=199)
    assert sure.difference > 0.1 and sure.low > 0 and sure.p == pytest.approx(2 / 200)
    assert equal.difference == 0 and equal.p == 1
    with pytest.raises(ValueError, match="other images"):
        image_pairings(groups, [pairs[0], [Counted(run, names[::-1], one)]], "all")


@pytest.mark.parametrize("damage", ["shape", "ids", "sum", "missing"])
def test_counts_that_do_not_fit_the_run_are_refused(runs: dict[str, Run], damage: str, lag: Said) -> None:
    run = runs["frozen-1"]
    lag("evaluate", run.path, "--write")
    arrays = read_tensors(run.path / FILE)
    assert kept(run).counts.sum() > 0
    if damage == "shape":
        arrays["counts"] = arrays["counts"][:, :1]
    elif damage == "ids":
        arrays["ids"] = np.zeros_like(arrays["ids"]) + ord("\n")
    elif damage == "sum":
        arrays["counts"][0, 0, 1, 0] += 1
    else:
        del arrays["counts"]
    write_tensors(run.path / FILE, arrays)
    with pytest.raises(RunError, match="--write` counts them"):
        kept(run)
