"""ADE20K, the scene parsing benchmark as unpacked: ADEChallengeData2016 with 150 classes and 0 for the rest.

Id 0 (void) is the background, as in the field's incremental protocols (docs/method.md#tasks: 100-50 = {0-100 |
101-150}).
"""

from __future__ import annotations

import re
from pathlib import Path

from lag_core import reading
from lag_core.data.dataset import DatasetInfo, DatasetMissing, FileDataset, files_in, find_home, require
from lag_core.data.pictures import DataError
from lag_core.data.voc import palette_color
from lag_core.protocol import ClassInfo

SOURCE = "get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu/"
FOLDERS = {"train": "training", "val": "validation"}
CLASSES = 150


def open_ade20k(root: Path) -> FileDataset:
    """ADE20K in `root`: ADEChallengeData2016 or the folder around it. DatasetMissing says what is missing."""
    home = find_home(root, ("", "ADEChallengeData2016"), "images", "ADE20K", SOURCE)
    classes = (ClassInfo(0, "void", (0, 0, 0)), *_read_classes(home / "objectInfo150.txt"))
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    splits: dict[str, list[str]] = {}
    for split, folder in FOLDERS.items():
        found = files_in(home / "images" / folder, (".jpg",), "ADE20K", SOURCE)
        labelled = files_in(home / "annotations" / folder, (".png",), "ADE20K", SOURCE)
        if not found:
            raise DatasetMissing(f"ADE20K has no {split} images: looked in {home / 'images' / folder}; {SOURCE}")
        require(list(found), labelled, f"{split} masks", "ADE20K", home / "annotations" / folder, SOURCE)
        require(list(labelled), found, f"{split} images", "ADE20K", home / "images" / folder, SOURCE)
        splits[split] = list(found)
        images |= found
        masks |= labelled
    return FileDataset(DatasetInfo("ade20k", classes, 0), splits, images, masks)


def _read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Ids and first names of objectInfo150.txt: tab-separated, one heading line, id first and names last.

    The colours are VOC's rule (ours: the benchmark's are in a MATLAB file).
    """
    try:
        lines = reading.read_text(path, reading.NAMES).splitlines()[1:]
    except FileNotFoundError:
        raise DatasetMissing(f"ADE20K has no {path.name}: looked for {path}; {SOURCE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    rows = [line.split("\t") for line in lines if line.strip()]
    if [row[0].strip() for row in rows] != [str(i) for i in range(1, CLASSES + 1)]:
        raise DataError(f"{path} does not list the classes 1..{CLASSES}, one per line after one heading")
    names = [re.split("[,;]", row[-1])[0].strip() for row in rows]
    return tuple(ClassInfo(i, name, palette_color(i)) for i, name in enumerate(names, 1))
