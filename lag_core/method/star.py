"""STAR, "Saving 100x Storage: Prototype Replay" (Chen et al., NeurIPS 2023), without exemplar images.

A step's images hold too many pixels of its own classes. STAR keeps a prototype and a spread of each old class, replays
as many features as the class has pixels in the whole data, and repeats the background; features of old classes stay
the same, and a new class is pushed away from the old one that it resembles most. What the paper leaves open, and what
we chose: docs/method.md#star.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core.method.precision import full_precision
from lag_core.method.prototypes import class_means
from lag_core.method.regions import membership


class Balance(NamedTuple):
    """Weights of pixels, so that a step's training samples are distributed like the whole data."""

    replayed: Tensor
    """float [K] replayed features of each channel for one pixel of the step; 0 for those that are not old classes."""
    background: float
    """How often a background pixel counts."""


def balance(stored: Tensor, own: Tensor, old: Sequence[int], catch_all: int = 0) -> Balance:
    """The balance of a step.

    `stored` are pixel counts of all steps before (of the background: their sum), `own` those of this step, by channel.
    An old class has its share of the step's pixels, however many of them show it here; the background has that of all
    steps together.

    Shape: stored [K], own [K] -> `Balance`. Source: STAR, docs/method.md#star.
    """
    replayed = torch.zeros(len(stored), dtype=torch.float64)
    rows = list(old)
    replayed[rows] = stored[rows].double() / max(float(own.sum()), 1.0)
    here = float(own[catch_all])
    return Balance(replayed, (float(stored[catch_all]) + here) / here if here else 1.0)


@full_precision
def similarity_to_kin(
    student: Tensor, teacher: Tensor, labels: Tensor, new: Sequence[int], prototypes: Tensor, old: Sequence[int]
) -> Tensor:
    """The SAD loss: cosine between the mean feature of each new class and the prototype of the old class that the
    teacher's features of it are closest to; mean over the new classes in the batch, 0 if there is none.

    Shape: Z twice [B, C, h, w], labels int64 [B, h, w], prototypes [K, C] -> scalar. Source: STAR, docs/method.md#star.
    """
    means, counts = class_means(student, labels, new)
    before, _ = class_means(teacher.detach(), labels, new)
    known = F.normalize(prototypes[list(old)].detach().to(means), dim=1)
    if len(known) == 0:
        return means.sum() * 0.0
    kin = (F.normalize(before, dim=1) @ known.T).argmax(1)
    closeness = (F.normalize(means, dim=1) * known[kin]).sum(1)
    present = counts > 0
    return (closeness * present).sum() / present.sum().clamp(min=1)


def of_classes(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Pixels of any of `classes`. Shape: int64 [B, h, w] -> bool [B, h, w]."""
    return membership(labels, classes).any(0)
