"""What became of pixels, in one picture or in the whole validation set, as the pages count and show it.

Everything about a picture is keyed by digests and computed once for all sessions, at the size at which the
picture is shown. Arrays are in the class indices of the run that they belong to; `in_order_of` and
`Fates.went_to_in` bring a compared run into those of the open one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import shelved
from dashboard.picture import predictions
from dashboard.picture.measured_on import MeasuredOn
from lag_core.explain import forgetting
from lag_core.explain.forgetting import Changes, Fate
from lag_core.explain.survey import Survey
from lag_core.protocol import IGNORE
from lag_core.runs import Run

CLASS_FATES = (Fate.KEPT, Fate.LEARNED, Fate.FORGOTTEN, Fate.RECOVERED, Fate.NEVER)
"""Fates of pixels whose class a step knows, in the order in which they are listed."""

FATE_NAMES: dict[Fate, str] = {
    Fate.KEPT: "kept",
    Fate.LEARNED: "learned",
    Fate.FORGOTTEN: "forgotten",
    Fate.RECOVERED: "recovered",
    Fate.NEVER: "never right",
}
"""As in design.PROVENANCE."""


@dataclass(frozen=True)
class Fates:
    """What became of each pixel of a picture by each step; one array [H, W] a step."""

    states: tuple[np.ndarray, ...]
    """uint8, values of Fate."""
    lost_at: tuple[np.ndarray, ...]
    """int16, step of the last loss; -1: never lost."""
    went_to: tuple[np.ndarray, ...]
    """uint8, class index predicted when it was lost; 255: never lost."""

    def lost_now(self, step: int) -> np.ndarray:
        """bool [H, W]: forgotten after `step`."""
        return self.states[step] == Fate.FORGOTTEN

    def still_lost_at(self, step: int) -> np.ndarray:
        """int16 [H, W]: the step at which a pixel that is forgotten after `step` was lost; -1 elsewhere."""
        return np.where(self.lost_now(step), self.lost_at[step], -1).astype(np.int16)

    def still_lost_to(self, step: int) -> np.ndarray:
        """uint8 [H, W]: the class that a pixel forgotten after `step` was lost to; 255 elsewhere."""
        return np.where(self.lost_now(step), self.went_to[step], IGNORE).astype(np.uint8)


@dataclass(frozen=True)
class Losses:
    """Counts of pixels over one picture or over the validation set: T steps, K classes."""

    pixels: np.ndarray
    """int64 [K], of each true class."""
    lost: np.ndarray
    """int64 [T, K], forgotten after each step."""
    confusions: np.ndarray
    """int64 [T, K, K], rows truth."""
    flows: Callable[[int], np.ndarray]
    """True class -> int64 [T - 1, K, K], its pixels by class at step t (rows) and t + 1 (columns)."""

    def shares(self) -> np.ndarray:
        """float64 [T, K]: forgotten share of each class's pixels; NaN for a class without pixels."""
        total = np.broadcast_to(self.pixels, self.lost.shape)
        return np.divide(self.lost, total, out=np.full(self.lost.shape, np.nan), where=total > 0)


def in_order_of(losses: Losses, run: Run, own: Run) -> Losses:
    """The losses of run `own` by the class indices of `run`, which knows the same classes."""
    order = np.array([own.labels.index_of(c.id) for c in run.classes])
    return Losses(
        losses.pixels[order],
        losses.lost[:, order],
        losses.confusions[:, order][:, :, order],
        lambda cls: losses.flows(int(order[cls]))[:, order][:, :, order],
    )


@dataclass(frozen=True)
class Story:
    """An annotated picture and its predictions, in the class indices of the run that made them."""

    truth: np.ndarray
    """uint8 [H, W], 255 where nothing is annotated."""
    predictions: np.ndarray
    """uint8 [T, H, W]."""
    fates: Fates
    losses: Losses


def story(run: Run, picture: Picture, space: Run | None = None) -> Story | None:
    """What became of the picture's pixels in `run`; None without annotation. `picture` belongs to `space`."""
    if picture.truth is None:
        return None
    space = space or run
    return _story(run.digest, picture.digest, space.digest, _run=run, _picture=picture, _space=space)


@shelved
def _story(run_digest: str, digest: str, space_digest: str, *, _run: Run, _picture: Picture, _space: Run) -> Story:
    seen = predictions.shown(_space, _picture).truth
    assert seen is not None
    truth = predictions.class_table(_space, _run)[seen]
    labels = np.stack(predictions.answers(_run, _picture).predictions)
    return Story(truth, labels, follow(labels, truth, _run), count_picture(labels, truth, _run))


def follow(predictions: np.ndarray, truth: np.ndarray, run: Run) -> Fates:
    """The fate of every pixel by every step. Shape: uint8 [T, H, W], [H, W]."""
    by_step = [forgetting.provenance(predictions, truth, run.labels, t) for t in range(len(predictions))]
    return Fates(tuple(p.state for p in by_step), tuple(p.lost_at for p in by_step), tuple(p.went_to for p in by_step))


def count_picture(predictions: np.ndarray, truth: np.ndarray, run: Run) -> Losses:
    """The counts of one picture. Shape: uint8 [T, H, W], [H, W]."""
    count = len(run.classes)
    return Losses(
        np.bincount(truth.ravel(), minlength=256)[:count],
        forgetting.lost_pixels(predictions, truth, run.labels),
        np.stack([_confusion(labels, truth, count) for labels in predictions]),
        lambda cls: forgetting.transitions(predictions, truth, run.labels, cls),
    )


def _confusion(labels: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    mine = truth < count
    pairs = truth[mine].astype(np.int64) * count + labels[mine]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def count_survey(survey: Survey) -> Losses:
    """The counts of the whole validation set."""
    return Losses(
        survey.pixels.sum(0, dtype=np.int64),
        survey.lost.sum(0, dtype=np.int64),
        survey.confusion,
        survey.transitions,
    )


def moved(run: Run, picture: Picture) -> Changes:
    """How the prediction changed, for a picture without annotation, at the shown size."""
    return _moved(run.digest, picture.digest, _run=run, _picture=picture)


@shelved
def _moved(run_digest: str, digest: str, *, _run: Run, _picture: Picture) -> Changes:
    return forgetting.changes(np.stack(predictions.answers(_run, _picture).predictions), _run.labels)


def flows_of_all(predictions: np.ndarray, count: int) -> np.ndarray:
    """Pixels by class at step t and t + 1, whatever their true class.

    Shape: uint8 [T, H, W] -> int64 [T - 1, K, K].
    """
    pairs = pairwise(predictions)
    return np.array([_confusion(after, before, count) for before, after in pairs]).reshape(-1, count, count)


def losses_of(own: MeasuredOn) -> Losses:
    """The counts on a chosen part of the pictures."""
    pictures, chosen = own.pictures, own.chosen
    return Losses(
        pictures.pixels[chosen].sum(0),
        pictures.lost[chosen].sum(0),
        own.confusions(),
        lambda cls: own.counts.flows(cls, chosen),
    )


def survey_of(run: Run) -> Losses | None:
    """The counts of `lag survey`; None if there are none."""
    found = loaders.survey(run)
    return None if found is None else count_survey(found)


def shift_of(losses: Losses, run: Run, cls: int | None) -> np.ndarray:
    """Background shift: the shares of pixels that are right, called background, called a new class, called another
    old class. The pixels are those of one class, or of all old classes but the background.

    `losses` in the class indices of `run`. Shape: float64 [T, 4], NaN where no such class is old yet.
    """
    parts = forgetting.background_shift(losses.confusions, run.labels)
    counts = np.stack([parts.right, parts.background, parts.new, parts.other_old], -1)
    first = int(run.labels.background is not None)
    picked = (counts[:, first:].sum(1) if cls is None else counts[:, cls]).astype(np.float64)
    total = picked.sum(-1, keepdims=True)
    return np.divide(picked, total, out=np.full(picked.shape, np.nan), where=total > 0)
