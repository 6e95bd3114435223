"""A picture by its name: a file, or a validation image of the run with its truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lag_core.data.pictures import DataError, read_image, read_mask
from lag_core.data.remap import truth
from lag_core.runs import Run


def read_picture(
    run: Run, name: str | Path, mask: str | Path | None = None, data: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image uint8 [H, W, 3] and truth, class indices uint8 [H, W] or None.

    A file comes first; its truth is that of `mask`, a file of dataset ids. Otherwise `name` is a validation image of
    the run's dataset, which lies in `data` (None: where the run says). DataError for a name that is neither.
    """
    if Path(name).is_file():
        return read_image(name, run.config.data.range), None if mask is None else truth(read_mask(mask), run.labels)
    if mask is not None:
        raise DataError(f"a mask belongs to a picture file; there is no file {name}")
    dataset = run.open_dataset(data)
    if str(name) not in dataset.ids("val"):
        some = ", ".join(dataset.ids("val")[:3])
        raise DataError(f"{str(name)!r} is no file and no validation image of {run.name} ({some}, …)")
    return dataset.image(str(name)), truth(dataset.mask(str(name)), run.labels)
