"""PLOP (arXiv 2011.11390): local POD, distillation of strip-pooled features at several scales.

Its pseudo-labels are `pseudo_labels` with rule "entropy".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lag_core import processes
from lag_core.method.precision import full_precision
from lag_core.protocol import LabelSpace

SCALES = (1, 2, 4)
"""Regions along each side: the whole map, halves, quarters."""


@full_precision
def local_pod(student: Tensor, teacher: Tensor, scales: Sequence[int] = SCALES, *, relative: bool = False) -> Tensor:
    """Squared distance of two feature maps' local POD embeddings, mean over images.

    At each scale s the map is cut into s x s regions; of each region the mean over its width and the mean
    over its height go into the embedding. `relative` (ours) divides by the teacher's squared embedding, so
    that one weight fits maps of any size.

    Shape: twice [B, C, h, w] -> scalar. Source: PLOP, equations 2, 3, 5 and 6. Where s does not divide a
    side, neighbouring regions share a row or column.
    """
    teacher = teacher.detach()
    distance = _squared_norm(student - teacher, scales)
    if relative:
        return distance.sum() / processes.mean(_squared_norm(teacher, scales).sum()).clamp(min=1e-12)
    return distance.mean()


def local_pod_of_layers(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    scales: Sequence[int] = SCALES,
    *,
    relative: bool = False,
) -> Tensor:
    """Mean of `local_pod` over layers, 0 for none. Shape: lists of [B, C, h, w] -> scalar."""
    pairs = zip(student, teacher, strict=True)
    terms = [local_pod(new, old, scales, relative=relative) for new, old in pairs]
    return torch.stack(terms).mean() if terms else torch.zeros(())


def pod_factor(space: LabelSpace, step: int) -> float:
    """sqrt(classes seen / classes new): more old classes give a larger weight. Source: PLOP, section 4.1."""
    return math.sqrt(space.seen(step) / len(space.steps[step]))


def _squared_norm(features: Tensor, scales: Sequence[int]) -> Tensor:
    """Squared length of the embedding, which is linear in the features. Shape: [B, C, h, w] -> [B].

    Cutting the whole width into s blocks and averaging over each gives the width means of all s x s regions,
    as rows do not mix; the same for the height.
    """
    height, width = features.shape[-2:]
    over_width = features @ _block_means(width, scales).to(features)
    over_height = _block_means(height, scales).to(features).T @ features
    return over_width.flatten(1).square().sum(1) + over_height.flatten(1).square().sum(1)


def _block_means(length: int, scales: Sequence[int]) -> Tensor:
    """Matrix that averages over blocks of a side, the blocks of all scales beside one another.

    Shape: -> [length, sum of scales]; a side shorter than s has as many blocks as pixels.
    """
    columns = []
    for s in (min(s, length) for s in scales):
        for i in range(s):
            block = torch.zeros(length)
            first, last = i * length // s, -((i + 1) * length // -s)
            block[first:last] = 1 / (last - first)
            columns.append(block)
    return torch.stack(columns, 1)
