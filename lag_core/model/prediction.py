"""From logits to probabilities per class and label maps at an image's own size."""

from __future__ import annotations

import torch
from torch import Tensor

from lag_core.data.remap import class_scores
from lag_core.data.undecided import least_probability
from lag_core.model.segmenter import upsample
from lag_core.protocol import LabelSpace


def probabilities(logits: Tensor, loss: str) -> Tensor:
    """Sigmoid for networks trained with BCE, softmax otherwise. Shape: [B, channels, ...] -> same.

    Under "bce_foreground" channel 0, the background's, is not used: its probability is that of the likeliest class
    being absent. So it is the highest exactly where no class is above 0.5: DKD's and STAR's rule.
    """
    if loss == "bce_foreground":
        own = logits[:, 1:].sigmoid()
        return torch.cat([1 - own.amax(1, keepdim=True), own], 1)
    return logits.sigmoid() if loss == "bce" else logits.softmax(1)


def class_probabilities(logits: Tensor, labels: LabelSpace, loss: str) -> Tensor:
    """Probabilities per class index; the unknown class is folded into the background. docs/method.md#network.

    Shape: [B, channels, h, w] -> [B, seen classes, h, w].
    """
    return class_scores(probabilities(logits, loss).transpose(0, 1), labels).transpose(0, 1)


def full_size(logits: Tensor, square: int, inside: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Logits of the padded square, cut to the picture and brought to its own size.

    Shape: [1, K, h, w] -> [1, K, *size]. `inside` is the picture's height and width in the square of side `square`.
    """
    cut = upsample(logits, (square, square))[..., : inside[0], : inside[1]]
    return cut if inside == size else upsample(cut, size)


def label_map(logits: Tensor, labels: LabelSpace, loss: str) -> Tensor:
    """Class index of the highest probability. Shape: [B, channels, H, W] -> uint8 [B, H, W]."""
    return highest(class_probabilities(logits, labels, loss))


def certainty(logits: Tensor, labels: LabelSpace, loss: str) -> Tensor:
    """Probability of the class in `label_map`, at most 1. Shape: [B, channels, H, W] -> [B, H, W]."""
    return class_probabilities(logits, labels, loss).amax(1).clamp(max=1)


def stands_out(logits: Tensor, labels: LabelSpace, loss: str, least: float | None = None) -> Tensor:
    """Whether some class has a probability above `least` (default: data.undecided.least_probability).

    Elsewhere the result is "none", although `label_map` has a class there. For pictures alone: metrics take the most
    probable class.

    Shape: [B, channels, H, W] -> bool [B, H, W].
    """
    return certainty(logits, labels, loss) > (least_probability(loss) if least is None else least)


def highest(scores: Tensor) -> Tensor:
    """Index of the highest score, the first among equal ones: argmax over dimension 1, as bytes.

    A running maximum over whole planes; on a CPU argmax walks them pixel by pixel, which takes 5 to 25 times as long.
    Shape: [B, K, ...] with K <= 256, without NaN -> uint8 [B, ...].
    """
    best = scores[:, 0].clone()
    better = torch.zeros_like(best, dtype=torch.bool)
    candidate = better.view(torch.uint8)
    index = torch.zeros_like(candidate)
    for k in range(1, scores.shape[1]):
        torch.gt(scores[:, k], best, out=better)
        torch.maximum(index, candidate.mul_(k), out=index)  # k rises, so the larger index is the later one
        torch.maximum(best, scores[:, k], out=best)
    return index
