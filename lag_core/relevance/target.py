"""What is explained: a weighted sum of logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lag_core.model.segmenter import upsample


@dataclass(frozen=True)
class Target:
    """Sum of one channel's logits over a mask; without a mask, over the whole map.

    mask: [H, W] or [B, H, W], bool or weights. If its size is not that of the logits, it picks pixels of the
    upsampled logits, and its weights are carried back by the transpose of `upsample`: the score is the same.
    Source: docs/method.md#nsc (s_k, a sum over the pixels of a class).
    """

    channel: int
    mask: Tensor | None = None

    @staticmethod
    def pixel(channel: int, row: int, column: int, size: tuple[int, int]) -> Target:
        """The logit at one pixel of an image of `size` (H, W)."""
        return Target.region(channel, slice(row, row + 1), slice(column, column + 1), size)

    @staticmethod
    def region(channel: int, rows: slice, columns: slice, size: tuple[int, int]) -> Target:
        """A rectangle of an image of `size` (H, W). ValueError if it holds no pixel."""
        mask = torch.zeros(size)
        mask[rows, columns] = 1
        if not mask.any():
            raise ValueError(f"the region rows {rows}, columns {columns} contains no pixel of an image of {size}")
        return Target(channel, mask)

    def weights(self, logits: Tensor) -> Tensor:
        """Weight of each logit in the score. Shape: logits [B, K, h, w] -> [B, K, h, w]."""
        batch, channels, height, width = logits.shape
        if not 0 <= self.channel < channels:
            raise ValueError(f"channel {self.channel}: the model has channels 0..{channels - 1}")
        weights = torch.zeros_like(logits)
        weights[:, self.channel] = 1 if self.mask is None else self._low(logits, batch, (height, width))
        return weights

    def _low(self, logits: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
        """The mask at the logits' resolution, [B, h, w]."""
        assert self.mask is not None
        mask = self.mask.to(logits.device, logits.dtype)
        if mask.dim() not in (2, 3) or (mask.dim() == 3 and len(mask) != batch):
            raise ValueError(f"mask {tuple(mask.shape)}: expected [H, W] or [{batch}, H, W]")
        mask = mask.expand(batch, *mask.shape[-2:])
        return mask if tuple(mask.shape[-2:]) == size else downsample_weights(mask, size)


def downsample_weights(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """The transpose of `upsample`: sum(weights * upsample(x)) = sum(result * x).

    Shape: [B, H, W] -> [B, *size].
    """
    with torch.enable_grad():
        low = weights.new_zeros(len(weights), 1, *size).requires_grad_()
        high = upsample(low, (weights.shape[-2], weights.shape[-1]))
        (result,) = torch.autograd.grad(high, low, weights[:, None])
    return result[:, 0]


def weights_of(target: Target | Tensor, logits: Tensor) -> Tensor:
    """Weights [B, K, h, w] of the logits, for either form of a target. ValueError if a shape does not fit."""
    if isinstance(target, Target):
        return target.weights(logits)
    if target.shape != logits.shape:
        raise ValueError(f"target weights {tuple(target.shape)}: the logits have shape {tuple(logits.shape)}")
    return target.to(logits.device, logits.dtype)
