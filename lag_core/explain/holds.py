"""What the features still hold, as measured by `lag survey`, and how it is stored: arrays by name. Pure NumPy.

T steps, S sites (`SITES`: the backbone's stages and the latent map Z), K class indices, B bins. What was not measured
has no arrays: probes and prototypes need held-out training images, the tables of labels the training images.

| array | type | is |
|---|---|---|
| `probe.confusion` | int64 [T, S, K, K] | of the linear probe at each site, all classes counted, rows truth |
| `probe.nearest` | int64 [T, K, K] | of the nearest prototype of Z, likewise |
| `probe.positions` | int64 [K] | latent pixels of the held-out training images that both were fitted on |
| `cka.values` | float32 [S, T, T] | linear CKA between steps |
| `confusion.masked` | int64 [T, K, K] | with the classes of the pixel's own step alone |
| `calibration.count`, `.right` | int64 [T, K, B] | pixels by called class and bin of confidence; those that are right |
| `calibration.confidence` | float64 [T, K, B] | sum of their confidences |
| `shift.called`, `shift.none` | int64 [T, K, K] | forgotten pixels by true and called class; no class stood out |
| `shift.confidence` | float64 [T, K] | sum of the confidences on forgotten pixels |
| `shift.unlabelled` | int64 [T, K + 1] | training pixels without a label of the step, by hidden class (last: none) |
| `shift.images` | int64 [T] | training images of each step |
| `shift.pseudo` | int64 [T, K + 1, K + 1] | the same pixels by hidden class and by pseudo-label |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lag_core import metrics
from lag_core.explain.background_labels import BackgroundLabels, PseudoLabelTable
from lag_core.explain.calibration import BINS, Calibration
from lag_core.explain.lost_destinations import LostPixels
from lag_core.protocol import LabelSpace

SITES = ("stem", "layer1", "layer2", "layer3", "layer4", "Z")
"""Where features are measured: the backbone's stages in order, and the latent map."""


@dataclass(frozen=True)
class Probes:
    """How well classes are found in frozen features, on the validation images."""

    confusion: np.ndarray
    """int64 [T, S, K, K], rows truth; classes still to come count, too, in truth and in prediction."""
    nearest: np.ndarray
    """int64 [T, K, K], of the nearest prototype of Z."""
    positions: np.ndarray
    """int64 [K], held-out latent pixels that both were fitted on."""

    def iou(self) -> np.ndarray:
        """IoU of each class. Shape: float64 [T, S, K]; NaN for a class that had no position to learn from."""
        return np.stack([_ious(by_step, self.positions) for by_step in self.confusion])

    def nearest_iou(self) -> np.ndarray:
        """The same of the nearest prototype. Shape: float64 [T, K]."""
        return _ious(self.nearest, self.positions)

    def control(self, labels: LabelSpace) -> np.ndarray:
        """Mean probe IoU of the classes not taught by then: the IoU that features reach without training on a class.

        Shape: float64 [T, S]; NaN at steps that know all classes.
        """
        ious = self.iou()
        rows = [[metrics.mean(row[labels.seen(t) :]) for row in by_site] for t, by_site in enumerate(ious)]
        return np.array(rows, np.float64)


def _ious(matrices: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.stack([np.where(positions > 0, metrics.iou(matrix), np.nan) for matrix in matrices])


@dataclass(frozen=True)
class Holds:
    """Everything of one run."""

    cka: np.ndarray
    """float32 [S, T, T]; NaN where features do not vary."""
    masked: np.ndarray
    """int64 [T, K, K], confusion with the classes of the true step alone (explain.task_confusion)."""
    calibration: Calibration
    """[T, K, BINS]."""
    lost: LostPixels
    probes: Probes | None = None
    """None: no training image was held out, or none is here."""
    background: BackgroundLabels | None = None
    """None: the training images are not here."""
    pseudo: PseudoLabelTable | None = None
    """None: as above, or the run trains without pseudo-labels."""

    def masked_iou(self) -> np.ndarray:
        """IoU of each class among those of its step. Shape: float64 [T, K], NaN before it is introduced."""
        return np.stack([metrics.iou(matrix) for matrix in self.masked])


def to_arrays(holds: Holds) -> dict[str, np.ndarray]:
    """Arrays by name."""
    found = {
        "cka.values": holds.cka,
        "confusion.masked": holds.masked,
        "calibration.count": holds.calibration.count,
        "calibration.right": holds.calibration.right,
        "calibration.confidence": holds.calibration.confidence,
        "shift.called": holds.lost.called,
        "shift.none": holds.lost.none,
        "shift.confidence": holds.lost.confidence,
    }
    if holds.probes is not None:
        found["probe.confusion"] = holds.probes.confusion
        found["probe.nearest"] = holds.probes.nearest
        found["probe.positions"] = holds.probes.positions
    if holds.background is not None:
        found["shift.unlabelled"] = holds.background.unlabelled
        found["shift.images"] = holds.background.images
    if holds.pseudo is not None:
        found["shift.pseudo"] = holds.pseudo.counts
    return found


def from_arrays(arrays: Mapping[str, np.ndarray], steps: int, classes: int) -> Holds | None:
    """The reverse of `to_arrays`; None without such arrays.

    KeyError for a missing array, ValueError for one whose shape does not fit.
    """
    if "cka.values" not in arrays:
        return None

    def held(name: str, *shape: int) -> np.ndarray:
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {arrays[name].shape}, expected {shape}")
        arrays[name].flags.writeable = False
        return arrays[name]

    t, k, sites = steps, classes, len(SITES)
    optional: dict[str, Any] = {}
    if "probe.confusion" in arrays:
        optional["probes"] = Probes(
            held("probe.confusion", t, sites, k, k), held("probe.nearest", t, k, k), held("probe.positions", k)
        )
    if "shift.unlabelled" in arrays:
        optional["background"] = BackgroundLabels(held("shift.unlabelled", t, k + 1), held("shift.images", t))
    if "shift.pseudo" in arrays:
        optional["pseudo"] = PseudoLabelTable(held("shift.pseudo", t, k + 1, k + 1))
    bins = t, k, BINS
    return Holds(
        cka=held("cka.values", sites, t, t),
        masked=held("confusion.masked", t, k, k),
        calibration=Calibration(*(held(f"calibration.{name}", *bins) for name in ("count", "right", "confidence"))),
        lost=LostPixels(held("shift.called", t, k, k), held("shift.none", t, k, k), held("shift.confidence", t, k)),
        **optional,
    )
