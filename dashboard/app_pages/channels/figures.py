"""Which channels moved and what they carry: sorted distances, stability, profiles, effects, and channel pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.components.viewer import NOTHING
from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import class_label, clickable, frame
from dashboard.ui.remembered import remembered
from lag_core.data.undecided import UNDECIDED
from lag_core.explain.channels import ChannelSplit, GalleryEntry
from lag_core.protocol import ClassInfo

TILE_SIDE = 64
"""Least pixels of a gallery map's shorter side: its cells stay visible."""

TILE_ASPECT = 2.08
"""Width over height of two square maps with the gap between them."""

HEAT_OPACITY, PAINT_OPACITY = 0.78, 0.62


# ---------------------------------------------------------------------- distances


@remembered
def distance_curve(
    split: ChannelSplit, unit: str, ink: Ink, *, channel: int, compared: np.ndarray | None = None, name: str = ""
) -> go.Figure:
    """Channels by ascending distance over the share of all channels, with the cut between the two groups.

    compared: float [C'], distances of the second run, drawn dotted. Clicks carry the channel's number.
    """
    figure = frame(ink, x="channels, least moved first (%)", y=f"distance ({unit})")
    total = len(split.distance)
    share = 100 * (np.arange(total) + 0.5) / total
    groups = (("invariant", design.INVARIANT), ("specific", design.SPECIFIC))
    inside = split.invariant[split.order]
    for (label, color), chosen in zip(groups, (inside, ~inside), strict=True):
        if chosen.any():
            bar = {"color": color, "line": {"width": 0}}
            width = 100 / total
            figure.add_trace(
                go.Bar(x=share[chosen], y=split.curve[chosen], width=width, marker=bar, name=label, hoverinfo="skip")
            )
    if compared is not None and len(compared):
        line = {"color": ink.text, "width": 1.6, "dash": "dot"}
        x = 100 * (np.arange(len(compared)) + 0.5) / len(compared)
        label = untrusted.plotly(untrusted.plain(name, 40))
        figure.add_trace(go.Scatter(x=x, y=np.sort(compared), mode="lines", line=line, name=label, hoverinfo="skip"))
    figure.add_vline(100 * inside.sum() / total, line={"color": ink.text, "width": 1, "dash": "dash"})
    at = int(np.flatnonzero(split.order == channel)[0])
    mark = {"color": design.MARK, "size": 11, "line": {"color": ink.surface, "width": 1.5}}
    figure.add_trace(
        go.Scatter(
            x=[share[at]],
            y=[split.curve[at]],
            mode="markers",
            marker=mark,
            name=f"channel {channel}",
            hoverinfo="skip",
            showlegend=False,
        )
    )
    words = [
        f"channel {c}, rank {i + 1} of {total}<br>distance {split.curve[i]:.3g}" for i, c in enumerate(split.order)
    ]
    clickable(figure, list(zip(share, split.curve.astype(float), strict=True)), [(int(c),) for c in split.order], words)
    figure.data[-1].marker.size = 12
    figure.update_xaxes(range=[0, 100], ticksuffix=" %", title_text="channels, least moved first")
    figure.update_yaxes(rangemode="tozero", exponentformat="power", nticks=5)
    # The bars ascend: the upper left corner is free, whatever the width.
    corner = {"orientation": "v", "x": 0.01, "y": 1, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"}
    return figure.update_layout(bargap=0, showlegend=True, legend=corner)


@remembered
def stability_bars(
    values: np.ndarray, chance: float, ink: Ink, *, step: int, compared: np.ndarray | None = None, name: str = ""
) -> go.Figure:
    """Jaccard index of each step's invariant channels with the previous step's, float [T - 2], and the chance level.

    compared: the same of the second run, as hollow bars. Clicks carry the step.
    """
    figure = frame(ink, x="step", y="Jaccard index (0 to 1)")
    steps = np.arange(2, 2 + len(values))
    colors = [design.INVARIANT if t == step else "#7FB2D2" for t in steps]
    text = [f"{v:.2f}" if np.isfinite(v) else "" for v in values]
    figure.add_trace(
        go.Bar(
            x=steps,
            y=values,
            marker={"color": colors, "line": {"width": 0}},
            text=text,
            textposition="outside",
            name="this run",
            cliponaxis=False,
            textfont={"color": ink.text},
            hoverinfo="skip",
        )
    )
    if compared is not None and len(compared):
        hollow = {"color": "rgba(0,0,0,0)", "line": {"color": ink.text, "width": 1.4}}
        label = untrusted.plotly(untrusted.plain(name, 40))
        later = np.arange(2, 2 + len(compared))
        figure.add_trace(go.Bar(x=later, y=compared, marker=hollow, name=label, hoverinfo="skip"))
    if np.isfinite(chance):
        figure.add_hline(chance, line={"color": ink.muted, "width": 1.4, "dash": "dash"})
        words = {"text": f"chance {chance:.2f}", "font": {"color": ink.muted}, "showarrow": False}
        figure.add_annotation(
            x=1, xref="paper", y=chance, xanchor="right", yanchor="bottom", bgcolor=ink.surface, **words
        )
    shown = [(int(t), float(v)) for t, v in zip(steps, values, strict=True) if np.isfinite(v)]
    clickable(figure, shown, [(t,) for t, _ in shown], [f"steps {t - 1} and {t}: {v:.3f}" for t, v in shown])
    last = 1 + max(len(values), 0 if compared is None else len(compared))
    figure.update_xaxes(tickvals=list(range(2, last + 1)), range=[1.4, last + 0.6], showgrid=False)
    figure.update_yaxes(range=[0, 1.12], tickvals=[0, 0.25, 0.5, 0.75, 1])
    return figure.update_layout(bargap=0.45, showlegend=compared is not None)


# ---------------------------------------------------------------------- one channel


@remembered
def profile_lines(
    profiles: np.ndarray, classes: Sequence[ClassInfo], introduced: Sequence[int], ink: Ink, *, cls: int, step: int
) -> go.Figure:
    """Mean activation of one channel on each class, float [T, K], over the steps; the class `cls` in bold.

    introduced: the step that introduces each class; before it, the line is dotted. Clicks carry (step, class).
    """
    figure = frame(ink, x="step", y="mean activation")
    figure.add_vline(step, line={"color": ink.muted, "width": 1, "dash": "dot"})
    steps = np.arange(len(profiles))
    for k in sorted(range(profiles.shape[1]), key=lambda k: k == cls):
        color, heavy = design.css(design.seen_on(classes[k].color, design.rgb(ink.surface))), k == cls
        for part, dash in ((steps <= introduced[k], "dot"), (steps >= introduced[k], "solid")):
            if part.sum() > 1 or dash == "solid":
                common = {"x": steps[part], "y": profiles[part, k], "mode": "lines", "hoverinfo": "skip"}
                casing = {"color": ink.muted, "width": 5.4 if heavy else 3.2, "dash": dash}
                line = {"color": color, "width": 3.4 if heavy else 1.8, "dash": dash}
                figure.add_trace(go.Scatter(**common, line=casing, opacity=0.8 if heavy else 0.4))
                figure.add_trace(go.Scatter(**common, line=line, name=f"class {k}"))
    points = [(t, k) for k in range(profiles.shape[1]) for t in steps.tolist() if np.isfinite(profiles[t, k])]
    words = [f"{class_label(classes[k], ink)}, step {t}: {profiles[t, k]:.3g}" for t, k in points]
    clickable(figure, [(t, float(profiles[t, k])) for t, k in points], points, words)
    figure.data[-1].marker.size = 14
    figure.update_xaxes(tickvals=steps.tolist(), range=[-0.2, len(steps) - 0.8])
    figure.update_yaxes(rangemode="tozero", exponentformat="power", nticks=5)
    return figure


@remembered
def changed_bars(
    before: np.ndarray, after: np.ndarray, classes: Sequence[ClassInfo], ink: Ink, *, truth: np.ndarray | None = None
) -> go.Figure:
    """What each class lost (left) and gained (right) between two label maps [H, W], in % of the picture.

    With `truth`, the labels end with how many pixels of the class are right, before and after.
    """
    lost, gained = lost_and_gained(before, after, len(classes))
    shown = [k for k in range(len(classes)) if ((before == k) | (after == k)).any()]
    figure = frame(ink, x="% of the picture")
    labels = [class_label(classes[k], ink) for k in shown]
    colors = [design.css(design.seen_on(classes[k].color, design.rgb(ink.surface))) for k in shown]
    edge = {"color": colors, "line": {"color": ink.muted, "width": 1}}
    words = [_change_words(k, before, after, truth) for k in shown]
    for values, sign, what in ((lost, -1, "lost"), (gained, 1, "gained")):
        figure.add_trace(
            go.Bar(
                y=labels, x=[sign * values[k] for k in shown], orientation="h", marker=edge, name=what,
                customdata=[[f"{values[k]:.2f}", w] for k, w in zip(shown, words, strict=True)],
                hovertemplate=f"%{{y}}: {what} %{{customdata[0]}} % of the picture%{{customdata[1]}}<extra></extra>",
                opacity=0.55 if sign < 0 else 1.0,
            )
        )  # fmt: skip
    reach = max(0.5, 1.08 * max((max(lost[k], gained[k]) for k in shown), default=0.0))
    figure.add_vline(0, line={"color": ink.text, "width": 1})
    figure.update_xaxes(range=[-reach, reach], nticks=5, title_text="lost ← % of the picture → gained")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_layout(barmode="overlay", bargap=0.35)


def lost_and_gained(before: np.ndarray, after: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The % of the picture that each class lost and gained between two label maps; float [K] twice."""
    moved = before != after
    sizes = [np.bincount(labels[moved], minlength=256)[:classes] for labels in (before, after)]
    return 100 * sizes[0] / before.size, 100 * sizes[1] / before.size


def _change_words(cls: int, before: np.ndarray, after: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None or not (truth == cls).any():
        return ""
    right = [100 * float((labels == cls)[truth == cls].mean()) for labels in (before, after)]
    return f"<br>right: {right[0]:.0f} % before, {right[1]:.0f} % after"


# ---------------------------------------------------------------------- pictures


def tile(entry: GalleryEntry, ink: Ink) -> np.ndarray:
    """A channel's old map beside its new one, in the entry's scale. Returns uint8 [H, W, 3], cells enlarged."""
    factor = max(1, -(-TILE_SIDE // min(entry.old.shape)))
    maps = [np.kron(m, np.ones((factor, factor), np.float32)) for m in (entry.old, entry.new)]
    old, new = (design.colours(m, entry.low, entry.high, ink.ramp)[..., :3] for m in maps)
    gap = np.full((old.shape[0], max(2, round(0.08 * old.shape[1])), 3), design.rgb(ink.surface), np.uint8)
    return np.concatenate([old, gap, new], 1)


def over_picture(pixels: np.ndarray, values: np.ndarray, high: float, ink: Ink, low: float = 0.0) -> np.ndarray:
    """A map from `low` to `high` in the colours of the ramp, over the picture in grey.

    Shape: uint8 [H, W, 3], float [H, W] -> uint8 [H, W, 3].
    """
    grey = (pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    heat = design.colours(values, low, high, ink.ramp)[..., :3]
    return np.rint((1 - HEAT_OPACITY) * grey + HEAT_OPACITY * heat).astype(np.uint8)


def painted(pixels: np.ndarray, labels: np.ndarray, palette: np.ndarray, background: int | None = None) -> np.ndarray:
    """A label map in the dataset's colours over the picture, "none" (254) in grey; the background stays as it is.

    Shape: uint8 [H, W, 3], [H, W], [K, 3] -> [H, W, 3].
    """
    nothing = (labels == NOTHING)[..., None]
    coloured = labels < len(palette)
    if background is not None:
        coloured &= labels != background
    known = coloured[..., None] | nothing
    colors = np.where(nothing, np.array(UNDECIDED, np.uint8), palette[np.minimum(labels, len(palette) - 1)])
    mixed = np.rint((1 - PAINT_OPACITY) * pixels + PAINT_OPACITY * colors).astype(np.uint8)
    return np.where(known, mixed, pixels)
