"""COCO's panoptic layout: train2017/ and val2017/ pictures, and below annotations/ panoptic_SPLIT2017.json and PNGs.

A PNG's colour is a segment (red + 256 green + 65536 blue), the JSON file gives each segment its category, and 0 is not
annotated. Ids are the categories' own; every one is a real class. Other datasets in this layout are read alike, if
their categories have ids 0..254 (Kirillov et al., "Panoptic Segmentation", CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lag_core import reading
from lag_core.data.dataset import DatasetInfo, DatasetMissing, FileDataset, files_in, require
from lag_core.data.files import Part
from lag_core.data.labels import ids_of_colours
from lag_core.data.pictures import DataError
from lag_core.data.voc import palette_color
from lag_core.protocol import IGNORE, ClassInfo

SOURCE = "get train2017.zip, val2017.zip and panoptic_annotations_trainval2017.zip from https://cocodataset.org/"
SPLITS = {"train": "train2017", "val": "val2017"}
ANNOTATIONS = reading.Kind("a panoptic annotation file", 1024 * reading.MIB)


def open_coco_panoptic(root: Path) -> FileDataset:
    """A COCO-panoptic folder. DatasetMissing or DataError, each with one sentence."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    splits: dict[str, list[str]] = {}
    segments: dict[Path, Mapping[int, int]] = {}
    classes: tuple[ClassInfo, ...] = ()
    for split, folder in SPLITS.items():
        stored = _read(root / "annotations" / f"panoptic_{folder}.json")
        classes = classes or _classes(stored)
        found = files_in(root / folder, (".jpg",), "COCO-panoptic", SOURCE)
        home = root / "annotations" / f"panoptic_{folder}"
        labelled = files_in(home, (".png",), "COCO-panoptic", SOURCE)
        names = [Path(str(one["file_name"])).stem for one in stored["annotations"]]
        require(names, found, f"{split} images", "COCO-panoptic", root / folder, SOURCE)
        require(names, labelled, f"{split} masks", "COCO-panoptic", home, SOURCE)
        splits[split] = names
        for name, one in zip(names, stored["annotations"], strict=True):
            images[name], masks[name] = found[name], labelled[name]
            segments[labelled[name]] = _segments(one)

    def read(path: Path, part: Part | None = None) -> np.ndarray:
        return ids_of_colours(path, part, segments[path], False)

    return FileDataset(DatasetInfo(root.resolve().name, classes), splits, images, masks, read=read)


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = reading.read_json(path, ANNOTATIONS)
        if not all(isinstance(stored[key], list) for key in ("annotations", "categories")):
            raise ValueError("annotations and categories are not lists")
        if not all(isinstance(one, dict) and "file_name" in one for one in stored["annotations"]):
            raise ValueError("an annotation has no file_name")
        return stored
    except FileNotFoundError:
        raise DatasetMissing(f"COCO-panoptic has no {path.name}: looked for {path}; {SOURCE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a panoptic annotation file: {error}") from error


def _classes(stored: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Categories by id, in their own colours or by VOC's rule."""
    found = []
    for one in stored["categories"]:
        match one:
            case {"id": int(number), "name": str(name)} if 0 <= number < IGNORE:
                color = one.get("color") or palette_color(number + 1)
                found.append(ClassInfo(number, name, (int(color[0]), int(color[1]), int(color[2]))))
            case _:
                raise DataError(f"category {one!r} is not a class; expected an id 0..{IGNORE - 1} and a name")
    return tuple(sorted(found, key=lambda one: one.id))


def _segments(annotation: Mapping[str, Any]) -> dict[int, int]:
    """Colour as one number, red first -> category; the segment 0 is not annotated."""
    found = {0: IGNORE}
    for one in annotation.get("segments_info", ()):
        number = int(one["id"])
        red, green, blue = number & 255, number >> 8 & 255, number >> 16
        found[red << 16 | green << 8 | blue] = int(one["category_id"])
    return found
