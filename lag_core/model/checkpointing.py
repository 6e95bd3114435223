"""Recomputes a stage in the backward pass instead of keeping its activations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(stage: nn.Module, x: Tensor) -> Tensor:
    """The output of `stage` for `x`, with the same gradients; running statistics are updated once. Any shape."""

    def contexts() -> tuple[AbstractContextManager[None], _Still]:
        return nullcontext(), _Still(stage)

    return checkpoint(stage, x, use_reentrant=False, context_fn=contexts)


class _Still:
    """Keeps batch norm's running statistics unchanged. It may be entered again, as checkpoint does."""

    def __init__(self, stage: nn.Module):
        self.norms = [(m, m.momentum) for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        for norm, _ in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, momentum in self.norms:
            norm.momentum = momentum
