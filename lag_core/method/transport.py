"""Carrying features of one class over to another: the optimal transport between their Gaussians. Ours.

An object of a new class becomes, pixel by pixel, one of an old class: its mean and covariance are the old class's,
while shape, borders and the way in which neighbouring pixels vary together stay those of a real object. Source of the
map: Olkin and Pukelsheim 1982, the linear map between two normal distributions that moves the least mass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lag_core.method.replay import ClassStatistics
from lag_core.protocol import LabelSpace

RIDGE = 1e-2
"""Added to each variance, as a share of their mean: a class with few pixels has a singular covariance."""


class AffineMap(NamedTuple):
    """x -> matrix x + shift. matrix float32 [C, C], shift float32 [C]."""

    matrix: Tensor
    shift: Tensor


def gaussian_transport(mean: Tensor, covariance: Tensor, to_mean: Tensor, to_covariance: Tensor) -> AffineMap:
    """The optimal transport from N(mean, covariance) to N(to_mean, to_covariance).

    A = S^(-1/2) (S^(1/2) T S^(1/2))^(1/2) S^(-1/2), with S and T the two covariances.

    Shape: float64 [C], [C, C], [C], [C, C] -> `AffineMap`.
    """
    root = matrix_power(with_ridge(covariance), 0.5)
    inverse = matrix_power(with_ridge(covariance), -0.5)
    middle = matrix_power(root @ with_ridge(to_covariance) @ root, 0.5)
    matrix = inverse @ middle @ inverse
    return AffineMap(matrix.float(), (to_mean - matrix @ mean).float())


def with_ridge(covariance: Tensor) -> Tensor:
    """A covariance with `RIDGE` of its mean variance on the diagonal. Shape: [C, C] -> same."""
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)


def matrix_power(symmetric: Tensor, power: float) -> Tensor:
    """Power of a positive definite matrix. Shape: float64 [C, C] -> same."""
    values, vectors = torch.linalg.eigh(symmetric)
    smallest = torch.finfo(values.dtype).eps * values[-1].clamp(min=1e-30)
    return (vectors * values.clamp(min=smallest) ** power) @ vectors.T


class Carrier:
    """Makes maps of old classes out of a step's own images.

    `objects` holds each class's pixels, `surroundings` (row by row of the same classes) the unlabelled pixels of the
    images that show it; both with full covariances, the current step's rows among them.
    """

    def __init__(self, objects: ClassStatistics, surroundings: ClassStatistics, space: LabelSpace, step: int):
        self.objects, self.surroundings = objects, surroundings
        self.new = list(space.new_channels(step))
        self.first_foreground = space.first_foreground
        self._maps: dict[tuple[bool, int, int], AffineMap] = {}

    @torch.no_grad()
    def carry(
        self, features: Tensor, labels: Tensor, classes: Sequence[int], n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`n` maps for each of `classes`: an image drawn from the batch, its new objects carried over to the class.

        The unlabelled pixels are carried from the surroundings of the image's new class to those of the old one. Other
        pixels stay. A batch without a new class gives no map.

        Shape: features [B, C, h, w], labels int64 [B, h, w] -> float32 [N, C, h, w], int64 [N, h, w].
        """
        usable = self._is_new(labels).flatten(1).any(1).nonzero()[:, 0]
        wanted = [k for k in classes if self.objects.count[k] > 0 and self.surroundings.count[k] > 0]
        if len(usable) == 0 or not wanted:
            return features[:0].float(), labels[:0]
        drawn = usable[torch.randint(len(usable), (len(wanted) * n,), generator=generator).to(usable.device)]
        made = [self._one(features[i].float(), labels[i], wanted[j // n]) for j, i in enumerate(drawn.tolist())]
        return torch.stack([x for x, _ in made]), torch.stack([y for _, y in made])

    def _one(self, features: Tensor, labels: Tensor, to: int) -> tuple[Tensor, Tensor]:
        """One image carried over to class `to`. Shape: [C, h, w], [h, w] -> same."""
        pixels, carried = features.flatten(1), features.flatten(1).clone()
        flat, named = labels.flatten(), labels.flatten().clone()
        shown = [k for k in self.new if (flat == k).any()]
        for k in shown:
            here = flat == k
            carried[:, here] = self._apply(False, k, to, pixels[:, here])
            named[here] = to
        main = max(shown, key=lambda k: int((flat == k).sum()))
        here = flat < self.first_foreground
        carried[:, here] = self._apply(True, main, to, pixels[:, here])
        return carried.view_as(features), named.view_as(labels)

    def _apply(self, around: bool, source: int, to: int, pixels: Tensor) -> Tensor:
        """Pixels [C, n] of `source`, or of its surroundings, as those of `to`."""
        key = around, source, to
        if key not in self._maps:
            known = self.surroundings if around else self.objects
            mean, covariance = known.mean, known.covariance()
            self._maps[key] = gaussian_transport(mean[source], covariance[source], mean[to], covariance[to])
        matrix, shift = self._maps[key]
        return matrix.to(pixels) @ pixels + shift.to(pixels)[:, None]

    def _is_new(self, labels: Tensor) -> Tensor:
        return torch.isin(labels, torch.tensor(self.new, device=labels.device))
