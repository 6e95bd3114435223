"""Rows of deletion and insertion (`perturbation`) for every method, beside several random orders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from truth_tests.cases import Case, Subject
from truth_tests.maps import maps_of, random_map
from truth_tests.perturbation import Perturbed, blurred, order_of

LEAST_SCORE = 0.1
"""Mean probability of the class on its true pixels below which there is nothing to take away: such a case is counted,
not measured."""
SEEDS = (0, 1)
"""Of the random orders."""


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row per case and method; n pictures per class at its first and at the run's last step."""
    for case in subject.cases(n):
        image = case.picture.image
        perturbed = Perturbed(case.probability, image, blurred(image), case.picture.inside)
        score = float(perturbed.ends[0])
        if score < LEAST_SCORE:
            yield {**case.row, "score": score, "method": None}
            continue
        for method, seed, values in _orders(case):
            deletion, insertion = perturbed.areas(order_of(values))
            row = {"score": score, "method": method, "seed": seed, "deletion": deletion, "insertion": insertion}
            yield {**case.row, **row}


def _orders(case: Case) -> Iterator[tuple[str, int | None, np.ndarray]]:
    for method, values in maps_of(case, case.target):
        yield method, None, values
    for seed in SEEDS:
        yield "random", seed, random_map(case, seed)
