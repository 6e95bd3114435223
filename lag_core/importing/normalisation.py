"""Batch norm from checkpoints: read, changed to |gamma| + eps for InPlaceABN, folded into a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lag_core.importing.source import Source

EPS = 1e-5
"""torch.nn.BatchNorm2d's and InPlaceABN's."""

Gamma = Callable[[Tensor], Tensor]
"""Scale in the file -> scale used in computation."""


def plain(gamma: Tensor) -> Tensor:
    """torch.nn.BatchNorm2d and ABN: unchanged."""
    return gamma


def in_place(gamma: Tensor) -> Tensor:
    """InPlaceABN: |gamma| + eps, so that its output can be undone. Source: arXiv 1712.02616."""
    return gamma.abs() + EPS


class Norm(NamedTuple):
    """Batch norm in evaluation mode, each [C]."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor

    def part(self, channels: slice) -> Norm:
        """The same for some of the channels."""
        return Norm(*(value[channels] for value in self))

    def named(self, name: str) -> dict[str, Tensor]:
        """By the names of torch.nn.BatchNorm2d called `name`."""
        keys = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{key}": value.clone() for key, value in zip(keys, self, strict=True)}

    def folded(self, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias, float64, of one convolution equal to convolution and norm.

        Shape: [C, ...], [C] -> the same.
        """
        scale = self.weight.double() * (self.variance.double() + EPS).rsqrt()
        shift = -self.mean.double() if bias is None else bias.double() - self.mean.double()
        return weight.double() * scale.view(-1, *[1] * (weight.dim() - 1)), self.bias.double() + shift * scale


def read_norm(source: Source, key: str, channels: int, gamma: Gamma) -> Norm:
    """The norm called `key`. Shape: [channels] each."""
    parts = ("weight", "bias", "running_mean", "running_var")
    weight, *rest = (source.take(f"{key}.{part}", (channels,)) for part in parts)
    return Norm(gamma(weight), *rest)


def adding(bias: Tensor) -> Norm:
    """A norm that only adds `bias` [C]: the place for a folded convolution's bias."""
    one, zero = torch.ones_like(bias), torch.zeros_like(bias)
    return Norm((one + EPS).sqrt(), bias, zero, one)
