"""Any dataset in a folder: `images/<id>.jpg|png`, `masks/<id>.png`, `classes.json`, `train.txt`, `val.txt`.

Masks have one 8-bit channel of class ids; 255 is ignored. `classes.json` is a list of classes, or an object
whose "classes" is one; a class is {"id": 0..254, "name": "cat", "color": [R, G, B]}. Id 0 is the background
if its name is "background"; otherwise every id is a real class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lag_core.data.dataset import (
    SPLITS,
    DatasetInfo,
    DatasetMissing,
    FileDataset,
    files_in,
    read_list,
    require,
)
from lag_core.data.pictures import DataError
from lag_core.protocol import IGNORE, ClassInfo

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
SOURCE = "a dataset folder holds images/, masks/, classes.json, train.txt and val.txt"


def open_folder(root: Path, listed_in: Sequence[str] = SPLITS) -> FileDataset:
    """The dataset in `root`, called by the folder's name; `listed_in`: the splits that it has, others are empty.

    DatasetMissing or DataError, each with one sentence."""
    name = root.resolve().name
    classes = _read_classes(root / "classes.json", name)
    background = 0 if any(one.id == 0 and one.name == "background" for one in classes) else None
    splits = {s: read_list(root / f"{s}.txt", name, SOURCE) if s in listed_in else [] for s in SPLITS}
    images = files_in(root / "images", IMAGE_ENDINGS, name, SOURCE)
    masks = files_in(root / "masks", (".png",), name, SOURCE)
    listed = list(dict.fromkeys(splits["train"] + splits["val"]))
    require(listed, images, "images", name, root / "images", SOURCE)
    require(listed, masks, "masks", name, root / "masks", SOURCE)
    return FileDataset(DatasetInfo(name, classes, background), splits, images, masks)


def _read_classes(path: Path, dataset: str) -> tuple[ClassInfo, ...]:
    try:
        stored = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DatasetMissing(f"{dataset} has no classes.json: looked for {path}; {SOURCE}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON: {error}") from error
    entries = stored.get("classes") if isinstance(stored, dict) else stored
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} holds no list of classes")
    classes = sorted((_class(entry, path) for entry in entries), key=lambda one: one.id)
    if len({one.id for one in classes}) != len(classes):
        raise DataError(f"{path} gives one id to two classes")
    return tuple(classes)


def _class(entry: Any, path: Path) -> ClassInfo:
    match entry:
        case {"id": int(number), "name": str(name), "color": [int(red), int(green), int(blue)]}:
            color = (red, green, blue)
            if 0 <= number < IGNORE and name and all(0 <= value <= 255 for value in color):
                return ClassInfo(number, name, color)
    raise DataError(f"{path}: {entry!r} is no class; expected id 0..{IGNORE - 1}, name, color of three numbers 0..255")
