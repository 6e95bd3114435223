"""A figure is built once and then reused: building one costs Plotly ten to a hundred milliseconds."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import plotly.graph_objects as go

from dashboard.ui import design
from dashboard.ui.frame import Figure, make_room

P = ParamSpec("P")

KEPT = 64
"""Figures in memory, those of all sessions."""

_kept: OrderedDict[bytes, go.Figure] = OrderedDict()
_lock = threading.Lock()


def remembered(draw: Callable[P, go.Figure]) -> Callable[P, go.Figure]:
    """Make a pure figure function return the figure that it built for equal arguments before.

    The key is a digest of every byte of the arguments; a figure with arguments that cannot be pickled is built
    again. Sessions share the figure: change nothing but its height.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> go.Figure:
        try:
            content = pickle.dumps((draw.__module__, draw.__qualname__, args, kwargs))
        except (pickle.PicklingError, TypeError, AttributeError):
            return draw(*args, **kwargs)
        key = hashlib.sha256(content).digest()
        with _lock:
            if key in _kept:
                _kept.move_to_end(key)
                return _kept[key]
        figure = draw(*args, **kwargs)
        if figure.layout.height is None:  # no key is added later, while another session may be reading it
            figure.update_layout(height=design.PLOT_HEIGHT)
        if isinstance(figure, Figure):
            make_room(figure)
            figure.finish()
        with _lock:
            _kept[key] = figure
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        return figure

    return drawn
