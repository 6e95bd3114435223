"""What was lost, and where: flows of pixels between classes, losses by step and class, the background shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import class_label, clickable, frame, heat, outline, percent
from dashboard.ui.remembered import remembered
from lag_core.protocol import ClassInfo

SMALLEST = 0.02
"""A class with less than this share of the pixels at a step is counted among the others."""

OTHERS = -1
GAP = 14
"""Pixels between two nodes of a column."""

LONGEST_NAME = 20
"""Characters of a class name beside its node; half as many where the steps stand close."""

TITLE_ROOM, STEP_ROOM = 24, 18
"""Pixels above each Sankey diagram for its run's name and for the steps."""

KINDS: dict[str, tuple[str, float]] = {
    "stays right": (design.PROVENANCE["kept"], 0.5),
    "lost": (design.PROVENANCE["forgotten"], 0.75),
    "won": (design.PROVENANCE["learned"], 0.7),
    "stays wrong": ("#8A8F94", 0.3),
}
"""What a flow is, with its colour and opacity."""

SHIFT: dict[str, str] = {
    "right": design.PROVENANCE["kept"],
    "called background": "#CC79A7",
    "called a new class": design.PROVENANCE["forgotten"],
    "called another old class": "#E69F00",
}
"""Where pixels of old classes go, in the order of forgetting.BackgroundShift (Okabe and Ito's palette)."""


# ---------------------------------------------------------------------- flows


@dataclass(frozen=True)
class Node:
    """A class at a step, with its pixels; class OTHERS stands for all small ones."""

    step: int
    cls: int
    pixels: int


def columns_of(flows: np.ndarray, cls: int | None, smallest: float = SMALLEST) -> list[list[Node]]:
    """The classes to draw at each step: the class itself first, then by size, small ones together last.

    flows: int64 [T - 1, K, K]. Without `cls`, large ones first.
    """
    totals = [*(f.sum(1) for f in flows), flows[-1].sum(0)]
    columns = []
    for step, counts in enumerate(totals):
        everything = int(counts.sum())
        large = [int(k) for k in np.flatnonzero(counts) if k == cls or counts[k] >= smallest * everything]
        large.sort(key=lambda k: (k != cls, -counts[k], k))
        column = [Node(step, k, int(counts[k])) for k in large]
        rest = everything - sum(node.pixels for node in column)
        columns.append([*column, Node(step, OTHERS, rest)] if rest else column)
    return columns


def kind_of(before: int, after: int, cls: int | None) -> str:
    """What a flow between two classes is for pixels of true class `cls`; without one: the same or another."""
    if cls is None:
        return "stays right" if before == after else "lost"
    if after == cls:
        return "stays right" if before == cls else "won"
    return "lost" if before == cls else "stays wrong"


@remembered
def flow_diagram(
    runs: Sequence[tuple[str, np.ndarray]],
    classes: Sequence[ClassInfo],
    ink: Ink,
    *,
    cls: int | None,
    step: int,
    height: int,
) -> go.Figure:
    """Sankey diagrams, one under the other, of pixels from step to step by predicted class.

    runs: (name, flows int64 [T - 1, K, K]) with at least one flow each. cls: the true class of the pixels;
    None where it is not known. `step` is set in bold. height: of the figure, in pixels.
    """
    figure = frame(ink)
    room = height / len(runs)
    for place, (name, flows) in enumerate(runs):
        top = TITLE_ROOM + STEP_ROOM if name else STEP_ROOM
        high = 1 - (place * room + top) / height
        low = 1 - ((place + 1) * room - 6) / height
        figure.add_trace(_sankey(flows, classes, ink, cls, (low, high), room - top - 6))
        _heads(figure, name, len(flows) + 1, high, step, ink)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(visible=False)
    return figure.update_layout(margin={"l": 2, "r": 2, "t": 0, "b": 0, "pad": 0}, height=height)


def _heads(figure: go.Figure, name: str, steps: int, high: float, step: int, ink: Ink) -> None:
    """The run's name and the steps over one diagram."""
    if name:
        figure.add_annotation(
            x=0, y=high, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=STEP_ROOM,
            text=untrusted.plotly(untrusted.plain(name, 48)), showarrow=False, font={"color": ink.muted},
        )  # fmt: skip
    for t in range(steps):
        anchor = "left" if t == 0 else "right" if t == steps - 1 else "center"
        figure.add_annotation(
            x=t / max(steps - 1, 1), y=high, xref="paper", yref="paper", xanchor=anchor, yanchor="bottom",
            text=f"<b>step {t}</b>" if t == step else f"step {t}", showarrow=False,
            font={"color": ink.text if t == step else ink.muted},
        )  # fmt: skip


def _sankey(
    flows: np.ndarray,
    classes: Sequence[ClassInfo],
    ink: Ink,
    cls: int | None,
    span: tuple[float, float],
    pixels_high: float,
) -> go.Sankey:
    columns = columns_of(flows, cls)
    nodes = [node for column in columns for node in column]
    total = max(sum(n.pixels for n in columns[0]), 1)
    links = _links(flows, columns, nodes)
    names = [_node_name(n, classes) for n in nodes]
    kinds = [kind_of(nodes[a].cls, nodes[b].cls, cls) for a, b, _ in links]
    return go.Sankey(
        arrangement="fixed",
        domain={"x": [0, 1], "y": list(span)},
        textfont={"color": ink.text, "size": 12, "shadow": f"0 0 3px {ink.surface}, 0 0 3px {ink.surface}"},
        node={
            "label": _shown_names(columns, names),
            "color": [_node_color(n, classes) for n in nodes],
            "line": {"color": ink.muted, "width": 0.5},
            "thickness": 12,
            "pad": GAP,
            "x": [_inside(n.step / max(len(columns) - 1, 1)) for n in nodes],
            "y": _heights(columns, total, pixels_high),
            "customdata": [
                f"{name}, step {n.step}: {_amount(n.pixels, total)}" for n, name in zip(nodes, names, strict=True)
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        link={
            "source": [a for a, _, _ in links],
            "target": [b for _, b, _ in links],
            "value": [n for _, _, n in links],
            "color": [_translucent(*KINDS[kind]) for kind in kinds],
            "customdata": [
                f"{names[a]} at step {nodes[a].step} → {names[b]} at step {nodes[b].step}: "
                f"{_amount(n, total)}, {_words(kind, cls)}"
                for (a, b, n), kind in zip(links, kinds, strict=True)
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def _links(flows: np.ndarray, columns: Sequence[Sequence[Node]], nodes: Sequence[Node]) -> list[tuple[int, int, int]]:
    """(node, node, pixels) of every flow, those of small classes added up."""
    place = {(n.step, n.cls): i for i, n in enumerate(nodes)}
    sums: dict[tuple[int, int], int] = {}
    for t, flow in enumerate(flows):
        for a, b in np.argwhere(flow).tolist():
            source = place.get((t, a), place.get((t, OTHERS), -1))
            target = place.get((t + 1, b), place.get((t + 1, OTHERS), -1))
            sums[source, target] = sums.get((source, target), 0) + int(flow[a, b])
    return [(a, b, n) for (a, b), n in sums.items()]


def _heights(columns: Sequence[Sequence[Node]], total: int, pixels_high: float) -> list[float]:
    """The middle of each node from the top, 0..1: columns fill from the top, with Plotly's own scale."""
    most = max(len(column) for column in columns)
    scale = max(1 - (most - 1) * GAP / pixels_high, 0.1) / total
    middles = []
    for column in columns:
        top = 0.0
        for node in column:
            middles.append(_inside(top + node.pixels * scale / 2))
            top += node.pixels * scale + GAP / pixels_high
    return middles


def _inside(fraction: float) -> float:
    """Plotly takes a place of exactly 0 for "not given"."""
    return min(max(fraction, 0.001), 0.999)


def _shown_names(columns: Sequence[Sequence[Node]], names: Sequence[str]) -> list[str]:
    """The names that are written: a class that was there at the previous step is known by its colour."""
    longest = LONGEST_NAME if len(columns) <= 3 else LONGEST_NAME // 2
    shown, place = [], 0
    for t, column in enumerate(columns):
        before = {node.cls for node in columns[t - 1]} if t else set()
        for node in column:
            shown.append("" if node.cls in before else untrusted.plain(names[place], longest))
            place += 1
    return shown


def _node_name(node: Node, classes: Sequence[ClassInfo]) -> str:
    return "others" if node.cls == OTHERS else untrusted.plotly(untrusted.plain(classes[node.cls].name, 20))


def _node_color(node: Node, classes: Sequence[ClassInfo]) -> str:
    return "#8A8F94" if node.cls == OTHERS else design.css(classes[node.cls].color)


def _amount(pixels: int, total: int) -> str:
    return f"{pixels:,} px ({100 * pixels / total:.1f} %)"


def _words(kind: str, cls: int | None) -> str:
    return kind if cls is not None else {"stays right": "unchanged", "lost": "changed"}[kind]


def _translucent(color: str, opacity: float) -> str:
    red, green, blue = design.rgb(color)
    return f"rgba({red},{green},{blue},{opacity})"


# ---------------------------------------------------------------------- losses by step and class


@remembered
def lost_matrix(
    shares: np.ndarray,
    pixels: np.ndarray,
    classes: Sequence[ClassInfo],
    ink: Ink,
    *,
    step: int,
    cls: int,
    other: np.ndarray | None = None,
    other_name: str = "",
) -> go.Figure:
    """Share of each class's pixels (row) that is forgotten after each step (column), percent.

    shares: [T, K] fractions, NaN where there is nothing to lose; pixels: [K]. other: the same of a compared
    run, shown on hover. Clicks carry (step, class index).
    """
    values = percent(shares).T
    against = None if other is None else percent(other).T
    hover = [
        [_lost_words(k, t, values, pixels, classes, against, other_name) for t in range(len(shares))]
        for k in range(len(classes))
    ]
    columns = [f"step {t}" for t in range(len(shares))]
    figure = heat(frame(ink), values, [class_label(c, ink) for c in classes], columns, ink, hover=hover)
    figure.update_xaxes(side="top")
    outline(figure, (-0.5, len(shares) - 0.5), (cls - 0.5, cls + 0.5), ink.muted)
    outline(figure, (step - 0.5, step + 0.5), (-0.5, len(classes) - 0.5), ink.text)
    points = [(t, c) for t in range(len(shares)) for c in range(len(classes))]
    return clickable(figure, points, points, [hover[c][t] for t, c in points])


def _lost_words(
    cls: int,
    step: int,
    values: np.ndarray,
    pixels: np.ndarray,
    classes: Sequence[ClassInfo],
    against: np.ndarray | None,
    other_name: str,
) -> str:
    name = untrusted.plotly(untrusted.plain(classes[cls].name, 40))
    if np.isnan(values[cls, step]):
        return f"{name}, step {step}: nothing that could be lost"
    words = f"{name}, after step {step}: {values[cls, step]:.1f} % of {int(pixels[cls]):,} px lost"
    if against is None or step >= against.shape[1] or np.isnan(against[cls, step]):
        return words
    return f"{words}<br>{untrusted.plotly(untrusted.plain(other_name, 40))}: {against[cls, step]:.1f} % lost"


# ---------------------------------------------------------------------- background shift


@remembered
def shift_bars(runs: Sequence[tuple[str, np.ndarray]], ink: Ink, *, step: int, background: bool = True) -> go.Figure:
    """What pixels of old classes are called after each step: stacked shares, percent, a bar a run and step.

    runs: (name, shares [T, 4] in the order of SHIFT, NaN where nothing is old). `background`: whether the
    dataset has one. The present step is written in bold; of two runs, the second bar is the compared run's.
    """
    figure = frame(ink, y="share of their pixels (%)")
    width = 0.7 / len(runs)
    for place, (name, shares) in enumerate(runs):
        middle = (place - (len(runs) - 1) / 2) * (width + 0.03)
        base = np.zeros(len(shares))
        for part, (label, color) in enumerate(SHIFT.items()):
            if part == 1 and not background:
                continue
            values = percent(shares[:, part])
            figure.add_trace(_bars(values, base, label, color, name, middle, width, place, ink))
            base = base + np.nan_to_num(values)
    longest = max(len(shares) for _, shares in runs)
    ticks = list(range(1, longest))
    labels = [f"<b>step {t}</b>" if t == step else f"step {t}" for t in ticks]
    figure.update_xaxes(tickvals=ticks, ticktext=labels, range=[0.5, max(longest, 2) - 0.5], showgrid=False)
    figure.update_yaxes(range=[0, 100], tickvals=[0, 25, 50, 75, 100])
    return figure.update_layout(showlegend=True, barmode="overlay", legend={"traceorder": "normal"})


def _bars(
    values: np.ndarray,
    base: np.ndarray,
    label: str,
    color: str,
    name: str,
    middle: float,
    width: float,
    place: int,
    ink: Ink,
) -> go.Bar:
    """One colour of one run's bars. The compared run's are hatched."""
    shown = untrusted.plotly(untrusted.plain(name, 40))
    return go.Bar(
        x=[t + middle for t in range(len(values))],
        y=values,
        base=base,
        width=width,
        name=label,
        legendgroup=label,
        showlegend=place == 0,
        marker={
            "color": color,
            "line": {"color": ink.surface, "width": 1},
            "pattern": {  # laid over the colour: Plotly's own way would leave the ground transparent
                "shape": "/" if place else "",
                "fillmode": "overlay",
                "fgcolor": ink.surface,
                "size": 6,
                "solidity": 0.2,
            },
        },
        customdata=[f"step {t}, {shown}" for t in range(len(values))],
        hovertemplate=f"%{{customdata}}: %{{y:.1f}} % {label}<extra></extra>",
    )
