"""Pictures with every step's result on them: the validation set by the run's survey, or the shipped photographs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from lag_core.explain.picture_counts import PictureCounts

if TYPE_CHECKING:
    from lag_core.explain.survey import Survey

Kind = Literal["validation", "photographs"]


@dataclass(frozen=True)
class PictureSet:
    """N pictures, T steps, K class indices; arrays are shared by all sessions and read-only."""

    kind: Kind
    ids: tuple[str, ...]
    domains: tuple[str | None, ...]
    pixels: np.ndarray
    """int64 [N, K], pixels of each true class."""
    right: np.ndarray
    """int64 [N, T, K], those that are right."""
    lost: np.ndarray
    """int64 [N, T, K], those that are wrong now and were right at an earlier step."""
    counts: PictureCounts | None
    """What every step called them; None in a survey of an earlier version."""

    def __post_init__(self) -> None:
        for array in (self.pixels, self.right, self.lost):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def of_survey(survey: Survey) -> PictureSet:
        """The validation set as the survey found it."""
        pixels, right, lost = (array.astype(np.int64) for array in (survey.pixels, survey.right, survey.lost))
        return PictureSet("validation", survey.ids, survey.domains, pixels, right, lost, survey.pictures)

    @staticmethod
    def of_counts(kind: Kind, ids: tuple[str, ...], lost: np.ndarray, counts: PictureCounts) -> PictureSet:
        """Pictures with counts alone. Shape: lost int64 [N, T, K]."""
        only = np.eye(len(ids), dtype=bool)
        own = np.stack([counts.confusions(one) for one in only])
        right = np.diagonal(own, axis1=2, axis2=3).copy()
        return PictureSet(kind, ids, (None,) * len(ids), own[:, 0].sum(2), right, lost, counts)

    @cached_property
    def digest(self) -> str:
        """Of the pictures' names: the same for every run that was measured on them."""
        return hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogateescape")).hexdigest()[:8]

    @property
    def noun(self) -> str:
        """The noun for its pictures."""
        return "photographs" if self.kind == "photographs" else "validation pictures"
