"""The literature's augmentation: random scale, random crop at full resolution, mirrored or not.

Tensors from the decoded picture on, by torchvision's transforms v2. The draws come from a generator that is handed in,
so that a view depends on nothing else. Source: docs/method.md#tasks (scale 0.5 to 2.0, crop with padding, flip).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from lag_core.data.transforms import PADDING
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
    picture = torch.from_numpy(image).permute(2, 0, 1)
    labels = torch.from_numpy(mask)[None]
    cut = _crop(transforms.resize(picture, [one.height, one.width], antialias=True), one, size)
    known = _crop(
        transforms.resize(labels, [one.height, one.width], interpolation=InterpolationMode.NEAREST_EXACT), one, size
    )
    canvas = torch.from_numpy(PADDING.copy()).view(3, 1, 1).repeat(1, size, size)
    canvas[:, : cut.shape[1], : cut.shape[2]] = cut
    ignored = torch.full((size, size), IGNORE, dtype=torch.uint8)
    ignored[: known.shape[1], : known.shape[2]] = known[0]
    if one.mirrored:
        canvas, ignored = transforms.hflip(canvas), transforms.hflip(ignored)
    return canvas.permute(1, 2, 0).contiguous().numpy(), ignored.contiguous().numpy()


def _crop(scaled: Tensor, one: Draw, size: int) -> Tensor:
    """The part of a scaled map that a view shows, at most size x size."""
    return scaled[:, one.top : one.top + size, one.left : one.left + size]
