"""Measuring networks on the validation set: one trunk pass per image, for all steps that share the trunk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lag_core import processes
from lag_core.config import DataConfig
from lag_core.data.catalogue import Dataset
from lag_core.data.remap import truth
from lag_core.data.splits import hold_out
from lag_core.data.transforms import content_size, fit, to_input
from lag_core.metrics import added, confusion
from lag_core.model.prediction import full_size, label_map
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.model.weights import load_steps, trunk_digest
from lag_core.protocol import LabelSpace
from lag_core.runs import SCHEMA, Run, write_json
from lag_core.training.features import BATCH, FeatureStore, NoStore, Progress, trunk_features

Confusions = dict[str, np.ndarray]
"""Confusion matrix int64 [K, K] of each domain."""

Listener = Callable[[int, str, np.ndarray, np.ndarray], object]
"""Told of each measured image: (step, name, truth uint8 [H, W], prediction uint8 [H, W]), both class indices."""


def whole(measured: Confusions) -> np.ndarray:
    """Confusion matrix of the whole set: the domains' sum. Shape: int64 [K, K]."""
    return np.sum(list(measured.values()), axis=0)


class Validation:
    """The images that `config` measures on, at the network's input size; trunk features come from a store."""

    def __init__(
        self, dataset: Dataset, config: DataConfig, labels: LabelSpace, device: torch.device, store: FeatureStore
    ):
        self.dataset, self.labels, self.device, self.store = dataset, labels, device, store
        self.size, self.own = config.size, config.validation == "own"
        self.ids = measured_ids(dataset, config)

    def measure(
        self, models: Sequence[Segmenter], loss: str, progress: Progress, listener: Listener | None = None
    ) -> list[Confusions]:
        """Confusion matrices of each model. Models with bit-identical trunks share its features.

        Processes that work together measure a part of the images each; all get the sum. `listener` is called for it.
        """
        totals: list[Confusions] = [{} for _ in models]
        by_trunk = _by_trunk(models)
        everywhere = processes.current()
        mine = everywhere.share(self.ids)
        for place in progress(range(0, len(mine), BATCH), "validation"):
            batch = mine[place : place + BATCH]
            if self.own:
                self._count_whole(models, loss, batch, totals, listener)
                continue
            for trunk, group in by_trunk.items():
                features = self._features(models[group[0]], trunk, batch)
                for step in group:
                    self._count(models[step], loss, features, batch, totals[step], step, listener)
        return added(everywhere.gathered(totals))

    def _features(self, model: Segmenter, trunk: str, batch: Sequence[str]) -> Tensor:
        images = np.stack([fit(self.dataset.image(i), self.size)[0] for i in batch])
        key = hashlib.sha256(trunk.encode() + images.tobytes()).hexdigest()
        features = self.store.get(key, lambda: trunk_features(model, images, self.device).cpu().numpy())
        return torch.from_numpy(features).to(self.device)

    @torch.no_grad()
    def _count_whole(
        self,
        models: Sequence[Segmenter],
        loss: str,
        batch: Sequence[str],
        totals: Sequence[Confusions],
        listener: Listener | None,
    ) -> None:
        """Each picture as a whole, at its own size."""
        for image_id in batch:
            image = self.dataset.image(image_id)
            inputs = torch.from_numpy(to_input(image[None])).to(self.device)
            for step, (model, total) in enumerate(zip(models, totals, strict=True)):
                own = upsample(model(inputs).logits, (image.shape[0], image.shape[1]))
                self._add(own, image_id, self.dataset.mask(image_id), loss, total, step, listener)

    def _add(
        self,
        logits: Tensor,
        image_id: str,
        mask: np.ndarray,
        loss: str,
        total: Confusions,
        step: int,
        listener: Listener | None,
    ) -> None:
        """Count a picture's label map. Shape: logits [1, K, H, W], mask uint8 [H, W]."""
        predicted = label_map(logits, self.labels, loss)[0].cpu().numpy()
        domain, true = self.dataset.domain(image_id), truth(mask, self.labels)
        if listener is not None:
            listener(step, image_id, true, predicted)
        total[domain] = total.get(domain, 0) + confusion(true, predicted, len(self.labels.order))

    @torch.no_grad()
    def _count(
        self,
        model: Segmenter,
        loss: str,
        features: Tensor,
        batch: Sequence[str],
        total: Confusions,
        step: int,
        listener: Listener | None,
    ) -> None:
        logits = model.behind_trunk(features).logits
        for row, image_id in enumerate(batch):
            mask = self.dataset.mask(image_id)
            size = (mask.shape[0], mask.shape[1])
            inside = content_size(*size, self.size)
            own = full_size(logits[row : row + 1], self.size, inside, size)
            self._add(own, image_id, mask, loss, total, step, listener)


def _by_trunk(models: Sequence[Segmenter]) -> dict[str, list[int]]:
    """Places of the models by the digest of their trunk."""
    digests = {id(model.backbone): trunk_digest(model) for model in {id(m.backbone): m for m in models}.values()}
    found: dict[str, list[int]] = {}
    for place, model in enumerate(models):
        found.setdefault(digests[id(model.backbone)], []).append(place)
    return found


def measured_ids(dataset: Dataset, config: DataConfig) -> tuple[str, ...]:
    """The validation set, or the held-out slice of the training set."""
    if config.measure == "val":
        return tuple(dataset.ids("val"))
    return tuple(hold_out(list(dataset.ids("train")), config.holdout, seed=0)[1])


def metrics_entry(step: int, measured: Confusions, images: int) -> dict[str, Any]:
    """One step's entry of metrics.json."""
    entry: dict[str, Any] = {
        "step": step,
        "images": images,
        "confusion": whole(measured).tolist(),
    }
    if len(measured) > 1:
        entry["by_domain"] = {name: matrix.tolist() for name, matrix in measured.items()}
    return entry


def evaluate(
    run: Run, dataset: Dataset, progress: Progress, device: str = "cpu", listener: Listener | None = None
) -> list[Confusions]:
    """Measure every step of a run on the validation images of `dataset`; `listener` is called for each."""
    validation = Validation(dataset, run.config.data, run.labels, torch.device(device), NoStore())
    return validation.measure(load_steps(run, device), run.config.method.loss, progress, listener)


def totals(measured: Sequence[Confusions]) -> np.ndarray:
    """Confusion matrices over all domains. Shape: T steps -> int64 [T, K, K]."""
    return np.stack([np.sum(list(one.values()), 0) for one in measured])


def write_metrics(path: Path, measured: Sequence[Confusions], images: int) -> None:
    """Write a metrics.json of all steps."""
    steps = [metrics_entry(step, one, images) for step, one in enumerate(measured)]
    write_json(path, {"schema": SCHEMA, "steps": steps})
