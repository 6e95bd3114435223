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

LEAST_PIXELS = 1000
"""Of an old class in the step's own images, for statistics of its own domain. A latent map of 64 x 64 has 4096."""
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

    `statistics` holds each class's pixels with full covariances, the current step's rows among them. `present`, if any,
    holds those of the old classes in this step's images, by the teacher's labels; an old class with at least
    LEAST_PIXELS there uses its statistics in this step's domain.
    """

    def __init__(
        self, statistics: ClassStatistics, space: LabelSpace, step: int, present: ClassStatistics | None = None
    ):
        self.statistics, self.present = statistics, present
        self.new = list(space.new_channels(step))
        self._maps: dict[tuple[int, int], AffineMap] = {}

    @torch.no_grad()
    def carry(
        self, features: Tensor, labels: Tensor, classes: Sequence[int], n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`n` maps for each of `classes`: an image drawn from the batch, its new objects carried over to the class.

        Other pixels stay as they are, with their labels. A batch without a new class gives no map.

        Shape: features [B, C, h, w], labels int64 [B, h, w] -> float32 [N, C, h, w], int64 [N, h, w].
        """
        new = torch.tensor(self.new, device=labels.device)
        usable = torch.isin(labels, new).flatten(1).any(1).nonzero()[:, 0]
        wanted = [k for k in classes if self.statistics.count[k] > 0]
        if len(usable) == 0 or not wanted:
            return features[:0].float(), labels[:0]
        drawn = usable[torch.randint(len(usable), (len(wanted) * n,), generator=generator).to(usable.device)]
        made = [self._one(features[i].float(), labels[i], wanted[j // n]) for j, i in enumerate(drawn.tolist())]
        return torch.stack([x for x, _ in made]), torch.stack([y for _, y in made])

    def _one(self, features: Tensor, labels: Tensor, to: int) -> tuple[Tensor, Tensor]:
        """One image carried over to class `to`. Shape: [C, h, w], [h, w] -> same."""
        carried, named = features.clone(), labels.clone()
        for source in self.new:
            here = labels == source
            if here.any():
                matrix, shift = self._map(source, to)
                carried[:, here] = matrix.to(features) @ features[:, here] + shift.to(features)[:, None]
                named[here] = to
        return carried, named

    def _map(self, source: int, to: int) -> AffineMap:
        if (source, to) not in self._maps:
            of_goal = self._goal(to)
            moments = (self.statistics.mean[source], self.statistics.covariance()[source])
            self._maps[source, to] = gaussian_transport(*moments, of_goal.mean[to], of_goal.covariance()[to])
        return self._maps[source, to]

    def _goal(self, to: int) -> ClassStatistics:
        """The source of old class `to`'s statistics."""
        here = self.present
        return here if here is not None and here.count[to] >= LEAST_PIXELS else self.statistics
