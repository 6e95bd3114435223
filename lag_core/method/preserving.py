"""Specific-feature preserving (SFP): sample-specific channels of old classes stay near the teacher.

The paper asks for it at two granularities, global and class-wise, as an asymmetric contrast; the reference
code has a triplet loss whose anchors come from the old model alone. The formulas are our reconstruction
(docs/method.md#sfp).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core import processes
from lag_core.method.precision import full_precision
from lag_core.method.prototypes import MIN_PIXELS
from lag_core.method.regions import membership, region_sums
from lag_core.protocol import IGNORE


class FeaturePreserving(NamedTuple):
    """The two granularities of SFP, not yet weighed."""

    classwise: Tensor
    """Triplet loss, mean over the old classes present; `margin` minus the negative's distance at equality."""
    globally: Tensor
    """Squared distance of the images' mean vectors; 0 at equality."""


@full_precision
def feature_preserving(
    student: Tensor,
    teacher: Tensor,
    regions: Tensor,
    classes: Sequence[int],
    specific: Tensor,
    margin: float = 1.0,
    min_pixels: int = MIN_PIXELS,
) -> FeaturePreserving:
    """Pull the student's old-class vectors to the teacher's, push the rest of its pixels away from them.

    `regions` names the teacher's class of each pixel, 255 where nothing is known; `classes` are the old
    classes. With v_k the mean of Z_SS over region k, and n_k that over the other known pixels, all
    L2-normalised:

        classwise = mean_k max(0, ||v_k^old - v_k^new|| - ||v_k^old - n_k^new|| + margin)
        globally  = mean_b ||g_b^old - g_b^new||^2, with g_b the mean of Z_SS over image b

    Anchors (old) carry no gradient. A class takes part if its region and its complement have `min_pixels`
    each.

    Shape: Z twice [B, C, h, w], regions int64 [B, h, w], specific bool [C] -> two scalars.
    """
    teacher, block = teacher.detach(), specific.to(student)
    members, known = membership(regions, classes), regions != IGNORE
    others = known[None] & ~members
    enough = (_sizes(members) >= min_pixels) & (_sizes(others) >= min_pixels)
    anchor = F.normalize(processes.total(region_sums(teacher, members)) * block, dim=1)
    # a sum has the direction of the mean; what is known, less the class, is the rest
    sums = processes.total(region_sums(student, torch.cat([members, known[None]]))) * block
    positive, negative = F.normalize(sums[:-1], dim=1), F.normalize(sums[-1] - sums[:-1], dim=1)
    triplet = (_distance(anchor, positive) - _distance(anchor, negative) + margin).clamp(min=0)
    present = enough & specific.any().to(enough.device)
    classwise = (triplet * present).sum() / present.sum().clamp(min=1)
    return FeaturePreserving(classwise, _global_distance(student, teacher, block))


def _global_distance(student: Tensor, teacher: Tensor, block: Tensor) -> Tensor:
    new = F.normalize(student.mean((2, 3)) * block, dim=1)
    old = F.normalize(teacher.mean((2, 3)) * block, dim=1)
    return (new - old).square().sum(1).mean()


def _sizes(regions: Tensor) -> Tensor:
    """Pixels of each region. Shape: bool [n, B, h, w] -> [n]."""
    return processes.total(regions.flatten(1).sum(1))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance, smooth where both agree. Shape: twice [n, C] -> [n]."""
    return ((a - b).square().sum(1) + 1e-8).sqrt() - 1e-4
