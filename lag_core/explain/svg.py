"""Small plots as inline SVG, without a library: lines with bands over numbers. Pure text functions.

Colours are the page's CSS variables --s1, --s2, ..., --ink, --grid, so that a plot follows light and dark. Text is
escaped here; callers give plain text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lag_core.explain.shares import Bar, part_words

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 40


@dataclass(frozen=True)
class Line:
    """Values over the places of a plot, NaN where there is none. `color`: number of the page's series colour."""

    name: str
    values: np.ndarray
    color: int = 1
    dashed: bool = False
    marks: bool = True


@dataclass(frozen=True)
class Band:
    """An area between two lines."""

    name: str
    low: np.ndarray
    high: np.ndarray
    color: int = 3


def line_plot(
    x: np.ndarray,
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    *,
    title: str,
    x_title: str,
    y_title: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """A plot with its legend. Shape: x float [P], values [P] each. `limits`: of y, else what the values need."""
    low, high = limits or _limits([line.values for line in lines] + [v for b in bands for v in (b.low, b.high)])
    frame = _Frame(float(x.min()), float(x.max()), low, high)
    parts = [*_axes(frame, x, x_title, y_title)]
    parts += [_band(frame, x, band) for band in bands]
    parts += [mark for line in lines for mark in _line(frame, x, line)]
    drawing = "".join(parts)
    label = html.escape(title, quote=True)
    attributes = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return (
        f'<figure class="plot"><b>{label}</b><svg {attributes}>{drawing}</svg>'
        f"<figcaption>{_legend(lines, bands)}</figcaption></figure>"
    )


BAR, NAMES = 24, 170
"""Height of a waterfall's row and width of its names."""


def waterfall(bars: Sequence[Bar], *, title: str, x_title: str) -> str:
    """Horizontal bars, each beginning where the one above ends; whiskers are the parts' intervals."""
    edges = [edge for bar in bars for edge in (bar.base, bar.tip, *_whisker(bar))]
    low, high = min(0.0, *edges), max(1.0, *edges)
    height = TOP + BAR * len(bars) + BOTTOM

    def x(value: float) -> float:
        return NAMES + (value - low) / (high - low) * (WIDTH - NAMES - 52)

    parts = []
    for value in ticks(low, high):
        zero = " zero" if value == 0 else ""
        at = f"{x(value):.1f}"
        parts.append(f'<line class="grid{zero}" x1="{at}" x2="{at}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text x="{at}" y="{height - BOTTOM + 14}" text-anchor="middle">{value:g}</text>')
    for row, bar in enumerate(bars):
        parts += _waterfall_row(bar, TOP + BAR * row, x)
    centre = (NAMES + WIDTH - 52) / 2
    parts.append(f'<text x="{centre:.0f}" y="{height - 6}" text-anchor="middle">{html.escape(x_title)}</text>')
    label = html.escape(title, quote=True)
    attributes = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}"'
    return f'<figure class="plot"><b>{label}</b><svg {attributes}>{"".join(parts)}</svg></figure>'


def _whisker(bar: Bar) -> tuple[float, ...]:
    """Where the tip of a part's bar may lie; nothing without an interval."""
    one = bar.estimate
    if one is None or math.isnan(one.low):
        return ()
    return bar.base + one.low, bar.base + one.high


def _waterfall_row(bar: Bar, top: float, x: Callable[[float], float]) -> list[str]:
    name = bar.name if bar.kind == "level" else part_words(bar.name)
    color = "--s3" if bar.kind == "level" else "--s1" if bar.tip >= bar.base else "--s2"
    left, right = sorted((x(bar.base), x(bar.tip)))
    middle = top + BAR / 2
    size = bar.tip if bar.kind == "level" else bar.tip - bar.base
    number = f"{size:z.1f}" if bar.kind == "level" else f"{size:+z.1f}".replace("-", "−")
    edge = max(right, *(x(v) for v in _whisker(bar)), right)
    found = [
        f'<text x="{NAMES - 6}" y="{middle + 4:.1f}" text-anchor="end">{html.escape(name[:40])}</text>',
        f'<rect x="{left:.1f}" y="{top + 4:.1f}" width="{max(right - left, 1):.1f}" height="{BAR - 8}" '
        f'style="fill:var({color})"/>',
        f'<text x="{edge + 5:.1f}" y="{middle + 4:.1f}">{number}</text>',
    ]
    if whisker := _whisker(bar):
        low, high = (x(value) for value in whisker)
        found.append(f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>')
    return found


@dataclass(frozen=True)
class _Frame:
    """Numbers to places on the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low or 1.0
        return LEFT + (value - self.x_low) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.y_high - value) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """From the least to the largest value, 0 included, with some room."""
    known = np.concatenate([np.asarray(v, np.float64).ravel() for v in values] or [np.zeros(1)])
    known = known[np.isfinite(known)]
    low, high = min(0.0, float(known.min(initial=0))), max(0.0, float(known.max(initial=0)))
    room = 0.06 * (high - low) or 1.0
    return (low - room if low < 0 else low), (high + room if high > 0 else high) or 1.0


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in low..high, at most `most` + 1 of them."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough - 1e-12)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _axes(frame: _Frame, x: np.ndarray, x_title: str, y_title: str) -> list[str]:
    parts = []
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        zero = " zero" if value == 0 else ""
        parts.append(f'<line class="grid{zero}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    shown = x if len(x) <= 12 else np.array(ticks(frame.x_low, frame.x_high))
    for value in shown.tolist():
        parts.append(f'<text x="{frame.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    middle, centre = (TOP + HEIGHT - BOTTOM) / 2, (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{centre:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_title)}</text>')
    parts.append(
        f'<text x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">'
        f"{html.escape(y_title)}</text>"
    )
    return parts


def _band(frame: _Frame, x: np.ndarray, band: Band) -> str:
    there = [(a, b) for a, b in zip(x.tolist(), band.high.tolist(), strict=True) if math.isfinite(b)]
    back = [(a, b) for a, b in zip(x.tolist(), band.low.tolist(), strict=True) if math.isfinite(b)][::-1]
    points = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in there + back)
    return f'<polygon class="band" style="fill:var(--s{band.color})" points="{points}"/>' if there else ""


def _line(frame: _Frame, x: np.ndarray, line: Line) -> list[str]:
    """A path that is broken where values lack, and a mark at each value."""
    path, pen = [], "M"
    marks = []
    for a, b in zip(x.tolist(), np.asarray(line.values, np.float64).tolist(), strict=True):
        if not math.isfinite(b):
            pen = "M"
            continue
        px, py = frame.x(a), frame.y(b)
        path.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L"
        if line.marks:
            marks.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" style="fill:var(--s{line.color})"/>')
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    if not path:
        return []
    return [f'<path class="line" style="stroke:var(--s{line.color})"{dash} d="{" ".join(path)}"/>', *marks]


def _legend(lines: Sequence[Line], bands: Sequence[Band]) -> str:
    entries = [(line.name, line.color, "dash" if line.dashed else "solid") for line in lines]
    entries += [(band.name, band.color, "area") for band in bands]
    return "".join(
        f'<span class="key {kind}"><i style="--c:var(--s{color})"></i>{html.escape(name)}</span>'
        for name, color, kind in entries
    )
