"""Did the class move in latent space: prototypes over steps, drift, margins, paths, and pixels against
prototypes.

A prototype is the mean of Z over a class's pixels. Two kinds exist and must not be mixed in one figure:
*measured* ones (`measured`, from the survey: every class at every step, on the validation images with their
true labels) and *stored* ones (`stored`, from training: a class's own row is measured at the step that
introduces it and then kept, as the losses use it). NumPy alone. NaN stands for "no such prototype".

Three words have one meaning each, here and on every page, in units of 1 - cosine (docs/method.md#spread):

* *spread* of a class at a step: mean of 1 - cos(z, p) over its latent pixels z, p its prototype at that step;
* *drift* of a class at a step: 1 - cos of its prototype there and its prototype at the step that introduced it;
* two classes *overlap* at a step, seen from one of them, where the nearest other prototype lies nearer than its own
  spread: its margin is below 0.

Source of the other quantities: docs/method.md#prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lag_core.explain.latent_maps import on_image
from lag_core.protocol import IGNORE, LabelSpace
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.survey import Survey
    from lag_core.explain.traced import Traced


@dataclass(frozen=True)
class Prototypes:
    """Class prototypes of every step; T steps, K class indices, C channels of Z."""

    mean: np.ndarray
    """float32 [T, K, C]; NaN where there is none."""
    spread: np.ndarray
    """float32 [T, K], the spread of each class; NaN where not measured."""

    @property
    def known(self) -> np.ndarray:
        """bool [T, K], where there is a prototype."""
        return ~np.isnan(self.mean).any(-1)


def measured(survey: Survey) -> Prototypes:
    """The prototypes that `lag survey` measured on the validation images with their true labels."""
    present = (survey.latent_pixels > 0)[None, :, None]
    return Prototypes(np.where(present, survey.prototypes, np.nan).astype(np.float32), survey.spread)


def stored(run: Run) -> Prototypes:
    """The prototypes that training stored in the analysis files; empty [T, K, 0] if there are none."""
    parts = [run.analysis(step) for step in range(len(run.steps))]
    width = max((p["prototypes.mean"].shape[1] for p in parts if "prototypes.mean" in p), default=0)
    mean = np.full((len(parts), len(run.classes), width), np.nan, np.float32)
    for step, arrays in enumerate(parts):
        if "prototypes.mean" in arrays:
            rows = np.where(arrays["prototypes.count"][:, None] > 0, arrays["prototypes.mean"], np.nan)
            own = rows[run.labels.offset :]
            mean[step, : len(own)] = own
    return Prototypes(mean, np.full(mean.shape[:2], np.nan, np.float32))


def of_run(run: Run) -> Prototypes:
    """The measured prototypes of a run with a survey, else those stored by training."""
    from lag_core.explain.survey import read_survey

    survey = read_survey(run)
    return stored(run) if survey is None else measured(survey)


def unknown_embeddings(run: Run) -> np.ndarray | None:
    """The embedding of the unknown class after each step, as training left it (row 0 of the stored
    prototypes).

    Shape: float32 [T, C], NaN where no pixel was labelled unknown; None if the run does not model the unknown
    class or left no prototypes.
    """
    if not run.labels.unknown:
        return None
    rows = []
    for step in range(len(run.steps)):
        arrays = run.analysis(step)
        if "prototypes.mean" not in arrays:
            return None
        row = arrays["prototypes.mean"][0].astype(np.float32)
        rows.append(row if arrays["prototypes.count"][0] > 0 else np.full_like(row, np.nan))
    return np.stack(rows) if rows else None


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of every row of `a` with every row of `b`. Shape: [n, C], [m, C] -> float64 [n, m]; NaN for rows
    that are 0 or NaN."""
    return _unit(a) @ _unit(b).T


def spread(directions: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spread of classes from sums over their latent pixels: 1 - (mean of z / ||z||) . p / ||p||, in one pass.

    Shape: sums of z / ||z|| [..., C] and of z [..., C], pixels [...] -> float64 [...]. A pixel whose Z is 0 counts as
    cosine 0. NaN for a class without pixels, or whose prototype is 0.
    """
    towards = np.nansum(directions * _unit(sums), axis=-1)
    defined = (np.asarray(counts) > 0) & (np.linalg.norm(sums, axis=-1) > 0)
    return np.where(defined, np.maximum(1 - towards / np.maximum(counts, 1), 0), np.nan)  # rounding falls below 0


def drift_since(prototypes: np.ndarray, source: int) -> np.ndarray:
    """Drift of one class at each step: 1 - cos(p^t, p^source), exactly 0 for equal ones.

    Shape: [T, C] -> float64 [T]; NaN where one of the two is missing.
    """
    unit = _unit(prototypes)
    return np.square(unit - unit[source]).sum(-1) / 2


def similarity_matrix(prototypes: Prototypes, step: int, other: int | None = None) -> np.ndarray:
    """Cosine of each class at `step` (rows) with each class at `other` (columns; default: the same step).

    Shape: float64 [K, K].
    """
    return cosine(prototypes.mean[step], prototypes.mean[step if other is None else other])


@dataclass(frozen=True)
class Drift:
    """1 - cosine of a class's prototype to its own earlier one. float64 [T, K], NaN where one of the two is
    missing."""

    since_introduced: np.ndarray
    """The drift: to the step that introduced the class; 0 at that step."""
    since_last: np.ndarray
    """To the previous step: the part that this step added; NaN at the step that introduced the class."""


def drift(prototypes: Prototypes, labels: LabelSpace) -> Drift:
    """How far each known class moved: D_k = 1 - cos(p_k^t, p_k^s), s its first step or t - 1."""
    unit = _unit(prototypes.mean)
    total, last = (np.full(unit.shape[:2], np.nan) for _ in range(2))
    for k in range(unit.shape[1]):
        start = labels.step_of(k)
        if start < len(unit):
            total[start:, k] = drift_since(prototypes.mean[:, k], start)[start:]
        for t in range(start + 1, len(unit)):
            last[t, k] = _distance(unit[t, k], unit[t - 1, k])
    return Drift(total, last)


@dataclass(frozen=True)
class Margins:
    """How far each known class is from its nearest neighbour, against its own spread. Shape: [T, K]."""

    nearest: np.ndarray
    """int64, class index of the nearest other known class; -1 if there is none."""
    distance: np.ndarray
    """float64, cosine distance (1 - cosine) of the two prototypes; NaN without a neighbour."""
    margin: np.ndarray
    """float64, `distance` minus the class's spread."""

    @property
    def overlap(self) -> np.ndarray:
        """bool, whether the class overlaps its nearest neighbour: its pixels reach as far as the neighbour."""
        return self.margin < 0


def margins(prototypes: Prototypes, labels: LabelSpace) -> Margins:
    """The margin of each class among the classes known at each step."""
    shape = prototypes.mean.shape[:2]
    nearest, distance = np.full(shape, -1, np.int64), np.full(shape, np.nan)
    for t in range(shape[0]):
        seen = labels.seen(t)
        apart = 1 - cosine(prototypes.mean[t, :seen], prototypes.mean[t, :seen])
        np.fill_diagonal(apart, np.nan)
        for k in np.flatnonzero(~np.isnan(apart).all(1)):
            nearest[t, k] = np.nanargmin(apart[k])
            distance[t, k] = apart[k, nearest[t, k]]
    return Margins(nearest, distance, distance - prototypes.spread)


def unknown_distance(prototypes: Prototypes, unknown: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Cosine distance of each known class to the unknown embedding of the same step.

    Shape: unknown [T, C] (`unknown_embeddings`) -> float64 [T, K], NaN for classes still to come.
    """
    result = np.full(prototypes.mean.shape[:2], np.nan)
    for t in range(len(result)):
        seen = labels.seen(t)
        result[t, :seen] = 1 - cosine(prototypes.mean[t, :seen], unknown[t][None])[:, 0]
    return result


def prototype_cosines(latent: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Cosine of each latent pixel to each prototype.

    Shape: Z [C, h, w], prototypes [K, C] -> float32 [K, h, w]. 0 for a pixel whose Z is 0, which is like
    nothing; NaN for a missing prototype.
    """
    pixels = latent.reshape(len(latent), -1).T
    found = _unit(prototypes) @ np.nan_to_num(_unit(pixels)).T
    return found.reshape(len(prototypes), *latent.shape[1:]).astype(np.float32)


def nearest_prototype(cosines: np.ndarray, seen: int | None = None) -> np.ndarray:
    """Class index of the most similar prototype among the first `seen` classes (default: all).

    Shape: [K, ...] -> uint8 [...]. Missing prototypes are left out; 255 everywhere if all are missing.
    """
    known = cosines[:seen]
    present = ~np.isnan(known).any(tuple(range(1, known.ndim)))
    if not present.any():
        return np.full(cosines.shape[1:], IGNORE, np.uint8)
    return np.where(present.reshape(-1, *[1] * (known.ndim - 1)), known, -np.inf).argmax(0).astype(np.uint8)


def image_cosines(trace: Traced, step: int, prototypes: np.ndarray) -> np.ndarray:
    """`prototype_cosines` of a traced image, over the picture.

    Shape: prototypes [K, C] -> float32 [K, H, W].
    """
    cosines = prototype_cosines(trace.latent(step), prototypes)
    return on_image(cosines, trace.square, trace.inside, trace.size)


def image_nearest(trace: Traced, step: int, prototypes: np.ndarray) -> np.ndarray:
    """The label map that nearest prototypes alone would give, among the classes known at `step`. uint8 [H,
    W]."""
    seen = trace.run.labels.seen(step)
    return nearest_prototype(image_cosines(trace, step, prototypes[:seen]))


@dataclass(frozen=True)
class Projection:
    """A fixed plane through latent space: the same for all steps, so that movement in it is movement of
    classes."""

    center: np.ndarray
    """float64 [C]."""
    axes: np.ndarray
    """float64 [2, C], orthonormal; a row of zeros where the prototypes span fewer dimensions."""
    explained: np.ndarray
    """float64 [2], share of the variance along each axis; NaN if nothing varies."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Place vectors in the plane after scaling them to length 1.

        Shape: [..., C] -> float64 [..., 2]; NaN stays.
        """
        return (_unit(vectors) - self.center) @ self.axes.T


def fit_projection(prototypes: Prototypes) -> Projection:
    """PCA by SVD over the unit prototypes of all steps and classes at once. Source: ours (docs/method.md#prototypes).

    The signs of the axes are fixed, the loading of largest size being positive, so that the same run always
    gives the same picture. ValueError without a single prototype.
    """
    rows = _unit(prototypes.mean)[prototypes.known]
    rows = rows[~np.isnan(rows).any(-1)]
    if not len(rows):
        raise ValueError("there is no prototype to project: run `lag survey` on this run first")
    center = rows.mean(0)
    _, size, directions = np.linalg.svd(rows - center, full_matrices=False)
    axes, variance = np.zeros((2, rows.shape[1])), np.zeros(2)
    for i, direction in enumerate(directions[:2]):
        if size[i] > 1e-9:
            axes[i] = direction * np.sign(direction[np.abs(direction).argmax()])
            variance[i] = size[i] ** 2
    total = float(np.square(size).sum())
    return Projection(center, axes, variance / total if total > 1e-18 else np.full(2, np.nan))


@dataclass(frozen=True)
class Path:
    """The path of one class through the plane."""

    cls: int
    steps: tuple[int, ...]
    points: np.ndarray
    """float64 [len(steps), 2]."""


def paths(prototypes: Prototypes, projection: Projection, classes: Sequence[int] | None = None) -> list[Path]:
    """The path of each class (default: all) over the steps at which it has a prototype.

    Measured prototypes exist before a class is introduced, too: `LabelSpace.step_of` says where knowledge
    begins.
    """
    points = projection(prototypes.mean)
    found = []
    for k in range(points.shape[1]) if classes is None else classes:
        steps = np.flatnonzero(~np.isnan(points[:, k]).any(-1))
        found.append(Path(int(k), tuple(steps.tolist()), points[steps, k]))
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; NaN for rows that are 0."""
    wide = np.asarray(vectors, np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, length, out=np.full(wide.shape, np.nan), where=length > 0)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - cosine of two unit vectors: half their squared distance, which is exactly 0 for equal ones."""
    return float(np.square(a - b).sum() / 2)
