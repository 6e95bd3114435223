"""What aerial scenes are made of: reflectance in near infrared, red, green and blue, and how it varies.

Both domains are rendered from these four bands, so a lawn is green in `rgb` and red in `irrg` for one reason.
The numbers are ours, in the range of published field spectra (vegetation: little red, much near infrared).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = 1, 2, 3, 4, 5, 255
Bands = tuple[float, float, float, float]


class Material(NamedTuple):
    """A surface whose reflectance (NIR, R, G, B) lies between `first` and `second`.

    `patchy` is how much it varies over metres, `grain` the relative contrast from pixel to pixel, `height`
    how far it rises from the ground (metres).
    """

    name: str
    label: int
    first: Bands
    second: Bands
    patchy: float = 0.2
    grain: float = 0.05
    height: float = 0.0


MATERIALS = (
    Material("asphalt", IMPERVIOUS, (0.17, 0.155, 0.15, 0.15), (0.22, 0.2, 0.195, 0.185), 0.22, 0.04),
    Material("old asphalt", IMPERVIOUS, (0.24, 0.225, 0.215, 0.2), (0.3, 0.28, 0.265, 0.245), 0.25, 0.045),
    Material("fresh asphalt", IMPERVIOUS, (0.1, 0.095, 0.095, 0.1), (0.13, 0.125, 0.125, 0.125), 0.2, 0.045),
    Material("asphalt patch", IMPERVIOUS, (0.11, 0.1, 0.1, 0.1), (0.14, 0.13, 0.13, 0.13), 0.2, 0.04),
    Material("tyre tracks", IMPERVIOUS, (0.185, 0.17, 0.165, 0.16), (0.225, 0.205, 0.2, 0.19), 0.2, 0.035),
    Material("manhole", IMPERVIOUS, (0.1, 0.08, 0.08, 0.08), (0.14, 0.11, 0.1, 0.1)),
    Material("slabs", IMPERVIOUS, (0.35, 0.33, 0.31, 0.28), (0.42, 0.39, 0.37, 0.34), 0.25, 0.05),
    Material("setts", IMPERVIOUS, (0.25, 0.22, 0.205, 0.19), (0.33, 0.29, 0.27, 0.24), 0.25, 0.08),
    Material("red pavers", IMPERVIOUS, (0.34, 0.27, 0.19, 0.16), (0.38, 0.32, 0.25, 0.21), 0.25, 0.06),
    Material("gravel", IMPERVIOUS, (0.36, 0.33, 0.29, 0.24), (0.42, 0.39, 0.34, 0.28), 0.3, 0.06),
    Material("curb", IMPERVIOUS, (0.42, 0.41, 0.39, 0.37), (0.5, 0.48, 0.46, 0.43)),
    Material("marking", IMPERVIOUS, (0.6, 0.6, 0.59, 0.57), (0.48, 0.47, 0.46, 0.44), 0.3, 0.06),
    Material("track", IMPERVIOUS, (0.33, 0.27, 0.22, 0.16), (0.4, 0.34, 0.28, 0.21), 0.3, 0.1),
    Material("lawn", LOW_VEGETATION, (0.48, 0.1, 0.15, 0.055), (0.42, 0.17, 0.185, 0.09), 0.36, 0.1),
    Material("meadow", LOW_VEGETATION, (0.43, 0.095, 0.13, 0.05), (0.37, 0.2, 0.19, 0.105), 0.5, 0.15),
    Material("dry lawn", LOW_VEGETATION, (0.38, 0.22, 0.205, 0.12), (0.44, 0.13, 0.165, 0.08), 0.45, 0.11),
    Material("bed", LOW_VEGETATION, (0.3, 0.16, 0.12, 0.08), (0.42, 0.09, 0.12, 0.05), 0.7, 0.22),
    Material("flowers", LOW_VEGETATION, (0.5, 0.1, 0.13, 0.06), (0.46, 0.3, 0.2, 0.22), 0.8, 0.3),
    Material("hedge", LOW_VEGETATION, (0.44, 0.06, 0.1, 0.035), (0.36, 0.05, 0.08, 0.03), 0.3, 0.2, 1.1),
    Material("crop", LOW_VEGETATION, (0.48, 0.09, 0.14, 0.05), (0.39, 0.19, 0.17, 0.09), 0.3, 0.1),
    Material("stubble", LOW_VEGETATION, (0.38, 0.28, 0.23, 0.14), (0.36, 0.22, 0.18, 0.11), 0.3, 0.12),
    Material("pool", CLUTTER, (0.03, 0.16, 0.42, 0.48), (0.03, 0.22, 0.5, 0.55), 0.25, 0.05),
    Material("pond", CLUTTER, (0.02, 0.05, 0.07, 0.055), (0.03, 0.07, 0.085, 0.06), 0.25, 0.05),
    Material("heap", CLUTTER, (0.34, 0.27, 0.2, 0.14), (0.42, 0.35, 0.27, 0.2), 0.5, 0.2, 1.3),
    Material("red tile", BUILDING, (0.33, 0.25, 0.125, 0.085), (0.28, 0.19, 0.13, 0.1), 0.16, 0.07),
    Material("orange tile", BUILDING, (0.38, 0.32, 0.18, 0.11), (0.34, 0.27, 0.175, 0.13), 0.14, 0.07),
    Material("brown tile", BUILDING, (0.25, 0.16, 0.11, 0.085), (0.22, 0.17, 0.14, 0.12), 0.16, 0.07),
    Material("slate", BUILDING, (0.13, 0.115, 0.115, 0.12), (0.19, 0.17, 0.17, 0.175), 0.15, 0.06),
    Material("grey tile", BUILDING, (0.23, 0.21, 0.2, 0.19), (0.31, 0.29, 0.275, 0.26), 0.16, 0.07),
    Material("copper", BUILDING, (0.3, 0.24, 0.31, 0.27), (0.26, 0.2, 0.25, 0.22), 0.2, 0.05),
    Material("bitumen", BUILDING, (0.13, 0.12, 0.12, 0.12), (0.24, 0.23, 0.22, 0.21), 0.25, 0.05),
    Material("gravel roof", BUILDING, (0.3, 0.28, 0.265, 0.24), (0.4, 0.38, 0.355, 0.32), 0.3, 0.08),
    Material("membrane", BUILDING, (0.55, 0.56, 0.55, 0.53), (0.45, 0.45, 0.43, 0.41), 0.2, 0.03),
    Material("metal", BUILDING, (0.36, 0.37, 0.38, 0.39), (0.44, 0.45, 0.46, 0.46), 0.12, 0.03),
    Material("concrete", BUILDING, (0.38, 0.37, 0.35, 0.33), (0.46, 0.44, 0.42, 0.39), 0.2, 0.05),
    Material("brick", BUILDING, (0.3, 0.2, 0.13, 0.1), (0.36, 0.3, 0.25, 0.22), 0.1, 0.05),
    Material("skylight", BUILDING, (0.1, 0.2, 0.26, 0.32), (0.2, 0.33, 0.4, 0.46), 0.4, 0.02),
    Material("solar", BUILDING, (0.05, 0.035, 0.05, 0.1), (0.06, 0.05, 0.07, 0.13), 0.1, 0.02),
    Material("broadleaf", TREE, (0.48, 0.055, 0.1, 0.032), (0.44, 0.085, 0.125, 0.04), 0.1, 0.12),
    Material("lime", TREE, (0.52, 0.1, 0.15, 0.04), (0.48, 0.13, 0.165, 0.05), 0.1, 0.12),
    Material("conifer", TREE, (0.32, 0.035, 0.062, 0.034), (0.36, 0.045, 0.075, 0.035), 0.1, 0.12),
    Material("copper beech", TREE, (0.46, 0.1, 0.06, 0.05), (0.44, 0.12, 0.09, 0.06), 0.1, 0.12),
    Material("glass", CAR, (0.04, 0.035, 0.04, 0.045), (0.07, 0.065, 0.07, 0.08), 0.2, 0.02),
    Material("white", CAR, (0.72, 0.74, 0.74, 0.73), (0.66, 0.67, 0.67, 0.66), 0.1, 0.02),
    Material("silver", CAR, (0.42, 0.43, 0.44, 0.45), (0.5, 0.5, 0.51, 0.51), 0.1, 0.02),
    Material("grey", CAR, (0.16, 0.16, 0.165, 0.175), (0.2, 0.2, 0.2, 0.21), 0.1, 0.02),
    Material("black", CAR, (0.04, 0.035, 0.036, 0.04), (0.06, 0.055, 0.055, 0.06), 0.1, 0.02),
    Material("red", CAR, (0.5, 0.42, 0.045, 0.045), (0.46, 0.34, 0.04, 0.04), 0.1, 0.02),
    Material("blue", CAR, (0.2, 0.05, 0.1, 0.3), (0.2, 0.05, 0.14, 0.36), 0.1, 0.02),
    Material("green", CAR, (0.12, 0.05, 0.14, 0.08), (0.15, 0.07, 0.18, 0.1), 0.1, 0.02),
    Material("yellow", CAR, (0.6, 0.6, 0.45, 0.04), (0.6, 0.58, 0.4, 0.04), 0.1, 0.02),
)

INDEX = {m.name: i for i, m in enumerate(MATERIALS)}
LABEL = np.array([m.label for m in MATERIALS], np.uint8)
FIRST = np.array([m.first for m in MATERIALS], np.float32).T.copy()
SECOND = np.array([m.second for m in MATERIALS], np.float32).T.copy()
PATCHY = np.array([m.patchy for m in MATERIALS], np.float32)
GRAIN = np.array([m.grain for m in MATERIALS], np.float32)
HEIGHT = np.array([m.height for m in MATERIALS], np.float32)
