"""Adapters of two transformers in the sizes in which they are used, for benchmarks/foreign.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lag_core.adapters import Adapter

BY_NAME = {"segformer": "SegFormerB0", "mask2former": "Mask2FormerTiny"}


class _Photographs(Adapter):
    classes, steps = ("background", "cat", "dog", "person", "horse"), (4, 1)

    def build(self, classes: int) -> nn.Module:
        raise NotImplementedError

    def load(self, path: Path, step: int, device: str) -> nn.Module:
        net = self.build(sum(self.steps[: step + 1]))
        net.load_state_dict(torch.load(path, map_location=device, weights_only=True))
        return net


class SegFormerB0(_Photographs):
    """3.7 million weights; Z [256, 128, 128] of a picture of 512."""

    size, latent, head = 512, "decode_head.activation", "decode_head.classifier"

    def build(self, classes: int) -> nn.Module:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        return SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return net(pixel_values=images).logits


class Mask2FormerTiny(_Photographs):
    """47 million weights; Z [256, 64, 64] of a picture of 256, from which nothing alone leads to the logits."""

    size, latent = 256, "model.pixel_level_module.decoder.mask_projection"

    def build(self, classes: int) -> nn.Module:
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

        stages = ["stage1", "stage2", "stage3", "stage4"]
        return Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(backbone_config=SwinConfig(image_size=256, out_features=stages), num_labels=classes)
        )

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        found = net(pixel_values=images)
        classes = found.class_queries_logits.softmax(-1)[..., :-1]  # the last says "no object"
        return torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid())
