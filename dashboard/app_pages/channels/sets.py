"""Channels page: sets of channels switched off or taken from an earlier step, next to random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import streamlit as st

from dashboard.app_pages.channels import maps
from dashboard.app_pages.channels.maps import Change, How
from dashboard.app_pages.channels.scene import (
    ORDERS,
    Scene,
    change,
    measured,
    quarter,
    ranked,
    sizes,
    telling,
    testable,
)
from dashboard.cache.background import BACKGROUND, Job
from dashboard.cache.loaders import Picture
from dashboard.components.viewer import Layer
from dashboard.page import Empty, View
from dashboard.picture import predictions, stepwise
from dashboard.picture.viewer import show_picture
from dashboard.shell import results_coming
from dashboard.state import selection, settings
from dashboard.ui import untrusted
from dashboard.ui.effect_curves import EffectLine, effect_curves
from dashboard.ui.wording import counted, percent
from lag_core.explain.controls import BALANCED

if TYPE_CHECKING:
    from lag_core.explain.interventions import Curve

VIEWER = "channels-viewer"
EFFECT_HEIGHT, VIEWER_HEIGHT = 330, 330
SIGNIFICANT = 0.05


def draw_sets(scene: Scene) -> None:
    with scene.page.section(
        "Sets of channels, next to random ones",
        "Change the k least moved, most moved or most relevant channels; only what leaves the grey band differs from "
        "chance. Click a point to see it.",
        slug="sets",
        inline=True,
        formula=r"\Delta(k) = m(D(Z'_k)) - m(D(Z)), \qquad p = \frac{1 + |\{\text{random sets with as much}\}|}{1 + n}",
        source="docs/method.md#channels; n random sets of k channels, alive and of equal energy (ours)",
    ) as view:
        picture = scene.image()
        left, right = st.columns((1, 1.1), gap="medium")
        with left:
            how, measure, random = _choose_sets(scene, picture)
            orders = orders_of(scene)
            if not orders:
                raise Empty(
                    f"{scene.why_no_split} The order by relevance needs a class that is known at step {scene.pair.new}."
                )
            first = first_order(orders, how)
            order = selection.follow("order", orders, first, "order of channels")
            living = len(testable(scene, how))
            if living < 2:
                raise Empty(
                    f"{living} of {counted(scene.total, 'channel')} are alive on this picture: there are no "
                    "sets to compare."
                )
            numbers = [str(k) for k in sizes(scene, how)[1:]]
            default = str(quarter(scene, how))
            count = int(selection.follow("k", numbers, default, "number of channels"))
            selection.use("order", order, first)
            selection.use("k", str(count), default)
            if not view.waits("sets", EFFECT_HEIGHT):
                _sets_curve(scene, view, orders, how, measure, random, (order, count))
        with right:
            _sets_picture(scene, view, picture, how, order, count)


def _choose_sets(scene: Scene, picture: Picture) -> tuple[How, int, bool]:
    """The question, the place of the measure in a measurement, and whether random channels are drawn."""
    questions = {"carries": "What carries it? Switch off", "lost": f"What was lost? Take from step {scene.pair.old}"}
    question = settings.segments(
        "Question",
        "question",
        tuple(questions),
        "lost" if telling(scene) == "old" else "carries",
        names=lambda name: questions[name],
        label_visibility="collapsed",
    )
    measures = _measures(scene, picture)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chosen = settings.select(
            "Measure", "effect", tuple(measures), names=lambda name: measures[name][0],
            label_visibility="collapsed", width=300,
        )  # fmt: skip
        random = settings.switch(
            "Random channels", "random", True, help="Off leaves out the comparison, which takes longest on this page."
        )
    return ("old" if question == "lost" else "zero"), measures[chosen][1], random


def _measures(scene: Scene, picture: Picture) -> dict[str, tuple[str, int]]:
    """What can be measured on this picture: name and place, see channel_maps.Measured."""
    found: dict[str, tuple[str, int]] = {}
    truth, step = picture.truth, scene.pair.new
    if truth is not None:
        if (truth < scene.run.labels.class_indices(step).start).any():
            found["old"] = ("right pixels of old classes", 1)
        if scene.page.cls < scene.run.labels.seen(step) and (truth == scene.page.cls).any():
            found["class"] = (f"right pixels of {untrusted.plain(scene.page.class_info.name, 24)}", 3 + scene.page.cls)
        if (truth < scene.run.labels.seen(step)).any():
            found["known"] = ("right pixels of all known classes", 2)
    return found | {"changed": ("pixels that change their class", 0)}


def orders_of(scene: Scene) -> tuple[str, ...]:
    """Orders that make sense here: by distance only where the split is defined."""
    moved = ("invariant", "changed") if scene.split is not None and not scene.why_no_split else ()
    known = scene.page.cls < scene.run.labels.seen(scene.pair.new)
    return (*moved, "relevance") if known else moved


def first_order(orders: tuple[str, ...], how: How) -> str:
    """The order that is marked first: what changed most is put back, what moved least is switched off."""
    return "changed" if how == "old" and "changed" in orders else orders[0]


def random_channels(asked: Change) -> Curve | Job:
    """Control sets of all sizes; if they are not measured yet, the background work that measures them."""
    found = maps.known_controls(asked)
    if found is None and stepwise.waits_for_all():
        for _ in maps.draw_controls(asked):
            pass
        found = maps.known_controls(asked)
    return BACKGROUND.wish(("controls", *asked.key), lambda: maps.draw_controls(asked)) if found is None else found


def _sets_picture(scene: Scene, view: View, picture: Picture, how: How, order: str, count: int) -> None:
    chosen = ranked(scene, order, how)[:count]
    shown = predictions.shown(scene.run, picture)
    found, least = predictions.answers_at(scene.run, picture, (scene.pair.old, scene.pair.new)), scene.page.least
    before = found.predictions[scene.pair.new]
    after = maps.changed(scene.run, picture, scene.pair.new, how, scene.pair.old, chosen.tolist())
    after_drawn = maps.changed_drawn(scene.run, picture, scene.pair.new, how, scene.pair.old, chosen.tolist(), least)
    label = ORDERS[order][0]
    words = f"from step {scene.pair.old}" if how == "old" else "off"
    layers = [
        Layer(f"Step {scene.pair.new}", found.drawn(scene.pair.new, least)),
        Layer(f"{count} {label} {words}", after_drawn, note=f"{percent(float((before != after).mean()))} changed"),
    ]
    if how == "old":
        layers.append(Layer(f"Step {scene.pair.old}", found.drawn(scene.pair.old, least)))
    if shown.truth is not None:
        layers.append(Layer("Ground truth", shown.truth))
    show_picture(
        view,
        shown,
        layers,
        key=VIEWER,
        title="The prediction before and after the change",
        height=VIEWER_HEIGHT,
        active=1,
        second=0,
        truth=len(layers) - 1 if shown.truth is not None else None,
    )


def _sets_curve(
    scene: Scene,
    view: View,
    orders: tuple[str, ...],
    how: How,
    measure: int,
    random: bool,
    chosen: tuple[str, int],
) -> None:
    """The curves; drawn at once, and again when the random channels are ready."""
    curves = {name: measured(scene, how, name).curve for name in orders}
    lines = [EffectLine(name, *ORDERS[name], 100 * curve.effect[:, measure]) for name, curve in curves.items()]
    unit = "changed pixels (points)" if measure == 0 else "right pixels (points)"
    drawn = random_channels(change(scene, how, chosen[0])) if random else None
    controls = None if isinstance(drawn, Job) else drawn
    band = None
    if controls is not None:
        (low, high), middle = controls.interval(), np.median(controls.control_effect, 1)
        band = 100 * low[:, measure], 100 * middle[:, measure], 100 * high[:, measure]
    view.csv(lambda: _sets_table(sizes(scene, how), curves, controls, measure))
    st.markdown(_verdict(scene, curves[chosen[0]], controls, how, measure, chosen))
    figure = effect_curves(
        np.asarray(sizes(scene, how)), lines, scene.page.ink, y=unit, chosen=chosen, total=len(testable(scene, how)),
        band=band,
    )  # fmt: skip
    points = view.plot(
        figure, "Effect of changing sets of channels, next to random ones", height=EFFECT_HEIGHT, select=True
    )
    if isinstance(drawn, Job):
        sets = maps.control_sets(scene.run, scene.image(), scene.pair.new)
        results_coming.follow(drawn, f"Random channels: {sets} sets of each number; the grey band follows.")
    if points and selection.fresh("channels-sets", points[0]["customdata"]):
        place, count = points[0]["customdata"]
        if 0 <= place < len(orders) and count:
            selection.go(order=orders[place], k=count)


def _verdict(scene: Scene, curve: Any, controls: Any, how: How, measure: int, chosen: tuple[str, int]) -> str:
    """What the marked point says, against chance (Markdown)."""
    order, count = chosen
    place = sizes(scene, how).index(count)
    effect = 100 * float(curve.effect[place, measure])
    done = f"from step {scene.pair.old}" if how == "old" else "switched off"
    what = "of the picture changes its class" if measure == 0 else "right pixels"
    amount = f"{effect:z.1f} % {what}" if measure == 0 else f"{effect:+z.1f} points of {what}".replace("-", "−")
    sentence = f"**{count} {ORDERS[order][0]}** channels {done}: **{amount}**"
    if controls is None:
        return f"{sentence}. Only the random channels show whether that is more than chance."
    low, high = (100 * float(edge[place, measure]) for edge in controls.interval())
    side: Literal["above", "below"] = "above" if measure == 0 or how == "old" else "below"
    p = float(maps.beside(curve, controls).p_value(side)[place, measure])
    chance = f"random ones {low:z.1f} to {high:z.1f}".replace("-", "−")
    if not np.isfinite(p):
        return f"{sentence}."
    if p <= SIGNIFICANT + 1e-9:
        apart = maps.imbalance(
            scene.run, scene.image(), scene.pair.new, how, scene.pair.old, ranked(scene, order, how)[:count]
        )
        if abs(apart) > BALANCED:
            more = "less" if apart < 0 else "more"
            return (
                f"{sentence}, {chance} (p = {p:.3f}). No fair controls: these channels have {more} energy than the "
                f"random ones ({abs(apart):.2f} standard deviations)."
            )
        drawn = maps.control_sets(scene.run, scene.image(), scene.pair.new)
        floor = f", the floor with {drawn} sets" if p <= 1 / (drawn + 1) + 1e-9 else ""
        return f"{sentence}, {chance}: more than chance (p = {p:.3f}{floor})."
    return f"{sentence}, {chance}: not more than chance (p = {p:.2f})."


def _sets_table(numbers: tuple[int, ...], curves: dict[str, Any], controls: Any, measure: int) -> dict[str, Any]:
    table: dict[str, Any] = {"channels": list(numbers)}
    for name, curve in curves.items():
        table[f"{ORDERS[name][0]}, points"] = 100 * curve.effect[:, measure]
    if controls is not None:
        low, high = controls.interval()
        table["random, 5 %, points"] = 100 * low[:, measure]
        table["random, 95 %, points"] = 100 * high[:, measure]
    return table
