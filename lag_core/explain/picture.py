"""A picture by its name: a file, or a validation image of the run with its truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lag_core.data.pictures import DataError, Scaled, read_mask, read_small, scaled_down
from lag_core.data.remap import truth
from lag_core.runs import Run


def read_picture(
    run: Run, name: str | Path, mask: str | Path | None = None, data: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image uint8 [H, W, 3] and truth, class indices uint8 [H, W] or None, both of the size that is worked with
    (pictures.read_small).

    A file comes first; its truth is that of `mask`, a file of dataset ids. Otherwise `name` is a validation image of
    the run's dataset, which lies in `data` (None: where the run says). DataError for a name that is neither.
    """
    if Path(name).is_file():
        picture = read_small(name, run.config.data.range)
        return picture.pixels, None if mask is None else _truth_beside(picture, read_mask(mask), name, mask, run)
    if mask is not None:
        raise DataError(f"a mask belongs to a picture file; there is no file {name}")
    dataset = run.open_dataset(data)
    if str(name) not in dataset.ids("val"):
        some = ", ".join(dataset.ids("val")[:3])
        raise DataError(f"{str(name)!r} is no file and no validation image of {run.name} ({some}, …)")
    pixels = scaled_down(dataset.image(str(name)))
    return pixels, truth(at_size(dataset.mask(str(name)), pixels.shape[:2]), run.labels)


def _truth_beside(picture: Scaled, ids: np.ndarray, name: str | Path, mask: str | Path, run: Run) -> np.ndarray:
    """Class indices [H, W] of a mask file. DataError if it is not of the size of its picture's file."""
    if ids.shape != picture.full_size:
        raise DataError(f"{mask} is of another size than {name}")
    return truth(at_size(ids, picture.pixels.shape[:2]), run.labels)


def at_size(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Labels [h, w] at another size, each pixel by the one that its centre lies in. Shape: -> [H, W]."""
    if labels.shape == size:
        return labels
    rows, columns = (((np.arange(n) + 0.5) * own / n).astype(int) for n, own in zip(size, labels.shape, strict=True))
    return np.ascontiguousarray(labels[np.ix_(rows, columns)])
