"""The tensors of a checkpoint, taken one by one; a missing, unknown or misshapen one is an error with its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lag_core.importing.container import Checkpoint
from lag_core.importing.error import CheckpointError

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_COUNTER = "num_batches_tracked"
"""Batch norm's counters, which some versions write and none needs."""


class Source:
    """A state dict whose tensors are taken out. `where` and `peer` are for error messages."""

    def __init__(self, checkpoint: Checkpoint, peer: str):
        self.where, self.peer = str(checkpoint.path), peer
        self._left = {k: v for k, v in checkpoint.tensors.items() if not k.endswith(_COUNTER)}

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def keys(self) -> Iterable[str]:
        """Keys that were not taken yet."""
        return self._left.keys()

    def rows(self, key: str) -> int | None:
        """Length of the first axis of a tensor, None if there is no such one; it is not used up."""
        return int(self._left[key].shape[0]) if key in self._left and self._left[key].dim() else None

    def take(self, key: str, shape: Sequence[int]) -> Tensor:
        """A tensor as float32, used up. CheckpointError unless it is there, of that shape, real and finite."""
        if key not in self._left:
            raise CheckpointError(f"{self.where} lacks {key}, which {self.peer}'s network has")
        value = self._left.pop(key)
        if tuple(value.shape) != tuple(shape):
            found = tuple(value.shape)
            raise CheckpointError(f"{self.where}: {key} has shape {found}, expected {tuple(shape)} for {self.peer}")
        if value.dtype not in _FLOATS:
            raise CheckpointError(f"{self.where}: {key} is of type {value.dtype}, expected floating-point numbers")
        numbers = value.to(torch.float32, copy=True).contiguous()
        if not bool(numbers.isfinite().all()):
            raise CheckpointError(f"{self.where}: {key} holds values that are not finite: the training failed")
        if key.endswith("running_var") and bool((numbers < 0).any()):
            raise CheckpointError(f"{self.where}: {key} holds a variance below 0")
        return numbers

    def drop(self, *prefixes: str) -> None:
        """Drop tensors that only training needs."""
        self._left = {k: v for k, v in self._left.items() if not k.startswith(prefixes)}

    def finish(self) -> None:
        """CheckpointError if an unknown key is left."""
        if self._left:
            first = min(self._left)
            raise CheckpointError(
                f"{self.where} holds {first[:80]}, which does not belong to {self.peer}'s network "
                f"({len(self._left)} such keys)"
            )
