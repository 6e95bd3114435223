"""Atrous spatial pyramid pooling: the encoder's end, whose output is the latent map Z."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_norm(
    cin: int, cout: int, kernel: int = 1, dilation: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm, and a ReLU of its own."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def atrous_branch(cin: int, cout: int, rate: int, separable: bool) -> nn.Sequential:
    """3x3 convolution at `rate`; separable: depthwise, then pointwise."""
    if not separable:
        return conv_norm(cin, cout, 3, rate)
    return nn.Sequential(*conv_norm(cin, cin, 3, rate, groups=cin, relu=False), *conv_norm(cin, cout))


class ImagePooling(nn.Module):
    """Global mean, projected, spread over the map again. Shape: [B, cin, h, w] -> [B, cout, h, w]."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.project = nn.Sequential(nn.Conv2d(cin, cout, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.pool(x)).expand(-1, -1, *x.shape[-2:])


class ASPP(nn.Module):
    """1x1, one atrous 3x3 a rate, image pooling; concatenated and projected to the latent map Z.

    Shape: [B, cin, h, w] -> Z [B, cout, h, w], not negative.
    Source: METHOD.md B. Departures: no batch norm on the pooled vector (a batch of one has no variance there), and
    no dropout, so that teacher and student differ by what they learned alone.
    """

    def __init__(self, cin: int, cout: int, rates: Sequence[int], separable: bool):
        super().__init__()
        atrous = [atrous_branch(cin, cout, rate, separable) for rate in rates]
        self.branches = nn.ModuleList([conv_norm(cin, cout), *atrous, ImagePooling(cin, cout)])
        self.project = conv_norm(cout * len(self.branches), cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.branches], 1))
