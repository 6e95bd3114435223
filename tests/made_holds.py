"""What the features still hold, as arrays drawn at random, for tests."""

from __future__ import annotations

import numpy as np

from lag_core.explain.background_labels import BackgroundLabels, PseudoLabelTable
from lag_core.explain.calibration import BINS, Calibration
from lag_core.explain.holds import SITES, Holds, Probes
from lag_core.explain.lost_destinations import LostPixels

RNG = np.random.default_rng(6)


def some_holds(steps: int, n: int, whole: bool = True) -> Holds:
    def counts(*shape: int) -> np.ndarray:
        return RNG.integers(1, 50, shape)

    return Holds(
        cka=RNG.uniform(size=(len(SITES), steps, steps)).astype(np.float32),
        masked=counts(steps, n, n),
        calibration=Calibration(counts(steps, n, BINS), counts(steps, n, BINS), RNG.uniform(size=(steps, n, BINS))),
        lost=LostPixels(counts(steps, n, n), np.zeros((steps, n, n), np.int64), RNG.uniform(size=(steps, n))),
        probes=Probes(counts(steps, len(SITES), n, n), counts(steps, n, n), counts(n)) if whole else None,
        background=BackgroundLabels(counts(steps, n + 1), counts(steps)) if whole else None,
        pseudo=PseudoLabelTable(counts(steps, n + 1, n + 1)) if whole else None,
    )
