"""Regions of classes: label maps at the latent resolution, and sums over a class's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core.method.precision import full_precision
from lag_core.protocol import IGNORE


def size_of(maps: Tensor) -> tuple[int, int]:
    """(height, width) of [..., H, W]."""
    return maps.shape[-2], maps.shape[-1]


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels at another resolution: each pixel takes the label at its centre.

    Shape: int64 [B, H, W] -> int64 [B, *size]. Source: docs/method.md#spm (nearest).
    """
    if labels.shape[-2:] == size:
        return labels
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(labels.dtype)


@lru_cache(maxsize=256)
def on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers as a cached tensor on the device: copying a list to a GPU waits for it. Read-only.

    Shape: -> int64 [n].
    """
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def membership(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Which pixels belong to which of `classes`. Shape: int64 [B, h, w] -> bool [n, B, h, w]."""
    wanted = on_device(tuple(classes), labels.device).to(labels.dtype)
    return labels[None] == wanted[:, None, None, None]


@full_precision
def region_sums(latent: Tensor, regions: Tensor) -> Tensor:
    """Sum of Z over each region.

    Shape: Z [B, C, h, w], regions bool or float [n, B, h, w] -> [n, C]; the gradient flows to Z.
    """
    if latent.shape[-2:] != regions.shape[-2:]:
        raise ValueError(
            f"regions are {tuple(regions.shape[-2:])}, the latent map is {tuple(latent.shape[-2:])}: "
            "resize the labels first (regions.resize_labels)"
        )
    weights = regions.to(latent.dtype).flatten(2).permute(1, 2, 0)
    return (latent.flatten(2) @ weights).sum(0).T


@torch.no_grad()
@full_precision
def confident_regions(
    teacher_logits: Tensor, classes: Sequence[int], threshold: float, *, activation: str = "sigmoid"
) -> Tensor:
    """Where the teacher is sure of one of `classes`: its best channel there, 255 elsewhere.

    Shape: logits [B, K, h, w] -> int64 [B, h, w]. Source: docs/method.md#nsc (the fixed mask A_k).
    """
    scores = teacher_logits.sigmoid() if activation == "sigmoid" else teacher_logits.softmax(1)
    best, channel = scores.max(1)
    wanted = torch.zeros(teacher_logits.shape[1], dtype=torch.bool, device=channel.device)
    wanted[on_device(tuple(classes), channel.device)] = True
    return channel.masked_fill(~(wanted[channel] & (best >= threshold)), IGNORE)
