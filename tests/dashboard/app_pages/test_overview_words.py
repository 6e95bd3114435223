"""Overview in words: which class lost most, on fixed pixels and without the background."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from repository import ROOT

from dashboard.app_pages.overview import page as overview
from dashboard.app_pages.overview.scores import Scores, scores
from lag_core.explain import why
from lag_core.runs import open_run

CHECKPOINTS = ROOT / "checkpoints"


def told(name: str) -> tuple[SimpleNamespace, Scores]:
    run = open_run(CHECKPOINTS / name)
    found = scores(run)
    assert found is not None
    return SimpleNamespace(run=run, run2=None, step=run.last_step, last_step=run.last_step), found


@pytest.mark.parametrize(
    ("name", "cls", "before", "now"),
    [("animals-3-1-lagplus", "cat", 65, 61), ("aerial-2-2-1-reference", "building", 61, 56)],
)
def test_the_class_that_lost_most_is_no_background_and_stands_on_the_same_pixels(
    name: str, cls: str, before: int, now: int
) -> None:
    sentence = overview._worst_loss(*told(name))  # type: ignore[arg-type]
    assert sentence.startswith(f"**{cls}** lost most: ")
    numbers = [float(part.split()[-1]) for part in sentence.split(" %")[:2]]
    assert [round(n) for n in numbers] == pytest.approx([before, now], abs=2)
    assert "on the same pixels" in sentence


def test_old_leads_without_the_background() -> None:
    page, found = told("animals-3-1-finetune")
    assert "without background, have a mean IoU of **0.0 %**" in overview._answer(page, found, None)  # type: ignore[arg-type]
    now = found.headline(page.step)
    assert overview._beside("old_without_background", now, True) == "with background 20.3"


def test_a_background_that_is_never_right_is_still_there() -> None:
    nothing = {"old_without_background": 0.0, "old": 0.0}
    assert overview._beside("old_without_background", nothing, True) == "with background 0.0"
    assert overview._beside("old_without_background", nothing, False) == "there is no background"


def with_tree_at(best: int) -> tuple[SimpleNamespace, Scores]:
    """A run of three steps in which `tree`, introduced at step 1, never had more than `best` IoU points."""
    page, found = told("aerial-2-2-1-reference")
    tree, step = page.run.class_index("tree"), page.run.last_step
    ious = found.ious.copy()
    ious[:, tree] = [float("nan"), best / 100, 0.0][: step + 1]
    return page, replace(found, ious=ious, whole=ious)


@pytest.mark.parametrize("best", [0, 2, 4, 6, 40])
def test_overview_and_why_mean_the_same_by_never_learned(best: int) -> None:
    page, found = with_tree_at(best)
    told_here = "tree was never learned" in overview._never_learned(page, found)  # type: ignore[arg-type]
    assert told_here == (best < why.LEARNED) == (not why.was_learned(found.ious[1:, page.run.class_index("tree")]))


def test_nothing_has_no_sign() -> None:
    assert (overview._percent(-1e-5), overview._percent(-0.002)) == ("0.0", "-0.2")
    assert overview._difference(0.1, 0.10001) == "+0.0"
