"""Measures what the features still hold: the part of `lag survey` behind explain.holds.

Probes are fitted on training images that were held out, before the pass over the validation images; the counts
of that pass come in through `HoldsCounts.add_step` and `add_picture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from lag_core.config import ConfigError
from lag_core.data.dataset import Dataset, DatasetMissing
from lag_core.data.pictures import DataError
from lag_core.data.remap import truth
from lag_core.data.training_images import held_out
from lag_core.data.transforms import Size, fit, fit_mask, resize_labels, to_input
from lag_core.explain import calibration, cka, probe
from lag_core.explain.feature_sites import Gathered, site_maps
from lag_core.explain.holds import SITES, Holds, Probes
from lag_core.explain.latent_maps import covered
from lag_core.explain.lost_destinations import NONE_BELOW, LostCounts
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.probe import Probe
from lag_core.explain.similarity import prototype_cosines
from lag_core.explain.task_confusion import masked_confusion
from lag_core.explain.training_labels import label_tables
from lag_core.metrics import confusion
from lag_core.model.prediction import full_size, highest
from lag_core.processes import Processes, current

BATCH = 8
MOST_IMAGES = 400
"""Held-out images that probes are fitted on, at most; spread evenly over the set."""
MOST_POSITIONS = 40_000
"""Latent pixels of all classes together that a probe is fitted on, at most."""

Progress = Callable[[Sequence[int], str], Iterable[int]]
Truths = Sequence[np.ndarray]
"""Class indices of pictures, uint8 [H, W] each."""
Z = SITES.index("Z")
NO_TRAINING = (KeyError, OSError, DatasetMissing, DataError, ConfigError)
"""Errors of a dataset whose training images are missing, or show no class of a step."""


class FittedProbes:
    """The probes and prototypes of every step."""

    def __init__(self, gathered: Gathered, labels: np.ndarray, importance: np.ndarray, steps: int, classes: int):
        self.positions = np.bincount(labels, minlength=classes)
        self.source = [[t] * len(SITES) for t in range(steps)]
        self.probes: dict[tuple[int, int], Probe] = {}
        self.prototypes = np.stack([probe.class_means(gathered.features(t, Z), labels, classes) for t in range(steps)])
        for t in range(steps):
            for site in gathered.sites:
                self.source[t][site] = gathered.source(t, site)
                if self.source[t][site] == t:
                    features = gathered.features(t, site)
                    self.probes[t, site] = probe.fit(features, labels, classes, importance)


def fit_probes(networks: Networks, dataset: Dataset, progress: Progress) -> FittedProbes | None:
    """Probes of every step, fitted on the held-out training images; None if there are none."""
    run = networks.run
    ids = evenly(held_out(run.config, dataset), MOST_IMAGES)
    if not ids:
        return None
    size, classes = run.config.data.size, len(run.labels.order)
    with torch.no_grad():
        blank = networks.passes(torch.zeros(1, 3, size, size))
        grid = blank.output(0).latent.shape[2], blank.output(0).latent.shape[3]
    cells = [cell_labels(dataset.mask(i), size, grid, networks) for i in ids]
    per_class = min(probe.PER_CLASS, max(1, MOST_POSITIONS // classes))
    places, importance = probe.choose(np.concatenate(cells), classes, seed=run.config.optim.seed, per_class=per_class)
    if not len(places):
        return None
    area = grid[0] * grid[1]
    chosen = [places[(places >= i * area) & (places < (i + 1) * area)] - i * area for i in range(len(ids))]
    gathered, everywhere = Gathered(len(networks)), current()
    for start in progress(everywhere.block(range(0, len(ids), BATCH)), "probes"):
        images = np.stack([fit(dataset.image(i), size)[0] for i in ids[start : start + BATCH]])
        gather(networks, torch.from_numpy(to_input(images)), chosen[start : start + BATCH], gathered)
    gathered.join(everywhere)
    labels = np.concatenate(cells)[places].astype(np.int64)
    return FittedProbes(gathered, labels, importance, len(networks), classes)


def evenly(ids: Sequence[str], most: int) -> list[str]:
    """At most `most` of the names, evenly spaced, in their order."""
    if len(ids) <= most:
        return list(ids)
    return [ids[i * len(ids) // most] for i in range(most)]


def cell_labels(mask: np.ndarray, size: int, grid: Size, networks: Networks) -> np.ndarray:
    """Class indices of a picture's latent pixels. Shape: mask uint8 [H, W] -> uint8 [h w], 255 in the padding."""
    return resize_labels(truth(fit_mask(mask, size), networks.run.labels), grid).ravel()


@torch.no_grad()
def gather(networks: Networks, inputs: Tensor, cells: list[np.ndarray], gathered: Gathered) -> None:
    """Features of a batch at the chosen cells, at every step and site."""
    passes = networks.passes(inputs.to(memory_format=torch.channels_last), keep_stages=True)
    for step in range(len(networks)):
        for site, maps in site_maps(passes, step, passes.output(step).latent):
            gathered.add(step, site, maps, cells)


class HoldsCounts:
    """Sums the parts of `Holds` over the validation images."""

    def __init__(self, networks: Networks, images: int, fitted: FittedProbes | None):
        labels, steps = networks.run.labels, len(networks)
        n = len(labels.order)
        self.run, self.images, self.fitted, self.steps = networks.run, images, fitted, steps
        self.probed = np.zeros((steps, len(SITES), n, n), np.int64)
        self.nearest, self.masked = np.zeros((2, steps, n, n), np.int64)
        bins = steps, n, calibration.BINS
        self.count, self.right, self.confidence = np.zeros(bins, np.int64), np.zeros(bins, np.int64), np.zeros(bins)
        self.lost = LostCounts(labels)
        self.sampled = Gathered(steps)
        sigmoid = networks.run.config.method.loss == "bce"
        self.none_below = NONE_BELOW if sigmoid else 0.0

    @torch.no_grad()
    def add_step(
        self,
        step: int,
        passes: Passes,
        latent: Tensor,
        first: int,
        truths: Truths,
        insides: Sequence[Size],
    ) -> None:
        """Features of a batch at one step: samples for CKA, and what probes and prototypes call each pixel."""
        grid, square = (latent.shape[2], latent.shape[3]), self.run.config.data.size
        cells = [self._cells(first + row, covered(grid, square, inside), grid[1]) for row, inside in enumerate(insides)]
        for site, maps in site_maps(passes, step, latent):
            self.sampled.add(step, site, maps, cells)
            if self.fitted is not None and self.fitted.source[step][site] == step:
                scores = _scored(self.fitted.probes[step, site], maps)
                self._count(self.probed[step, site], scores, truths, insides)
        if self.fitted is not None and self.fitted.source[step][Z] == step:
            self._count_nearest(step, latent, truths, insides)

    def _cells(self, index: int, inside: Size, width: int) -> np.ndarray:
        """Cells of one picture that CKA compares, in the flattened grid. Shape: int64 [m]."""
        chosen = cka.sample(inside[0] * inside[1], self.images, index, seed=0)
        return chosen // inside[1] * width + chosen % inside[1]

    def _count(self, total: np.ndarray, scores: Tensor, truths: Truths, insides: Sequence[Size]) -> None:
        """Add the confusions of a batch, each picture at its own size as metrics are. Shape: scores [B, K, h, w]."""
        for row, (true, inside) in enumerate(zip(truths, insides, strict=True)):
            own = full_size(scores[row : row + 1], self.run.config.data.size, inside, (true.shape[0], true.shape[1]))
            total += confusion(true, highest(own)[0].cpu().numpy(), len(total))

    def _count_nearest(self, step: int, latent: Tensor, truths: Truths, insides: Sequence[Size]) -> None:
        assert self.fitted is not None
        cosines = [prototype_cosines(one.cpu().numpy(), self.fitted.prototypes[step]) for one in latent]
        scores = torch.from_numpy(np.nan_to_num(np.stack(cosines), nan=-2.0))  # below every cosine: never the nearest
        self._count(self.nearest[step], scores, truths, insides)

    def add_map(self, step: int, scores: np.ndarray, called: np.ndarray, true: np.ndarray) -> np.ndarray:
        """A picture's answer at one step. Returns its confidence, float32 [H, W].

        Shape: probability of each known class float32 [K, H, W], class indices uint8 [H, W] twice.
        """
        labels = self.run.labels
        sure = np.minimum(scores.max(0), 1)
        self.masked[step] += masked_confusion(scores, true, labels)
        counted = calibration.count(sure, called, true, len(labels.order), labels.seen(step))
        self.count[step] += counted.count
        self.right[step] += counted.right
        self.confidence[step] += counted.confidence
        return sure

    def add_picture(self, maps: np.ndarray, confidence: np.ndarray, true: np.ndarray) -> None:
        """A picture's answers at all steps: label maps uint8 [T, H, W], their confidences float32 [T, H, W]."""
        self.lost.add(maps, confidence, true, self.none_below)

    def join(self, everywhere: Processes) -> None:
        """Add the counts of the other processes, each on its own consecutive pictures."""
        everywhere.add_up(self.probed, self.nearest, self.masked, self.count, self.right, self.confidence)
        self.lost.join(everywhere)
        self.sampled.join(everywhere)

    def found(self, networks: Networks, dataset: Dataset, progress: Progress, say: Callable[[str], None]) -> Holds:
        """The counts, with the tables of training labels if the training images are available."""
        background, pseudo = None, None
        try:
            background, pseudo = label_tables(networks, dataset, progress)
        except NO_TRAINING as error:
            say(f"the labels of the training images are left out: they are not available ({error})")
        aligned = np.full((len(SITES), self.steps, self.steps), np.nan, np.float32)
        for site in self.sampled.sites:
            aligned[site] = cka.cka_matrix([self.sampled.features(t, site) for t in range(self.steps)])
        return Holds(
            cka=aligned,
            masked=self.masked,
            calibration=calibration.Calibration(self.count, self.right, self.confidence),
            lost=self.lost.found(self.steps),
            probes=self._probes(),
            background=background,
            pseudo=pseudo,
        )

    def _probes(self) -> Probes | None:
        """Steps whose features are those of an earlier one have its counts."""
        if self.fitted is None:
            return None
        source = self.fitted.source
        confusions = [[self.probed[source[t][s], s] for s in range(len(SITES))] for t in range(self.steps)]
        nearest = [self.nearest[source[t][Z]] for t in range(self.steps)]
        return Probes(np.stack([np.stack(row) for row in confusions]), np.stack(nearest), self.fitted.positions)


def probes_or_say(
    networks: Networks, dataset: Dataset, progress: Progress, say: Callable[[str], None]
) -> FittedProbes | None:
    """`fit_probes`, or a sentence on why there are none."""
    try:
        found = fit_probes(networks, dataset, progress)
    except NO_TRAINING as error:
        say(f"probes are left out: the training images are not available ({error})")
        return None
    if found is None:
        say("probes are left out: no training image was held out (data.holdout)")
    return found


def _scored(fitted: Probe, maps: Tensor) -> Tensor:
    """Scores of a batch. Shape: [B, F, h, w] -> [B, K, h, w]; -1e9 stands for "never"."""
    weight = torch.from_numpy(fitted.weight).to(maps.device)
    bias = torch.from_numpy(np.maximum(fitted.bias, -1e9)).to(maps.device)
    return torch.einsum("bfhw,fk->bkhw", maps, weight) + bias[:, None, None]
