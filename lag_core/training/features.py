"""What a step trains on: augmented views of its images, run through the frozen trunk once.

While the trunk is frozen its output for a view never changes, so it is computed once and kept; every epoch then draws
one view of each image. Where the trunk itself trains, the views are kept as images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lag_core.config import DataConfig
from lag_core.data.catalogue import Dataset
from lag_core.data.transforms import augment, fit, fit_mask, to_input
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import trunk_digest

BATCH = 8
"""Images in one trunk pass. The same everywhere, so that the same image always gives the same bits."""

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps a sequence for a progress bar."""

    def __call__(self, items: Sequence[Item], what: str, /) -> Iterator[Item]: ...


@dataclass
class Views:
    """Views of N images, V each.

    inputs: float16 [N, V, T, h, w] trunk features, or uint8 [N, V, S, S, 3] images; masks: uint8 [N, V, s, s] dataset
    ids, s = S / label_stride.
    """

    ids: tuple[str, ...]
    inputs: Tensor
    masks: Tensor
    from_trunk: bool

    def __len__(self) -> int:
        return len(self.ids)

    def model_inputs(self, rows: Tensor, picks: Tensor) -> Tensor:
        """What the network takes for these images and views: float32 features, or normalised images."""
        chosen = self.inputs[rows, picks]
        return chosen.float() if self.from_trunk else torch.from_numpy(to_input(chosen.numpy()))


@torch.no_grad()
def trunk_features(model: Segmenter, images: np.ndarray, device: torch.device) -> Tensor:
    """Trunk output of images. Shape: uint8 [n, S, S, 3] -> float32 [n, T, h, w] on `device`."""
    inputs = torch.from_numpy(to_input(images)).to(device, memory_format=torch.channels_last)
    return model.trunk(inputs).contiguous()


class FeatureStore:
    """Trunk features by what they depend on, so that no image goes through the same trunk twice.

    Kept in memory for the life of the store; with a folder also on the disk, where other processes find them.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._memory: dict[str, np.ndarray] = {}

    def get(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array stored under `key`, computed if it is not there."""
        if key not in self._memory:
            self._memory[key] = self._from_disk(key, compute)
        return self._memory[key]

    def _from_disk(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if self.folder is None:
            return compute()
        path = self.folder / key[:2] / f"{key}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            value = compute()
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.npy")  # a cache: renamed, but not forced to the disk
            np.save(partial, value, allow_pickle=False)
            partial.replace(path)
            return value


class NoStore(FeatureStore):
    """Keeps nothing: for one pass over many images."""

    def get(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        return compute()


def draw_view(dataset: Dataset, image_id: str, view: int, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """One view of an image and its mask; view 0 is the plain one. Depends on (id, view) and the size alone.

    Shape: image uint8 [S, S, 3], mask uint8 [S, S] dataset ids.
    """
    image, mask = dataset.image(image_id), dataset.mask(image_id)
    if view == 0:
        return fit(image, config.size)[0], fit_mask(mask, config.size)
    digest = hashlib.sha256(f"{image_id}/{view}".encode()).digest()
    return augment(image, mask, np.random.default_rng(list(digest[:16])), config.size)


def collect_views(
    model: Segmenter,
    dataset: Dataset,
    ids: Sequence[str],
    config: DataConfig,
    *,
    label_stride: int,
    through_trunk: bool,
    device: torch.device,
    progress: Progress,
    store: FeatureStore,
) -> Views:
    """Draw `config.views` views of each image and, if the trunk is frozen, run it over them."""
    if not ids:
        raise ValueError("a step without images cannot be trained")
    model.eval()
    trunk = trunk_digest(model)
    inputs = masks = torch.empty(0)
    start = label_stride // 2
    for row, image_id in enumerate(progress(ids, "views")):
        drawn = [draw_view(dataset, image_id, v, config) for v in range(config.views)]
        small = np.stack([mask[start::label_stride, start::label_stride] for _, mask in drawn])
        images = np.stack([image for image, _ in drawn])
        if through_trunk:
            key = hashlib.sha256(trunk.encode() + images.tobytes()).hexdigest()
            values = torch.from_numpy(store.get(key, lambda x=images: _half_features(model, x, device)))  # type: ignore[misc]
        else:
            values = torch.from_numpy(images)
        if row == 0:
            inputs = torch.empty((len(ids), *values.shape), dtype=values.dtype)
            masks = torch.empty((len(ids), *small.shape), dtype=torch.uint8)
        inputs[row], masks[row] = values, torch.from_numpy(small)
    return Views(tuple(ids), inputs, masks, through_trunk)


def _half_features(model: Segmenter, images: np.ndarray, device: torch.device) -> np.ndarray:
    return trunk_features(model, images, device).half().cpu().numpy()


def batch_order(n: int, views: int, batch: int, iteration: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and views of one iteration. Depends on its arguments alone, so that a resumed run sees the same batches.

    Each epoch is a permutation of the images with a view drawn for each; a last incomplete batch is left out, unless
    the step has fewer images than a batch.

    Returns: int64 [b] image rows, int64 [b] views.
    """
    per_epoch = iterations_per_epoch(n, batch)
    epoch, place = divmod(iteration, per_epoch)
    rng = np.random.default_rng([seed, epoch])
    rows, picks = rng.permutation(n), rng.integers(views, size=n)
    chosen = slice(place * batch, (place + 1) * batch)
    return rows[chosen], picks[chosen]


def iterations_per_epoch(n: int, batch: int) -> int:
    """Whole batches in an epoch; at least one."""
    return max(1, n // batch)
