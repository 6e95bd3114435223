"""Classification losses: binary cross-entropy per channel, cross-entropy, and MiB's unbiased cross-entropy.

All of them take logits [B, K, h, w] and labels int64 [B, h, w] (training channels, 255 ignored), and return
the mean over the labelled pixels; a batch without any gives 0. `weight` [B, h, w] multiplies a pixel loss and
leaves the divisor as it is, so that unsure pixels count for less and the sure ones no more than before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core import processes
from lag_core.method.precision import full_precision
from lag_core.protocol import IGNORE


class _Softplus(torch.autograd.Function):
    """log(1 + e^x) and its gradient, the sigmoid; four times as fast on a CPU as the built-in one.

    log(1 + y) with y in (0, 1] is off by at most half a float's last digit at 1, and log is vectorised where
    log1p is not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs().neg_().exp_().add_(1).log_().add_(x.clamp(min=0))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad[0] * x.sigmoid()


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x): the binary cross-entropy of a logit whose target is 0. Any shape."""
    return _Softplus.apply(x)


@full_precision
def binary_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Every channel is decided independently: sum over channels of BCE with a one-hot target.

    Shape: logits [B, K, h, w], labels [B, h, w], weight [B, h, w] -> scalar.
    Source: reference code (docs/method.md#schedule).
    """
    valid = labels != IGNORE
    target = labels.masked_fill(~valid, 0)[:, None]
    # softplus(x) is the loss of a channel with target 0; target 1 subtracts x
    loss = softplus(logits).sum(1) - logits.gather(1, target)[:, 0]
    return _mean(loss, valid, weight)


@full_precision
def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy. Shape: logits [B, K, h, w], labels [B, h, w], weight [B, h, w] -> scalar."""
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return _mean(loss, labels != IGNORE, weight)


@full_precision
def unbiased_cross_entropy(logits: Tensor, labels: Tensor, n_old: int, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy in which "background" may be any old class: its probability is the sum over them.

    `n_old` is the number of channels before this step, background (channel 0) and unknown included; with 0 or
    1 it is plain cross-entropy. A pixel labelled as an old class keeps that class's own probability.

    Shape: logits [B, K, h, w], labels [B, h, w], weight [B, h, w] -> scalar.
    Source: MiB (arXiv 2002.00718), equations 4 and 5.
    """
    log_total = logits.logsumexp(1)
    log_old = logits[:, : max(n_old, 1)].logsumexp(1)
    valid = labels != IGNORE
    named = logits.gather(1, labels.masked_fill(~valid, 0)[:, None])[:, 0]
    loss = log_total - torch.where(labels == 0, log_old, named)
    return _mean(loss, valid, weight)


def _mean(loss: Tensor, valid: Tensor, weight: Tensor | None) -> Tensor:
    if weight is not None:
        loss = loss * weight
    return loss.masked_fill(~valid, 0.0).sum() / processes.mean(valid.sum()).clamp(min=1)
