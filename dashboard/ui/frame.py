"""What all figures share: sizes, axes, class labels, heat maps with numbers, marks that can be clicked."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas  # noqa: F401  # whole before plotly looks at it: a session must not see one that another still imports
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from lag_core.protocol import ClassInfo

FONT_SIZE = 12
FAINT = 1.04
"""Contrast with the background below which a colour is the background's own."""

MOST_NUMBERS = 24
"""Rows or columns up to which a heat map writes its numbers into the cells."""


EDGE = 8
"""Pixels around a figure."""

LETTER, LINE = 6.6, 17
"""Pixels of a letter and of a line of tick labels, rounded up."""

NUMBERS = 30
"""Pixels of tick labels that Plotly chooses itself."""


def make_room(figure: go.Figure) -> None:
    """Margins as wide as the tick labels, titles and the legend will need.

    Plotly can find them by itself, but only by drawing everything twice; it still does so if these are too small.
    """
    x, y, before = figure.layout.xaxis, figure.layout.yaxis, figure.layout.margin
    margin = {side: EDGE for side in "lrtb"}
    if any(before[side] != EDGE for side in margin) or len(list(figure.select_xaxes())) > 1:
        return  # the figure has its own
    if figure.layout.showlegend and (figure.layout.legend.y or 0) > 1:
        margin["t"] += LINE + 6
    if y.visible is not False:
        margin["l"] += round(_widest(y.ticktext) if y.ticktext else NUMBERS) + _of_title(y)
    if x.visible is not False:
        lines = max((str(text).count("<br>") + 1 for text in x.ticktext or ()), default=1)
        longest = _widest(x.ticktext) if x.tickangle == -90 and x.ticktext else lines * LINE
        margin["t" if x.side == "top" else "b"] += round(longest) + _of_title(x)
    figure.update_layout(margin=margin)


def _of_title(axis: Any) -> int:
    return LINE + 6 if axis.title.text else 0


def _widest(texts: Sequence[str]) -> float:
    """Pixels of the longest line among labels, without their tags."""
    lines = (line for text in texts for line in re.sub(r"<(?!br)[^>]*>", "", str(text)).split("<br>"))
    return LETTER * max((len(html.unescape(line)) for line in lines), default=0)


class Figure(go.Figure):
    """A Plotly figure that can be marked as finished: its JSON for the browser is then computed once."""

    _told: tuple[float | None, dict[str, Any]] | None = None

    def finish(self) -> None:
        """Mark it as finished: nothing but its height will change."""
        self._told = (self.layout.height, super().to_dict())

    def to_dict(self) -> dict[str, Any]:
        if self._told is None:
            return super().to_dict()
        if self._told[0] != self.layout.height:
            self.finish()
        return self._told[1]


def frame(ink: Ink, *, x: str = "", y: str = "") -> Figure:
    """An empty figure with the project's axes. `x`, `y`: axis titles with units."""
    axis = {"gridcolor": ink.grid, "zeroline": False, "linecolor": ink.grid, "automargin": True}
    font = {"size": FONT_SIZE, "color": ink.text}
    return Figure(
        layout={
            "font": font,
            "paper_bgcolor": ink.surface,
            "plot_bgcolor": ink.surface,
            "margin": {"l": EDGE, "r": EDGE, "t": EDGE, "b": EDGE, "pad": 0},
            "xaxis": {**axis, "title": {"text": x, "font": font, "standoff": 6}, "tickfont": font},
            "yaxis": {**axis, "title": {"text": y, "font": font, "standoff": 6}, "tickfont": font},
            "hoverlabel": {"font": {"size": FONT_SIZE}},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": font},
            "showlegend": False,
            "dragmode": False,
        }
    )


def swatch(info: ClassInfo, ink: Ink) -> str:
    """A square of the class's colour, as Plotly text; hollow if that is the background's own, shifted away from the
    background if it would hardly be visible."""
    ground = design.rgb(ink.surface)
    if design.contrast(info.color, ground) < FAINT:
        return "□"
    return f'<span style="color:{design.css(design.seen_on(info.color, ground))}">■</span>'


def class_label(info: ClassInfo, ink: Ink) -> str:
    """A class's name behind a square of its colour, as a Plotly label."""
    return f"{swatch(info, ink)} {untrusted.plotly(untrusted.plain(info.name, 20))}"


def colorscale(ramp: Sequence[str]) -> list[tuple[float, str]]:
    """A ramp in Plotly's format."""
    return [(i / (len(ramp) - 1), color) for i, color in enumerate(ramp)]


def heat(
    figure: go.Figure,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    ink: Ink,
    *,
    hover: Sequence[Sequence[str]],
    high: float = 100.0,
    decimals: int = 0,
) -> go.Figure:
    """Add a heat map of `values` [R, C] from 0 to `high`, first row on top; NaN stays blank.

    rows, columns: labels. hover: a text for each cell. Numbers are written as long as they can be read.
    """
    shown = np.asarray(values, np.float64)
    numbers = max(shown.shape, default=0) <= MOST_NUMBERS
    figure.add_trace(
        go.Heatmap(
            z=shown,
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            zmin=0,
            zmax=high,
            colorscale=colorscale(ink.ramp),
            showscale=not numbers,
            colorbar={"thickness": 8, "outlinewidth": 0, "ticksuffix": " %"},
            xgap=2,
            ygap=2,
            customdata=[list(row) for row in hover],
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
        )
    )
    if numbers:
        figure.add_trace(_numbers(shown, ink, high, decimals))
    across, down = list(range(len(columns))), list(range(len(rows)))
    figure.update_xaxes(tickvals=across, ticktext=list(columns), range=[-0.5, len(columns) - 0.5])
    figure.update_yaxes(tickvals=down, ticktext=list(rows), range=[len(rows) - 0.5, -0.5])
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(showgrid=False, showline=False, ticks="")
    figure.update_layout(plot_bgcolor=ink.blank)
    return figure


def _numbers(values: np.ndarray, ink: Ink, high: float, decimals: int) -> go.Scatter:
    """The numbers of a heat map, each black or white, whichever reads better on its cell."""
    cells = [(r, c, float(values[r, c])) for r, c in np.argwhere(~np.isnan(values)).tolist()]
    colors = [design.text_on(design.on_ramp(ink.ramp, v / high)) for _, _, v in cells]
    return go.Scatter(
        x=[c for _, c, _ in cells],
        y=[r for r, _, _ in cells],
        text=[f"{v:.{decimals}f}" for _, _, v in cells],
        mode="text",
        textfont={"color": colors, "size": FONT_SIZE},
        hoverinfo="skip",
        showlegend=False,
        name="numbers",
    )


def outline(figure: go.Figure, x: tuple[float, float], y: tuple[float, float], color: str) -> None:
    """A frame around cells, in the heat map's coordinates (a cell is one unit wide)."""
    figure.add_shape(
        type="rect",
        x0=x[0],
        x1=x[1],
        y0=y[0],
        y1=y[1],
        line={"color": color, "width": 2},
        fillcolor="rgba(0,0,0,0)",
    )


def clickable(
    figure: go.Figure,
    points: Sequence[tuple[float, float]],
    data: Sequence[Sequence[int]],
    hover: Sequence[str],
) -> go.Figure:
    """Lay invisible marks at `points`; a click on one is reported with its entry of `data`.

    Plotly reports no clicks on heat maps and shapes, but it does on marks.
    """
    figure.add_trace(
        go.Scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            mode="markers",
            marker={"size": 22, "symbol": "square", "opacity": 0},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            customdata=[list(d) for d in data],
            text=list(hover),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
            name="cells",
        )
    )
    figure.update_layout(hovermode="closest", clickmode="event+select", dragmode="pan")  # or Streamlit redraws it
    return figure


def percent(values: np.ndarray | float) -> np.ndarray:
    """Fractions 0..1 as percent."""
    return np.asarray(values, np.float64) * 100
