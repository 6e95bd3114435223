"""Computing a stage a second time on the way back, instead of keeping what it computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(stage: nn.Module, x: Tensor) -> Tensor:
    """What `stage` makes of `x`, with the same gradients; running statistics move once, as without. Any shape."""

    def contexts() -> tuple[AbstractContextManager[None], _Still]:
        return nullcontext(), _Still(stage)

    return checkpoint(stage, x, use_reentrant=False, context_fn=contexts)


class _Still:
    """Batch norm's running statistics stay as they are. It may be entered again, as checkpoint does."""

    def __init__(self, stage: nn.Module):
        self.norms = [(m, m.momentum) for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        for norm, _ in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, momentum in self.norms:
            norm.momentum = momentum
