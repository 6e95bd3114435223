"""What the features still hold: probes by site over the steps, destinations of lost pixels, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design
from dashboard.ui.design import Ink
from dashboard.ui.frame import clickable, frame, percent
from dashboard.ui.remembered import remembered

DESTINATIONS: dict[str, str] = {
    "background": "#CC79A7",
    "a newer class": "#D55E00",
    "another class": "#E69F00",
    "none": "#999999",
}
"""Where lost pixels went, in the order of lost_destinations.Destinations (Okabe and Ito's palette)."""

GROUPS: dict[str, str] = {"old": design.OLD, "new": design.NEW, "background": design.ALL}
"""Groups of called classes, as in calibration.groups."""

OWN, NEAREST = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Held:
    """One line over the steps."""

    name: str
    values: np.ndarray
    """float [T], fractions; NaN where there is nothing."""
    color: str
    dash: str = "solid"
    width: float = 2.0


@remembered
def held_lines(lines: Sequence[Held], ink: Ink, *, step: int) -> go.Figure:
    """IoU in percent over the steps, a line each; `step` is marked. Clicks carry the step."""
    figure = frame(ink, x="step", y="IoU (%)")
    figure.add_vline(step, line={"color": ink.muted, "width": 1, "dash": "dot"})
    for one in lines:
        figure.add_trace(
            go.Scatter(
                x=list(range(len(one.values))),
                y=percent(one.values),
                mode="lines+markers",
                line={"color": one.color, "width": one.width, "dash": one.dash},
                marker={"size": 4 + one.width, "color": one.color},
                name=one.name,
                hoverinfo="skip",
            )
        )
    marks = [(one, t) for one in lines for t in np.flatnonzero(np.isfinite(one.values)).tolist()]
    words = [f"{one.name}<br>step {t}: {100 * one.values[t]:.1f} %" for one, t in marks]
    clickable(figure, [(t, 100 * float(one.values[t])) for one, t in marks], [(t,) for _, t in marks], words)
    steps = max((len(one.values) for one in lines), default=1)
    figure.update_xaxes(tickvals=list(range(steps)) if steps <= 20 else None, range=[-0.25, steps - 0.75])
    figure.update_yaxes(rangemode="tozero")
    return figure.update_layout(showlegend=True)


def site_colors(count: int, ink: Ink) -> list[str]:
    """Colours of the sites from the first to the last, faint to strong."""
    ramp = ink.ramp[2:]
    return [ramp[round(i * (len(ramp) - 1) / max(count - 1, 1))] for i in range(count)]


@remembered
def destination_bars(
    counts: np.ndarray, total: int, ink: Ink, *, step: int, background: bool = True, none: bool = True
) -> go.Figure:
    """Forgotten pixels of a class after each step by destination, in percent of its pixels; a stacked bar a step.

    Shape: int [T, 4] in the order of DESTINATIONS. `total`: pixels of the class. `background`, `none`: whether these
    destinations exist for this run.
    """
    figure = frame(ink, y="lost, % of its pixels")
    base = np.zeros(len(counts))
    shown = {"background": background, "none": none}
    for part, (name, color) in enumerate(DESTINATIONS.items()):
        if not shown.get(name, True):
            continue
        values = percent(counts[:, part] / max(total, 1))
        figure.add_trace(
            go.Bar(
                x=list(range(len(counts))),
                y=values,
                base=base.tolist(),
                name=name,
                marker={"color": color, "line": {"color": ink.surface, "width": 1}},
                customdata=[f"step {t}: {n:,} px" for t, n in enumerate(counts[:, part].tolist())],
                hovertemplate="%{customdata} (%{y:.1f} %) now " + name + "<extra></extra>",
            )
        )
        base = base + values
    ticks = list(range(len(counts)))
    labels = [f"<b>step {t}</b>" if t == step else f"step {t}" for t in ticks]
    figure.update_xaxes(tickvals=ticks, ticktext=labels, range=[0.5, max(len(counts), 2) - 0.5], showgrid=False)
    figure.update_yaxes(range=[0, max(5.0, 1.05 * float(base.max(initial=0)))])
    return figure.update_layout(showlegend=True, barmode="overlay", legend={"traceorder": "normal"})


@remembered
def reliability_lines(curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], ink: Ink) -> go.Figure:
    """Share right over mean confidence, a line for each group of GROUPS; on the diagonal, confidence is calibrated.

    curves: name -> (mean confidence, share right, pixels), [BINS] each, NaN and 0 for empty bins. The size of a mark
    grows with the share of the pixels.
    """
    figure = frame(ink, x="confidence (%)", y="right (%)")
    figure.add_shape(type="line", x0=0, y0=0, x1=100, y1=100, line={"color": ink.muted, "width": 1, "dash": "dot"})
    for name, (confidence, accuracy, count) in curves.items():
        filled = count > 0
        share = count[filled] / max(int(count.sum()), 1)
        figure.add_trace(
            go.Scatter(
                x=percent(confidence[filled]),
                y=percent(accuracy[filled]),
                mode="lines+markers",
                name=name,
                line={"color": GROUPS[name], "width": 2},
                marker={"size": 4 + 16 * np.sqrt(share), "color": GROUPS[name], "opacity": 0.85},
                customdata=[f"{n:,} px" for n in count[filled].tolist()],
                hovertemplate=name + ": confidence %{x:.0f} %, right %{y:.0f} %, %{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(range=[-2, 102], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(range=[-2, 102], tickvals=[0, 25, 50, 75, 100])
    return figure.update_layout(showlegend=True)
