"""Semantic-prototype matching (SPM): class means of Z's invariant channels keep place and distance.

The paper gives two forces, aggregation towards a class's own prototype and separation from those of other
classes and of the unknown (docs/method.md#certain, facts 4 and 7); the formulas are our reconstruction
(docs/method.md#spm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core import processes
from lag_core.method.precision import full_precision
from lag_core.method.regions import membership, on_device, region_sums

MIN_PIXELS = 4
"""Fewest latent pixels of a class that give a batch prototype. Source: docs/method.md#spm."""


class SemanticInvariance(NamedTuple):
    """The two forces of SPM, not yet weighed; both 0 where no class takes part."""

    aggregation: Tensor
    separation: Tensor


@full_precision
def class_means(
    latent: Tensor, labels: Tensor, classes: Sequence[int], min_pixels: int = MIN_PIXELS
) -> tuple[Tensor, Tensor]:
    """Mean of Z over the pixels of each class; a class with fewer than `min_pixels` has mean 0 and count 0.

    Of processes that train together, the pixels of all count.

    Shape: Z [B, C, h, w], labels int64 [B, h, w] -> means [n, C], counts float32 [n], in the order of
    `classes`.
    """
    regions = membership(labels, classes)
    counts = processes.total(regions.flatten(1).sum(1).to(latent.dtype))
    counts = counts * (counts >= min_pixels)
    means = processes.total(region_sums(latent, regions)) / counts.clamp(min=1)[:, None]
    return means * (counts > 0)[:, None], counts


class PrototypeMemory:
    """The mean of Z over all pixels of each training channel seen so far, the unknown class among them.

    Kept in float64, as counts reach millions. Source: reference code (cumulative mean, docs/method.md#spm).
    """

    def __init__(self, channels: int, latent: int):
        self.mean = torch.zeros(channels, latent, dtype=torch.float64)
        self.count = torch.zeros(channels, dtype=torch.float64)

    @property
    def known(self) -> Tensor:
        """Channels that have a prototype. Shape: bool [K]."""
        return self.count > 0

    @torch.no_grad()
    def update(self, classes: Sequence[int], means: Tensor, counts: Tensor) -> None:
        """Merge a batch's `class_means` of `classes`. Shape: means [n, C], counts [n]."""
        rows = on_device(tuple(classes), means.device)
        self.mean, self.count = self.mean.to(means.device), self.count.to(means.device)
        added, fresh = counts.detach().to(self.count), means.detach().to(self.mean)
        total = self.count[rows] + added
        self.mean[rows] += (fresh - self.mean[rows]) * (added / total.clamp(min=1))[:, None]
        self.count[rows] = total

    def pool(self, classes: Sequence[int], others: Sequence[Mapping[str, Tensor]]) -> None:
        """Take `classes` from several memories that saw different pixels (`state_dict` of each)."""
        self.reset(classes)
        for state in others:
            self.update(classes, state["mean"][list(classes)], state["count"][list(classes)])

    def grow(self, channels: int) -> None:
        """Make room for `channels` training channels in all; the new ones are unknown."""
        more = channels - len(self.count)
        self.mean = torch.cat([self.mean, self.mean.new_zeros(more, self.mean.shape[1])])
        self.count = torch.cat([self.count, self.count.new_zeros(more)])

    def reset(self, channels: Sequence[int]) -> None:
        """Forget `channels`, so that they can be measured again."""
        self.mean[list(channels)] = 0
        self.count[list(channels)] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that restore the memory; they are stored with the run."""
        return {"mean": self.mean.clone(), "count": self.count.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over stored prototypes, whatever their number of channels."""
        self.mean = state["mean"].double().clone()
        self.count = state["count"].double().clone()


@full_precision
def semantic_invariance(
    means: Tensor,
    counts: Tensor,
    classes: Sequence[int],
    prototypes: Tensor,
    known: Tensor,
    invariant: Tensor,
    margin: float = 0.0,
) -> SemanticInvariance:
    """Aggregation and separation of a batch's class means on the invariant channels.

    `prototypes` [K, C] holds the reference of each training channel: the teacher's prototype of an old
    class, the running one of a new class, and the unknown embedding; `known` says which exist. Vectors are
    L2-normalised.

        aggregation = mean_k ||p_k - P_k||^2
        separation  = mean over pairs k, j != k of max(0, cos(p_k, P_j) - margin)^2

    with k over `classes` present in the batch and j over all known channels. The gradient flows through the
    batch means alone.

    Shape: means [n, C], counts [n], prototypes [K, C], known bool [K], invariant bool [C] -> two scalars.
    """
    rows = on_device(tuple(classes), means.device)
    block = invariant.to(means)
    batch = F.normalize(means * block, dim=1)
    reference = F.normalize(prototypes.detach().to(means) * block, dim=1)
    known = known.to(means.device)
    present = counts > 0
    own = present & known[rows]
    aggregation = _mean((batch - reference[rows]).square().sum(1), own)
    others = known[None] & (torch.arange(len(known), device=means.device)[None] != rows[:, None])
    closeness = (batch @ reference.T - margin).clamp(min=0).square()
    return SemanticInvariance(aggregation, _mean(closeness, present[:, None] & others))


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over `where`, 0 if it is empty."""
    return (values * where).sum() / where.sum().clamp(min=1)
