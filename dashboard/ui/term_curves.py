"""What each loss term did to an old class along a step: cumulated shares, in nats of the probe's loss."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import frame
from dashboard.ui.remembered import remembered
from lag_core.explain.term_shares import ClassCurves, nats, term_words

_SOURCES = {
    "segmentation.new": "#B2182B",
    "segmentation.unlabelled": "#A6761D",
    "segmentation.pseudo": "#4D9221",
    "segmentation.old": "#2166AC",
}
"""The parts of the segmentation term."""


def color_of(term: str) -> str:
    """The colour of a term or of a part of segmentation; grey for others."""
    return _SOURCES.get(term) or design.TERMS.get(term) or "#6B7280"


@remembered
def term_curves(curves: ClassCurves, ink: Ink) -> go.Figure:
    """A line for each term, largest first, the measured change (thick) and what is unexplained (dashed)."""
    figure = frame(ink, x="updates of the step", y="change of the loss (nats)")
    for term in curves.last:
        values = curves.net[:, curves.terms.index(term)]
        _add(figure, curves, term_words(term), values, {"color": color_of(term), "width": 2})
    _add(figure, curves, "measured change", curves.change, {"color": ink.text, "width": 3})
    _add(figure, curves, "unexplained", curves.unexplained, {"color": ink.muted, "width": 2, "dash": "dash"})
    figure.update_yaxes(zeroline=True, zerolinecolor=ink.muted, zerolinewidth=1)
    return figure.update_layout(showlegend=True, hovermode="closest")


def _add(figure: go.Figure, curves: ClassCurves, name: str, values: np.ndarray, line: dict[str, object]) -> None:
    shown = untrusted.plotly(untrusted.plain(name, 40))
    figure.add_trace(
        go.Scatter(
            x=curves.updates.tolist(),
            y=values.tolist(),
            text=[nats(value) for value in values.tolist()],
            name=shown,
            mode="lines",
            line=line,
            hovertemplate=f"{shown} %{{text}} after %{{x}} updates<extra></extra>",
        )
    )
