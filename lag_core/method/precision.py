"""Loss terms are computed in float32, whatever the network's precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(term: Callable[P, R]) -> Callable[P, R]:
    """Run `term` without autocast and with its half-precision tensor arguments in float32.

    Sums over thousands of pixels overflow in float16 and lose digits in bfloat16 (docs/method.md#reference); the
    gradient flows back through the cast.
    """

    @functools.wraps(term)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            call: Callable[..., R] = term
            return call(*map(_widen, args), **{name: _widen(value) for name, value in kwargs.items()})

    return wrapped


def _widen(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
