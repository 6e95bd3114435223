"""Procedural aerial tiles with exact masks, in the classes and colours of the ISPRS 2D labelling contest.

For training and demonstration without any download: `rgb` looks like the Potsdam images, `irrg` (near
infrared, red, green) like the Vaihingen ones, with another scale and another town. Nothing touches the
disk. Ours.

    image, mask = tile(7, "irrg")
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from lag_core.data.aerial_blocks import plan
from lag_core.data.aerial_render import render
from lag_core.data.aerial_scene import Domain, Sun
from lag_core.sentences import counted

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]

CLASSES: tuple[tuple[int, str, tuple[int, int, int]], ...] = (
    (0, "unlabelled", (0, 0, 0)),
    (1, "impervious surface", (255, 255, 255)),
    (2, "building", (0, 0, 255)),
    (3, "low vegetation", (0, 255, 255)),
    (4, "tree", (0, 255, 0)),
    (5, "car", (255, 255, 0)),
    (255, "clutter", (255, 0, 0)),
)
"""Dataset id, name and colour. No pixel is ever 0; 255 (pools, ponds, heaps) is ignored in training."""

DOMAINS: tuple[Domain, ...] = ("rgb", "irrg")
SPLITS = ("train", "val")
SIZES = range(32, 1025)
_ID = re.compile(r"(rgb|irrg)-(train|val)-(\d{4,})")


def tile(seed: int, domain: Domain, size: int = 256) -> tuple[Image, Mask]:
    """Image uint8 [size, size, 3] and mask uint8 [size, size] of one scene.

    The same arguments give the same bytes. `size` sets how much ground is seen, not its scale: 1 pixel is
    about 0.2 m.

    Raises:
        ValueError: for an unknown domain, or a size outside 32..1024.
    """
    _check(domain, size)
    return render(plan(seed, domain, size), domain, Random(f"camera/{seed}/{domain}"))


def sun(seed: int, domain: Domain, size: int = 256) -> Sun:
    """The sun over a tile; `sun(...).towards` points to it in the image, every shadow the other way."""
    _check(domain, size)
    return plan(seed, domain, size).sun


def _check(domain: str, size: int) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"Unknown domain {domain!r}; choose one of {', '.join(DOMAINS)}.")
    if size not in SIZES:
        raise ValueError(f"A tile of {size!r} pixels cannot be made; choose an integer from {SIZES[0]} to {SIZES[-1]}.")


@lru_cache(maxsize=64)
def _recent(seed: int, domain: Domain, size: int) -> tuple[Image, Mask]:
    return tile(seed, domain, size)


class AerialDataset:
    """A fixed set of tiles of both domains; an id such as "rgb-train-0007" names domain, split and index.

    The latest tiles are kept in memory, the others are made again when needed.
    """

    classes = CLASSES
    background = None

    def __init__(self, train_per_domain: int = 300, val_per_domain: int = 60, size: int = 256, seed: int = 0):
        for name, count in (("train_per_domain", train_per_domain), ("val_per_domain", val_per_domain)):
            if count < 0:
                raise ValueError(f"{name} is {count}; it must be 0 or more.")
        _check(DOMAINS[0], size)
        self.counts = {"train": train_per_domain, "val": val_per_domain}
        self.size, self.seed = size, seed

    def ids(self, split: str) -> list[str]:
        """All ids of "train" or "val", first those of `rgb`."""
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
        return [f"{domain}-{split}-{i:04d}" for domain in DOMAINS for i in range(self.counts[split])]

    def image(self, id: str) -> Image:
        """uint8 [size, size, 3]; the caller may write to it."""
        return self._tile(id)[0].copy()

    def mask(self, id: str) -> Mask:
        """uint8 [size, size] of the ids in ``CLASSES``; the caller may write to it."""
        return self._tile(id)[1].copy()

    def domain(self, id: str) -> Domain:
        return self._parse(id)[0]

    def tile_seed(self, id: str) -> int:
        """Seed of a tile: differs for every dataset seed, domain, split and index."""
        digest = hashlib.blake2b(f"{self.seed}/{'/'.join(map(str, self._parse(id)))}".encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "big")

    def _tile(self, id: str) -> tuple[Image, Mask]:
        return _recent(self.tile_seed(id), self.domain(id), self.size)

    def _parse(self, id: str) -> tuple[Domain, str, int]:
        match = _ID.fullmatch(id) if isinstance(id, str) else None
        if match is None:
            raise ValueError(f"{id!r} is not the id of an aerial tile; one looks like 'rgb-train-0007'.")
        domain: Domain = "rgb" if match[1] == "rgb" else "irrg"
        split, index = match[2], int(match[3])
        if id != f"{domain}-{split}-{index:04d}" or index >= self.counts[split]:
            count = self.counts[split]
            raise ValueError(
                f"There is no tile {id!r}; {domain}-{split} has {counted(count, 'tile')}, counted from 0000."
            )
        return domain, split, index
