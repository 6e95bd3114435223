"""The look: one accent, colours that colour-blind readers can tell apart, one set of sizes.

Text, surfaces and fonts of the app are in `.streamlit/config.toml`. Here is what figures and maps need. A
dataset's own palette is used for its classes and for nothing else; everything that is *ours* (old/new,
provenance, heat) takes its colours from here. Qualitative colours are Okabe and Ito's; ramps grow
monotonically in lightness, so they also survive greyscale printing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import streamlit as st

from lag_core.loss_terms import LOSS_TERMS

Color = tuple[int, int, int]

ACCENT = "#2F6F8F"
"""The one accent in light mode; `.streamlit/config.toml` has the same."""

OLD, NEW, ALL = "#0072B2", "#D55E00", "#6B7280"
"""Classes of step 0, classes of later steps, all of them."""

MARK = "#D55E00"
"""Frame of one selected cell: visible on both ends of the ramps."""

PROVENANCE: dict[str, str] = {
    "kept": "#0072B2",
    "learned": "#56B4E9",
    "forgotten": "#D55E00",
    "recovered": "#F0E442",
    "never right": "#999999",
}
"""What became of a pixel (Okabe and Ito's palette)."""

INVARIANT, SPECIFIC = "#0072B2", "#E69F00"
"""Channels that stayed the same / that changed."""

TERMS: dict[str, str] = {name: term.colour for name, term in LOSS_TERMS.items()}
"""Loss terms by name (Okabe and Ito's palette, and a violet). Segmentation is drawn in the colour of text."""

SPARE: tuple[str, ...] = ("#A6761D", "#B2182B", "#4D9221", "#6B7280", "#2166AC")
"""For names that have no colour of their own, in this order."""

CATEGORICAL: tuple[str, ...] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", *SPARE)
"""For things that only need to be told apart (Okabe and Ito's palette first)."""

SINCE: tuple[str, ...] = ("#F3E1F0", "#CC79A7", "#8A3E77", "#4A1C52")
"""Purple, light to dark: the step since which a pixel is lost. No fate (`PROVENANCE`) has such a colour."""

DIVERGING: tuple[str, ...] = ("#8C3B00", "#D8803A", "#F0C9A2", "#F4F2EE", "#A9CBE2", "#3E86B5", "#0B4A7A")
"""Orange (less) over near-white (same) to blue (more): for differences and signed relevance."""

_RAMP_LIGHT: tuple[str, ...] = ("#F5F2EC", "#D5E0E4", "#A3C3D1", "#669DB6", "#2F7496", "#124E70", "#08304A")
_RAMP_DARK: tuple[str, ...] = ("#20262B", "#1D3D4F", "#1F5872", "#2F7898", "#5A9DBB", "#97C5D9", "#DCEFF6")

PLOT_HEIGHT = 300
"""Pixels of a plot in a row of three."""

PAPER_WIDTH, PAPER_SCALE = 900, 3
"""An exported PNG is 900 CSS pixels wide at three device pixels each: 9 inches at 300 dpi."""


@dataclass(frozen=True)
class Ink:
    """Colours of a figure that depend on light or dark."""

    dark: bool
    text: str
    muted: str
    grid: str
    surface: str
    blank: str
    """Fill where there is nothing to measure."""
    ramp: tuple[str, ...]
    """Sequential: nothing to much."""


LIGHT = Ink(False, "#1F2933", "#5F6B76", "#E4E2DC", "#FFFFFF", "#EFEDE8", _RAMP_LIGHT)
DARK = Ink(True, "#E6E9EC", "#9AA5AF", "#343B42", "#14181C", "#1A1F24", _RAMP_DARK)


def ink() -> Ink:
    """Colours for the theme that this browser shows at present."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def rgb(color: str) -> Color:
    """`#RRGGBB` as three integers."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def css(color: Sequence[int]) -> str:
    """Three integers as `#RRGGBB`."""
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"


def luminance(color: Sequence[int]) -> float:
    """Relative luminance 0..1 of an sRGB colour (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Sequence[int], other: Sequence[int]) -> float:
    """Contrast ratio 1..21 of two sRGB colours (WCAG 2.2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def seen_on(color: Sequence[int], ground: Sequence[int], least: float = 2.0) -> Color:
    """The colour itself, or, if its contrast is too low, the nearest one towards black or white with enough.

    Shape: RGB 0..255 both. `least`: required contrast.
    """
    end = np.array((255, 255, 255) if luminance(ground) < 0.2 else (0, 0, 0), float)
    for share in np.linspace(0, 1, 21):
        found = tuple(int(v) for v in np.rint((1 - share) * np.asarray(color, float) + share * end))
        if contrast(found, ground) >= least:
            break
    return found  # type: ignore[return-value]


def categorical(place: int, ink: Ink, least: float = 4.5) -> str:
    """The colour of thing number `place`, readable as text on the figure's ground."""
    color = rgb(CATEGORICAL[place % len(CATEGORICAL)])
    return css(seen_on(color, rgb(ink.surface), least))


def text_on(color: Sequence[int]) -> str:
    """Black or white, whichever reads better on `color`."""
    return "#FFFFFF" if contrast(color, (255, 255, 255)) > contrast(color, (0, 0, 0)) else "#000000"


def ramp_table(ramp: Sequence[str], count: int) -> tuple[Color, ...]:
    """`count` colours along a ramp, from its first stop to its last."""
    return _ramp_table(tuple(ramp), count)


@lru_cache(maxsize=32)
def _ramp_table(ramp: tuple[str, ...], count: int) -> tuple[Color, ...]:
    return tuple(on_ramp(ramp, i / (count - 1)) for i in range(count))


def on_ramp(ramp: Sequence[str], value: float) -> Color:
    """The colour at `value` 0..1 of a ramp, linear between its stops."""
    place = min(max(value, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    a, b = rgb(ramp[low]), rgb(ramp[low + 1])
    mixed = [round(x + (y - x) * (place - low)) for x, y in zip(a, b, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def plot_config(name: str, form: Literal["png", "svg"] = "png", height: int = PLOT_HEIGHT) -> dict[str, Any]:
    """Plotly's tool bar: only the download button, at a size that fits a page of paper."""
    image = {"format": form, "filename": name, "width": PAPER_WIDTH, "height": height * PAPER_WIDTH // 480}
    if form == "png":
        image["scale"] = PAPER_SCALE
    return {
        "displaylogo": False,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": image,
        "doubleClick": "reset",
        "responsive": True,
    }


def colours(values: np.ndarray, low: float, high: float, ramp: Sequence[str]) -> np.ndarray:
    """A map in the colours of a ramp. Shape: float [H, W] -> uint8 [H, W, 4]."""
    table = np.array(ramp_table(ramp, 256), np.uint8)
    places = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    rgba = np.full((*values.shape, 4), 255, np.uint8)
    rgba[..., :3] = table[np.rint(places * 255).astype(np.uint8)]
    return rgba
