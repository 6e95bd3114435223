"""Prototypes page: the views with a line for each class over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dashboard.app_pages.prototypes import figures
from dashboard.app_pages.prototypes.figures import Series
from dashboard.app_pages.prototypes.maps import Motion
from dashboard.page import Empty, Page, View
from dashboard.sidebar import class_names
from dashboard.state import selection
from dashboard.ui import untrusted
from dashboard.ui.wording import short
from lag_core.runs import Run

UPPER_HEIGHT, LOWER_HEIGHT = 308, 250
D_LATEX = r"d(a, b) = 1 - \frac{a \cdot b}{\lVert a \rVert \lVert b \rVert}"


def plot(page: Page, view: View, figure: Any, alt: str, height: int, below: bool = False) -> None:
    """Draw a figure whose clicks carry (step, class index)."""
    points = view.plot(figure, alt, height=height, select=True, below=below)
    if points and selection.fresh(f"prototypes-{view.slug}", points[0]["customdata"]):
        step, cls = points[0]["customdata"]
        selection.go(step=step, cls=class_names(page.run)[cls])


def draw_drift(page: Page, motion: Motion, other: Motion | None, drawn: Sequence[int]) -> None:
    with page.section(
        "Own drift",
        f"Distance of each class from its place when introduced; 0: it stayed. {_legend(page, other)}",
        slug="drift",
        formula=r"D^t_k = 1 - \cos(p^t_k, p^{s_k}_k)",
        source="docs/method.md#spread; s: the step that introduces class k",
    ) as view:
        if motion.kind == "stored":
            raise Empty(
                "A stored prototype is kept as it was when its class was introduced: its drift is 0 by "
                "construction. `python -m lag_core survey` measures prototypes that can drift."
            )
        _lines(
            page, view, motion, other, drawn, lambda m: m.drift.since_introduced, "drift (1 − cosine)",
            "Own drift of each class over the steps", UPPER_HEIGHT,
        )  # fmt: skip


def draw_margins(page: Page, motion: Motion, other: Motion | None, drawn: Sequence[int]) -> None:
    spread = motion.kind == "measured"
    reading = (
        "Distance to the nearest other class, minus the mean distance to its own pixels: below 0 the two overlap."
        if spread
        else "Distance to the nearest other class; stored prototypes come without the distance to their own pixels."
    )
    with page.section(
        "Margin to the nearest class" if spread else "Distance to the nearest class",
        reading,
        slug="margin",
        formula=r"M^t_k = \min_{j \ne k} d(p^t_k, p^t_j) - \overline{d(z, p^t_k)}, \quad " + D_LATEX,
        source="docs/method.md#spread; z: the class's own latent pixels; both at the same step t",
    ) as view:
        title = "margin (1 − cosine)" if spread else "distance (1 − cosine)"
        _lines(
            page, view, motion, other, drawn, lambda m: m.margins.margin if spread else m.margins.distance,
            title, "Margin of each class to its nearest neighbour over the steps", UPPER_HEIGHT, nearest=True,
        )  # fmt: skip


def draw_unknown(page: Page, motion: Motion, other: Motion | None, drawn: Sequence[int]) -> None:
    with page.section(
        "Distance to the unknown class",
        f"A class near 0 merges with what the model calls unknown. {_legend(page, other)}",
        slug="unknown",
        formula=r"U^t_k = d(p^t_k, u^t), \quad " + D_LATEX,
        source="docs/method.md#prototypes; u: embedding of the unknown class that training left after step t",
    ) as view:
        if motion.unknown is None:
            raise Empty("This run does not model the unknown class, or training left no embedding of it.")
        if np.isnan(motion.unknown).all():
            raise Empty("No pixel was labelled unknown in this training, so there is no embedding of it.")
        theirs = other if other is not None and other.unknown is not None else None
        _lines(
            page, view, motion, theirs, drawn, _unknown_of, "distance (1 − cosine)",
            "Distance of each class to the unknown embedding over the steps", LOWER_HEIGHT, below=True,
        )  # fmt: skip


def _unknown_of(motion: Motion) -> np.ndarray:
    assert motion.unknown is not None
    return motion.unknown


def _legend(page: Page, other: Motion | None) -> str:
    name = untrusted.name(page.class_info.name, 24)
    if page.run2 is None or other is None:
        return f"Heavy: {name}."
    return f"Heavy: {name}; dotted: in {untrusted.name(page.run2.name, 40)}."


def _lines(
    page: Page,
    view: View,
    motion: Motion,
    other: Motion | None,
    drawn: Sequence[int],
    values: Callable[[Motion], np.ndarray],
    y: str,
    alt: str,
    height: int,
    *,
    nearest: bool = False,
    below: bool = False,
) -> None:
    """A line for each class, and a dotted one for the selected class in the compared run."""
    run, own = page.run, values(motion)
    series = [_series(run, motion, own, k, k, "", nearest) for k in drawn]
    if page.run2 and other is not None:
        theirs, name = values(other), untrusted.plain(page.run2.name, 40)
        series.append(_series(page.run2, other, theirs, page.cls2, page.cls, name, nearest))
    if all(np.isnan(one.values).all() for one in series):
        raise Empty("There is nothing to compare yet: no class has been followed from one step to another.")
    view.csv(lambda: {"class": [run.classes[k].name for k in range(own.shape[1])]} | _by_step(own))
    steps = max(len(one.values) for one in series)
    plot(
        page, view,
        lambda: figures.over_steps(series, run.classes, page.ink, cls=page.cls, step=page.step, steps=steps, y=y),
        alt, height, below=below,
    )  # fmt: skip


def _series(run: Run, motion: Motion, values: np.ndarray, own: int, cls: int, compared: str, nearest: bool) -> Series:
    """Class `own` of `run`, which is class `cls` of the open run, with its hover text."""
    words = []
    for t in range(len(values)):
        text = f"{label(run, own)}, step {t}: {short(float(values[t, own]))}"
        if nearest and motion.margins.nearest[t, own] >= 0:
            text += f"<br>nearest: {label(run, int(motion.margins.nearest[t, own]))}"
        words.append(f"{text}<br>{untrusted.plotly(compared)}" if compared else text)
    return Series(cls, values[:, own], words, dotted=bool(compared))


def label(run: Run, cls: int) -> str:
    return untrusted.plotly(untrusted.plain(run.classes[cls].name, 40))


def _by_step(values: np.ndarray) -> dict[str, Any]:
    return {f"step {t}": row for t, row in enumerate(values)}
