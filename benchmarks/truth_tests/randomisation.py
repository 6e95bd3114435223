"""Does a map depend on what was learned? Rank correlation with the map of a network whose weights are shuffled.

Parts are shuffled one after another, from the heads to the stem (attribution_checks.randomised, which the dashboard
shows). Aim: |Spearman| of the absolute maps at most AIM when everything is shuffled. Source: Adebayo et al. 2018
(1810.03292).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from lag_core.explain.attribution import Method
from lag_core.explain.attribution_checks import randomised
from lag_core.model.segmenter import Segmenter
from truth_tests.cases import Case, Subject
from truth_tests.maps import METHODS, maps_of

AIM = 0.2


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row per case, method and part; n cases at the last step, of different classes; each with a seed of its own.

    Integrated gradients, which take most of the time, are asked about the first case alone.
    """
    for seed, case in zip(range(n), subject.cases(n, steps=("last",)), strict=False):
        for method in METHODS if seed == 0 else [m for m in METHODS if m != "integrated-gradients"]:
            for one in randomised(case.model, partial(_map, case, method), seed):
                row = {"method": method, "seed": seed, "part": one.part}
                yield {**case.row, **row, "signed": one.signed, "absolute": one.absolute}


def _map(case: Case, method: Method, model: Segmenter) -> np.ndarray:
    """The method's map of the case, asked of another network. Shape: float32 [h, w]."""
    ((_, found),) = maps_of(case.with_model(model), case.target, (method,))
    return found
