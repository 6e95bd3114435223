"""Label maps from any framework, stored in a run folder: `predictions/step_NN/<image>.png`, in dataset ids.

A label map may come with `<image>.safetensors`: `scores`, float32 [K, h, w] (a probability per class, in order of
introduction) and `latent`, float32 [C, h, w]. Both cover the picture. Imports no torch. Source: ours
(docs/open-your-own.md).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lag_core import reading
from lag_core.data.dataset import Dataset
from lag_core.data.pictures import DataError, picture_size, read_mask
from lag_core.data.remap import truth as class_indices
from lag_core.data.transforms import resize_labels
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, RunError, read_tensors, write_tensors
from lag_core.writing import write_atomically

FOLDER = "predictions"
MOST_BYTES = 256 * 2**20
"""Of the arrays beside one label map."""
ARRAYS = ("scores", "latent")


def step_folder(step: int) -> str:
    """The folder of a step's label maps in the run folder."""
    return f"{FOLDER}/step_{step:02d}"


class StoredPredictions:
    """The label maps of a run. RunError for a picture without one, or a file that cannot be read."""

    def __init__(self, run: Run):
        self.run = run

    @property
    def _root(self) -> tuple[Path, ...]:
        """The folder that must contain its files after links are followed."""
        return reading.run_folder(self.run.path / FOLDER)

    @cached_property
    def images(self) -> frozenset[str]:
        """Names of the images that it has label maps of."""
        found = self.run.network.get("images")
        return frozenset(str(name) for name in found) if isinstance(found, list) else frozenset()

    def labels(self, step: int, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Class indices uint8 [H, W]; with `size` (H, W), brought to it by the nearest pixel."""
        path = self._path(step, name, "png")
        try:
            found = class_indices(read_mask(path, self._root), self.run.labels)
        except DataError as error:
            raise RunError(f"{error}; import the predictions again") from None
        if (found >= self.run.labels.seen(step)).any():
            raise RunError(f"{path} holds an id that step {step} does not know; import the predictions again")
        return found if size is None else resize_labels(found, size)

    def array(self, step: int, name: str, which: str) -> np.ndarray | None:
        """`scores` or `latent` of a picture, float32 [n, h, w]; None where there is none."""
        path = self._path(step, name, "safetensors")
        return read_tensors(path, self._root).get(which) if path.is_file() else None

    def _path(self, step: int, name: str, ending: str) -> Path:
        safe = name in self.images and "/" not in name and "\\" not in name and not name.startswith(".")
        if not safe:
            raise RunError(
                f"{self.run.name} has label maps only of its validation images, not of this picture; `lag import` "
                "or `lag adopt` open the networks themselves, which work on any picture"
            )
        return self.run.path / step_folder(self.run.checked_step(step)) / f"{name}.{ending}"


@dataclass(frozen=True)
class Stored:
    """What was stored in a run folder."""

    images: tuple[str, ...]
    digest: str
    """Of every byte that was stored."""
    channels: int
    """Of Z; 0 where a picture or step has none."""


def store(folders: Sequence[Path], dataset: Dataset, labels: LabelSpace, out: Path) -> Stored:
    """Check the label maps of every step and put them into the run folder `out`.

    `folders`: one per step, each with `<image>.png` for every validation image. DataError names the first file that is
    missing, has another size than its image, or holds an id that its step does not know.
    """
    names, digest = dataset.ids("val"), hashlib.sha256()
    widths: set[int] = set()
    for step, folder in enumerate(folders):
        lacking = [name for name in names if not (folder / f"{name}.png").is_file()]
        if lacking:
            raise DataError(
                f"{folder} lacks {len(lacking)} of {len(names)} label maps, the first is {lacking[0]}.png: one for "
                "each validation image is needed"
            )
        for name in names:
            _check(folder / f"{name}.png", dataset.mask(name).shape, labels, step)
            widths.add(_keep(folder, name, labels.seen(step), out / step_folder(step), digest))
    return Stored(tuple(names), digest.hexdigest(), widths.pop() if len(widths) == 1 else 0)


def _check(path: Path, size: tuple[int, ...], labels: LabelSpace, step: int) -> None:
    """DataError unless the label map has its image's size and only classes that the step knows."""
    found = picture_size(path)
    if found != size:
        raise DataError(f"{path} has {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}")
    ids = np.unique(read_mask(path))
    foreign = [int(i) for i in ids if i not in labels.order[: labels.seen(step)]]
    if foreign:
        known = ", ".join(map(str, sorted(labels.order[: labels.seen(step)])))
        raise DataError(f"{path} holds id {foreign[0]}, which step {step} does not know (known: {known})")


def _keep(folder: Path, name: str, classes: int, out: Path, digest: hashlib._Hash) -> int:
    """Copy a label map and the arrays beside it. Returns the channels of Z, 0 without."""
    content = reading.read_bytes(folder / f"{name}.png", reading.PICTURE)
    write_atomically(out / f"{name}.png", content)
    digest.update(name.encode() + content)
    path = folder / f"{name}.npz"
    if not path.is_file():
        return 0
    arrays = read_arrays(path, classes)
    entry = write_tensors(out / f"{name}.safetensors", arrays)
    digest.update(entry["sha256"].encode())
    return len(arrays["latent"]) if "latent" in arrays else 0


def read_arrays(path: Path, classes: int) -> dict[str, np.ndarray]:
    """`scores` and `latent` of an npz file, float32. DataError for anything else in it; no code is run."""
    try:
        with reading.opened(path, reading.ARRAYS) as file, zipfile.ZipFile(file) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > MOST_BYTES:
            raise DataError(f"{path} unpacks to {size / 2**20:.0f} MiB; at most {MOST_BYTES // 2**20} are read")
        with reading.opened(path, reading.ARRAYS) as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name], np.float32) for name in ARRAYS if name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # a damaged or hostile file: its reader may raise anything
        raise DataError(f"{path} is not a readable npz file: {error}") from None
    for name, array in found.items():
        if array.ndim != 3 or not np.isfinite(array).all() or not array.size:
            raise DataError(f"{path}: {name} must be finite numbers [n, h, w], found {array.shape}")
    if "scores" in found and len(found["scores"]) != classes:
        raise DataError(f"{path}: scores of {len(found['scores'])} classes, but its step knows {classes}")
    return found
