"""Random control channels comparable to the tested ones: alive, and of equal energy. Pure NumPy.

A channel is *alive* if it is not constant over the pictures measured. The living channels are put into strata of equal
energy (mean Z^2, quantiles); a control set has as many channels of each stratum as the tested set has. The finest
division is taken, of at most STRATA, in which at most half of each stratum is tested: if nearly a whole stratum were
tested, the controls would be the tested set itself. Channels that are not alive form their own stratum, so a
tested dead channel is compared with dead ones. `distinct` says how many control sets there are, and `imbalance` whether
they have the tested set's energy: where nearly all channels of an energy are tested, no set can. Source: ours
(docs/method.md#fair-controls); stratified permutation tests: Good, "Permutation Tests" (2000); covariate balance after
matching: Stuart, "Matching Methods for Causal Inference" (2010).
"""

from __future__ import annotations

import math

import numpy as np

STRATA = 4
"""Most quantiles of the energy."""
BALANCED = 0.25
"""Largest |imbalance| of fair controls, the usual bound of a standardised mean difference (Stuart 2010)."""


def alive(latent: np.ndarray) -> np.ndarray:
    """Channels that are not constant over pictures and places. Shape: Z [N, C, h, w] -> bool [C]."""
    flat = np.moveaxis(latent, 1, 0).reshape(latent.shape[1], -1)
    return (flat != flat[:, :1]).any(1)


def energy(latent: np.ndarray) -> np.ndarray:
    """Mean Z^2 of each channel. Shape: Z [N, C, h, w] -> float64 [C]."""
    return np.square(latent, dtype=np.float64).mean((0, 2, 3))


class Matched:
    """Draws control sets for tested channels.

    energy: float [C]. living: bool [C].
    """

    def __init__(self, energy: np.ndarray, living: np.ndarray):
        self._last: tuple[bytes, list[tuple[np.ndarray, int]]] | None = None
        places = np.flatnonzero(living)
        self.ranked, self.channels = places[np.argsort(energy[places], kind="stable")], len(energy)
        self.rank = np.zeros(self.channels)
        self.rank[self.ranked] = np.arange(len(self.ranked))

    def __call__(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random set with as many channels of each stratum as `chosen`. Shape: int [k] -> int64 [k]."""
        drawn = [rng.choice(members, size, replace=False) for members, size in self._pools(chosen)]
        return np.concatenate(drawn) if drawn else np.empty(0, np.int64)

    def distinct(self, chosen: np.ndarray) -> int:
        """How many different control sets there are."""
        return math.prod(math.comb(len(members), size) for members, size in self._pools(chosen))

    def imbalance(self, chosen: np.ndarray) -> float:
        """Mean energy of `chosen` less that of its control sets, in standard deviations of the living channels.

        Energy counts by its rank among the living channels, which no unit or outlier sways; the mean over all control
        sets is exact. Below 0: the tested channels are weaker. 0 without two living channels. Shape: int [k] -> float.
        """
        tested = np.asarray(chosen, np.int64)
        of_controls = sum(size * self.rank[members].mean() for members, size in self._pools(tested))
        spread = float(np.arange(len(self.ranked)).std()) if len(self.ranked) else 0.0
        return float(self.rank[tested].sum() - of_controls) / (len(tested) * spread) if spread and len(tested) else 0.0

    def strata(self, chosen: np.ndarray) -> np.ndarray:
        """The stratum of each channel in the test of `chosen`; -1 for dead ones. Shape: int [k] -> int64 [C]."""
        for count in range(STRATA, 0, -1):
            found = self._divided(count)
            tested = np.bincount(found[chosen][found[chosen] >= 0], minlength=count)
            sizes = np.bincount(found[found >= 0], minlength=count)
            if count == 1 or (2 * tested <= sizes).all():
                return found
        raise AssertionError("a single stratum always fits")

    def _divided(self, count: int) -> np.ndarray:
        found = np.full(self.channels, -1)
        for number, part in enumerate(np.array_split(self.ranked, count)):
            found[part] = number
        return found

    def _pools(self, chosen: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """(channels of a stratum, how many of them are drawn) for each stratum of the tested channels.

        The last answer is kept: hundreds of sets are drawn for the same channels.
        """
        tested = np.asarray(chosen, np.int64)
        if self._last is None or self._last[0] != tested.tobytes():
            self._last = tested.tobytes(), self._found_pools(tested)
        return self._last[1]

    def _found_pools(self, tested: np.ndarray) -> list[tuple[np.ndarray, int]]:
        strata = self.strata(tested)
        numbers, counts = np.unique(strata[tested], return_counts=True)
        return [(np.flatnonzero(strata == n), int(k)) for n, k in zip(numbers, counts, strict=True)]
