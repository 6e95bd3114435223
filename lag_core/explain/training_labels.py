"""The labels that each step trained on, against the hidden annotation (explain.background_labels).

Shares of the background are counted over all training images of a step, from their masks alone. Pseudo-labels are those
of the previous step's network on the plain images by the run's own rule, on `MOST_IMAGES` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from lag_core.data import remap
from lag_core.data.dataset import Dataset
from lag_core.data.training_images import step_images
from lag_core.data.transforms import fit, fit_mask, small_mask, to_input
from lag_core.explain.background_labels import (
    BackgroundLabels,
    PseudoLabelTable,
    pseudo_label_table,
    unlabelled,
)
from lag_core.explain.networks import Networks
from lag_core.method.foreground import silent_catch_all
from lag_core.method.pseudo_labels import ClassEntropy, PseudoLabels, pseudo_labels
from lag_core.model.segmenter import upsample
from lag_core.processes import current
from lag_core.protocol import IGNORE

MOST_IMAGES = 160
"""Training images of a step that pseudo-labels are made for, at most; spread evenly over them."""

Progress = Callable[[Sequence[int], str], Iterable[int]]
Batch = tuple[torch.Tensor, np.ndarray]
"""The teacher's logits [B, channels, h, w] and the masks, uint8 [B, s, s] dataset ids."""


def label_tables(
    networks: Networks, dataset: Dataset, progress: Progress
) -> tuple[BackgroundLabels, PseudoLabelTable | None]:
    """Both tables; no pseudo-labels for a run that trains without them or has one step."""
    run, labels = networks.run, networks.run.labels
    steps, n = len(networks), len(labels.order)
    free, images = np.zeros((steps, n + 1), np.int64), np.zeros(steps, np.int64)
    pseudo = np.zeros((steps, n + 1, n + 1), np.int64)
    wanted = run.config.method.pseudo != "off" and steps > 1
    everywhere = current()
    for step in everywhere.share(range(steps)):
        ids = step_images(run.config, dataset, labels, step)
        images[step] = len(ids)
        for place in progress(range(len(ids)), f"labels of step {step}"):
            free[step] += unlabelled(dataset.mask(ids[place]), labels, step, setting(networks))
        if wanted and step:
            chosen = [ids[i * len(ids) // MOST_IMAGES] for i in range(MOST_IMAGES)] if len(ids) > MOST_IMAGES else ids
            pseudo[step] = pseudo_table(networks, dataset, chosen, step, progress)
    everywhere.add_up(free, images, pseudo)
    return BackgroundLabels(free, images), PseudoLabelTable(pseudo) if wanted else None


def setting(networks: Networks) -> str:
    """The setting that says which classes of an image carry their label: all of them in joint training."""
    config = networks.run.config
    return "sequential" if config.method.labels == "all" else config.data.setting


def pseudo_table(networks: Networks, dataset: Dataset, ids: Sequence[str], step: int, progress: Progress) -> np.ndarray:
    """Pseudo-labels of `step` on some of its images, by hidden class. Shape: int64 [K + 1, K + 1]."""
    labels = networks.run.labels
    batches = [
        _answer(networks, dataset, ids, place, step)
        for place in progress(range(0, len(ids), networks.run.config.optim.batch), f"pseudo-labels of step {step}")
    ]
    thresholds = _thresholds(networks, batches, step)
    total = np.zeros((len(labels.order) + 1,) * 2, np.int64)
    for logits, masks in batches:
        fused = _fused(networks, logits, masks, step, thresholds)
        channel = fused.labels.numpy()
        given = np.where(fused.accepted.numpy(), channel - labels.offset, IGNORE)
        hidden = remap.truth(masks, labels)
        total += pseudo_label_table(hidden, given, fused.candidates.numpy(), len(labels.order))
    return total


@torch.no_grad()
def _answer(networks: Networks, dataset: Dataset, ids: Sequence[str], place: int, step: int) -> Batch:
    """The teacher's logits of `step` for a batch of its plain images."""
    config = networks.run.config
    names, size = ids[place : place + config.optim.batch], config.data.size
    inputs = torch.from_numpy(to_input(np.stack([fit(dataset.image(i), size)[0] for i in names])))
    masks = np.stack([small_mask(fit_mask(dataset.mask(i), size), config.optim.label_stride) for i in names])
    passes = networks.passes(inputs.to(memory_format=torch.channels_last))
    return passes.output(step - 1).logits.cpu(), masks


def _targets(networks: Networks, masks: np.ndarray, step: int) -> torch.Tensor:
    return torch.from_numpy(remap.targets(masks, networks.run.labels, step, setting(networks))).long()


def _activation(networks: Networks) -> str:
    return "sigmoid" if networks.run.config.method.loss.startswith("bce") else "softmax"


def _thresholds(networks: Networks, batches: Sequence[Batch], step: int) -> torch.Tensor | None:
    """The thresholds of the rule "entropy", from one pass over the images, as in training; None for other rules."""
    if networks.run.config.method.pseudo != "entropy":
        return None
    labels = networks.run.labels
    entropy = ClassEntropy(labels.channels(step - 1))
    for logits, masks in batches:
        entropy.update(_at_labels(logits, masks), _targets(networks, masks, step), labels, _activation(networks))
    return entropy.thresholds()


def _at_labels(logits: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    return upsample(logits, (masks.shape[1], masks.shape[2]))


def _fused(
    networks: Networks, logits: torch.Tensor, masks: np.ndarray, step: int, thresholds: torch.Tensor | None
) -> PseudoLabels:
    """The run's own rule on one batch."""
    method = networks.run.config.method
    if method.loss == "bce_foreground":
        logits = silent_catch_all(logits)
    return pseudo_labels(
        _at_labels(logits, masks),
        _targets(networks, masks, step),
        networks.run.labels,
        step,
        rule=method.pseudo,  # type: ignore[arg-type]
        threshold=method.pseudo_threshold,
        margin=method.pseudo_margin,
        keep=method.pseudo_keep,
        activation=_activation(networks),  # type: ignore[arg-type]
        entropy_thresholds=thresholds,
    )
