"""Maps pictures to the network's square and back, and augments them. Pure: NumPy in, NumPy out."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lag_core.protocol import IGNORE

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
"""ImageNet's, of RGB in [0, 1], as used to train torchvision's weights."""

PADDING = np.round(MEAN * 255).astype(np.uint8)
"""Colour of padding: about 0 after normalisation."""

Size = tuple[int, int]
"""(height, width)."""


def content_size(height: int, width: int, size: int) -> Size:
    """(h, w) that a picture takes in a square of side `size`: scaled down if its long side is longer, never
    up."""
    return _scaled(height, width, min(1.0, size / max(height, width)))


def fit(image: np.ndarray, size: int) -> tuple[np.ndarray, Size]:
    """A picture in a square: scaled down if longer, padded at the bottom and on the right.

    Shape: uint8 [H, W, 3] -> uint8 [size, size, 3], (h, w) of its content.
    """
    content = content_size(image.shape[0], image.shape[1], size)
    canvas = np.broadcast_to(PADDING, (size, size, 3)).copy()
    canvas[: content[0], : content[1]] = resize_image(image, content)
    return canvas, content


def fit_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask of a picture that `fit` has scaled; padding is 255. Shape: uint8 [H, W] -> uint8 [size,
    size]."""
    content = content_size(mask.shape[0], mask.shape[1], size)
    canvas = np.full((size, size), IGNORE, np.uint8)
    canvas[: content[0], : content[1]] = resize_labels(mask, content)
    return canvas


def small_mask(mask: np.ndarray, stride: int) -> np.ndarray:
    """Every `stride`-th pixel. Shape: uint8 [S, S] -> uint8 [s, s]."""
    return mask[stride // 2 :: stride, stride // 2 :: stride]


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """The centre of a picture whose shorter side is scaled to `size`. Shape: uint8 [H, W, 3] -> uint8 [size, size, 3].

    Source: the validation of SSUL, MiB and their successors (torchvision's Resize and CenterCrop).
    """
    scaled = resize_image(image, _covering(image.shape[0], image.shape[1], size))
    return np.ascontiguousarray(scaled[_centre(scaled, size)])


def centre_square_of_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask of the area that `centre_square` keeps. Shape: uint8 [H, W] -> uint8 [size, size]."""
    scaled = resize_labels(mask, _covering(mask.shape[0], mask.shape[1], size))
    return np.ascontiguousarray(scaled[_centre(scaled, size)])


def _covering(height: int, width: int, size: int) -> Size:
    """(h, w) with the shorter side `size`."""
    short = min(height, width)
    return size * height // short, size * width // short


def _centre(scaled: np.ndarray, size: int) -> tuple[slice, slice]:
    top, left = (round((length - size) / 2) for length in scaled.shape[:2])
    return slice(top, top + size), slice(left, left + size)


def unfit_scores(scores: np.ndarray, content: Size, original: Size) -> np.ndarray:
    """Scores of the square, back at the picture's own size, bilinear.

    Shape: float [K, size, size] -> float32 [K, H, W].
    """
    cut = scores[:, : content[0], : content[1]].astype(np.float32)
    if content == original:
        return cut
    maps = [Image.fromarray(one).resize(original[::-1], Image.Resampling.BILINEAR) for one in cut]
    return np.stack([np.asarray(one) for one in maps]) if maps else np.empty((0, *original), np.float32)


def to_input(image: np.ndarray) -> np.ndarray:
    """The network's input. Shape: uint8 [..., H, W, 3] -> float32 [..., 3, H, W], normalised by ImageNet's
    values."""
    scaled = (image.astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float] = (0.75, 1.5),
) -> tuple[np.ndarray, np.ndarray]:
    """A random view: scaled by `scale` around the size that `fit` gives, cropped or padded at random, flipped
    or not.

    Shape: uint8 [H, W, 3], uint8 [H, W] -> uint8 [size, size, 3], uint8 [size, size]; padding is 255 in the
    mask.
    """
    height, width = mask.shape
    factor = min(1.0, size / max(height, width)) * rng.uniform(*scale)
    scaled = _scaled(height, width, factor)
    places = [_window(length, size, rng) for length in scaled]
    flip = -1 if rng.random() < 0.5 else 1
    view = np.broadcast_to(PADDING, (size, size, 3)).copy()
    labels = np.full((size, size), IGNORE, np.uint8)
    (to_y, from_y), (to_x, from_x) = places
    view[to_y, to_x] = resize_image(image, scaled)[from_y, from_x]
    labels[to_y, to_x] = resize_labels(mask, scaled)[from_y, from_x]
    return np.ascontiguousarray(view[:, ::flip]), np.ascontiguousarray(labels[:, ::flip])


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear, antialiased when it shrinks. Shape: uint8 [H, W, 3] -> uint8 [h, w, 3]."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Nearest: label of the pixel under each new pixel's centre. Shape: [H, W] -> [h, w]."""
    if labels.shape == size:
        return labels
    rows, columns = (nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[np.ix_(rows, columns)]


def nearest(old: int, new: int) -> np.ndarray:
    """Which of `old` pixels lies under the centre of each of `new` ones. Shape: -> int64 [new]."""
    # Integers: (i + 1/2) * old / new, rounded down, without rounding errors at the borders of pixels.
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


def _scaled(height: int, width: int, factor: float) -> Size:
    return max(1, round(height * factor)), max(1, round(width * factor))


def _window(length: int, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """(where in the square, where from in the picture) along one axis: a random crop, or a random place."""
    room = abs(length - size)
    start = int(rng.integers(room + 1))
    if length > size:
        return slice(0, size), slice(start, start + size)
    return slice(start, start + length), slice(0, length)
