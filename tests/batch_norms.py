"""Batch norms for tests."""

from __future__ import annotations

import torch
from torch import nn


def lively(model: nn.Module, seed: int = 0) -> None:
    """Batch norms with statistics of their own: with those of a new network, folding would hardly show."""
    generator = torch.Generator().manual_seed(seed)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low, high in ((norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 1.5),
                                  (norm.weight.data, 0.6, 1.4), (norm.bias.data, -0.3, 0.3)):  # fmt: skip
            assert tensor is not None
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
