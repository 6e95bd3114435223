"""A picture by its name: a file, or a validation image of the run with its truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lag_core.data.files import DataError
from lag_core.data.pictures import Scaled, opened, picture_size, read_mask, read_small, scaled_down
from lag_core.data.remap import truth
from lag_core.data.windows import window_part
from lag_core.runs import Run
from lag_core.tiles import named


def read_picture(
    run: Run, name: str | Path, mask: str | Path | None = None, data: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image uint8 [H, W, 3] and truth, class indices uint8 [H, W] or None, both at working size
    (pictures.read_small).

    A file comes first; its truth is that of `mask`, a file of dataset ids. `file@row,column` is a window of it, at the
    file's resolution. Otherwise `name` is a validation image of
    the run's dataset, which lies in `data` (None: where the run says). DataError for a name that is neither.
    """
    reading = run.config.data.range, run.config.data.bands
    if Path(name).is_file():
        picture = read_small(name, *reading)
        return picture.pixels, None if mask is None else _truth_beside(picture, read_mask(mask), name, mask, run)
    window = named(str(name))
    if window is not None and Path(window[0]).is_file():
        return _window(run, window, mask)
    if mask is not None:
        raise DataError(f"a mask needs a picture file; there is no file {name}")
    dataset = run.open_dataset(data)
    if str(name) not in dataset.ids("val"):
        some = ", ".join(dataset.ids("val")[:3])
        raise DataError(f"{str(name)!r} is neither a file nor a validation image of {run.name} ({some}, …)")
    pixels = scaled_down(dataset.image(str(name)))
    return pixels, truth(at_size(dataset.mask(str(name)), pixels.shape[:2]), run.labels)


def _window(run: Run, window: tuple[str, int, int], mask: str | Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A window of a file, as large as the network's square, at the file's resolution."""
    file, top, left = window
    picture = opened(file, run.config.data.range, run.config.data.bands)
    part = window_part(file, picture.size, top, left, run.config.data.size)
    pixels = np.ascontiguousarray(picture.read(part))
    if mask is None:
        return pixels, None
    if picture_size(mask) != picture.size:
        raise DataError(f"{mask} is of another size than {file}")
    return pixels, truth(read_mask(mask, part=part), run.labels)


def _truth_beside(picture: Scaled, ids: np.ndarray, name: str | Path, mask: str | Path, run: Run) -> np.ndarray:
    """Class indices [H, W] of a mask file. DataError if its size is not that of its picture's file."""
    if ids.shape != picture.full_size:
        raise DataError(f"{mask} is of another size than {name}")
    return truth(at_size(ids, picture.pixels.shape[:2]), run.labels)


def at_size_by_rows(labels: np.ndarray, size: tuple[int, int], count: int = 256) -> Iterator[np.ndarray]:
    """`at_size`, `count` rows at a time. Shape: -> [count, W] each, the last one shorter."""
    rows, columns = _nearest(labels, size)
    return (labels[np.ix_(rows[top : top + count], columns)] for top in range(0, size[0], count))


def at_size(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Labels [h, w] at another size, each pixel by the one that its centre lies in. Shape: -> [H, W]."""
    if labels.shape == size:
        return labels
    return np.ascontiguousarray(labels[np.ix_(*_nearest(labels, size))])


def _nearest(labels: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of `labels` that the pixels of a picture of another size lie in."""
    rows, columns = (((np.arange(n) + 0.5) * own / n).astype(int) for n, own in zip(size, labels.shape, strict=True))
    return rows, columns
