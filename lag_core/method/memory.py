"""What a step stores for the next ones instead of images: prototypes and class statistics.

Prototypes are means of the latent map Z. Statistics are taken where the replay begins: at Z, or at the trunk's output,
which never changes, so that they stay valid when the later layers change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lag_core import processes
from lag_core.method.prototypes import PrototypeMemory, class_means
from lag_core.method.replay import ClassStatistics
from lag_core.protocol import IGNORE

Arrays = Mapping[str, np.ndarray]


class Memory:
    """Prototypes and statistics, a row for each training channel; kept in the run's analysis files."""

    def __init__(self, channels: int, latent: int, statistics: ClassStatistics):
        self.prototypes = PrototypeMemory(channels, latent)
        self.statistics = statistics

    @classmethod
    def from_arrays(cls, arrays: Arrays, channels: int, latent: int, statistics: ClassStatistics) -> Memory:
        """What an earlier step stored, grown to `channels` rows; empty if `arrays` holds none."""
        memory = cls(channels, latent, statistics)
        if "prototypes.mean" in arrays:
            memory.load_state_dict(_nested(arrays))
            memory.prototypes.grow(channels)
            memory.statistics.grow(channels)
        return memory

    def arrays(self) -> dict[str, np.ndarray]:
        """As stored: float32, named prototypes.* and statistics.*."""
        state = self.state_dict()
        return {
            f"{part}.{name}": value.cpu().numpy().astype(np.float32)
            for part, tensors in state.items()
            for name, value in tensors.items()
        }

    @torch.no_grad()
    def learn(
        self,
        channels: Iterable[int],
        batches: Iterable[tuple[Tensor, Tensor, Tensor]],
        kept: Sequence[int] = (),
    ) -> None:
        """Take anew the rows of `channels` from (Z [B, C, h, w], features to replay [B, F, h, w], labels [B, h, w]);
        rows of `kept` go on from what they were."""
        wanted = list(channels)
        fresh = [k for k in wanted if k not in kept]
        self.prototypes.reset(fresh)
        self.statistics.reset(fresh)
        with processes.apart():
            for latent, replayed, labels in batches:
                self.prototypes.update(wanted, *class_means(latent, labels, wanted, min_pixels=1))
                self.add_statistics(wanted, replayed, labels)
        self.pool(fresh)

    @torch.no_grad()
    def pool(self, channels: list[int]) -> None:
        """Join the processes' rows of `channels`; afterwards all have the same."""
        everywhere = processes.current()
        if everywhere.count == 1:
            return
        states = everywhere.gathered(self._on_cpu())
        self.prototypes.pool(channels, [state["prototypes"] for state in states])
        self.statistics.pool(channels, [state["statistics"] for state in states])

    def _on_cpu(self) -> dict[str, dict[str, Tensor]]:
        return {part: {n: v.cpu() for n, v in tensors.items()} for part, tensors in self.state_dict().items()}

    @torch.no_grad()
    def add_statistics(self, channels: list[int], replayed: Tensor, labels: Tensor) -> None:
        """Add a batch to the statistics of `channels`. Shape: features [B, F, h, w], labels [B, h, w]."""
        self.statistics.update(replayed, only(labels, channels))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"prototypes": self.prototypes.state_dict(), "statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.prototypes.load_state_dict(state["prototypes"])
        self.statistics.load_state_dict(state["statistics"])


def only(labels: Tensor, wanted: list[int]) -> Tensor:
    """Labels outside `wanted` become 255."""
    keep = torch.isin(labels, torch.tensor(wanted, device=labels.device))
    return labels.masked_fill(~keep, IGNORE)


def _nested(arrays: Arrays) -> dict[str, Any]:
    """{"prototypes.mean": a} -> {"prototypes": {"mean": tensor}}."""
    nested: dict[str, Any] = {"prototypes": {}, "statistics": {}}
    for key, value in arrays.items():
        part, _, name = key.partition(".")
        if part in nested:
            nested[part][name] = torch.from_numpy(value.copy())
    return nested
