"""Measuring networks on the validation set: one trunk pass an image, for however many steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lag_core.data.catalogue import Dataset
from lag_core.data.remap import truth
from lag_core.data.transforms import content_size, fit
from lag_core.metrics import confusion
from lag_core.model.prediction import full_size, label_map
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import load_segmenter
from lag_core.protocol import LabelSpace
from lag_core.runs import SCHEMA, Run, write_json
from lag_core.training.features import BATCH, Progress, trunk_features

Confusions = dict[str, np.ndarray]
"""Confusion matrix int64 [K, K] of each domain; the domains' sum is the whole validation set."""


class Validation:
    """The validation images of a dataset at a network's input size; trunk features are kept while they fit."""

    def __init__(self, dataset: Dataset, size: int, labels: LabelSpace, device: torch.device, keep_bytes: int = 2**31):
        self.dataset, self.size, self.labels, self.device = dataset, size, labels, device
        self.ids = tuple(dataset.ids("val"))
        self.keep_bytes = keep_bytes
        self._kept: dict[int, Tensor] = {}
        self._used = 0

    def measure(self, models: Sequence[Segmenter], loss: str, progress: Progress) -> list[Confusions]:
        """Confusion matrices of each model. The models share their trunk; its features are taken from the first."""
        k = len(self.labels.order)
        totals: list[Confusions] = [{} for _ in models]
        for place, batch in self._batches(progress):
            features = self._features(models[0], place, batch)
            for model, total in zip(models, totals, strict=True):
                self._count(model, loss, features, batch, total, k)
        return totals

    def _batches(self, progress: Progress) -> Iterator[tuple[int, Sequence[str]]]:
        starts = list(range(0, len(self.ids), BATCH))
        for place in progress(starts, "validation"):
            yield place, self.ids[place : place + BATCH]

    def _features(self, model: Segmenter, place: int, batch: Sequence[str]) -> Tensor:
        if place not in self._kept:
            images = np.stack([fit(self.dataset.image(i), self.size)[0] for i in batch])
            features = trunk_features(model, images, self.device)
            size = features.numel() * features.element_size()
            if self._used + size > self.keep_bytes:
                return features
            self._kept[place] = features.cpu()
            self._used += size
        return self._kept[place].to(self.device)

    @torch.no_grad()
    def _count(
        self, model: Segmenter, loss: str, features: Tensor, batch: Sequence[str], total: Confusions, k: int
    ) -> None:
        logits = model.behind_trunk(features).logits
        for row, image_id in enumerate(batch):
            mask = self.dataset.mask(image_id)
            inside = content_size(*mask.shape, self.size)
            own = full_size(logits[row : row + 1], self.size, inside, mask.shape)
            predicted = label_map(own, self.labels, loss)[0].cpu().numpy()
            domain = self.dataset.domain(image_id)
            counted = confusion(truth(mask, self.labels), predicted, k)
            total[domain] = total.get(domain, 0) + counted

    def forget_features(self) -> None:
        """Drop what is kept: the trunk has moved."""
        self._kept, self._used = {}, 0


def metrics_entry(step: int, measured: Confusions, images: int) -> dict[str, Any]:
    """One step's entry of metrics.json."""
    entry: dict[str, Any] = {
        "step": step,
        "images": images,
        "confusion": np.sum(list(measured.values()), 0).tolist(),
    }
    if len(measured) > 1:
        entry["by_domain"] = {name: matrix.tolist() for name, matrix in measured.items()}
    return entry


def evaluate(run: Run, dataset: Dataset, progress: Progress, device: str = "cpu") -> list[Confusions]:
    """Measure every step of a run on the validation images of `dataset`."""
    validation = Validation(dataset, run.config.data.size, run.labels, torch.device(device), keep_bytes=0)
    models = [load_segmenter(run, step, device) for step in range(len(run.steps))]
    return validation.measure(models, run.config.method.loss, progress)


def write_metrics(path: Path, measured: Sequence[Confusions], images: int) -> None:
    """Write a metrics.json of all steps."""
    steps = [metrics_entry(step, one, images) for step, one in enumerate(measured)]
    write_json(path, {"schema": SCHEMA, "steps": steps})
