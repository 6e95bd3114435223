"""ISPRS Potsdam (RGB) and Vaihingen (near infrared, red, green) as downloaded, cut to tiles in the cache.

The two cities are the domains of the class+domain protocol (docs/method.md#tasks). Against the reference code
(H-15) ids start at 1, so that "unlabelled" is never impervious surface, and clutter is ignored instead of
becoming a class.

The areas are the benchmark's own: Potsdam 24 to train and 14 to test, Vaihingen 16 and 17. On a grid of 600
pixels Potsdam gives 2400 and 1400 tiles, as in docs/method.md#tasks. Vaihingen's areas are no multiples of 600:
the tiles at their right and lower edge are moved inwards and labelled only where no other tile is, so each pixel
counts once (ours; the paper's 272 and 256 tiles come from another, unpublished cut).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lag_core.data import presence
from lag_core.data.dataset import DatasetInfo, DatasetMissing, FileDataset
from lag_core.data.pictures import DataError, opened, read_image
from lag_core.protocol import IGNORE, ClassInfo
from lag_core.writing import naming

TILE = 600
ROWS = 256
"""Rows of a label picture that are turned into ids at once."""
CLASSES = (
    ClassInfo(1, "impervious surface", (255, 255, 255)),
    ClassInfo(2, "building", (0, 0, 255)),
    ClassInfo(3, "low vegetation", (0, 255, 255)),
    ClassInfo(4, "tree", (0, 255, 0)),
    ClassInfo(5, "car", (255, 255, 0)),
)
SOURCE = (
    "get Potsdam (2_Ortho_RGB, 5_Labels_all) and Vaihingen (top, gts_for_participants, and for its test "
    "areas ground_truth_COMPLETE) from https://www.isprs.org/education/benchmarks/UrbanSemLab/"
)


@dataclass(frozen=True)
class City:
    """One domain: the names of its files, and the areas of each split."""

    domain: str
    images: tuple[str, ...]
    """Possible names of an image; the first that exists is used."""
    labels: tuple[str, ...]
    """Possible names of its labels; those without boundaries (black) replace missing full ones."""
    train: tuple[str, ...]
    val: tuple[str, ...]

    def areas(self) -> tuple[str, ...]:
        return self.train + self.val


def _areas(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CITIES = (
    City(
        "potsdam",
        ("top_potsdam_{}_RGB.tif", "top_potsdam_{}_RGBIR.tif"),
        ("top_potsdam_{}_label.tif", "top_potsdam_{}_label_noBoundary.tif"),
        _areas(
            "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 "
            "6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12"
        ),
        _areas("2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13"),
    ),
    City(
        "vaihingen",
        ("top_mosaic_09cm_area{}.tif",),
        ("top_mosaic_09cm_area{}.tif", "top_mosaic_09cm_area{}_noBoundary.tif"),
        _areas("1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37"),
        _areas("2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38"),
    ),
)

INFO = DatasetInfo("isprs", CLASSES, None, tuple(city.domain for city in CITIES))


def open_isprs(root: Path, tile: int = TILE, bands: tuple[int, ...] = ()) -> FileDataset:
    """Both cities below `root`, whatever folders they were unpacked into, as tiles of `tile` pixels.

    `bands`: of Potsdam's image files, counted from 1; with [4, 1, 2], near infrared, red, green of its `_RGBIR` files,
    both cities are alike. Vaihingen's files have these three bands alone.

    The first call cuts the tiles (minutes, about 3 GB); later ones find them. DatasetMissing names the
    areas that lack their image or labels.
    """
    sources = _find_sources(root, bands)
    files = [path for pair in sources.values() for path in pair]
    how = "/".join(map(str, (tile, *bands)))
    cache = presence.cache_dir() / f"isprs-{presence.key_of_files('isprs', how, files)}"
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for (city, area), (image, label) in tqdm(sources.items(), "tiles of isprs", unit="area", disable=None, leave=False):
        folder = cache / f"{city.domain}-{area}"
        if not folder.is_dir():
            _cut_area(image, label, folder, tile, bands if city.domain == "potsdam" else ())
        for path in sorted(folder.glob("image-*.png")):
            name = f"{folder.name}-{path.stem.removeprefix('image-')}"
            images[name] = path
            masks[name] = path.with_name(path.name.replace("image-", "mask-"))
            splits["train" if area in city.train else "val"].append(name)
    return FileDataset(INFO, splits, images, masks, lambda name: name.partition("-")[0])


def _find_sources(root: Path, bands: tuple[int, ...] = ()) -> dict[tuple[City, str], tuple[Path, Path]]:
    """(city, area) -> (image, labels) for all areas, preferring images with the `bands`; DatasetMissing if one is
    missing."""
    pictures, labels = _index(root)
    found: dict[tuple[City, str], tuple[Path, Path]] = {}
    for city in CITIES:
        lacking: list[str] = []
        for area in city.areas():
            kinds = city.images[::-1] if max(bands, default=0) > 3 else city.images
            pair = _first(pictures, kinds, area), _first(labels, city.labels, area)
            if pair[0] and pair[1]:
                found[city, area] = pair[0], pair[1]
            else:
                lacking.append(f"{area} ({'labels' if pair[0] else 'image'})")
        if lacking:
            raise DatasetMissing(
                f"ISPRS {city.domain} is incomplete: {len(lacking)} of {len(city.areas())} areas lack "
                f"a file, the first is {lacking[0]}; looked below {root}; {SOURCE}"
            )
    return found


def _first(files: Mapping[str, Path], patterns: Sequence[str], area: str) -> Path | None:
    """The file of an area, under the first of the names that exists."""
    return next((files[p.format(area)] for p in patterns if p.format(area) in files), None)


def _index(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """File name -> file, of images and of label pictures. Vaihingen's have equal names and differ by folder."""
    pictures: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for folder, _, names in os.walk(root):
        place = Path(folder)
        for name in names:
            is_label = name.endswith(("_label.tif", "_noBoundary.tif")) or ("_area" in name and place.name != "top")
            (labels if is_label else pictures).setdefault(name, place / name)
    return pictures, labels


def _cut_area(image: Path, label: Path, folder: Path, tile: int, bands: tuple[int, ...] = ()) -> None:
    """Write the tiles of one area into `folder`, which appears when all of them are written."""
    picture, ids = opened(image, bands=bands), ids_of_colors(read_image(label), label)
    if picture.size != ids.shape:
        raise DataError(f"{label} and {image} differ in size")
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".partial"))
    try:
        for name, y, x, fresh in grid(ids.shape[0], ids.shape[1], tile):
            window = slice(y, min(y + tile, ids.shape[0])), slice(x, min(x + tile, ids.shape[1]))
            mask = np.full(ids[window].shape, IGNORE, np.uint8)
            mask[fresh] = ids[window][fresh]
            pixels = np.ascontiguousarray(picture.read(window))
            with naming(folder, pixels.nbytes + mask.nbytes, at_least=True):
                Image.fromarray(pixels).save(partial / f"image-{name}.png", compress_level=1)
                Image.fromarray(mask).save(partial / f"mask-{name}.png")
        with naming(folder):
            _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, folder: Path) -> None:
    """Give a finished folder its name. Another process may have cut the same area meanwhile: its tiles are
    the same."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def grid(height: int, width: int, tile: int) -> Iterator[tuple[str, int, int, tuple[slice, slice]]]:
    """(name, top, left, the part that belongs to this tile alone) of the tiles that cover an area.

    The last tile of a row or column is moved inwards to be whole, if the area is large enough.
    """
    for row, nominal_y in enumerate(range(0, height, tile)):
        for column, nominal_x in enumerate(range(0, width, tile)):
            y, x = (max(0, min(n, full - tile)) for n, full in ((nominal_y, height), (nominal_x, width)))
            yield f"{row:02}{column:02}", y, x, np.s_[nominal_y - y :, nominal_x - x :]


def ids_of_colors(colors: np.ndarray, path: Path) -> np.ndarray:
    """Dataset ids of a label picture. Shape: uint8 [H, W, 3] -> uint8 [H, W]; clutter and black borders are
    255.

    All colours are corners of the RGB cube; some published label files are a few levels off, so the nearest
    corner counts. DataError if over 1 % of the pixels are near none: the file is then not a label picture.
    """
    blocks = [colors[top : top + ROWS] for top in range(0, len(colors), ROWS)]
    off = sum(int((np.minimum(one, 255 - one) > 64).any(-1).sum()) for one in blocks) / (colors.size // 3)
    if off > 0.01:
        raise DataError(f"{path} is not an ISPRS label picture: {off:.0%} of its pixels have none of the label colours")
    table = np.full(8, IGNORE, np.uint8)
    for one in CLASSES:
        table[_corner(np.array(one.color))] = one.id
    return np.concatenate([table[_corner(one)] for one in blocks])


def _corner(colors: np.ndarray) -> np.ndarray:
    """Number 0..7 of the nearest corner of the RGB cube. Shape: [..., 3] -> [...]."""
    bits = (colors > 127).astype(np.uint8)
    return bits[..., 0] * 4 + bits[..., 1] * 2 + bits[..., 2]
