"""The health of a finished run, in numbers for its model card: dead channels and each term's gradient, by step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from lag_core.data.catalogue import Dataset
from lag_core.data.transforms import fit, to_input
from lag_core.model.weights import load_steps
from lag_core.runs import Run
from lag_core.training.health import constant_channels

IMAGES = 16
"""Validation images, evenly spread, on which dead channels are counted."""


@dataclass(frozen=True)
class VitalSigns:
    """Of every step of a run."""

    channels: int
    """Latent channels."""
    dead: tuple[int, ...]
    """Latent channels that have one value at every place of every image, after each step."""
    moved: Mapping[str, tuple[float | None, ...]]
    """Median gradient norm of each loss term on the shared layers, weighted, at each step; None: not in the loss."""


def vital_signs(run: Run, dataset: Dataset) -> VitalSigns:
    """Dead channels from the networks, gradients from the training log."""
    ids = dataset.ids("val")
    chosen = [ids[i] for i in np.linspace(0, len(ids) - 1, min(IMAGES, len(ids))).astype(int)]
    size = run.config.data.size
    images = torch.from_numpy(np.stack([to_input(fit(dataset.image(name), size)[0]) for name in chosen]))
    with torch.no_grad():
        latents = [model.eval()(images).latent for model in load_steps(run)]
    moved = median_norms(run.events(), len(latents))
    return VitalSigns(latents[0].shape[1], tuple(constant_channels(one) for one in latents), moved)


def median_norms(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, tuple[float | None, ...]]:
    """Median gradient norm of each term at each step, from the lines of events.jsonl."""
    norms: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        for name, norm in event.get("gradient_norms", {}).items():
            norms[name][event["step"]].append(norm)
    return {
        name: tuple(median(found[step]) if step in found else None for step in range(steps))
        for name, found in norms.items()
    }
