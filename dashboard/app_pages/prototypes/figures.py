"""Did the class move: the paths of prototypes through a plane, drift and margins over steps, cosines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import class_label, clickable, frame, heat, outline
from dashboard.ui.remembered import remembered
from lag_core.explain.similarity import Path, Projection
from lag_core.protocol import ClassInfo

FAINT = 2.2
"""Contrast with the surface below which a thin line of that colour would not be seen."""

MOST_LINES = 24
"""Classes that are drawn as lines; of more, the selected one and those that moved most."""

MOST_NAMES = 12
"""Paths of which each may have its name at its end, where there is room."""


Trace = dict[str, Any]
"""A Plotly trace before it is checked: making an object of it first would check it twice."""


@dataclass(frozen=True)
class Series:
    """One class over the steps."""

    cls: int
    values: np.ndarray
    """float [T], NaN where there is nothing."""
    words: Sequence[str]
    """Hover text, one per step."""
    dotted: bool = False
    """Of the compared run."""


def chosen_classes(moved: np.ndarray, cls: int, most: int = MOST_LINES) -> list[int]:
    """The classes to draw: all, or `cls` and those with the largest `moved` [K]; in the order of indices."""
    if len(moved) <= most:
        return list(range(len(moved)))
    ranked = [int(k) for k in np.argsort(-np.nan_to_num(moved, nan=-1.0), kind="stable") if k != cls]
    return sorted([cls, *ranked[: most - 1]])


# ---------------------------------------------------------------------- paths


@remembered
def path_plane(
    paths: Sequence[Path],
    projection: Projection,
    classes: Sequence[ClassInfo],
    introduced: Sequence[int],
    ink: Ink,
    *,
    cls: int,
    step: int,
) -> go.Figure:
    """Prototypes of each class over the steps, in a plane that is the same for all steps.

    introduced: the step that introduces each class; before it, the path is dotted and its marks are hollow. The
    marks of `step` are large, the class `cls` is drawn last and in bold. Clicks carry (step, class index).
    """
    share = [f" ({100 * v:.0f} % of variance)" if np.isfinite(v) else "" for v in projection.explained]
    figure = frame(ink, x=f"axis 1{share[0]}", y=f"axis 2{share[1]}")
    ordered = sorted(paths, key=lambda path: path.cls == cls)
    for path in ordered:
        figure.add_traces(_path_traces(path, classes[path.cls], introduced[path.cls], ink, path.cls == cls, step))
    for path in _with_room(ordered[::-1]):
        figure.add_annotation(_name_at_end(path, classes[path.cls], ink, path.cls == cls))
    marks = [(path, i) for path in ordered for i in range(len(path.steps))]
    hover = [
        f"{untrusted.plotly(untrusted.plain(classes[p.cls].name, 40))}, step {p.steps[i]}"
        + ("" if p.steps[i] >= introduced[p.cls] else " (not introduced yet)")
        for p, i in marks
    ]
    points = [(float(p.points[i, 0]), float(p.points[i, 1])) for p, i in marks]
    clickable(figure, points, [(p.steps[i], p.cls) for p, i in marks], hover)
    figure.data[-1].marker.size = 14
    _square_range(figure, np.array(points).reshape(-1, 2))
    return figure


def _with_room(paths: Sequence[Path]) -> list[Path]:
    """The paths whose ends have room for a name, the first ones first."""
    everything = np.concatenate([path.points for path in paths]) if paths else np.zeros((0, 2))
    if not len(everything):
        return []
    size = max(float((everything.max(0) - everything.min(0)).max()), 1e-9)
    named: list[Path] = []
    for path in paths[:MOST_NAMES]:
        apart = [np.abs(path.points[-1] - other.points[-1]) / size for other in named if len(path.steps)]
        if len(path.steps) and all(dx > 0.22 or dy > 0.07 for dx, dy in apart):
            named.append(path)
    return named


def _path_traces(path: Path, info: ClassInfo, introduced: int, ink: Ink, heavy: bool, step: int) -> list[Trace]:
    """The way before the class is introduced, the way since, and the marks of the steps."""
    known = [i for i, t in enumerate(path.steps) if t >= introduced]
    before = [i for i, t in enumerate(path.steps) if t <= introduced]
    color = design.css(info.color)
    traces = []
    if len(before) > 1:
        traces.append(_line(path.points[before], ink.muted, 1.0, 0.6, "dot"))
    faint = design.contrast(info.color, design.rgb(ink.surface)) < FAINT
    if len(known) > 1 and (heavy or faint):  # a casing makes it heavy, and keeps white and yellow visible
        traces.append(_line(path.points[known], ink.muted, 5.0 if heavy else 3.0, 0.9 if heavy else 0.5))
    if len(known) > 1:
        traces.append(_line(path.points[known], color, 3.0 if heavy else 1.6, 1.0))
    sizes = [(15 if heavy else 11) if t == step else (9 if heavy else 7) for t in path.steps]
    fills = [color if t >= introduced else ink.surface for t in path.steps]
    edges = [ink.text if t == step else ink.muted for t in path.steps]
    marks = {
        "type": "scatter",
        "x": path.points[:, 0],
        "y": path.points[:, 1],
        "mode": "markers",
        "marker": {"size": sizes, "color": fills, "line": {"color": edges, "width": 1.5 if heavy else 1.0}},
        "hoverinfo": "skip",
        "name": f"class {path.cls}",
    }
    return [*traces, marks]


def _line(points: np.ndarray, color: str, width: float, opacity: float, dash: str = "solid") -> Trace:
    return {
        "type": "scatter",
        "x": points[:, 0],
        "y": points[:, 1],
        "mode": "lines",
        "line": {"color": color, "width": width, "dash": dash},
        "opacity": opacity,
        "hoverinfo": "skip",
    }


def _name_at_end(path: Path, info: ClassInfo, ink: Ink, heavy: bool) -> dict[str, object]:
    name = untrusted.plotly(untrusted.plain(info.name, 20))
    x, y = path.points[-1]
    return {
        "x": float(x), "y": float(y), "text": f"<b>{name}</b>" if heavy else name, "showarrow": False,
        "yshift": 14, "font": {"color": ink.text if heavy else ink.muted},
    }  # fmt: skip


def _square_range(figure: go.Figure, points: np.ndarray) -> None:
    """Both axes over all points with room for names; one unit is as long across as up."""
    if not len(points):
        return
    low, high = points.min(0), points.max(0)
    room = np.maximum(0.12 * (high - low).max(), 1e-9)
    figure.update_xaxes(range=[float(low[0] - 2 * room), float(high[0] + 2 * room)], exponentformat="power")
    figure.update_yaxes(
        range=[float(low[1] - room), float(high[1] + 1.6 * room)], scaleanchor="x", exponentformat="power"
    )


# ---------------------------------------------------------------------- over steps


@remembered
def over_steps(
    series: Sequence[Series],
    classes: Sequence[ClassInfo],
    ink: Ink,
    *,
    cls: int,
    step: int,
    steps: int,
    y: str,
    floor: float | None = 0.0,
) -> go.Figure:
    """A line for each class over the steps; the class `cls` in bold and on top, the compared run dotted.

    y: the axis's title with its unit. floor: a line that means something (0 for a margin); None for none.
    Clicks carry (step, class index).
    """
    figure = frame(ink, x="step", y=y)
    if floor is not None:
        figure.add_hline(floor, line={"color": ink.muted, "width": 1})
    figure.add_vline(step, line={"color": ink.muted, "width": 1, "dash": "dot"})
    ordered = sorted(series, key=lambda s: (s.cls == cls, not s.dotted))
    for one in ordered:
        figure.add_traces(_series_traces(one, classes[one.cls], ink, one.cls == cls))
    marks = [(s, t) for s in ordered for t in np.flatnonzero(~np.isnan(s.values)).tolist()]
    clickable(
        figure,
        [(t, float(s.values[t])) for s, t in marks],
        [(t, s.cls) for s, t in marks],
        [s.words[t] for s, t in marks],
    )
    figure.data[-1].marker.size = 14
    figure.update_xaxes(tickvals=list(range(steps)), range=[-0.2, steps - 0.8])
    figure.update_yaxes(exponentformat="power", rangemode="tozero" if floor == 0 else "normal")
    return figure


def _series_traces(one: Series, info: ClassInfo, ink: Ink, heavy: bool) -> list[Trace]:
    """The line of one class. A casing makes one heavy, and keeps white and yellow visible."""
    color = design.css(info.color)
    faint = design.contrast(info.color, design.rgb(ink.surface)) < FAINT
    stroke = ink.muted if one.dotted and faint else color
    common = {"type": "scatter", "x": list(range(len(one.values))), "y": one.values, "hoverinfo": "skip"}
    line = {
        **common,
        "mode": "lines+markers",
        "line": {
            "color": stroke,
            "width": 2.8 if heavy else 1.4,
            "dash": "dot" if one.dotted else "solid",
        },
        "marker": {
            "size": 9 if heavy else 6,
            "color": ink.surface if one.dotted else color,
            "line": {"color": stroke if one.dotted else ink.muted, "width": 1.2},
        },
        "name": ("compared " if one.dotted else "") + f"class {one.cls}",
    }
    if one.dotted or not (heavy or faint):
        return [line]
    casing = {"color": ink.muted, "width": 4.5 if heavy else 2.6}
    return [{**common, "mode": "lines", "line": casing, "opacity": 0.9 if heavy else 0.45}, line]


# ---------------------------------------------------------------------- cosines


@remembered
def cosine_matrix(
    cosines: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    hover: Sequence[Sequence[str]],
    ink: Ink,
    *,
    row: int | None = None,
    data: Sequence[tuple[int, int]] = (),
) -> go.Figure:
    """Cosines [R, C], coloured from `lowest` to 1, with as many decimals as tell them apart.

    `row` is framed. data: what a click carries, row by row, for each cell.
    """
    low = lowest(cosines)
    decimals = 2 if low < 0.95 else 3 if low < 0.995 else 4
    figure = heat(frame(ink), (cosines - low) / (1 - low), rows, columns, ink, hover=hover, high=1.0, decimals=decimals)
    if len(figure.data) > 1:
        cells = np.argwhere(~np.isnan(cosines)).tolist()
        figure.data[1].text = [_short(float(cosines[r, c]), decimals) for r, c in cells]
        figure.data[1].textfont.size = 11 if len(columns) <= 8 else 9
    else:
        figure.data[0].colorbar.update(ticksuffix="", tickvals=[0, 1], ticktext=[f"{low:g}", "1"])
    figure.update_xaxes(side="top", tickangle=-90 if len(columns) == len(rows) else 0)
    if row is not None:
        outline(figure, (-0.5, len(columns) - 0.5), (row - 0.5, row + 0.5), ink.text)
    if data:
        points = [(c, r) for r in range(len(rows)) for c in range(len(columns))]
        clickable(figure, points, data, [hover[r][c] for c, r in points])
    return figure


def _short(cosine: float, decimals: int) -> str:
    """A cosine without the zero before its point, for narrow cells: .98, -.2, 1."""
    text = f"{cosine:.{decimals}f}"
    return f"{cosine:.0f}" if abs(float(text)) == 1 else text.replace("0.", ".", 1)


def lowest(cosines: np.ndarray) -> float:
    """Where the colours of a cosine matrix begin: its smallest value, rounded down to a step of its scale."""
    if np.isnan(cosines).all():
        return 0.0
    smallest = float(np.nanmin(cosines))
    unit = 0.1 if smallest < 0.9 else 0.01 if smallest < 0.99 else 0.001 if smallest < 0.999 else 0.0001
    return max(-1.0, min(np.floor(smallest / unit + 1e-9) * unit, 1 - unit))


def labels(classes: Sequence[ClassInfo], ink: Ink) -> list[str]:
    """Of the rows and columns of a matrix of classes."""
    return [class_label(c, ink) for c in classes]
