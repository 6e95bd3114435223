"""From the latent grid to the picture. NumPy and Pillow alone.

The latent map covers the network's square, of which the picture fills the upper left part
(data.transforms.fit).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from lag_core.data.transforms import Size, unfit_scores


def covered(grid: Size, square: int, inside: Size) -> Size:
    """Rows and columns of a latent grid whose cells touch the picture; the rest lies in the padding.

    `grid` is (h, w) of the latent map, `inside` the picture's (height, width) in the square of side `square`.
    """
    return math.ceil(inside[0] * grid[0] / square), math.ceil(inside[1] * grid[1] / square)


def on_image(maps: np.ndarray, square: int, inside: Size, size: Size) -> np.ndarray:
    """Latent maps over the picture, bilinear, as the logits are (model.prediction.full_size).

    Shape: float [n, h, w] -> float32 [n, H, W] with (H, W) = `size`.
    """
    if not len(maps):
        return np.empty((0, *size), np.float32)
    spread = [_resized(one, (square, square)) for one in maps.astype(np.float32)]
    return unfit_scores(np.stack(spread), inside, size)


def _resized(values: np.ndarray, size: Size) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR))
