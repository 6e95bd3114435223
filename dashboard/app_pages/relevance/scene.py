"""What the views of the Relevance page share: the question as it is chosen, the maps, and the checks of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import streamlit as st

from dashboard.app_pages.relevance import maps as relevance_maps
from dashboard.app_pages.relevance.maps import About, Asked, Explained, Refused, Result, Tick
from dashboard.cache.loaders import Picture
from dashboard.components.viewer_state import kept_pixel
from dashboard.page import Empty, Page
from dashboard.picture import channel_distances, predictions
from dashboard.picture.predictions import Shown
from dashboard.state import selection, settings
from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted
from dashboard.ui.wording import counted
from lag_core.explain import channels
from lag_core.explain.attribution_methods import ATTRIBUTION_METHODS, Depth
from lag_core.explain.channels import ChannelSplit
from lag_core.protocol import IGNORE
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.attribution_checks import Agreement, Pointing

METHOD_NAMES: dict[str, str] = {
    name: f"{one.short} (slow)" if one.many_passes else one.short for name, one in ATTRIBUTION_METHODS.items()
}

DEPTH_NAMES: dict[Depth, str] = {"latent": "latent map", "pixels": "pixels"}

ABOUT_NAMES: dict[About, str] = {"true": "true pixels", "predicted": "predicted pixels", "pixel": "clicked pixel"}

ABOUT_WORDS: dict[About, str] = {
    "true": "its true pixels", "predicted": "its predicted pixels", "pixel": "the clicked pixel",
}  # fmt: skip

MOST_AT_PIXELS = 4
"""Steps whose maps down to pixels are computed unasked; of more, only the two that are compared."""


class Questions(NamedTuple):
    """What is chosen above the map."""

    about: About
    method: str
    depth: Depth
    pixel: tuple[int, int] | None


@dataclass(frozen=True)
class Series:
    """The maps of one run over its steps."""

    run: Run
    cls: int
    """In the indices of this run."""
    step: int
    asked: dict[int, Asked]
    """By step; none for a step that does not know the class, or that predicts it nowhere if that is asked."""
    results: dict[int, Result]
    """As far as they are computed."""
    truth: np.ndarray | None
    """bool `inside`, the true pixels of the class; None without annotation, or where the class is not there."""
    counted: np.ndarray | None
    """bool `inside`, annotated pixels; None without annotation."""

    @property
    def name(self) -> str:
        return untrusted.plain(self.run.name, 40)

    def explained(self, step: int) -> Explained | None:
        """The map of a step, if there is one to draw."""
        found = self.results.get(step)
        return found if isinstance(found, Explained) else None

    def agreement(self, step: int) -> Agreement | None:
        """How alike the maps of `step` and of the step before are."""
        now, before = self.explained(step), self.explained(step - 1)
        if now is None or before is None:
            return None
        return _agreement(self.asked[step].key, self.asked[step - 1].key, _now=now.map, _before=before.map)

    def pointing(self, step: int) -> Pointing | None:
        """How much of a step's map lies on the true pixels of the class."""
        now = self.explained(step)
        if now is None or self.truth is None or self.counted is None:
            return None
        return _pointing(self.asked[step].key, _now=now.map, _truth=self.truth, _counted=self.counted)

    def profile(self, step: int) -> np.ndarray | None:
        """Relevance of each latent channel for the mean logit, float32 [C]."""
        found = self.explained(step)
        return None if found is None else found.channels / found.pixels


@st.cache_resource(max_entries=256, show_spinner=False)
def _agreement(now: str, before: str, *, _now: np.ndarray, _before: np.ndarray) -> Agreement:
    from lag_core.explain.attribution_checks import agreement

    return agreement(_now, _before)


@st.cache_resource(max_entries=256, show_spinner=False)
def _pointing(now: str, *, _now: np.ndarray, _truth: np.ndarray, _counted: np.ndarray) -> Pointing:
    from lag_core.explain.attribution_checks import pointing

    return pointing(_now, _truth, _counted)


@dataclass(frozen=True)
class Scene:
    """One state of the page."""

    page: Page
    picture: Picture
    shown: Shown
    questions: Questions
    own: Series
    other: Series | None

    @property
    def step(self) -> int:
        return self.page.step

    @property
    def name(self) -> str:
        """The class, as Markdown."""
        return untrusted.name(self.page.class_info.name)

    def now(self) -> Explained:
        """The map of the scrubber's step; raises `Empty` with the reason where there is none."""
        if self.step not in self.own.asked:
            raise Empty(
                f"Step {self.step} predicts {self.name} nowhere in this picture, so there is nothing to explain. Ask "
                "about its true pixels, or click one."
            )
        found = self.own.results.get(self.step)
        if found is None:
            name = METHOD_NAMES[self.questions.method]
            raise Empty(f"Not computed yet: {name} takes many passes of the network. Press “Compute” in the view.")
        if isinstance(found, Refused):
            raise Empty(f"This map is refused: {untrusted.markdown(found.why)}")
        return found

    def drawn(self) -> Explained:
        """As `now`, for the views below the one that gives the reason."""
        found = self.own.explained(self.step)
        if found is None:
            raise Empty(f"Step {self.step} has no map yet; the view of the maps says why.")
        return found

    @property
    def missing(self) -> list[Asked]:
        """What is not computed yet: the maps of the scrubber's step and the one before, else all others."""
        series = [self.own, *([self.other] if self.other else [])]
        gaps = [(s, t) for s in series for t in s.asked if t not in s.results]
        near = [(s, t) for s, t in gaps if t in (s.step - 1, s.step)]
        return [s.asked[t] for s, t in near or gaps]

    @cached_property
    def split(self) -> ChannelSplit | None:
        """Invariant and specific channels of the step; None where they are not defined."""
        if self.step == 0:
            return None
        basis = next(iter(channel_distances.bases(self.own.run, True, self.picture)), None)
        if basis is None:
            return None
        metric = channel_distances.metrics(self.own.run, basis)[0]
        pair = channel_distances.Step(self.step - 1, self.step, basis, metric)
        distance = channel_distances.distance(self.own.run, self.picture, pair)
        found = None if distance is None else channels.split(distance, self.own.run.config.method.rho)
        return found if found is not None and found.defined else None


def scene(page: Page) -> Scene:
    """The question as it is chosen, and the maps that answer it quickly."""
    introduced = page.run.labels.step_of(page.cls)
    if page.step < introduced:
        name = untrusted.name(page.class_info.name)
        raise Empty(f"{name} is introduced at step {introduced}. Go to that step, or choose another class.")
    return _answered(page, _choose(page, predictions.shown(page.run, page.picture())))


def at_first(page: Page) -> Scene:
    """The scene before anything is chosen, at a step that knows the class."""
    truth = predictions.shown(page.run, page.picture()).truth
    about: About = "true" if truth is not None and (truth == page.cls).any() else "predicted"
    method = relevance_maps.methods(page.run, page.run2)[0]
    return _answered(page, Questions(about, method, relevance_maps.DEPTHS[method][0], None))


def _answered(page: Page, questions: Questions) -> Scene:
    """A question with the maps that answer it quickly."""
    picture = page.picture()
    shown = predictions.shown(page.run, picture)
    truth = None if picture.truth is None else picture.truth == page.cls
    own = _series(page.run, page.cls, page.step, picture, questions, truth)
    other = None
    if page.run2 is not None and page.run2.labels.step_of(page.cls2) <= page.step2:
        other = _series(page.run2, page.cls2, page.step2, picture, questions, truth, near=True)
    if not own.asked:
        name = untrusted.name(page.class_info.name)
        raise Empty(f"No step predicts {name} in this picture. Choose another class or image, or explain one pixel.")
    return Scene(page, picture, shown, questions, own, other)


def _choose(page: Page, shown: Shown) -> Questions:
    """The settings in the page's toolbar, and the pixel that was clicked."""
    true = None if shown.truth is None else shown.truth == page.cls
    about_names: dict[str, str] = {
        k: v for k, v in ABOUT_NAMES.items() if k != "true" or (true is not None and true.any())
    }
    hidden: dict[str, Any] = {"label_visibility": "collapsed"}
    with page.toolbar:
        st.markdown("Explain", width="content")
        about = settings.select(
            "Explained pixels", "about", tuple(about_names), names=lambda k: about_names[k], width=160, **hidden
        )
        st.markdown("by", width="content")
        method = settings.select(
            "Method",
            "method",
            relevance_maps.methods(page.run, page.run2),
            names=lambda k: METHOD_NAMES[k],
            width=190,
            **hidden,
        )
        st.markdown("at", width="content")
        depth = settings.select(
            "Map",
            "depth",
            relevance_maps.DEPTHS[method],
            names=lambda k: DEPTH_NAMES[cast(Depth, k)],
            width=124,
            **hidden,
        )
    pixel = kept_pixel(shown.size)
    if pixel:
        selection.use("pixel", f"{pixel[0]}-{pixel[1]}")
    elif about == "pixel":
        pixel = middle_pixel(true, shown.size)
    return Questions(cast(About, about), method, cast(Depth, depth), pixel)


def middle_pixel(true: np.ndarray | None, size: tuple[int, int]) -> tuple[int, int]:
    """What is explained before a pixel is clicked: the true pixel (x, y) nearest to the middle of them, else of the
    picture. Shape: true bool [H, W], size (W, H)."""
    if true is None or not true.any():
        return size[0] // 2, size[1] // 2
    rows, columns = np.nonzero(true)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest])


def _series(
    run: Run,
    cls: int,
    step: int,
    picture: Picture,
    questions: Questions,
    truth: np.ndarray | None,
    near: bool = False,
) -> Series:
    """The maps of a run. near: only of `step` and the one before."""
    steps = range(max(run.labels.step_of(cls), step - 1 if near else 0), (step if near else run.last_step) + 1)
    about, method, depth, pixel = questions
    masks = {t: relevance_maps.asked_mask(run, picture, t, cls, about, truth, pixel) for t in steps}
    asked = {t: Asked(run, picture, t, cls, mask, method, depth) for t, mask in masks.items() if mask.any()}
    results = _quick(asked, step)
    on_class = counted = None
    if truth is not None and picture.truth is not None and truth.any():
        on_class = relevance_maps.truth_inside(run, picture, truth)
        counted = relevance_maps.truth_inside(run, picture, picture.truth != IGNORE)
    return Series(run, cls, step, asked, results, on_class, counted)


def _quick(asked: dict[int, Asked], step: int) -> dict[int, Result]:
    """What is known already, and what can be computed without asking."""
    results = {t: found for t, one in asked.items() if (found := relevance_maps.known(one)) is not None}
    wanted = [t for t, one in asked.items() if t not in results and _unasked(one, len(asked), step)]
    if wanted:
        with st.spinner("Explaining…", show_time=True):
            computed = relevance_maps.explain([asked[t] for t in wanted])
        results |= dict(zip(wanted, computed, strict=True))
    return dict(sorted(results.items()))


def _unasked(asked: Asked, steps: int, step: int) -> bool:
    if asked.method in relevance_maps.LONG:
        return False
    return asked.depth == "latent" or steps <= MOST_AT_PIXELS or asked.step in (step - 1, step)


@contextmanager
def progress(words: str, total: int, key: str) -> Iterator[Tick]:
    """A bar with a button that ends what runs: any click starts the script again, which stops the computation."""
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, words)
        st.button("Cancel", key=f"cancel-{key}", icon=":material/close:")
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        bar.progress(min(done / max(total, 1), 1.0), words)

    yield tick
    place.empty()


def compute(missing: Sequence[Asked], key: str) -> None:
    """Compute what was asked for by a button, with progress, and draw the page anew."""
    long = missing[0].method in relevance_maps.LONG
    total = sum(relevance_maps.passes(one) if long else 1 for one in missing)
    with progress(f"{METHOD_NAMES[missing[0].method]}, {counted(len(missing), 'map')}", total, key) as tick:
        for one in missing:
            relevance_maps.explain([one], tick if long else None)
            if not long:
                tick()
    start_over()
