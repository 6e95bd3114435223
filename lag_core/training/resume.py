"""Resuming a stopped run at any iteration, with the same bits as without the stop."""

from __future__ import annotations

import io
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lag_core import reading
from lag_core.runs import RunError
from lag_core.writing import write_atomically

_UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError,
)  # fmt: skip
"""Errors of torch.load for a file that is damaged or contains more than tensors."""


STATES = ("student", "optimiser", "objective")
"""State dicts that every resume.pt holds."""


@dataclass
class Cursor:
    """A run's position: the next iteration of a step, and the seconds already spent in that step."""

    step: int = 0
    iteration: int = 0
    seconds: float = 0.0


def save_resume(path: Path, cursor: Cursor, states: dict[str, Any]) -> None:
    """Write resume.pt: the cursor and the state dicts of network, optimiser and objective."""
    buffer = io.BytesIO()
    torch.save({"cursor": asdict(cursor), **states}, buffer)
    write_atomically(path, buffer.getvalue())


def load_resume(path: Path) -> tuple[Cursor, dict[str, Any]]:
    """The content of `save_resume`'s file; tensors and plain values only. RunError if it cannot be read."""
    try:
        place = reading.checked(path, reading.CHECKPOINT, reading.run_folder(path))
        states = torch.load(place, "cpu", weights_only=True)
        return _checked(states)
    except _UNREADABLE:
        # torch's own text spans lines and advises to load without weights_only
        raise RunError(
            f"{path} is damaged or contains more than tensors; delete it to train its step from the beginning"
        ) from None


def _checked(states: Any) -> tuple[Cursor, dict[str, Any]]:
    """The cursor and the states, if they are what `save_resume` writes; ValueError, TypeError or KeyError if not."""
    cursor = Cursor(**states.pop("cursor"))
    if not all(type(n) is int and n >= 0 for n in (cursor.step, cursor.iteration)) or not cursor.seconds >= 0:
        raise ValueError("the cursor is invalid")
    if not all(isinstance(states[key], dict) for key in STATES):
        raise TypeError("a state is not a dict")
    return cursor, states
