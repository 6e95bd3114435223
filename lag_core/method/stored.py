"""Replay of stored images: it breaks the rule of learning without old data, and is a bound for methods that keep it.

The difference to it is what a method loses by keeping statistics instead of images. It is for experiments; no
method uses it unless `method.replay_maps = "stored"` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class StoredMaps:
    """Trunk features of the earlier steps' images, with every class annotated that is known by now."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]]):
        """`batches` of features [B, C, h, w] and labels int64 [B, h, w]."""
        kept = list(batches)
        self.maps = torch.cat([features.half() for features, _ in kept])
        self.labels = torch.cat([labels for _, labels in kept])
        self._rows: dict[int, Tensor] = {}

    @torch.no_grad()
    def carry(
        self, features: Tensor, labels: Tensor, classes: Sequence[int], n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`n` stored maps in which each of `classes` occurs; the step's own batch is not used.

        Shape: -> float32 [N, C, h, w], int64 [N, h, w].
        """
        rows = [self._with(k) for k in classes]
        drawn = [r[torch.randint(len(r), (n,), generator=generator)] for r in rows if len(r)]
        chosen = torch.cat(drawn) if drawn else torch.empty(0, dtype=torch.int64)
        return self.maps[chosen].to(features), self.labels[chosen].to(labels.device)

    def _with(self, channel: int) -> Tensor:
        """Rows of the maps that hold `channel`. Shape: int64 [n]."""
        if channel not in self._rows:
            self._rows[channel] = (self.labels == channel).flatten(1).any(1).nonzero()[:, 0]
        return self._rows[channel]
