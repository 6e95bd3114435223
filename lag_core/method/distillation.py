"""Distillation: the student keeps the teacher's logits and features.

The teacher never gets a gradient: its tensors are detached here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core import processes
from lag_core.method.classification import softplus
from lag_core.method.precision import full_precision
from lag_core.protocol import IGNORE, LabelSpace


def not_labelled_new(labels: Tensor, space: LabelSpace, step: int) -> Tensor:
    """Pixels where the teacher may still be right: all but those that `labels` gives to a class of `step`.

    Shape: int64 [B, h, w] -> bool [B, h, w]; ignored pixels (255) stay in, as the teacher needs no label.
    """
    return (labels < space.new_channels(step).start) | (labels == IGNORE)


@full_precision
def distil_logits(
    student: Tensor,
    teacher: Tensor,
    keep: Tensor | None = None,
    *,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    temperature: float = 1.0,
) -> Tensor:
    """Divergence of the student's old channels from the teacher's, mean over kept pixels.

    sigmoid: binary cross-entropy towards the teacher's sigmoid, mean over channels. softmax: KL over the old
    channels alone, at `temperature`. The teacher's own entropy is subtracted: 0 means equal, gradients are
    the same.

    Shape: student [B, K, h, w], teacher [B, K_old, h, w], keep bool or float [B, h, w] -> scalar. Source:
    ours (docs/method.md#distillation); the softmax form is LwF's (arXiv 1606.09282).
    """
    target, old = teacher.detach() / temperature, student[:, : teacher.shape[1]] / temperature
    if activation == "sigmoid":
        loss = (softplus(old) - softplus(target) - target.sigmoid() * (old - target)).mean(1)
    else:
        log_target = target.log_softmax(1)
        loss = (log_target.exp() * (log_target - old.log_softmax(1))).sum(1)
    loss = loss * temperature**2
    if keep is None:
        return loss.mean()
    weight = keep.to(loss.dtype)
    return (loss * weight).sum() / processes.mean(weight.sum()).clamp(min=1e-6)


@full_precision
def distil_features(student: Tensor, teacher: Tensor, keep: Tensor | None = None) -> Tensor:
    """Relative squared distance ||s - t||^2 / ||t||^2 of two feature maps, over the whole batch.

    Shape: twice [B, C, h, w], keep bool or float [B, h, w] -> scalar. Source: ours (docs/method.md#distillation).
    """
    target = teacher.detach()
    if keep is None:
        error, size = F.mse_loss(student, target, reduction="sum"), torch.linalg.vector_norm(target).square()
    else:
        error = ((student - target).square().sum(1) * keep).sum()
        size = (target.square().sum(1) * keep).sum()
    return error / processes.mean(size).clamp(min=1e-12)


def decay(factor: float, progress: float) -> float:
    """factor ** progress, with progress 0..1 through the step. Source: reference code (docs/method.md#distillation)."""
    return factor**progress
