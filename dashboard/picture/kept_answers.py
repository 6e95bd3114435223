"""Predictions for the photographs that ship, computed in advance, so that the app's first picture waits for no network.

They lie in assets/photos/answers, one file per run and photograph, named by both digests. For another network or
another picture there is no file, and the network runs. `python -m dashboard.picture.kept_answers` writes them for
the runs that ship; tests/dashboard/picture/test_kept_answers.py compares them with the networks' output.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import numpy as np

from dashboard.cache import photographs
from lag_core import reading

FOLDER = photographs.FOLDER / "answers"

NAMES = ("predictions", "grids", "certainty")

Arrays = dict[str, np.ndarray]


def find(run_digest: str, picture_digest: str) -> Arrays | None:
    """The kept arrays by NAMES, shaped as in `predictions.Answers` with steps first; None where nothing is kept."""
    try:
        content = reading.read_bytes(_path(run_digest, picture_digest), reading.PICTURE)
    except OSError:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: _summed(stored[name]) for name in NAMES}


def keep(run_digest: str, picture_digest: str, arrays: Arrays) -> Path:
    """Write what `find` returns, and say where."""
    path = _path(run_digest, picture_digest)
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{name: _differences(arrays[name]) for name in NAMES})
    path.write_bytes(buffer.getvalue())
    return path


def _path(run_digest: str, picture_digest: str) -> Path:
    return FOLDER / f"{run_digest}-{picture_digest}.npz"


def _differences(array: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, ...]: each row minus the one above it, modulo 256: smooth maps compress better so."""
    if not array.size:  # a network without certainties
        return array
    return np.diff(array, axis=1, prepend=np.zeros_like(array[:, :1]))


def _summed(array: np.ndarray) -> np.ndarray:
    return np.cumsum(array, axis=1, dtype=np.uint8) if array.size else array


def main() -> None:
    """Write the predictions of the runs that ship and know the photographs' classes."""
    from dashboard.cache import loaders
    from dashboard.picture import predictions

    for path in FOLDER.glob("*.npz"):
        path.unlink()
    for run in loaders.catalogue(loaders.runs_root()).runs.values():
        for image_id in photographs.ids(run):
            picture = cast(loaders.Picture, loaders.picture(run, "", image_id))
            found = predictions.computed(run, picture)
            keep(run.digest, picture.digest, {name: np.array(getattr(found, name), np.uint8) for name in NAMES})


if __name__ == "__main__":
    main()
