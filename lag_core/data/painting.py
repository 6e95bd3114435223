"""Label maps as pictures that people and other programs open: palette PNGs of ids, and overlays."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lag_core.data.undecided import UNDECIDED
from lag_core.protocol import IGNORE, ClassInfo


def color_table(classes: Sequence[ClassInfo]) -> np.ndarray:
    """Colour of each dataset id, black where there is no class. Shape: -> uint8 [256, 3]."""
    table = np.zeros((256, 3), np.uint8)
    for one in classes:
        table[one.id] = one.color
    return table


def overlay_png(
    image: np.ndarray,
    ids: np.ndarray,
    classes: Sequence[ClassInfo],
    opacity: float,
    decided: np.ndarray | None = None,
) -> bytes:
    """`overlay` as a file's content."""
    return _png(Image.fromarray(overlay(image, ids, classes, opacity, decided)))


def overlay(
    image: np.ndarray,
    ids: np.ndarray,
    classes: Sequence[ClassInfo],
    opacity: float,
    decided: np.ndarray | None = None,
) -> np.ndarray:
    """The picture with each pixel's class colour laid over it; pixels without a class (255) stay as they are.

    Pixels that are not `decided` (model.prediction.stands_out) are grey.
    Shape: uint8 [H, W, 3], uint8 [H, W] dataset ids, opacity 0..1, bool [H, W] -> uint8 [H, W, 3].
    """
    share = np.where(ids == IGNORE, 0.0, opacity)[..., None].astype(np.float32)
    colors = color_table(classes)[ids]
    if decided is not None:
        colors[~decided] = UNDECIDED
    mixed = (1 - share) * image + share * colors
    return np.round(mixed).astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
