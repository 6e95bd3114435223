"""Forgetting page: the map of what became of each pixel; without annotation, the map of what changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.forgetting import fates
from dashboard.app_pages.forgetting.fates import CLASS_FATES, FATE_NAMES, Story
from dashboard.app_pages.forgetting.words import pixel_history
from dashboard.cache.loaders import Picture
from dashboard.components.viewer import NOTHING, Layer
from dashboard.page import Empty, Page, View
from dashboard.picture import predictions
from dashboard.picture.predictions import Answers
from dashboard.picture.viewer import background, choose_beside, show_picture
from dashboard.state import selection
from dashboard.ui import design, untrusted
from dashboard.ui.wording import percent
from lag_core.explain.forgetting import Changes, Fate
from lag_core.protocol import IGNORE
from lag_core.runs import Run

VIEWER = "forgetting-viewer"
HEIGHT = 500

PROVENANCE_FORMULA = r"""\begin{aligned}
\text{forgotten}^t_p &: \hat y^t_p \ne y_p \text{ and } \exists\, u < t: \hat y^u_p = y_p \\
\text{kept}^t_p &: \hat y^u_p = y_p \text{ for all } u \text{ from its first time, before } t, \text{ to } t
\end{aligned}"""


@dataclass(frozen=True)
class Key:
    """Class indices, then fates, then steps, as the viewer's labels: their colours and names."""

    palette: np.ndarray
    """uint8 [K + 5 + T, 3]."""
    names: list[str]
    fate_base: int
    step_base: int

    def fates(self, states: np.ndarray) -> np.ndarray:
        """Values of Fate -> labels; a pixel whose class is still to come, or not annotated, has none."""
        table = np.full(256, IGNORE, np.uint8)
        for place, fate in enumerate(CLASS_FATES):
            table[fate] = self.fate_base + place
        return table[states]

    def steps(self, values: np.ndarray) -> np.ndarray:
        """Steps, -1 for none -> labels."""
        return np.where(values >= 0, self.step_base + np.maximum(values, 0), IGNORE).astype(np.uint8)


@dataclass(frozen=True)
class Scene:
    """The layers of the viewer, and which of them are steps."""

    layers: list[Layer]
    first: int
    """Where the steps of the run begin."""
    first_step: int
    """The step of that layer."""
    beside: int | None


def draw_map(page: Page, picture: Picture, told: Story, told2: Story | None, only: bool) -> None:
    """Where each pixel was kept, learned, lost or recovered, in both runs; `only` those of the selected class."""
    shown = predictions.shown(page.run, picture)
    key = _key(page.run)
    scene = _scene(page, told, told2, key, only, predictions.answers(page.run, picture))
    with page.section(
        "What became of each pixel",
        "Orange pixels were right and are lost; point at a pixel for its history, click to keep it.",
        slug="provenance",
        below=True,
        formula=PROVENANCE_FORMULA,
        source="ours (lag_core/explain/forgetting.py); right: the predicted class is the true one",
    ) as view:
        view.csv(lambda: _fate_table(page, told, only))
        _pixel_line(page, told, _show(page, view, shown, scene, key))


def _key(run: Run) -> Key:
    count, steps = len(run.classes), len(run.steps)
    colors = [design.rgb(design.PROVENANCE[FATE_NAMES[fate]]) for fate in CLASS_FATES]
    ramp = [design.on_ramp(design.SINCE, t / max(steps - 1, 1)) for t in range(steps)]
    names = [
        *predictions.class_names(run),
        *(FATE_NAMES[fate] for fate in CLASS_FATES),
        *(f"lost at step {t}" for t in range(steps)),
    ]
    palette = np.array([*predictions.palette(run).tolist(), *colors, *ramp], np.uint8)
    return Key(palette, names, count, count + len(CLASS_FATES))


def _scene(page: Page, told: Story, told2: Story | None, key: Key, only: bool, answers: Answers) -> Scene:
    """Truth and what it was lost to, then a map of fates for each step of either run."""
    mine = told.truth == page.cls if only else np.ones(told.truth.shape, bool)
    group = untrusted.plain(page.run.name, 60) if page.run2 else ""
    lost_at = told.fates.still_lost_at(page.step)
    to, since = told.fates.still_lost_to(page.step).copy(), key.steps(lost_at)
    for t in range(page.step + 1):
        to[(lost_at == t) & (answers.drawn(t, page.least) == NOTHING)] = NOTHING
    layers = [
        Layer("Ground truth", told.truth, clear=background(page.run)),
        Layer("Lost to", _masked(to, mine), note="which class", group=group),
        Layer("Lost at", _masked(since, mine), note="which step", group=group),
    ]
    first = len(layers)
    layers += _fate_layers(told, key, mine, group)
    first2 = len(layers)
    if page.run2 and told2:
        layers += _fate_layers(told2, key, mine, untrusted.plain(page.run2.name, 60))
    return Scene(layers, first, 0, _beside(page, bool(told2), first, first2))


def _fate_layers(told: Story, key: Key, mine: np.ndarray, group: str) -> list[Layer]:
    layers = []
    for t, states in enumerate(told.fates.states):
        asked = states[mine & (states < Fate.ABSENT)]
        lost = (asked == Fate.FORGOTTEN).mean() if asked.size else float("nan")
        note = "" if np.isnan(lost) else f"{percent(float(lost))} lost"
        layers.append(Layer(f"Step {t}", _masked(key.fates(states), mine), note=note, group=group, step=t))
    return layers


def _masked(labels: np.ndarray, mine: np.ndarray) -> np.ndarray:
    return np.where(mine, labels, IGNORE).astype(np.uint8)


def _beside(page: Page, compared: bool, first: int, first2: int) -> int | None:
    """Which layer is on the other side: chosen in the page's toolbar."""
    names = {
        "none": "nothing",
        "truth": "ground truth",
        "to": "the class it was lost to",
        "since": "the step that lost it",
    }
    if page.step:
        names["before"] = "the step before"
    if compared and page.run2:
        names = {"run2": "the compared run"} | names
    default = "run2" if "run2" in names else "to"
    chosen = choose_beside(page, "map-beside", names, default, label="beside", width=200)
    places = {"none": None, "truth": 0, "to": 1, "since": 2, "before": first + page.step - 1}
    places["run2"] = first2 + page.step2
    return places[chosen]


def _show(page: Page, view: View, shown: predictions.Shown, scene: Scene, key: Key) -> tuple[int, int] | None:
    """The viewer; returns the chosen pixel. A step chosen in the strip moves the scrubber."""
    seen = show_picture(
        view,
        shown,
        scene.layers,
        key=VIEWER,
        title="What became of each pixel of the selected picture",
        height=HEIGHT,
        active=max(scene.first + page.step - scene.first_step, scene.first),
        second=scene.beside,
        legend=(key.palette, key.names),
    )
    if seen.layer is not None and seen.layer >= scene.first:
        step = seen.layer - scene.first + scene.first_step
        if step <= page.last_step:
            selection.go(step=step)
    return seen.pixel


def _pixel_line(page: Page, told: Story, pixel: tuple[int, int] | None) -> None:
    """The history of the chosen pixel in one line, which is always there so that nothing jumps."""
    words = "Click a pixel to read its history here."
    if pixel is not None:
        words = f"Pixel {pixel[0]}, {pixel[1]}{pixel_history(told, page.run, pixel, page.step)}"
    with st.container(key="steady-pixel"):
        st.caption(words)


def _fate_table(page: Page, told: Story, only: bool) -> dict[str, list[Any]]:
    """Pixels of each fate, by class and step."""
    rows = []
    for t, states in enumerate(told.fates.states):
        for k in [page.cls] if only else range(len(page.run.classes)):
            counts = np.bincount(states[told.truth == k], minlength=len(Fate))
            rows.append((t, page.run.classes[k].name, *(int(counts[fate]) for fate in CLASS_FATES)))
    heads = ("step", "class", *(FATE_NAMES[fate] for fate in CLASS_FATES))
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


def draw_change_map(page: Page, picture: Picture | None) -> None:
    """Instead of fates, for a picture without annotation: where the prediction changed."""
    with page.section(
        "Where predictions changed",
        "Each map shows the pixels that a step gave another class, in the colour of that class.",
        slug="changes",
        formula=r"\hat y^t_p \ne \hat y^{t-1}_p",
        source="ours; without annotation nothing says which of the two is right",
    ) as view:
        if picture is None:
            raise Empty(page.why_no_image)
        if page.last_step == 0:
            raise Empty("This run has a single step, so nothing can change.")
        shown, key = predictions.shown(page.run, picture), _key(page.run)
        answers = predictions.answers(page.run, picture)
        labels = answers.predictions
        changed = fates.moved(page.run, picture)
        view.csv(lambda: {"step": list(range(1, len(labels))), "changed": list(changed.shares)})
        _show(page, view, shown, _change_scene(page, answers, changed, key), key)
        now = labels[page.step]
        st.caption(
            f"{percent(float((changed.count > 0).mean()))} of the pixels changed at some step, "
            f"{percent(float((now != labels[0]).mean()))} have another class than after step 0."
        )


def _change_scene(page: Page, answers: Answers, changed: Changes, key: Key) -> Scene:
    steps = answers.predictions
    layers = [
        Layer("Prediction", answers.drawn(page.step, page.least), note=f"step {page.step}", clear=background(page.run)),
        Layer("Last change", key.steps(changed.last)),
    ]
    first = len(layers)
    for t in range(1, len(steps)):
        labels = np.where(steps[t] != steps[t - 1], answers.drawn(t, page.least), IGNORE).astype(np.uint8)
        layers.append(Layer(f"Step {t}", labels, note=f"{percent(float(changed.shares[t - 1]))} changed"))
    return Scene(layers, first, 1, 0)
