"""Pseudo-labels: the teacher labels the pixels that the current step leaves unlabelled.

A pixel may change only where its label is the catch-all (unknown or background). The uncertainty of the
teacher is U = 1 - (p1 - p2), with p1 >= p2 its two best scores. Source: docs/method.md#pseudo-labels ("hard"
with margin 0 is the reference code's rule; the margin, "soft" and "adaptive" are ours); "entropy" is PLOP's (arXiv
2011.11390).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lag_core.method.classification import softplus
from lag_core.method.precision import full_precision
from lag_core.protocol import IGNORE, LabelSpace

Rule = Literal["hard", "soft", "adaptive", "entropy"]


class PseudoLabels(NamedTuple):
    """Labels after the teacher's pseudo-labels; all at the labels' resolution, without gradient."""

    labels: Tensor
    """int64 [B, h, w] training channels, 255 ignored."""
    weight: Tensor
    """float32 [B, h, w] weight of each pixel in the loss; 1, but with "soft" the margin where accepted."""
    accepted: Tensor
    """bool [B, h, w] pixels that were given an old class."""
    candidates: Tensor
    """bool [B, h, w] pixels whose label was the catch-all, so that they could change."""
    factor: Tensor
    """float32 [B] PLOP's adaptive factor nu of each image; 1 with the other rules."""


class TeacherView(NamedTuple):
    """The input of the rules."""

    channel: Tensor
    """int64 [B, h, w] the teacher's best channel."""
    score: Tensor
    """float [B, h, w] its score p1."""
    margin: Tensor
    """float [B, h, w] p1 - p2."""


@torch.no_grad()
@full_precision
def pseudo_labels(
    teacher_logits: Tensor,
    labels: Tensor,
    space: LabelSpace,
    step: int,
    *,
    rule: Rule = "hard",
    threshold: float = 0.7,
    margin: float = 0.0,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    keep: float = 0.5,
    entropy_thresholds: Tensor | None = None,
) -> PseudoLabels:
    """Fuse labels of `step` with the teacher's predictions.

    "hard": accept if p1 >= threshold and p1 - p2 >= margin. "soft": the same, and an accepted pixel weighs
    p1 - p2. "adaptive": of each class, accept the `keep` share of pixels with the lowest U; no threshold.
    "entropy": accept below `entropy_thresholds` [K_old] (see `ClassEntropy`), ignore the other catch-all
    pixels.

    Shape: logits [B, K_old, h, w] of the teacher, labels int64 [B, h, w] -> `PseudoLabels`.
    """
    if teacher_logits.shape[-2:] != labels.shape[-2:]:
        raise ValueError(
            f"teacher logits are {tuple(teacher_logits.shape[-2:])}, labels {tuple(labels.shape[-2:])}: "
            "bring them to one resolution (model.segmenter.upsample)"
        )
    if teacher_logits.shape[1] > space.new_channels(step).start:
        raise ValueError(
            f"the teacher has {teacher_logits.shape[1]} channels, but step {step} begins at channel "
            f"{space.new_channels(step).start}: pass the model of the previous step"
        )
    candidates = labels < space.first_foreground
    if rule == "entropy":
        return _by_entropy(teacher_logits, labels, candidates, space, activation, entropy_thresholds)
    view = teacher_view(teacher_logits, activation)
    named = candidates & (view.channel >= space.first_foreground)
    if rule == "adaptive":
        accepted = _most_certain(view, named, keep)
    else:
        accepted = named & (view.score >= threshold) & (view.margin >= margin)
    weight = torch.ones_like(view.score)
    if rule == "soft":
        weight = torch.where(accepted, view.margin, weight)
    fused = torch.where(accepted, view.channel, labels)
    return PseudoLabels(fused, weight, accepted, candidates, weight.new_ones(len(labels)))


def teacher_view(logits: Tensor, activation: str) -> TeacherView:
    """Best channel, its score and its lead over the second. Shape: [B, K, h, w] -> three times [B, h, w]."""
    best, channel = logits.max(1)
    # the second best without a sort, which is slow along a strided axis
    second = logits.scatter(1, channel[:, None], -torch.inf).amax(1)
    if activation == "sigmoid":
        p1, p2 = best.sigmoid(), second.sigmoid()
    else:
        total = logits.logsumexp(1)
        p1, p2 = (best - total).exp(), (second - total).exp()
    return TeacherView(channel, p1, p1 - p2)


def _most_certain(view: TeacherView, named: Tensor, keep: float) -> Tensor:
    """Of each class the ceil(keep * n) `named` pixels with the largest margin. Shape: bool [B, h, w]."""
    channel, margin = view.channel[named], view.margin[named]
    by_margin = margin.argsort(descending=True, stable=True)
    order = by_margin[channel[by_margin].argsort(stable=True)]
    counts = channel.bincount()
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - starts[channel[order]]
    kept = torch.zeros_like(channel, dtype=torch.bool)
    kept[order] = rank < (keep * counts.double()).ceil()[channel[order]]
    accepted = torch.zeros_like(named)
    accepted[named] = kept
    return accepted


def _by_entropy(
    logits: Tensor,
    labels: Tensor,
    candidates: Tensor,
    space: LabelSpace,
    activation: str,
    thresholds: Tensor | None,
) -> PseudoLabels:
    """PLOP's rule: trust the teacher, its "background" too, where its entropy is below the class's threshold.

    Untrusted catch-all pixels are ignored. nu = trusted / catch-all pixels of an image.
    """
    if thresholds is None:
        raise ValueError('rule "entropy" needs entropy_thresholds (pseudo_labels.ClassEntropy.thresholds)')
    channel = logits.argmax(1)
    trusted = candidates & (normalised_entropy(logits, activation) < thresholds.to(logits)[channel])
    accepted = trusted & (channel >= space.first_foreground)
    fused = torch.where(accepted, channel, labels).masked_fill(candidates & ~trusted, IGNORE)
    total = candidates.flatten(1).sum(1)
    factor = trusted.flatten(1).sum(1) / total.clamp(min=1)
    factor = torch.where(total > 0, factor, torch.ones_like(factor))
    return PseudoLabels(fused, torch.ones_like(logits[:, 0]), accepted, candidates, factor)


@full_precision
def normalised_entropy(logits: Tensor, activation: str = "softmax") -> Tensor:
    """The teacher's uncertainty in [0, 1]. Shape: [B, K, h, w] -> [B, h, w].

    softmax: entropy / log K (PLOP). sigmoid: mean binary entropy of the channels / log 2 (ours).
    """
    if activation == "softmax":
        log_p = logits.log_softmax(1)
        return -(log_p.exp() * log_p).sum(1) / math.log(max(logits.shape[1], 2))
    # the entropy of a coin with p = sigmoid(x) is softplus(x) - p x
    return (softplus(logits) - logits.sigmoid() * logits).mean(1).clamp(min=0) / math.log(2)


class ClassEntropy:
    """Median entropy of the teacher for each class that it predicts, from one pass over a step's images.

    Keeps a histogram, so that any number of images fit; the median is exact to one bin.
    Source: PLOP, section 4.2; the floor on a threshold, so that a very sure teacher is not refused, is ours.
    """

    def __init__(self, channels: int, bins: int = 1000):
        self.histogram = torch.zeros(channels, bins, dtype=torch.int64)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, space: LabelSpace, activation: str = "softmax") -> None:
        """Count the catch-all pixels of a batch. Shape: logits [B, K_old, h, w], labels [B, h, w]."""
        where = labels < space.first_foreground
        channels, bins = self.histogram.shape
        entropy = normalised_entropy(logits, activation)[where]
        place = logits.argmax(1)[where] * bins + (entropy * bins).long().clamp(0, bins - 1)
        counts = place.bincount(minlength=channels * bins).view(channels, bins)
        self.histogram += counts.to(self.histogram.device)

    def thresholds(self, floor: float = 1e-3) -> Tensor:
        """Median entropy of each class, at least `floor`; 0 if never predicted. Shape: float32 [K_old]."""
        bins = self.histogram.shape[1]
        total = self.histogram.sum(1)
        place = (self.histogram.cumsum(1) * 2 >= total[:, None]).int().argmax(1)
        median = ((place + 1) / bins).clamp(min=floor)
        return torch.where(total > 0, median, torch.zeros_like(median))

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that restore the histogram."""
        return {"histogram": self.histogram.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a stored histogram."""
        self.histogram = state["histogram"].clone()


class Quality(NamedTuple):
    """Pixel counts of pseudo-labels against the hidden truth."""

    candidates: int
    """Catch-all pixels."""
    accepted: int
    """Those that were given an old class."""
    judged: int
    """Accepted pixels whose truth is known (not 255)."""
    correct: int

    @property
    def coverage(self) -> float:
        """Accepted pixels / catch-all pixels; 0 if there are none."""
        return self.accepted / max(self.candidates, 1)

    @property
    def precision(self) -> float | None:
        """Correct / judged pixels; None if no accepted pixel has a known truth."""
        return self.correct / self.judged if self.judged else None


@torch.no_grad()
def coverage_and_precision(pseudo: PseudoLabels, truth_channels: Tensor) -> Quality:
    """How many pixels were given an old class, and how many of those rightly.

    `truth_channels` are the training channels of the full annotation (class index + `space.offset`), later
    steps' classes included if known. Shape: int64 [B, h, w], 255 unknown -> `Quality`.
    Source: docs/method.md#pseudo-label-quality.
    """
    judged = pseudo.accepted & (truth_channels != IGNORE)
    right = judged & (pseudo.labels == truth_channels)
    return Quality(*(int(pixels.sum()) for pixels in (pseudo.candidates, pseudo.accepted, judged, right)))
