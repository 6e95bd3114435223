"""Maps as pictures: classes over a photo, the fate of each pixel, strength and sign of a map. NumPy and Pillow."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lag_core.data.undecided import UNDECIDED
from lag_core.explain.forgetting import Fate
from lag_core.protocol import IGNORE, ClassInfo

Color = tuple[int, int, int]

FATES: dict[Fate, Color] = {
    Fate.KEPT: (0x00, 0x72, 0xB2),
    Fate.LEARNED: (0x56, 0xB4, 0xE9),
    Fate.FORGOTTEN: (0xD5, 0x5E, 0x00),
    Fate.RECOVERED: (0xF0, 0xE4, 0x42),
    Fate.NEVER: (0x99, 0x99, 0x99),
}
"""Okabe and Ito's palette; pixels in no such state are left as they are."""

STRENGTH: tuple[Color, ...] = ((0x20, 0x26, 0x2B), (0x1F, 0x58, 0x72), (0x5A, 0x9D, 0xBB), (0xDC, 0xEF, 0xF6))
"""Nothing to much, growing in lightness."""
SIGNED: tuple[Color, ...] = (
    (0x8C, 0x3B, 0x00), (0xD8, 0x80, 0x3A), (0xF4, 0xF2, 0xEE), (0x3E, 0x86, 0xB5), (0x0B, 0x4A, 0x7A),
)  # fmt: skip
"""Against (orange), nothing, for (blue)."""

CLIP = 0.99
"""Quantile of a map's values that gets the end of its scale: single extreme cells do not hide the rest."""

ROWS = 256
"""Rows of a picture that are mixed at once."""


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[ClassInfo],
    opacity: float = 0.55,
    decided: np.ndarray | None = None,
    clear: int | None = None,
) -> np.ndarray:
    """Class colours over a photo; 255 and the class `clear` (the background) stay bare, pixels that are not `decided`
    (bool [H, W]) are grey.

    Shape: uint8 [H, W, 3], class indices [H, W] -> uint8 [H, W, 3].
    """
    table = np.zeros((256, 3), np.float32)
    table[: len(classes)] = [one.color for one in classes]
    colors = table[labels]
    if decided is not None:
        colors[~decided] = UNDECIDED
    bare = labels == IGNORE
    if clear is not None:
        bare |= (labels == clear) if decided is None else (labels == clear) & decided
    return _mixed(image, colors, np.where(bare, 0.0, opacity))


def fates(image: np.ndarray, states: np.ndarray, opacity: float = 0.7) -> np.ndarray:
    """The fate of each pixel over a grey photo. Shape: uint8 [H, W, 3], Fate values [H, W] -> uint8 [H, W, 3]."""
    table, shares = np.zeros((256, 3), np.float32), np.zeros(256)
    for fate, color in FATES.items():
        table[fate], shares[fate] = color, opacity
    grey = np.broadcast_to(image.mean(2, keepdims=True), image.shape)
    return _mixed(grey, table[states], shares[states])


def _mixed(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    mixed = np.empty(above.shape, np.uint8)
    for top in range(0, len(mixed), ROWS):  # as many rows at a time as keep a large photograph's memory small
        rows = slice(top, top + ROWS)
        part = share[rows, :, None].astype(np.float32)
        mixed[rows] = np.rint((1 - part) * below[rows] + part * above[rows])
    return mixed


def strength(values: np.ndarray, high: float | None = None) -> np.ndarray:
    """A map from 0 to `high` (its own clipped maximum). Shape: float [H, W] -> uint8 [H, W, 3]."""
    top = scale_end(values) if high is None else high
    return _ramp(values / top if top > 0 else np.zeros_like(values), STRENGTH)


def signed(values: np.ndarray, high: float | None = None) -> np.ndarray:
    """A map from -`high` to `high`, 0 near white. Shape: float [H, W] -> uint8 [H, W, 3]."""
    top = scale_end(np.abs(values)) if high is None else high
    return _ramp(values / (2 * top) + 0.5 if top > 0 else np.full_like(values, 0.5), SIGNED)


def scale_end(values: np.ndarray) -> float:
    """The CLIP quantile of a map, or its maximum where that is 0."""
    return float(np.quantile(values, CLIP)) or float(values.max())


def _ramp(places: np.ndarray, ramp: Sequence[Color]) -> np.ndarray:
    """Colours of places 0..1 on a ramp, linear between its stops; NaN is the ramp's begin."""
    at = np.nan_to_num(np.clip(places, 0, 1)) * (len(ramp) - 1)
    stops = np.arange(len(ramp))
    colors = np.asarray(ramp, np.float64)
    channels = [np.rint(np.interp(at, stops, colors[:, c])).astype(np.uint8) for c in range(3)]
    return np.stack(channels, -1)


def png(pixels: np.ndarray) -> bytes:
    """A picture as a PNG file. Shape: uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(pixels: np.ndarray, longest: int = 640) -> str:
    """A picture inside a page: JPEG, no side longer than `longest`. Shape: uint8 [H, W, 3]."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
