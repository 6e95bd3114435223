"""Pixels for which no class stands out, which pictures show as "none". Metrics still use the most probable class."""

from __future__ import annotations

LEAST = 0.5
"""Probability above which a class stands out in a network that scores each class by itself."""

UNDECIDED = (0x60, 0x60, 0x60)
"""Colour of a pixel for which no class stands out."""


def least_probability(loss: str) -> float:
    """What a probability must exceed for its class to stand out: LEAST for sigmoid networks, 0 (always) for softmax."""
    return LEAST if loss == "bce" else 0.0


def none_words(least: float) -> str:
    """The entry of a legend, as "none: no class above 50 %"."""
    return f"none: no class above {100 * least:.0f} %"
