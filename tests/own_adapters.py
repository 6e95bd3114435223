"""Adapters as an owner would write them: what docs/open-your-own.md shows, on small networks with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lag_core.adapters import Adapter

CLASSES = ("background", "red", "green", "blue", "yellow")


class Shapes(Adapter):
    """The classes of tests/shapes.py in two steps."""

    classes, steps, size = CLASSES, (3, 2), 64

    def build(self, classes: int) -> nn.Module:
        raise NotImplementedError

    def load(self, path: Path, step: int, device: str) -> nn.Module:
        net = self.build(sum(self.steps[: step + 1]))
        net.load_state_dict(torch.load(path, map_location=device, weights_only=True))
        return net


class DeepLab(Shapes):
    """torchvision's DeepLabV3: `classifier` is ASPP, convolution, norm, ReLU, 1x1 convolution."""

    latent, head = "classifier.3", "classifier.4"

    def build(self, classes: int) -> nn.Module:
        return torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes
        )

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return net.classifier(net.backbone(images)["out"])


class DeepLabReplayed(DeepLab):
    """The same with the network's own answer, at the picture's size: Z is replaced in a replayed pass."""

    head = ""

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return net(images)["out"]


class FCN(Shapes):
    """torchvision's FCN; Z is a batch norm's output, which the ReLU behind it overwrites in place."""

    latent = "classifier.1"

    def build(self, classes: int) -> nn.Module:
        backbone = torchvision.models.resnet18(weights=None)
        body = torchvision.models._utils.IntermediateLayerGetter(backbone, {"layer4": "out"})
        head = nn.Sequential(
            nn.Conv2d(512, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Conv2d(16, classes, 1)
        )
        return torchvision.models.segmentation.FCN(body, head)

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return net(images)["out"]


class LRASPP(Shapes):
    """torchvision's LR-ASPP: a skip goes round Z."""

    latent = "classifier.cbr"

    def build(self, classes: int) -> nn.Module:
        return torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes
        )

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return net(images)["out"]


class SegFormer(Shapes):
    """SegFormer of `transformers`, tiny."""

    latent, head = "decode_head.activation", "decode_head.classifier"

    def build(self, classes: int) -> nn.Module:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        return SegformerForSemanticSegmentation(
            SegformerConfig(
                num_labels=classes, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16
            )
        )

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return net(pixel_values=images).logits


class SegFormerReplayed(SegFormer):
    head = ""


class Mask2Former(Shapes):
    """Mask2Former of `transformers`, tiny: the masks come from queries, so that nothing leads from Z alone."""

    latent = "model.pixel_level_module.decoder.mask_projection"

    def build(self, classes: int) -> nn.Module:
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

        swin = SwinConfig(
            image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
        config = Mask2FormerConfig(
            backbone_config=swin, num_labels=classes, feature_size=32, mask_feature_size=32, hidden_dim=32,
            encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16,
            num_queries=8,
        )  # fmt: skip
        return Mask2FormerForUniversalSegmentation(config)

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        found = net(pixel_values=images)
        classes = found.class_queries_logits.softmax(-1)[..., :-1]  # the last says "no object"
        return torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid())


class UNet(Shapes):
    """UNet of segmentation_models_pytorch."""

    latent, head = "decoder.blocks.4", "segmentation_head"

    def build(self, classes: int) -> nn.Module:
        import segmentation_models_pytorch as smp

        return smp.Unet("resnet18", encoder_weights=None, classes=classes)


class Linear(nn.Module):
    """Z is one convolution of the picture, the logits another of it: each number can be worked out by hand."""

    def __init__(self, classes: int):
        super().__init__()
        self.features, self.classify = nn.Conv2d(3, 6, 1), nn.Conv2d(6, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


class Own(Shapes):
    """The smallest adapter: everything at its default."""

    latent = "features"

    def build(self, classes: int) -> nn.Module:
        return Linear(classes)


class Smooth(Shapes):
    """Something between Z and the logits that LRP has no rule for."""

    latent = "0"

    def build(self, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 6, 1), nn.GELU(), nn.Conv2d(6, classes, 1))


def write_checkpoints(adapter: Shapes, folder: Path, seed: int = 0) -> list[Path]:
    """Random weights of every step, with batch norms that know pictures of noise, so that numbers are of order 1."""
    torch.manual_seed(seed)
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(len(adapter.steps)):
        net = adapter.build(sum(adapter.steps[: step + 1]))
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None
        with torch.no_grad():
            net.train()
            adapter.logits(net, torch.randn(4, 3, adapter.size, adapter.size))
        paths.append(folder / f"step-{step}.pt")
        torch.save(net.state_dict(), paths[-1])
    return paths
