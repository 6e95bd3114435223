"""Bars of what one or two networks still hold of each class, beside what they held when it was learned.

The script is in dom.js and held_bars.js. It has the values of all steps, so the bars follow J, L and the photograph
that plays without asking the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard.components.assets import source

LEAST_HIGH = 20.0
"""Percent that the bars' full height stands for at least."""


@dataclass(frozen=True)
class RunBars:
    """One run's bars. Values in percent, NaN for what is not known (yet)."""

    name: str
    color: str
    then: np.ndarray
    """float64 [n]: of each class when it was learned."""
    now: np.ndarray
    """float64 [T, n], T >= 1: after each step."""


_component = st.components.v2.component(
    "lag.held-bars", css=source("base.css", "held_bars.css"), js=source("mount.js", "dom.js", "held_bars.js")
)


def held_bars(
    classes: Sequence[tuple[str, str]],
    runs: Sequence[RunBars],
    *,
    key: str,
    label: str,
    step: int,
    play: bool = False,
) -> None:
    """Draw a group of bars for each class, given as (name, CSS colour), with a bar for each run.

    step: the step on view; a run with fewer steps shows its last. play: begin at step 0 and follow the viewer that
    plays (`viewer(..., play=True)`), when both are first drawn.
    """
    highest = max([float(np.nanmax(run.then)) for run in runs if np.isfinite(run.then).any()], default=0.0)
    data = {
        "label": label,
        "step": step,
        "play": play,
        "highest": max(highest, LEAST_HIGH),
        "classes": [{"name": name, "color": color} for name, color in classes],
        "runs": [
            {"name": run.name, "color": run.color, "then": _values(run.then), "now": [_values(row) for row in run.now]}
            for run in runs
        ],
    }
    _component(key=key, data=data)


def _values(row: np.ndarray) -> list[Any]:
    """As JSON has them: null for NaN."""
    return [round(float(value), 2) if np.isfinite(value) else None for value in row]
