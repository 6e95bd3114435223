"""Whether the loss terms, and what a step ends with, are finite numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lag_core.analysis_arrays import LARGEST
from lag_core.method.objective import Term
from lag_core.sentences import Said


class NotFiniteError(Said, RuntimeError):
    """A loss term, a weight or a measured value became NaN or infinite."""


def check_finite(terms: Mapping[str, Term]) -> None:
    """NotFiniteError naming the first term that is NaN or infinite."""
    for name, term in terms.items():
        if not math.isfinite(term.value.item()):
            raise _error(name, str(term.value.item()))


class FiniteCheck:
    """Checks each iteration's terms. On a GPU the result stays there until it is read.

    immediate: check at once, so that an update from such a term is never made. Otherwise one log interval of updates
    may have been made by then; saved or logged values were checked before.
    """

    def __init__(self, immediate: bool):
        self.immediate = immediate
        self._broken: dict[str, Tensor] = {}

    def note(self, terms: Mapping[str, Term]) -> None:
        """Add an iteration's terms. NotFiniteError if `immediate` and one is not finite."""
        if self.immediate:
            return check_finite(terms)
        for name, term in terms.items():
            broken = ~term.value.detach().isfinite()
            self._broken[name] = self._broken[name] | broken if name in self._broken else broken

    def ask(self) -> None:
        """NotFiniteError naming a term that was not finite since the last call. Waits for the device."""
        broken, self._broken = self._broken, {}
        if not broken:
            return
        found = torch.stack(list(broken.values())).tolist()
        for name, bad in zip(broken, found, strict=True):
            if bad:
                raise _error(name, "not finite")


def check_ending(model: nn.Module, analysis: Mapping[str, np.ndarray]) -> None:
    """NotFiniteError if a weight or a measured array of a trained step is not finite.

    No loss is computed after the last update, so the losses do not show what it broke. `analysis`: arrays by name.
    """
    weights = (name for name, tensor in model.state_dict().items() if not tensor.isfinite().all())
    measured = (name for name, array in analysis.items() if array.size and not np.abs(array).max() <= LARGEST**2)
    broken = next(weights, None) or next(measured, None)
    if broken is not None:
        raise NotFiniteError(
            f"the training diverged: {broken} is not finite at the step's end; lower the learning rate"
        )


def _error(name: str, value: str) -> NotFiniteError:
    return NotFiniteError(f"term {name} is {value}; lower its weight or the learning rate")
