"""Neuron-relevant semantic consistency (NSC): old classes are recognised by the same evidence as before.

The paper constrains the Euclidean distance between the neuron relevance of the old and the new model at the
latent map (docs/method.md#certain, fact 6); which relevance, and how it is normalised, is ours (docs/method.md#nsc).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lag_core.method.precision import full_precision
from lag_core.protocol import IGNORE
from lag_core.relevance.latent import Decode, channel_profile, latent_relevance, relevance_map


class Pairs(NamedTuple):
    """The (image, class) pairs on which both models are compared; P of them."""

    images: Tensor
    """int64 [P] position in the batch."""
    channels: Tensor
    """int64 [P] training channel."""
    masks: Tensor
    """bool [P, h, w] where the teacher is sure of that class."""


@torch.no_grad()
def choose_pairs(regions: Tensor, max_classes: int, generator: torch.Generator, min_pixels: int = 1) -> Pairs:
    """Every image with every class in it, of at most `max_classes` classes drawn by `generator` (a CPU one).

    `regions` names the teacher's confident class of each pixel, 255 elsewhere (`regions.confident_regions`).

    Shape: int64 [B, h, w] -> `Pairs`.
    """
    present = [k for k in regions.unique().tolist() if k != IGNORE]
    drawn = torch.randperm(len(present), generator=generator)[:max_classes].tolist()
    wanted = torch.tensor(sorted(present[i] for i in drawn), dtype=torch.int64, device=regions.device)
    masks = regions[:, None] == wanted[:, None, None]
    images, columns = (masks.flatten(2).sum(2) >= min_pixels).nonzero(as_tuple=True)
    return Pairs(images, wanted[columns], masks[images, columns])


@full_precision
def relevance_consistency(student: Tensor, teacher: Tensor, profile_weight: float = 0.5) -> Tensor:
    """Squared distance of two models' relevance, mean over rows.

    ||r - r_old||^2 of the relevance maps, plus `profile_weight` times the same of the channel profiles, each
    L2-normalised; 0 where the models agree, and where there is no row.

    Shape: R twice [P, C, h, w] -> scalar.
    """
    teacher = teacher.detach()
    maps = _distance(relevance_map(student), relevance_map(teacher))
    profiles = _distance(channel_profile(student), channel_profile(teacher))
    return (maps + profile_weight * profiles).sum() / max(len(student), 1)


@full_precision
def semantic_consistency(
    student_decode: Decode,
    teacher_decode: Decode,
    student: Tensor,
    teacher: Tensor,
    pairs: Pairs,
    *,
    create_graph: bool = False,
    profile_weight: float = 0.5,
) -> Tensor:
    """NSC of a batch: relevance of both models for each pair, compared.

    `create_graph` lets the term train the heads too; the gradient to Z is the same without (see
    `latent_relevance`), at less than half the cost.

    Shape: Z twice [B, C, h, w] -> scalar.
    """
    images, channels, masks = pairs
    ours = latent_relevance(student_decode, student[images], channels, masks, create_graph=create_graph)
    theirs = latent_relevance(teacher_decode, teacher.detach()[images], channels, masks)
    return relevance_consistency(ours, theirs, profile_weight)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of normalised rows. Shape: twice [P, ...] -> [P]."""
    return (_normalised(a) - _normalised(b)).square().sum(1)


def _normalised(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat / (torch.linalg.vector_norm(flat, dim=1, keepdim=True) + 1e-6)
