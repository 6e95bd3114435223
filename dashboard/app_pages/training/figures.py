"""What a training did: each loss term, its gradient on the shared layers, learning rates, pseudo-labels.

Two axes of time. Over all steps each step is equally wide, whatever its number of iterations, so that runs
can be overlaid and a long step 0 does not hide the others; within one step time counts iterations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.app_pages.training.terms import short
from dashboard.ui import design, untrusted
from dashboard.ui.design import Ink
from dashboard.ui.frame import clickable, colorscale, frame, outline
from dashboard.ui.remembered import remembered
from lag_core.explain.effects import SEGMENTATION, Effect, StepEffects, TermEffect
from lag_core.explain.history import History, smoothed

MOST_POINTS = 1200
"""Points of a line; of a longer one the extremes of each stretch are kept."""

FEW_POINTS = 80
"""A line with at most this many points shows each of them as a dot."""

FEW_NAMES = 4
"""With at most this many steps, a panel's labels say "step 1", not only "1"."""

FEWEST_ROWS = 4
"""Least number of rows that a table has room for, so that a single term does not fill it with colour."""

FAINT, SECOND = 0.25, 0.75
"""Opacity of what lies behind a smoothed line, and of the compared run."""

PARTS = {"heads": design.OLD, "aspp": design.NEW, "stage": "#E69F00", "backbone": "#009E73"}
"""Parts of the network by name."""

COVERAGE, PRECISION = design.OLD, design.NEW


@dataclass(frozen=True)
class Window:
    """The stretch of training that is drawn."""

    step: int | None
    """One step, on an axis of iterations; None for all of them."""
    marked: int
    """The step of the scrubber."""
    smoothing: float = 0.0

    def of(self, history: History) -> History:
        return history if self.step is None else history.of_step(self.step)

    def positions(self, history: History) -> np.ndarray:
        """Place of each event on the axis, float64 [N]."""
        if self.step is not None:
            return history.iteration.astype(np.float64)
        lengths = {t: max(history.length(t), 1) for t in history.steps}
        per_event = np.array([lengths[t] for t in history.step.tolist()] or [1])[: len(history)]
        return history.step + history.iteration / per_event


def term_color(name: str, ink: Ink, names: Sequence[str]) -> str:
    """The colour of a loss term; an unknown one gets a spare colour by its place in `names`."""
    if name == SEGMENTATION:
        return ink.text
    unknown = [n for n in names if n not in design.TERMS and n != SEGMENTATION]
    return design.TERMS.get(name) or design.SPARE[unknown.index(name) % len(design.SPARE)]


@remembered
def moved_matrix(steps: Sequence[StepEffects], ink: Ink, *, marked: int, last: int) -> go.Figure:
    """Median gradient norm of each term (row) at each step (column); darkest is the step's largest.

    A dead term is a cross, a zero is 0, and where no shared layer trained it says "heads". Clicks carry
    (step,); steps above `last` are not finished and cannot be chosen.
    """
    names = list(dict.fromkeys(term.name for step in steps for term in step.terms))
    values, texts, hover = _cells(steps, names)
    figure = frame(ink)
    across, down = list(range(len(steps))), list(range(len(names)))
    figure.add_trace(
        go.Heatmap(
            z=values, x=across, y=down, zmin=0, zmax=1, colorscale=colorscale(ink.ramp), showscale=False,
            xgap=2, ygap=2, customdata=hover, hovertemplate="%{customdata}<extra></extra>", hoverongaps=False,
            name="gradients",
        )
    )  # fmt: skip
    figure.add_trace(_written(values, texts, ink))
    figure.update_xaxes(
        tickvals=across, ticktext=[_column(s) for s in steps], side="top", range=[-0.5, len(steps) - 0.5]
    )
    rows = [untrusted.plotly(untrusted.plain(n, 14)) for n in names]
    figure.update_yaxes(tickvals=down, ticktext=rows, range=[max(len(names), FEWEST_ROWS) - 0.5, -0.5])
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(showgrid=False, showline=False, ticks="")
    if len(names) >= FEWEST_ROWS:
        figure.update_layout(plot_bgcolor=ink.blank)
    chosen = next((i for i, s in enumerate(steps) if s.step == marked), None)
    if chosen is not None:
        outline(figure, (chosen - 0.5, chosen + 0.5), (-0.5, len(names) - 0.5), ink.text)
    points = [(i, r) for i, s in enumerate(steps) if s.step <= last for r in down]
    return clickable(figure, points, [(steps[i].step,) for i, _ in points], [hover[r][i] for i, r in points])


def _column(step: StepEffects) -> str:
    return f"step {step.step}" + ("" if step.finished else " …")


def _cells(steps: Sequence[StepEffects], names: Sequence[str]) -> tuple[np.ndarray, list[list[str]], list[list[str]]]:
    """Darkness 0..1 (NaN: blank), text and hover of each cell, [terms, steps]."""
    values = np.full((len(names), len(steps)), np.nan)
    texts = [["" for _ in steps] for _ in names]
    hover = [["" for _ in steps] for _ in names]
    for column, step in enumerate(steps):
        top = max((t.norm for t in step.terms if math.isfinite(t.norm)), default=0.0)
        for row, name in enumerate(names):
            term = step.term(name)
            label = f"{untrusted.plotly(name)}, step {step.step}: "
            if term is None:
                hover[row][column] = label + "not part of the loss"
                continue
            texts[row][column], words = _cell_words(term, step)
            hover[row][column] = label + words
            if term.effect in (Effect.MOVED, Effect.HARDLY):
                values[row, column] = _darkness(term.norm, top)
    return values, texts, hover


def _cell_words(term: TermEffect, step: StepEffects) -> tuple[str, str]:
    """(text in the cell, text on hover)."""
    why = untrusted.plotly(untrusted.plain(step.why_dead or "nothing that trains reaches it"))
    return {
        Effect.DEAD: ("✕", f"no gradient, {why}"),
        Effect.HEADS: ("heads", "trains the heads alone"),
        Effect.ZERO: ("0", "gradient 0 at every measurement"),
        Effect.UNMEASURED: ("?", "no gradient norm was logged"),
    }.get(term.effect, (short(term.norm), f"median gradient norm {short(term.norm)}"))


def _darkness(norm: float, top: float) -> float:
    """0.1..1 over three decades below the step's largest norm."""
    if norm <= 0 or top <= 0:
        return 0.1
    return 1 - 0.9 * min(max(-math.log10(norm / top) / 3, 0), 1)


def _written(values: np.ndarray, texts: Sequence[Sequence[str]], ink: Ink) -> go.Scatter:
    """The texts of the cells, each readable on its colour; dead terms in the colour of what is lost."""
    cells = [(r, c) for r, row in enumerate(texts) for c, text in enumerate(row) if text]
    colors = []
    for r, c in cells:
        if texts[r][c] in ("✕", "0"):
            colors.append(design.NEW)
        elif np.isnan(values[r, c]):
            colors.append(ink.muted)
        else:
            colors.append(design.text_on(design.on_ramp(ink.ramp, float(values[r, c]))))
    return go.Scatter(
        x=[c for _, c in cells],
        y=[r for r, _ in cells],
        text=[f"<b>{texts[r][c]}</b>" if texts[r][c] in ("✕", "0") else texts[r][c] for r, c in cells],
        mode="text",
        textfont={"color": colors},
        hoverinfo="skip",
        name="texts",
    )


@remembered
def gradient_norms(
    runs: Sequence[History], window: Window, ink: Ink, *, dead: Mapping[int, Sequence[str]]
) -> go.Figure:
    """Gradient norm of each term on the shared layers; logarithmic, with a lane for zero under it.

    runs: the open run, then the compared one (dotted, the terms that both have). dead: terms by step that
    have no gradient in the open run; they are crosses in the lane.
    """
    names = runs[0].terms
    # Segmentation is what the others are compared with: it is drawn first, under them.
    tracks = [
        Track(name, term_color(name, ink, names), history.norm[name], number)
        for number, history in _drawn(runs, window)
        for name in sorted(names, key=lambda n: n != SEGMENTATION)
        if name in history.norm
    ]
    figure = _time_frame(runs, window, ink, "gradient norm")
    lane = ZeroLane.under([t.values for t in tracks], len(names))
    for track in tracks:
        history = window.of(runs[track.run])
        flags = np.array([track.name in dead.get(t, ()) for t in history.step.tolist()], bool)
        row = names.index(track.name)
        _add_log(figure, track, window, history, lane, row, flags if track.run == 0 else flags & False)
    lane.label(figure, ink)
    return figure.update_layout(showlegend=True)


@remembered
def learning_rates(runs: Sequence[History], window: Window, ink: Ink) -> go.Figure:
    """Learning rate of each part of the network; logarithmic. A part at zero does not train yet."""
    names = tuple(runs[0].rate)
    spare = [n for n in names if n not in PARTS]
    colors = {n: PARTS.get(n) or design.SPARE[spare.index(n) % len(design.SPARE)] for n in names}
    tracks = [
        Track(name, colors[name], history.rate[name], number)
        for number, history in _drawn(runs, window)
        for name in names
        if name in history.rate
    ]
    figure = _time_frame(runs, window, ink, "learning rate", narrow=True)
    lane = ZeroLane.under([t.values for t in tracks], len(names))
    plain = Window(window.step, window.marked)
    for track in tracks:
        history = window.of(runs[track.run])
        nothing = np.zeros(len(history), bool)
        _add_log(figure, track, plain, history, lane, names.index(track.name), nothing)
    lane.label(figure, ink)
    return figure.update_layout(showlegend=True)


@remembered
def pseudo_labels(runs: Sequence[History], window: Window, ink: Ink) -> go.Figure:
    """Coverage and precision of the pseudo-labels, percent; the compared run dotted."""
    figure = _time_frame(runs, window, ink, "%", narrow=True)
    for number, history in _drawn(runs, window):
        for name, color, values in (
            ("coverage", COVERAGE, history.coverage),
            ("precision", PRECISION, history.precision),
        ):
            _add_lines(figure, Track(name, color, values * 100, number), window, history, unit=" %")
    figure.update_yaxes(range=[-3, 103], dtick=25)
    return figure.update_layout(showlegend=True)


@remembered
def throughput(runs: Sequence[History], window: Window, ink: Ink, names: Sequence[str]) -> go.Figure:
    """Images per second of each run. names: of the runs, for the hover."""
    figure = _time_frame(runs, window, ink, "images/s", narrow=True)
    for number, history in _drawn(runs, window):
        color = design.ALL if number else ink.ramp[3]
        _add_lines(figure, Track(names[number], color, history.throughput, number), window, history)
    figure.update_yaxes(rangemode="tozero")
    return figure


@remembered
def term_panels(runs: Sequence[History], window: Window, ink: Ink, *, columns: int = 3) -> go.Figure:
    """A panel for each term of the open run, scaled alone: raw value, and what it adds to the loss (filled).

    The compared run is dotted where it has a term of that name.
    """
    names = runs[0].terms
    columns = max(min(columns, len(names)), 1)
    rows = max(math.ceil(len(names) / columns), 1)
    figure = frame(ink)
    grid = make_subplots(
        rows, columns, horizontal_spacing=0.06, vertical_spacing=0.13,
        subplot_titles=[untrusted.plotly(untrusted.plain(n, 30)) for n in names],
    )  # fmt: skip
    axes = {"xaxis": figure.layout.xaxis.to_plotly_json(), "yaxis": figure.layout.yaxis.to_plotly_json()}
    grid.update_layout({k: v for k, v in figure.layout.to_plotly_json().items() if "axis" not in k})
    grid.update_xaxes(**_without_title(axes["xaxis"])).update_yaxes(**_without_title(axes["yaxis"]))
    for place, name in enumerate(names):
        cell = {"row": place // columns + 1, "col": place % columns + 1}
        color = term_color(name, ink, names)
        for number, history in _drawn(runs, window):
            if name in history.raw:
                raw = Track("raw", color, history.raw[name], number)
                weighted = Track("weighted", color, history.weighted(name), number, width=1.25, fill=True)
                _add_lines(grid, weighted, window, history, cell=cell)
                _add_lines(grid, raw, window, history, cell=cell)
        _time_axis(grid, runs, window, ink, cell=cell, number=place + 1)
        grid.update_xaxes(showticklabels=place + columns >= len(names), **cell)
        grid.update_yaxes(rangemode="tozero", nticks=4, exponentformat="e", minexponent=3, **cell)
    font = {"size": 12, "color": ink.text}
    grid.update_annotations(font=font, yshift=-2)
    return grid.update_layout(margin={"l": 8, "r": 8, "t": 22, "b": 8}, showlegend=False)


def _without_title(axis: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in axis.items() if key != "title"}


@dataclass(frozen=True)
class Track:
    """One line over the events of a window."""

    name: str
    color: str
    values: np.ndarray
    """float64 [N]."""
    run: int
    """0: the open run, 1: the compared one."""
    width: float = 2.0
    fill: bool = False

    @property
    def label(self) -> str:
        """The name as Plotly may show it."""
        return untrusted.plotly(untrusted.plain(self.name, 40))

    def style(self) -> dict[str, object]:
        line = {"color": self.color, "width": self.width if self.run == 0 else 1.5}
        return {
            "name": self.label,
            "legendgroup": self.label,
            "line": {**line, "dash": "solid" if self.run == 0 else "dot"},
            "opacity": 1.0 if self.run == 0 else SECOND,
        }


def _drawn(runs: Sequence[History], window: Window) -> list[tuple[int, History]]:
    """(number, events in the window) of each run, the compared one first: it lies underneath."""
    return [(i, window.of(history)) for i, history in reversed(list(enumerate(runs)))]


def _segments(history: History) -> list[np.ndarray]:
    """Row numbers of each step: lines, averages and gaps respect where a step ends."""
    return [np.flatnonzero(history.step == t) for t in history.steps]


def _average(values: np.ndarray, history: History, strength: float) -> np.ndarray:
    """`smoothed`, anew at each step."""
    out = np.full(len(values), np.nan)
    for rows in _segments(history):
        out[rows] = smoothed(values[rows], strength)
    return out


def kept_rows(values: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Rows to draw of a long line: the least and the greatest of each stretch, and both ends. Ascending."""
    if len(values) <= most:
        return np.arange(len(values))
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), most // 2):
        finite = stretch[np.isfinite(values[stretch])]
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
    return np.array(sorted(kept))


def _line(
    history: History,
    window: Window,
    values: np.ndarray,
    shown: np.ndarray,
    notes: Sequence[str] | None = None,
) -> dict[str, list[Any]]:
    """x, y and hover of a line: logged values only, with a gap where a step ends.

    values: float64 [N], decides what is logged. shown: what is drawn. notes: replaces the value on hover.
    """
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    places = window.positions(history)
    for rows in _segments(history):
        logged = rows[np.isfinite(values[rows])]
        picked = logged[kept_rows(shown[logged])] if len(logged) else logged
        for i in picked.tolist():
            x.append(float(places[i]))
            y.append(float(shown[i]))
            value = notes[i] if notes else short(float(values[i]))
            text.append(f"{value} · step {history.step[i]}, iteration {history.iteration[i]:,}")
        if len(picked):
            x.append(None)
            y.append(None)
            text.append("")
    return {"x": x, "y": y, "text": text}


def _add_lines(
    figure: go.Figure,
    track: Track,
    window: Window,
    history: History,
    *,
    unit: str = "",
    cell: Mapping[str, int] | None = None,
) -> None:
    """A smoothed line, and behind it, faint, what was logged."""
    logged = track.values
    average = _average(logged, history, window.smoothing)
    style, place = track.style(), dict(cell or {})
    tail = " (compared)" if track.run else ""
    filled = track.fill and track.run == 0
    hover = {"hovertemplate": f"{track.label}{tail} %{{text}}<extra></extra>", "mode": "lines"}
    if window.smoothing and track.run == 0 and not filled:
        faint = {**style, "opacity": FAINT, "line": {"color": track.color, "width": 1}}
        points = _line(history, window, logged, logged)
        figure.add_trace(go.Scatter(**points, **faint, mode="lines", hoverinfo="skip", showlegend=False), **place)
    points = _line(history, window, logged, average)
    points["text"] = [t.replace(" ·", f"{unit} ·", 1) for t in points["text"]]
    if filled:
        red, green, blue = design.rgb(track.color)
        style |= {"fill": "tozeroy", "fillcolor": f"rgba({red},{green},{blue},0.22)"}
        style["line"] = {**style["line"], "width": track.width}  # type: ignore[dict-item]
    lonely = bool(len(points["x"])) and len([v for v in points["y"] if v is not None]) <= len(history.steps)
    hover["mode"] = "lines+markers" if lonely else "lines"
    figure.add_trace(go.Scatter(**points, **style, **hover, showlegend=track.run == 0 and not cell), **place)


@dataclass(frozen=True)
class ZeroLane:
    """A strip under a logarithmic axis, with a row for each name, for values of zero."""

    floor: float
    """Exponent of ten at its upper edge."""
    top: float
    """Largest exponent of ten that is drawn."""
    rows: int

    @classmethod
    def under(cls, columns: Sequence[np.ndarray], rows: int) -> ZeroLane:
        """The lane for these values, all of them drawn."""
        everything = np.concatenate([*columns, np.empty(0)])
        positive = everything[np.isfinite(everything) & (everything > 0)]
        if not len(positive):
            return cls(-1.0, 0.0, rows)
        low, high = math.log10(positive.min()), math.log10(positive.max())
        return cls(low - 0.06 * max(high - low, 1), high + 0.05 * max(high - low, 1), rows)

    @property
    def height(self) -> float:
        """In exponents of ten."""
        return 0.22 * (self.top - self.floor)

    def value(self, row: int) -> float:
        """Where a zero of the given row is drawn."""
        share = (row + 0.75) / (self.rows + 0.5)
        return float(10 ** (self.floor - share * self.height))

    def label(self, figure: go.Figure, ink: Ink) -> None:
        """Axis, ticks at powers of ten, and the lane with its "0"."""
        low, high = math.ceil(self.floor), math.floor(self.top)
        stride = max(math.ceil((high - low + 1) / 5), 1)
        exponents: list[float] = [*range(high, low - 1, -stride)]
        if len(exponents) < 2:
            exponents = sorted({*exponents, round(self.floor, 1), round(self.top, 1)})
        centre = 10 ** (self.floor - self.height / 2)
        figure.update_yaxes(
            type="log",
            range=[self.floor - self.height, self.top],
            tickvals=[centre, *(10.0**e for e in exponents)],
            ticktext=["<b>0</b>", *(f"{10.0**e:.4g}" if e >= -3 else short(10.0**e) for e in exponents)],
        )
        box = {
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 10**self.floor,
            "y1": 10 ** (self.floor - self.height),
        }
        figure.add_shape(type="rect", **box, fillcolor=ink.blank, line={"width": 0}, layer="below")


def _add_log(
    figure: go.Figure,
    track: Track,
    window: Window,
    history: History,
    lane: ZeroLane,
    row: int,
    dead: np.ndarray,
) -> None:
    """A line through what is above zero, on a logarithmic axis; a mark in the lane for each zero.

    dead: bool [N], where the term has no gradient: its marks are crosses.
    """
    values = track.values
    positive = np.where(values > 0, values, np.nan)
    # of the logarithms, as the axis: a mean of the values would lie above most of them after one high start
    average = np.exp(_average(np.log(positive), history, window.smoothing))
    reasons = list(map(_reason, values.tolist(), dead.tolist(), history.shared_train.tolist()))
    tail = " (compared)" if track.run else ""
    hover = {"hovertemplate": f"{track.label}{tail} %{{text}}<extra></extra>"}
    points = _line(history, window, positive, average, reasons)
    marker = {"size": 5, "symbol": "circle" if track.run == 0 else "circle-open"}
    mode = "lines+markers" if len(points["x"]) <= FEW_POINTS else "lines"
    shared = {**track.style(), **hover, "showlegend": track.run == 0}
    figure.add_trace(go.Scatter(**points, **shared, marker=marker, mode=mode))
    if track.run:
        return  # a second set of zeros would read as the first run's
    at = np.full(len(values), lane.value(row))
    unnamed = not points["x"]  # a line without a point is not in the legend
    for name, which, symbol in (("zero", ~dead, "line-ns"), ("dead", dead, "x-thin")):
        points = _line(history, window, np.where(which & (values <= 0), values, np.nan), at, reasons)
        if points["x"]:
            marks = {"size": 6, "symbol": symbol, "line": {"width": 1.5, "color": track.color}}
            shared = {"name": f"{track.label} {name}", "legendgroup": track.label, "showlegend": unnamed}
            figure.add_trace(go.Scatter(**points, **hover, **shared, mode="markers", marker=marks))
            unnamed = False


def _reason(value: float, dead: bool, trained: bool) -> str:
    """The hover text of a value, and why it is zero."""
    if value != 0:
        return short(float(value))
    if dead:
        return "0: no gradient"
    return "0" if trained else "0: no shared layer trains"


def _time_frame(runs: Sequence[History], window: Window, ink: Ink, y: str, *, narrow: bool = False) -> go.Figure:
    figure = frame(ink, y=y)
    _time_axis(figure, runs, window, ink, narrow=narrow)
    return figure.update_layout(hovermode="closest", uirevision="kept")


def _time_axis(
    figure: go.Figure,
    runs: Sequence[History],
    window: Window,
    ink: Ink,
    *,
    cell: Mapping[str, int] | None = None,
    number: int = 1,
    narrow: bool = False,
) -> None:
    """Boundaries and names of the steps, or iterations of the one that is drawn.

    cell, number: row and column of a panel, and its place in the order of panels, from 1.
    narrow: there is room for the steps' names alone, as in panels; else their iterations stand there too.
    """
    place = dict(cell or {})
    history = runs[0]
    if window.step is not None:
        length = max(history.length(window.step), 2)
        title = {} if cell else {"title": {"text": f"iteration of step {window.step}", "standoff": 4}}
        figure.update_xaxes(range=[-0.02 * length, length * 1.02], nticks=6, **title, **place)
        return
    steps = sorted({t for run in runs for t in run.steps}) or [0]
    marked = window.marked if window.marked in history.steps and len(steps) > 1 else None
    figure.layout.shapes += tuple(_boundaries(steps, marked, ink, number))
    stride = max(math.ceil(len(steps) / (4 if cell else 12)), 1)
    named = steps[::stride]
    short_name = "step {}" if len(named) <= FEW_NAMES else "{}"
    words = [short_name.format(t) if cell or narrow else _step_label(t, history) for t in named]
    figure.update_xaxes(
        tickvals=[t + 0.5 for t in named], ticktext=words, showgrid=False, ticks="",
        range=[steps[0] - 0.02, steps[-1] + 1.02], **place,
    )  # fmt: skip


def _boundaries(steps: Sequence[int], marked: int | None, ink: Ink, number: int) -> list[dict[str, Any]]:
    """A line where a step begins, and a band over the marked one, in subplot `number` (from 1).

    Plotly's own add_vline takes half a second for a figure of panels: it searches all of them each time.
    """
    axis = "" if number == 1 else str(number)
    place = {"xref": f"x{axis}", "yref": f"y{axis} domain", "y0": 0, "y1": 1, "layer": "below"}
    line = {"color": ink.grid, "width": 1}
    shapes = [{"type": "line", "x0": t, "x1": t, "line": line, **place} for t in [*steps, steps[-1] + 1]]
    if marked is not None:
        band = {"fillcolor": ink.muted, "opacity": 0.08, "line": {"width": 0}}
        shapes.append({"type": "rect", "x0": marked, "x1": marked + 1, **band, **place})
    return shapes


def _step_label(step: int, history: History) -> str:
    length = history.length(step)
    return f"step {step}" + (f" · {length:,} it." if length else "")
