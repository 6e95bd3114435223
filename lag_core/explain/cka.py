"""How far features changed between steps: linear centred kernel alignment. Pure NumPy.

1: equal up to a rotation, a scale and a shift of the features; 0: nothing in common. Source: Kornblith et al.,
"Similarity of Neural Network Representations Revisited", ICML 2019, arXiv 1905.00414.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POSITIONS = 4096
"""Positions of the validation images that the features are compared on, at most."""


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """|Y'X|^2 / (|X'X| |Y'Y|), Frobenius norms, features centred. Shape: [n, F], [n, G] -> 0..1.

    NaN if one of the two does not vary. ValueError if the positions are not the same number.
    """
    if len(one) != len(other):
        raise ValueError(f"features of {len(one)} and of {len(other)} positions: they must be the same positions")
    x, y = (a.astype(np.float64) - a.mean(0, dtype=np.float64) for a in (one, other))
    common = np.square(y.T @ x).sum()
    size = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(common / size) if size > 0 else float("nan")


def cka_matrix(features: Sequence[np.ndarray]) -> np.ndarray:
    """Alignment of each step's features with each other step's. Shape: T times [n, F] -> float32 [T, T], symmetric.

    Features that are equal in every bit have exactly 1.
    """
    steps = len(features)
    found = np.full((steps, steps), np.nan, np.float32)
    for a in range(steps):
        for b in range(a, steps):
            same = np.array_equal(features[a], features[b]) and bool(np.ptp(features[a], axis=0).any())
            found[a, b] = found[b, a] = 1.0 if same else linear_cka(features[a], features[b])
    return found


def sample(cells: int, images: int, index: int, seed: int, positions: int = POSITIONS) -> np.ndarray:
    """Cells of one image that are compared: the same for every step. Shape: int64 [m], in order.

    `cells` inside the picture; `images` share the positions evenly, with at least one each.
    """
    share = max(1, positions // max(images, 1))
    rng = np.random.default_rng([seed, index])
    return np.sort(rng.permutation(cells)[:share])
