"""Features of all steps at the measured sites (explain.holds.SITES), on the latent grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core.explain.holds import SITES
from lag_core.explain.networks import Passes
from lag_core.processes import Processes


@torch.no_grad()
def site_maps(passes: Passes, step: int, latent: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(place in SITES, features [B, F, h, w]) of a step; stages with a finer grid are averaged down to that of Z.

    `latent`: Z of the step. `passes` keeps its stages; for a network without them only Z is used.
    """
    grid = latent.shape[-2], latent.shape[-1]
    for site, maps in [*enumerate(passes.stages(step)), (len(SITES) - 1, latent)]:
        yield site, maps if maps.shape[-2:] == latent.shape[-2:] else F.adaptive_avg_pool2d(maps, grid)


class Gathered:
    """Features at chosen cells of each picture, by step and site; what a step shares with the previous one is kept
    once."""

    def __init__(self, steps: int):
        self._parts: list[list[list[np.ndarray]]] = [[[] for _ in SITES] for _ in range(steps)]
        self._done: dict[tuple[int, int], np.ndarray] = {}

    def add(self, step: int, site: int, maps: Tensor, cells: list[np.ndarray]) -> None:
        """Take in a batch. Shape: [B, F, h, w]; cells int64 [m] of each picture, in the flattened grid."""
        flat = maps.flatten(2)
        rows = [flat[row][:, torch.from_numpy(chosen)].T.cpu().numpy() for row, chosen in enumerate(cells)]
        self._append(step, site, np.concatenate(rows))

    def _append(self, step: int, site: int, joined: np.ndarray) -> None:
        before = self._parts[step - 1][site] if step else []
        place = len(self._parts[step][site])
        if place < len(before) and np.array_equal(before[place], joined):
            joined = before[place]
        self._parts[step][site].append(joined)

    def join(self, everywhere: Processes) -> None:
        """Concatenate the features of all processes, in their order."""
        if everywhere.count == 1:
            return
        parts = everywhere.gathered(self._parts)
        self._parts = [[[] for _ in SITES] for _ in self._parts]
        for own in parts:
            for step, sites in enumerate(own):
                for site, batches in enumerate(sites):
                    for features in batches:
                        self._append(step, site, features)

    @property
    def sites(self) -> list[int]:
        """Places in SITES that there are features of."""
        return [site for site in range(len(SITES)) if self._parts[0][site]]

    def features(self, step: int, site: int) -> np.ndarray:
        """float32 [n, F]; the same array for steps whose features are equal."""
        if (step, site) not in self._done:
            own = self._parts[step][site]
            same = step and all(a is b for a, b in zip(own, self._parts[step - 1][site], strict=True))
            self._done[step, site] = self.features(step - 1, site) if same else np.concatenate(own)
        return self._done[step, site]

    def source(self, step: int, site: int) -> int:
        """The first of the consecutive steps whose features equal those of `step`."""
        while step and self.features(step, site) is self.features(step - 1, site):
            step -= 1
        return step
