"""Channels: which channels carry the old knowledge?"""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.channels import figures
from dashboard.app_pages.channels import maps as channel_maps
from dashboard.app_pages.channels.detail import draw_channel, draw_gallery, draw_without, look_ahead
from dashboard.app_pages.channels.scene import (
    BASIS_NAMES,
    UNITS,
    Scene,
    at_first,
    drawn_once,
    encoded,
    look,
    measured,
    pictures,
    pixels_of,
    quarter,
    sizes,
    telling,
    testable,
)
from dashboard.app_pages.channels.sets import draw_sets, orders_of
from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.page import Empty, Page
from dashboard.picture import channel_distances
from dashboard.state import selection, settings
from dashboard.ui.wording import counted, percent
from lag_core.explain import channels
from lag_core.explain.channels import ChannelSplit
from lag_core.runs import Run

UPPER_HEIGHT = 226

FORMULAS: dict[str, str] = {
    "entropy_kl": r"d_c = KL(E^{old}_c \,\|\, E^{new}_c), \quad E = \frac{-P \log P}{\sum -P \log P}, \quad "
    r"P = \mathrm{softmax}_{xy}(Z_c)",
    "spatial_kl": r"d_c = KL(P^{old}_c \,\|\, P^{new}_c), \quad P = \mathrm{softmax}_{xy}(Z_c)",
    "cosine": r"d_c = 1 - \cos(Z^{old}_c, Z^{new}_c)",
    "l2": r"d_c = \sqrt{\mathrm{mean}_{xy} (Z^{old}_c - Z^{new}_c)^2}",
    "random": r"d_c \sim U(0, 1), \text{ fixed by the seed}",
}

NOTEWORTHY = 2.0
"""Percentage points of a picture's pixels below which two numbers count as equal in words."""


def render(page: Page) -> None:
    """Draw the page."""
    if page.step == 0:
        raise Empty("Step 0 is the first step, so no channel can have moved yet. Go to step 1 or later.")
    scene = look(page)
    page.answer(answer(scene))
    left, middle, right = st.columns((1.25, 1.05, 0.8), gap="small")
    with left:
        _curve(scene)
    with middle:
        _energy(scene)
    with right:
        _stability(scene)
    left, middle, right = st.columns((1.15, 1, 1), gap="small")
    with left:
        draw_gallery(scene)
    with middle:
        draw_channel(scene)
    with right:
        draw_without(scene)
    draw_sets(scene)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    if page.step == 0:
        return
    scene = at_first(page)
    how = telling(scene)
    for order in orders_of(scene):
        measured(scene, how, order)
    channel_maps.changed(page.run, scene.image(), page.step, "zero", scene.pair.old, [scene.channel])
    look_ahead(scene)
    answer(scene)


def answer(scene: Scene) -> str:
    """Which channels carry the old knowledge, in words that follow from the numbers (Markdown)."""
    return f"{_moved(scene)}{_died(scene)}"


def _died(scene: Scene) -> str:
    """How many channels died between the two steps; nothing if none did (Markdown)."""
    found, where = channel_maps.living(scene.run, scene.picture, scene.pair.old, scene.pair.new)
    if found is None or not found.died.any():
        return ""
    return f" **{found.words(scene.pair.old, scene.pair.new)}** ({where})."


def _moved(scene: Scene) -> str:
    old, new = scene.pair.old, scene.pair.new
    if scene.split is None:
        return scene.why_no_split
    if scene.why_no_split:
        head, _, rest = scene.why_no_split.partition(":")
        heads = ""
        if not scene.split.distance.any():
            heads = f" Any difference between the predictions of steps {old} and {new} comes from the heads."
        return f"**{head}**:{rest}{heads}"
    moved = scene.split.curve
    middle = float(np.median(moved))
    times = f", {moved[-1] / middle:.1f} times as far as the median one" if middle > 0 else ""
    sentence = f"From step {old} to {new}, channel **{scene.split.order[-1]}** moved most{times}."
    return f"{sentence} {_carriers(scene)}"


def _carriers(scene: Scene) -> str:
    """What the picture loses without the least moved quarter of channels, and without the most moved; or, where it
    has nothing left to lose, what it gains when they are restored."""
    if scene.picture is None or scene.split is None:
        return "Choose an image to see what they carry."
    how = telling(scene)
    living = len(testable(scene, how))
    if living < 2:
        return f"{living} of {counted(scene.total, 'channel')} are alive on this picture."
    fourth = quarter(scene, how)
    place = sizes(scene, how).index(fourth)
    found = {order: measured(scene, how, order) for order in ("invariant", "changed")}
    if not found["invariant"].old_pixels:
        shares = [percent(float(m.curve.chosen[place, 0])) for m in found.values()]
        return (
            f"Switching off the {fourth} least moved channels gives **{shares[0]}** of this picture another class; "
            f"the {fourth} most moved, **{shares[1]}**."
        )
    whole = 100 * float(found["invariant"].curve.untouched[1])
    least, most = (100 * float(m.curve.chosen[place, 1]) for m in found.values())
    start = f"Of this picture's pixels of old classes {percent(whole / 100)} are right"
    if how == "old":
        return (
            f"{start}. Restoring the {fourth} most moved channels from step {scene.pair.old} makes it "
            f"**{percent(most / 100)}**, the {fourth} least moved **{percent(least / 100)}**: "
            f"{_lost_words(least - whole, most - whole)}."
        )
    return (
        f"{start}; without the {fourth} least moved channels it is **{percent(least / 100)}**, without the {fourth} "
        f"most moved **{percent(most / 100)}**. {_switched_off_words(least, most)} "
        "Below, random channels show what chance does."
    )


def _switched_off_words(least: float, most: float) -> str:
    """Which of two sets mattered more here: percentage points that stay right without either."""
    if abs(least - most) < NOTEWORTHY:
        return "So both sets carry about as much of the old classes."
    which = "least" if least < most else "most"
    return f"So here the channels that moved {which} carry more of them."


def _lost_words(least: float, most: float) -> str:
    """What two gains by transplanting say, percentage points."""
    if max(least, most) < NOTEWORTHY:
        return "neither brings the old classes back by itself"
    if abs(least - most) < NOTEWORTHY:
        return "both bring back about as much"
    return "what was lost sits in the most moved ones" if most > least else "the least moved ones bring back more"


def _curve(scene: Scene) -> None:
    with scene.page.section(
        "How far each channel moved",
        f"A bar per channel, {BASIS_NAMES[scene.pair.basis]}; blue: invariant, orange: specific. Click one.",
        slug="distances",
        formula=FORMULAS[scene.pair.metric] + r", \quad \text{invariant: the } \rho C \text{ smallest}",
        source="docs/method.md#split: sorted distances and the share ρ are the paper's, the distance itself is ours",
    ) as view:
        rho = settings.slide(
            "ρ, the share of invariant channels", "rho", 0, 1, scene.run.config.method.rho, 0.05,
            help="It starts at the value that the run trained with.",
        )  # fmt: skip
        split = channels.split(scene.defined().distance, rho)
        others, name = _compared_distance(scene)
        view.csv(lambda: _distance_table(scene, split))
        figure = figures.distance_curve(
            split, UNITS[scene.pair.metric], scene.page.ink, channel=scene.channel, compared=others, name=name
        )
        points = view.plot(figure, "Sorted distances of all channels with the cut", height=UPPER_HEIGHT, select=True)
        if points and selection.fresh("channels-distances", points[0]["customdata"]):
            selection.go(channel=int(points[0]["customdata"][0]))


def _compared_distance(scene: Scene) -> tuple[np.ndarray | None, str]:
    """Distances of the compared run between the same steps, where they are known by the same measure."""
    run2 = scene.page.run2
    if run2 is None or scene.pair.new > run2.last_step:
        return None, ""
    basis, metric = scene.pair.basis, scene.pair.metric
    known = channel_distances.bases(run2, scene.pair.old == scene.pair.new - 1, scene.picture)
    if basis not in known or metric not in channel_distances.metrics(run2, basis):
        return None, ""
    return channel_distances.distance(run2, scene.picture, scene.pair), run2.name


def _distance_table(scene: Scene, split: ChannelSplit) -> dict[str, Any]:
    order = split.order
    return {
        "channel": order.tolist(),
        f"distance ({UNITS[scene.pair.metric]})": split.curve.tolist(),
        "group": ["invariant" if split.invariant[c] else "specific" for c in order],
    }


def _energy(scene: Scene) -> None:
    with scene.page.section(
        "Where each group is active",
        f"Mean Z² at step {scene.pair.new}, one scale; {'lighter' if scene.page.ink.dark else 'darker'}: more.",
        slug="energy",
        formula=r"E_G(x, y) = \frac{1}{|G|} \sum_{c \in G} Z_c(x, y)^2, \qquad "
        r"\text{share}_G = \frac{\sum_{c \in G} \lVert Z_c \rVert^2}{\sum_c \lVert Z_c \rVert^2}",
        source="docs/method.md#channels",
    ) as view:
        if scene.split is None or scene.why_no_split:
            raise Empty("Without a split there are no groups to draw. The gallery below has every channel.")
        split, picture = scene.split, scene.image()
        name = ("energy", loaders.array_digest(split.invariant))
        drawn = drawn_once(scene, picture, name, lambda: encoded(_energy_maps(scene, picture, split)))
        view.png(lambda: np.concatenate(_energy_maps(scene, picture, split), 1))
        shares = _energy_shares(scene, picture, split)
        view.csv({"group": ["invariant", "specific"], **{f"share of energy, step {t}": s for t, s in shares.items()}})
        pictures(
            drawn,
            [
                (
                    f"**invariant**, {counted(int(split.invariant.sum()), 'channel')}",
                    "Energy of the invariant channels",
                ),
                (f"**specific**, {counted(int(split.specific.sum()), 'channel')}", "Energy of the specific channels"),
            ],
        )
        told = ", ".join(f"{100 * s[0]:.0f} % at step {t}" for t, s in shares.items())
        chance = 100 * split.invariant.mean()
        st.caption(
            f"The invariant {chance:.0f} % of channels hold {told} of this picture's energy."
            f"{_silent(scene, picture, split.invariant)}"
        )


def _energy_maps(scene: Scene, picture: Picture, split: ChannelSplit) -> list[np.ndarray]:
    """Energy of both groups over the picture, in one scale, uint8 [H, W, 3] each."""
    maps = [
        channel_maps.energy_on_image(scene.run, picture, scene.pair.new, group)
        for group in (split.invariant, split.specific)
    ]
    high = max(float(m.max()) for m in maps) or 1.0
    pixels = pixels_of(picture)
    return [figures.over_picture(pixels, m, high, scene.page.ink) for m in maps]


def _silent(scene: Scene, picture: Picture, group: np.ndarray) -> str:
    """How many channels of a group are silent at both steps: they cannot move."""
    energies = [channel_maps.energies(scene.run, picture, t) for t in (scene.pair.old, scene.pair.new)]
    count = int(((energies[0] == 0) & (energies[1] == 0) & group).sum())
    return f" {count} of them {'is' if count == 1 else 'are'} silent at both." if count else ""


def _energy_shares(scene: Scene, picture: Picture, split: ChannelSplit) -> dict[int, list[float]]:
    """Of the invariant and of the specific channels, at both steps."""
    found = {}
    for step in (scene.pair.old, scene.pair.new):
        energy = channel_maps.energies(scene.run, picture, step)
        found[step] = [channels.energy_share(energy, group) for group in (split.invariant, split.specific)]
    return found


def _stability(scene: Scene) -> None:
    with scene.page.section(
        "Split stability",
        "Overlap of the invariant channels with the previous step's (Jaccard index). Dashed: random sets.",
        slug="stability",
        formula=r"J_t = \frac{|I_t \cap I_{t-1}|}{|I_t \cup I_{t-1}|}",
        source="docs/method.md#channels; chance: the expected index of two independent random sets (ours)",
    ) as view:
        run, run2 = scene.run, scene.page.run2
        if run.last_step < 2:
            raise Empty("This run has a single later step, so there is no second split to compare with.")
        own = _stability_of(run, scene)
        if not np.isfinite(own).any():
            raise Empty(
                "No two consecutive splits are defined, so there is nothing to compare; the left view says why."
            )
        theirs = None
        if (
            run2 is not None
            and _compared_distance(scene)[0] is not None
            and np.isfinite(_stability_of(run2, scene)).any()
        ):
            theirs = _stability_of(run2, scene)
        chance = channels.chance_jaccard(scene.total, scene.rho)
        view.csv({"step": list(range(2, 2 + len(own))), "Jaccard index": own.tolist(), "chance": [chance] * len(own)})
        figure = figures.stability_bars(
            own, chance, scene.page.ink, step=scene.page.step, compared=theirs, name=run2.name if run2 else ""
        )
        points = view.plot(figure, "Stability of the invariant channels by step", height=UPPER_HEIGHT + 74, select=True)
        if points and selection.fresh("channels-stability", points[0]["customdata"]):
            selection.go(step=int(points[0]["customdata"][0]))


def _stability_of(run: Run, scene: Scene) -> np.ndarray:
    found = channel_distances.distances(run, scene.picture, scene.pair.basis, scene.pair.metric)
    return channel_distances.stability(found, scene.rho)
