"""The literature's augmentation: random scale, random crop at full resolution, mirrored or not.

Only what the crop shows is scaled: the scaled picture as a whole is never made (docs/adr/0008-the-input-pipeline.md).
The random draws come from a given generator, so a view depends on nothing else. Source: docs/method.md#tasks
(scale 0.5 to 2.0, crop with padding, flip).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lag_core.data.transforms import PADDING, nearest
from lag_core.protocol import IGNORE


@dataclass(frozen=True)
class Draw:
    """One random view."""

    height: int
    """Of the scaled picture."""
    width: int
    top: int
    """First row of the crop."""
    left: int
    mirrored: bool


def draw(height: int, width: int, size: int, scales: tuple[float, float], rng: np.random.Generator) -> Draw:
    """A view of a picture of height x width; scales are uniform, places too."""
    scale = rng.uniform(*scales)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (int(rng.integers(max(0, length - size) + 1)) for length in (h, w))
    return Draw(h, w, top, left, bool(rng.random() < 0.5))


def view(image: np.ndarray, mask: np.ndarray, size: int, one: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Cut a view out of picture and mask. What lies outside is padded at the bottom and on the right, 255 in the mask.

    Shape: uint8 [H, W, 3], uint8 [H, W] -> uint8 [size, size, 3], uint8 [size, size].
    """
    height, width = min(size, one.height - one.top), min(size, one.width - one.left)
    place = slice(height), slice(size - width, size) if one.mirrored else slice(width)
    picture = _scaled_crop(image, one, height, width)
    rows = nearest(mask.shape[0], one.height)[one.top : one.top + height]
    columns = nearest(mask.shape[1], one.width)[one.left : one.left + width]
    labels = np.ascontiguousarray(mask[rows][:, columns[::-1] if one.mirrored else columns])
    if (height, width) == (size, size):
        return picture, labels
    canvas = np.broadcast_to(PADDING, (size, size, 3)).copy()
    ignored = np.full((size, size), IGNORE, np.uint8)
    canvas[place], ignored[place] = picture, labels
    return canvas, ignored


def _scaled_crop(image: np.ndarray, one: Draw, height: int, width: int) -> np.ndarray:
    """The part of the scaled picture that a view shows, mirrored if the view is: bilinear, antialiased if it shrinks.
    Pixels around the part contribute at its borders. Shape: uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    down, across = image.shape[0] / one.height, image.shape[1] / one.width
    bottom, right = (one.top + height) * down, (one.left + width) * across
    box = one.left * across, one.top * down, min(right, image.shape[1]), min(bottom, image.shape[0])
    part = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.array(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if one.mirrored else part)
