"""Every attribution method, once: its name, meaning, where its map can be drawn, cost, formula and source. No torch.

The computation has the same name in lag_core/explain/attribution.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Depth = Literal["latent", "pixels"]


@dataclass(frozen=True)
class AttributionMethod:
    """One method in words."""

    short: str
    """Its name on a page."""
    meaning: str
    """One sentence for the page: the meaning of a value of its map."""
    depths: tuple[Depth, ...]
    """Where its map can be drawn."""
    formula: str
    """LaTeX."""
    source: str
    needs_rules: bool = False
    """Whether the network's layers must all have a rule of LRP."""
    many_passes: bool = False
    """Whether it takes many passes of the network, so that it is only run on demand."""


BOTH: tuple[Depth, ...] = ("latent", "pixels")

ATTRIBUTION_METHODS: dict[str, AttributionMethod] = {
    "lrp": AttributionMethod(
        "LRP, composite",
        "The class's logit, passed back layer by layer to what contributed to it; in the backbone, only "
        "contributions with the sum's sign count.",
        BOTH,
        r"R_i = \sum_j \frac{(a_i w_{ij})^+}{\sum_i (a_i w_{ij})^+} R_j \text{ (backbone)}, \quad R_i = "
        r"\sum_j \frac{a_i w_{ij}}{z_j + \epsilon\,\mathrm{sign}\,z_j} R_j \text{ (ASPP, heads)}",
        "Bach et al. 2015, Montavon et al. 2019; z-box at the image",
        needs_rules=True,
    ),
    "lrp-epsilon": AttributionMethod(
        "LRP, epsilon",
        "The class's logit, passed back layer by layer in proportion to each contribution, with its sign.",
        BOTH,
        r"R_i = \sum_j \frac{a_i w_{ij}}{z_j + \epsilon\,\mathrm{sign}\,z_j} R_j",
        "Bach et al. 2015, everywhere",
        needs_rules=True,
    ),
    "gradient-x-input": AttributionMethod(
        "gradient × input",
        "How much the logit would change if a value were scaled a little.",
        BOTH,
        r"R_i = x_i \, \frac{\partial s}{\partial x_i}",
        "Shrikumar et al. 2016",
    ),
    "grad-cam": AttributionMethod(
        "Grad-CAM",
        "Where channels that raise the logit on average are active; only evidence for the class.",
        ("latent",),
        r"R = \mathrm{ReLU}\Big(\sum_c Z_c \cdot \mathrm{mean}_{xy} \frac{\partial s}{\partial Z_c}\Big)",
        "Selvaraju et al. 2017, at the latent map Z",
    ),
    "integrated-gradients": AttributionMethod(
        "integrated gradients",
        "The change of the logit from a grey picture to this one, divided among the pixels.",
        ("pixels",),
        r"R_i = (x_i - x'_i) \int_0^1 \frac{\partial s(x' + \alpha (x - x'))}{\partial x_i} d\alpha",
        "Sundararajan et al. 2017; x': the mean colour, 32 points",
        many_passes=True,
    ),
    "occlusion": AttributionMethod(
        "occlusion",
        "How much the logit falls when a grey window covers a place.",
        ("pixels",),
        r"R_i = \mathrm{mean}_{w \ni i}\, \big(s(x) - s(x \text{ with } w \text{ grey})\big)",
        "Zeiler and Fergus 2014; windows of 32 pixels, every 16",
        many_passes=True,
    ),
}
"""Name -> the method. The names are those of `attribution.Method`."""
