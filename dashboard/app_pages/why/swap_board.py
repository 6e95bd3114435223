"""The swap board: one picture by four networks, {features, heads} x {then, now}, with the IoU of the class.

Heads "then" compete among the classes of the earlier step; heads "now" are all heads of the later one. Where the
picture has no annotation, the earlier step's own prediction stands in for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import shelved
from dashboard.picture import predictions
from dashboard.ui import embedded, untrusted
from lag_core.explain import rendering
from lag_core.protocol import IGNORE
from lag_core.runs import Run

SIDE = 420
"""Long side of a picture on the board, in pixels."""
CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""(features now, heads now), in reading order: the first row has the old heads."""


@dataclass(frozen=True)
class Board:
    """The four networks' predictions for a picture. Arrays are read-only."""

    maps: tuple[np.ndarray, ...]
    """Class indices uint8 [h, w], in the order of CORNERS."""
    ious: tuple[float, ...]
    """IoU points of the class on the pixels known at the earlier step; NaN where the class is nowhere."""
    image: np.ndarray
    """uint8 [h, w, 3]."""
    truth: np.ndarray
    """Class indices uint8 [h, w]: the annotation, or what stands in for it."""
    annotated: bool


def board(run: Run, picture: Picture, cls: int, then: int, now: int) -> Board:
    """The board of a class between two steps."""
    blind = picture.truth is None
    return _board(run.digest, picture.digest, blind, cls, then, now, _run=run, _picture=picture)


@shelved
def _board(
    digest: str, image: str, blind: bool, cls: int, then: int, now: int, *, _run: Run, _picture: Picture
) -> Board:
    import torch

    trace = loaders.trace(_run, _picture)
    with loaders.network_lock(digest), torch.no_grad():
        latents = trace.output(then).latent, trace.output(now).latent
        steps = then, now
        maps = tuple(
            trace.prediction(steps[heads], trace.passes.decoder(steps[heads])(latents[features]))
            for features, heads in CORNERS
        )
    truth = maps[0] if _picture.truth is None else _picture.truth
    known = _run.labels.seen(then)
    ious = tuple(_iou(one, truth, cls, known) for one in maps)
    rows, columns = predictions.sampling(truth.shape[0], truth.shape[1], SIDE)
    where = np.ix_(rows, columns)
    small = [np.ascontiguousarray(one[where]) for one in (*maps, truth)]
    return Board(tuple(small[:4]), ious, np.ascontiguousarray(_picture.pixels[where]), small[4], not blind)


def _iou(predicted: np.ndarray, truth: np.ndarray, cls: int, known: int) -> float:
    """IoU points of one class on the pixels whose class was known."""
    counted = truth < known
    won, mine = (predicted == cls) & counted, truth == cls
    union = int((won | mine).sum())
    return 100 * int((won & mine).sum()) / union if union else float("nan")


@dataclass(frozen=True)
class Drawn:
    """The board's pictures, each as an address that holds the whole JPEG: as PNG they took 130 ms and 0.6 MB a step."""

    picture: str
    truth: str
    corners: tuple[str, ...]
    """In the order of CORNERS."""

    @property
    def nbytes(self) -> int:
        return sum(len(one) for one in (self.picture, self.truth, *self.corners))


def drawn(run: Run, picture: Picture, found: Board, cls: int, then: int, now: int) -> Drawn:
    """The board as it is shown."""
    return _drawn(run.digest, picture.digest, not found.annotated, cls, then, now, _run=run, _found=found)


@shelved
def _drawn(digest: str, image: str, blind: bool, cls: int, then: int, now: int, *, _run: Run, _found: Board) -> Drawn:
    truth, *corners = (
        rendering.data_uri(outlined(_run, _found, labels, cls)) for labels in (_found.truth, *_found.maps)
    )
    return Drawn(rendering.data_uri(_found.image), truth, tuple(corners))


def draw(found: Board, pictures: Drawn, then: int, now: int) -> None:
    """The four pictures with their IoUs."""
    names = (
        f"features {then}, heads {then}", f"features **{now}**, heads {then}",
        f"features {then}, heads **{now}**", f"features **{now}**, heads **{now}**",
    )  # fmt: skip
    for row in (0, 1):
        for column, place in zip(st.columns(2, gap="xxsmall"), (2 * row, 2 * row + 1), strict=True):
            with column:
                st.image(embedded.again(pictures.corners[place]), width="stretch")
                st.caption(f"{names[place]}  \nIoU **{_points(found.ious[place])}**")


def outlined(run: Run, found: Board, labels: np.ndarray, cls: int) -> np.ndarray:
    """The class's pixels in its colour, the others in theirs, fainter; the true outline of the class in white."""
    strong = np.where(labels == cls, labels, np.uint8(IGNORE))
    faint = np.where(labels == cls, np.uint8(IGNORE), labels)
    if run.labels.background is not None:
        faint = np.where(faint == 0, np.uint8(IGNORE), faint)
    below = rendering.overlay(found.image, faint, run.classes, 0.35)
    drawn = rendering.overlay(below, strong, run.classes, 0.65)
    drawn[_edge(found.truth == cls)] = 255
    return drawn


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that have a neighbour outside of it. Shape: bool [h, w] -> same."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def reading(found: Board, name: str, cls: int, then: int) -> str:
    """What the board shows in this picture, in a sentence (Markdown). `then`: the earlier step.

    A network finds the class if it has at least half of the earlier step's IoU.
    """
    both_then, features_now, heads_now, both_now = found.ious
    shown = untrusted.markdown(name)
    if found.annotated and not (found.truth == cls).any():
        return f"There is no {shown} here: whatever is called {shown} is wrong. Choose a picture that shows one."
    if np.isnan(both_then) or both_then < 1:
        return f"Step {then}'s network does not find {shown} here: choose another picture to see what was lost."
    if both_then - both_now < 0.1 * both_then:
        return f"In this picture the present network still finds {shown}."
    if both_now >= 0.5 * both_then:
        by = _by(both_then - heads_now, both_then - features_now, both_then - both_now)
        return f"In this picture the present network finds less of {shown} ({both_now:.0f} of {both_then:.0f}): {by}."
    by_features, by_heads = features_now >= 0.5 * both_then, heads_now >= 0.5 * both_then
    if by_features and by_heads:
        return f"In this picture new features or new heads alone still find {shown}; together they do not."
    if by_features:
        return (
            f"In this picture the old heads still find {shown} in the new features ({features_now:.0f} of "
            f"{both_then:.0f}): the heads lost it{_in_part('features', both_then - features_now, both_then)}."
        )
    if by_heads:
        return (
            f"In this picture the new heads still find {shown} in the old features ({heads_now:.0f} of "
            f"{both_then:.0f}): the features lost it{_in_part('heads', both_then - heads_now, both_then)}."
        )
    return (
        f"In this picture neither new features with old heads ({features_now:.0f} of {both_then:.0f}) nor old features "
        f"with new heads ({heads_now:.0f}) find {shown}: either of them alone loses it."
    )


def _by(heads: float, features: float, lost: float) -> str:
    """Which of the two lost a part of the class, from what each loses alone and both together."""
    if heads > 0.5 * lost and features < 0.25 * lost:
        return "the heads lost a part of it"
    if features > 0.5 * lost and heads < 0.25 * lost:
        return "the features lost a part of it"
    return "features and heads both changed"


def _in_part(other: str, lost: float, whole: float) -> str:
    """What the other half of the network lost alone, where that is a tenth of the class or more."""
    return f", and the {other} a part of it" if lost >= 0.1 * whole else ""


def _points(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f}"
