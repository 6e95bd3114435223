"""Forgetting page: the views that count pixels, in the selected picture or in the validation set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.forgetting import fates, figures
from dashboard.app_pages.forgetting.fates import Losses, Story
from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.page import Empty, Page
from dashboard.picture import measured_on, predictions
from dashboard.picture.measured_on import MeasuredOn
from dashboard.sidebar import class_names
from dashboard.state import selection
from dashboard.ui import untrusted, wording
from lag_core.explain.forgetting import ImageLoss
from lag_core.runs import Run

FLOW_HEIGHT = 520
LOWER_HEIGHT = 290
GALLERY_SIZE, GALLERY_SIDE = 9, 82
NAMES, NAMES_HEIGHT = 10, 365
"""Rows of the table of names, and its pixels with them: it ends with a whole row."""

PICTURE, SET = "picture", "set"
"""What is counted."""


def draw_flows(page: Page, picture: Picture | None, told: Story | None, told2: Story | None, scope: str) -> None:
    blind = picture is not None and told is None
    name = untrusted.name(page.class_info.name, 24)
    title = "Where its pixels went" if blind else f"Where {name} went"
    what = "this picture" if blind or scope == PICTURE else "the validation set"
    reading = (
        f"All pixels of {what} by predicted class; orange changed class."
        if blind
        else f"True {name} pixels in {what}: orange leaves the class, light blue joins it."
    )
    with page.section(
        title,
        reading,
        slug="flows",
        formula=r"F^t_{ij} = |\{p : y_p = c,\ \hat y^t_p = i,\ \hat y^{t+1}_p = j\}|",
        source="ours; classes with less than 2 % of the pixels of a step are drawn together as others",
    ) as view:
        runs = _flow_runs(page, picture, told, told2, scope)
        if page.last_step == 0:
            raise Empty("This run has a single step, so no pixel can move.")
        if not any(flows.any() for _, flows in runs):
            raise Empty(f"There is no {name} in {what}. Choose another class, or the validation set above.")
        runs = [(run, flows) for run, flows in runs if flows.any()]
        view.csv(lambda: _flow_table(page.run, runs))
        view.plot(
            lambda: figures.flow_diagram(
                runs, page.run.classes, page.ink, cls=None if blind else page.cls, step=page.step, height=FLOW_HEIGHT
            ),
            "Flows of pixels between predicted classes from step to step", height=FLOW_HEIGHT, below=True,
        )  # fmt: skip


def _flow_runs(
    page: Page, picture: Picture | None, told: Story | None, told2: Story | None, scope: str
) -> list[tuple[str, np.ndarray]]:
    """Name and flows of the run and the compared one, in the class indices of the run."""
    count = len(page.run.classes)
    if picture is not None and told is None:
        runs = [(page.run.name, np.stack(predictions.answers(page.run, picture).predictions))]
        if page.run2:
            other = predictions.answers(page.run2, picture, page.run).predictions
            runs.append((page.run2.name, np.stack(other)))
        named = [(name, fates.flows_of_all(maps, count)) for name, maps in runs]
    else:
        named = [(name, losses.flows(page.cls)) for name, losses in _counted(page, told, told2, scope)]
    named = [(name, flows) for name, flows in named if len(flows)]
    return named if len(named) > 1 else [("", flows) for _, flows in named]


def _flow_table(run: Run, runs: Sequence[tuple[str, np.ndarray]]) -> dict[str, list[Any]]:
    rows = [
        (name or run.name, t, run.classes[a].name, run.classes[b].name, int(flow[a, b]))
        for name, flows in runs
        for t, flow in enumerate(flows)
        for a, b in np.argwhere(flow).tolist()
    ]
    heads = ("run", "step", "class at step", "class at next step", "pixels")
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


# ---------------------------------------------------------------------- counts


def _counted(page: Page, told: Story | None, told2: Story | None, scope: str) -> list[tuple[str, Losses]]:
    """Name and counts of the run, and of the compared one where it has them, in the run's class indices.

    `Empty` where the run itself has none.
    """
    if scope == PICTURE and told:
        found = [(page.run.name, told.losses)]
        if page.run2 and told2:
            found.append((page.run2.name, fates.in_order_of(told2.losses, page.run, page.run2)))
        return found
    part = measured_on.of_page(page)
    own = fates.losses_of(part) if part else fates.survey_of(page.run)
    if own is None:
        raise Empty(no_survey(page.run))
    theirs = _theirs(page, part)
    found = [(page.run.name, own)]
    if page.run2 and theirs:
        found.append((page.run2.name, fates.in_order_of(theirs, page.run, page.run2)))
    return found


def _theirs(page: Page, part: MeasuredOn | None) -> Losses | None:
    """Of the compared run: on the same pictures where it knows them, else on all of its own."""
    same = measured_on.in_run(part, page.run2, page.data_root)
    if same is not None:
        return fates.losses_of(same)
    return fates.survey_of(page.run2) if page.run2 else None


def no_survey(run: Run) -> str:
    """What to do where a run was not surveyed (Markdown)."""
    name = untrusted.name(run.name)
    return (
        f"{name} has no survey of its validation images yet. Run `python -m lag_core survey` once with the "
        "run's folder."
    )


def draw_lost(page: Page, told: Story | None, told2: Story | None, scope: str) -> None:
    what = "this picture" if scope == PICTURE else "the validation set"
    with page.section(
        "Lost, by class and step",
        f"Percent of a class's pixels that were right and are now wrong, in {what}; click a cell.",
        slug="lost",
        formula=r"L_{t,c} = \frac{|\{p : y_p = c,\ p \text{ forgotten after } t\}|}{|\{p : y_p = c\}|}",
        source="ours; blank where the class has no pixels",
    ) as view:
        counted = _counted(page, told, told2, scope)
        losses = counted[0][1]
        shares = _from_introduction(losses.shares(), page.run)
        other = counted[1] if len(counted) > 1 else None
        names = [c.name for c in page.run.classes]
        table: dict[str, Any] = {"class": names, "pixels": losses.pixels}
        view.csv(table | {f"step {t}": row for t, row in enumerate(shares)})
        points = view.plot(
            lambda: figures.lost_matrix(
                shares, losses.pixels, page.run.classes, page.ink, step=page.step, cls=page.cls,
                other=other[1].shares() if other else None, other_name=other[0] if other else "",
            ),
            "Heat map of lost pixels in percent, by class and step", height=LOWER_HEIGHT, select=True, below=True,
        )  # fmt: skip
        if points and selection.fresh("lost", points[0]["customdata"]):
            step, cls = points[0]["customdata"]
            selection.go(step=step, cls=class_names(page.run)[cls])


def _from_introduction(shares: np.ndarray, run: Run) -> np.ndarray:
    """With NaN before a class is introduced: there is nothing yet that could be lost."""
    known = shares.copy()
    for t in range(len(known)):
        known[t, run.labels.seen(t) :] = np.nan
    return known


def draw_shift(page: Page, told: Story | None, told2: Story | None, scope: str, only: bool) -> None:
    name = untrusted.name(page.class_info.name, 24)
    what = f"Pixels of {name}" if only else "Pixels of old classes"
    hatched = f"; hatched: {untrusted.name(page.run2.name, 40)}" if page.run2 else ""
    where = "this picture" if scope == PICTURE else "the validation set"
    with page.section(
        "Background shift",
        f"{what} in {where}, by what each step calls them{hatched}.",
        slug="shift",
        formula=r"S^t_j = \frac{\sum_{c\,\text{old}} N^t_{cj}}{\sum_{c\,\text{old}} \sum_k N^t_{ck}}",
        source="docs/method.md#confusion; old: introduced before step t, without background; j summed over groups",
    ) as view:
        runs = [
            (run, fates.shift_of(losses, page.run, page.cls if only else None))
            for run, losses in _shift_counts(page, told, told2, scope)
        ]
        if all(np.isnan(shares).all() for _, shares in runs):
            raise Empty(f"No step has {name if only else 'a class'} among its old classes here.")
        view.csv(lambda: _shift_table(runs))
        ground = page.run.labels.background is not None
        view.plot(
            lambda: figures.shift_bars(runs, page.ink, step=page.step, background=ground),
            "Stacked shares of what pixels of old classes are called", height=LOWER_HEIGHT, below=True,
        )  # fmt: skip


def _shift_counts(page: Page, told: Story | None, told2: Story | None, scope: str) -> list[tuple[str, Losses]]:
    """As `_counted`; over the validation set the confusion matrices of the evaluation suffice."""
    if scope == PICTURE and told:
        return _counted(page, told, told2, scope)
    part = measured_on.of_page(page)
    same = measured_on.in_run(part, page.run2, page.data_root)
    found = [(page.run.name, _only_confusions(part.confusions() if part else page.confusions()))]
    theirs = same.confusions() if same else loaders.confusions(page.run2) if page.run2 else None
    if page.run2 and theirs is not None:
        found.append((page.run2.name, fates.in_order_of(_only_confusions(theirs), page.run, page.run2)))
    return found


def _only_confusions(matrices: np.ndarray) -> Losses:
    empty = np.zeros(matrices.shape[:2], np.int64)
    return Losses(matrices[0].sum(1), empty, matrices, lambda cls: np.zeros((0, 0, 0), np.int64))


def _shift_table(runs: Sequence[tuple[str, np.ndarray]]) -> dict[str, list[Any]]:
    rows = [(name, t, *row) for name, shares in runs for t, row in enumerate(shares)]
    heads = ("run", "step", *figures.SHIFT)
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


# ---------------------------------------------------------------------- images


def draw_images(page: Page, only: bool) -> None:
    name = untrusted.name(page.class_info.name, 24)
    of = f"{name} pixels" if only else "pixels of all classes"
    with page.section(
        "Images that lost most",
        f"Sorted by lost {of} after step {page.step}; the number is their share. Click one to select it.",
        slug="images",
    ) as view:
        survey = loaders.survey(page.run)
        if survey is None:
            raise Empty(no_survey(page.run))
        ranked = survey.rank_images(page.step, page.cls if only else None)
        part = measured_on.of_page(page)
        if part is not None and part.pictures.kind == "validation":
            ranked = [image for image in ranked if part.chosen[image.index]]
        if not ranked:
            raise Empty(f"No validation image has lost {of} after step {page.step}.")
        view.csv(lambda: _image_table(ranked))
        here = frozenset(loaders.ids_here(page.run, page.data_root))
        shown = [image for image in ranked if image.id in here]
        if shown:
            _thumbnails(page, shown)
        else:
            _names(ranked)


def _thumbnails(page: Page, ranked: Sequence[ImageLoss]) -> None:
    items = [
        Thumbnail(
            image.id,
            partial(loaders.thumbnail, page.run, page.data_root, image.id, GALLERY_SIDE),
            untrusted.plain(image.id, 60),
            badge=wording.lost(image.share),
            tone="bad",
            version=f"{page.run.digest}/{page.data_root}/{image.id}/{GALLERY_SIDE}",
        )
        for image in ranked
    ]
    picked = thumbnails(
        items, key="lost-images", selected=page.image_id, page_size=GALLERY_SIZE, size=GALLERY_SIDE,
        label="Images that lost most",
    )  # fmt: skip
    if picked is not None and picked != page.image_id:
        selection.go(image=picked)


def _names(ranked: Sequence[ImageLoss]) -> None:
    """A table instead of pictures that are not available."""
    st.caption("The pictures are not available here, so you see their names (sidebar, Data and export).")
    st.dataframe(
        {"image": [untrusted.plain(image.id, 60) for image in ranked], "lost": [100 * image.share for image in ranked]},
        hide_index=True,
        height="auto" if len(ranked) <= NAMES else NAMES_HEIGHT,
        column_config={"lost": st.column_config.NumberColumn(format="%.0f %%", width=70)},
        key="lost-names",
        alt="Images that lost most, with the share that each lost",
    )


def _image_table(ranked: Sequence[ImageLoss]) -> dict[str, list[Any]]:
    return {
        "image": [image.id for image in ranked],
        "lost": [image.lost for image in ranked],
        "share": [image.share for image in ranked],
    }
