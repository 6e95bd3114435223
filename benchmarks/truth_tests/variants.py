"""Would other LRP rules give better pixel maps? Variants of the composite, on training pictures.

Deletion and insertion as in `pixels`, and the share of the positive relevance that lies on the class. On training
pictures, so that a choice made here can be measured on the validation pictures afterwards, at the steps that introduce
a class.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lag_core.explain.attribution_checks import pointing
from lag_core.protocol import IGNORE
from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.relevance.rules import Composite, alpha_beta_rule, composites, epsilon_rule, flat_rule, gamma_rule
from truth_tests.cases import Subject
from truth_tests.perturbation import Perturbed, blurred, order_of
from truth_tests.pixels import LEAST_SCORE

SHIPPED = "composite"


def variants() -> dict[str, Composite]:
    """Composites by name; each differs in one place from the one that ships."""
    ours = composites()[SHIPPED]
    image, backbone, decoder = ours.image, ours.backbone, ours.decoder
    return {
        SHIPPED: ours,
        "flat at the image": Composite("v", flat_rule(), backbone, decoder),
        "biases take part in the backbone": Composite("v", image, alpha_beta_rule(), decoder),
        "alpha2-beta1 in the backbone": Composite("v", image, alpha_beta_rule(2, 1, bias=False), decoder),
        "gamma 0.25 in the backbone": Composite("v", image, gamma_rule(0.25), decoder),
        "gamma 0.25 in the decoder": Composite("v", image, backbone, gamma_rule(0.25)),
        "epsilon 0.25 in the decoder": Composite("v", image, backbone, epsilon_rule(0.25)),
        "epsilon 0.25 everywhere": Composite("v", epsilon_rule(0.25), epsilon_rule(0.25), decoder),
    }


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row per case and variant."""
    for case in subject.on("train").cases(n, steps=("first",)):
        image, (height, width) = case.picture.image, case.picture.inside
        perturbed = Perturbed(case.probability, image, blurred(image), (height, width))
        if perturbed.ends[0] < LEAST_SCORE:
            continue
        true = case.picture.truth[:height, :width]
        recording = FoldedSegmenter(case.model).record(image)
        for name, composite in variants().items():
            found = recording.relevance(case.target, composite)
            values = found.map[0, :height, :width].numpy()
            deletion, insertion = perturbed.areas(order_of(values))
            inside = pointing(values, true == case.cls, true != IGNORE).inside
            yield {
                **case.row,
                "method": name,
                "deletion": deletion,
                "insertion": insertion,
                "inside": inside if np.isfinite(inside) else None,
                "reaches": float(found.values.double().sum() / found.score),
            }
