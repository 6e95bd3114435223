"""Predicting pictures larger than the network's square at their own resolution: windows that overlap, band by band.

Where windows overlap, class probabilities are averaged with weights that fall towards a window's border, where it sees
least context. Only one band of windows is kept, and only the rows under it are read: memory grows with a picture's
width and the number of classes, not with its height. Source: the field's sliding-window inference; the weights
and the bands are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lag_core.data.pictures import Readable
from lag_core.data.transforms import PADDING, to_input
from lag_core.data.windows import starts
from lag_core.model.prediction import class_probabilities, highest
from lag_core.model.segmenter import upsample
from lag_core.protocol import LabelSpace

BATCH = 8
"""Windows that pass through the network at once."""

Logits = Callable[[Tensor], Tensor]
"""Normalised pictures float32 [n, 3, S, S] -> logits [n, channels, h, w]."""


class Decided(NamedTuple):
    """The joint prediction of the windows for some rows."""

    labels: np.ndarray
    """Class indices, uint8 [H, W]."""
    certainty: np.ndarray
    """Probability of that class, float32 [H, W]."""


@torch.no_grad()
def predict_bands(
    picture: Readable, logits: Logits, labels: LabelSpace, loss: str, size: int, overlap: float = 0.5
) -> Iterator[tuple[slice, Decided]]:
    """Label map of a picture of any size, some rows at a time: (rows, their prediction), from top to bottom
    without a gap.

    ValueError for an overlap outside [0, 0.9].
    """
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"windows may overlap by 0 to 0.9 of their side, not {overlap:g}")
    height, width = picture.size
    tops, lefts = starts(height, size, overlap), starts(width, size, overlap)
    band = weight = torch.empty(0)
    taper = _taper(size)
    for place, top in enumerate(tops):
        rows = picture.read((slice(top, min(top + size, height)), slice(0, width)))
        fresh, own = _band(_at_least(rows, size), lefts, logits, labels, loss, size, taper)
        if place:
            kept = tops[place - 1] + size - top
            fresh[:, :kept] += band[:, size - kept :]
            own[:kept] += weight[size - kept :]
        band, weight = fresh, own
        end = tops[place + 1] if place + 1 < len(tops) else height
        yield slice(top, end), _decided(band[:, : end - top, :width], weight[: end - top, :width])


def _band(
    rows: np.ndarray, lefts: Sequence[int], logits: Logits, labels: LabelSpace, loss: str, size: int, taper: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of weighted probabilities over one row of windows, and of the weights. Shape: [K, S, W], [S, W]."""
    total = torch.empty(0)
    weight = torch.zeros(size, rows.shape[1])
    for group in _groups(lefts):
        inputs = torch.from_numpy(to_input(np.stack([rows[:, left : left + size] for left in group])))
        scores = class_probabilities(upsample(logits(inputs), (size, size)), labels, loss).float().cpu()
        if total.numel() == 0:
            total = torch.zeros(scores.shape[1], size, rows.shape[1])
        for left, one in zip(group, scores, strict=True):
            total[:, :, left : left + size] += one * taper
            weight[:, left : left + size] += taper
    return total, weight


def _groups(lefts: Sequence[int]) -> Iterator[Sequence[int]]:
    return (lefts[i : i + BATCH] for i in range(0, len(lefts), BATCH))


def _decided(band: Tensor, weight: Tensor) -> Decided:
    return Decided(highest(band[None])[0].numpy(), (band.amax(0) / weight).numpy())


def _taper(size: int) -> Tensor:
    """Weights that fall linearly from a window's middle to its border, never to 0. Shape: [S, S]."""
    side = torch.arange(1, size + 1)
    ramp = torch.minimum(side, side.flip(0)).float()
    ramp = ramp / ramp.max()
    return ramp[:, None] * ramp[None]


def _at_least(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows, padded at the bottom and on the right to the square's side where they are smaller."""
    height, width = rows.shape[:2]
    if height >= size and width >= size:
        return rows
    canvas = np.broadcast_to(PADDING, (max(height, size), max(width, size), 3)).copy()
    canvas[:height, :width] = rows
    return canvas
