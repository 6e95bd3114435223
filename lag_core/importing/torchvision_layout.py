"""SSUL, LAG, DKD and STAR: torchvision's ResNet and ASPP under other names; heads in two ways."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lag_core.importing.normalisation import plain, read_norm
from lag_core.importing.source import Source

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of every tensor of our network."""

_UNUSED = ("classifier.aspp_l1.", "classifier.aspp_l2.", "classifier.aspp_l3.")
"""LAG's copies of the ASPP that only training uses."""


def ssul_step_sizes(source: Source, step: int) -> list[int]:
    """Classes that each step introduced, background in step 0: [n, ...]."""
    rows = _rows(source, "classifier.head.{}.3.weight")
    # unknown, background, the rest of step 0 (if there is any), one a step
    return [1 + rows[2], *rows[3:]] if len(rows) == step + 3 else [1, *rows[2:]]


def dkd_step_sizes(source: Source, step: int) -> list[int]:
    """As `ssul_step_sizes`; cls.0 is the auxiliary channel, and the background has none."""
    return star_sizes(_rows(source, "cls.{}.weight")[1:])


def star_step_sizes(source: Source, step: int) -> list[int]:
    """As `ssul_step_sizes`; the background has no channel."""
    return star_sizes(_rows(source, "cls.{}.weight"))


def star_sizes(rows: list[int]) -> list[int]:
    """The background is counted with step 0. Shape: [n, ...] -> [n + 1, ...]."""
    return [rows[0] + 1, *rows[1:]] if rows else []


def _rows(source: Source, pattern: str) -> list[int]:
    """Channels of head 0, 1, … until there is none."""
    rows: list[int] = []
    while (found := source.rows(pattern.format(len(rows)))) is not None:
        rows.append(found)
    return rows


def ssul_tensors(source: Source, shapes: Shapes) -> dict[str, Tensor]:
    """Our network's tensors from SSUL's or LAG's state dict."""
    source.drop(*_UNUSED)
    tensors = _extractor(source, shapes, "classifier.aspp")
    parts = {"conv": "0", "norm": "1", "classify": "3"}
    for name in (n for n in shapes if n.startswith("heads.")):
        _, head, part, leaf = name.split(".")
        tensors[name] = source.take(f"classifier.head.{head}.{parts[part]}.{leaf}", shapes[name])
    return tensors


def dkd_tensors(source: Source, shapes: Shapes) -> dict[str, Tensor]:
    """Our network's tensors from DKD's state dict: the auxiliary channel has no part in predictions."""
    tensors = _extractor(source, shapes, "aspp")
    width = shapes["heads.0.classify.weight"][1]
    source.take("cls.0.weight", (1, width, 1, 1))
    source.take("cls.0.bias", (1,))
    return tensors | _heads_behind_one_convolution(source, shapes, 1)


def star_tensors(source: Source, shapes: Shapes) -> dict[str, Tensor]:
    """Our network's tensors from STAR's state dict."""
    return _extractor(source, shapes, "aspp") | _heads_behind_one_convolution(source, shapes, 0)


def _heads_behind_one_convolution(source: Source, shapes: Shapes, first: int) -> dict[str, Tensor]:
    """Every head gets a copy of the shared convolution.

    Step 0's gets a channel for the background, whose weights and bias are 0: its logit is 0 and its probability 0.5,
    so the highest probability is the background's exactly where no class is above 0.5.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for name in (n for n in shapes if n.startswith("heads.")):
        _, head, part, leaf = name.split(".")
        if part != "classify":
            key = f"aspp.last_conv.{'0' if part == 'conv' else '1'}.{leaf}"
            if key not in shared:
                shared[key] = source.take(key, shapes[name])
            tensors[name] = shared[key].clone()
            continue
        key = f"cls.{int(head) + first}.{leaf}"
        if head != "0":
            tensors[name] = source.take(key, shapes[name])
            continue
        own = source.take(key, (shapes[name][0] - 1, *shapes[name][1:]))
        tensors[name] = torch.cat([torch.zeros_like(own[:1]), own])
    return tensors


def _extractor(source: Source, shapes: Shapes, aspp: str) -> dict[str, Tensor]:
    """Backbone and ASPP; batch norm behind the image pooling is folded, as ours has none there."""
    tensors: dict[str, Tensor] = {}
    pooled = next(n for n in shapes if n.endswith(".project.0.bias"))
    project = pooled.removesuffix(".bias")
    for name in (n for n in shapes if not n.startswith(("heads.", project))):
        key = re.sub(r"^backbone\.stem\.0", "backbone.conv1", name)
        key = re.sub(r"^backbone\.stem\.1", "backbone.bn1", key)
        key = re.sub(r"^aspp\.branches", f"{aspp}.convs", key)
        key = re.sub(r"^aspp\.project", f"{aspp}.project", key)
        tensors[name] = source.take(key, shapes[name])
    branch = project.split(".")[2]
    weight = source.take(f"{aspp}.convs.{branch}.1.weight", shapes[f"{project}.weight"])
    norm = read_norm(source, f"{aspp}.convs.{branch}.2", weight.shape[0], plain)
    folded, bias = norm.folded(weight)
    return tensors | {f"{project}.weight": folded.float(), pooled: bias.float()}
