"""PASCAL VOC 2012 as unpacked: VOCdevkit/VOC2012 with JPEGImages, ImageSets/Segmentation and palette masks.

With SegmentationClassAug beside them (the masks of SBD, 10,582 training images), the augmented set is
trained on.
"""

from __future__ import annotations

from pathlib import Path

from lag_core.data.dataset import DatasetInfo, FileDataset, files_in, find_home, read_list, require
from lag_core.protocol import ClassInfo

# fmt: off
NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
SOURCE = (
    "get VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, and for the "
    "augmented set SegmentationClassAug with train_aug.txt (made from SBD)"
)
_LISTS = ("train_aug", "trainaug")


def palette_color(index: int) -> tuple[int, int, int]:
    """VOC's colour of a class: bits 0, 3, 6 of the id are red from the top, bits 1, 4, 7 green, 2 and 5
    blue."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(8)) for channel in range(3)
    )
    return red, green, blue


INFO = DatasetInfo("voc", tuple(ClassInfo(i, name, palette_color(i)) for i, name in enumerate(NAMES)), 0)


def open_voc(root: Path) -> FileDataset:
    """VOC 2012 in `root`: VOC2012 itself, VOCdevkit, or the folder around it. DatasetMissing says what
    is missing."""
    home = find_home(root, ("", "VOC2012", "VOCdevkit/VOC2012"), "JPEGImages", "VOC 2012", SOURCE)
    lists = home / "ImageSets" / "Segmentation"
    masks = _masks(home)
    splits = {"train": _names(lists / f"{_train_list(home)}.txt"), "val": _names(lists / "val.txt")}
    images = files_in(home / "JPEGImages", (".jpg",), "VOC 2012", SOURCE)
    for split, names in splits.items():
        require(names, images, f"{split} images", "VOC 2012", home / "JPEGImages", SOURCE)
        require(names, masks, f"{split} masks", "VOC 2012", home / "SegmentationClass[Aug]", SOURCE)
    return FileDataset(INFO, splits, images, masks)


def _masks(home: Path) -> dict[str, Path]:
    """The augmented masks, and the hand-made ones of images (validation) that have no other."""
    augmented = home / "SegmentationClassAug"
    plain = home / "SegmentationClass"
    found: dict[str, Path] = {}
    if augmented.is_dir():
        found |= files_in(augmented, (".png",), "VOC 2012", SOURCE)
    if plain.is_dir() or not augmented.is_dir():
        found = files_in(plain, (".png",), "VOC 2012", SOURCE) | found
    return found


def _train_list(home: Path) -> str:
    if not (home / "SegmentationClassAug").is_dir():
        return "train"
    lists = home / "ImageSets" / "Segmentation"
    return next((name for name in _LISTS if (lists / f"{name}.txt").is_file()), _LISTS[0])


def _names(path: Path) -> list[str]:
    """Names in a list; lines such as "/JPEGImages/2007_000032.jpg /SegmentationClassAug/…png" are
    understood."""
    return [Path(entry.split()[0]).stem for entry in read_list(path, "VOC 2012", SOURCE)]
