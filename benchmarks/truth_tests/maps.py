"""The attribution maps that are compared, over the picture without its padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from lag_core.explain.attribution import Method, attribute
from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.relevance.target import Target
from truth_tests.cases import Case

METHODS: tuple[Method, ...] = ("lrp", "lrp-epsilon", "gradient-x-input", "grad-cam", "integrated-gradients")
NAMES = {
    "lrp": "LRP, composite",
    "lrp-epsilon": "LRP, epsilon",
    "gradient-x-input": "gradient x input",
    "grad-cam": "Grad-CAM",
    "integrated-gradients": "integrated gradients",
    "random": "random order",
}
"""Words for the tables."""


def maps_of(case: Case, target: Target, methods: Sequence[Method] = METHODS) -> Iterator[tuple[str, np.ndarray]]:
    """Each method's map, float32 [h, w]."""
    height, width = case.picture.inside
    view = FoldedSegmenter(case.model)
    for method in methods:
        found = attribute(case.model, case.picture.image, target, cast(Method, method), view)
        yield method, found.map[:height, :width]


def random_map(case: Case, seed: int) -> np.ndarray:
    """A map that knows nothing: independent values. Shape: [h, w]."""
    return np.random.default_rng(seed).random(case.picture.inside)
