"""Atrous spatial pyramid pooling: the encoder's end, whose output is the latent map Z."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.model.activation import Activation, activation


def conv_norm(
    cin: int, cout: int, kernel: int = 1, dilation: int = 1, groups: int = 1, act: Activation | None = "relu"
) -> nn.Sequential:
    """Convolution without bias, batch norm, and an activation function of its own."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, *([] if act is None else [activation(act)]))


def atrous_branch(cin: int, cout: int, rate: int, separable: bool, act: Activation = "relu") -> nn.Sequential:
    """3x3 convolution at `rate`; separable: depthwise, then pointwise."""
    if not separable:
        return conv_norm(cin, cout, 3, rate, act=act)
    return nn.Sequential(*conv_norm(cin, cin, 3, rate, groups=cin, act=None), *conv_norm(cin, cout, act=act))


class ImagePooling(nn.Module):
    """Mean of the map, projected, spread over the map again. Shape: [B, cin, h, w] -> [B, cout, h, w].

    window: 0, and the mean is of the whole map; else of at most window x window cells around each place, with the
    outermost windows repeated at the edges. Both are equal if the map has at most `window` cells per side.
    """

    def __init__(self, cin: int, cout: int, window: int = 0, act: Activation = "relu"):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.window = window
        self.project = nn.Sequential(nn.Conv2d(cin, cout, 1), activation(act))

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        if max(size) <= self.window or not self.window:
            return self.project(self.pool(x)).expand(-1, -1, *size)
        cells = self.cells(size)
        return F.pad(self.project(F.avg_pool2d(x, cells, stride=1)), self.margins(cells), mode="replicate")

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the window on a map of `size`."""
        return (min(self.window or size[0], size[0]), min(self.window or size[1], size[1]))

    @staticmethod
    def margins(cells: tuple[int, int]) -> tuple[int, int, int, int]:
        """How often the edges are repeated so that the map has its size again: left, right, top, bottom."""
        (height, width), before = cells, [(n - 1) // 2 for n in cells]
        return before[1], width - 1 - before[1], before[0], height - 1 - before[0]


class ASPP(nn.Module):
    """1x1, one atrous 3x3 per rate, image pooling; concatenated and projected to the latent map Z.

    Shape: [B, cin, h, w] -> Z [B, cout, h, w]; with ReLU, not negative.
    Source: docs/method.md#network. Departures: no batch norm on the pooled vector (a batch of one has no variance),
    and no dropout, so that teacher and student differ only in what they learned.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        rates: Sequence[int],
        separable: bool,
        window: int = 0,
        act: Activation = "relu",
    ):
        super().__init__()
        atrous = [atrous_branch(cin, cout, rate, separable, act) for rate in rates]
        pooling = ImagePooling(cin, cout, window, act)
        self.branches = nn.ModuleList([conv_norm(cin, cout, act=act), *atrous, pooling])
        self.project = conv_norm(cout * len(self.branches), cout, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.branches], 1))
