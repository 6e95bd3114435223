"""One classification head per group of classes, and how a new head starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.model.activation import Activation, activation


class Head(nn.Module):
    """Conv - BN - ReLU - Conv1x1. Shape: Z [B, C, h, w] -> logits [B, classes, h, w].

    Source: docs/method.md#network.
    """

    def __init__(self, latent: int, width: int, classes: int, kernel: int = 3, act: Activation = "relu"):
        super().__init__()
        self.conv = nn.Conv2d(latent, width, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = activation(act)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.classify(self.relu(self.norm(self.conv(z))))

    def hidden(self, z: Tensor) -> Tensor:
        """The input of `classify`. Shape: [B, C, h, w] -> [B, width, h, w]. No running statistic is updated."""
        x = self.conv(z)
        if not self.norm.training:
            return self.relu(self.norm(x))
        return self.relu(F.batch_norm(x, None, None, self.norm.weight, self.norm.bias, True, eps=self.norm.eps))

    def of_patches(self, patches: Tensor) -> Tensor:
        """Logits at the centre of 3x3 patches, the convolution unpadded. Shape: [N, C, 3, 3] -> [N, classes, 1, 1]."""
        whole = self.conv.kernel_size[0] == 3
        hidden = F.conv2d(patches if whole else patches[..., 1:2, 1:2], self.conv.weight)
        return self.classify(self.relu(self.norm(hidden)))


class LinearHead(nn.Conv2d):
    """A 1x1 convolution alone. Shape: Z [B, C, h, w] -> logits [B, classes, h, w]. Source: MiB (arXiv 2002.00718)."""

    def __init__(self, latent: int, classes: int):
        super().__init__(latent, classes, 1)

    @property
    def classify(self) -> nn.Conv2d:
        """The layer that gives the logits: the head itself."""
        return self

    def hidden(self, z: Tensor) -> Tensor:
        """The input of `classify`: Z itself."""
        return z

    def of_patches(self, patches: Tensor) -> Tensor:
        """Logits at the centre of 3x3 patches. Shape: [N, C, 3, 3] -> [N, classes, 1, 1]."""
        return self(patches[..., 1:2, 1:2])


AnyHead = Head | LinearHead


@torch.no_grad()
def transfer_weights(new: AnyHead, source: AnyHead, rows: Sequence[int] | None = None) -> None:
    """Start each class of `new` from one of `source`: from `rows`, or all from its first (the unknown's head).

    Source: docs/method.md#pseudo-labels, weight transfer; the rows are ours (lag_core/method/kinship.py).
    """
    chosen = [0] * new.classify.out_channels if rows is None else list(rows)
    if isinstance(new, Head) and isinstance(source, Head):
        new.conv.load_state_dict(source.conv.state_dict())
        new.norm.load_state_dict(source.norm.state_dict())
    assert new.classify.bias is not None and source.classify.bias is not None
    new.classify.weight.copy_(source.classify.weight[chosen])
    new.classify.bias.copy_(source.classify.bias[chosen])


@torch.no_grad()
def share_background(new: AnyHead, source: AnyHead) -> None:
    """MiB's start: the background's probability is shared evenly among itself and the new classes.

    With softmax, logits of b - log(n + 1) for each of the n new classes and the background leave the sum as it was.
    Source: MiB (arXiv 2002.00718), section 3.3.
    """
    transfer_weights(new, source)
    assert new.classify.bias is not None and source.classify.bias is not None
    shift = math.log(new.classify.out_channels + 1)
    new.classify.bias.sub_(shift)
    source.classify.bias[0].sub_(shift)
