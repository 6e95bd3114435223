"""One classification head per group of classes, and how a new head starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """Conv - BN - ReLU - Conv1x1. Shape: Z [B, C, h, w] -> logits [B, classes, h, w]. Source: METHOD.md B."""

    def __init__(self, latent: int, width: int, classes: int, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(latent, width, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.classify(self.relu(self.norm(self.conv(z))))


@torch.no_grad()
def transfer_weights(new: Head, source: Head, rows: Sequence[int] | None = None) -> None:
    """Start each class of `new` from one of `source`: from `rows`, or all from its first (the unknown's head).

    Source: METHOD.md E, weight transfer; the rows are ours (lag_core/method/kinship.py).
    """
    chosen = [0] * new.classify.out_channels if rows is None else list(rows)
    new.conv.load_state_dict(source.conv.state_dict())
    new.norm.load_state_dict(source.norm.state_dict())
    assert new.classify.bias is not None and source.classify.bias is not None
    new.classify.weight.copy_(source.classify.weight[chosen])
    new.classify.bias.copy_(source.classify.bias[chosen])


@torch.no_grad()
def share_background(new: Head, source: Head) -> None:
    """MiB's start: the background's probability is shared evenly among itself and the new classes.

    With softmax, logits of b - log(n + 1) for each of the n new classes and the background leave the sum as it was.
    Source: MiB (arXiv 2002.00718), section 3.3.
    """
    transfer_weights(new, source)
    assert new.classify.bias is not None and source.classify.bias is not None
    shift = math.log(new.classify.out_channels + 1)
    new.classify.bias.sub_(shift)
    source.classify.bias[0].sub_(shift)
