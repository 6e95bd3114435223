"""Photographs with masks and attribution that ship with the project, for runs whose own images may not ship.

The layout is that of a dataset folder without train.txt: nothing is trained on them. Classes are found by *name*:
`for_classes` returns the photographs in a run's ids if they have every class of the run. A class of theirs
that the run does not know becomes its background, or is ignored if it has none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lag_core import reading
from lag_core.data.dataset import Dataset, DatasetInfo
from lag_core.data.folder import open_folder
from lag_core.data.pictures import DataError
from lag_core.protocol import IGNORE, ClassInfo

ATTRIBUTION = "ATTRIBUTION.csv"


@dataclass(frozen=True)
class Credit:
    """Who made a photograph, under which licence it is, and where it comes from."""

    author: str
    licence: str
    source: str
    """Address of the page, or of the file, that says so."""


class Photographs:
    """The photographs of a folder, in the class ids of the folder. DatasetMissing or DataError as `open_folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._dataset: Dataset = open_folder(folder, ("val",))
        self.names = self._dataset.ids("val")
        self.credits = _read_credits(folder / ATTRIBUTION)
        lacking = [name for name in self.names if name not in self.credits]
        if lacking:
            raise DataError(f"{folder / ATTRIBUTION} does not say who made {lacking[0]!r}")

    def for_classes(self, classes: Sequence[ClassInfo], background: int | None) -> ClassedPhotographs | None:
        """The photographs in the ids of these classes; None if one of them is not found by its name."""
        ids = {one.name: one.id for one in self._dataset.info.classes}
        if not all(one.name in ids for one in classes):
            return None
        table = np.full(256, IGNORE, np.uint8)
        if background is not None:
            table[list(ids.values())] = background
        for one in classes:
            table[ids[one.name]] = one.id
        info = DatasetInfo(self._dataset.info.name, tuple(classes), background)
        return ClassedPhotographs(self, self._dataset, info, table)


@dataclass(frozen=True)
class ClassedPhotographs:
    """The photographs in the ids of some classes."""

    photographs: Photographs
    _dataset: Dataset
    info: DatasetInfo
    _table: np.ndarray
    """uint8 [256]: id in the folder's masks -> id here."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the photographs, in file order."""
        return self.photographs.names

    def image(self, name: str) -> np.ndarray:
        """uint8 [H, W, 3], RGB; DataError if the file is damaged."""
        return self._dataset.image(name)

    def mask(self, name: str) -> np.ndarray:
        """uint8 [H, W], ids of `info`, 255 ignored; DataError if the file is damaged or holds a foreign id."""
        return self._table[self._dataset.mask(name)]


def _read_credits(path: Path) -> dict[str, Credit]:
    try:
        rows = list(csv.DictReader(io.StringIO(reading.read_text(path, reading.NAMES), newline="")))
        return {row["image"]: Credit(*(_filled(row, key) for key in ("author", "licence", "source"))) for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a table of image, author, licence and source ({error})") from error


def _filled(row: dict[str, str], key: str) -> str:
    value = (row[key] or "").strip()
    if not value:
        raise ValueError(f"{row['image']!r} has no {key}")
    return value
