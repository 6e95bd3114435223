"""Train, evaluate and explain incremental segmentation models. Everything is loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lag_core.explain import rendering
    from lag_core.explain.explained_run import open_run
    from lag_core.explain.trace import Trace
    from lag_core.runs import Run
    from lag_core.training.continual import train
    from lag_core.training.evaluation import evaluate

__all__ = ["Run", "Trace", "evaluate", "open_run", "rendering", "train"]

_HOMES = {
    "Run": "lag_core.runs",
    "Trace": "lag_core.explain.trace",
    "evaluate": "lag_core.training.evaluation",
    "open_run": "lag_core.explain.explained_run",
    "rendering": "lag_core.explain.rendering",
    "train": "lag_core.training.continual",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lag_core' has no attribute {name!r}")
    from importlib import import_module

    home = import_module(_HOMES[name])
    return home if home.__name__.endswith(f".{name}") else getattr(home, name)
