"""The effect of changed channels beside that of random ones: a figure that two pages use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard.ui.design import Ink
from dashboard.ui.frame import clickable, frame
from dashboard.ui.remembered import remembered
from dashboard.ui.wording import counted

LINE_STYLES = ({"width": 2.4}, {"width": 5}, {"width": 2.4, "dash": "dot"})
"""Lines that coincide stay visible, one inside the other."""


@dataclass(frozen=True)
class EffectLine:
    """The effect of changing the first k channels of one order."""

    order: str
    label: str
    color: str
    values: np.ndarray
    """float [P], change of the measure in percentage points."""


@remembered
def effect_curves(
    counts: np.ndarray,
    lines: Sequence[EffectLine],
    ink: Ink,
    *,
    y: str,
    chosen: tuple[str, int],
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    total: int = 0,
) -> go.Figure:
    """The effect over the number of changed channels, a line for each order, and random channels as a band.

    band: lower bound, median, upper bound, float [P] each. chosen: order and number that are marked. total: C.
    Clicks carry (place of the line, number of channels).
    """
    figure = frame(ink, x=f"changed channels (of {total})" if total else "changed channels", y=y)
    figure.add_hline(0, line={"color": ink.muted, "width": 1})
    if band is not None:
        _add_band(figure, counts, band, ink)
    for place, line in enumerate(lines):
        style = {"color": line.color} | LINE_STYLES[place % len(LINE_STYLES)]
        figure.add_trace(
            go.Scatter(
                x=counts,
                y=line.values,
                mode="lines+markers",
                line=style,
                marker={"size": 7},
                name=line.label,
                hoverinfo="skip",
            )
        )
    marks = [(i, p) for i, line in enumerate(lines) for p in range(len(counts)) if np.isfinite(line.values[p])]
    at = [(i, p) for i, p in marks if (lines[i].order, int(counts[p])) == chosen]
    if at:
        ring = {"symbol": "circle-open", "size": 16, "color": ink.text, "line": {"width": 2}}
        i, p = at[0]
        figure.add_trace(
            go.Scatter(
                x=[counts[p]],
                y=[lines[i].values[p]],
                mode="markers",
                marker=ring,
                name="shown",
                hoverinfo="skip",
                showlegend=False,
            )
        )
    words = [_effect_words(lines[i], int(counts[p]), p, band) for i, p in marks]
    points = [(float(counts[p]), float(lines[i].values[p])) for i, p in marks]
    clickable(figure, points, [(i, int(counts[p])) for i, p in marks], words)
    figure.data[-1].marker.size = 16
    figure.update_xaxes(tickvals=counts.tolist(), showgrid=False)
    return figure.update_layout(showlegend=True, legend_traceorder="normal")


def _add_band(figure: go.Figure, counts: np.ndarray, band: tuple[np.ndarray, np.ndarray, np.ndarray], ink: Ink) -> None:
    low, middle, high = band
    none, random = {"width": 0}, "rgba(128,128,128,0.28)"
    figure.add_trace(
        go.Scatter(x=counts, y=high, mode="lines", line=none, hoverinfo="skip", showlegend=False, name="high")
    )
    figure.add_trace(
        go.Scatter(
            x=counts,
            y=low,
            mode="lines",
            line=none,
            fill="tonexty",
            fillcolor=random,
            hoverinfo="skip",
            name="random channels, 90 %",
        )
    )
    line = {"color": ink.muted, "width": 1.4, "dash": "dash"}
    figure.add_trace(
        go.Scatter(x=counts, y=middle, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="median")
    )


def _effect_words(
    line: EffectLine, count: int, place: int, band: tuple[np.ndarray, np.ndarray, np.ndarray] | None
) -> str:
    text = f"{line.label}, {counted(count, 'channel')}: {line.values[place]:+z.1f} points"
    if band is None or not count:
        return text
    return f"{text}<br>random: {band[0][place]:+z.1f} to {band[2][place]:+z.1f}"
