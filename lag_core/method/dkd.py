"""DKD, "Decomposed Knowledge Distillation" (Baek et al., NeurIPS 2022): it distils the two halves of a logit.

A logit w . f is a sum over the channels of f. The channels with positive contributions add up to its positive reasoning
score, those with negative ones to its negative score. Distilling the logit leaves both free as long as their sum
stays the same; distilling each does not. A new classifier starts from an auxiliary one, which has learned to reject
everything seen so far. What the paper leaves open, and what we chose: docs/method.md#dkd.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core.method.classification import softplus
from lag_core.method.precision import full_precision
from lag_core.model.heads import AnyHead


class Scores(NamedTuple):
    """The two reasoning scores of every channel, which add up to the logits without the biases."""

    positive: Tensor
    """[B, K, h, w], at least 0."""
    negative: Tensor
    """[B, K, h, w], at most 0."""


def reasoning_scores(heads: Iterable[AnyHead], latent: Tensor) -> Scores:
    """Positive and negative reasoning scores. Shape: Z [B, C, h, w] -> `Scores` of all heads' channels.

    Source: DKD, the decomposition of a logit; docs/method.md#dkd.
    """
    every = [_of_head(head, latent) for head in heads]
    return Scores(torch.cat([one.positive for one in every], 1), torch.cat([one.negative for one in every], 1))


@full_precision
def _of_head(head: AnyHead, latent: Tensor) -> Scores:
    hidden, weight = head.hidden(latent), head.classify.weight
    high, low = hidden.clamp(min=0), hidden.clamp(max=0)
    positive = F.conv2d(high, weight.clamp(min=0)) + F.conv2d(low, weight.clamp(max=0))
    negative = F.conv2d(high, weight.clamp(max=0)) + F.conv2d(low, weight.clamp(min=0))
    return Scores(positive, negative)


@full_precision
def decomposed_distillation(student: Scores, teacher: Scores, channels: range) -> Tensor:
    """Binary cross-entropy of the student's two scores towards the teacher's sigmoids, for `channels`.

    Mean over pixels and channels, both halves added. The teacher's own entropy is subtracted: 0 means equal.

    Shape: two `Scores` [B, K, h, w] -> scalar. Source: DKD, docs/method.md#dkd.
    """
    chosen = slice(channels.start, channels.stop)
    pairs = (student.positive, teacher.positive), (student.negative, teacher.negative)
    return torch.stack([_towards(new[:, chosen], old[:, chosen]) for new, old in pairs]).sum()


def _towards(student: Tensor, teacher: Tensor) -> Tensor:
    target = teacher.detach()
    return (softplus(student) - softplus(target) - target.sigmoid() * (student - target)).mean()


@full_precision
def auxiliary_loss(head: AnyHead, latent: Tensor, valid: Tensor) -> Tensor:
    """The loss of the auxiliary classifier, row 0 of `head`: every labelled pixel is a negative.

    The head's other layers and the extractor get no gradient.

    Shape: Z [B, C, h, w], valid bool [B, h, w] -> scalar. Source: DKD, docs/method.md#dkd.
    """
    with torch.no_grad():
        hidden = head.hidden(latent)
    assert head.classify.bias is not None
    logit = F.conv2d(hidden, head.classify.weight[:1], head.classify.bias[:1])[:, 0]
    return softplus(logit).masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)
