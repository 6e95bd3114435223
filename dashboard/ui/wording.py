"""Numbers as the pages write them in sentences."""

from __future__ import annotations

import numpy as np

from lag_core import sentences


def percent(fraction: float) -> str:
    """A share in percent: whole from ten on, with one decimal below; "–" if there is none, "< 0.1 %" if hardly any."""
    if np.isnan(fraction):
        return "–"
    if 0 < fraction < 0.0005:
        return "< 0.1 %"
    return f"{100 * fraction:z.0f} %" if fraction >= 0.1 or fraction == 0 else f"{100 * fraction:z.1f} %"


def lost(fraction: float) -> str:
    """A loss as a badge shows it: "−3 %", "< 0.1 %" if it is hardly any, nothing where nothing was lost."""
    if np.isnan(fraction) or fraction <= 0:
        return ""
    said = percent(fraction)
    return said if said.startswith("<") else f"−{said}"


def short(value: float) -> str:
    """A number with two significant digits, at least two decimals; 0 stays 0."""
    if np.isnan(value):
        return "–"
    if abs(value) < 5e-7:
        return "0"
    decimals = max(2, 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{min(decimals, 6)}f}".replace("-", "−")


def number(value: float) -> str:
    """A short number with a true minus sign."""
    return f"{value:z.2f}".replace("-", "−") if abs(value) < 100 else f"{value:z.0f}".replace("-", "−")


counted = sentences.counted
