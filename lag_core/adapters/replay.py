"""From a changed Z to logits through a network that has no such function: its forward pass is replayed.

The module that makes Z returns the given map instead. What ran before it need not run again: modules whose calls all
ended before Z was made return the same output for the same picture. Only the outermost modules are remembered,
with their output cloned, as later layers may write into it. Source: ours (docs/adr/0006-the-interface-of-a-network.md).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from lag_core.adapters.adapter import AdapterError

ROWS = 4
"""Maps Z that are replayed at once."""

REMEMBERED = 512 * 2**20
"""Bytes of upstream outputs that a decoder keeps."""

Run = Callable[[Tensor], Tensor]
"""Images -> logits, through the network."""

Calls = list[Any]
"""Outputs of one module, in the order of its calls."""


def latent_and_logits(target: nn.Module, run: Run, images: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The output of the module `target` in a pass, and the logits. AdapterError unless it is one map [B, C, h, w]."""
    found: list[Any] = []
    handle = target.register_forward_hook(lambda _, __, output: found.append(_cloned(output)))
    try:
        logits = run(images)
    finally:
        handle.remove()
    if len(found) != 1:
        raise AdapterError(f"the module {name!r} runs {len(found)} times in a pass: Z must be the output of one call")
    if not isinstance(found[0], Tensor) or found[0].dim() != 4 or len(found[0]) != len(images):
        shape = tuple(found[0].shape) if isinstance(found[0], Tensor) else type(found[0]).__name__
        raise AdapterError(f"the output of {name!r} is {shape}: Z must be a map [B, C, h, w]")
    return found[0], logits


def upstream(net: nn.Module, target: nn.Module, run: Run, images: Tensor) -> list[nn.Module]:
    """The outermost modules whose calls all ended before `target` began, and that are not inside one another."""
    stack: list[nn.Module] = []
    parents: dict[nn.Module, list[nn.Module | None]] = {}
    late: set[nn.Module] = set()
    reached = False

    def enter(module: nn.Module, inputs: Any) -> None:
        nonlocal reached
        if module is target:
            reached = True
            late.update(stack)
        if reached:
            late.add(module)
        parents.setdefault(module, []).append(stack[-1] if stack else None)
        stack.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()

    handles = [m.register_forward_pre_hook(enter) for m in net.modules()]
    handles += [m.register_forward_hook(leave) for m in net.modules()]
    try:
        run(images)
    finally:
        for handle in handles:
            handle.remove()
    early = set(parents) - late
    return [m for m in early if not any(parent in early for parent in parents[m])]


@contextmanager
def answering(module: nn.Module, answer: Callable[[], Any]) -> Iterator[None]:
    """Make `module` return `answer`'s value for any input; restored afterwards."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *args, **named: answer()
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


class Replay:
    """The way from Z to logits for a batch of pictures, [B, 3, S, S]; `early` are modules to remember."""

    def __init__(self, target: nn.Module, early: Sequence[nn.Module], run: Run, images: Tensor, lock: threading.RLock):
        self.target, self.early, self.run, self.images, self.lock = target, tuple(early), run, images, lock
        self._kept: OrderedDict[int, list[Calls]] = OrderedDict()

    def __call__(self, latent: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Logits of maps Z of these pictures. Shape: [N, C, h, w], rows int64 [N] -> [N, K, h', w']."""
        places = rows_of(rows, len(latent), len(self.images))
        parts = zip(latent.split(ROWS), places.split(ROWS), strict=True)
        with self.lock:
            return torch.cat([self._some(part, own.tolist()) for part, own in parts])

    def _some(self, latent: Tensor, rows: list[int]) -> Tensor:
        remembered = [self._remembered(row) for row in rows] if self.early else []
        with ExitStack() as changed:
            for place, module in enumerate(self.early):
                outputs = map(_cloned, _stacked([one[place] for one in remembered]))
                changed.enter_context(answering(module, partial(next, outputs)))
            changed.enter_context(answering(self.target, latent.clone))
            return self.run(self.images[rows])

    @torch.no_grad()
    def _remembered(self, row: int) -> list[Calls]:
        """The output of each early module for one picture."""
        if row not in self._kept:
            found: list[Calls] = [[] for _ in self.early]
            hooks = [m.register_forward_hook(_keeper(calls)) for m, calls in zip(self.early, found, strict=True)]
            try:
                self.run(self.images[row : row + 1])
            finally:
                for hook in hooks:
                    hook.remove()
            self._kept[row] = found
            while len(self._kept) > ROWS and sum(map(_bytes, self._kept.values())) > REMEMBERED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(row)
        return self._kept[row]


def rows_of(rows: Tensor | Sequence[int] | None, maps: int, pictures: int) -> Tensor:
    """Which picture each map belongs to: as given, else the batch's order, repeated as needed. Shape: int64 [N]."""
    if rows is not None:
        found = torch.as_tensor(rows, dtype=torch.int64).cpu()
        if len(found) != maps:
            raise ValueError(f"{maps} maps, but {len(found)} rows that say which picture each belongs to")
        return found
    if maps % pictures:
        raise ValueError(f"{maps} maps of {pictures} pictures: say which picture each map belongs to")
    return torch.arange(maps) % pictures


def _keeper(calls: Calls) -> Callable[[Any, Any, Any], None]:
    """A hook that keeps a module's output."""
    return lambda _, __, output: calls.append(_cloned(output))


def _cloned(output: Any) -> Any:
    return trees.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)


def _stacked(ones: list[Calls]) -> Calls:
    """Outputs of single pictures as those of a batch: tensors with a picture axis are joined; others appear once."""
    found = []
    for call in zip(*ones, strict=True):
        flat = [trees.tree_flatten(output)[0] for output in call]
        structure = trees.tree_flatten(call[0])[1]
        found.append(trees.tree_unflatten([_joined(leaves) for leaves in zip(*flat, strict=True)], structure))
    return found


def _joined(leaves: tuple[Any, ...]) -> Any:
    first = leaves[0]
    return torch.cat(leaves) if isinstance(first, Tensor) and first.dim() and len(first) == 1 else first


def _bytes(calls: list[Calls]) -> int:
    return sum(leaf.nbytes for leaf in trees.tree_leaves(calls) if isinstance(leaf, Tensor))
