"""The training input of a step: augmented views of its images, run through the frozen trunk once.

While the trunk is frozen its output for a view never changes, so it is computed once and kept; every epoch then draws
one view of each image. Where the trunk itself trains, the views are kept as images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lag_core import reading
from lag_core.config import DataConfig
from lag_core.data import field_augmentation
from lag_core.data.catalogue import Dataset
from lag_core.data.pictures import DataError
from lag_core.data.transforms import augment, fit, fit_mask, small_mask, to_input
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import trunk_digest
from lag_core.training.loading import Order, loaded, normalised, stack

BATCH = 8
"""Images in one trunk pass. The same everywhere, so that the same image always gives the same bits."""

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps a sequence for a progress bar."""

    def __call__(self, items: Sequence[Item], what: str, /) -> Iterator[Item]: ...


class Views(Protocol):
    """Views of a step's images, ready for the network."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int], picks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The network's inputs (trunk features, or normalised images where the trunk trains) and the masks.

        Shape: float32 [b, ...] and int64 [b, s, s] dataset ids, s = size / label_stride.
        """
        ...

    def stream(self, orders: Iterable[Order]) -> Iterator[tuple[Tensor, Tensor]]:
        """`take` of each batch in turn; what has to be read is read ahead."""
        ...


@dataclass
class KeptViews:
    """A fixed number of views of each image, kept in memory.

    inputs: float16 [N, V, T, h, w] trunk features, or uint8 [N, V, S, S, 3] images; masks: uint8 [N, V, s, s].
    """

    inputs: Tensor
    masks: Tensor
    from_trunk: bool

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int], picks: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = self.inputs[rows, picks]
        inputs = chosen.float() if self.from_trunk else torch.from_numpy(to_input(chosen.numpy()))
        return inputs, self.masks[rows, picks].long()

    def stream(self, orders: Iterable[Order]) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.take(rows, picks) for rows, picks in orders)


@dataclass
class FreshViews:
    """Views drawn on demand; nothing is kept. For datasets that do not fit in memory."""

    model: Segmenter
    dataset: Dataset
    ids: Sequence[str]
    config: DataConfig
    label_stride: int
    through_trunk: bool
    device: torch.device

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int], picks: Sequence[int]) -> tuple[Tensor, Tensor]:
        with ThreadPoolExecutor() as pool:
            batch = stack(list(pool.map(self._draw, rows, picks)))
        assert not isinstance(batch, DataError)  # it was raised by _draw
        return self._ready(*batch)

    def stream(self, orders: Iterable[Order]) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.config.workers:
            return (self.take(rows, picks) for rows, picks in orders)
        return (self._ready(*batch) for batch in self.read(orders))

    def read(self, orders: Iterable[Order]) -> Iterator[tuple[Tensor, Tensor]]:
        """The views alone. Shape: -> uint8 [b, 3, S, S], uint8 [b, s, s]."""
        return loaded(self._draw, orders, self.config.workers, pin=self.device.type == "cuda")

    def _draw(self, row: int, view: int) -> tuple[Tensor, Tensor]:
        image, mask = draw_view(self.dataset, self.ids[row], view, self.config)
        small = np.ascontiguousarray(small_mask(mask, self.label_stride))
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(small)

    def _ready(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the loop. Shape: uint8 [b, 3, S, S], uint8 [b, s, s] -> float32 [b, ...], int64 [b, s, s]."""
        inputs = normalised(images, self.device)
        if self.through_trunk:
            with torch.no_grad():
                inputs = self.model.trunk(inputs.contiguous(memory_format=torch.channels_last)).contiguous()
        return inputs, masks.to(self.device, non_blocking=True).long()


@torch.no_grad()
def trunk_features(model: Segmenter, images: np.ndarray, device: torch.device) -> Tensor:
    """Trunk output of images. Shape: uint8 [n, S, S, 3] -> float32 [n, T, h, w] on `device`."""
    inputs = torch.from_numpy(to_input(images)).to(device, memory_format=torch.channels_last)
    return model.trunk(inputs).contiguous()


class FeatureStore:
    """Trunk features keyed by what they depend on, so that no image goes through the same trunk twice.

    Kept in memory for the life of the store; with a folder also on disk, where other processes find them.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._memory: dict[str, np.ndarray] = {}

    def get(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array stored under `key`, computed if missing."""
        if key not in self._memory:
            self._memory[key] = self._from_disk(key, compute)
        return self._memory[key]

    def _from_disk(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if self.folder is None:
            return compute()
        path = self.folder / key[:2] / f"{key}.npy"
        try:
            with reading.opened(path, reading.ARRAYS) as file:
                return np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            pass
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.parent.with_suffix(".lock")).acquire()
        except OSError:  # a cache that cannot be written costs only time
            return compute()
        with lock:  # another worker may be at the same image
            if path.exists():
                with suppress(OSError, ValueError, EOFError), reading.opened(path, reading.ARRAYS) as file:
                    return np.load(file, allow_pickle=False)
            value = compute()
            _keep(path, value)
            return value


def _keep(path: Path, value: np.ndarray) -> None:
    """Write an entry under a temporary name and rename it. A full disk costs only time."""
    partial = path.with_suffix(f".{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(partial, value, allow_pickle=False)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()


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
    rng = np.random.default_rng(list(digest[:16]))
    if config.augmentation == "square":
        return augment(image, mask, rng, config.size)
    low, high = config.scales
    height, width = mask.shape
    chosen = field_augmentation.draw(height, width, config.size, (low, high), rng)
    return field_augmentation.view(image, mask, config.size, chosen)


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
    """`config.views` views of each image, run through the trunk if it is frozen; 0: drawn again each time."""
    if not ids:
        raise ValueError("a step without images cannot be trained")
    if config.views == 0:
        return FreshViews(model, dataset, ids, config, label_stride, through_trunk, device)
    model.eval()
    trunk = trunk_digest(model)
    inputs = masks = torch.empty(0)
    fresh = FreshViews(model, dataset, ids, config, label_stride, through_trunk, device)
    read = fresh.read(([row] * config.views, range(config.views)) for row in range(len(ids)))
    for row, (_, (chosen, small)) in enumerate(zip(progress(ids, "views"), read, strict=True)):
        images = np.ascontiguousarray(chosen.permute(0, 2, 3, 1).numpy())
        if through_trunk:
            key = hashlib.sha256(trunk.encode() + images.tobytes()).hexdigest()
            values = torch.from_numpy(store.get(key, lambda x=images: _half_features(model, x, device)))  # type: ignore[misc]
        else:
            values = torch.from_numpy(images)
        if row == 0:
            inputs = torch.empty((len(ids), *values.shape), dtype=values.dtype)
            masks = torch.empty((len(ids), *small.shape), dtype=torch.uint8)
        inputs[row], masks[row] = values, small
    return KeptViews(inputs, masks, through_trunk)


def _half_features(model: Segmenter, images: np.ndarray, device: torch.device) -> np.ndarray:
    return trunk_features(model, images, device).half().cpu().numpy()


def batch_order(n: int, views: int, batch: int, iteration: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and views of one iteration. Depends on its arguments alone, so that a resumed run sees the same batches.

    Each epoch is a permutation of the images with a view drawn for each (0 views: any number from 1); a last
    incomplete batch is left out, unless the step has fewer images than a batch.

    Returns: int64 [b] image rows, int64 [b] views.
    """
    per_epoch = iterations_per_epoch(n, batch)
    epoch, place = divmod(iteration, per_epoch)
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(n)
    picks = rng.integers(0, views, size=n) if views else rng.integers(1, 2**31, size=n)
    chosen = slice(place * batch, (place + 1) * batch)
    return rows[chosen], picks[chosen]


def iterations_per_epoch(n: int, batch: int) -> int:
    """Whole batches in an epoch; at least one."""
    return max(1, n // batch)
