"""What the views of the Channels page share: the two steps, the split of channels, and what changing some does."""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import streamlit as st
from PIL import Image

from dashboard.app_pages.channels import maps
from dashboard.app_pages.channels.maps import Change, How, Measured
from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import SHELF
from dashboard.page import Empty, Page
from dashboard.picture import channel_distances, predictions
from dashboard.picture.channel_distances import Basis, Step
from dashboard.state import selection, settings
from dashboard.ui import design, embedded, untrusted
from lag_core.explain import channels
from lag_core.explain.channels import ChannelSplit
from lag_core.runs import Run

BASIS_NAMES: dict[str, str] = {
    "validation": "validation images", "training": "training images", "image": "this picture",
}  # fmt: skip

METRIC_NAMES: dict[str, str] = {
    "entropy_kl": "KL of entropy maps", "spatial_kl": "KL of activation maps", "cosine": "1 − cosine", "l2": "RMS",
    "random": "random (control)",
}  # fmt: skip

UNITS: dict[str, str] = {
    "entropy_kl": "KL, nats", "spatial_kl": "KL, nats", "cosine": "1 − cosine", "l2": "activation", "random": "none",
}  # fmt: skip

ORDERS: dict[str, tuple[str, str]] = {
    "invariant": ("least moved", design.INVARIANT),
    "changed": ("most moved", design.SPECIFIC),
    "relevance": ("most relevant", "#009E73"),
}
"""Orders of channels, as channels.ranked knows them: their name and colour."""

HARDLY_RIGHT = 0.1
"""Share of right pixels of old classes below which there is little left to lose."""


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
        """The split; raises `Empty` with the reason if there is none."""
        if self.split is None or self.why_no_split:
            raise Empty(self.why_no_split)
        return self.split

    def image(self) -> Picture:
        """The picture; raises `Empty` with the reason where there is none."""
        if self.picture is None:
            raise Empty(self.why_no_picture)
        return self.picture


def look(page: Page) -> Scene:
    """The scene as it is chosen in the toolbar, the link and the views."""
    try:
        picture, why = page.picture(), ""
    except Empty as reason:
        picture, why = None, str(reason)
    pair = _choose_pair(page, picture)
    rho = selection.measure("rho", 0, 1, page.run.config.method.rho, "share of invariant channels")
    scene = _scene(page, picture, why, pair, rho)
    channel = selection.count("channel", 0, scene.total - 1, scene.channel, "channel")
    selection.use("channel", channel, scene.channel)
    return replace(scene, channel=channel)


def at_first(page: Page) -> Scene:
    """The scene before anything is chosen, at a step with one before it and with a picture."""
    picture = page.picture()
    basis = channel_distances.bases(page.run, True, picture)[0]
    pair = Step(page.step - 1, page.step, basis, channel_distances.metrics(page.run, basis)[0])
    return _scene(page, picture, "", pair, page.run.config.method.rho)


def _scene(page: Page, picture: Picture | None, why: str, pair: Step, rho: float) -> Scene:
    """With the channel that moved most, else the one with the most energy."""
    found = channel_distances.distance(page.run, picture, pair)
    split = None if found is None else channels.split(found, rho)
    total = page.run.config.model.latent if split is None else len(split.distance)
    channel = int(split.order[-1]) if split is not None and split.defined else _loudest(page, total)
    return Scene(page, picture, why, pair, rho, split, _why_no_split(page, pair, split), channel, total)


def _loudest(page: Page, total: int) -> int:
    """The channel with the most energy over the validation images; 0 without a survey."""
    survey = loaders.survey(page.run)
    energy = None if survey is None else survey.channel_energy[page.step]
    return int(energy.argmax()) if energy is not None and len(energy) == total else 0


def _choose_pair(page: Page, picture: Picture | None) -> Step:
    """The page's toolbar: the earlier step, and the images and the metric for comparing channels."""
    earlier = [str(t) for t in range(page.step)]
    hidden: dict[str, Any] = {"label_visibility": "collapsed"}
    with page.toolbar:
        st.markdown("Since step", width="content")
        old = int(settings.select("Earlier step", "since", earlier, earlier[-1], width=76, **hidden))
        offered = channel_distances.bases(page.run, old == page.step - 1, picture)
        if not offered:
            raise Empty(
                f"The channel distances between steps {old} and {page.step} are unknown: choose the previous step, "
                "or an image in the sidebar to measure them on."
            )
        st.markdown("on", width="content")
        names: dict[str, str] = {one: BASIS_NAMES[one] for one in offered}
        basis = settings.select(
            "Measured on", "basis", tuple(names), names=lambda name: names[name], width=168, **hidden
        )
        known = channel_distances.metrics(page.run, cast(Basis, basis))
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


def telling(scene: Scene) -> How:
    """What to change by default: switch off, unless hardly any pixel of old classes is right any more."""
    anything = np.arange(scene.total)
    found = maps.effect(Change(scene.run, scene.image(), scene.pair.new, "zero", scene.pair.old, anything, (0,)))
    return "old" if found.old_pixels and found.curve.untouched[1] < HARDLY_RIGHT else "zero"


def testable(scene: Scene, how: How) -> np.ndarray:
    """int [n], the channels whose change can have an effect here; see channel_maps.testable."""
    return np.flatnonzero(maps.testable(scene.run, scene.image(), scene.pair.new, how, scene.pair.old))


def sizes(scene: Scene, how: How) -> tuple[int, ...]:
    """Numbers of channels at which effects are measured."""
    return maps.counts(len(testable(scene, how)))


def quarter(scene: Scene, how: How) -> int:
    """A quarter of the channels that can be tested, one of `sizes`."""
    return max(1, round(len(testable(scene, how)) / 4))


def ranked(scene: Scene, order: str, how: How) -> np.ndarray:
    """All channels in an order, those that can be tested first."""
    if order == "relevance":
        values = maps.relevance(scene.run, scene.image(), scene.pair.new, scene.page.cls)[0]
    else:
        values = scene.defined().distance
    every = channels.ranked(cast(channels.Order, order), values)
    able = np.isin(every, testable(scene, how))
    return np.concatenate([every[able], every[~able]])


def measured(scene: Scene, how: How, order: str) -> Measured:
    """The effect of an order's channels at all numbers, without random ones."""
    return maps.effect(change(scene, how, order))


def change(scene: Scene, how: How, order: str) -> Change:
    """The question about an order's channels, at all numbers."""
    chosen, numbers = ranked(scene, order, how), sizes(scene, how)
    return Change(scene.run, scene.image(), scene.pair.new, how, scene.pair.old, chosen, numbers)


def relevance(scene: Scene, picture: Picture) -> tuple[np.ndarray, str, str]:
    """Relevance float [C] for the selected class, on which pixels, and the class's name."""
    name = untrusted.name(scene.page.class_info.name)
    if scene.page.cls >= scene.run.labels.seen(scene.pair.new):
        raise Empty(f"{name} is not introduced yet, so no channel speaks for it. Go to a later step.")
    values, where = maps.relevance(scene.run, picture, scene.pair.new, scene.page.cls)
    return values, where, name


def pixels_of(picture: Picture) -> np.ndarray:
    """The picture at the size at which maps are shown, uint8 [H, W, 3]."""
    rows, columns = predictions.sampling(picture.pixels.shape[0], picture.pixels.shape[1], predictions.LONG_SIDE)
    return picture.pixels[np.ix_(rows, columns)]


@dataclass(frozen=True)
class Drawn:
    """Maps over a picture, ready for the browser."""

    jpegs: tuple[bytes, ...]
    highs: tuple[float, ...]
    """The largest value of each map; empty for label maps."""


def drawn_once(scene: Scene, picture: Picture, what: tuple[Hashable, ...], draw: Callable[[], Drawn]) -> Drawn:
    """Maps of the picture, drawn and encoded once for all sessions; `what` names them beside run, steps and colours."""
    key = ("drawn", scene.run.digest, picture.digest, scene.pair.old, scene.pair.new, scene.page.ink.dark, *what)
    return SHELF.get(key, draw)


def encoded(pixels: Sequence[np.ndarray], highs: Sequence[float] = ()) -> Drawn:
    """Pictures uint8 [H, W, 3] as JPEG."""
    jpegs = []
    for one in pixels:
        buffer = io.BytesIO()
        Image.fromarray(one).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    return Drawn(tuple(jpegs), tuple(highs))


def pictures(drawn: Drawn, texts: Sequence[tuple[str, str]]) -> None:
    """Pictures side by side, each with a caption (Markdown) and a text for screen readers."""
    for place, jpeg, (caption, alt) in zip(st.columns(len(texts), gap="xsmall"), drawn.jpegs, texts, strict=True):
        place.image(embedded.picture(jpeg), caption, width="stretch", alt=alt)
