"""Opens a dataset by its name in the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lag_core.config import ConfigError, DataConfig
from lag_core.data.ade20k import open_ade20k
from lag_core.data.aerial_dataset import open_aerial
from lag_core.data.cityscapes import open_cityscapes
from lag_core.data.coco_panoptic import open_coco_panoptic
from lag_core.data.dataset import Dataset, DatasetInfo, DatasetMissing, FileDataset
from lag_core.data.folder import open_folder
from lag_core.data.isprs import open_isprs
from lag_core.data.pictures import DataError
from lag_core.data.voc import open_voc
from lag_core.data.windows import WindowedDataset
from lag_core.protocol import Task, parse_task

__all__ = ["DataError", "Dataset", "DatasetInfo", "DatasetMissing", "open_dataset", "task_of", "with_range"]

VAL_TILES = 60
"""`aerial`: validation tiles of each domain."""

_LOADERS = {
    "folder": open_folder, "voc": open_voc, "ade20k": open_ade20k, "cityscapes": open_cityscapes,
    "coco": open_coco_panoptic,
}  # fmt: skip


def open_dataset(config: DataConfig) -> Dataset:
    """The dataset of a configuration. DatasetMissing or DataError, each with one sentence, if it cannot be
    used."""
    if config.dataset == "aerial":  # its tiles already have the requested size: nothing to pad or crop
        try:
            return open_aerial(config.tiles, VAL_TILES, config.size)
        except ValueError as error:
            raise ConfigError(f"dataset 'aerial': {error}") from None
    try:
        root = Path(config.root).expanduser()
        if not root.is_dir():
            raise DatasetMissing(f"dataset {config.dataset!r}: there is no folder {root}; set data.root to its folder")
        opened = _opened(config, root)
    except DatasetMissing:
        raise
    except (OSError, RuntimeError) as error:  # a folder that may not be read, a name too long, a home that is unknown
        raise DataError(f"dataset {config.dataset!r}: {config.root} cannot be read: {error}") from None
    if config.fit == "pad":
        return opened
    if config.fit == "windows":
        return WindowedDataset(opened, config.size, config.overlap)
    return opened.cropped(config.size, only="val" if config.augmentation == "field" else None)


def _opened(config: DataConfig, root: Path) -> FileDataset:
    if config.dataset == "isprs":  # its tiles are cut from the areas' files, so their bands are chosen there
        return open_isprs(root, bands=config.bands).read_by(config.range, ())
    return _LOADERS[config.dataset](root).read_by(config.range, config.bands)


def with_range(config: DataConfig, dataset: Dataset) -> DataConfig:
    """The configuration with `range` filled in from the training images, if they need one and none is set."""
    if config.range or not isinstance(dataset, FileDataset | WindowedDataset):
        return config
    return replace(config, range=dataset.value_range())


def task_of(config: DataConfig, info: DatasetInfo) -> Task:
    """The configured task over the dataset's classes. ConfigError for a task or a domain that it does not
    have."""
    for domain in config.domains:
        if domain not in info.domains:
            known = ", ".join(map(repr, info.domains)) or "none: leave the list empty"
            raise ConfigError(f"data.domains: {info.name!r} has no domain {domain!r}; allowed are {known}")
    try:
        return parse_task(config.task, info.foreground, info.background)
    except ValueError as error:
        raise ConfigError(f"data.task = {config.task!r}: {error}") from None
