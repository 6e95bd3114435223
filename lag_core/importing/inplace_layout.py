"""MiB, PLOP, RCIL and the CSSegmentation toolbox: a ResNet and a head built on InPlaceABN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lag_core.importing.normalisation import Gamma, adding, read_norm
from lag_core.importing.source import Source
from lag_core.importing.torchvision_layout import Shapes


@dataclass(frozen=True)
class Names:
    """One code's names of the parts."""

    stem: tuple[str, str]
    """Convolution and norm."""
    block: Callable[[int, int, str], str]
    """(layer 1..4, block 0.., part such as "conv1", "bn2", "downsample.0") -> key."""
    atrous: str
    """The ASPP's parallel convolutions, numbered."""
    atrous_norm: str
    """One norm for all of them, side by side."""
    pooling: tuple[str, str]
    """The image pooling's convolution and norm."""
    reduction: str
    """1x1 convolution after the parallel ones."""
    pooled_reduction: str
    """1x1 convolution after the image pooling: added to the other's output."""
    reduction_norm: str
    classify: str
    """Heads, numbered."""


def _mapillary_block(layer: int, block: int, part: str) -> str:
    prefix = f"body.mod{layer + 1}.block{block + 1}."
    shortcut = {"downsample.0": "proj_conv", "downsample.1": "proj_bn"}
    return prefix + shortcut.get(part, f"convs.{part}")


MAPILLARY = Names(
    stem=("body.mod1.conv1", "body.mod1.bn1"),
    block=_mapillary_block,
    atrous="head.map_convs.{}",
    atrous_norm="head.map_bn",
    pooling=("head.global_pooling_conv", "head.global_pooling_bn"),
    reduction="head.red_conv",
    pooled_reduction="head.pool_red_conv",
    reduction_norm="head.red_bn",
    classify="cls.{}",
)
"""MiB, and PLOP and RCIL after it."""

CSSEG = Names(
    stem=("encoder.conv1", "encoder.bn1"),
    block=lambda layer, block, part: f"encoder.layer{layer}.{block}.{part}",
    atrous="decoder.parallel_convs.{}",
    atrous_norm="decoder.parallel_bn",
    pooling=("decoder.global_branch.0", "decoder.global_branch.1"),
    reduction="decoder.out_project.0",
    pooled_reduction="decoder.global_branch.3",
    reduction_norm="decoder.out_project.1",
    classify="convs_cls.{}",
)


def step_sizes(source: Source, names: Names) -> list[int]:
    """Classes that each step introduced, background in step 0."""
    sizes: list[int] = []
    while (found := source.rows(names.classify.format(len(sizes)) + ".weight")) is not None:
        sizes.append(found)
    return sizes


def tensors(
    source: Source, shapes: Shapes, names: Names, gamma: Gamma, two_branches: bool = False
) -> dict[str, Tensor]:
    """Our network's tensors. two_branches: RCIL's, whose second branch is averaged into the first."""
    reader = _Reader(source, shapes, names, gamma, two_branches)
    return {**reader.backbone(), **reader.aspp(), **reader.heads()}


class _Reader:
    """Reads one state dict, part by part."""

    def __init__(self, source: Source, shapes: Shapes, names: Names, gamma: Gamma, two_branches: bool):
        self.source, self.shapes, self.names = source, shapes, names
        self.gamma, self.two_branches = gamma, two_branches

    def backbone(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for weight in (n for n in self.shapes if n.startswith("backbone.") and n.endswith(".weight")):
            name = weight.removesuffix(".weight")
            if weight in found:  # a second branch has its own norm
                continue
            if f"{name}.running_mean" in self.shapes:
                found |= read_norm(self.source, self._key(name), self.shapes[weight][0], self.gamma).named(name)
            elif self.two_branches and name.endswith(".conv2"):
                found |= self._averaged_block(name)
            else:
                found[weight] = self.source.take(f"{self._key(name)}.weight", self.shapes[weight])
        return found

    def _key(self, name: str) -> str:
        """Key of a layer of our backbone."""
        _, stage, *rest = name.split(".", 3)
        if stage == "stem":
            return self.names.stem[int(rest[0])]
        return self.names.block(int(stage.removeprefix("layer")), int(rest[0]), rest[1])

    def _averaged_block(self, name: str) -> dict[str, Tensor]:
        """RCIL's 3x3 convolutions: both with their norms folded in, and the mean of the two."""
        norm = name.removesuffix("conv2") + "bn2"
        shape = self.shapes[f"{name}.weight"]
        conv_key, norm_key = self._key(name), self._key(norm)
        norms = [read_norm(self.source, key, shape[0], self.gamma) for key in (norm_key, f"{norm_key}_new")]
        first = norms[0].folded(self.source.take(f"{conv_key}.weight", shape), self._bias(conv_key, shape[0]))
        second = norms[1].folded(self.source.take(f"{conv_key}_new.weight", shape))
        return _mean(name, norm, first, second)

    def _bias(self, key: str, channels: int) -> Tensor | None:
        """A convolution's bias, which exists from step 1 on."""
        return self.source.take(f"{key}.bias", (channels,)) if f"{key}.bias" in self.source else None

    def aspp(self) -> dict[str, Tensor]:
        branches = sorted({int(n.split(".")[2]) for n in self.shapes if n.startswith("aspp.branches.")})
        *atrous, pooling = branches
        width = self.shapes["aspp.project.0.weight"][0]
        found = self._atrous(len(atrous), width)
        project = f"aspp.branches.{pooling}.project.0"
        conv_key, norm_key = self.names.pooling
        weight = self.source.take(f"{conv_key}.weight", self.shapes[f"{project}.weight"])
        folded, bias = read_norm(self.source, norm_key, width, self.gamma).folded(weight)
        found |= {f"{project}.weight": folded.float(), f"{project}.bias": bias.float()}
        # the sum of two 1x1 convolutions is one of the maps side by side
        of_maps = self.source.take(f"{self.names.reduction}.weight", (width, width * len(atrous), 1, 1))
        of_pooled = self.source.take(f"{self.names.pooled_reduction}.weight", (width, width, 1, 1))
        found["aspp.project.0.weight"] = torch.cat([of_maps, of_pooled], 1)
        return found | read_norm(self.source, self.names.reduction_norm, width, self.gamma).named("aspp.project.1")

    def _atrous(self, count: int, width: int) -> dict[str, Tensor]:
        """Parallel convolutions and each one's part of their common norm."""
        found: dict[str, Tensor] = {}
        norm = read_norm(self.source, self.names.atrous_norm, count * width, self.gamma)
        pattern = self.names.atrous
        new_pattern, new_norm = pattern.replace(".{}", "_new.{}"), None
        if self.two_branches:
            new_norm = read_norm(self.source, f"{self.names.atrous_norm}_new", count * width, self.gamma)
        for i in range(count):
            name, part = f"aspp.branches.{i}.0", slice(i * width, (i + 1) * width)
            shape = self.shapes[f"{name}.weight"]
            weight = self.source.take(f"{pattern.format(i)}.weight", shape)
            if new_norm is None:
                found |= {f"{name}.weight": weight, **norm.part(part).named(f"aspp.branches.{i}.1")}
                continue
            first = norm.part(part).folded(weight, self._bias(pattern.format(i), width))
            second = new_norm.part(part).folded(self.source.take(f"{new_pattern.format(i)}.weight", shape))
            found |= _mean(name, f"aspp.branches.{i}.1", first, second)
        return found

    def heads(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name in (n for n in self.shapes if n.startswith("heads.")):
            _, head, leaf = name.split(".")
            found[name] = self.source.take(f"{self.names.classify.format(head)}.{leaf}", self.shapes[name])
        return found


def _mean(conv: str, norm: str, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Two folded convolutions averaged into one, and a norm that adds the bias."""
    weight, bias = ((a + b) / 2 for a, b in zip(first, second, strict=True))
    return {f"{conv}.weight": weight.float(), **adding(bias.float()).named(norm)}
