"""Any dataset in a folder: `images/<id>.jpg|png`, `masks/<id>.png`, `classes.json`, `train.txt`, `val.txt`.

A line of `train.txt` or `val.txt` is one id, blanks in it included; an id may lead through folders ("aachen/000") and
may carry the image's ending. Masks have one 8-bit channel of class ids; 255 is ignored. `classes.json` is a list of
classes, or an object whose "classes" is one; a class is {"id": 0..254, "name": "cat", "color": [R, G, B]}, or only its
name: its id is then its place in the list. A missing colour is VOC's for that id. The class
called "background" (or "Background", "_background_", "bg") is the background; without one, every id is a real class.
Masks with other ids, ids to ignore or colours: lag_core/data/labels.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from lag_core import reading
from lag_core.data.dataset import (
    SPLITS,
    DatasetInfo,
    DatasetMissing,
    FileDataset,
    files_in,
    read_list,
    require,
    require_once,
)
from lag_core.data.labels import LabelRules, ordered, rules_of
from lag_core.data.pictures import DataError
from lag_core.data.voc import palette_color
from lag_core.protocol import IGNORE, ClassInfo

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
MASK_ENDINGS = (".png", ".tif", ".tiff")
BACKGROUND_NAMES = ("background", "bg")
"""Names of the background, in lower case and with letters only."""
SOURCE = "a dataset folder holds images/, masks/, classes.json, train.txt and val.txt"


def open_folder(root: Path, listed_in: Sequence[str] = SPLITS) -> FileDataset:
    """The dataset in `root`, named after the folder; `listed_in`: the splits that it has, others are empty.

    DatasetMissing or DataError, each with one sentence."""
    name = root.resolve().name
    classes, rules = _read_classes(root / "classes.json", name)
    images = files_in(root / "images", IMAGE_ENDINGS, name, SOURCE, below=True, suffix=rules.image_suffix)
    masks = files_in(root / "masks", MASK_ENDINGS, name, SOURCE, below=True, suffix=rules.mask_suffix)
    splits = {s: _names(root / f"{s}.txt", name, images) if s in listed_in else [] for s in SPLITS}
    listed = list(dict.fromkeys(splits["train"] + splits["val"]))
    require(listed, images, "images", name, root / "images", SOURCE)
    require(listed, masks, "masks", name, root / "masks", SOURCE)
    info = DatasetInfo(name, ordered(classes, rules.order), _background(classes, root))
    return FileDataset(info, splits, images, masks, read=rules.reader, rules=repr(rules))


def _names(path: Path, dataset: str, images: Mapping[str, Path]) -> list[str]:
    """The ids of a split list; an image's ending is dropped unless a file really has that name."""
    names = [_without_ending(line, images) for line in read_list(path, dataset, SOURCE)]
    require_once(names, path)
    return names


def _without_ending(line: str, images: Mapping[str, Path]) -> str:
    if line in images or PurePosixPath(line).suffix.lower() not in IMAGE_ENDINGS:
        return line
    shorter = line.rpartition(".")[0]
    return shorter if shorter in images else line


def _background(classes: Sequence[ClassInfo], root: Path) -> int | None:
    """Dataset id of the class whose name says that it is the background; DataError if two do."""
    found = [one for one in classes if re.sub(r"[\W_]+", "", one.name.casefold()) in BACKGROUND_NAMES]
    if len(found) > 1:
        raise DataError(f"{root / 'classes.json'} has two backgrounds: {found[0].name!r} and {found[1].name!r}")
    return found[0].id if found else None


def _read_classes(path: Path, dataset: str) -> tuple[tuple[ClassInfo, ...], LabelRules]:
    try:
        stored = reading.read_json(path)
    except FileNotFoundError:
        raise DatasetMissing(f"{dataset} has no classes.json: looked for {path}; {SOURCE}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON: {error}") from error
    entries = stored.get("classes") if isinstance(stored, dict) else stored
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} contains no list of classes")
    classes = sorted((_class(entry, place, path) for place, entry in enumerate(entries)), key=lambda one: one.id)
    if len({one.id for one in classes}) != len(classes):
        raise DataError(f"{path} gives one id to two classes")
    twice = [one.name for one, after in pairwise(sorted(classes, key=lambda c: c.name)) if one.name == after.name]
    if twice:
        raise DataError(f"{path} gives the name {twice[0]!r} to two classes: each needs a name of its own")
    return tuple(classes), rules_of(stored, classes, path)


def _class(entry: Any, place: int, path: Path) -> ClassInfo:
    """A class of the list; `place`: its id where the entry is a name alone."""
    given = {"id": place, "name": entry} if isinstance(entry, str) else entry
    if isinstance(given, dict) and type(given.get("id")) is int and given["id"] >= 0:
        given = {"color": list(palette_color(given["id"])), **given}
    match given:
        case {"id": int(number), "name": str(name), "color": [int(red), int(green), int(blue)]}:
            color, name = (red, green, blue), name.strip()
            if type(number) is int and 0 <= number < IGNORE and name and all(0 <= value <= 255 for value in color):
                return ClassInfo(number, name, color)
    raise DataError(
        f"{path}: {entry!r} is not a class; expected an id 0..{IGNORE - 1}, a name, and a color of three numbers "
        "0..255, or only the name"
    )
