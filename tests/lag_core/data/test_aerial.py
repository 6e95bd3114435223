"""The aerial generator: same bytes for the same seed, honest masks, two domains, one sun."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from lag_core.data.aerial import CLASSES, DOMAINS, AerialDataset, sun, tile
from lag_core.data.aerial_blocks import FILLINGS, plan
from lag_core.data.aerial_materials import MATERIALS
from lag_core.data.aerial_render import PAD, build, shadow
from lag_core.data.aerial_scene import FLAT_ROOFS, PAINTS, SHADOW, STYLES, Cover, Roof, Scene, Sun

IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR = 1, 2, 3, 4, 5


def digest(seed: int, domain: str, size: int = 256) -> str:
    image, mask = tile(seed, domain, size)
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def masks() -> dict[str, np.ndarray]:
    """100 masks of each domain, [100, 256, 256]."""
    return {domain: np.stack([tile(seed, domain)[1] for seed in range(100)]) for domain in DOMAINS}


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_gives_same_bytes_and_another_seed_gives_others(domain):
    assert digest(3, domain) == digest(3, domain)
    assert digest(3, domain) != digest(4, domain)


def test_bytes_do_not_depend_on_process_or_hash_seed_or_what_was_made_before():
    code = (
        "import hashlib; from lag_core.data.aerial import tile\n"
        "for d in ('irrg', 'rgb'):\n"
        "    a, b = tile(11, d)\n"
        "    print(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path)) or "."},
        )
        assert run.stdout.split() == [digest(11, "irrg"), digest(11, "rgb")]


@pytest.mark.parametrize("size", (32, 100, 256, 600))
def test_shapes_and_types(size):
    image, mask = tile(0, "rgb", size)
    assert image.shape == (size, size, 3) and mask.shape == (size, size)
    assert image.dtype == mask.dtype == np.uint8
    assert image.flags.c_contiguous and mask.flags.c_contiguous


@pytest.mark.parametrize("domain, size", (("nir", 256), ("rgb", 31), ("rgb", 4096)))
def test_impossible_tile_is_refused_with_the_value(domain, size):
    with pytest.raises(ValueError, match=str(domain if domain == "nir" else size)):
        tile(0, domain, size)


def test_masks_hold_only_classes_of_the_list_and_never_unlabelled(masks):
    allowed = {id for id, _, _ in CLASSES} - {0}
    for stack in masks.values():
        assert set(np.unique(stack)) == allowed


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_is_common_enough_to_be_learnt(masks, domain):
    stack = masks[domain]
    for label in (IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE):
        assert (stack == label).mean() >= 0.015
        assert np.mean([(mask == label).any() for mask in stack]) > 0.8
    assert (stack == CAR).mean() >= 0.01
    assert np.mean([(mask == CAR).any() for mask in stack]) >= 0.6


@pytest.mark.parametrize("seed", range(4))
def test_vegetation_is_red_in_false_colour_and_green_in_true_colour(seed):
    for domain, strong, weak in (("irrg", 0, 2), ("rgb", 1, 2)):
        image, mask = tile(seed, domain)
        plants = image[(mask == LOW_VEGETATION) | (mask == TREE)].mean(0)
        asphalt = image[mask == IMPERVIOUS].astype(float).mean(0)
        assert plants[strong] > plants[weak] * 1.1
        assert plants[strong] / plants[weak] > 1.15 * asphalt[strong] / asphalt[weak]


def test_domains_show_different_scenes_and_scales():
    assert digest(5, "rgb") != digest(5, "irrg")
    assert STYLES["rgb"].scale != STYLES["irrg"].scale
    for domain in DOMAINS:
        lengths = [car.length for seed in range(20) for car in plan(seed, domain).cars]
        assert min(lengths) > 19 and max(lengths) < 26.5


def tower(azimuth: float, elevation: float = math.radians(45)) -> Scene:
    """A flat roof of 20 x 20 pixels, 24 high, alone on a lawn."""
    roof = Roof(64, 64, 0.3, 20, 20, 24, Cover("flat", "bitumen", 4.8, 0, 0.5))
    return Scene(128, 5, 0.0, Sun(azimuth, elevation), "lawn", roofs=[roof])


@pytest.mark.parametrize("azimuth", np.linspace(0, 2 * math.pi, 7, endpoint=False))
def test_shadow_lies_on_the_far_side_of_the_sun(azimuth):
    scene = tower(azimuth)
    layers = build(scene)
    dark = shadow(layers.height, scene.sun, 128) > 0.5
    y, x = np.nonzero(dark & (layers.height[PAD:-PAD, PAD:-PAD] == 0))
    towards = np.array(scene.sun.towards)
    offset = np.array([x.mean() - 64, y.mean() - 64])
    assert offset @ towards < -0.95 * np.linalg.norm(offset)
    # A wall of 24 (and a parapet of 2.2) throws a shadow of its own length at 45 degrees.
    reach = (-(np.stack([x, y], 1) - 64) @ towards).max()
    assert 32 < reach < 44


def test_shadow_agrees_with_a_search_along_each_ray():
    scene = plan(2, "rgb", 96)
    height = build(scene).height
    fast = shadow(height, scene.sun, 96)
    (dx, dy), fall = scene.sun.towards, math.tan(scene.sun.elevation)
    slow = np.zeros((96, 96))
    for t in range(1, SHADOW):
        oy, ox = PAD + round(t * dy), PAD + round(t * dx)
        slow = np.maximum(slow, height[oy : oy + 96, ox : ox + 96] - t * fall - height[PAD:-PAD, PAD:-PAD])
    assert np.mean((slow > 1) != (fast > 0.5)) < 0.03


def beside_buildings(seed: int, turn: float) -> np.ndarray:
    """Grey values of ground with a building five pixels away in the direction of the sun plus `turn`."""
    image, mask = tile(seed, "rgb")
    azimuth = sun(seed, "rgb").azimuth + turn
    dx, dy = round(5 * math.cos(azimuth)), round(5 * math.sin(azimuth))
    neighbour = np.roll(mask, (-dy, -dx), (0, 1))
    here = ((mask == LOW_VEGETATION) | (mask == IMPERVIOUS)) & (neighbour == BUILDING)
    return image.mean(2)[8:-8, 8:-8][here[8:-8, 8:-8]]


def test_in_the_picture_ground_is_dark_only_on_the_far_side_of_buildings():
    grey = {
        turn: np.concatenate([beside_buildings(seed, turn) for seed in range(12)]).mean()
        for turn in (0, math.pi / 2, math.pi, -math.pi / 2)
    }
    shaded, right, sunny, left = grey.values()
    assert shaded < 0.7 * sunny
    assert shaded < 0.9 * min(right, left) and abs(right - left) < 0.25 * sunny


def test_dataset_ids_and_domains():
    data = AerialDataset(train_per_domain=3, val_per_domain=2, size=64)
    assert data.ids("val") == ["rgb-val-0000", "rgb-val-0001", "irrg-val-0000", "irrg-val-0001"]
    assert len(data.ids("train")) == 6 and not set(data.ids("train")) & set(data.ids("val"))
    assert data.domain("irrg-val-0001") == "irrg"
    assert data.image("rgb-train-0000").shape == (64, 64, 3) and data.mask("rgb-train-0000").shape == (64, 64)
    assert data.background is None and data.classes is CLASSES


def test_train_and_val_share_no_tile_and_the_dataset_seed_matters():
    a, b = AerialDataset(seed=0), AerialDataset(seed=1)
    seeds = [data.tile_seed(id) for data in (a, b) for split in ("train", "val") for id in data.ids(split)]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * (300 + 60)
    assert (a.image("rgb-train-0000") != a.image("rgb-val-0000")).any()


def test_dataset_survives_writing_to_its_arrays_and_another_process():
    data = AerialDataset(size=64)
    first = data.image("rgb-train-0000")
    kept = first.copy()
    first[:] = 0
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:  # as a loader hands it over
        again = worker.submit(data.image, "rgb-train-0000").result()
    assert (again == kept).all() and (data.image("rgb-train-0000") == kept).all()


@pytest.mark.parametrize(
    "id",
    (
        "",
        "rgb-train",
        "rgb-test-0001",
        "RGB-train-0001",
        "rgb-train-1",
        "rgb-train-00001",
        "rgb-train-0300",
        "rgb-val-0060",
        "rgb-train-0001\n",
        7,
    ),
)
def test_malformed_id_is_refused_in_one_sentence(id):
    for call in (AerialDataset().image, AerialDataset().mask, AerialDataset().domain):
        with pytest.raises(ValueError) as error:
            call(id)
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_tables_agree():
    """Every class has a material, every filling and roof of a style exists."""
    assert {m.label for m in MATERIALS} == {id for id, _, _ in CLASSES} - {0}
    names = {m.name for m in MATERIALS}
    assert len(names) == len(MATERIALS)
    for style in STYLES.values():
        assert set(style.fillings) <= set(FILLINGS)
        assert set(style.roofs) | set(style.trees) | set(FLAT_ROOFS) | set(PAINTS) <= names


def test_tiles_are_made_fast_enough():
    tile(0, "rgb")
    start = time.perf_counter()
    for seed in range(20):
        tile(seed, "rgb")
    assert time.perf_counter() - start < 4
