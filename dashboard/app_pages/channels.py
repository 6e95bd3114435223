"""Channels: which channels carry the old knowledge?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import streamlit as st

from dashboard import channel_maps, design, exhibit, loaders, settings, state, untrusted
from dashboard.channel_maps import Basis, How, Measured, Step
from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.components.viewer import Layer, viewer
from dashboard.components.viewer_state import kept_settings
from dashboard.figures import channels as figures
from dashboard.figures.channels import EffectLine
from dashboard.loaders import Picture
from dashboard.page import Empty, Page, View, to_png
from dashboard.sidebar import class_names
from lag_core.explain import channels
from lag_core.explain.channels import ChannelSplit
from lag_core.runs import Run

VIEWER = "channels-viewer"
UPPER_HEIGHT, PROFILE_HEIGHT, BARS_HEIGHT, EFFECT_HEIGHT, VIEWER_HEIGHT = 226, 150, 178, 330, 330
GALLERY_PAGE, TILE, TOP_SIDE = 18, 108, 52
CONTROLS = 19
"""Sets of random channels: with 19, a p-value can be as small as 1 in 20."""
SIGNIFICANT = 0.05
NOTEWORTHY = 2.0
"""Percentage points of a picture's pixels below which two numbers count as equal in words."""
HARDLY_RIGHT = 0.1
"""Share of right pixels of old classes below which there is little left to lose."""

BASIS_NAMES: dict[str, str] = {
    "validation": "validation images", "training": "training images", "image": "this image",
}  # fmt: skip
METRIC_NAMES: dict[str, str] = {
    "entropy_kl": "KL of entropy maps", "spatial_kl": "KL of activation maps", "cosine": "1 − cosine", "l2": "RMS",
    "random": "random (control)",
}  # fmt: skip
UNITS: dict[str, str] = {
    "entropy_kl": "KL, nats", "spatial_kl": "KL, nats", "cosine": "1 − cosine", "l2": "activation", "random": "none",
}  # fmt: skip
FORMULAS: dict[str, str] = {
    "entropy_kl": r"d_c = KL(E^{old}_c \,\|\, E^{new}_c), \quad E = \frac{-P \log P}{\sum -P \log P}, \quad "
    r"P = \mathrm{softmax}_{xy}(Z_c)",
    "spatial_kl": r"d_c = KL(P^{old}_c \,\|\, P^{new}_c), \quad P = \mathrm{softmax}_{xy}(Z_c)",
    "cosine": r"d_c = 1 - \cos(Z^{old}_c, Z^{new}_c)",
    "l2": r"d_c = \sqrt{\mathrm{mean}_{xy} (Z^{old}_c - Z^{new}_c)^2}",
    "random": r"d_c \sim U(0, 1), \text{ fixed by the seed}",
}

ORDERS: dict[str, tuple[str, str]] = {
    "invariant": ("least moved", design.INVARIANT),
    "changed": ("most moved", design.SPECIFIC),
    "relevance": ("most relevant", "#009E73"),
}
"""Orders of channels, as channels.ranked knows them: their name and colour."""


@dataclass(frozen=True)
class Scene:
    """What the page's views share."""

    page: Page
    picture: Picture | None
    why_no_picture: str
    pair: Step
    rho: float
    split: ChannelSplit | None
    """None where no distance is known."""
    why_no_split: str
    """Why there is no split, or why it is arbitrary; empty where it is defined."""
    channel: int
    total: int
    """C."""

    @property
    def run(self) -> Run:
        return self.page.run

    def defined(self) -> ChannelSplit:
        """The split; raises `Empty` with the reason where there is none to speak of."""
        if self.split is None or self.why_no_split:
            raise Empty(self.why_no_split)
        return self.split

    def image(self) -> Picture:
        """The picture; raises `Empty` with the reason where there is none."""
        if self.picture is None:
            raise Empty(self.why_no_picture)
        return self.picture


def render(page: Page) -> None:
    """Draw the page."""
    if page.step == 0:
        raise Empty(
            "Step 0 has no step before it, so no channel can have moved yet. Move the scrubber to step 1 or later."
        )
    scene = _scene(page)
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
        _gallery(scene)
    with middle:
        _channel(scene)
    with right:
        _without(scene)
    _sets(scene)


# ---------------------------------------------------------------------- what is compared


def _scene(page: Page) -> Scene:
    try:
        picture, why = page.picture(), ""
    except Empty as reason:
        picture, why = None, str(reason)
    pair = _choose_pair(page, picture)
    rho = state.measure("rho", 0, 1, page.run.config.method.rho, "share of invariant channels")
    found = channel_maps.distance(page.run, picture, pair)
    split = None if found is None else channels.split(found, rho)
    total = page.run.config.model.latent if split is None else len(split.distance)
    first = 0 if split is None else int(split.order[-1])
    channel = state.count("channel", 0, total - 1, first, "channel")
    state.use("channel", channel, first)
    return Scene(page, picture, why, pair, rho, split, _why_no_split(page, pair, split), channel, total)


def _choose_pair(page: Page, picture: Picture | None) -> Step:
    """The earlier step, on what images and by what metric channels are compared: the page's toolbar."""
    earlier = [str(t) for t in range(page.step)]
    hidden: dict[str, Any] = {"label_visibility": "collapsed"}
    with page.toolbar:
        st.markdown("Since step", width="content")
        old = int(settings.select("Earlier step", "since", earlier, earlier[-1], width=76, **hidden))
        offered = channel_maps.bases(page.run, old == page.step - 1, picture)
        if not offered:
            raise Empty(
                f"No distances of channels are known between steps {old} and {page.step}: choose the step before, "
                "or an image in the sidebar to measure them on."
            )
        st.markdown("on", width="content")
        names: dict[str, str] = {one: BASIS_NAMES[one] for one in offered}
        basis = settings.select(
            "Measured on", "basis", tuple(names), names=lambda name: names[name], width=168, **hidden
        )
        known = channel_maps.metrics(page.run, cast(Basis, basis))
        metric = settings.select(
            "Channel metric", "metric", known, names=lambda name: METRIC_NAMES[name], width=188, **hidden
        )
    return Step(old, page.step, cast(Basis, basis), metric)


def _why_no_split(page: Page, pair: Step, split: ChannelSplit | None) -> str:
    if split is None:
        return (
            f"No distances from step {pair.old} to {pair.new} are known on the {BASIS_NAMES[pair.basis]}. Choose "
            "other images in the toolbar."
        )
    if split.defined:
        return ""
    if not split.distance.any():
        return (
            "The extractor did not move: every channel is the same in both steps, so none is more invariant than "
            "another and there is no split."
        )
    return (
        f"No channel moved measurably: the largest distance is {split.distance.max():.1g} ({UNITS[pair.metric]}), "
        f"below {channels.DEFINED_ABOVE:g}, where the order of channels is arbitrary and there is no split."
    )


# ---------------------------------------------------------------------- the answer


def answer(scene: Scene) -> str:
    """Which channels carry the old knowledge, in words that follow from the numbers (Markdown)."""
    old, new = scene.pair.old, scene.pair.new
    if scene.split is None:
        return scene.why_no_split
    if scene.why_no_split:
        head, _, rest = scene.why_no_split.partition(":")
        heads = ""
        if not scene.split.distance.any():
            heads = f" Whatever the predictions of steps {old} and {new} differ in, the heads changed it."
        return f"**{head}**:{rest}{heads}"
    moved = scene.split.curve
    middle = float(np.median(moved))
    times = f", {moved[-1] / middle:.1f} times as far as the median one" if middle > 0 else ""
    sentence = f"From step {old} to {new}, channel **{scene.split.order[-1]}** moved most{times}."
    return f"{sentence} {_carriers(scene)}"


def _carriers(scene: Scene) -> str:
    """What the picture loses without the least moved quarter of channels, and without the most moved; or, where it
    has nothing to lose any more, what it wins when they are as they were."""
    if scene.picture is None or scene.split is None:
        return "With an image, this page says what they carry."
    quarter = max(1, round(scene.total / 4))
    place = channel_maps.counts(scene.total).index(quarter)
    how = _telling(scene)
    found = {order: _measured(scene, how, order) for order in ("invariant", "changed")}
    if not found["invariant"].old_pixels:
        shares = [_percent(100 * float(m.curve.chosen[place, 0])) for m in found.values()]
        return (
            f"Switching off the {quarter} least moved channels gives **{shares[0]}** of this picture another class; "
            f"the {quarter} most moved, **{shares[1]}**."
        )
    whole = 100 * float(found["invariant"].curve.untouched[1])
    least, most = (100 * float(m.curve.chosen[place, 1]) for m in found.values())
    start = f"Of this picture's pixels of old classes {_percent(whole)} are right"
    if how == "old":
        return (
            f"{start}; with the {quarter} most moved channels of step {scene.pair.old} **{_percent(most)}**, with the "
            f"{quarter} least moved **{_percent(least)}**: {_lost_words(least - whole, most - whole)}."
        )
    words = "here the least moved ones carry more" if least < most else "here the most moved ones carry more"
    words = "both carry about as much" if abs(least - most) < NOTEWORTHY else words
    return (
        f"{start}; without the {quarter} least moved channels **{_percent(least)}**, without the {quarter} most moved "
        f"**{_percent(most)}**: {words}."
    )


def _lost_words(least: float, most: float) -> str:
    """What two gains by transplanting say, percentage points."""
    if max(least, most) < NOTEWORTHY:
        return "neither brings the old classes back, the heads or more channels would have to"
    if abs(least - most) < NOTEWORTHY:
        return "both bring back about as much"
    return "what was lost sits in the most moved ones" if most > least else "the least moved ones bring back more"


def _telling(scene: Scene) -> How:
    """What to change by default: switch off, unless hardly any pixel of old classes is right any more."""
    anything = np.arange(scene.total)
    found = channel_maps.effect(scene.run, scene.image(), scene.pair.new, "zero", scene.pair.old, anything, (0,))
    return "old" if found.old_pixels and found.curve.untouched[1] < HARDLY_RIGHT else "zero"


# ---------------------------------------------------------------------- distances and the split


def _curve(scene: Scene) -> None:
    with scene.page.section(
        "How far each channel moved",
        f"A bar a channel, {BASIS_NAMES[scene.pair.basis]}; blue: invariant, orange: specific. Click one.",
        slug="distances",
        formula=FORMULAS[scene.pair.metric] + r", \quad \text{invariant: the } \rho C \text{ smallest}",
        source="METHOD.md C.1: sorted distances and the share ρ are the paper's, the distance itself is ours",
    ) as view:
        rho = settings.slide(
            "ρ, the share of invariant channels", "rho", 0, 1, scene.run.config.method.rho, 0.05,
            help="The run trained with the value that it starts at.",
        )  # fmt: skip
        split = channels.split(scene.defined().distance, rho)
        others, name = _compared_distance(scene)
        view.csv(lambda: _distance_table(scene, split))
        figure = figures.distance_curve(
            split, UNITS[scene.pair.metric], scene.page.ink, channel=scene.channel, compared=others, name=name
        )
        points = view.plot(figure, "Sorted distances of all channels with the cut", height=UPPER_HEIGHT, select=True)
        if points and state.fresh("channels-distances", points[0]["customdata"]):
            state.go(channel=int(points[0]["customdata"][0]))


def _compared_distance(scene: Scene) -> tuple[np.ndarray | None, str]:
    """Distances of the compared run between the same steps, where they are known by the same measure."""
    run2 = scene.page.run2
    if run2 is None or scene.pair.new > run2.last_step:
        return None, ""
    basis, metric = scene.pair.basis, scene.pair.metric
    known = channel_maps.bases(run2, scene.pair.old == scene.pair.new - 1, scene.picture)
    if basis not in known or metric not in channel_maps.metrics(run2, basis):
        return None, ""
    return channel_maps.distance(run2, scene.picture, scene.pair), run2.name


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
        f"Mean Z² at step {scene.pair.new}, one scale for both; the brightest cells are where a group speaks."
        if not scene.page.ink.dark
        else f"Mean Z² at step {scene.pair.new}, one scale for both; light cells are where a group speaks.",
        slug="energy",
        formula=r"E_G(x, y) = \frac{1}{|G|} \sum_{c \in G} Z_c(x, y)^2, \qquad "
        r"\text{share}_G = \frac{\sum_{c \in G} \lVert Z_c \rVert^2}{\sum_c \lVert Z_c \rVert^2}",
        source="METHOD.md I.3",
    ) as view:
        split, picture = scene.defined(), scene.image()
        maps = [
            channel_maps.energy_on_image(scene.run, picture, scene.pair.new, group)
            for group in (split.invariant, split.specific)
        ]
        high = max(float(m.max()) for m in maps) or 1.0
        pixels = _pixels(picture)
        drawn = [figures.over_picture(pixels, m, high, scene.page.ink) for m in maps]
        view.png(lambda: np.concatenate(drawn, 1))
        shares = _energy_shares(scene, picture, split)
        view.csv({"group": ["invariant", "specific"], **{f"share of energy, step {t}": s for t, s in shares.items()}})
        _pictures(
            [
                (drawn[0], f"**invariant**, {int(split.invariant.sum())} channels", "Energy of the invariant channels"),
                (drawn[1], f"**specific**, {int(split.specific.sum())} channels", "Energy of the specific channels"),
            ]
        )
        told = ", ".join(f"{100 * s[0]:.0f} % at step {t}" for t, s in shares.items())
        chance = 100 * split.invariant.mean()
        st.caption(f"The invariant {chance:.0f} % of channels hold {told} of this picture's energy.")


def _energy_shares(scene: Scene, picture: Picture, split: ChannelSplit) -> dict[int, list[float]]:
    """Of the invariant and of the specific channels, at both steps."""
    found = {}
    for step in (scene.pair.old, scene.pair.new):
        energy = channels.channel_energy(channel_maps.latent(scene.run, picture, step))
        found[step] = [channels.energy_share(energy, group) for group in (split.invariant, split.specific)]
    return found


def _pixels(picture: Picture) -> np.ndarray:
    """The picture at the size at which maps are shown, uint8 [H, W, 3]."""
    rows, columns = exhibit.sampling(picture.pixels.shape[0], picture.pixels.shape[1], exhibit.LONG_SIDE)
    return picture.pixels[np.ix_(rows, columns)]


def _pictures(items: Sequence[tuple[np.ndarray, str, str]]) -> None:
    """Pictures side by side, each with a caption (Markdown) and a text for screen readers."""
    for place, (pixels, caption, alt) in zip(st.columns(len(items), gap="xsmall"), items, strict=True):
        place.image(to_png(pixels), caption, width="stretch", alt=alt)


def _stability(scene: Scene) -> None:
    with scene.page.section(
        "Is the split the same next time?",
        "Overlap of the invariant channels with the step before's; 1: the same ones. Dashed: random sets.",
        slug="stability",
        formula=r"J_t = \frac{|I_t \cap I_{t-1}|}{|I_t \cup I_{t-1}|}",
        source="METHOD.md I.3; chance: the expected index of two independent random sets (ours)",
    ) as view:
        run, run2 = scene.run, scene.page.run2
        if run.last_step < 2:
            raise Empty("This run has a single later step; a second split is needed to compare with.")
        own = _stability_of(run, scene)
        if not np.isfinite(own).any():
            raise Empty(
                f"No two neighbouring splits are defined: {_lower(scene.why_no_split)}"
                if scene.why_no_split
                else "No two neighbouring splits are defined: at one of them no channel moved."
            )
        theirs = None
        if (
            run2 is not None
            and _compared_distance(scene)[0] is not None
            and np.isfinite(_stability_of(run2, scene)).any()
        ):
            theirs = _stability_of(run2, scene)
        chance = channels.chance_jaccard(scene.total, scene.rho)
        view.csv({"step": list(range(2, 2 + len(own))), "Jaccard index": own, "chance": [chance] * len(own)})
        figure = figures.stability_bars(
            own, chance, scene.page.ink, step=scene.page.step, compared=theirs, name=run2.name if run2 else ""
        )
        points = view.plot(figure, "Stability of the invariant channels by step", height=UPPER_HEIGHT + 74, select=True)
        if points and state.fresh("channels-stability", points[0]["customdata"]):
            state.go(step=int(points[0]["customdata"][0]))


def _stability_of(run: Run, scene: Scene) -> np.ndarray:
    found = channel_maps.distances(run, scene.picture, scene.pair.basis, scene.pair.metric)
    return channel_maps.stability(found, scene.rho)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


# ---------------------------------------------------------------------- the gallery


def _gallery(scene: Scene) -> None:
    with scene.page.section(
        "Channels of this picture",
        f"Left half: step {scene.pair.old}, right half: step {scene.pair.new}, in one scale. Choose one.",
        slug="gallery",
        formula=r"R_c = \sum_{xy} Z_c \, \frac{\partial s_k}{\partial Z_c}",
        source="sort by relevance: METHOD.md D (ours), s: the class's logit summed over its pixels",
    ) as view:
        picture = scene.image()
        shown, words = _filtered(scene)
        ordered, values, unit = _sorted(scene, picture, shown)
        maps = [channel_maps.latent(scene.run, picture, t) for t in (scene.pair.old, scene.pair.new)]
        view.csv(lambda: {"channel": ordered.tolist(), unit: [float(values[c]) for c in ordered]})
        items = [_thumbnail(scene, picture, maps, int(c), float(values[c])) for c in ordered]
        if unit.startswith("relevance"):
            st.caption(f"Relevance of step {scene.pair.new} for {unit.removeprefix('relevance: ')}.")
        picked = thumbnails(
            items, key="channel-gallery", selected=str(scene.channel), page_size=GALLERY_PAGE, size=TILE,
            aspect=figures.TILE_ASPECT, label="Channels", empty=words,
        )  # fmt: skip
        if picked is not None and picked != str(scene.channel):
            state.go(channel=picked)


def _filtered(scene: Scene) -> tuple[np.ndarray, str]:
    """The channels to show, int [n], and the sentence for none."""
    names = {"all": "all"}
    if scene.split is not None and not scene.why_no_split:
        names |= {"invariant": "invariant", "specific": "specific", "crossed": "changed sides"}
    left, right = st.columns((1.35, 1), gap="xsmall")
    with left:
        chosen = settings.segments(
            "Channels shown", "channels", tuple(names), names=lambda name: names[name], label_visibility="collapsed",
        )  # fmt: skip
    with right:
        sorts = {"moved": "most moved", "still": "least moved", "energy": "energy", "relevance": "relevance"}
        if len(names) == 1:
            sorts = {"energy": "energy", "relevance": "relevance"}
        settings.select(
            "Sort channels by", "sort", tuple(sorts), names=lambda s: f"by {sorts[s]}" if s in sorts else s,
            label_visibility="collapsed",
        )  # fmt: skip
    if chosen == "all" or scene.split is None:
        return np.arange(scene.total), "This network has no latent channels."
    if chosen != "crossed":
        group = scene.split.invariant if chosen == "invariant" else scene.split.specific
        return np.flatnonzero(group), f"No channel is {chosen} at this ρ. Move the slider."
    rows = channel_maps.distances(scene.run, scene.picture, scene.pair.basis, scene.pair.metric)
    crossed = channel_maps.sides(rows, scene.pair.new, scene.rho, scene.split.invariant)
    if crossed is None:
        return np.arange(0), "There is no split of the step before to compare with. Move the scrubber on."
    return np.flatnonzero(crossed), "No channel changed sides since the step before."


def _sorted(scene: Scene, picture: Picture, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """The shown channels in order, the values float [C] that stand under them, and what these are."""
    by = st.session_state.get("sort")
    if by == "relevance":
        values, where, name = _relevance(scene, picture)
        return _largest_first(shown, values), values, f"relevance: {name}, {where}"
    if by == "energy" or scene.split is None:
        energy = channels.channel_energy(channel_maps.latent(scene.run, picture, scene.pair.new))
        return _largest_first(shown, energy), energy, "energy (mean Z²)"
    values = scene.split.distance
    ordered = _largest_first(shown, -values if by == "still" else values)
    return ordered, values, f"distance ({UNITS[scene.pair.metric]})"


def _largest_first(shown: np.ndarray, values: np.ndarray) -> np.ndarray:
    return shown[np.argsort(-values[shown], kind="stable")]


def _relevance(scene: Scene, picture: Picture) -> tuple[np.ndarray, str, str]:
    """Relevance float [C] for the selected class, on which pixels, and the class's name."""
    name = untrusted.markdown(scene.page.class_info.name)
    if scene.page.cls >= scene.run.labels.seen(scene.pair.new):
        raise Empty(f"{name} is not introduced yet, so no channel speaks for it. Move the scrubber on.")
    values, where = channel_maps.relevance(scene.run, picture, scene.pair.new, scene.page.cls)
    return values, where, name


def _thumbnail(scene: Scene, picture: Picture, maps: Sequence[np.ndarray], channel: int, value: float) -> Thumbnail:
    group = _group(scene, channel)
    version = f"{scene.run.digest}/{picture.digest}/{scene.pair.old}-{scene.pair.new}/{channel}/{scene.page.ink.dark}"
    return Thumbnail(
        str(channel),
        partial(_tile, maps, channel, scene.page.ink),
        f"{channel}{f' · {group}' if group else ''} · {value:.2g}",
        version=version,
    )


def _tile(maps: Sequence[np.ndarray], channel: int, ink: design.Ink) -> bytes:
    entry = channels.gallery(maps[0], maps[1], [channel])[0]
    return to_png(figures.tile(entry, ink))


def _group(scene: Scene, channel: int) -> str:
    if scene.split is None or scene.why_no_split:
        return ""
    return "inv." if scene.split.invariant[channel] else "spec."


# ---------------------------------------------------------------------- one channel


def _channel(scene: Scene) -> None:
    with scene.page.section(
        f"Channel {scene.channel}",
        _channel_words(scene),
        slug="channel",
        formula=r"\mu_{t,k} = \mathrm{mean}\{Z_c(x, y) : y_{xy} = k\}",
        source="class profile and top images: `lag survey`, over all validation images",
    ) as view:
        number = st.number_input(
            "Channel number", 0, scene.total - 1, scene.channel, key=f"channel-number-{scene.channel}",
            label_visibility="collapsed", help="The channel to look at.",
        )  # fmt: skip
        if int(number) != scene.channel and 0 <= int(number) < scene.total:
            state.go(channel=int(number))
        if scene.picture is not None:
            _channel_maps(scene, view, scene.picture)
        _profile(scene, view)
        _top_images(scene)


def _channel_words(scene: Scene) -> str:
    if scene.split is None or scene.why_no_split:
        return "Its activation on this picture, and on all validation images."
    rank = int(np.flatnonzero(scene.split.order == scene.channel)[0]) + 1
    group = "invariant" if scene.split.invariant[scene.channel] else "specific"
    moved = float(scene.split.distance[scene.channel])
    return f"{group.capitalize()}: moved by {moved:.3g} ({UNITS[scene.pair.metric]}), rank {rank} of {scene.total}."


def _channel_maps(scene: Scene, view: View, picture: Picture) -> None:
    maps = [
        channel_maps.channel_on_image(scene.run, picture, step, scene.channel)
        for step in (scene.pair.old, scene.pair.new)
    ]
    high = max(float(m.max()) for m in maps)
    if high <= 0:
        st.caption("This channel is silent on this picture at both steps.")
        return
    drawn = [figures.over_picture(_pixels(picture), m, high, scene.page.ink) for m in maps]
    view.png(lambda: np.concatenate(drawn, 1))
    _pictures(
        [
            (one, f"step {step}, up to {m.max():.2g}", f"Activation of channel {scene.channel} at step {step}")
            for one, m, step in zip(drawn, maps, (scene.pair.old, scene.pair.new), strict=True)
        ]
    )


def _profile(scene: Scene, view: View) -> None:
    survey = loaders.survey(scene.run)
    if survey is None:
        raise Empty(
            "Its profile over classes and its top images come from the survey of the validation images: run "
            "`python -m lag_core survey` with the run's folder."
        )
    run = scene.run
    profiles = np.array([survey.class_profile(t, scene.channel) for t in range(run.last_step + 1)])
    introduced = [run.labels.step_of(k) for k in range(len(run.classes))]
    names = [c.name for c in run.classes]
    view.csv({"class": names, **{f"mean activation, step {t}": row for t, row in enumerate(profiles)}})
    st.caption("What it answers to: mean activation on each class, by step.")
    figure = figures.profile_lines(
        profiles, run.classes, introduced, scene.page.ink, cls=scene.page.cls, step=scene.page.step
    )
    points = view.plot(figure, f"Class profile of channel {scene.channel}", height=PROFILE_HEIGHT, select=True)
    if points and state.fresh("channels-profile", points[0]["customdata"]):
        step, cls = points[0]["customdata"]
        state.go(step=step, cls=class_names(run)[cls])


def _top_images(scene: Scene) -> None:
    survey = loaders.survey(scene.run)
    if survey is None:
        return
    now = survey.top_images(scene.pair.new, scene.channel)
    before = {image.id for image in survey.top_images(scene.pair.old, scene.channel)}
    kept = sum(image.id in before for image in now)
    st.caption(
        f"Validation images in which it is strongest at step {scene.pair.new}; {kept} of {len(now)} were so at step "
        f"{scene.pair.old}."
    )
    known = set(loaders.image_ids(scene.run, scene.page.data_root))
    items = [
        Thumbnail(
            image.id,
            partial(loaders.thumbnail, scene.run, scene.page.data_root, image.id),
            f"{image.activation:.2g}",
            version=f"{scene.run.digest}/{scene.page.data_root}/{image.id}",
        )
        for image in now
        if image.id in known
    ]
    picked = thumbnails(
        items, key="channel-top", selected=scene.page.image_id, page_size=6, size=TOP_SIDE, label="Top images",
        empty="The images of the survey are not here.",
    )  # fmt: skip
    if picked is not None and picked != scene.page.image_id:
        state.go(image=picked)


def _without(scene: Scene) -> None:
    with scene.page.section(
        f"Without channel {scene.channel}",
        f"Step {scene.pair.new}'s prediction as it is, and with the channel changed in Z. Nothing else is touched.",
        slug="without",
        formula=r"\hat y' = \arg\max_k D_k(Z'), \qquad Z'_c = 0, \;\; \bar Z_c \;\text{ or }\; Z^{old}_c",
        source="METHOD.md K.6 (ours); D: the step's heads",
    ) as view:
        picture = scene.image()
        how = _choose_how(scene, "without")
        before = exhibit.answers(scene.run, picture).predictions[scene.pair.new]
        after = channel_maps.changed(scene.run, picture, scene.pair.new, how, scene.pair.old, [scene.channel])
        truth = exhibit.shown(scene.run, picture).truth
        palette, pixels = exhibit.palette(scene.run), _pixels(picture)
        drawn = [figures.painted(pixels, labels, palette) for labels in (before, after)]
        view.png(lambda: np.concatenate(drawn, 1))
        share = 100 * float((before != after).mean())
        words = {"zero": "switched off", "mean": "at its mean", "old": f"as at step {scene.pair.old}"}[how]
        _pictures(
            [
                (drawn[0], f"step {scene.pair.new}", f"Prediction of step {scene.pair.new}"),
                (drawn[1], f"{words}: {_percent(share)} changed", f"Prediction with channel {scene.channel} {words}"),
            ]
        )
        view.csv(lambda: _change_table(scene.run, before, after, truth))
        if not share:
            st.caption(
                f"With channel {scene.channel} {words}, no pixel of this picture gets another class."
                + _spared(truth, before, after)
            )
            return
        st.caption(f"What each class lost and gained.{_spared(truth, before, after)}")
        figure = figures.changed_bars(before, after, scene.run.classes, scene.page.ink, truth=truth)
        view.plot(figure, "Pixels lost and gained by each class", height=BARS_HEIGHT)


def _choose_how(scene: Scene, key: str) -> How:
    """What takes a channel's place."""
    names = {"zero": "switch off", "mean": "set to mean", "old": f"take from step {scene.pair.old}"}
    if loaders.survey(scene.run) is None:
        del names["mean"]
    chosen = settings.segments(
        "What takes its place",
        key,
        tuple(names),
        names=lambda name: names[name],
        label_visibility="collapsed",
    )
    return cast(How, chosen)


def _spared(truth: np.ndarray | None, before: np.ndarray, after: np.ndarray) -> str:
    """How much is right before and after, where there is a truth."""
    if truth is None or not (truth != 255).any():
        return ""
    asked = truth != 255
    shares = [100 * float((labels == truth)[asked].mean()) for labels in (before, after)]
    return f" Right: {shares[0]:.1f} %, then {shares[1]:.1f} %."


def _change_table(run: Run, before: np.ndarray, after: np.ndarray, truth: np.ndarray | None) -> dict[str, Any]:
    """Pixels of each class before and after, lost and gained, and right where there is a truth."""
    count = len(run.classes)
    sizes = [np.bincount(labels.ravel(), minlength=256)[:count] for labels in (before, after)]
    lost, gained = figures.lost_and_gained(before, after, count)
    table: dict[str, Any] = {
        "class": [c.name for c in run.classes], "pixels before": sizes[0].tolist(), "pixels after": sizes[1].tolist(),
        "lost, % of picture": lost.tolist(), "gained, % of picture": gained.tolist(),
    }  # fmt: skip
    if truth is not None:
        for name, labels in (("before", before), ("after", after)):
            table[f"right {name}"] = np.bincount(truth[labels == truth], minlength=256)[:count].tolist()
    return table


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


# ---------------------------------------------------------------------- sets of channels


def _sets(scene: Scene) -> None:
    with scene.page.section(
        "Sets of channels, next to random ones",
        "Change the k least moved, most moved or most relevant channels; only what leaves the grey band differs from "
        "chance. Click a point to see it.",
        slug="sets",
        inline=True,
        formula=r"\Delta(k) = m(D(Z'_k)) - m(D(Z)), \qquad p = \frac{1 + |\{\text{random sets with as much}\}|}{1 + n}",
        source=f"METHOD.md K.6; the comparison with n = {CONTROLS} random sets of k channels is ours",
    ) as view:
        picture = scene.image()
        left, right = st.columns((1, 1.1), gap="medium")
        with left:
            how, measure, random = _choose_sets(scene, picture)
            orders = _orders(scene)
            if not orders:
                raise Empty(
                    f"{scene.why_no_split} The order by relevance needs a class that is known at step {scene.pair.new}."
                )
            first = "changed" if how == "old" and "changed" in orders else orders[0]
            order = state.choose("order", orders, first, "order of channels")
            sizes = channel_maps.counts(scene.total)
            numbers = [str(k) for k in sizes[1:]]
            default = str(max(1, round(scene.total / 4)))
            count = int(state.choose("k", numbers, default, "number of channels"))
            found = {name: _measured(scene, how, name) for name in orders}
            slot = st.empty()
            bar = st.empty()
        with right:
            _sets_picture(scene, view, picture, how, order, count)
        _sets_curve(scene, view, slot, bar, found, how, measure, random, (order, count))
        state.use("order", order, first)
        state.use("k", count, default)


def _choose_sets(scene: Scene, picture: Picture) -> tuple[How, int, bool]:
    """The question, the place of the measure in a measurement, and whether random channels are drawn."""
    questions = {"carries": "What carries it? Switch off", "lost": f"What was lost? Take from step {scene.pair.old}"}
    question = settings.segments(
        "Question",
        "question",
        tuple(questions),
        "lost" if _telling(scene) == "old" else "carries",
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
            "Random channels", "random", True, help="Off stops the comparison, which takes longest on this page."
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


def _orders(scene: Scene) -> tuple[str, ...]:
    """Orders that make sense here: by distance only where the split is defined."""
    moved = ("invariant", "changed") if scene.split is not None and not scene.why_no_split else ()
    known = scene.page.cls < scene.run.labels.seen(scene.pair.new)
    return (*moved, "relevance") if known else moved


def _ranked(scene: Scene, order: str) -> np.ndarray:
    if order == "relevance":
        return channels.ranked(
            "relevance", channel_maps.relevance(scene.run, scene.image(), scene.pair.new, scene.page.cls)[0]
        )
    split = scene.defined()
    return channels.ranked(cast(channels.Order, order), split.distance)


def _measured(scene: Scene, how: How, order: str) -> Measured:
    """The effect of an order's channels at all numbers, without random ones."""
    sizes = channel_maps.counts(scene.total)
    return channel_maps.effect(
        scene.run, scene.image(), scene.pair.new, how, scene.pair.old, _ranked(scene, order), sizes
    )


def _controls(scene: Scene, how: How, bar: Any) -> Any:
    """Random channels at all numbers, one number after another: a click meanwhile stops it. A `Curve`."""
    points = []
    sizes = channel_maps.counts(scene.total)
    anything = np.arange(scene.total)
    for i, size in enumerate(sizes):
        bar.progress(i / len(sizes), f"Random channels: {CONTROLS} sets of {size}")
        found = channel_maps.effect(
            scene.run, scene.image(), scene.pair.new, how, scene.pair.old, anything, (size,), CONTROLS
        )
        points.append(found.curve)
    bar.empty()
    return channel_maps.joined(points)


def _sets_picture(scene: Scene, view: View, picture: Picture, how: How, order: str, count: int) -> None:
    chosen = _ranked(scene, order)[:count]
    shown = exhibit.shown(scene.run, picture)
    before = exhibit.answers(scene.run, picture).predictions[scene.pair.new]
    after = channel_maps.changed(scene.run, picture, scene.pair.new, how, scene.pair.old, chosen.tolist())
    label = ORDERS[order][0]
    words = f"from step {scene.pair.old}" if how == "old" else "off"
    layers = [
        Layer(f"Step {scene.pair.new}", before),
        Layer(f"{count} {label} {words}", after, note=f"{_percent(100 * float((before != after).mean()))} changed"),
    ]
    if how == "old":
        layers.append(Layer(f"Step {scene.pair.old}", exhibit.answers(scene.run, picture).predictions[scene.pair.old]))
    if shown.truth is not None:
        layers.append(Layer("Ground truth", shown.truth))
    kept = kept_settings(VIEWER, len(scene.run.classes), split="side")
    viewer(
        shown.encoded,
        layers,
        exhibit.palette(scene.run),
        exhibit.class_names(scene.run),
        key=VIEWER,
        active=1,
        second=0,
        opacity=kept.opacity,
        hidden=kept.hidden,
        outlines=kept.outlines,
        mode=kept.mode,
        split=kept.split,
        height=VIEWER_HEIGHT,
        title="The prediction before and after the change",
        size=shown.size,
        truth=len(layers) - 1 if shown.truth is not None else None,
        strip=True,
        report=True,
        filename=f"{view.file_stem}-step-{scene.pair.new}",
    )


def _sets_curve(
    scene: Scene,
    view: View,
    slot: Any,
    bar: Any,
    found: dict[str, Measured],
    how: How,
    measure: int,
    random: bool,
    chosen: tuple[str, int],
) -> None:
    """The curves; drawn at once, and again with the random channels."""
    orders = tuple(found)
    curves = {name: measured.curve for name, measured in found.items()}
    lines = [EffectLine(name, *ORDERS[name], 100 * curve.effect[:, measure]) for name, curve in curves.items()]
    unit = "changed pixels (points)" if measure == 0 else "right pixels (points)"
    draw: Callable[..., Any] = partial(
        figures.effect_curves, np.asarray(channel_maps.counts(scene.total)), lines, scene.page.ink, y=unit,
        chosen=chosen, total=scene.total,
    )  # fmt: skip
    controls = _controls(scene, how, bar) if random else None
    band = None
    if controls is not None:
        low, high = controls.interval()
        middle = np.median(controls.control_effect, 1)
        band = tuple(100 * edge[:, measure] for edge in (low, middle, high))
    view.csv(lambda: _sets_table(scene, curves, controls, measure))
    with slot.container(gap="xsmall"):
        st.markdown(_verdict(scene, curves[chosen[0]], controls, how, measure, chosen))
        points = view.plot(
            draw(band=band), "Effect of changing sets of channels, next to random ones", height=EFFECT_HEIGHT - 70,
            select=True,
        )  # fmt: skip
    if points and state.fresh("channels-sets", points[0]["customdata"]):
        place, count = points[0]["customdata"]
        if 0 <= place < len(orders) and count:
            state.go(order=orders[place], k=count)


def _verdict(scene: Scene, curve: Any, controls: Any, how: How, measure: int, chosen: tuple[str, int]) -> str:
    """What the marked point says, against chance (Markdown)."""
    order, count = chosen
    place = int(np.flatnonzero(np.asarray(channel_maps.counts(scene.total)) == count)[0])
    effect = 100 * float(curve.effect[place, measure])
    done = f"from step {scene.pair.old}" if how == "old" else "switched off"
    what = "of the picture changes its class" if measure == 0 else "right pixels"
    amount = f"{effect:.1f} % {what}" if measure == 0 else f"{effect:+.1f} points of {what}".replace("-", "−")
    sentence = f"**{count} {ORDERS[order][0]}** channels {done}: **{amount}**"
    if controls is None:
        return f"{sentence}. Whether that is more than chance needs the random channels."
    low, high = (100 * float(edge[place, measure]) for edge in controls.interval())
    side: Literal["above", "below"] = "above" if measure == 0 or how == "old" else "below"
    p = float(channel_maps.beside(curve, controls).p_value(side)[place, measure])
    chance = f"random ones {low:.1f} to {high:.1f}".replace("-", "−")
    if not np.isfinite(p):
        return f"{sentence}."
    if p <= SIGNIFICANT + 1e-9:
        return f"{sentence}, {chance}: more than chance (p = {p:.2f})."
    return f"{sentence}, {chance}: not more than chance (p = {p:.2f})."


def _sets_table(scene: Scene, curves: dict[str, Any], controls: Any, measure: int) -> dict[str, Any]:
    sizes = channel_maps.counts(scene.total)
    table: dict[str, Any] = {"channels": list(sizes)}
    for name, curve in curves.items():
        table[f"{ORDERS[name][0]}, points"] = 100 * curve.effect[:, measure]
    if controls is not None:
        low, high = controls.interval()
        table["random, 5 %, points"] = 100 * low[:, measure]
        table["random, 95 %, points"] = 100 * high[:, measure]
    return table
