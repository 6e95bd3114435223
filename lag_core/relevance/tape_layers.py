"""Linear layers from the arguments of PyTorch's functions: the convolutions, norms and resizing for `tape`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core.relevance.layers import Convolution
from lag_core.relevance.rules import LinearMap, Passing, TensorMap, identity, ones

__all__ = ["Filter", "Passing", "layer_of"]


class Filter(LinearMap, Protocol):
    """A linear layer into which a following batch norm can be folded."""

    def followed_by(self, norm: Filter) -> Filter | None:
        """One layer for both; None if there is no such layer."""


class Scaling(Convolution):
    """A convolution by its tensors. Batch norm is one that scales each channel: groups = channels, 1 x 1."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ):
        self.weight, self.bias = weight.detach().clone(), None if bias is None else bias.detach().clone()
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups = groups
        self._mapped: dict[TensorMap, Tensor] = {}

    def followed_by(self, norm: Filter) -> Filter | None:
        if not isinstance(norm, Scaling):
            return None
        scale, shift = norm.weight.flatten(), norm.bias
        bias = shift if self.bias is None or shift is None else self.bias * scale + shift
        weight = self.weight * scale.view(-1, 1, 1, 1)
        return Scaling(weight, bias, self.stride, self.padding, self.dilation, self.groups)


class Transposed:
    """A transposed convolution by its tensors; weight [in, out / groups, k, k]."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ):
        self.weight, self.bias = weight.detach().clone(), None if bias is None else bias.detach().clone()
        self.settings = (_pair(stride), _pair(padding), _pair(output_padding), groups, _pair(dilation))
        self._mapped: dict[TensorMap, Tensor] = {}

    def weights(self, how: TensorMap) -> Tensor:
        """g(w), computed once."""
        if how not in self._mapped:
            self._mapped[how] = how(self.weight)
        return self._mapped[how]

    def bias_with(self, weights: TensorMap) -> Tensor | None:
        return None if self.bias is None else weights(self.bias)

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        return F.conv_transpose2d(x, self.weights(weights), bias, *self.settings)

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        stride, padding, _, groups, dilation = self.settings
        return F.conv2d(s, self.weights(weights), None, stride, padding, dilation, groups)

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        seen = self.forward_with(torch.ones_like(like), ones).clamp(min=1)
        return self.backward_with(s / seen, ones, like)

    def followed_by(self, norm: Filter) -> Filter | None:
        groups = self.settings[3]
        if not isinstance(norm, Scaling) or groups != 1:
            return None
        scale, shift = norm.weight.flatten(), norm.bias
        bias = shift if self.bias is None or shift is None else self.bias * scale + shift
        return Transposed(self.weight * scale.view(1, -1, 1, 1), bias, *self.settings)


class Averaging:
    """A resizing, a padding with zeros or a mean: linear, no weight below 0, each channel by itself."""

    def __init__(self, run: Callable[[Tensor], Tensor]):
        self.run_plain = run

    def bias_with(self, weights: TensorMap) -> Tensor | None:
        return None

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        return self.run_plain(x) * weights(x.new_ones(()))

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        with torch.enable_grad():
            low = torch.zeros_like(like).requires_grad_()
            (found,) = torch.autograd.grad(self.run_plain(low), low, s)
        return found * weights(like.new_ones(()))

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        total = self.run_plain(torch.ones_like(like))
        return self.backward_with(s / total.clamp(min=1e-6), identity, like)

    def followed_by(self, norm: Filter) -> Filter | None:
        return None


def layer_of(name: str, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Filter | None:
    """The layer that a function applies with these arguments; None for other functions."""
    rest, named = args[1:], {key: value for key, value in kwargs.items() if key != "input"}
    if name == "conv2d":
        return None if isinstance(_argument(rest, named, 3, "padding", 0), str) else Scaling(*rest, **named)
    if name == "conv_transpose2d":
        return Transposed(*rest, **named)
    if name == "batch_norm":
        return _norm(rest, named)
    if name == "pad" and _argument(rest, named, 2, "value", None):
        return None
    if name == "interpolate" and _argument(rest, named, 2, "mode", "nearest") not in ("nearest", "bilinear", "area"):
        return None
    return Averaging(lambda x: func(x, *rest, **named))


def _norm(rest: Any, named: Any) -> Filter | None:
    """Batch norm in evaluation mode, with running statistics."""
    mean, variance = (_argument(rest, named, i, key, None) for i, key in enumerate(("running_mean", "running_var")))
    if mean is None or variance is None or _argument(rest, named, 4, "training", False):
        return None
    weight, bias = _argument(rest, named, 2, "weight", None), _argument(rest, named, 3, "bias", None)
    scale = (variance + _argument(rest, named, 6, "eps", 1e-5)).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return Scaling(scale.view(-1, 1, 1, 1), shift, groups=len(scale))


def _argument(rest: Any, named: Any, place: int, name: str, default: Any) -> Any:
    return rest[place] if len(rest) > place else named.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    found = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return (found * 2)[:2] if len(found) == 1 else found
