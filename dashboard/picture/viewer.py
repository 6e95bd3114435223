"""The viewer as pages show a picture in it: settings and chosen pixel are kept from page to page and in the link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from dashboard.components.viewer import Layer, ProbabilityGrid, viewer
from dashboard.components.viewer_state import keep_pixel, kept_pixel, kept_settings
from dashboard.page import Page, View
from dashboard.picture import predictions
from dashboard.picture.predictions import Shown
from dashboard.state import selection, settings
from lag_core.runs import Run


def background(run: Run) -> tuple[int, ...]:
    """The class index of the run's background, to be left clear in a layer of its classes; empty if it has none."""
    return () if run.labels.background is None else (0,)


@dataclass(frozen=True)
class Seen:
    """What the user just did in the viewer, and the chosen pixel."""

    pixel: tuple[int, int] | None
    """(x, y) of the shown picture; None where none was ever chosen."""
    clicked: bool
    layer: int | None
    """The layer that was chosen in the strip."""


def choose_beside(
    page: Page, key: str, names: Mapping[str, str], default: str | None = None, *, label: str, width: int
) -> str:
    """What stands beside the layer of the scrubber, chosen in the page's toolbar: a key of `names`."""
    with page.toolbar:
        st.markdown(label, width="content")
        return settings.select(
            label, key, list(names), default, names=names.__getitem__, label_visibility="collapsed", width=width
        )


def show_picture(
    view: View,
    shown: Shown,
    layers: Sequence[Layer],
    *,
    key: str,
    title: str,
    height: int,
    active: int = 0,
    second: int | None = None,
    legend: tuple[np.ndarray, Sequence[str]] | None = None,
    probabilities: Sequence[ProbabilityGrid] = (),
    truth: int | None = None,
    image: bytes | None = None,
    marker: tuple[int, int] | None = None,
    name: str = "",
    strip: bool = True,
    play: bool = False,
    plain: bool = False,
) -> Seen:
    """Draw the picture of a view under `layers`, with the strip of all of them, side by side at first.

    legend: colours uint8 [K, 3] and names of the labels, those of the run's classes if not given. image: shown in
    place of the picture. marker: the marked pixel, the chosen one if not given. name: part of the saved file's name,
    between view and step. The other arguments are those of `viewer`.
    """
    run = view.page.run
    palette, names = legend or (predictions.palette(run), predictions.class_names(run))
    if legend is None:
        layers = [replace(layer, clear=background(run)) for layer in layers]
    kept = kept_settings(key, len(names), split="side")
    pixel = kept_pixel(shown.size)
    event = viewer(
        image or shown.encoded,
        layers,
        palette,
        names,
        key=key,
        active=active,
        second=second,
        opacity=kept.opacity,
        hidden=kept.hidden,
        threshold=kept.threshold,
        outlines=kept.outlines,
        mode=kept.mode,
        split=kept.split,
        probabilities=probabilities,
        marker=marker or pixel,
        height=height,
        title=title,
        size=shown.size,
        truth=truth,
        strip=strip,
        play=play,
        plain=plain,
        least=view.page.least,
        report=True,
        filename="-".join(part for part in (view.file_stem, name, f"step-{view.page.step}") if part),
    )
    clicked = event is not None and event.kind == "click"
    if event and clicked:
        pixel = (event.x, event.y)
        keep_pixel(pixel)
    if pixel:
        selection.use("pixel", f"{pixel[0]}-{pixel[1]}")
    return Seen(pixel, clicked, event.layer if event and event.kind == "layer" else None)
