"""The segmentation network: image -> trunk -> stage -> latent Z -> logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.config import ModelConfig
from lag_core.model.aspp import ASPP
from lag_core.model.backbone import STAGES, Backbone, build_backbone, depth
from lag_core.model.checkpointing import checkpointed
from lag_core.model.heads import AnyHead, Head, LinearHead


class Output(NamedTuple):
    """The output of the layers after the trunk; all at the latent resolution h x w."""

    stage: Tensor
    """[B, F, h, w] output of the backbone."""
    latent: Tensor
    """[B, C, h, w] the map Z on which all of LAG's terms act."""
    logits: Tensor
    """[B, channels, h, w] one logit per training channel (see LabelSpace)."""


class Segmenter(nn.Module):
    """Backbone, ASPP and heads. The trunk (stem to `config.shared`) is frozen after step 0 and shared by all steps.

    Shape: images [B, 3, H, W] (normalised) -> `Output`; `upsample` brings logits to the image's size.
    """

    def __init__(self, config: ModelConfig, head_sizes: tuple[int, ...], backbone: Backbone | None = None):
        super().__init__()
        self.config = config
        self.backbone = backbone or build_backbone(config)
        self.aspp = ASPP(
            self.backbone.channels[-1],
            config.latent,
            config.aspp_rates,
            config.separable,
            config.pooling_window,
            config.activation,
        )
        self.heads = nn.ModuleList(self._head(size) for size in head_sizes)

    def trunk(self, images: Tensor) -> Tensor:
        """Features at the end of the shared trunk. Shape: [B, 3, H, W] -> [B, T, h, w]."""
        return self._through(self.backbone.stages_until(self.config.shared), images)

    def stage(self, features: Tensor) -> Tensor:
        """The backbone after the trunk; the identity if the trunk is the whole backbone."""
        return self._through(self.backbone.stages_after(self.config.shared), features)

    def _through(self, stages: list[nn.Module], x: Tensor) -> Tensor:
        for stage in stages:
            again = self.config.checkpointing and torch.is_grad_enabled()
            trains = again and any(p.requires_grad for p in stage.parameters())
            x = checkpointed(stage, x) if trains else stage(x)
        return x

    def decode(self, latent: Tensor) -> Tensor:
        """Logits of the latent map. Shape: Z [B, C, h, w] -> [B, channels, h, w]."""
        return torch.cat([head(latent) for head in self.heads], 1)

    def behind_trunk(self, features: Tensor) -> Output:
        """Everything after the trunk. Shape: [B, T, h, w] -> `Output`."""
        stage = self.stage(features)
        latent = self.aspp(stage)
        return Output(stage, latent, self.decode(latent))

    def forward(self, images: Tensor) -> Output:
        return self.behind_trunk(self.trunk(images))

    def _head(self, classes: int) -> AnyHead:
        one = self.config
        if one.head == "linear":
            return LinearHead(one.latent, classes)
        return Head(one.latent, one.head_width, classes, one.head_kernel, one.activation)

    def add_head(self, classes: int) -> AnyHead:
        """Append a head for `classes` new channels, on the model's device, and return it."""
        like = next(self.aspp.parameters())
        head = self._head(classes).to(like.device, like.dtype)
        self.heads.append(head)
        return head

    @property
    def trunk_channels(self) -> int:
        """Channels of the trunk's output; of an image if there is no trunk."""
        return (3, *self.backbone.channels)[depth(self.config.shared)]

    def trunk_names(self) -> tuple[str, ...]:
        """Prefixes of the trunk's tensors in the state dict."""
        return tuple(f"backbone.{name}." for name in STAGES[: depth(self.config.shared)])


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned. Shape: [B, K, h, w] -> [B, K, *size]. Source: docs/method.md#network."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
