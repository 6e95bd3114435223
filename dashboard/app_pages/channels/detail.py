"""Channels page: the gallery of channels, and the details of one channel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import streamlit as st

from dashboard.app_pages.channels import figures
from dashboard.app_pages.channels import maps as channel_maps
from dashboard.app_pages.channels.maps import How
from dashboard.app_pages.channels.scene import UNITS, Scene, drawn_once, encoded, pictures, pixels_of, relevance
from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.page import Empty, View, to_png
from dashboard.picture import channel_distances, predictions
from dashboard.sidebar import class_names
from dashboard.state import selection, settings
from dashboard.ui import design
from dashboard.ui.class_key import class_key
from dashboard.ui.wording import percent
from lag_core.explain import channels
from lag_core.explain.survey import TopImage
from lag_core.runs import Run

PROFILE_HEIGHT, BARS_HEIGHT = 150, 178
GALLERY_PAGE, TILE = 18, 108
TOP_PAGE, TOP_SIDE = 6, 52


def draw_gallery(scene: Scene) -> None:
    with scene.page.section(
        "Channels of this picture",
        f"Left half: step {scene.pair.old}, right half: step {scene.pair.new}, same scale. Choose one.",
        slug="gallery",
        formula=r"R_c = \sum_{xy} Z_c \, \frac{\partial s_k}{\partial Z_c}",
        source="sort by relevance: docs/method.md#nsc (ours), s: the class's logit summed over its pixels",
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
            selection.go(channel=picked)


def _filtered(scene: Scene) -> tuple[np.ndarray, str]:
    """The channels to show, int [n], and a sentence in case there are none."""
    names = {"all": "all"}
    if scene.split is not None and not scene.why_no_split:
        names |= {"invariant": "invariant", "specific": "specific", "crossed": "changed sides"}
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        chosen = settings.segments(
            "Channels shown", "channels", tuple(names), names=lambda name: names[name], label_visibility="collapsed",
        )  # fmt: skip
        sorts = {"moved": "most moved", "still": "least moved", "energy": "energy", "relevance": "relevance"}
        if len(names) == 1:
            sorts = {"energy": "energy", "relevance": "relevance"}
        settings.select(
            "Sort channels by",
            "sort",
            tuple(sorts),
            names=lambda name: f"by {sorts.get(name, name)}",
            label_visibility="collapsed",
            width=168,
        )
    if chosen == "all" or scene.split is None:
        return np.arange(scene.total), "This network has no latent channels."
    if chosen != "crossed":
        group = scene.split.invariant if chosen == "invariant" else scene.split.specific
        return np.flatnonzero(group), f"No channel is {chosen} at this ρ. Move the slider."
    rows = channel_distances.distances(scene.run, scene.picture, scene.pair.basis, scene.pair.metric)
    crossed = channel_distances.sides(rows, scene.pair.new, scene.rho, scene.split.invariant)
    if crossed is None:
        return np.arange(0), "The previous step has no split to compare with. Go to a later step."
    return np.flatnonzero(crossed), "No channel changed sides since the previous step."


def _sorted(scene: Scene, picture: Picture, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """The shown channels in order, the values float [C] shown under them, and their name."""
    by = st.session_state.get("sort")
    if by == "relevance":
        values, where, name = relevance(scene, picture)
        return _largest_first(shown, values), values, f"relevance: {name}, {where}"
    if by == "energy" or scene.split is None:
        energy = channel_maps.energies(scene.run, picture, scene.pair.new)
        return _largest_first(shown, energy), energy, "energy (mean Z²)"
    values = scene.split.distance
    ordered = _largest_first(shown, -values if by == "still" else values)
    return ordered, values, f"distance ({UNITS[scene.pair.metric]})"


def _largest_first(shown: np.ndarray, values: np.ndarray) -> np.ndarray:
    return shown[np.argsort(-values[shown], kind="stable")]


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


def draw_channel(scene: Scene) -> None:
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
            selection.go(channel=int(number))
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
    steps = (scene.pair.old, scene.pair.new)
    drawn = drawn_once(scene, picture, ("activation", scene.channel), lambda: encoded(*_activation(scene, picture)))
    if not any(drawn.highs):
        st.caption("This channel is silent on this picture at both steps.")
        return
    view.png(lambda: np.concatenate(_activation(scene, picture)[0], 1))
    pictures(
        drawn,
        [
            (f"step {step}, {_reach(high)}", f"Activation of channel {scene.channel} at step {step}")
            for step, high in zip(steps, drawn.highs, strict=True)
        ],
    )


def _activation(scene: Scene, picture: Picture) -> tuple[list[np.ndarray], list[float]]:
    """The channel over the picture at both steps, in one scale, uint8 [H, W, 3], and the value of
    largest magnitude of each."""
    maps = [
        channel_maps.channel_on_image(scene.run, picture, step, scene.channel)
        for step in (scene.pair.old, scene.pair.new)
    ]
    furthest = [float(m.flat[np.abs(m).argmax()]) for m in maps]
    low, high = channels.scale(maps)
    pixels = pixels_of(picture)
    return [figures.over_picture(pixels, m, high or 1.0, scene.page.ink, low) for m in maps], furthest


def _reach(value: float) -> str:
    """The value of a map with the largest magnitude, in words."""
    return f"up to {value:.2g}" if value >= 0 else f"down to {value:.2g}".replace("-", "−")


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
    st.caption("Its response: mean activation on each class, by step.")
    class_key(run, range(len(run.classes)))
    points = view.plot(
        lambda: figures.profile_lines(
            profiles, run.classes, introduced, scene.page.ink, cls=scene.page.cls, step=scene.page.step
        ),
        f"Class profile of channel {scene.channel}", height=PROFILE_HEIGHT, select=True, below=True,
    )  # fmt: skip
    if points and selection.fresh("channels-profile", points[0]["customdata"]):
        step, cls = points[0]["customdata"]
        selection.go(step=step, cls=class_names(run)[cls])


def _top_images(scene: Scene) -> None:
    survey = loaders.survey(scene.run)
    if survey is None:
        return
    now = survey.top_images(scene.pair.new, scene.channel)
    before = {image.id for image in survey.top_images(scene.pair.old, scene.channel)}
    kept = sum(image.id in before for image in now)
    st.caption(
        f"Its strongest validation images at step {scene.pair.new}; {kept} of {len(now)} are the same as at step "
        f"{scene.pair.old}."
    )
    here = _strongest(scene, now)
    if not here:
        st.caption("The images of the survey are not here.")
        return
    picked = thumbnails(
        here, key="channel-top", selected=scene.page.image_id, page_size=TOP_PAGE, size=TOP_SIDE,
        label="Top images", empty="The images of the survey are not here.",
    )  # fmt: skip
    if picked is not None and picked != scene.page.image_id:
        selection.go(image=picked)


def _strongest(scene: Scene, images: Sequence[TopImage]) -> list[Thumbnail]:
    """The images of the survey that are available."""
    known = set(loaders.image_ids(scene.run, scene.page.data_root))
    return [
        Thumbnail(
            image.id,
            partial(loaders.thumbnail, scene.run, scene.page.data_root, image.id),
            f"{image.activation:.2g}",
            version=f"{scene.run.digest}/{scene.page.data_root}/{image.id}",
        )
        for image in images
        if image.id in known
    ]


def look_ahead(scene: Scene) -> None:
    """Make the thumbnails of the channel's top images."""
    survey = loaders.survey(scene.run)
    for image in survey.top_images(scene.pair.new, scene.channel)[:TOP_PAGE] if survey else ():
        loaders.thumbnail(scene.run, scene.page.data_root, image.id)


def draw_without(scene: Scene) -> None:
    with scene.page.section(
        f"Without channel {scene.channel}",
        f"Step {scene.pair.new}'s prediction as it is, and with the channel changed in Z. Nothing else is touched.",
        slug="without",
        formula=r"\hat y' = \arg\max_k D_k(Z'), \qquad Z'_c = 0, \;\; \bar Z_c \;\text{ or }\; Z^{old}_c",
        source="docs/method.md#channels (ours); D: the step's heads",
    ) as view:
        picture = scene.image()
        how = _choose_how(scene, "without")
        answers, least = predictions.answers_at(scene.run, picture, (scene.pair.new,)), scene.page.least
        before = answers.predictions[scene.pair.new]
        change = (scene.run, picture, scene.pair.new, how, scene.pair.old, [scene.channel])
        after = channel_maps.changed(*change)
        maps = answers.drawn(scene.pair.new, least), channel_maps.changed_drawn(*change, least)
        truth = predictions.shown(scene.run, picture).truth
        drawn = drawn_once(
            scene,
            picture,
            ("without", scene.channel, how, least),
            lambda: encoded(_painted(scene, picture, *maps)),
        )
        view.png(lambda: np.concatenate(_painted(scene, picture, *maps), 1))
        share = 100 * float((before != after).mean())
        words = {"zero": "switched off", "mean": "at its mean", "old": f"as at step {scene.pair.old}"}[how]
        pictures(
            drawn,
            [
                (f"step {scene.pair.new}", f"Prediction of step {scene.pair.new}"),
                (f"{words}: {percent(share / 100)} changed", f"Prediction with channel {scene.channel} {words}"),
            ],
        )
        view.csv(lambda: _change_table(scene.run, before, after, truth))
        if not share:
            st.caption(
                f"With channel {scene.channel} {words}, no pixel of this picture gets another class."
                + _spared(truth, before, after)
            )
            return
        st.caption(f"What each class lost and gained.{_spared(truth, before, after)}")
        view.plot(
            lambda: figures.changed_bars(before, after, scene.run.classes, scene.page.ink, truth=truth),
            "Pixels lost and gained by each class", height=BARS_HEIGHT, below=True,
        )  # fmt: skip


def _painted(scene: Scene, picture: Picture, before: np.ndarray, after: np.ndarray) -> list[np.ndarray]:
    """Both predictions over the picture, uint8 [H, W, 3]."""
    palette, pixels = predictions.palette(scene.run), pixels_of(picture)
    background = None if scene.run.labels.background is None else 0
    return [figures.painted(pixels, labels, palette, background) for labels in (before, after)]


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
    """How much is right before and after, if there is ground truth."""
    if truth is None or not (truth != 255).any():
        return ""
    asked = truth != 255
    shares = [100 * float((labels == truth)[asked].mean()) for labels in (before, after)]
    return f" Right: {shares[0]:.1f} %, then {shares[1]:.1f} %."


def _change_table(run: Run, before: np.ndarray, after: np.ndarray, truth: np.ndarray | None) -> dict[str, Any]:
    """Pixels of each class before and after, lost and gained, and right if there is ground truth."""
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
