"""What a step leaves for the next ones instead of images: prototypes and class statistics.

Prototypes are means of the latent map Z. Statistics are taken where the replay begins: at Z, or at the trunk's output,
which never changes, so that they stay true however the layers behind it move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lag_core.method.prototypes import PrototypeMemory, class_means
from lag_core.method.replay import ClassStatistics
from lag_core.protocol import IGNORE

Arrays = Mapping[str, np.ndarray]


class Memory:
    """Prototypes and statistics, a row for each training channel; kept in the run's analysis files.

    `surroundings`, where it is asked for, has in a class's row the unlabelled pixels of the images that show the class.
    """

    def __init__(
        self, channels: int, latent: int, statistics: ClassStatistics, surroundings: ClassStatistics | None = None
    ):
        self.prototypes = PrototypeMemory(channels, latent)
        self.statistics, self.surroundings = statistics, surroundings

    @classmethod
    def from_arrays(
        cls,
        arrays: Arrays,
        channels: int,
        latent: int,
        statistics: ClassStatistics,
        surroundings: ClassStatistics | None = None,
    ) -> Memory:
        """What an earlier step stored, grown to `channels` rows; empty if `arrays` holds none."""
        memory = cls(channels, latent, statistics, surroundings)
        if "prototypes.mean" in arrays:
            memory.load_state_dict(_nested(arrays))
            for part in memory._parts().values():
                part.grow(channels)
        return memory

    def arrays(self) -> dict[str, np.ndarray]:
        """As stored: float32, named prototypes.*, statistics.*, surroundings.*."""
        state = self.state_dict()
        return {
            f"{part}.{name}": value.cpu().numpy().astype(np.float32)
            for part, tensors in state.items()
            for name, value in tensors.items()
        }

    @torch.no_grad()
    def learn(self, channels: Iterable[int], batches: Iterable[tuple[Tensor, Tensor, Tensor]], unlabelled: int) -> None:
        """Take anew the rows of `channels` from (Z [B, C, h, w], features to replay [B, F, h, w], labels [B, h, w]).

        Channels below `unlabelled` are the unknown class and the background.
        """
        wanted = list(channels)
        self.prototypes.reset(wanted)
        self.begin_statistics(wanted)
        for latent, replayed, labels in batches:
            self.prototypes.update(wanted, *class_means(latent, labels, wanted, min_pixels=1))
            self.add_statistics(wanted, replayed, labels, unlabelled)

    def begin_statistics(self, channels: list[int]) -> None:
        """Forget the statistics of `channels`, so that they can be measured again."""
        self.statistics.reset(channels)
        if self.surroundings is not None:
            self.surroundings.reset(channels)

    @torch.no_grad()
    def add_statistics(self, channels: list[int], replayed: Tensor, labels: Tensor, unlabelled: int) -> None:
        """Add a batch to the statistics of `channels`. Shape: features [B, F, h, w], labels [B, h, w]."""
        self.statistics.update(replayed, _only(labels, channels))
        if self.surroundings is None:
            return
        for channel in (k for k in channels if k >= unlabelled):
            around = surroundings_of(labels, channel, unlabelled)
            if (around == channel).any():
                self.surroundings.update(replayed, around)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, PrototypeMemory | ClassStatistics]:
        """What is kept, by its name in the files."""
        parts: dict[str, PrototypeMemory | ClassStatistics] = {
            "prototypes": self.prototypes,
            "statistics": self.statistics,
        }
        return parts if self.surroundings is None else {**parts, "surroundings": self.surroundings}


def surroundings_of(labels: Tensor, channel: int, unlabelled: int, least: int = 4) -> Tensor:
    """Labels that give the unlabelled pixels of images with at least `least` pixels of `channel` to it; 255 elsewhere.

    Shape: int64 [B, h, w] -> same. Channels below `unlabelled` are the unknown class and the background.
    """
    shows = (labels == channel).flatten(1).sum(1) >= least
    return torch.where(shows[:, None, None] & (labels < unlabelled), channel, IGNORE)


def _only(labels: Tensor, wanted: list[int]) -> Tensor:
    """Labels outside `wanted` become 255."""
    keep = torch.isin(labels, torch.tensor(wanted, device=labels.device))
    return labels.masked_fill(~keep, IGNORE)


def _nested(arrays: Arrays) -> dict[str, Any]:
    """{"prototypes.mean": a} -> {"prototypes": {"mean": tensor}}."""
    nested: dict[str, Any] = {"prototypes": {}, "statistics": {}, "surroundings": {}}
    for key, value in arrays.items():
        part, _, name = key.partition(".")
        if part in nested:
            nested[part][name] = torch.from_numpy(value.copy())
    return nested
