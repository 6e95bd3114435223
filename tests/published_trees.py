"""Small trees in the official layouts of VOC, ADE20K and ISPRS that every class of every step can be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from small_trees import write_list, write_mask

from lag_core.data import isprs

SIDE = 40
COLORS = np.array([[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0]], np.uint8)
"""Of the ISPRS classes 1 to 5."""


def picture(path: Path, mask: np.ndarray) -> None:
    """A picture whose colours tell the classes, with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(int(mask.sum())).integers(0, 20, (*mask.shape, 3))
    base = np.stack([mask * 11 % 230, mask * 37 % 230, mask * 71 % 230], -1)
    Image.fromarray((base + noise).astype(np.uint8)).save(path, quality=95)


def stripes(*classes: int) -> np.ndarray:
    """Vertical stripes of classes. Shape: -> uint8 [SIDE, SIDE + 8]."""
    return np.array(classes, np.uint8)[np.arange(SIDE + 8) * len(classes) // (SIDE + 8)][None].repeat(SIDE, 0)


def write_voc(root: Path) -> Path:
    """VOCdevkit/VOC2012: 40 images with two classes each, 2 to validate."""
    home = root / "VOCdevkit" / "VOC2012"
    names = [f"2008_{i:06}" for i in range(42)]
    for i, name in enumerate(names):
        mask = stripes(0, 1 + i % 20, 1 + (i + 1) % 20)
        picture(home / "JPEGImages" / f"{name}.jpg", mask)
        write_mask(home / "SegmentationClass" / f"{name}.png", mask, palette=True)
    for split, part in (("train", names[:40]), ("val", names[40:])):
        write_list(home / "ImageSets" / "Segmentation" / f"{split}.txt", part)
    return root


def write_ade(root: Path) -> Path:
    """ADEChallengeData2016: 25 images with twelve of the 150 classes each, 2 to validate."""
    home = root / "ADEChallengeData2016"
    for folder, short, count in (("training", "train", 25), ("validation", "val", 2)):
        for i in range(count):
            mask = stripes(*(1 + (6 * i + k) % 150 for k in range(12)))
            name = f"ADE_{short}_{i:08}"
            picture(home / "images" / folder / f"{name}.jpg", mask)
            write_mask(home / "annotations" / folder / f"{name}.png", mask)
    rows = [f"{i}\t0.0100\t1\t1\t1\tclass {i}" for i in range(1, 151)]
    write_list(home / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows])
    return root


def write_isprs(root: Path) -> Path:
    """Both cities, each area one tile with all five classes."""
    potsdam, vaihingen = isprs.CITIES
    mask = stripes(0, 1, 2, 3, 4)
    for area in potsdam.areas():
        picture(root / "Potsdam" / "2_Ortho_RGB" / f"top_potsdam_{area}_RGB.tif", mask)
        labels(root / "Potsdam" / "5_Labels_all" / f"top_potsdam_{area}_label.tif", mask)
    for area in vaihingen.areas():
        folder = "gts_for_participants" if area in vaihingen.train else "ground_truth_COMPLETE"
        name = f"top_mosaic_09cm_area{area}.tif"
        picture(root / "Vaihingen" / "top" / name, mask)
        labels(root / "Vaihingen" / folder / name, mask)
    return root


def labels(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLORS[mask]).save(path)


WRITERS = {"voc": write_voc, "ade20k": write_ade, "isprs": write_isprs}
