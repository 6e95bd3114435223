"""Deletion and insertion: does the score fall when what a map calls important is taken away?

Pixels are taken in the order of a map, the largest value first. *Deletion* replaces them by a blurred copy of the
picture, *insertion* puts them back into the blurred copy. After each FRACTION the class's mean probability over its
true pixels is measured; the area under the curve (trapezoids, 0..1) is the number. Deletion should be low, insertion
high; a random order says how low and high anything would be. Source: Petsiuk et al. 2018 (1806.07421); baseline and
score for a segmentation: ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIGMA = 1 / 24
"""Standard deviation of the blur, as a share of the square's side: 10 pixels at 240."""
FRACTIONS = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1])
"""Shares of the picture's pixels after which the score is measured."""

ScoreOf = Callable[[Tensor], np.ndarray]
"""Images [B, 3, S, S] -> float [B]."""


def blurred(image: Tensor, sigma: float = SIGMA) -> Tensor:
    """The picture without what is smaller than some pixels. Shape: [1, 3, S, S] -> same."""
    width = sigma * image.shape[-1]
    reach = int(np.ceil(3 * width))
    places = torch.arange(-reach, reach + 1, dtype=image.dtype)
    kernel = (-(places**2) / (2 * width**2)).exp()
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (reach,) * 4, "reflect")
    rows = F.conv2d(padded, kernel[:, :, None], groups=image.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=image.shape[1])


def order_of(values: np.ndarray) -> np.ndarray:
    """Places by value, largest first, equal ones in order. Shape: [h, w] -> int64 [h * w]."""
    return np.argsort(-values.ravel(), kind="stable")


def mixed(upper: Tensor, lower: Tensor, order: np.ndarray, counts: np.ndarray, inside: tuple[int, int]) -> Tensor:
    """`lower` with the first n pixels of `order` taken from `upper`, for each n of `counts`.

    Shape: [1, 3, S, S] twice, order int64 [h * w] of the picture's pixels -> [len(counts), 3, S, S].
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    taken = torch.zeros(len(counts), 1, *upper.shape[-2:], dtype=torch.bool)
    first = torch.from_numpy(rank[None] < counts[:, None])
    taken[:, 0, : inside[0], : inside[1]] = first.view(-1, *inside)
    return torch.where(taken, upper, lower)


def area(fractions: np.ndarray, scores: np.ndarray) -> float:
    """Area under a curve by trapezoids."""
    return float(((scores[1:] + scores[:-1]) / 2 * np.diff(fractions)).sum())


@dataclass(frozen=True)
class Perturbed:
    """A picture and its blurred copy, with their scores, for any number of orders.

    Shape: image and baseline [1, 3, S, S]; `inside` (h, w) of the picture in the square.
    """

    score_of: ScoreOf
    image: Tensor
    baseline: Tensor
    inside: tuple[int, int]

    @cached_property
    def ends(self) -> np.ndarray:
        """Scores of the picture and of the baseline, float [2]."""
        return self.score_of(torch.cat([self.image, self.baseline]))

    def areas(self, order: np.ndarray) -> tuple[float, float]:
        """Areas of deletion and insertion for an order of the picture's pixels, int64 [h * w]."""
        counts = np.round(FRACTIONS[1:-1] * len(order)).astype(np.int64)
        whole, nothing = self.ends
        left = self.score_of(mixed(self.baseline, self.image, order, counts, self.inside))
        back = self.score_of(mixed(self.image, self.baseline, order, counts, self.inside))
        deletion, insertion = np.r_[whole, left, nothing], np.r_[nothing, back, whole]
        return area(FRACTIONS, deletion), area(FRACTIONS, insertion)
