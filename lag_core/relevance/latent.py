"""Relevance of the latent map Z for a class, through the heads: for the term NSC and for the explanations.

R = Z * d s / d Z, with s the class's logit summed over chosen pixels. For heads of convolutions, batch norm
in evaluation mode and ReLUs this is LRP's epsilon rule for epsilon -> 0, less the share of the biases.
Source: ours (docs/method.md#nsc).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from lag_core.model.heads import AnyHead

Decode = Callable[[Tensor], Tensor] | nn.ModuleList
"""Z [P, C, h, w] -> logits [P, K, h, w], or the heads themselves (`Segmenter.heads`).

The heads are faster: a row then passes through the head of its own channel alone. Batch norm must be in
evaluation mode, so that rows do not mix.
"""


def latent_relevance(
    decode: Decode, latent: Tensor, channels: Tensor | int, weights: Tensor, *, create_graph: bool = False
) -> Tensor:
    """Relevance of every latent pixel and channel for one class per row.

    Row p asks about `channels[p]`: s = sum over pixels of weights[p] * logit, with weights a mask or any
    map. Repeat an image's row to ask about several classes at once.

    The result keeps a gradient to `latent` if that has one. A head of convolutions and ReLUs is piecewise
    linear: d s / d Z is then constant almost everywhere and the gradient is exact without `create_graph`,
    which is needed only to train the heads themselves through R.

    Shape: Z [P, C, h, w], channels int64 [P] or one int, weights [P, h, w] -> R [P, C, h, w]. Where the logits have
    another resolution than Z (a foreign network's), weights may have either; those of Z are spread over the logits.
    """
    if weights.dim() != 3 or len(weights) != len(latent):
        raise ValueError(f"weights are {tuple(weights.shape)}: expected one map for each of {len(latent)} rows")
    if len(latent) == 0:
        return latent * 1
    with torch.inference_mode(False), torch.enable_grad():
        entry = _trackable(latent)
        if not create_graph or not entry.requires_grad:
            entry = entry.detach().requires_grad_()
        logits = class_logits(decode, entry, channels)
        # the weights as the vector of a vector-Jacobian product: no sum that could leave the dtype's range
        vector = _matching(_trackable(weights).to(logits.dtype), logits, latent)
        (slope,) = torch.autograd.grad(logits, entry, vector, create_graph=create_graph)
    return latent * slope


def _matching(weights: Tensor, logits: Tensor, latent: Tensor) -> Tensor:
    """Weights at the resolution of the logits. ValueError for a map that has neither their size nor Z's."""
    if weights.shape[-2:] == logits.shape[-2:]:
        return weights
    if weights.shape[-2:] != latent.shape[-2:]:
        raise ValueError(
            f"weights are {tuple(weights.shape)}: expected one map per row, {(len(latent), *latent.shape[-2:])}, at "
            "the latent resolution"
        )
    return nn.functional.interpolate(weights[:, None], logits.shape[-2:], mode="nearest")[:, 0]


def _trackable(x: Tensor) -> Tensor:
    """Inference tensors cannot take part in a backward pass; their clone can."""
    return x.clone() if x.is_inference() else x


def class_logits(decode: Decode, latent: Tensor, channels: Tensor | int) -> Tensor:
    """The logit map of each row's own channel. Shape: Z [P, C, h, w], channels int64 [P] -> [P, h, w]."""
    rows = torch.as_tensor(channels, device=latent.device).expand(len(latent))
    if isinstance(decode, nn.ModuleList):
        return _own_head_logits(decode, latent, rows)
    logits = decode(latent)
    return logits[torch.arange(len(logits), device=logits.device), rows]


def _own_head_logits(heads: nn.ModuleList, latent: Tensor, channels: Tensor) -> Tensor:
    """As `class_logits`, each head given only the rows that ask about one of its channels."""
    maps, order, start = [], [], 0
    for head in heads:
        size = cast(AnyHead, head).classify.out_channels
        rows = ((channels >= start) & (channels < start + size)).nonzero()[:, 0]
        if len(rows):
            own = head(latent[rows])
            maps.append(own[torch.arange(len(rows), device=rows.device), channels[rows] - start])
            order.append(rows)
        start += size
    if sum(map(len, order)) < len(latent):
        raise ValueError(f"channels {sorted(set(channels.tolist()))}: the heads have channels 0 to {start - 1}")
    return torch.cat(maps)[torch.cat(order).argsort()]


def relevance_map(relevance: Tensor) -> Tensor:
    """Places with evidence: positive part of the sum over channels. Shape: [P, C, h, w] -> [P, h, w]."""
    return relevance.sum(1).clamp(min=0)


def channel_profile(relevance: Tensor) -> Tensor:
    """Which channels carry the evidence: the sum over pixels. Shape: [P, C, h, w] -> [P, C]."""
    return relevance.sum((2, 3))
