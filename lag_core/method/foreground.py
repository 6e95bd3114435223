"""Classes by their sigmoid, and no logit for the background, as DKD and STAR train ("bce_foreground").

A pixel is background where no class is above 0.5. Channel 0, the background's or the unknown's, takes no part: DKD has
its auxiliary classifier there. Where channel 0 must be compared with the others, its logit is 0, a probability of 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lag_core.method.classification import softplus
from lag_core.method.precision import full_precision
from lag_core.protocol import IGNORE


def silent_catch_all(logits: Tensor) -> Tensor:
    """The logits with a 0 in channel 0, so that it is the highest exactly where no class is above 0.5.

    Shape: [B, K, h, w] -> same.
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits[:, 1:]], 1)


@full_precision
def foreground_cross_entropy(
    logits: Tensor, labels: Tensor, channels: range, positive: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Sum over `channels` of the binary cross-entropy, mean over the labelled pixels.

    A pixel of another label, such as the background, is a negative of every channel. `positive` multiplies the loss of
    a channel at its own pixels.

    Shape: logits [B, K, h, w], labels int64 [B, h, w], weight [B, h, w] -> scalar.
    Source: the mBCE loss of DKD (NeurIPS 2022), docs/method.md#dkd.
    """
    own = logits[:, channels.start : channels.stop]
    valid = labels != IGNORE
    names = torch.arange(channels.start, channels.stop, device=labels.device)[:, None, None]
    hit = labels[:, None] == names
    # softplus(x) is the loss of a negative, softplus(x) - x that of a positive
    loss = torch.where(hit, positive * (softplus(own) - own), softplus(own)).sum(1)
    if weight is not None:
        loss = loss * weight
    return loss.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)
