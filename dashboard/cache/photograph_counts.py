"""The shipped runs' results on the shipped photographs, counted in advance: no network runs for the fate wall.

assets/photos/counts.json is written by docs/count_photographs.py, by the digest of the run; a retrained run
has no entry until it is written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.cache.photographs import FOLDER
from dashboard.cache.picture_set import PictureSet
from lag_core.explain.picture_counts import PictureCounts
from lag_core.reading import read_json
from lag_core.runs import Run

COUNTS = FOLDER / "counts.json"


def as_json(name: str, ids: Sequence[str], lost: np.ndarray, counts: PictureCounts) -> dict[str, Any]:
    """The entry of one run. Shape: lost int [N, T, K]."""
    sure = counts.confidence
    return {
        "run": name,
        "ids": list(ids),
        "lost": lost.tolist(),
        "rows": counts.rows.tolist(),
        "moves": counts.moves.tolist(),
        "moved": counts.moved.tolist(),
        "confidence": None if sure is None else _rounded(sure),
    }


def _rounded(sure: np.ndarray) -> list[list[list[float | None]]]:
    return [[[None if np.isnan(v) else round(float(v), 3) for v in row] for row in step] for step in sure]


def of_run(run: Run) -> PictureSet | None:
    """The photographs with the run's counts on them; None if they were not counted."""
    return _of_run(run.digest, _run=run)


@st.cache_resource(max_entries=64, show_spinner=False)
def _of_run(digest: str, *, _run: Run) -> PictureSet | None:
    try:
        entry = read_json(COUNTS).get(digest)
        return None if entry is None else _read(entry, _run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(entry: Mapping[str, Any], run: Run) -> PictureSet:
    sure = np.array(entry["confidence"], np.float32)  # None becomes NaN
    counts = PictureCounts(
        np.array(entry["rows"]), np.array(entry["moves"], np.uint8), np.array(entry["moved"]), sure,
        len(run.steps), len(run.classes),
    )  # fmt: skip
    return PictureSet.of_counts("photographs", tuple(entry["ids"]), np.array(entry["lost"]), counts)
