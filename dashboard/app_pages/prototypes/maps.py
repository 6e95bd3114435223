"""Which prototypes of a run are looked at, and a picture's pixels against them, as the Prototypes page shows it.

Measured prototypes (`lag survey`) and stored ones (training) are never mixed: a choice is of one kind, and a
compared run is shown only where it has the same. Everything is keyed by digests and computed once for all
sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import shelved
from dashboard.picture import predictions
from lag_core.explain import similarity
from lag_core.explain.latent_maps import on_image
from lag_core.explain.similarity import Drift, Margins, Projection, Prototypes
from lag_core.protocol import IGNORE
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.trace import Trace

Kind = Literal["measured", "stored"]


@dataclass(frozen=True)
class Motion:
    """The prototypes of one kind of one run and what follows from them: T steps, K classes, C channels."""

    kind: Kind
    prototypes: Prototypes
    digest: str
    """Of the prototypes: the key of what is computed from them."""
    drift: Drift
    margins: Margins
    unknown: np.ndarray | None
    """float64 [T, K], cosine distance to the unknown embedding; None if the run does not model it."""
    projection: Projection


def motions(run: Run) -> dict[Kind, Motion]:
    """The prototypes that a run has, by kind, measured ones first."""
    survey = loaders.survey(run)
    found: dict[Kind, Motion] = {}
    if survey is not None:
        measured = similarity.measured(survey)
        if measured.known.any():
            found["measured"] = _motion(
                run.digest, "measured", loaders.array_digest(measured.mean), _run=run, _prototypes=measured
            )
    stored = _stored(run.digest, _stamps(run), _run=run)
    if stored.mean.shape[-1] and stored.known.any():
        digest = loaders.array_digest(stored.mean)
        found["stored"] = _motion(run.digest, "stored", digest, _run=run, _prototypes=stored)
    return found


def _stamps(run: Run) -> tuple[int, ...]:
    """When the analysis files were last written, nanoseconds."""
    paths = [run.path / f"analysis_{t:02d}.safetensors" for t in range(len(run.steps))]
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


@st.cache_resource(max_entries=16, show_spinner=False)
def _stored(digest: str, stamps: tuple[int, ...], *, _run: Run) -> Prototypes:
    return similarity.stored(_run)


@st.cache_resource(max_entries=32, show_spinner=False)
def _motion(run_digest: str, kind: Kind, digest: str, *, _run: Run, _prototypes: Prototypes) -> Motion:
    embeddings = similarity.unknown_embeddings(_run)
    comparable = embeddings is not None and embeddings.shape[-1] == _prototypes.mean.shape[-1]
    return Motion(
        kind,
        _prototypes,
        digest,
        similarity.drift(_prototypes, _run.labels),
        similarity.margins(_prototypes, _run.labels),
        similarity.unknown_distance(_prototypes, embeddings, _run.labels)
        if comparable and embeddings is not None
        else None,
        similarity.fit_projection(_prototypes),
    )


def nearest(run: Run, picture: Picture, motion: Motion, step: int) -> np.ndarray:
    """Class index of the nearest prototype among the classes known at `step`, uint8 [H, W] as shown."""
    return _nearest(run.digest, picture.digest, motion.digest, step, _run=run, _picture=picture, _motion=motion)


@shelved
def _nearest(
    run_digest: str, digest: str, prototypes: str, step: int, *, _run: Run, _picture: Picture, _motion: Motion
) -> np.ndarray:
    trace = loaders.trace(_run, _picture)
    own = _motion.prototypes.mean[step, : _run.labels.seen(step)]
    return nearest_label(trace, step, own, predictions.shown_size(_picture))


def nearest_label(trace: Trace, step: int, prototypes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As similarity.image_nearest, one class at a time: a large picture has no room for all at once.

    Shape: prototypes [K, C] -> uint8 `size`; 255 everywhere where all prototypes are missing.
    """
    cosines = similarity.prototype_cosines(trace.latent(step), prototypes)
    best = np.full(size, -np.inf, np.float32)
    labels = np.full(size, IGNORE, np.uint8)
    for k in range(len(prototypes)):
        if not np.isnan(cosines[k]).any():
            plane = on_image(cosines[k : k + 1], trace.square, trace.inside, size)[0]
            labels[plane > best] = k
            best = np.maximum(best, plane)
    return labels


def cosine(run: Run, picture: Picture, motion: Motion, step: int, cls: int) -> np.ndarray | None:
    """Cosine of each pixel to the prototype of `cls` at `step`, float32 [H, W] as shown; None without one."""
    if not motion.prototypes.known[step, cls]:
        return None
    return _cosine(run.digest, picture.digest, motion.digest, step, cls, _run=run, _picture=picture, _motion=motion)


@shelved
def _cosine(
    run_digest: str,
    digest: str,
    prototypes: str,
    step: int,
    cls: int,
    *,
    _run: Run,
    _picture: Picture,
    _motion: Motion,
) -> np.ndarray:
    trace = loaders.trace(_run, _picture)
    own = _motion.prototypes.mean[step, cls][None]
    cosines = similarity.prototype_cosines(trace.latent(step), own)
    return on_image(cosines, trace.square, trace.inside, predictions.shown_size(_picture))[0]
