"""Prototypes: did the class move?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.prototypes import figures, maps
from dashboard.app_pages.prototypes.lines import (
    LOWER_HEIGHT,
    UPPER_HEIGHT,
    draw_drift,
    draw_margins,
    draw_unknown,
    label,
    plot,
)
from dashboard.app_pages.prototypes.maps import Kind, Motion
from dashboard.app_pages.prototypes.picture import compared_layers, cosine_layers, draw_picture
from dashboard.page import Empty, Page
from dashboard.state import settings
from dashboard.ui import untrusted
from dashboard.ui.class_key import class_key
from dashboard.ui.wording import counted, short
from lag_core.explain import similarity
from lag_core.runs import Run

MATRIX_HEIGHT = 540

SAME, OWN = "same", "own"


def render(page: Page) -> None:
    """Draw the page."""
    found = maps.motions(page.run)
    if not found:
        raise Empty(
            f"{untrusted.name(page.run.name)} has no prototypes. `python -m lag_core survey` with the "
            "run's folder measures them on its validation images; methods with prototypes also store their own."
        )
    motion = found[_choose_kind(page, found)]
    other = maps.motions(page.run2).get(motion.kind) if page.run2 else None
    page.answer(answer(page, motion, other))
    drawn = figures.chosen_classes(motion.drift.since_introduced[-1], page.cls)
    class_key(page.run, drawn)
    left, middle, right = st.columns((1.25, 1, 1), gap="small")
    with left:
        _paths(page, motion, drawn)
    with middle:
        draw_drift(page, motion, other, drawn)
    with right:
        draw_margins(page, motion, other, drawn)
    left, right = st.columns((1.75, 1), gap="small")
    with left:
        draw_picture(page, motion, other)
    with right:
        _matrix(page, motion)
    left, right = st.columns((1, 1.75), gap="small")
    with left:
        draw_unknown(page, motion, other, drawn)
    with right:
        _numbers(page, motion)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    for motion in list(maps.motions(page.run).values())[:1]:
        maps.nearest(page.run, page.picture(), motion, page.step)
        cosine_layers(page, motion)
        if page.run2:
            compared_layers(page, maps.motions(page.run2).get(motion.kind))


def _choose_kind(page: Page, found: dict[Kind, Motion]) -> Kind:
    """Measured or stored prototypes; the page names the kind in either case."""
    meaning: dict[Kind, str] = {
        "measured": "measured on the validation images",
        "stored": "stored by training",
    }
    kinds: tuple[Kind, ...] = tuple(found)
    with page.toolbar:
        if len(kinds) == 1:
            st.markdown(f"Prototypes {meaning[kinds[0]]}", width="content")
            return kinds[0]
        st.markdown("Prototypes", width="content")
        chosen = settings.segments(
            "Prototypes",
            "prototypes",
            kinds,
            names=lambda kind: meaning[kind],  # type: ignore[index]
            label_visibility="collapsed",
        )
    return "stored" if chosen == "stored" else "measured"


# ---------------------------------------------------------------------- the answer


def answer(page: Page, motion: Motion, other: Motion | None) -> str:
    """Did the selected class move, in words that follow from the numbers (Markdown)."""
    run, step, cls = page.run, page.step, page.cls
    name = f"**{untrusted.name(run.classes[cls].name)}**"
    introduced = run.labels.step_of(cls)
    if motion.kind == "stored":
        return (
            f"Training measures the prototype of {name} at step {introduced} and then keeps it, so stored "
            f"ones do not move. {_neighbour(motion, run, step, cls)} "
            f"`python -m lag_core survey` measures every class anew at every step."
        )
    if step < introduced:
        return f"{name} is introduced at step {introduced}; go there to see where it begins."
    if not motion.prototypes.known[step, cls]:
        return f"No validation image shows {name}, so it has no prototype to follow."
    if step == introduced:
        return f"Step {step} introduces {name}; its path begins here. {_neighbour(motion, run, step, cls)}"
    return f"{_way(page, motion, other, name)} {_neighbour(motion, run, step, cls)}"


def _way(page: Page, motion: Motion, other: Motion | None, name: str) -> str:
    """How far the class moved, relative to the distance of its own pixels, and its rank among the classes."""
    drift = motion.drift.since_introduced[page.step]
    mine, introduced = float(drift[page.cls]), page.run.labels.step_of(page.cls)
    spread = float(motion.prototypes.spread[introduced, page.cls])
    times = "less than a tenth of" if mine < 0.1 * spread else f"{mine / spread:.1f} times"
    scale = f", {times} the mean distance of its own pixels at step {introduced}" if spread > 0 else ""
    older = [k for k in range(len(drift)) if page.run.labels.step_of(k) < page.step and not np.isnan(drift[k])]
    rank = 1 + sum(bool(drift[k] > mine) for k in older)
    place = (
        f" and {_ordinal(rank)} of the {counted(len(older), 'older class', 'older classes')}" if len(older) > 1 else ""
    )
    compared = ""
    if page.run2 and other and not np.isnan(theirs := other.drift.since_introduced[page.step2, page.cls2]):
        compared = f" In {untrusted.name(page.run2.name)} it moved by **{short(float(theirs))}**."
    way = f"{name} did not move" if mine == 0 else f"{name} moved by **{short(mine)}**{scale}{place}"
    return f"From step {introduced} to {page.step}, {way}.{compared}"


def _ordinal(rank: int) -> str:
    return {1: "the most", 2: "second most", 3: "third most"}.get(rank, f"{rank}th most")


def _neighbour(motion: Motion, run: Run, step: int, cls: int) -> str:
    """The nearest other class and what the margin says."""
    nearest = int(motion.margins.nearest[step, cls])
    if nearest < 0:
        return ""
    name = untrusted.name(run.classes[nearest].name)
    distance, margin = (float(a[step, cls]) for a in (motion.margins.distance, motion.margins.margin))
    sentence = f"Its nearest class is **{name}**, at {short(distance)}"
    if np.isnan(margin):
        return f"{sentence}."
    if motion.margins.overlap[step, cls]:
        own = untrusted.name(run.classes[cls].name)
        return f"{sentence}: nearer than its own pixels are on average, so {own} overlaps it (margin {short(margin)})."
    return f"{sentence}: farther than its own pixels are on average (margin {short(margin)})."


def _paths(page: Page, motion: Motion, drawn: Sequence[int]) -> None:
    run = page.run
    hollow = " Hollow: not introduced yet." if motion.kind == "measured" else ""
    with page.section(
        "Paths of the prototypes",
        f"One plane for all steps; large marks are step {page.step}. Close marks are alike.{hollow}",
        slug="paths",
        formula=r"x^t_k = A\,(p^t_k / \lVert p^t_k \rVert - \mu), \qquad A: \text{first two principal axes}",
        source="docs/method.md#prototypes; axes fitted once to the unit prototypes of all steps and classes (ours)",
    ) as view:
        introduced = [run.labels.step_of(k) for k in range(len(run.classes))]
        found = similarity.paths(motion.prototypes, motion.projection, drawn)
        view.csv(
            lambda: _table(
                ("class", "step", "axis 1", "axis 2"),
                [
                    (run.classes[path.cls].name, t, *point)
                    for path in found
                    for t, point in zip(path.steps, path.points.tolist(), strict=True)
                ],
            )
        )
        figure = figures.path_plane(
            found, motion.projection, run.classes, introduced, page.ink, cls=page.cls, step=page.step
        )
        plot(page, view, figure, "Paths of class prototypes in a plane", UPPER_HEIGHT)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


# ---------------------------------------------------------------------- cosines and numbers


def _matrix(page: Page, motion: Motion) -> None:
    run = page.run
    with page.section(
        "Cosines of the prototypes",
        "1: same direction. High off the diagonal: similar classes. Click a cell to select its row's class.",
        slug="cosines",
        formula=r"C_{kj} = \cos(p^t_k, p^u_j)",
        source="docs/method.md#prototypes; rows at the selected step t, columns at step u",
    ) as view:
        against = _choose_columns(page)
        if against == OWN:
            own = motion.prototypes.mean[:, page.cls]
            cosines = similarity.cosine(own, own)
            rows = columns = [f"step {t}" for t in range(len(own))]
            hover = [[_own_words(run, page.cls, a, b, v) for b, v in enumerate(r)] for a, r in enumerate(cosines)]
            data = [(t, page.cls) for t in range(len(own)) for _ in range(len(own))]
            marked: int | None = page.step
        else:
            other = page.step if against == SAME else int(against)
            seen = run.labels.seen(page.step)
            cosines = similarity.similarity_matrix(motion.prototypes, page.step, other)[:seen, :seen]
            rows = columns = figures.labels(run.classes[:seen], page.ink)
            hover = [
                [_pair_words(run, page.step, other, a, b, v) for b, v in enumerate(r)] for a, r in enumerate(cosines)
            ]
            data = [(page.step, k) for k in range(seen) for _ in range(seen)]
            marked = page.cls if page.cls < seen else None
        if np.isnan(cosines).all():
            raise Empty("No two prototypes to compare here. Choose other columns, or another step.")
        names = [run.classes[k].name for k in range(len(cosines))] if against != OWN else rows
        view.csv({"": names} | {str(n): column for n, column in zip(names, cosines.T, strict=True)})
        plot(
            page, view, lambda: figures.cosine_matrix(cosines, rows, columns, hover, page.ink, row=marked, data=data),
            "Matrix of cosines between class prototypes", MATRIX_HEIGHT, below=True,
        )  # fmt: skip


def _choose_columns(page: Page) -> str:
    """What the rows are compared with."""
    name = untrusted.plain(page.class_info.name, 24)
    steps = [str(t) for t in range(page.last_step + 1)]
    names = {SAME: "classes at the same step"} | {t: f"classes at step {t}" for t in steps}
    names[OWN] = f"{name} at every step"
    return settings.select(
        "Columns",
        "cosine-columns",
        list(names),
        SAME,
        names=lambda value: names[value],
        label_visibility="collapsed",
    )


def _own_words(run: Run, cls: int, a: int, b: int, value: float) -> str:
    return f"{label(run, cls)}, step {a} and step {b}: cosine {value:.4f}"


def _pair_words(run: Run, step: int, other: int, a: int, b: int, value: float) -> str:
    return f"{label(run, a)} at step {step}, {label(run, b)} at step {other}: cosine {value:.4f}"


def _numbers(page: Page, motion: Motion) -> None:
    with page.section(
        f"All classes after step {page.step}",
        "Cosine distances (1 − cosine) of each prototype at this step; to own pixels: their mean.",
        slug="numbers",
        inline=True,
    ) as view:
        table = _class_table(page.run, motion, page.step)
        view.csv(table)
        if view.waits("numbers", LOWER_HEIGHT):
            return
        number = st.column_config.NumberColumn(format="%.4g", width=84)
        text = ("class", "nearest")
        st.dataframe(
            {k: [untrusted.plain(v, 40) for v in c] if k in text else c for k, c in table.items()},
            hide_index=True,
            height="auto",
            column_config={head: number for head in table if head not in text},
            placeholder="–",
            key="prototype-table",
            alt="Drift, neighbours and margins of every class",
        )


def _class_table(run: Run, motion: Motion, step: int) -> dict[str, list[Any]]:
    """One row for each class that is known after `step`."""
    seen = range(run.labels.seen(step))
    nearest = [int(motion.margins.nearest[step, k]) for k in seen]
    columns = {
        "drift": motion.drift.since_introduced,
        "drift, last step": motion.drift.since_last,
        "to nearest": motion.margins.distance,
        "to own pixels": motion.prototypes.spread,
        "margin": motion.margins.margin,
    }
    if motion.unknown is not None:
        columns["to unknown"] = motion.unknown
    if motion.kind == "stored":
        columns = {head: v for head, v in columns.items() if head in ("to nearest", "to unknown")}
    table: dict[str, list[Any]] = {
        "class": [run.classes[k].name for k in seen],
        "nearest": [run.classes[n].name if n >= 0 else "" for n in nearest],
    }
    for head, values in columns.items():
        row = [float(values[step, k]) for k in seen]
        table[head] = [None if np.isnan(v) else v for v in row]
    return table
