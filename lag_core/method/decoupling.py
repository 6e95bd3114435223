"""Semantic-invariance modelling: which channels of Z stayed as they were, and which changed.

The paper splits Z along its channels into a semantic-invariant (SI) part of rho * C channels and a
sample-specific (SS) rest, by a distance between the same channel of the old and the new model
(docs/method.md#certain, facts 3 and 8).
The distance itself is a reconstruction of ours (docs/method.md#split), with alternatives to choose from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lag_core.method.precision import full_precision

Metric = Literal["entropy_kl", "spatial_kl", "cosine", "l2", "random"]

DEFINED_ABOVE = 1e-6
"""Largest channel distance at which both models count as equal and a split is arbitrary (docs/method.md#split)."""


class Split(NamedTuple):
    """A partition of the channels of Z."""

    invariant: Tensor
    """bool [C] semantic-invariant channels; the others are sample-specific."""
    defined: bool
    """False while no channel has moved: the order is then arbitrary."""

    @property
    def specific(self) -> Tensor:
        """bool [C] sample-specific channels."""
        return ~self.invariant


@torch.no_grad()
@full_precision
def channel_distance(
    old: Tensor, new: Tensor, metric: Metric = "entropy_kl", tau: float = 1.0, seed: int = 0
) -> Tensor:
    """How far each channel of Z moved from the old model to the new one; mean over images.

    entropy_kl: KL(E_old || E_new) of the normalised maps of -P log P, with P the softmax over the pixels of
    Z / tau. spatial_kl: KL(P_old || P_new). cosine: 1 - cos of the two maps. l2: root mean square difference.
    random: a fixed draw from `seed`, as a control.

    Shape: twice [B, C, h, w] -> float32 [C]. Source: docs/method.md#split (ours).
    """
    if metric not in get_args(Metric):
        raise ValueError(f"channel metric {metric!r}: known are {', '.join(get_args(Metric))}")
    if metric == "random":
        draw = torch.rand(old.shape[1], generator=torch.Generator().manual_seed(seed))
        return draw.to(old.device)
    a, b = old.flatten(2), new.flatten(2)
    if metric == "entropy_kl":
        return _kl(_entropy_map(a / tau), _entropy_map(b / tau))
    if metric == "spatial_kl":
        return _kl((a / tau).softmax(-1), (b / tau).softmax(-1))
    if metric == "cosine":
        # half the squared distance of unit vectors is 1 - cos, and 0 for a channel dead in both models
        return (_unit(a) - _unit(b)).square().sum(-1).mean(0) / 2
    return (a - b).square().mean(-1).sqrt().mean(0)


def _entropy_map(scores: Tensor) -> Tensor:
    """-P log P over the pixels, normalised to sum to 1. Shape: [B, C, N] -> same."""
    log_p = scores.log_softmax(-1)
    entropy = log_p.exp().mul_(log_p)
    return entropy.div_(entropy.sum(-1, keepdim=True).clamp_(max=-1e-30))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) along the last axis, mean over images. Shape: twice [B, C, N] -> [C]."""
    tiny = 1e-30
    difference = p.clamp(min=tiny).log_().sub_(q.clamp(min=tiny).log_())
    return difference.mul_(p).sum(-1).mean(0).clamp(min=0)


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)


class ChannelScore:
    """The running distance of each channel: the plain mean during warm-up, then a moving average.

    Source: docs/method.md#split (momentum 0.99, 100 iterations).
    """

    def __init__(self, channels: int, warmup: int = 100, momentum: float = 0.99):
        self.warmup = warmup
        self.momentum = momentum
        self.distance = torch.zeros(channels)
        self.count = 0

    @property
    def warming(self) -> bool:
        """True during the first `warmup` updates."""
        return self.count < self.warmup

    def update(self, distance: Tensor) -> None:
        """Add one batch's `channel_distance`. Shape: [C]. Values that are not finite count as 0."""
        fresh = distance.detach().float().nan_to_num(0.0, 0.0, 0.0)
        self.distance = self.distance.to(fresh.device)
        step = 1 / (self.count + 1) if self.warming else 1 - self.momentum
        self.distance += step * (fresh - self.distance)
        self.count += 1

    def split(self, rho: float) -> Split:
        """The round(rho * C) channels with the smallest distance as invariant; ties in channel order."""
        return Split(self._smallest(rho), bool(self.distance.max() >= DEFINED_ABOVE))

    def _smallest(self, rho: float) -> Tensor:
        """The round(rho * C) channels with the smallest distance. Shape: bool [C]."""
        order = self.distance.argsort(stable=True)
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return ranks < round(rho * len(order))

    def working_split(self, rho: float) -> Split:
        """What the losses use: all channels are invariant while the score warms up or none has moved."""
        if self.warming:
            return Split(torch.ones_like(self.distance, dtype=torch.bool), False)
        moved = self.distance.max() >= DEFINED_ABOVE  # decided on the device, without waiting for it
        return Split(self._smallest(rho) | ~moved, True)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that restore the score."""
        return {"distance": self.distance.clone(), "count": torch.tensor(self.count)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a stored score."""
        self.distance = state["distance"].float().clone()
        self.count = int(state["count"])
