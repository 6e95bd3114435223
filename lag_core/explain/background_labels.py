"""What a step labels as background in training, and how pseudo-labels change it, against the hidden annotation.

Pure NumPy. At a step only its own classes are annotated; every other pixel of its images carries one label, that of the
unknown or the background, though it may show an old class or one still to come: the shift of the background. Source:
Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR 2020, arXiv
2002.00718; the decomposition into counts is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lag_core.data import remap
from lag_core.protocol import IGNORE, LabelSpace


def unlabelled(mask: np.ndarray, labels: LabelSpace, step: int, setting: str) -> np.ndarray:
    """Pixels by hidden class among those that carry no label of the step.

    Shape: uint8 [...] dataset ids -> int64 [K + 1]; the last counts pixels of classes that no step introduces.
    """
    free = remap.targets(mask, labels, step, setting) == labels.catch_all
    return by_hidden_class(remap.truth(mask, labels)[free], len(labels.order))


def by_hidden_class(truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts of class indices, those that are none (255) last. Shape: uint8 [n] -> int64 [K + 1]."""
    return np.bincount(np.where(truth == IGNORE, classes, truth).astype(np.int64), minlength=classes + 1)


@dataclass(frozen=True)
class BackgroundLabels:
    """Pixels without a label of the step in its training images, by true class."""

    unlabelled: np.ndarray
    """int64 [T, K + 1], by hidden class; the last column counts classes that no step introduces."""
    images: np.ndarray
    """int64 [T], training images that were counted."""

    def shares(self, labels: LabelSpace) -> np.ndarray:
        """Shares of the pixels without a label that are truly background, an old class, one still to come, or one of no
        step. Shape: float64 [T, 4]; NaN for a step without such pixels."""
        parts = np.zeros((len(self.unlabelled), 4))
        foreground = int(labels.background is not None)
        for t, row in enumerate(self.unlabelled):
            fresh = labels.class_indices(t)
            parts[t] = row[:foreground].sum(), row[foreground : fresh.start].sum(), row[fresh.stop : -1].sum(), row[-1]
        total = self.unlabelled.sum(-1)[:, None]
        return np.divide(parts, total, out=np.full(parts.shape, np.nan), where=total > 0)


@dataclass(frozen=True)
class PseudoLabelTable:
    """The pseudo-labels of each step against the hidden annotation."""

    counts: np.ndarray
    """int64 [T, K + 1, K + 1]: pixels without a label of the step by hidden class (the last: none of the run's) and by
    the class that they were given (the last: none). All 0 at step 0."""

    def precision(self) -> np.ndarray:
        """Of the pixels given a class, the share that is of it. Shape: float64 [T, K], NaN where none was given."""
        given = self.counts[:, :, :-1].sum(1)
        return _ratio(self._right(), given)

    def coverage(self) -> np.ndarray:
        """Of the unlabelled pixels of a class, the share that was given it. Shape: float64 [T, K]; NaN without any."""
        return _ratio(self._right(), self.counts[:, :-1].sum(2))

    def _right(self) -> np.ndarray:
        return np.diagonal(self.counts[:, :-1, :-1], axis1=1, axis2=2)


def pseudo_label_table(hidden: np.ndarray, given: np.ndarray, free: np.ndarray, classes: int) -> np.ndarray:
    """Counts of one batch. Shape: hidden and given class indices [...], 255 for none, free bool [...] -> int64
    [K + 1, K + 1]."""
    n = classes + 1
    rows, columns = (np.where(a[free] == IGNORE, classes, a[free]).astype(np.int64) for a in (hidden, given))
    return np.bincount(rows * n + columns, minlength=n * n).reshape(n, n)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
