"""Old classes then and now: bars of one or two runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.app_pages.start.held import Held
from dashboard.ui import untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import class_label, frame
from dashboard.ui.remembered import remembered

COLORS = ("#0072B2", "#D55E00")
"""Of the run and the compared run (Okabe and Ito's palette)."""

WIDTH = 0.36


@remembered
def bars(runs: Sequence[Held], ink: Ink, *, step: int) -> go.Figure:
    """IoU of each old class after `step`, a bar for each run; a hollow bar shows its IoU when it was learned.

    runs: one or two; the classes of the first lead.
    """
    figure = frame(ink, y="IoU (%)")
    classes = runs[0].classes
    for number, run in enumerate(runs):
        places = np.arange(len(classes)) + (number - (len(runs) - 1) / 2) * (WIDTH + 0.04)
        pairs = [run.of(info.id) or (np.nan, np.nan) for info in classes]
        then, now = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
        name = untrusted.plotly(untrusted.plain(run.name, 40))
        outline = {"color": "rgba(0,0,0,0)", "line": {"color": COLORS[number], "width": 1.5}}
        words = [
            f"{untrusted.plotly(info.name)}, {name}:<br>{a:.1f} % when it was learned, {b:.1f} % after step {step}"
            for info, a, b in zip(classes, then, now, strict=True)
        ]
        hover = {"customdata": words, "hovertemplate": "%{customdata}<extra></extra>"}
        figure.add_bar(x=places, y=then, width=WIDTH, marker=outline, showlegend=False, name=f"{name}, then", **hover)
        figure.add_bar(
            x=places, y=now, width=WIDTH, marker={"color": COLORS[number]}, name=name, showlegend=True,
            text=[f"{value:.0f}" if np.isfinite(value) else "" for value in now], textposition="outside",
            cliponaxis=False, **hover,
        )  # fmt: skip
    figure.update_layout(barmode="overlay", showlegend=True)
    figure.update_xaxes(
        tickvals=list(range(len(classes))), ticktext=[class_label(info, ink) for info in classes], showgrid=False
    )
    highest = max([float(np.nanmax(run.then)) for run in runs if len(run.then)] or [0.0])
    return figure.update_yaxes(range=[0, min(100, max(20, 1.15 * highest))])
