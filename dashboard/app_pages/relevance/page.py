"""Relevance: which neurons and pixels speak for a class?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from dashboard.app_pages.relevance import figures
from dashboard.app_pages.relevance import maps as relevance_maps
from dashboard.app_pages.relevance.checks import draw_channels, draw_checks, draw_shuffled
from dashboard.app_pages.relevance.maps import Asked
from dashboard.app_pages.relevance.scene import ABOUT_WORDS, DEPTH_NAMES, Scene, Series, at_first, compute, scene
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import SHELF
from dashboard.components.viewer import Layer
from dashboard.page import Empty, Page
from dashboard.picture import predictions
from dashboard.picture.viewer import choose_beside, show_picture
from dashboard.state import selection, settings
from dashboard.ui import design, untrusted
from dashboard.ui.wording import number, percent
from lag_core.explain.attribution_methods import ATTRIBUTION_METHODS

if TYPE_CHECKING:
    from lag_core.explain.attribution_checks import Pointing

VIEWER = "relevance-viewer"
HEIGHT = 430
VALUES_SIDE = 128

SAME, SIMILAR = 0.9, 0.6
"""Cosines from which two maps count as alike in words, and below which they do not."""
AIMED, CHANCE = 1 / 3, 0.05
"""On the way from chance (0) to all relevance on the class (1): bounds for "aimed at it" and for "chance"."""


def render(page: Page) -> None:
    """Draw the page."""
    shared = scene(page)
    page.answer(answer(shared))
    left, right = st.columns((1.55, 1), gap="small")
    with left:
        _maps(shared)
        draw_shuffled(shared)
    with right:
        draw_checks(shared)
        draw_channels(shared)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    if page.step >= page.run.labels.step_of(page.cls):
        shared = at_first(page)
        answer(shared)
        _layers(shared, same=False)


# ---------------------------------------------------------------------- the answer


def answer(shared: Scene) -> str:
    """Which neurons and pixels speak for the class, in words that follow from the numbers (Markdown)."""
    try:
        now = shared.now()
    except Empty as reason:
        return str(reason)
    words = ABOUT_WORDS[shared.questions.about]
    before = shared.own.explained(shared.step - 1)
    then = f" ({number(before.mean_logit)} after step {shared.step - 1})" if before else ""
    sentence = f"After step {shared.step}, **{shared.name}** gets a mean logit of **{number(now.mean_logit)}** on"
    sentence = f"{sentence} {words}{then}. {_moved(shared.own, shared.step)} {_aim(shared.own.pointing(shared.step))}"
    return f"{sentence} {_beside_words(shared)}".strip()


def _moved(series: Series, step: int) -> str:
    """What the agreement with the step before says."""
    found = series.agreement(step)
    if found is None:
        return "" if step in series.results and step - 1 in series.asked else "It has no earlier map to compare with."
    if np.isnan(found.cosine):
        return _nothing(series, step)
    words = "lies elsewhere than"
    if found.cosine >= SIMILAR:
        words = "lies where it did" if found.cosine >= SAME else "has partly moved"
    since = "since" if words == "has partly moved" else "after" if words == "lies where it did" else "it did after"
    return (
        f"What speaks for it {words} {since} step {step - 1} (cosine **{found.cosine:.2f}**, IoU of the top fifth "
        f"{found.top_iou:.2f})."
    )


def _nothing(series: Series, step: int) -> str:
    """For two maps of which one or both have no positive part."""
    now, before = (
        found is not None and bool((found.map > 0).any()) for found in map(series.explained, (step, step - 1))
    )
    if before:
        return f"Nothing in the picture speaks for it any more; after step {step - 1} something did."
    if now:
        return f"Something in the picture speaks for it; after step {step - 1} nothing did."
    return f"Nothing in the picture speaks for it, as after step {step - 1}."


def _aim(found: Pointing | None) -> str:
    """What the pointing score says."""
    if found is None or np.isnan(found.inside):
        return ""
    gain = (found.inside - found.area) / (1 - found.area) if found.area < 1 else 0.0
    words = "less than chance" if gain < -CHANCE else "no more than chance"
    if gain > CHANCE:
        words = "aimed at the class" if gain >= AIMED else "a little more than chance"
    return (
        f"{percent(found.inside)} of it lies on the class, which covers {percent(found.area)} of the picture: {words}."
    )


def _beside_words(shared: Scene) -> str:
    other = shared.other
    if other is None or (found := other.explained(other.step)) is None:
        return ""
    alike = other.agreement(other.step)
    more = "" if alike is None or np.isnan(alike.cosine) else f", cosine {alike.cosine:.2f} to its step before"
    return f"In {untrusted.name(other.name)} the mean logit is **{number(found.mean_logit)}**{more}."


# ---------------------------------------------------------------------- the maps


def _maps(shared: Scene) -> None:
    method, depth = shared.questions.method, shared.questions.depth
    asked = ATTRIBUTION_METHODS[method]
    with shared.page.section(
        "What speaks for the class",
        f"{asked.meaning} Blue speaks for it, orange against it. Point to read the numbers, click to choose a pixel.",
        slug="relevance",
        formula=asked.formula,
        source=f"{asked.source}. s: the class's logit over {ABOUT_WORDS[shared.questions.about]}; drawn at "
        f"the {DEPTH_NAMES[depth]}, divided by the number of explained pixels",
    ) as view:
        _offer_computing(shared)
        same = selection.choose("scale", ("own", "same"), "own", "scale of the maps") == "same"
        layers, places, high = _layers(shared, same)
        if not places:
            shared.now()
        view.csv(lambda: _map_table(shared))
        beside = _beside(shared, places)
        seen = show_picture(
            view,
            shared.shown,
            layers,
            key=VIEWER,
            title=f"Relevance for {untrusted.plain(shared.page.class_info.name, 40)}",
            height=HEIGHT,
            active=places.get(f"step {shared.step}", 0),
            second=beside,
            image=relevance_maps.grey(shared.picture.digest, _encoded=shared.shown.encoded),
            marker=shared.questions.pixel,
            name=method,
        )
        _scale(high)
        if seen.clicked and seen.pixel and seen.pixel != shared.questions.pixel:
            selection.go(pixel=f"{seen.pixel[0]}-{seen.pixel[1]}")
        for step in shared.own.asked:
            if seen.layer is not None and places.get(f"step {step}") == seen.layer:
                selection.go(step=step)


def _offer_computing(shared: Scene) -> None:
    """A button for maps that are not computed unasked."""
    missing = shared.missing
    if not missing:
        return
    steps = ", ".join(str(s) for s in sorted({one.step for one in missing}))
    word = "steps" if "," in steps else "step"
    if st.button(f"Compute {word} {steps}", key="relevance-compute", icon=":material/play_arrow:"):
        compute(missing, "maps")


def _scale(high: float) -> None:
    """What the colours mean, and whether the maps of a run share them."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chosen = settings.segments(
            "Scale", "scale", ("own", "same"), names={"own": "Each map its own scale", "same": "Per run"}.__getitem__,
            label_visibility="collapsed",
        )  # fmt: skip
        ends = f"at ±{1000 * high:.3g} · 10⁻³ logit" if chosen == "same" else "where a map's values do"
        st.caption(f"Colours end {ends}; maps are divided by the number of explained pixels.", width="content")


def _layers(shared: Scene, same: bool) -> tuple[list[Layer], dict[str, int], float]:
    """The layers of the viewer, the place of each by name, and the value at which the colours of the run end.

    The explained pixels, the maps of the run, the change, the maps of the compared run; empty without any map.
    same: one scale for all maps of a run, not one for each.
    """
    own, other = shared.own, shared.other
    maps, maps2 = _mean_maps(own), _mean_maps(other) if other else {}
    if not maps:
        return [], {}, 1.0
    high, high2 = (figures.scale_of(list(found.values())) if same else 1.0 for found in (maps, maps2))
    group = own.name if other else ""
    named: dict[str, Layer] = {}
    if shared.step in own.asked:
        named["asked"] = _asked_layer(shared, own.asked[shared.step])
    for t, values in maps.items():
        layer = Layer(f"Step {t}", note=_note(own, t), group=group, step=t)
        named[f"step {t}"] = _coloured(shared, layer, values, high if same else None, own.asked[t].key)
    if shared.step in maps and shared.step - 1 in maps:
        both = (own.asked[shared.step].key, own.asked[shared.step - 1].key)
        layer = Layer("Change", note=f"since step {shared.step - 1}", group=group)
        change = maps[shared.step] - maps[shared.step - 1]
        named["change"] = _coloured(shared, layer, change, high if same else None, *both)
    for t, values in maps2.items():
        assert other is not None
        layer = Layer(f"Step {t}", note=_note(other, t), group=other.name, step=t)
        named[f"run2 step {t}"] = _coloured(shared, layer, values, high2 if same else None, other.asked[t].key)
    return list(named.values()), {name: i for i, name in enumerate(named)}, high


def _mean_maps(series: Series) -> dict[int, np.ndarray]:
    """Each drawable map by step, as its part of the mean logit, float [h, w]."""
    found = {t: series.explained(t) for t in series.asked}
    return {t: one.map / one.pixels for t, one in found.items() if one}


def _note(series: Series, step: int) -> str:
    found = series.explained(step)
    return f"logit {number(found.mean_logit)}" if found else ""


def _coloured(shared: Scene, layer: Layer, values: np.ndarray, high: float | None, *keys: str) -> Layer:
    """The layer with a signed map, coloured once for all sessions; `keys` are those of the results behind it.

    high: where its colours end, None for its own end.
    """
    key = ("coloured", shared.picture.digest, high, *keys)
    rgba, coarse = SHELF.get(key, lambda: _colours(shared.picture, values, high))
    return replace(layer, rgba=rgba, values=coarse, unit="· 10⁻³")


def _colours(picture: Picture, values: np.ndarray, high: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Colours uint8 [H, W, 4] as shown, and the numbers behind them, in thousandths, at fewer cells."""
    full = relevance_maps.as_shown(picture, values)
    rows, columns = predictions.sampling(full.shape[0], full.shape[1], VALUES_SIDE)
    coarse = np.ascontiguousarray(1000 * full[np.ix_(rows, columns)])
    return figures.signed(full, high or figures.scale_of([full])), coarse


def _asked_layer(shared: Scene, asked: Asked) -> Layer:
    """The explained pixels in the accent."""
    height, width = shared.shown.size[::-1]
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), asked.mask.shape, strict=True))
    mask = asked.mask[np.ix_(rows, columns)]
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[mask] = (*design.rgb(design.ACCENT), 255)
    count = int(asked.mask.sum())
    return Layer("Explained", rgba=rgba, note=f"{count} pixel{'s' * (count != 1)}")


def _beside(shared: Scene, places: dict[str, int]) -> int | None:
    """What is on the other side of the divider: chosen in the page's toolbar."""
    names = {"before": "step before", "change": "change", "asked": "explained pixels", "none": "nothing"}
    found: dict[str, int | None] = {
        "before": places.get(f"step {shared.step - 1}"),
        "change": places.get("change"),
        "asked": places.get("asked"),
    }
    if shared.other:
        names["run2"] = f"{shared.other.name}, same step"
        found["run2"] = places.get(f"run2 step {shared.other.step}")
    offered = {key: name for key, name in names.items() if key == "none" or found.get(key) is not None}
    return found.get(choose_beside(shared.page, "relevance-beside", offered, label="beside", width=150))


def _map_table(shared: Scene) -> dict[str, Any]:
    """Every map, a row for each pixel that the network sees."""
    maps = _mean_maps(shared.own)
    rows, columns = np.indices(next(iter(maps.values())).shape)
    table = {f"step {t}": values.ravel().tolist() for t, values in maps.items()}
    return {"row": rows.ravel().tolist(), "column": columns.ravel().tolist()} | table
