"""Processes that work on one task together, each on its share; `torchrun` starts them.

Without torchrun there is one process, and every function here returns its argument.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lag_core.config import ConfigError
from lag_core.sentences import Said

Item = TypeVar("Item")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it gives up: one may be measuring or writing."""

_LOST = ("gloo", "nccl", "connection", "timed out")
"""Words in what torch says when another process is gone."""


class ProcessLost(Said, RuntimeError):
    """Another process of the task ended, or this one was told to."""


@dataclass(frozen=True)
class Processes:
    """This process among all that work together."""

    rank: int = 0
    count: int = 1
    sums: Any = None
    """The process group of sums inside a loss: not DDP's group, which has its own order of calls."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th item, from `rank` on."""
        return items[self.rank :: self.count]

    def block(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's consecutive items; those of all processes, concatenated, are `items`."""
        first, last = (len(items) * rank // self.count for rank in (self.rank, self.rank + 1))
        return items[first:last]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def gathered(self, value: Item) -> list[Item]:
        """The value of each process, the first one's first; the same list everywhere."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def add_up(self, *arrays: np.ndarray) -> None:
        """Replace each array by its sum over the processes, in place. Any shapes, the same everywhere."""
        if self.count == 1:
            return
        parts = self.gathered(arrays)
        for place, array in enumerate(arrays):
            array[...] = np.sum([one[place] for one in parts], axis=0, dtype=array.dtype)


_current = Processes()
_apart = False
"""Whether sums stay within this process for now."""


def first() -> bool:
    """Whether this is the process that prints; known before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"


def current() -> Processes:
    """This process among the others."""
    return _current


@contextmanager
def together(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started, on "cpu" (gloo) or "cuda" (NCCL, a GPU each).

    ConfigError if there are fewer GPUs than processes on this host, ProcessLost if another process ends.
    """
    global _current
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield _current
        return
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = torch.cuda.device_count()
        if local >= gpus:
            raise ConfigError(f"process {local} of this host has no GPU: there are {gpus}")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    before = signal.signal(signal.SIGTERM, _told_to_stop)
    _current = Processes(dist.get_rank(), count, dist.new_group())
    try:
        with lost_is_said():
            yield _current
    finally:
        signal.signal(signal.SIGTERM, before)
        _current = Processes()
        dist.destroy_process_group()


@contextmanager
def lost_is_said() -> Iterator[None]:
    """Turn torch's errors about another process into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if _current.count == 1 or isinstance(error, ProcessLost) or not any(word in text for word in _LOST):
            raise
        _leave_in_peace()
        raise ProcessLost("another process of the task ended") from error


def _leave_in_peace() -> None:
    """From now on, ignore torchrun's request to end, so that the message about the loss is written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    _leave_in_peace()
    raise ProcessLost("the process was told to end, because another one of the task ended")


@contextmanager
def apart() -> Iterator[None]:
    """Inside, `mean` and `total` use this process only: for values that only some processes compute."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def mean(value: Tensor) -> Tensor:
    """Mean of a count or a size over the processes, without gradient; with one process, `value` itself. Any shape.

    DDP takes the mean of the processes' gradients. A sum divided by this is, in that mean, the sum over all divided by
    the count over all.
    """
    if _current.count == 1 or _apart:
        return value
    found = value.detach().float()
    dist.all_reduce(found, group=_current.sums)
    return found / _current.count


def total(value: Tensor) -> Tensor:
    """Sum over the processes, through which the gradient flows; with one process, `value` itself. Any shape."""
    if _current.count == 1 or _apart:
        return value
    return _Total.apply(value)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        found = value.clone()
        dist.all_reduce(found, group=_current.sums)
        return found

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return _Total.apply(gradient[0])


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm by the batch of all processes together; on any device. Equal to batch norm with one process."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or _current.count == 1:
            return super().forward(x)
        wide = x.float()
        pixels = total(torch.full((), wide.numel() / wide.shape[1], device=x.device))
        average = total(wide.sum((0, 2, 3))) / pixels
        variance = total((wide - average[:, None, None]).square().sum((0, 2, 3))) / pixels
        self._move_statistics(average.detach(), variance.detach() * pixels / (pixels - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((wide - average[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _move_statistics(self, average: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(average, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def sync_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of `model` see the batch of all processes; names and tensors do not change."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
