"""Why preserved: one class over the steps, and the effect of channels beside random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design
from dashboard.ui.design import Ink
from dashboard.ui.effect_curves import EffectLine, effect_curves
from dashboard.ui.frame import clickable, frame
from dashboard.ui.remembered import remembered
from lag_core.explain.verdict import EffectCurve

MAIN, SECOND = "#0072B2", "#D55E00"
"""Colours of the two series of a plot (Okabe and Ito's palette)."""


@dataclass(frozen=True)
class Series:
    """One quantity over the steps."""

    name: str
    values: np.ndarray
    """float [T], NaN where there is nothing."""
    color: str = MAIN
    dotted: bool = False
    """Of the compared run."""


@remembered
def over_steps(
    series: Sequence[Series], ink: Ink, *, step: int, y: str, decimals: int, limits: tuple[float, float] | None = None
) -> go.Figure:
    """A line for each series; `step` is marked. Clicks carry the step.

    limits: of y; without, from 0 to what the values need. decimals: of the read-out.
    """
    figure = frame(ink, x="step", y=y)
    figure.add_vline(step, line={"color": ink.muted, "width": 1, "dash": "dot"})
    for one in series:
        figure.add_trace(
            go.Scatter(
                x=list(range(len(one.values))),
                y=one.values,
                mode="lines+markers",
                line={"color": one.color, "width": 2, "dash": "dot" if one.dotted else "solid"},
                marker={
                    "size": 7,
                    "color": ink.surface if one.dotted else one.color,
                    "line": {"color": one.color, "width": 1.5},
                },
                name=one.name,
                hoverinfo="skip",
            )
        )
    marks = [(s, t) for s in series for t in np.flatnonzero(np.isfinite(s.values)).tolist()]
    words = [f"{s.name}<br>step {t}: {s.values[t]:.{decimals}f}" for s, t in marks]
    clickable(figure, [(t, float(s.values[t])) for s, t in marks], [(t,) for _, t in marks], words)
    steps = max((len(s.values) for s in series), default=1)
    figure.update_xaxes(tickvals=list(range(steps)) if steps <= 20 else None, range=[-0.25, steps - 0.75])
    figure.update_yaxes(range=limits, rangemode="tozero", exponentformat="power")
    return figure


@remembered
def ablation_figure(curve: EffectCurve, ink: Ink, k: int, active: int) -> go.Figure:
    """What carries the memory: the IoU lost by removing the k most invariant channels."""
    line = EffectLine("invariant", "most invariant", design.INVARIANT, _from_zero(curve.effect))
    return _curves(curve, line, ink, k, active, "IoU, points")


@remembered
def transplant_figure(curve: EffectCurve, ink: Ink, k: int, active: int) -> go.Figure:
    """What was lost: the IoU gained by restoring the k most changed channels."""
    line = EffectLine("changed", "most changed", design.SPECIFIC, _from_zero(curve.effect))
    return _curves(curve, line, ink, k, active, "IoU, points")


def _curves(curve: EffectCurve, line: EffectLine, ink: Ink, k: int, active: int, y: str) -> go.Figure:
    low, high = curve.interval()
    band = (_from_zero(low), _from_zero(np.median(curve.controls, axis=1)), _from_zero(high))
    counts = np.concatenate([[0], curve.counts])
    figure = go.Figure(
        effect_curves(counts, [line], ink, y=y, chosen=(line.order, k), band=band, total=active)
    )  # a copy: the cached figure is shared
    every = np.concatenate([line.values, band[0], band[2]])
    if np.abs(every).max() < 1:  # below one point nothing is claimed, so nothing should look large
        figure.update_yaxes(range=[-1.05, 1.05])
    return figure.update_layout(showlegend=False)


def _from_zero(fractions: np.ndarray) -> np.ndarray:
    """IoU fractions as points, 0 channels in front. Shape: [P] -> [P + 1]."""
    return 100 * np.concatenate([[0.0], fractions])
