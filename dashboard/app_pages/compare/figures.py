"""Many runs side by side: every seed as a dot, verdicts by run and class, the settings that differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import frame, swatch
from dashboard.ui.remembered import remembered
from lag_core.explain.class_fates import ClassFate
from lag_core.groups import Group
from lag_core.protocol import ClassInfo

WORDS: Mapping[str, tuple[str, str]] = {
    "kept": ("#0072B2", "K"),
    "weakened": ("#8F6200", "W"),
    "lost": ("#B84F00", "L"),
    "never learned": ("#6B7280", "–"),
    "learned later": ("#00755C", "+"),
    "new": ("#1F78A8", "N"),
    "to come": ("rgba(0,0,0,0)", ""),
}
"""Colour and letter of each verdict: the letter tells them apart without colour, and is white on all of them."""

NAME_HEIGHT, MOST_NAMED = 0.075, 14
"""Share of the drawing's height that a run's name needs, and how many runs are named at their lines' ends."""

ROW = 26
"""Pixels of a row."""


def height_of(rows: int) -> int:
    """Of a figure with a row per run or group, its heads included."""
    return 90 + ROW * rows


@remembered
def seeds(groups: Sequence[Group], column: str, title: str, ink: Ink) -> go.Figure:
    """Each group a row: a dot for every seed, a line for the mean, a bar for one standard deviation on both sides."""
    figure = frame(ink, x=title)
    names = [untrusted.plotly(untrusted.plain(group.name, 48)) for group in groups]
    for row, (group, name) in enumerate(zip(groups, names, strict=True)):
        values, mean, spread = 100 * group.values(column), 100 * group.mean(column), 100 * group.spread(column)
        if not np.isnan(spread):
            figure.add_shape(
                type="line", x0=mean - spread, x1=mean + spread, y0=row, y1=row, line={"color": ink.muted, "width": 6},
                opacity=0.45,
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=values, y=[row] * len(values), mode="markers", name=name,
                marker={"size": 9, "color": design.OLD, "line": {"color": ink.surface, "width": 1}},
                text=[f"{name}, seed {seed}: {value:.2f} %" for seed, value in zip(group.seeds, values, strict=True)],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[mean], y=[row], mode="markers", name=f"mean of {name}",
                hovertemplate=f"mean {mean:.2f} %<extra></extra>",
                marker={"symbol": "line-ns", "size": 16, "line": {"color": ink.text, "width": 2}},
            )
        )  # fmt: skip
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    return figure


@remembered
def verdicts(
    runs: Sequence[str], classes: Sequence[ClassInfo], fates: Sequence[Sequence[ClassFate]], ink: Ink
) -> go.Figure:
    """A row per run and a column per class; colour and letter say what became of the class."""
    words = list(WORDS)
    names = [untrusted.plotly(untrusted.plain(name, 40)) for name in runs]
    figure = frame(ink)
    scale = [(i / len(words), WORDS[w][0]) for i, w in enumerate(words)]
    stops = [stop for i, (at, color) in enumerate(scale) for stop in ((at, color), ((i + 1) / len(words), color))]
    figure.add_trace(
        go.Heatmap(
            z=[[words.index(one.word) for one in row] for row in fates],
            x=list(range(len(classes))), y=list(range(len(runs))), zmin=-0.5, zmax=len(words) - 0.5,
            colorscale=stops, showscale=False, xgap=2, ygap=2,
            text=[[WORDS[one.word][1] for one in row] for row in fates],
            texttemplate="%{text}" if len(runs) <= 100 else None, textfont={"color": "#FFFFFF"},
            customdata=[
                [f"{name}: {untrusted.plotly(untrusted.plain(info.name, 40))} {_said(one)}"
                 for info, one in zip(classes, row, strict=True)]
                for name, row in zip(names, fates, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    heads = [
        f"{swatch(c, ink)}<br>{untrusted.plotly(untrusted.plain(c.name, max(6, 84 // len(classes))))}" for c in classes
    ]
    many = len(classes) > 12
    figure.update_xaxes(tickvals=list(range(len(classes))), ticktext=heads, side="top", tickangle=-90 if many else 0)
    figure.update_yaxes(tickvals=list(range(len(runs))), ticktext=names, range=[len(runs) - 0.5, -0.5])
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def _said(one: ClassFate) -> str:
    if one.word == "to come":
        return "is not introduced yet"
    return f"{one.word}: IoU {100 * one.start:.0f} % when introduced, {100 * one.now:.0f} % now"


@remembered
def settings(
    names: Sequence[str], differing: Mapping[str, Sequence[str]], last: Sequence[float], title: str, ink: Ink
) -> go.Figure:
    """A line per run through an axis for each setting that differs; the last axis is the measure.

    differing: setting -> value of each run, as text. last: percent.
    """
    figure = frame(ink)
    axes = list(differing)
    levels = {key: sorted(dict.fromkeys(values), key=_natural) for key, values in differing.items()}
    low, high = np.nanmin(last), np.nanmax(last)
    span = max(high - low, 1e-9)
    for run, name in enumerate(names):
        places = [_place(levels[key], differing[key][run]) for key in axes]
        share = (last[run] - low) / span
        shown = untrusted.plotly(untrusted.plain(name, 40))
        figure.add_trace(
            go.Scatter(
                x=list(range(len(axes) + 1)), y=[*places, share], mode="lines+markers", name=shown,
                line={"color": design.categorical(run, ink), "width": 2},
                hovertemplate=f"{shown}: {last[run]:.1f} %<extra></extra>",
            )
        )  # fmt: skip
    heights = _apart([0.5 if np.isnan(value) else (value - low) / span for value in last[:MOST_NAMED]])
    for run, name in enumerate(names[:MOST_NAMED]):
        figure.add_annotation(
            x=len(axes), y=heights[run], text=untrusted.plotly(untrusted.plain(name, 28)), showarrow=False,
            xanchor="left", xshift=8, font={"size": 12, "color": design.categorical(run, ink)},
        )  # fmt: skip
    for at, key in enumerate(axes):
        for value in levels[key]:
            figure.add_annotation(
                x=at, y=_place(levels[key], value), text=untrusted.plotly(untrusted.plain(value, 22)), showarrow=False,
                xanchor="left", xshift=6, bgcolor=ink.surface, opacity=0.9, font={"size": 11, "color": ink.text},
            )  # fmt: skip
    ticks = [
        *(untrusted.plotly(key).replace(".", ".<br>").replace("_", "_<br>") for key in axes),
        f"{title}<br>{low:.0f} to {high:.0f} %",
    ]
    room = 0.25 + 0.22 * len(axes)  # for the runs' names
    figure.update_xaxes(
        tickvals=list(range(len(ticks))), ticktext=ticks, side="top", tickangle=0, range=[-0.3, len(axes) + room]
    )
    figure.update_yaxes(visible=False, range=[-0.08, 1.08])
    return figure


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights 0..1 of names, moved apart so that none lies on another."""
    found, order = list(heights), sorted(range(len(heights)), key=lambda i: heights[i])
    for below, above in itertools.pairwise(order):
        found[above] = max(found[above], found[below] + NAME_HEIGHT)
    ceiling = 1.04
    for run in reversed(order):
        found[run] = min(found[run], ceiling)
        ceiling = found[run] - NAME_HEIGHT
    return found


def _natural(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _place(levels: Sequence[str], value: str) -> float:
    return 0.5 if len(levels) == 1 else levels.index(value) / (len(levels) - 1)
