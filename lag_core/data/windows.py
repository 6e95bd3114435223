"""Windows over large pictures: their positions, and a dataset whose images are windows.

With `data.fit = "windows"` a picture larger than the network's square is not scaled down. It becomes windows with the
square's side. Each is an image, called `tile@row,column` after the pixel at its upper left. Training windows do not
overlap. Validation windows do (`data.overlap`), so that a pixel is judged with its surroundings. Each pixel is
annotated only in the window where it lies deepest, so it counts once. Metrics, survey, gallery and explanations then
use windows as images; only intervals draw whole tiles (lag_core/tiles.py). Source: ours;
overlapping windows as the field predicts large pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from lag_core.data import presence
from lag_core.data.dataset import SPLITS, Dataset, DatasetInfo, FileDataset
from lag_core.data.files import DataError, Part, Size
from lag_core.data.pictures import InMemory, Readable
from lag_core.protocol import IGNORE
from lag_core.tiles import named, window_name


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` begin along a side: evenly, the last one flush, neighbours sharing at least `overlap`."""
    if length <= size:
        return [0]
    stride = max(1, int(size * (1 - overlap)))
    count = -((length - size) // -stride) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def window_part(picture: str, size: Size, top: int, left: int, side: int) -> Part:
    """Rows and columns of a window. DataError for one that begins outside of the picture."""
    height, width = size
    if not (top < height and left < width):
        raise DataError(f"{picture} has {width} x {height} pixels: no window begins at row {top}, column {left}")
    return slice(top, min(top + side, height)), slice(left, min(left + side, width))


def readable(dataset: Dataset, name: str) -> Readable:
    """An image of a dataset, read in parts if its file holds the whole image."""
    if isinstance(dataset, FileDataset):
        return dataset.readable(name)
    return InMemory(dataset.image(name))


def own_range(begins: list[int], at: int, size: int, length: int) -> tuple[int, int]:
    """Along a side, the pixels that lie deeper in the window at `at` than in its neighbours: (first, behind last)."""
    place = begins.index(at)
    first = 0 if place == 0 else (begins[place - 1] + size + at) // 2
    last = length if place + 1 == len(begins) else (at + size + begins[place + 1]) // 2
    return first, last


class WindowedDataset:
    """The windows of a dataset's pictures as a `Dataset`; a picture no larger than a window stays what it is."""

    def __init__(self, pictures: FileDataset, size: int, overlap: float):
        self.pictures, self.size = pictures, size
        self.overlaps = {"train": 0.0, "val": overlap}
        self.info: DatasetInfo = pictures.info

    def _begins(self, size: Size, split: str) -> tuple[list[int], list[int]]:
        overlap = self.overlaps[split]
        return starts(size[0], self.size, overlap), starts(size[1], self.size, overlap)

    def ids(self, split: str) -> tuple[str, ...]:
        return self._training if split == "train" else self._validation

    @cached_property
    def _training(self) -> tuple[str, ...]:
        return tuple(self._names("train"))

    @cached_property
    def _validation(self) -> tuple[str, ...]:
        return tuple(self._names("val"))

    def _names(self, split: str) -> Iterator[str]:
        for picture in self.pictures.ids(split):
            height, width = self.pictures.picture_size(picture)
            if max(height, width) <= self.size:
                yield picture
                continue
            tops, lefts = self._begins((height, width), split)
            yield from (window_name(picture, top, left) for top in tops for left in lefts)

    def _found(self, name: str) -> tuple[str, int, int]:
        """(picture, row, column). A picture may be called like a window."""
        if self.pictures.has(name):
            return name, 0, 0
        found = named(name)
        if found is None or not self.pictures.has(found[0]):
            raise KeyError(name)
        return found

    def _part(self, picture: str, top: int, left: int) -> Part:
        return window_part(picture, self.pictures.picture_size(picture), top, left, self.size)

    def image(self, name: str) -> np.ndarray:
        picture, top, left = self._found(name)
        return self.pictures.image(picture, self._part(picture, top, left))

    def mask(self, name: str) -> np.ndarray:
        picture, top, left = self._found(name)
        part = self._part(picture, top, left)
        mask = self.pictures.mask(picture, part)
        if picture not in self._measured:
            return mask
        return self._own(mask, top, left, self.pictures.picture_size(picture))

    @cached_property
    def _measured(self) -> frozenset[str]:
        return frozenset(self.pictures.ids("val"))

    def _own(self, mask: np.ndarray, top: int, left: int, size: Size) -> np.ndarray:
        """The mask with the pixels that lie deeper in another window not annotated."""
        tops, lefts = self._begins(size, "val")
        if top not in tops or left not in lefts:
            return mask  # a position that the user named: no window of the set
        first, last = own_range(tops, top, self.size, size[0])
        begin, end = own_range(lefts, left, self.size, size[1])
        kept = np.full_like(mask, IGNORE)
        own = np.s_[first - top : last - top, begin - left : end - left]
        kept[own] = mask[own]
        return kept

    def domain(self, name: str) -> str:
        return self.pictures.domain(self._found(name)[0])

    def present(self, split: str) -> dict[str, frozenset[int]]:
        return self.pictures.present_of(
            split, self.ids(split), self.mask, f"/windows/{self.size}/{self.overlaps[split]:g}/{self._shared(split)}"
        )

    def _shared(self, split: str) -> str:
        """Which pictures of a split are measured, too: their masks are cut to windows' own parts."""
        return presence.digest(sorted(self._measured & set(self.pictures.ids(split)))) if split == "train" else ""

    def image_file(self, name: str) -> Path:
        """The file of a window's picture."""
        return self.pictures.image_file(self._found(name)[0])

    def check(self) -> None:
        """As FileDataset.check."""
        self.pictures.check_headers()
        for split in SPLITS:
            self.present(split)
        self.pictures.decode_validation()

    def value_range(self) -> tuple[float, ...]:
        """As FileDataset.value_range."""
        return self.pictures.value_range()
