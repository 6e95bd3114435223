"""Heads that begin with a convolution of Z, which is linear, whatever follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class LinearStart(NamedTuple):
    """A head that begins with a convolution."""

    first: nn.Conv2d
    rest: Callable[[Tensor], Tensor]
    """The layers after it: [N, width, h, w] -> logits [N, outputs, h', w']."""
    outputs: int


@runtime_checkable
class HasLinearHeads(Protocol):
    """A decoder whose heads, side by side, begin with convolutions of Z."""

    def linear_heads(self) -> Sequence[LinearStart]:
        """All of its heads, if every one begins with a convolution; else none."""


def sums_up(first: nn.Module) -> bool:
    """Whether a module is a convolution that the sums here can replace."""
    return (
        isinstance(first, nn.Conv2d)
        and first.groups == 1
        and first.padding_mode == "zeros"
        and not isinstance(first.padding, str)
    )
