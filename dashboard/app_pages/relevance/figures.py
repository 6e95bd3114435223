"""Signed maps in colour, channels that speak for a class, and a map against those of shuffled weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import frame
from dashboard.ui.remembered import remembered

if TYPE_CHECKING:
    from lag_core.explain.attribution_checks import Randomised

SATURATED = 0.995
"""Share of a map's values that its colours tell apart; larger ones have the last colour."""

VISIBLE = 0.6
"""Power of the opacity over the value: small values stay visible without covering the picture."""

MOST_CHANNELS = 16
"""Channels that are drawn as bars."""

SIGNED, ABSOLUTE = "#0072B2", "#D55E00"
"""Rank correlation of the maps, and of their absolute values (Okabe and Ito)."""


def scale_of(maps: Sequence[np.ndarray]) -> float:
    """The value at which the colours of all `maps` end, on both sides of 0; 1 where there is nothing to tell."""
    values = [np.abs(m).ravel() for m in maps]
    high = float(np.quantile(np.concatenate(values), SATURATED)) if values else 0.0
    if high <= 0:
        high = max((float(v.max(initial=0)) for v in values), default=0.0)
    return high if high > 0 else 1.0


def signed(values: np.ndarray, high: float) -> np.ndarray:
    """A map from -high to high: orange against, blue for, transparent at 0. Shape: float [H, W] -> uint8 [H, W, 4]."""
    steps = np.linspace(-1, 1, 255)
    colors = np.array(design.ramp_table(design.DIVERGING, 255), np.float32)
    opacity = np.abs(steps) ** VISIBLE * 255
    table = np.column_stack([colors, opacity]).round().astype(np.uint8)
    places = np.rint((np.clip(values / high, -1, 1) + 1) * 127).astype(np.uint8)
    return np.ascontiguousarray(table[places])


def strongest(profiles: Sequence[np.ndarray], most: int = MOST_CHANNELS) -> np.ndarray:
    """Channels with the largest relevance of either sign in any profile [C], strongest of the first one first."""
    reach = np.abs(np.stack(profiles)).max(0)
    chosen = np.argsort(-reach, kind="stable")[:most]
    return chosen[np.argsort(-profiles[0][chosen], kind="stable")]


@remembered
def channel_bars(
    now: np.ndarray,
    before: np.ndarray | None,
    ink: Ink,
    *,
    invariant: np.ndarray | None = None,
    names: tuple[str, str] = ("this step", "the step before"),
    unit: str = "logit",
) -> go.Figure:
    """The channels that speak most for or against a class, float [C]: at this step, beside the step before (hollow).

    invariant: bool [C], colours the bars by group. Channels stand in the order of this step.
    """
    figure = frame(ink, x="latent channel, most relevant first", y=f"relevance ({unit})")
    channels = strongest([now] if before is None else [now, before])
    labels = [str(c) for c in channels]
    groups: list[tuple[str, str, np.ndarray]] = [(names[0], design.ACCENT, np.ones(len(channels), bool))]
    if invariant is not None:
        inside = invariant[channels]
        groups = [
            (f"{names[0]}, invariant", design.INVARIANT, inside),
            (f"{names[0]}, specific", design.SPECIFIC, ~inside),
        ]
    for label, color, chosen in groups:
        if chosen.any():
            _bars(figure, channels[chosen], now, label, {"color": color, "line": {"width": 0}}, "now")
    if before is not None:
        hollow = {"color": "rgba(0,0,0,0)", "line": {"color": ink.text, "width": 1.4}}
        _bars(figure, channels, before, names[1], hollow, "before")
    figure.add_hline(0, line={"color": ink.muted, "width": 1})
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=labels, showgrid=False)
    figure.update_yaxes(exponentformat="power", nticks=6)
    return figure.update_layout(barmode="group", bargap=0.3, bargroupgap=0.08, showlegend=True)


def _bars(
    figure: go.Figure, channels: np.ndarray, profile: np.ndarray, name: str, marker: Mapping[str, object], group: str
) -> None:
    label = untrusted.plotly(name)
    figure.add_trace(
        go.Bar(
            x=[str(c) for c in channels],
            y=profile[channels],
            name=label,
            marker=marker,
            offsetgroup=group,
            hovertemplate=f"channel %{{x}}, {label}: %{{y:.3g}}<extra></extra>",
        )
    )


@remembered
def randomised_lines(rows: Sequence[tuple[str, Sequence[Randomised]]], ink: Ink) -> go.Figure:
    """Rank correlation of the true map with those of networks shuffled down to each part, for one or two runs.

    rows: (name of the run or empty, its check). The second run is dotted.
    """
    figure = frame(ink, x="weights shuffled from the heads down to", y="rank correlation")
    figure.add_hline(0, line={"color": ink.muted, "width": 1})
    for (run, found), dash in zip(rows, ("solid", "dot"), strict=False):
        parts = [one.part for one in found]
        for what, color in (("signed", SIGNED), ("absolute", ABSOLUTE)):
            label = untrusted.plotly(", ".join(filter(None, ("map" if what == "signed" else "|map|", run))))
            figure.add_trace(
                go.Scatter(
                    x=["nothing", *parts],
                    y=[1.0, *(getattr(one, what) for one in found)],
                    mode="lines+markers",
                    name=label,
                    line={"color": color, "width": 2.2, "dash": dash},
                    marker={"size": 7},
                    hovertemplate=f"{label}, shuffled down to %{{x}}: %{{y:.2f}}<extra></extra>",
                )
            )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(range=[-1.08, 1.08], tickvals=[-1, -0.5, 0, 0.5, 1])
    return figure.update_layout(showlegend=True)
