"""Shares on made-up numbers."""

from __future__ import annotations

import numpy as np

from lag_core.explain.shares import ASPP, COMPETITION, NEWLY, OLD_HEADS, Shares

NAME = "building"
PARTS = (NEWLY, ASPP, f"head: {NAME}", OLD_HEADS, COMPETITION)


def made_shares(
    start: float = 60.0,
    features: float = 0.0,
    own: float = 0.0,
    competition: float = 0.0,
    newly: float = 0.0,
    spread: float = 1.0,
    images: int = 40,
    steps: tuple[int, int] = (0, 2),
) -> Shares:
    """Shares whose bootstrap scatters around the points with this standard deviation, each part by itself."""
    points = np.array([newly, features, own, 0.0, competition])
    fixed = start + features + own + competition
    rng = np.random.default_rng(0)
    noise = rng.normal(0, spread, (400 if images > 1 else 0, len(PARTS)))
    noise[:, points == 0] = 0
    drawn = points + noise
    ends = np.stack([np.full(len(drawn), start), start + drawn[:, 1:].sum(1), start + drawn.sum(1)], 1)
    return Shares(
        *steps, start, fixed, fixed + newly, PARTS, points, np.concatenate([drawn, ends], 1), np.ones(8), np.zeros(5),
        np.zeros((5, 5)), np.array([[start, start + own + competition], [start + features, fixed]]), images,
    )  # fmt: skip
