"""Small datasets that the tests write to disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lag_core.config import DataConfig
from lag_core.data import voc
from lag_core.data.catalogue import Dataset, open_dataset

SMALL = """
views = 1
holdout = 0.2
[model]
latent = 8
head_width = 4
aspp_rates = [1]
[optim]
epochs = 1
epochs_later = 1
min_iterations_first = 2
min_iterations = 2
batch = 4
threads = 1
device = "cpu"
amp = "off"
"""
"""Behind the [data] table of a configuration: what makes training a matter of seconds."""


def write_mask(path: Path, ids: object, palette: bool = False) -> np.ndarray:
    array = np.array(ids, np.uint8)
    image = Image.fromarray(array)
    if palette:
        image.putpalette([value for i in range(256) for value in voc.palette_color(i)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return array


def write_image(path: Path, shape: tuple[int, int] = (2, 3), seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def opened(name: str, root: Path, task: str = "1-1") -> Dataset:
    return open_dataset(DataConfig(dataset=name, root=str(root), task=task))  # type: ignore[arg-type]
