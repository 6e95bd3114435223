"""Pictures with 16 bits per channel: read without loss, scaled to 8 bits by one stated range for a whole dataset.

Each value v becomes 255 (v - low) / (high - low), rounded, with 0 below and 255 above the range. The range is
`data.range`; where that is empty, it is taken from the training images (`range_of`) and stored in the run. Ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

Range = tuple[float, float]
"""(low, high): the values that become 0 and 255."""

LOW, HIGH = 0.5, 99.5
"""Percentiles of all values of the training images that `range_of` takes."""

READ = 200
"""Training images that the range is taken from, spread over the list."""

_OTHER_BYTE = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Pillow keeps one byte of each 16-bit value; which one depends on the byte order that it assumes."""

_PLAIN = ("I;16", "RGB;16", "RGBX;16", "RGBA;16")
"""Raw modes whose two bytes can be read separately."""


def can_be_read(image: Image.Image) -> bool:
    """Whether `values` can read this opened picture of 16 bits a channel."""
    return all(_raw_mode(tile.args).startswith(_PLAIN) for tile in image.tile)  # type: ignore[attr-defined]


def values(image: Image.Image, again: Image.Image) -> np.ndarray:
    """All 16 bits of a picture, upright. `image` and `again` are the same file, opened twice and not yet loaded.

    Shape: -> uint16 [H, W, 3]; grey is repeated, other channels are left out.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
        return np.repeat(grey[..., None], 3, -1)
    again.tile = [tile._replace(args=_swapped(tile.args)) for tile in again.tile]  # type: ignore[attr-defined]
    high, low = (np.asarray(ImageOps.exif_transpose(one), np.uint16)[..., :3] for one in (image, again))
    return high << 8 | low


def _raw_mode(arguments: str | tuple[object, ...]) -> str:
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _swapped(arguments: str | tuple[object, ...]) -> str | tuple[object, ...]:
    """A tile's arguments with the other byte of each value chosen."""
    raw = _raw_mode(arguments)
    other = raw[:-3] + _OTHER_BYTE[raw[-3:]]
    return other if isinstance(arguments, str) else (other, *arguments[1:])


def scaled(pixels: np.ndarray, by: Range) -> np.ndarray:
    """Values scaled to 8 bits. Shape: uint16 [...] -> uint8 [...]."""
    low, high = by
    table = np.clip((np.arange(65_536) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    return table[pixels]


def range_of(pictures: Iterable[np.ndarray]) -> Range:
    """The range of a dataset: percentiles LOW and HIGH of all values. Shape: uint16 [H, W, 3] each."""
    counts = np.zeros(65_536, np.int64)
    for pixels in pictures:
        counts += np.bincount(pixels.ravel(), minlength=65_536)
    below = counts.cumsum() / max(int(counts.sum()), 1)
    low, high = (int(np.searchsorted(below, share / 100)) for share in (LOW, HIGH))
    return float(low), float(max(high, low + 1))
