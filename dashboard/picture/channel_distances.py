"""How far each channel of Z moved between two steps, and on which images this was measured.

Everything is keyed by digests and computed once for all sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from lag_core.explain import channels
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.survey_pass import Metric

Basis = Literal["validation", "training", "image"]
"""On which images distances are measured: `lag survey`'s, the training's own, or the selected one."""

METRICS: tuple[str, ...] = ("entropy_kl", "spatial_kl", "cosine", "l2", "random")
"""As method.decoupling.Metric, which cannot be read without torch."""


class Step(NamedTuple):
    """The two steps that are compared, and how."""

    old: int
    new: int
    basis: Basis
    metric: str


def bases(run: Run, annotated: bool, picture: Picture | None) -> tuple[Basis, ...]:
    """The images on which the run's distances are known; `annotated`: of consecutive steps, so that files hold them."""
    found: list[Basis] = []
    if annotated and loaders.survey(run) is not None:
        found.append("validation")
    if annotated and np.isfinite(stored_distances(run)).any():
        found.append("training")
    return (*found, "image") if picture is not None else tuple(found)


def metrics(run: Run, basis: Basis) -> tuple[str, ...]:
    """The metrics that a basis offers, the run's own first."""
    own = run.config.method.channel_metric
    survey = loaders.survey(run)
    offered = METRICS if basis == "image" or survey is None else survey.metrics
    return (own,) if basis == "training" else tuple(sorted(offered, key=lambda name: name != own))


def stored_distances(run: Run) -> np.ndarray:
    """Distances stored by training, float32 [T - 1, C]; NaN where there are none."""
    paths = [run.path / f"analysis_{t:02d}.safetensors" for t in range(len(run.steps))]
    stamps = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
    return _stored_distances(run.digest, stamps, _run=run)


@st.cache_resource(max_entries=16, show_spinner=False)
def _stored_distances(digest: str, stamps: tuple[int, ...], *, _run: Run) -> np.ndarray:
    return channels.run_distances(_run)


def distances(run: Run, picture: Picture | None, basis: Basis, metric: str) -> np.ndarray:
    """Distance of each channel to the previous step. Shape: float32 [T - 1, C], NaN where it is not known."""
    survey = loaders.survey(run)
    if basis == "validation" and survey is not None and metric in survey.metrics:
        return survey.distances[survey.metrics.index(metric)]
    if basis == "image" and picture is not None:
        rows = [distance(run, picture, Step(t - 1, t, basis, metric)) for t in range(1, run.last_step + 1)]
        return np.array([row for row in rows if row is not None], np.float32)
    return stored_distances(run)


def distance(run: Run, picture: Picture | None, pair: Step) -> np.ndarray | None:
    """Distance of each channel from step `pair.old` to `pair.new`, float32 [C]; None where it is not known."""
    if pair.basis == "image":
        return (
            None if picture is None else _image_distance(run.digest, picture.digest, pair, _run=run, _picture=picture)
        )
    rows = distances(run, picture, pair.basis, pair.metric)
    if pair.old != pair.new - 1 or not 0 < pair.new <= len(rows):
        return None
    row = rows[pair.new - 1]
    return row if len(row) and np.isfinite(row).all() else None


@st.cache_resource(max_entries=256, show_spinner=False)
def _image_distance(digest: str, image: str, pair: Step, *, _run: Run, _picture: Picture) -> np.ndarray:
    trace = loaders.trace(_run, _picture)
    return channels.image_distances(trace, pair.new, pair.old, cast("Metric", pair.metric))


def sides(distances: np.ndarray, step: int, rho: float, now: np.ndarray) -> np.ndarray | None:
    """bool [C], channels that were on the other side of the cut at the previous step. None if that has no split.

    distances: float [T - 1, C], of neighbouring steps; now: bool [C], the invariant channels of `step`.
    """
    if not 2 <= step <= len(distances) or not np.isfinite(distances[step - 2]).all():
        return None
    before = channels.split(distances[step - 2], rho)
    return before.invariant != now if before.defined else None


def stability(distances: np.ndarray, rho: float) -> np.ndarray:
    """channels.stability, NaN where one of the two splits is not defined. Shape: float64 [T - 2]."""
    found = channels.stability(np.nan_to_num(distances), rho)
    defined = [np.isfinite(row).all() and channels.split(row, rho).defined for row in distances]
    return np.array([j if a and b else np.nan for j, a, b in zip(found, defined, defined[1:], strict=False)])
