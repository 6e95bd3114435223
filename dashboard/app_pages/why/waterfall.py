"""Shares as figures: the waterfall from the IoU then to the IoU now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import frame
from dashboard.ui.remembered import remembered
from lag_core.explain.shares import Bar, part_words

LOSS, GAIN = "#D55E00", "#0072B2"
"""Parts that lost points, and parts that gained some (Okabe and Ito's palette)."""
ROW = 30
"""Pixels of a bar with its spacing."""


def part_name(part: str) -> str:
    """A part in words, plain text of the run included."""
    return untrusted.plain(part_words(part), 40)


def height_of(bars: Sequence[Bar]) -> int:
    """Pixels that a waterfall needs."""
    return 64 + ROW * len(bars)


@remembered
def waterfall_figure(bars: tuple[Bar, ...], ink: Ink) -> go.Figure:
    """Horizontal bars from top to bottom, each beginning where the one above ends; whiskers are 95 % intervals."""
    figure = frame(ink, x="IoU points")
    rows = list(range(len(bars)))
    colors = [_color(bar, ink) for bar in bars]
    figure.add_trace(
        go.Bar(
            orientation="h",
            y=rows,
            x=[bar.tip - bar.base for bar in bars],
            base=[bar.base for bar in bars],
            width=0.62,
            marker={"color": colors, "line": {"width": 0}},
            error_x=_whiskers(bars, ink),
            customdata=[_hover(bar) for bar in bars],
            hovertemplate="%{customdata}<extra></extra>",
            name="points",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[_edge(bar) for bar in bars],
            y=rows,
            text=[f"\u00a0\u00a0{_number(bar)}" for bar in bars],
            mode="text",
            textposition="middle right",
            textfont={"color": ink.text},
            hoverinfo="skip",
            name="numbers",
            cliponaxis=False,
        )
    )
    for row, bar in enumerate(bars[:-1]):
        link = {"color": ink.muted, "width": 1, "dash": "dot"}
        figure.add_shape(type="line", x0=bar.tip, x1=bar.tip, y0=row + 0.31, y1=row + 0.69, line=link)
    edges = [edge for bar in bars for edge in (bar.base, bar.tip, _edge(bar))]
    low, high = min(0.0, *edges), max(1.0, *edges)
    figure.update_xaxes(range=[low - 0.02 * (high - low), high + 0.13 * (high - low)], zeroline=True)
    figure.update_xaxes(zerolinecolor=ink.muted, zerolinewidth=1)
    names = [untrusted.plotly(bar.name if bar.kind == "level" else part_name(bar.name)) for bar in bars]
    figure.update_yaxes(tickvals=rows, ticktext=names, range=[len(bars) - 0.5, -0.5], showgrid=False)
    return figure.update_layout(bargap=0.3)


def _color(bar: Bar, ink: Ink) -> str:
    if bar.kind == "level":
        return ink.muted
    return GAIN if bar.tip >= bar.base else LOSS


def _whiskers(bars: Sequence[Bar], ink: Ink) -> dict[str, object]:
    spans = []
    for bar in bars:
        one = bar.estimate
        known = one is not None and np.isfinite(one.low)
        spans.append((one.high - one.points, one.points - one.low) if one is not None and known else (0.0, 0.0))
    return {
        "type": "data",
        "symmetric": False,
        "array": [up for up, _ in spans],
        "arrayminus": [down for _, down in spans],
        "color": ink.text,
        "thickness": 1.2,
        "width": 4,
    }


def _edge(bar: Bar) -> float:
    """Where the number stands: right of the bar and its whisker."""
    one = bar.estimate
    reach = bar.base + one.high if one is not None and np.isfinite(one.high) else bar.tip
    return max(bar.base, bar.tip, reach)


def _number(bar: Bar) -> str:
    if bar.kind == "level":
        return f"<b>{bar.tip:z.1f}</b>"
    return f"{bar.tip - bar.base:+z.1f}".replace("-", "−")


def _hover(bar: Bar) -> str:
    if bar.kind == "level":
        return f"{untrusted.plotly(bar.name)}: {bar.tip:z.1f}"
    one = bar.estimate
    assert one is not None
    interval = f"<br>95 % interval {one.low:+z.1f} to {one.high:+z.1f}" if np.isfinite(one.low) else ""
    return f"{untrusted.plotly(part_name(bar.name))}: {one.points:+z.1f} points{interval}"
