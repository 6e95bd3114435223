"""How a run went: IoU by step and class, the curves, the confusion matrix, the timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import class_label, clickable, frame, heat, outline, percent
from dashboard.ui.remembered import remembered
from lag_core.protocol import ClassInfo

CURVES: Mapping[str, str] = {"old": design.OLD, "new": design.NEW, "all": design.ALL}


@remembered
def iou_matrix(ious: np.ndarray, classes: Sequence[ClassInfo], ink: Ink, *, step: int, cls: int) -> go.Figure:
    """IoU of each class (row) after each step (column), percent; blank before a class is introduced.

    ious: [T, K] fractions, NaN where undefined. Time runs to the right, as in the timeline and the curves.
    The column `step` and the row `cls` are framed. Clicks carry (step, class index).
    """
    values = percent(ious).T
    columns = [f"step {t}" for t in range(len(ious))]
    hover = [
        [f"{untrusted.plotly(info.name)}, after step {t}: {_iou_words(v)}" for t, v in enumerate(row)]
        for info, row in zip(classes, values, strict=True)
    ]
    figure = heat(frame(ink), values, [class_label(c, ink) for c in classes], columns, ink, hover=hover)
    figure.update_xaxes(side="top")
    outline(figure, (-0.5, len(ious) - 0.5), (cls - 0.5, cls + 0.5), ink.muted)
    outline(figure, (step - 0.5, step + 0.5), (-0.5, len(classes) - 0.5), ink.text)
    points = [(t, c) for t in range(len(ious)) for c in range(len(classes))]
    return clickable(figure, points, points, [hover[c][t] for t, c in points])


def _iou_words(percent: float) -> str:
    return "not known yet" if np.isnan(percent) else f"{percent:.1f} % IoU"


@remembered
def curves(runs: Sequence[tuple[str, Mapping[str, np.ndarray]]], ink: Ink, *, step: int) -> go.Figure:
    """Mean IoU of old, new and all classes over the steps, percent: the first run solid, a second one dotted.

    runs: (name, {"old" | "new" | "all": fractions [T]}). A line marks `step`.
    """
    figure = frame(ink, x="step", y="mean IoU (%)")
    longest = 1
    for number, (name, series) in enumerate(runs):
        for which, color in CURVES.items():
            values = percent(series[which])
            longest = max(longest, len(values))
            figure.add_trace(_curve(values, which, name, color, number))
    figure.add_vline(step, line={"color": ink.muted, "width": 1, "dash": "dot"})
    figure.update_xaxes(tickvals=list(range(longest)), range=[-0.15, longest - 0.85])
    figure.update_yaxes(range=[-3, 103], tickvals=[0, 25, 50, 75, 100])
    return figure.update_layout(showlegend=True, hovermode="x unified")


def _curve(values: np.ndarray, which: str, name: str, color: str, number: int) -> go.Scatter:
    shown = untrusted.plotly(untrusted.plain(name, 40))
    return go.Scatter(
        x=list(range(len(values))),
        y=values,
        name=which,
        legendgroup=which,
        showlegend=number == 0,
        mode="lines+markers",
        line={
            "color": color,
            "width": 2.5 if number == 0 else 1.75,
            "dash": "solid" if number == 0 else "dot",
        },
        marker={"size": 7, "symbol": "circle" if number == 0 else "circle-open"},
        hovertemplate=f"{which} %{{y:.1f}} %, {shown}<extra></extra>",
    )


def row_shares(confusion: np.ndarray) -> np.ndarray:
    """Share of each true class's pixels by predicted class. Shape: int64 [K, K] -> [K, K], empty rows NaN."""
    totals = confusion.sum(1, keepdims=True).astype(np.float64)
    return np.divide(confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)


@remembered
def confusion_matrix(
    confusion: np.ndarray, classes: Sequence[ClassInfo], ink: Ink, *, cell: tuple[int, int] | None = None
) -> go.Figure:
    """Of each true class's pixels (row), the share that was predicted as each class (column), percent.

    confusion: int64 [K, K] counts, rows truth. `cell` (truth, prediction) is framed. Clicks carry it too.
    """
    shares = percent(row_shares(confusion))
    names = [untrusted.plotly(untrusted.plain(c.name, 18)) for c in classes]
    hover = [
        [f"{v:.1f} % of {true} is called {guess} ({n:,} px)" for guess, v, n in zip(names, row, counts, strict=True)]
        for true, row, counts in zip(names, shares, confusion, strict=True)
    ]
    rows = [class_label(c, ink) for c in classes]
    figure = heat(frame(ink), shares, rows, rows, ink, hover=hover)
    figure.update_xaxes(side="top", tickangle=-90)
    points = [(p, t) for t in range(len(classes)) for p in range(len(classes))]
    clickable(figure, points, [(t, p) for p, t in points], [hover[t][p] for p, t in points])
    if cell is not None:
        truth, guess = cell
        outline(figure, (guess - 0.5, guess + 0.5), (truth - 0.5, truth + 0.5), design.MARK)
    return figure
