"""Prototypes page: the picture's pixels against the prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.prototypes import maps as prototype_maps
from dashboard.app_pages.prototypes.maps import Motion
from dashboard.cache.memory_cache import SHELF
from dashboard.components.viewer import Layer
from dashboard.page import Empty, Page
from dashboard.picture import predictions
from dashboard.picture.viewer import choose_beside, show_picture
from dashboard.ui import design, untrusted
from dashboard.ui.wording import percent, short

VIEWER = "prototype-viewer"
HEIGHT = 400
VALUES_SIDE = 128
"""Cells of the long side of the numbers behind a cosine map."""


def draw_picture(page: Page, motion: Motion, other: Motion | None) -> None:
    name = untrusted.name(page.class_info.name, 24)
    with page.section(
        "Pixels against prototypes",
        f"Left: the class of the nearest prototype, without the heads. Then: cosine to {name} by step.",
        slug="nearest",
        formula=r"\hat y^{\text{near}}_p = \arg\max_{k \le t} \cos(z^t_p, p^t_k)",
        source="ours; z: latent map, upsampled as the logits are; k: classes known at step t",
    ) as view:
        picture = page.picture()
        shown = predictions.shown(page.run, picture)
        found = predictions.answers_at(page.run, picture, (page.step,))
        prediction = found.predictions[page.step]
        near = prototype_maps.nearest(page.run, picture, motion, page.step)
        if (near == 255).all():
            raise Empty(f"No class has a prototype at step {page.step} yet.")
        st.caption(_verdict(page, shown.truth, near, prediction))
        layers = [Layer("Nearest prototype", near), Layer("Prediction", found.drawn(page.step, page.least))]
        if shown.truth is not None:
            layers.append(Layer("Ground truth", shown.truth))
        compared = len(layers)
        layers += compared_layers(page, other)
        first = len(layers)
        layers += cosine_layers(page, motion)
        view.csv(lambda: _agreement_table(page, shown.truth, near, prediction))
        beside = _beside(page, shown.truth is not None, compared, first, motion)
        show_picture(
            view,
            shown,
            layers,
            key=VIEWER,
            title="The selected picture against the prototypes",
            height=HEIGHT,
            second=beside,
            truth=2 if shown.truth is not None else None,
        )


def compared_layers(page: Page, other: Motion | None) -> list[Layer]:
    """Nearest prototypes in the compared run at the same step, in the class indices of the open run."""
    if page.run2 is None or other is None:
        return []
    labels = prototype_maps.nearest(page.run2, page.picture(), other, page.step2)
    table = predictions.class_table(page.run2, page.run)
    return [Layer("Nearest prototype", table[labels], group=untrusted.plain(page.run2.name, 60))]


def _verdict(page: Page, truth: np.ndarray | None, near: np.ndarray, prediction: np.ndarray) -> str:
    """What the two maps say about the selected class, or how far they agree."""
    agree = percent(float((near == prediction).mean()))
    if truth is None:
        return f"After step {page.step}, both maps agree on {agree} of the pixels."
    name = untrusted.name(page.class_info.name)
    mine = truth == page.cls
    if not mine.any() or page.step < page.run.labels.step_of(page.cls):
        known = truth < page.run.labels.seen(page.step)
        right = [float((m == truth)[known].mean()) if known.any() else float("nan") for m in (near, prediction)]
        return (
            f"Of the pixels of known classes, nearest prototypes get {percent(right[0])} right, the heads "
            f"{percent(right[1])}; they agree on {agree}."
        )
    by_near, by_heads = (float((m == page.cls)[mine].mean()) for m in (near, prediction))
    return (
        f"Of the {name} pixels, nearest prototypes get **{percent(by_near)}** right, the heads "
        f"**{percent(by_heads)}**{_meaning(by_near, by_heads)}; over the whole picture "
        f"they agree on {agree}."
    )


def _meaning(by_near: float, by_heads: float) -> str:
    """What follows where the two differ much, or where both fail."""
    if by_near - by_heads > 0.2:
        return ": the latent map still tells these pixels apart, the heads no longer do"
    if by_heads - by_near > 0.2:
        return ": the heads tell the class apart, the direction alone does not"
    if max(by_near, by_heads) < 0.2:
        return ": neither finds the class any more"
    return ""


def cosine_layers(page: Page, motion: Motion) -> list[Layer]:
    """The cosine of each pixel to the selected class's prototype, by step, in one scale."""
    picture = page.picture()
    found = [(t, prototype_maps.cosine(page.run, picture, motion, t, page.cls)) for t in range(page.last_step + 1)]
    maps = {t: values for t, values in found if values is not None}
    if not maps:
        return []
    key = "cosine-layers", page.run.digest, picture.digest, motion.digest, page.cls, tuple(maps), page.ink.dark
    low, high, drawn = SHELF.get(key, lambda: _coloured(list(maps.values()), page.ink.ramp))
    group = f"Cosine to {untrusted.plain(page.class_info.name, 24)}, {short(low)} to {short(high)}"
    return [
        Layer(f"Step {t}", rgba=rgba, values=values, unit="cosine", group=group)
        for t, (rgba, values) in zip(maps, drawn, strict=True)
    ]


def _coloured(
    maps: Sequence[np.ndarray], ramp: Sequence[str]
) -> tuple[float, float, list[tuple[np.ndarray, np.ndarray]]]:
    """The ends of the scale of all maps; each map in colours, uint8 [H, W, 4], and coarse, as numbers."""
    low = min(float(np.quantile(values, 0.02)) for values in maps)
    high = max(float(np.quantile(values, 0.98)) for values in maps)
    return low, high, [(design.colours(values, low, high, ramp), _coarse(values)) for values in maps]


def _coarse(values: np.ndarray) -> np.ndarray:
    """The map at no more than VALUES_SIDE cells a side, for the read-out."""
    rows, columns = predictions.sampling(values.shape[0], values.shape[1], VALUES_SIDE)
    return np.ascontiguousarray(values[np.ix_(rows, columns)])


def _beside(page: Page, annotated: bool, compared: int, first: int, motion: Motion) -> int | None:
    """What stands beside the map of nearest prototypes: chosen in the page's toolbar.

    compared, first: where the layers of the compared run and the cosines begin.
    """
    names = {"prediction": "the prediction", "none": "nothing"}
    places: dict[str, int | None] = {"prediction": 1, "none": None}
    if annotated:
        names["truth"], places["truth"] = "ground truth", 2
    if page.run2 and compared < first:
        names["run2"], places["run2"] = "the compared run", compared
    steps = np.flatnonzero(motion.prototypes.known[: page.last_step + 1, page.cls]).tolist()
    if page.step in steps:
        names["cosine"], places["cosine"] = "cosine to the class", first + steps.index(page.step)
    return places[choose_beside(page, "nearest-beside", names, "prediction", label="Beside the map", width=190)]


def _agreement_table(
    page: Page, truth: np.ndarray | None, near: np.ndarray, prediction: np.ndarray
) -> dict[str, list[Any]]:
    """Pixels of each class in the maps, and how many of them are right."""
    count = len(page.run.classes)
    maps = {"nearest prototype": near, "prediction": prediction}
    table: dict[str, list[Any]] = {"class": [c.name for c in page.run.classes]}
    if truth is not None:
        table["truth"] = np.bincount(truth.ravel(), minlength=256)[:count].tolist()
    for name, labels in maps.items():
        table[name] = np.bincount(labels.ravel(), minlength=256)[:count].tolist()
        if truth is not None:
            table[f"{name}, right"] = np.bincount(truth[labels == truth], minlength=256)[:count].tolist()
    return table
