"""From Z to logits: the decoder interface for explanations, and the logits of many sets of changed channels at once.

The heads of this project begin with a convolution, which is linear, and so do those of many other networks: with
channels S of Z replaced, its output is that of Z plus the sum over S of what each channel's replacement changes. These
changes are found once for each channel; the outputs of all sets are then one matrix product, and only what lies behind
the convolution runs for each set. Any other decoder runs once for each set. Both give the same logits up to rounding.
Source: ours (docs/method.md, section Fair controls).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lag_core.model.heads import AnyHead, Head, LinearHead
from lag_core.model.linear_start import HasLinearHeads, LinearStart
from lag_core.model.segmenter import Segmenter

Decode = Callable[..., Tensor]
"""(Z [N, C, h, w], rows int64 [N] or None) -> logits [N, K, h', w']; `rows` says which picture a row of Z belongs to.
Without it, the rows are those of the batch in its order, as often as they fit."""

ROWS = 64
"""Latent maps that are decoded at once."""
BYTES = 2**28
"""Bytes kept at once for the sets' logits, and for the channels' changes."""


class OwnDecoder:
    """The decoder of a network of ours, in evaluation mode: its heads, side by side, whatever the picture."""

    def __init__(self, model: Segmenter):
        self.model = model

    def __call__(self, latent: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.model.decode(latent)

    def linear_heads(self) -> list[LinearStart]:
        """See `HasLinearHeads`."""
        heads = list(self.model.heads) if isinstance(self.model.heads, nn.ModuleList) else []
        found = [_linear(head) for head in heads if isinstance(head, Head | LinearHead)]
        return found if len(found) == len(heads) else []


def _linear(head: AnyHead) -> LinearStart:
    """A head of ours, its norm folded into its first convolution; a linear one is a convolution and nothing else."""
    if not isinstance(head, Head):
        return LinearStart(head, lambda x: x, head.out_channels)
    first = fuse_conv_bn_eval(head.conv, head.norm)
    slope = getattr(head.relu, "negative_slope", 0.0)
    return LinearStart(
        first, lambda x: _pixelwise(head.classify, F.leaky_relu(x, slope, inplace=True)), head.classify.out_channels
    )


def _pixelwise(classify: nn.Conv2d, hidden: Tensor) -> Tensor:
    """A 1x1 convolution as matrix products: with few classes several times as fast as a convolution on a CPU."""
    assert classify.bias is not None
    weight = classify.weight.flatten(1).expand(len(hidden), -1, -1)
    return torch.baddbmm(classify.bias[None, :, None], weight, hidden.flatten(2)).unflatten(2, hidden.shape[2:])


def replaced(latent: Tensor, filling: Tensor, channels: Tensor) -> Tensor:
    """Z with some channels of `filling`. Shape: twice [N, C, h, w], int64 [k] -> [N, C, h, w], a new tensor."""
    result = latent.clone()
    result[:, channels] = filling[:, channels]
    return result


@torch.no_grad()
def logits_of_sets(decode: Decode, latent: Tensor, filling: Tensor, sets: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Logits [N, K, h', w'] for each set of channels, after these were taken from `filling`.

    Shape: Z and filling [N, C, h, w]; each set int [k].
    """
    heads = decode.linear_heads() if isinstance(decode, HasLinearHeads) else ()
    if heads and all(_fits(head.first, latent) for head in heads):
        return _by_sums(heads, latent, filling, sets)
    return _one_by_one(decode, latent, filling, sets)


@torch.no_grad()
def decoded(decode: Decode, latent: Tensor, images: int) -> Tensor:
    """Logits of many latent maps, ROWS at a time. Shape: [M * images, C, h, w], all images of one set in a row."""
    rows = torch.arange(len(latent), device=latent.device) % images
    parts = zip(latent.split(ROWS), rows.split(ROWS), strict=True)
    return torch.cat([decode(maps, which) for maps, which in parts])


@torch.no_grad()
def _one_by_one(decode: Decode, latent: Tensor, filling: Tensor, sets: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Any decoder: as many sets at once as fit into ROWS and BYTES."""
    images = len(latent)
    at_once = max(1, min(ROWS, BYTES // max(1, latent[0].nbytes)) // images)
    for first in range(0, len(sets), at_once):
        chosen = [torch.as_tensor(one, device=latent.device) for one in sets[first : first + at_once]]
        changed = latent.repeat(len(chosen), 1, 1, 1)
        for own, channels in zip(changed.split(images), chosen, strict=True):
            own[:, channels] = filling[:, channels]
        yield from decoded(decode, changed, images).split(images)


def _fits(first: nn.Conv2d, latent: Tensor) -> bool:
    """Whether the channels' changes of one image stay within BYTES."""
    return latent[0].numel() * first.out_channels * latent.element_size() <= BYTES


@torch.no_grad()
def _by_sums(
    heads: Sequence[LinearStart], latent: Tensor, filling: Tensor, sets: Sequence[np.ndarray]
) -> Iterator[Tensor]:
    """One matrix product for all sets. All logits of a group of sets are held at once."""
    outputs = sum(head.outputs for head in heads)
    one = len(latent) * outputs * latent[0, 0].numel() * latent.element_size()
    at_once = max(1, BYTES // one)
    for first in range(0, len(sets), at_once):
        masks = _masks(sets[first : first + at_once], latent)
        images = [
            torch.cat([_of_head(head, z, other, masks) for head in heads], 1)
            for z, other in zip(latent.split(1), filling.split(1), strict=True)
        ]
        yield from torch.stack(images, 1)


def _masks(sets: Sequence[np.ndarray], latent: Tensor) -> Tensor:
    """1 where a set holds a channel. Shape: float [S, C]."""
    masks = latent.new_zeros(len(sets), latent.shape[1])
    for row, chosen in zip(masks, sets, strict=True):
        row[torch.as_tensor(chosen, device=latent.device)] = 1
    return masks


def _of_head(head: LinearStart, z: Tensor, filling: Tensor, masks: Tensor) -> Tensor:
    """Logits of one image and one head. Shape: twice [1, C, h, w], [S, C] -> [S, classes, h, w]."""
    base = head.first(z)
    used = masks.any(0).nonzero()[:, 0]
    changes = _changes(head.first, (filling - z)[:, used], used, base)
    found = []
    for part in F.pad(masks[:, used], (0, 1), value=1.0).split(ROWS):
        found.append(head.rest((part @ changes).view(len(part), *base.shape[1:])))
    return torch.cat(found)


def _changes(first: nn.Conv2d, difference: Tensor, used: Tensor, base: Tensor) -> Tensor:
    """What each used channel's difference adds to the convolution's output; in the last row, that output itself.

    Shape: [1, n, h, w], int64 [n], [1, width, h, w] -> [n + 1, width * h * w].
    """
    assert not isinstance(first.padding, str)
    patches = F.unfold(difference, first.kernel_size, first.dilation, first.padding, first.stride)
    count = len(used)
    kernels = first.weight[:, used].flatten(2).transpose(0, 1)  # [n, width, kernel]
    rows = base.new_empty(count + 1, base.numel())
    torch.bmm(kernels, patches.view(count, -1, patches.shape[-1]), out=rows[:-1].view(count, base.shape[1], -1))
    rows[-1] = base.flatten()
    return rows
