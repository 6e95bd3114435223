"""Steps of a run in a copy, with damaged latent channels: a cause that is known, to be found again."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lag_core.model.segmenter import Segmenter

Kind = Literal["permute", "zero", "noise"]
"""Cells of each picture in another order; 0 everywhere; Gaussian noise added (below 0 stays 0, as behind a ReLU)."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Plant:
    """Which channels are damaged, and how."""

    channels: np.ndarray
    """int64 [k], different ones."""
    kinds: tuple[Kind, ...]
    """[k]."""
    deviation: float
    """Standard deviation of the noise, in units of Z."""
    seed: int


def plant(latent: Tensor, k: int, seed: int) -> Plant:
    """k of all channels at random, each with a damage at random among those that change it on the pictures measured.

    Without this condition some damages would be none: a channel that is 0 everywhere stays so when its cells are
    permuted or set to 0. The noise has the standard deviation of all of Z, so it changes any channel.

    Shape: Z float [B, C, h, w]. ValueError for more channels than there are.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(latent.shape[1], k, replace=False)
    flat = latent.flatten(2)
    moves = {
        "zero": (flat != 0).any(2).any(0),
        "permute": (flat != flat[..., :1]).any(2).any(0),
    }
    kinds = []
    for channel in chosen:
        fitting = [kind for kind in KINDS if kind == "noise" or bool(moves[kind][channel])]
        kinds.append(fitting[rng.integers(len(fitting))])
    return Plant(chosen, tuple(kinds), float(latent.std()), seed)


class Damage(nn.Module):
    """Z with planted damages; the same for the same pictures. Shape: [B, C, h, w] -> same."""

    def __init__(self, planted: Plant):
        super().__init__()
        self.planted = planted

    def forward(self, latent: Tensor) -> Tensor:
        result = latent.clone()
        generator = torch.Generator().manual_seed(self.planted.seed)
        for channel, kind in zip(self.planted.channels.tolist(), self.planted.kinds, strict=True):
            result[:, channel] = self._damaged(latent[:, channel], kind, generator)
        return result

    def _damaged(self, own: Tensor, kind: Kind, generator: torch.Generator) -> Tensor:
        if kind == "zero":
            return torch.zeros_like(own)
        if kind == "permute":
            order = torch.rand(own.flatten(1).shape, generator=generator).argsort(1)
            mixed = own.flatten(1).gather(1, order)
            # by chance all is as it was: one place further it is not, unless all cells are equal
            return (mixed.roll(1, 1) if mixed.equal(own.flatten(1)) else mixed).view_as(own)
        noise = torch.randn(own.shape, generator=generator) * self.planted.deviation
        return (own + noise).clamp(min=0)


class Jitter(nn.Module):
    """Z with every value scaled by 1 + share * noise: no channel is a cause of anything.

    share: relative standard deviation of all channels; or the bounds of one drawn for each channel, log-uniform.
    """

    def __init__(self, share: float | tuple[float, float], seed: int):
        super().__init__()
        self.share, self.seed = share, seed

    def forward(self, latent: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(latent.shape, generator=generator)
        return latent * (1 + self._shares(latent.shape[1], generator) * noise).clamp(min=0)

    def _shares(self, channels: int, generator: torch.Generator) -> Tensor | float:
        if isinstance(self.share, float):
            return self.share
        low, high = np.log(self.share)
        return torch.exp(low + (high - low) * torch.rand((channels, 1, 1), generator=generator))


class Copied:
    """A copy of a step's network whose latent map can be tampered with; the network itself is left alone."""

    def __init__(self, model: Segmenter):
        self.model = copy.deepcopy(model)
        self._aspp = self.model.aspp

    def with_change(self, change: nn.Module) -> Segmenter:
        """The copy, `change` behind its ASPP; the same object each time."""
        self.model.aspp = nn.Sequential(self._aspp, change)  # type: ignore[assignment]
        return self.model.eval()


def recall(chosen: np.ndarray, planted: np.ndarray) -> float:
    """Share of the planted channels among the chosen ones. Shape: int [k], int [n]."""
    return float(np.isin(planted, chosen).mean())
