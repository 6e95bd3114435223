"""torchvision's backbones and EfficientNet-Lite0, cut into stem and layer1..layer4, at output stride 16 or 8."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torchvision.models as tv
from torch import Tensor, nn

from lag_core.config import ModelConfig
from lag_core.model import efficientnet_lite
from lag_core.model.activation import replace_relus

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def depth(last: str) -> int:
    """How many stages there are up to `last`, included; "none": 0. ValueError for another name."""
    return 0 if last == "none" else STAGES.index(last) + 1


CUTS = {
    "mobilenet_v2": (0, 2, 4, 7, 14, 18),
    "mobilenet_v3_large": (0, 2, 4, 7, 13, 16),
    "efficientnet_lite0": (0, 2, 4, 6, 12, 17),
}
"""Where `features` of a classifier is cut into stages; layers after the last cut are dropped."""


class SkipStage(nn.Sequential):
    """A stage that returns its input concatenated with its own output, enlarged to the same size.

    The stage itself sees only the last channels of its input, from `carried` on, and of these every
    `thinned`-th row and column: the previous stage enlarged them that many times. `enlarged` is the same for
    its own output.

    Shape: [B, cin, h, w] -> [B, cin + cout, h, w]. Source: as DeepLabV3+ joins an earlier map (arXiv 1802.02611),
    but with nearest neighbours, which lose nothing, and without projections.
    """

    def __init__(self, stage: nn.Sequential, carried: int, thinned: int, enlarged: int):
        super().__init__(*stage)
        self.carried, self.thinned, self.enlarged = carried, thinned, enlarged

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, super().forward(self.seen(x)))

    def seen(self, x: Tensor) -> Tensor:
        """The part of its input that the stage itself sees."""
        return x[:, self.carried :, :: self.thinned, :: self.thinned]

    def join(self, x: Tensor, output: Tensor) -> Tensor:
        """The input concatenated with the stage's own output."""
        large = output.repeat_interleave(self.enlarged, 2).repeat_interleave(self.enlarged, 3)
        return torch.cat([x, large[..., : x.shape[-2], : x.shape[-1]]], 1)


class Backbone(nn.Module):
    """Five stages in a row. `channels[i]` is the number of channels that stage i returns.

    The last stage is empty, and returns its input, if `model.depth` is "layer3".

    Shape: [B, 3, H, W] -> [B, channels[4], H / output_stride, W / output_stride].
    """

    def __init__(self, stages: list[nn.Sequential], channels: tuple[int, ...]):
        super().__init__()
        for name, stage in zip(STAGES, stages, strict=True):
            self.add_module(name, stage)
        self.channels = channels

    def stages_until(self, last: str) -> list[nn.Module]:
        """The stages from the stem to `last`, included; "none": no stage."""
        return [getattr(self, name) for name in STAGES[: depth(last)]]

    def stages_from(self, first: str) -> list[nn.Module]:
        """`first` and the stages after it."""
        return [getattr(self, name) for name in STAGES[STAGES.index(first) :]]

    def stages_after(self, last: str) -> list[nn.Module]:
        """The stages after `last`; "none": all."""
        return [getattr(self, name) for name in STAGES[depth(last) :]]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages_until("layer4"):
            x = stage(x)
        return x


def build_backbone(config: ModelConfig) -> Backbone:
    """A backbone with random weights. ValueError for an unknown name."""
    return backbone_of(classifier(config.backbone), config)


def classifier(name: str, weights: str | None = None) -> nn.Module:
    """The classifier `name`; `weights` as torchvision's weight API takes it ("DEFAULT" downloads).

    EfficientNet-Lite0 is not torchvision's: its weights are a file's. ValueError for an unknown name.
    """
    if name == "efficientnet_lite0":
        return efficientnet_lite.EfficientNetLite0()
    builders: dict[str, Callable[..., nn.Module]] = {
        "resnet18": tv.resnet18,
        "resnet34": tv.resnet34,
        "resnet50": tv.resnet50,
        "resnet101": tv.resnet101,
        "mobilenet_v2": tv.mobilenet_v2,
        "mobilenet_v3_large": tv.mobilenet_v3_large,
    }
    if name not in builders:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(builders)}, efficientnet_lite0")
    return builders[name](weights=weights)


def backbone_of(net: nn.Module, config: ModelConfig) -> Backbone:
    """Cut the classifier `net` into a backbone; the classifier's own head is dropped."""
    name = config.backbone
    stages = _resnet_stages(net) if name.startswith("resnet") else _cut(net, CUTS[name])
    channels = tuple(_last_channels(stage) for stage in stages)
    dilate(stages[4], 2 if config.output_stride == 16 else 4, config.dilated_first_block)
    if config.output_stride == 8:
        dilate(stages[3], 2, config.dilated_first_block)
    if not config.stem_activation:
        stages[0][2] = nn.Identity()
    if config.activation != "relu":
        for stage in stages:
            replace_relus(stage, config.activation)
    return _ended(stages, channels, config)


def _ended(stages: list[nn.Sequential], channels: tuple[int, ...], config: ModelConfig) -> Backbone:
    """The backbone with its last stage as `depth` and `skip` want it."""
    last, widths = STAGES.index(config.depth), list(channels)
    if config.skip != "none":
        first = STAGES.index(config.skip)
        strides = (2, 4, 8, min(16, config.output_stride), config.output_stride)
        finer = [max(1, stride // strides[first]) for stride in strides]
        for i in range(first + 1, last + 1):
            carried = widths[i - 1] - channels[i - 1]
            stages[i] = SkipStage(stages[i], carried, finer[i - 1], finer[i])
            widths[i] = widths[i - 1] + channels[i]
    if config.depth == "layer3":
        stages[4], widths[4] = nn.Sequential(), widths[3]
    return Backbone(stages, tuple(widths))


def _resnet_stages(net: nn.Module) -> list[nn.Sequential]:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)  # type: ignore[arg-type]
    return [stem, net.layer1, net.layer2, net.layer3, net.layer4]  # type: ignore[list-item]


def _cut(net: nn.Module, cuts: tuple[int, ...]) -> list[nn.Sequential]:
    features = list(net.features)  # type: ignore[arg-type]
    return [nn.Sequential(*features[a:b]) for a, b in pairwise(cuts)]


def _last_channels(stage: nn.Sequential) -> int:
    """Channels that a stage returns: those of its last normalised layer."""
    return [m.num_features for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1]


def dilate(stage: nn.Sequential, rate: int, first_block: bool = False) -> None:
    """Trade the stride of `stage` for dilation: strides become 1, spatial kernels are spread `rate` apart.

    The layer that had the stride keeps half the rate, as its input is still dense; with `first_block` it is spread like
    the others.
    """
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        strided = conv.stride[0] > 1
        conv.stride = (1, 1)
        if conv.kernel_size[0] > 1:
            spread = max(1, rate // 2) if strided and not first_block else rate
            conv.dilation = (spread, spread)
            half = conv.kernel_size[0] // 2 * spread
            conv.padding = (half, half)
