"""The interface of a traced image: its latent map at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from lag_core.data.transforms import Size
from lag_core.runs import Run

if TYPE_CHECKING:
    from torch import Tensor


class Latent(Protocol):
    """A step's result for one image."""

    @property
    def latent(self) -> Tensor:
        """[1, C, h, w] the map Z."""


class Traced(Protocol):
    """One image and its latent map at every step: a `Trace`, for the modules that a `Trace` itself uses."""

    run: Run
    square: int
    """Side of the network's square."""
    inside: Size
    """(height, width) of the picture in the square."""

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""

    def output(self, step: int) -> Latent:
        """The result of `step`."""

    def latent(self, step: int) -> np.ndarray:
        """The same Z as an array, float32 [C, h, w]."""
