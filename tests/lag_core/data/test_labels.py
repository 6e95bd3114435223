"""Masks as people have them: other ids, ignored ids, colours, suffixes, orders, and the layouts of two benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shapes import CLASSES, write_shapes
from small_trees import opened

from lag_core.config import DataConfig
from lag_core.data.catalogue import DataError, DatasetMissing, open_dataset, task_of
from lag_core.data.isprs import _find_sources


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", train_images=6, val_images=2)


def write_classes(root: Path, **keys: Any) -> None:
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, **keys}))


def change_masks(root: Path, table: dict[int, int]) -> None:
    for path in (root / "masks").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.vectorize(lambda v: table.get(v, v))(mask).astype(np.uint8)).save(path)


def masks(root: Path) -> list[np.ndarray]:
    dataset = opened("folder", root)
    return [dataset.mask(name) for split in ("train", "val") for name in dataset.ids(split)]


@pytest.mark.parametrize(
    ("table", "keys", "expected"),
    [
        ({3: 33, 4: 200}, {"remap": {"33": 3, "200": 4}}, {}),
        ({3: 33}, {"ignore": [33]}, {3: 255}),
        ({3: 33, 1: 77}, {"others": "ignore"}, {3: 255, 1: 255}),
        ({0: 1, 1: 2, 2: 3, 3: 4, 4: 5}, {"reduce_zero_label": True}, {}),
        ({0: 1, 1: 2, 2: 3, 3: 0, 4: 5}, {"reduce_zero_label": True}, {3: 255}),
        ({0: 1, 1: 21, 2: 3, 3: 4, 4: 5}, {"reduce_zero_label": True, "remap": {"20": 1}}, {}),
        ({}, {"remap": {"1": 2, "2": 1}}, {1: 2, 2: 1}),
    ],
)
def test_ids_of_a_mask_become_those_of_classes(
    root: Path, table: dict[int, int], keys: dict[str, Any], expected: dict[int, int]
) -> None:
    before = masks(root)
    change_masks(root, table)
    write_classes(root, **keys)
    for old, new in zip(before, masks(root), strict=True):
        assert np.array_equal(np.vectorize(lambda v: expected.get(v, v))(old), new)


def test_other_rules_are_other_entries_of_the_cache(root: Path) -> None:
    assert 3 in opened("folder", root).present("train")["s01"]
    write_classes(root, ignore=[3])
    assert 3 not in opened("folder", root).present("train")["s01"]


def test_masks_in_colours(root: Path) -> None:
    before = masks(root)
    colors = np.array([one["color"] for one in CLASSES], np.uint8)
    for path in (root / "masks").iterdir():
        Image.fromarray(colors[np.array(Image.open(path))]).save(path)
    with pytest.raises(DataError, match="is not a mask"):
        masks(root)
    write_classes(root, palette=True)
    assert all(np.array_equal(old, new) for old, new in zip(before, masks(root), strict=True))


def test_a_colour_of_no_class_is_named_or_ignored(root: Path) -> None:
    for path in (root / "masks").iterdir():
        Image.fromarray(np.full((32, 32, 3), (1, 2, 3), np.uint8)).save(path)
    write_classes(root, palette=True)
    with pytest.raises(DataError, match=r"holds the colour \[1, 2, 3\]"):
        masks(root)
    write_classes(root, palette=True, others="ignore")
    assert all((mask == 255).all() for mask in masks(root))


def test_ids_of_colours_can_be_ignored_and_changed(root: Path) -> None:
    before = masks(root)
    colors = np.array([one["color"] for one in CLASSES], np.uint8)
    for path in (root / "masks").iterdir():
        Image.fromarray(colors[np.array(Image.open(path))]).save(path)
    write_classes(root, palette=True, ignore=[3], remap={"1": 2})
    for old, new in zip(before, masks(root), strict=True):
        assert np.array_equal(np.vectorize(lambda v: {3: 255, 1: 2}.get(v, v))(old), new)
    write_classes(root, palette=True, reduce_zero_label=True)
    with pytest.raises(DataError, match="reduce_zero_label is for masks of ids"):
        opened("folder", root)


@pytest.mark.parametrize(
    "entries",
    [
        [one["name"] for one in CLASSES],
        [{"id": one["id"], "name": one["name"]} for one in CLASSES],
        [CLASSES[0], *(one["name"] for one in CLASSES[1:])],
    ],
    ids=["names", "no colours", "mixed"],
)
def test_a_class_may_be_its_name_alone(root: Path, entries: list[Any]) -> None:
    before = opened("folder", root).info
    (root / "classes.json").write_text(json.dumps(entries))
    found = opened("folder", root).info
    assert [(one.id, one.name) for one in found.classes] == [(one.id, one.name) for one in before.classes]
    assert found.background == before.background and len({one.color for one in found.classes}) == len(CLASSES)


def test_suffixes_of_each_folder(root: Path) -> None:
    before = masks(root)
    for folder, suffix in (("images", "_leftImg8bit"), ("masks", "_gtFine")):
        for path in list((root / folder).iterdir()):
            path.rename(path.with_stem(path.stem + suffix))
    (root / "masks" / "s00_instance.png").write_bytes(b"of another kind")
    for keys, said in (({}, '"image_suffix": "_leftImg8bit"'), ({"image_suffix": "_leftImg8bit"}, "mask_suffix")):
        write_classes(root, **keys)
        with pytest.raises(DatasetMissing, match=said):
            opened("folder", root)
    write_classes(root, image_suffix="_leftImg8bit", mask_suffix="_gtFine")
    assert all(np.array_equal(old, new) for old, new in zip(before, masks(root), strict=True))


def test_an_order_decides_which_step_introduces_a_class(root: Path) -> None:
    write_classes(root, order=["yellow", "green"])
    config = DataConfig(dataset="folder", root=str(root), task="2-1")
    assert task_of(config, open_dataset(config).info).steps == ((0, 4, 2), (1,), (3,))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"ignored": [3]}, "'ignored' means nothing here"),
        ({"ignore": [300]}, "expected ids 0..255"),
        ({"ignore": 3}, "expected ids 0..255"),
        ({"remap": {"a": 1}}, "expected ids 0..255"),
        ({"remap": [1]}, "expected an object"),
        ({"order": ["purple"]}, "expected names of classes"),
        ({"order": ["red", "red"]}, "each once"),
        ({"palette": 1}, "expected bool"),
        ({"others": "keep"}, "is allowed"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(root: Path, keys: dict[str, Any], said: str) -> None:
    write_classes(root, **keys)
    with pytest.raises(DataError, match=said):
        opened("folder", root)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_cityscapes_as_unpacked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, city, name in (("train", "aachen", "aachen_0_0"), ("val", "ulm", "ulm_0_0")):
        save(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", rng.integers(0, 255, (4, 6, 3)))
        labels = np.array([[7, 8, 0, 33, 26, 4]] * 4)
        save(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)
        save(tmp_path / "gtFine" / split / city / f"{name}_gtFine_color.png", rng.integers(0, 255, (4, 6, 3)))
    dataset = opened("cityscapes", tmp_path)
    assert dataset.ids("train") == ("aachen/aachen_0_0",) and dataset.info.background is None
    assert dataset.mask("ulm/ulm_0_0")[0].tolist() == [0, 1, 255, 18, 13, 255]
    assert [dataset.info.class_of(i).name for i in (0, 18)] == ["road", "bicycle"] and len(dataset.info.classes) == 19
    (tmp_path / "gtFine" / "val" / "ulm" / "ulm_0_0_gtFine_labelIds.png").unlink()
    with pytest.raises(DatasetMissing, match="1 of 1 val masks are missing"):
        opened("cityscapes", tmp_path)


def write_coco(root: Path) -> Path:
    """One picture a split; segments 70000 (dog) and 5 (sky); the rest is not annotated."""
    for split in ("train2017", "val2017"):
        name = f"00{len(split)}"
        (root / split).mkdir(parents=True)
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(root / split / f"{name}.jpg")
        numbers = np.array([[70000, 70000, 5], [0, 5, 5]])
        save(
            root / "annotations" / f"panoptic_{split}" / f"{name}.png",
            np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1),
        )
        annotation = {
            "file_name": f"{name}.png",
            "segments_info": [{"id": 70000, "category_id": 18}, {"id": 5, "category_id": 187}],
        }
        categories = [{"id": 187, "name": "sky", "color": [1, 2, 3]}, {"id": 18, "name": "dog"}]
        content = {"annotations": [annotation], "categories": categories}
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return root


def test_coco_panoptic_as_unpacked(tmp_path: Path) -> None:
    dataset = opened("coco", write_coco(tmp_path / "coco"))
    assert [(one.id, one.name) for one in dataset.info.classes] == [(18, "dog"), (187, "sky")]
    (name,) = dataset.ids("train")
    assert dataset.mask(name).tolist() == [[18, 18, 187], [255, 187, 187]]
    assert dataset.present("val") == {dataset.ids("val")[0]: frozenset({18, 187})}


@pytest.mark.parametrize("content", ["{}", "[]", '{"annotations": 1, "categories": []}', '{"annotations": [1]', "{"])
def test_a_broken_annotation_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    root = write_coco(tmp_path / "coco")
    (root / "annotations" / "panoptic_val2017.json").write_text(content)
    with pytest.raises(DataError, match="is not a panoptic annotation file"):
        opened("coco", root)


def test_isprs_names_with_four_bands_and_without_boundaries(tmp_path: Path) -> None:
    """Full labels come first; where there are none, those without boundaries are taken."""
    from lag_core.data.isprs import CITIES

    potsdam, vaihingen = CITIES
    for area in potsdam.areas():
        (tmp_path / f"top_potsdam_{area}_RGBIR.tif").touch()
        (tmp_path / f"top_potsdam_{area}_label_noBoundary.tif").touch()
    (tmp_path / "top_potsdam_2_10_label.tif").touch()
    for folder, end in (("top", ""), ("gts", "_noBoundary")):
        (tmp_path / folder).mkdir()
        for area in vaihingen.areas():
            (tmp_path / folder / f"top_mosaic_09cm_area{area}{end}.tif").touch()
    found = {f"{city.domain} {area}": pair for (city, area), pair in _find_sources(tmp_path).items()}
    names = {key: (image.name, label.name) for key, (image, label) in found.items()}
    assert names["potsdam 2_10"] == ("top_potsdam_2_10_RGBIR.tif", "top_potsdam_2_10_label.tif")
    assert names["potsdam 2_11"][1] == "top_potsdam_2_11_label_noBoundary.tif"
    assert names["vaihingen 1"] == ("top_mosaic_09cm_area1.tif", "top_mosaic_09cm_area1_noBoundary.tif")
