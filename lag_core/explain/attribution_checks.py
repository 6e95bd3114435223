"""How far to trust an attribution map: agreement, pointing, and whether it depends on the weights.

Sources: docs/method.md#relevance. Cascading randomisation: Adebayo et al. 2018 (1810.03292); ours permutes each tensor
instead of drawing new values, so that activations keep their scale.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lag_core.model.backbone import STAGES
from lag_core.model.segmenter import Segmenter

TOP = 0.2
"""Share of the area that counts as a map's top (docs/method.md#relevance)."""


@dataclass(frozen=True)
class Agreement:
    """How alike two maps are: of two steps, two methods, two runs.

    cosine: of the positive parts, 0..1; NaN if one of them is empty. top_iou: IoU of the top 20 % of the area, 0..1.
    """

    cosine: float
    top_iou: float


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Shape: [H, W], [H, W]. ValueError if the shapes differ."""
    if first.shape != second.shape:
        raise ValueError(f"maps of {first.shape} and {second.shape} cannot be compared")
    a, b = (np.maximum(x, 0).astype(np.float64).ravel() for x in (first, second))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float(a @ b / norms) if norms > 0 else float("nan")
    tops = top_area(first), top_area(second)
    return Agreement(cosine, float((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum()))


def top_area(values: np.ndarray, share: float = TOP) -> np.ndarray:
    """The `share` of places with the largest values, equal ones in order. Shape: [H, W] -> bool [H, W]."""
    count = max(1, round(share * values.size))
    top = np.zeros(values.size, bool)
    top[np.argsort(-values.ravel(), kind="stable")[:count]] = True
    return top.reshape(values.shape)


@dataclass(frozen=True)
class Pointing:
    """How much of a map lies on the object.

    inside: share of the positive relevance within the mask; NaN if none is positive. area: share of the area within
    it, the value expected by chance. hit: whether the largest value lies within (the pointing game).
    """

    inside: float
    area: float
    hit: bool


def pointing(values: np.ndarray, mask: np.ndarray, counted: np.ndarray | None = None) -> Pointing:
    """Shape: values [H, W], mask bool [H, W], counted bool [H, W] (places that take part, without padding and ignored
    pixels). ValueError if the shapes differ or nothing is counted."""
    counted = np.ones(values.shape, bool) if counted is None else counted
    if values.shape != mask.shape or values.shape != counted.shape or not counted.any():
        raise ValueError(f"map {values.shape}, mask {mask.shape} and a counted area {counted.shape} do not fit")
    inside = mask & counted
    total = np.maximum(values, 0)[counted].sum(dtype=np.float64)
    within = np.maximum(values, 0)[inside].sum(dtype=np.float64)
    peak = np.argmax(np.where(counted, values, -np.inf))
    return Pointing(
        float(within / total) if total > 0 else float("nan"),
        float(inside.sum() / counted.sum()),
        bool(inside.ravel()[peak]),
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, equal values share their mean rank; NaN if one map is constant. Shape: [...], [...]."""
    ranks = [_ranks(x.ravel()) for x in (first, second)]
    a, b = (r - r.mean() for r in ranks)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


@dataclass(frozen=True)
class Randomised:
    """A map before and after the weights down to `part` were shuffled: rank correlation, signed and of |map|."""

    part: str
    signed: float
    absolute: float


def randomised(model: Segmenter, explain: Callable[[Segmenter], np.ndarray], seed: int = 0) -> tuple[Randomised, ...]:
    """Shuffle heads, ASPP and stages one after another, and compare each map with the true one.

    `explain`: network -> map [H, W]; it must build its views from the network that it gets. The model itself is
    not changed. A map that hardly changes does not depend on what was learned.
    """
    true = explain(model)
    found = []
    for part, shuffled in cascade(model, seed):
        values = explain(shuffled)
        found.append(Randomised(part, rank_correlation(true, values), rank_correlation(np.abs(true), np.abs(values))))
    return tuple(found)


def cascade(model: Segmenter, seed: int = 0) -> Iterator[tuple[str, Segmenter]]:
    """A copy of the model, its parts shuffled from the heads down to the stem; the same object each time."""
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    parts = {"heads": shuffled.heads, "aspp": shuffled.aspp}
    parts |= {name: getattr(shuffled.backbone, name) for name in reversed(STAGES)}
    for name, part in parts.items():
        shuffle(part, generator)
        yield name, shuffled


@torch.no_grad()
def shuffle(module: nn.Module, generator: torch.Generator) -> None:
    """Permute the entries of each floating-point tensor of `module`, in place."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
