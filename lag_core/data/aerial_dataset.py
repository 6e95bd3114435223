"""The generated aerial tiles (`aerial`) as a `Dataset`: nothing to download, everything from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lag_core import reading
from lag_core.data import aerial, presence
from lag_core.data.dataset import DatasetInfo
from lag_core.protocol import IGNORE, ClassInfo


class AerialTiles:
    """`aerial.AerialDataset` with the `Dataset` interface. Clutter is 255: ignored, as in ISPRS."""

    def __init__(self, train_per_domain: int, val_per_domain: int, size: int, seed: int = 0):
        self._made_from = (train_per_domain, val_per_domain, size, seed)
        self._tiles = aerial.AerialDataset(*self._made_from)
        classes = tuple(ClassInfo(*one) for one in aerial.CLASSES if 0 < one[0] < IGNORE)
        self.info = DatasetInfo("aerial", classes, None, tuple(aerial.DOMAINS))

    def ids(self, split: str) -> tuple[str, ...]:
        return tuple(self._tiles.ids(split))

    def image(self, name: str) -> np.ndarray:
        return self._tiles.image(name)

    def mask(self, name: str) -> np.ndarray:
        return self._tiles.mask(name)

    def domain(self, name: str) -> str:
        return self._tiles.domain(name)

    def present(self, split: str) -> dict[str, frozenset[int]]:
        key = presence.digest([split, *self._made_from, _generator_digest()])
        return presence.cached("aerial", key, self.ids(split), self.mask)


def open_aerial(train_per_domain: int, val_per_domain: int, size: int) -> AerialTiles:
    """The tiles of seed 0, which every configuration shares."""
    return AerialTiles(train_per_domain, val_per_domain, size)


def _generator_digest() -> str:
    """Digest of the generator's source: stored classes become invalid when the generator changes."""
    files = sorted(Path(aerial.__file__).parent.glob("aerial*.py"))
    return presence.digest(reading.read_text(path, reading.CONFIG) for path in files)
