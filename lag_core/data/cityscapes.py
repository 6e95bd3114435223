"""Cityscapes as unpacked: leftImg8bit/ and gtFine/, each with train/ and val/ and one folder per city.

Masks are gtFine_labelIds; the 19 classes of the benchmark are counted, all others are ignored. Ids are the train ids,
colours those of the benchmark (Cordts et al., CVPR 2016).
"""

from __future__ import annotations

from pathlib import Path

from lag_core.data.dataset import SPLITS, DatasetInfo, FileDataset, files_in, find_home, require
from lag_core.data.labels import LabelRules, without_suffix
from lag_core.protocol import IGNORE, ClassInfo

SOURCE = "get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com/"
# fmt: off
CLASSES = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)
# fmt: on
"""(label id, name, colour); the place is the train id."""

INFO = DatasetInfo("cityscapes", tuple(ClassInfo(i, name, color) for i, (_, name, color) in enumerate(CLASSES)))
_TRAIN_ID = {label: place for place, (label, _, _) in enumerate(CLASSES)}
RULES = LabelRules(tuple(_TRAIN_ID.get(label, IGNORE) for label in range(256)))


def open_cityscapes(root: Path) -> FileDataset:
    """Cityscapes in `root`. DatasetMissing says what is missing."""
    home = find_home(root, ("", "cityscapes"), "leftImg8bit", "Cityscapes", SOURCE)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    splits: dict[str, list[str]] = {}
    for split in SPLITS:
        pictures = files_in(home / "leftImg8bit" / split, (".png",), "Cityscapes", SOURCE, below=True)
        labels = files_in(home / "gtFine" / split, (".png",), "Cityscapes", SOURCE, below=True)
        found, labelled = without_suffix(pictures, "_leftImg8bit"), without_suffix(labels, "_gtFine_labelIds")
        require(list(found), labelled, f"{split} masks", "Cityscapes", home / "gtFine" / split, SOURCE)
        splits[split] = list(found)
        images |= found
        masks |= {name: labelled[name] for name in found}
    return FileDataset(INFO, splits, images, masks, read=RULES.reader)
