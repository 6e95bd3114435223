"""Pictures by what became of a class in them: the worst picture of each step and class, filters and orders. Pure.

Of a class's pixels in a picture, after a step, some are *right*, some are *lost* (wrong now, right at an earlier step)
and the rest was *never right*. A picture's fate is the largest of the three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dashboard.cache.picture_set import PictureSet
from lag_core.protocol import LabelSpace

ANY, LOST, RIGHT, NEVER = "any", "lost", "right", "never"
FATES: Mapping[str, str] = {ANY: "any fate", LOST: "mostly lost", RIGHT: "mostly right", NEVER: "mostly never right"}
"""Fates of a picture with their words."""

ORDERS: Mapping[str, str] = {
    "lost": "most pixels lost",
    "share": "largest share lost",
    "right": "largest share right",
    "pair": "most pixels of the pair",
    "unsure": "least sure of its answer",
    "sure": "most sure of its answer",
    "name": "by name",
}
"""Orders of the gallery with their words."""


@dataclass(frozen=True)
class Worst:
    """The picture that lost most pixels of a class after a step; place -1 where none lost any."""

    step: int
    cls: int
    place: int
    lost: int
    share: float
    """`lost` over the class's pixels in it."""


def worst(pictures: PictureSet, labels: LabelSpace, among: np.ndarray | None = None) -> dict[tuple[int, int], Worst]:
    """The worst picture by (step, class) for every class at the steps after the one that introduces it.

    Shape: bool [N], pictures that are looked at; None for all.
    """
    found = {}
    mine = np.ones(len(pictures), bool) if among is None else among
    for step in range(1, pictures.lost.shape[1]):
        for cls in range(labels.seen(step - 1)):
            lost = np.where(mine, pictures.lost[:, step, cls], -1)
            place = int(lost.argmax()) if len(lost) else -1
            gone = int(lost[place]) if place >= 0 else 0
            share = gone / int(pictures.pixels[place, cls]) if gone > 0 else 0.0
            found[step, cls] = Worst(step, cls, place if gone > 0 else -1, max(gone, 0), share)
    return found


def rows_shown(pictures: PictureSet, labels: LabelSpace, step: int, cls: int, most: int) -> list[int]:
    """Classes that the wall shows: those that can lose something, at most `most` of them, the background last.

    Of more, those that lost the largest share of their pixels by `step`, and the selected one.
    """
    last = pictures.lost.shape[1] - 1
    known = list(range(labels.seen(last - 1))) if last else []
    if len(known) > most:
        total = pictures.pixels.sum(0)
        gone = pictures.lost[:, max(step, 1)].sum(0) / np.maximum(total, 1)
        ranked = sorted(known, key=lambda c: (c != cls, -gone[c]))[:most]
        known = sorted(ranked)
    first = [0] if labels.background is not None and 0 in known else []
    return [c for c in known if c not in first] + first


@dataclass(frozen=True)
class Asked:
    """What the gallery is asked for. cls None: all classes together."""

    step: int
    cls: int | None
    fate: str = ANY
    called: int | None = None
    """The second class of the pair: pictures in which pixels of `cls` are called this."""
    order: str = "lost"


@dataclass(frozen=True)
class Parts:
    """Of the class's pixels in each picture, as fractions [N]; NaN in a picture without the class."""

    right: np.ndarray
    lost: np.ndarray
    never: np.ndarray


def parts(pictures: PictureSet, step: int, cls: int | None, labels: LabelSpace) -> Parts:
    """What became of the pixels of a class, or of all classes known at the step, in each picture."""
    known = slice(0, labels.seen(step)) if cls is None else slice(cls, cls + 1)
    total = pictures.pixels[:, known].sum(1).astype(np.float64)
    right, lost = (array[:, step, known].sum(1) for array in (pictures.right, pictures.lost))
    right, lost = (np.divide(part, total, out=np.full(len(total), np.nan), where=total > 0) for part in (right, lost))
    return Parts(right, lost, 1 - right - lost)


def chosen(pictures: PictureSet, labels: LabelSpace, asked: Asked) -> np.ndarray:
    """The pictures that the gallery shows. Shape: bool [N]."""
    found = parts(pictures, asked.step, asked.cls, labels)
    there = ~np.isnan(found.right)
    by_fate = np.stack([found.lost, found.right, found.never])
    if asked.fate != ANY:
        largest = np.nan_to_num(by_fate, nan=-1).argmax(0)
        there &= largest == (LOST, RIGHT, NEVER).index(asked.fate)
    if asked.called is not None:
        there &= pair_pixels(pictures, asked) > 0
    return there


def pair_pixels(pictures: PictureSet, asked: Asked) -> np.ndarray:
    """Pixels of the asked class that the step calls the other one. Shape: int64 [N]; 0 where that is not known."""
    if pictures.counts is None or asked.called is None or asked.cls is None:
        return np.zeros(len(pictures), np.int64)
    return pictures.counts.called(asked.step, asked.cls, asked.called)


def sureness(pictures: PictureSet, asked: Asked, labels: LabelSpace) -> np.ndarray | None:
    """Mean probability of the answer on the class's pixels. Shape: float [N], NaN without any; None if not known."""
    if pictures.counts is None or pictures.counts.confidence is None:
        return None
    sure = pictures.counts.confidence[:, asked.step]
    if asked.cls is not None:
        return sure[:, asked.cls].astype(np.float64)
    known = labels.seen(asked.step)
    weights = pictures.pixels[:, :known].astype(np.float64)
    total = weights.sum(1)
    sums = (np.nan_to_num(sure[:, :known]) * weights).sum(1)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)


def ordered(pictures: PictureSet, labels: LabelSpace, asked: Asked) -> list[int]:
    """Places of the chosen pictures in the asked order; equal ones in the order of the set."""
    places = np.flatnonzero(chosen(pictures, labels, asked))
    if asked.order == "name":
        return sorted(places.tolist(), key=lambda place: pictures.ids[place])
    values = _values(pictures, labels, asked)
    if values is None:
        return places.tolist()
    keys = np.nan_to_num(values[places], nan=-np.inf)
    return places[np.argsort(-keys, kind="stable")].tolist()


def _values(pictures: PictureSet, labels: LabelSpace, asked: Asked) -> np.ndarray | None:
    """What the gallery is ordered by, largest first. Shape: float [N]."""
    if asked.order == "pair":
        return pair_pixels(pictures, asked).astype(np.float64)
    if asked.order in ("sure", "unsure"):
        sure = sureness(pictures, asked, labels)
        return None if sure is None else sure if asked.order == "sure" else -sure
    found = parts(pictures, asked.step, asked.cls, labels)
    if asked.order == "share":
        return found.lost
    if asked.order == "right":
        return found.right
    known = slice(0, labels.seen(asked.step)) if asked.cls is None else slice(asked.cls, asked.cls + 1)
    return pictures.lost[:, asked.step, known].sum(1).astype(np.float64)


def orders_known(pictures: PictureSet, asked: Asked) -> Sequence[str]:
    """Orders that these pictures have the numbers for."""
    lacking = {"pair"} if asked.called is None else set()
    if pictures.counts is None or pictures.counts.confidence is None:
        lacking |= {"sure", "unsure"}
    return [order for order in ORDERS if order not in lacking]
