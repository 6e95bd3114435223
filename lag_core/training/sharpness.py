"""The curvature of the loss when a part joins, and so the largest stable learning rate.

On a parabola of curvature c, gradient descent with Nesterov momentum m converges if its rate is below
(2 + 2m) / ((1 + 2m) c), and otherwise diverges. A distillation term is such a parabola around the
teacher, and its weight multiplies its curvature: at a larger rate the loss jumps when the part joins, however small the
gradient is at first. Source: docs/method.md#schedule (ours).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

ROUNDS = 5
"""Most rounds of the power iteration."""

SETTLED = 0.1
"""It ends when the curvature changes by less than this share."""


def largest_curvature(terms: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> float:
    """Largest curvature of the sum of `terms` along any direction of `parameters`, by power iteration.

    A term without curvature here is left out: a linear one, one that does not reach the parameters, or one with a
    kink, such as a distance at 0. The graphs are kept. A few rounds slightly underestimate it. The start
    is always the same, and no other random number is used up. 0 if nothing curves.
    """
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in parameters]
    slopes = [slope for term in terms if (slope := _slope(term, parameters, start)) is not None]
    if not slopes:
        return 0.0
    slope = [torch.stack(parts).sum(0) for parts in zip(*slopes, strict=True)]
    found, direction = 0.0, start
    for _ in range(ROUNDS):
        before, direction = found, _turned(slope, parameters, direction)
        found = _norm(direction)
        if not 0 < found < math.inf:
            return 0.0
        if abs(found - before) < SETTLED * found:
            break
    return found


def largest_rate(curvature: float, momentum: float) -> float:
    """Rate above which Nesterov's momentum diverges on a parabola of this curvature."""
    return math.inf if curvature <= 0 else (2 + 2 * momentum) / ((1 + 2 * momentum) * curvature)


def _slope(term: Tensor, parameters: Sequence[nn.Parameter], start: Sequence[Tensor]) -> list[Tensor] | None:
    """Gradient of a term as a function of the parameters; None if it has no curvature."""
    if not parameters or not term.requires_grad:
        return None
    found = torch.autograd.grad(term, parameters, create_graph=True, allow_unused=True)
    slope = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, found, strict=True)]
    if not any(part.requires_grad for part in slope):
        return None
    return slope if math.isfinite(_norm(_turned(slope, parameters, start))) else None


def _turned(slope: Sequence[Tensor], parameters: Sequence[nn.Parameter], direction: Sequence[Tensor]) -> list[Tensor]:
    """How the slope changes along `direction`, taken at length 1."""
    length = _norm(direction)
    curved = [(part, along) for part, along in zip(slope, direction, strict=True) if part.requires_grad]
    towards = torch.stack([(part * along / length).sum() for part, along in curved]).sum()
    turned = torch.autograd.grad(towards, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, turned, strict=True)]


def _norm(parts: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(part.detach().double().square().sum()) for part in parts))
