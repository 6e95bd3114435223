"""The pointing game: does a map's largest value lie on the class?

What is asked about is the class's logit summed over the whole picture, so that the question does not say where the
class is. A hit is a largest value within the class's true pixels; with tolerance, within TOLERANCE of them. Chance is
the share of the annotated picture that they cover (with the tolerance, if so). Source: Zhang et al. 2018 (1608.00507),
who allow 15 pixels on pictures of about 500.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from lag_core.explain.attribution_checks import pointing
from lag_core.protocol import IGNORE
from lag_core.relevance.target import Target
from truth_tests.cases import Case, Subject
from truth_tests.maps import maps_of, random_map

TOLERANCE = 0.03
"""Of the square's side."""


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row per case and method; n pictures per class at its first and at the run's last step."""
    for case in subject.cases(n):
        height, width = case.picture.inside
        true = case.picture.truth[:height, :width]
        mask, counted = true == case.cls, true != IGNORE
        near = dilated(mask, round(TOLERANCE * case.picture.truth.shape[0]))
        for method, values in [*maps_of(case, _whole(case)), ("random", random_map(case, 0))]:
            exact, tolerant = pointing(values, mask, counted), pointing(values, near, counted)
            yield {
                **case.row,
                "method": method,
                "hit": exact.hit,
                "chance": exact.area,
                "near": tolerant.hit,
                "near_chance": tolerant.area,
                "inside": exact.inside if np.isfinite(exact.inside) else None,
            }


def _whole(case: Case) -> Target:
    inside = torch.zeros(case.mask.shape)
    inside[: case.picture.inside[0], : case.picture.inside[1]] = 1
    return Target(case.target.channel, inside)


def dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    """The mask and everything within `reach` pixels of it, along rows and columns (a square). Shape: bool [h, w]."""
    grown = F.max_pool2d(torch.from_numpy(mask)[None, None].float(), 2 * reach + 1, 1, reach)
    return grown[0, 0].numpy() > 0
