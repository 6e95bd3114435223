"""MiB, "Modeling the Background" (arXiv 2002.00718): distillation that allows for the background's shift.

Its unbiased cross-entropy is `classification.unbiased_cross_entropy`; its start of a new head is
`model.heads.share_background`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lag_core import processes
from lag_core.method.precision import full_precision


@full_precision
def unbiased_distillation(student: Tensor, teacher: Tensor, keep: Tensor | None = None, background: int = 0) -> Tensor:
    """Cross-entropy from the teacher's softmax to the student's, whose new classes count as background.

    The student's new classes were background to the teacher: the student's probability of the background is
    the sum over `background` and all channels that the teacher lacks. Sum over channels, mean over kept
    pixels. The teacher's own entropy is subtracted, so that 0 means equal; the gradients are the paper's.

    Shape: student [B, K, h, w], teacher [B, K_old, h, w], keep bool or float [B, h, w] -> scalar.
    Source: MiB, equations 6 and 7.
    """
    target = teacher.detach().log_softmax(1)
    old = teacher.shape[1]
    log_p = student.log_softmax(1)
    with_new = torch.cat([log_p[:, background : background + 1], log_p[:, old:]], 1).logsumexp(1, keepdim=True)
    unbiased = torch.cat([log_p[:, :background], with_new, log_p[:, background + 1 : old]], 1)
    loss = (target.exp() * (target - unbiased)).sum(1)
    if keep is None:
        return loss.mean()
    weight = keep.to(loss.dtype)
    return (loss * weight).sum() / processes.mean(weight.sum()).clamp(min=1e-6)
