"""What a step trains on: augmented views of its images, run through the frozen trunk once.

While the trunk is frozen its output for a view never changes, so it is computed once and kept; every epoch then draws
one view of each image. Where the trunk itself trains, the views are kept as images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lag_core.config import DataConfig
from lag_core.data.catalogue import Dataset
from lag_core.data.transforms import augment, fit, fit_mask, to_input
from lag_core.model.segmenter import Segmenter

BATCH = 8
"""Images in one trunk pass. The same everywhere, so that the same image always gives the same bits."""

Progress = Callable[[Sequence[str], str], Iterator[str]]
"""Wraps a sequence for a progress bar: (items, what is being done) -> items."""


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


def draw_view(dataset: Dataset, image_id: str, view: int, config: DataConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One view of an image and its mask; view 0 is the plain one. Depends on (seed, id, view) alone.

    Shape: image uint8 [S, S, 3], mask uint8 [S, S] dataset ids.
    """
    image, mask = dataset.image(image_id), dataset.mask(image_id)
    if view == 0:
        return fit(image, config.size)[0], fit_mask(mask, config.size)
    digest = hashlib.sha256(f"{seed}/{image_id}/{view}".encode()).digest()
    return augment(image, mask, np.random.default_rng(list(digest[:16])), config.size)


def collect_views(
    model: Segmenter,
    dataset: Dataset,
    ids: Sequence[str],
    config: DataConfig,
    *,
    seed: int,
    label_stride: int,
    through_trunk: bool,
    device: torch.device,
    progress: Progress,
) -> Views:
    """Draw `config.views` views of each image and, if the trunk is frozen, run it over them."""
    model.eval()
    if not ids:
        raise ValueError("a step without images cannot be trained")
    inputs = masks = torch.empty(0)
    start = label_stride // 2
    for row, image_id in enumerate(progress(ids, "views")):
        drawn = [draw_view(dataset, image_id, v, config, seed) for v in range(config.views)]
        images = np.stack([image for image, _ in drawn])
        small = np.stack([mask[start::label_stride, start::label_stride] for _, mask in drawn])
        values = trunk_features(model, images, device).half().cpu() if through_trunk else torch.from_numpy(images)
        if row == 0:
            inputs = torch.empty((len(ids), *values.shape), dtype=values.dtype)
            masks = torch.empty((len(ids), *small.shape), dtype=torch.uint8)
        inputs[row], masks[row] = values, torch.from_numpy(small)
    return Views(tuple(ids), inputs, masks, through_trunk)


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
