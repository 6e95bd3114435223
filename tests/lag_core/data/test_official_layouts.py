"""VOC, ADE20K and ISPRS on small trees in exactly the official layouts; sentences for what lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_trees import opened, write_image, write_list, write_mask

from lag_core.config import ConfigError, DataConfig
from lag_core.data import isprs, voc
from lag_core.data.catalogue import DataError, DatasetMissing, task_of
from lag_core.data.cityscapes import CLASSES as CITYSCAPES
from lag_core.protocol import IGNORE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """VOCdevkit as unpacked: two images with hand-made masks to train on, one to validate, one of SBD."""
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for i, name in enumerate(["2007_000032", "2007_000039", "2007_000033", "2008_000008"]):
        write_image(home / "JPEGImages" / f"{name}.jpg", seed=i)
        if name != "2008_000008":
            write_mask(home / "SegmentationClass" / f"{name}.png", [[0, 1, 255], [15, 0, i]], palette=True)
    for name, ids in {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}.items():
        write_list(home / "ImageSets" / "Segmentation" / f"{name}.txt", ids)
    return home


def augment_voc(home: Path, listing: str = "train_aug", long_lines: bool = False) -> None:
    names = ["2007_000032", "2007_000039", "2008_000008"]
    for name in names:
        write_mask(home / "SegmentationClassAug" / f"{name}.png", [[0, 20, 0], [0, 0, 0]])
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" if long_lines else n for n in names]
    write_list(home / "ImageSets" / "Segmentation" / f"{listing}.txt", lines)


@pytest.mark.parametrize("above", [0, 1, 2])
def test_voc(voc_root: Path, above: int) -> None:
    root = [voc_root, voc_root.parent, voc_root.parents[1]][above]
    dataset = opened("voc", root, "15-1")
    assert dataset.ids("train") == ("2007_000032", "2007_000039") and dataset.ids("val") == ("2007_000033",)
    np.testing.assert_array_equal(dataset.mask("2007_000039"), [[0, 1, 255], [15, 0, 1]])
    assert dataset.present("val") == {"2007_000033": {0, 1, 2, 15}}
    assert task_of(DataConfig(task="15-1"), dataset.info).steps[5] == (20,)


@pytest.mark.parametrize(("listing", "long_lines"), [("train_aug", False), ("train_aug", True), ("trainaug", False)])
def test_voc_augmented(voc_root: Path, listing: str, long_lines: bool) -> None:
    augment_voc(voc_root, listing, long_lines)
    dataset = opened("voc", voc_root)
    assert dataset.ids("train") == ("2007_000032", "2007_000039", "2008_000008")
    assert all(found == {0, 20} for found in dataset.present("train").values())
    assert dataset.present("val") == {"2007_000033": {0, 1, 2, 15}}


def test_what_lacks_of_voc_is_said(voc_root: Path) -> None:
    augment_voc(voc_root)
    lists = voc_root / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").unlink()
    with pytest.raises(DatasetMissing, match=r"no train_aug\.txt: looked for .*; get VOCtrainval_11-May-2012\.tar"):
        opened("voc", voc_root)
    augment_voc(voc_root)
    (voc_root / "JPEGImages" / "2008_000008.jpg").unlink()
    with pytest.raises(DatasetMissing, match="incomplete: 1 of 3 train images are missing, the first is '2008_000008'"):
        opened("voc", voc_root)
    shutil.rmtree(voc_root / "SegmentationClassAug")
    shutil.rmtree(voc_root / "SegmentationClass")
    with pytest.raises(DatasetMissing, match="no folder SegmentationClass"):
        opened("voc", voc_root)
    shutil.rmtree(voc_root / "JPEGImages")
    with pytest.raises(DatasetMissing, match=r"VOC 2012 is missing: looked for .*JPEGImages"):
        opened("voc", voc_root)


def test_voc_colours_are_the_published_ones() -> None:
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        5: (128, 0, 128),
        8: (64, 0, 0),
        12: (64, 0, 128),
    }
    published |= {15: (192, 128, 128), 16: (0, 64, 0), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: voc.palette_color(i) for i in published} == published
    assert len({voc.palette_color(i) for i in range(256)}) == 256


@pytest.fixture
def ade_root(tmp_path: Path) -> Path:
    home = tmp_path / "ADEChallengeData2016"
    for folder, name in (("training", "ADE_train_00000002"), ("training", "ADE_train_00000001"),
                         ("validation", "ADE_val_00000001")):  # fmt: skip
        write_image(home / "images" / folder / f"{name}.jpg")
        write_mask(home / "annotations" / folder / f"{name}.png", [[0, 1, 150], [3, 3, int(name[-1])]])
    names = ["wall", "building, edifice", "sky", *[f"class {i}" for i in range(4, 151)]]
    rows = [f"{i}\t0.0100\t11664\t1172\t1\t{name}" for i, name in enumerate(names, 1)]
    write_list(home / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows])
    return home


@pytest.mark.parametrize("above", [0, 1])
def test_ade20k(ade_root: Path, above: int) -> None:
    dataset = opened("ade20k", ade_root.parent if above else ade_root, "100-50")
    assert dataset.ids("train") == ("ADE_train_00000001", "ADE_train_00000002")
    assert dataset.ids("val") == ("ADE_val_00000001",)
    assert dataset.present("train")["ADE_train_00000002"] == {0, 1, 2, 3, 150}
    assert [one.name for one in dataset.info.classes[:4]] == ["void", "wall", "building", "sky"]
    assert len({one.color for one in dataset.info.classes}) == 151
    steps = task_of(DataConfig(task="100-50"), dataset.info).steps
    assert steps == (tuple(range(101)), tuple(range(101, 151)))


def test_what_lacks_of_ade20k_is_said(ade_root: Path) -> None:
    (ade_root / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    with pytest.raises(DatasetMissing, match=r"1 of 2 train masks are missing.*get ADEChallengeData2016\.zip"):
        opened("ade20k", ade_root)
    (ade_root / "images" / "training" / "ADE_train_00000001.jpg").unlink()
    (ade_root / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    with pytest.raises(DatasetMissing, match=r"no train images: looked in .*training"):
        opened("ade20k", ade_root)
    (ade_root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt does not list the classes 1\.\.150"):
        opened("ade20k", ade_root)
    (ade_root / "objectInfo150.txt").unlink()
    with pytest.raises(DatasetMissing, match=r"no objectInfo150\.txt"):
        opened("ade20k", ade_root)


COLORS = {
    1: (255, 255, 255),
    2: (0, 0, 255),
    3: (0, 255, 255),
    4: (0, 255, 0),
    5: (255, 255, 0),
    255: (255, 0, 0),
}


def write_area(image: Path, label: Path, shape: tuple[int, int], seed: int) -> np.ndarray:
    """An area with random labels; returns the ids."""
    ids = np.random.default_rng(seed).choice([*COLORS], shape).astype(np.uint8)
    colors = np.zeros((*shape, 3), np.uint8)
    for number, color in COLORS.items():
        colors[ids == number] = color
    write_image(image, shape, seed)
    label.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors).save(label, compression="tiff_lzw")
    return ids


@pytest.fixture
def isprs_root(tmp_path: Path) -> Path:
    """Both cities as unpacked, each area a few pixels: 24 + 14 of Potsdam, 16 + 17 of Vaihingen."""
    root = tmp_path / "isprs"
    potsdam, vaihingen = isprs.CITIES
    for i, area in enumerate(potsdam.areas()):
        write_area(
            root / "Potsdam" / "2_Ortho_RGB" / f"top_potsdam_{area}_RGB.tif",
            root / "Potsdam" / "5_Labels_all" / f"top_potsdam_{area}_label.tif",
            (12, 12),
            i,
        )
    for i, area in enumerate(vaihingen.areas()):
        labels = "gts_for_participants" if area in vaihingen.train else "ground_truth_COMPLETE"
        name = f"top_mosaic_09cm_area{area}.tif"
        write_area(root / "Vaihingen" / "top" / name, root / "Vaihingen" / labels / name, (15, 8), 100 + i)
    return root


def test_isprs_areas_are_the_benchmarks() -> None:
    potsdam, vaihingen = isprs.CITIES
    assert (len(potsdam.train), len(potsdam.val)) == (24, 14)
    assert (len(vaihingen.train), len(vaihingen.val)) == (16, 17)
    for city in isprs.CITIES:
        assert len(set(city.areas())) == len(city.areas())
    # 6000 x 6000 pixels cut to 600: the counts of docs/method.md#tasks.
    tiles = len(list(isprs.grid(6000, 6000, isprs.TILE)))
    assert (tiles * len(potsdam.train), tiles * len(potsdam.val)) == (2400, 1400)


def test_isprs(isprs_root: Path, cache: Path) -> None:
    dataset = isprs.open_isprs(isprs_root, tile=6)
    assert dataset.info.domains == ("potsdam", "vaihingen") and dataset.info.background is None
    potsdam = [name for name in dataset.ids("train") if dataset.domain(name) == "potsdam"]
    vaihingen = [name for name in dataset.ids("train") if dataset.domain(name) == "vaihingen"]
    assert (len(potsdam), len(vaihingen)) == (24 * 4, 16 * 6)
    assert len(dataset.ids("val")) == 14 * 4 + 17 * 6
    assert not set(dataset.ids("train")) & set(dataset.ids("val"))
    for name in (*potsdam[:8], *vaihingen[:8]):
        assert dataset.image(name).shape == (6, 6, 3) and dataset.mask(name).shape == (6, 6)
        assert set(np.unique(dataset.mask(name))) <= {1, 2, 3, 4, 5, IGNORE}
    first = potsdam[0]
    source = isprs_root / "Potsdam" / "2_Ortho_RGB" / "top_potsdam_2_10_RGB.tif"
    np.testing.assert_array_equal(dataset.image(first), np.asarray(Image.open(source))[:6, :6])
    assert all(found <= {1, 2, 3, 4, 5} for found in dataset.present("val").values())


def test_isprs_task_starts_at_id_1(isprs_root: Path) -> None:
    config = DataConfig(dataset="isprs", root=str(isprs_root), task="2-2-1", domains=("potsdam", "vaihingen"))
    assert task_of(config, isprs.INFO).steps == ((1, 2), (3, 4), (5,))
    with pytest.raises(ConfigError, match="has no domain 'berlin'; allowed are 'potsdam', 'vaihingen'"):
        task_of(DataConfig(task="2-2-1", domains=("berlin",)), isprs.INFO)


@pytest.mark.parametrize("shape", [(12, 12), (15, 8), (6, 6), (4, 5), (13, 30)])
def test_each_pixel_is_labelled_in_exactly_one_tile(shape: tuple[int, int]) -> None:
    counted = np.zeros(shape, int)
    covered = np.zeros(shape, int)
    for _, y, x, fresh in isprs.grid(*shape, 6):
        window = covered[y : y + 6, x : x + 6]
        assert window.shape == (min(6, shape[0]), min(6, shape[1]))
        window += 1
        counted[y : y + 6, x : x + 6][fresh] += 1
    assert (counted == 1).all() and (covered >= 1).all()


def test_isprs_labels_of_all_tiles_are_those_of_the_area(isprs_root: Path) -> None:
    area = isprs_root / "Vaihingen" / "gts_for_participants" / "top_mosaic_09cm_area1.tif"
    expected = isprs.ids_of_colors(np.asarray(Image.open(area)), area)
    assert set(np.unique(expected)) == {1, 2, 3, 4, 5, IGNORE}
    dataset = isprs.open_isprs(isprs_root, tile=6)
    names = [name for name in dataset.ids("train") if name.startswith("vaihingen-1-")]
    found = np.concatenate([dataset.mask(name).ravel() for name in names])
    for number in range(1, 6):
        assert (found == number).sum() == (expected == number).sum()


def test_isprs_colours() -> None:
    exact = [*COLORS.values(), (0, 0, 0)]
    off_by_some = [*exact[:4], (252, 255, 3), (250, 0, 0), (5, 0, 9)]
    for colors in (exact, off_by_some):
        ids = isprs.ids_of_colors(np.array([colors], np.uint8), Path("x"))
        assert ids.tolist() == [[1, 2, 3, 4, 5, IGNORE, IGNORE]]
    photo = np.full((10, 10, 3), 120, np.uint8)
    with pytest.raises(DataError, match=r"label\.tif is not an ISPRS label picture: 100%"):
        isprs.ids_of_colors(photo, Path("label.tif"))


def test_isprs_tiles_are_cut_once(isprs_root: Path, cache: Path) -> None:
    first = isprs.open_isprs(isprs_root, tile=6)
    tiles = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    assert len(tiles) == 2 * (38 * 4 + 33 * 6)
    assert not list(cache.rglob("*.partial"))
    again = isprs.open_isprs(isprs_root, tile=6)
    assert again.ids("train") == first.ids("train")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")} == tiles


def test_an_interrupted_cut_is_done_again(isprs_root: Path, cache: Path) -> None:
    names = isprs.open_isprs(isprs_root, tile=6).ids("val")
    (area,) = cache.rglob("vaihingen-2")
    shutil.rmtree(area)
    assert isprs.open_isprs(isprs_root, tile=6).ids("val") == names


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("Potsdam", r"potsdam is incomplete: 38 of 38 areas lack a file, the first is 2_10 \(image\)"),
        ("Potsdam/5_Labels_all/top_potsdam_7_13_label.tif", r"1 of 38 .* the first is 7_13 \(labels\)"),
        ("Vaihingen/ground_truth_COMPLETE", r"17 of 33 .* is 2 \(labels\); looked below .*; get Potsdam"),
        ("Vaihingen/top/top_mosaic_09cm_area37.tif", r"1 of 33 .* the first is 37 \(image\)"),
    ],
)  # fmt: skip
def test_what_lacks_of_isprs_is_said(isprs_root: Path, lost: str, said: str) -> None:
    path = isprs_root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetMissing, match=said):
        opened("isprs", isprs_root)


def test_isprs_with_four_bands_and_without_boundaries(isprs_root: Path) -> None:
    """`_RGBIR` files by any three bands; in `_noBoundary` labels, black outlines are not annotated."""
    tifffile = pytest.importorskip("tifffile", reason="the extra [tiff] is not installed")
    ortho, labels = isprs_root / "Potsdam" / "2_Ortho_RGB", isprs_root / "Potsdam" / "5_Labels_all"
    values = {}
    for i, path in enumerate(sorted(ortho.glob("*_RGB.tif"))):
        path = path.rename(path.with_name(path.name.replace("_RGB", "_RGBIR")))
        values[path.name] = np.random.default_rng(i).integers(0, 256, (12, 12, 4)).astype(np.uint8)
        tifffile.imwrite(path, values[path.name], photometric="rgb", compression="lzw")
    for path in labels.glob("*_label.tif"):
        pixels = np.array(Image.open(path))
        pixels[4:6] = 0
        path.unlink()
        Image.fromarray(pixels).save(path.with_name(path.name.replace("label", "label_noBoundary")))
    for bands in ((), (4, 1, 2)):
        dataset = isprs.open_isprs(isprs_root, tile=6, bands=bands)
        name = next(name for name in dataset.ids("train") if name.startswith("potsdam-2_10-"))
        chosen = [band - 1 for band in bands or (1, 2, 3)]
        assert np.array_equal(dataset.image(name), values["top_potsdam_2_10_RGBIR.tif"][:6, :6, chosen])
        assert (dataset.mask(name)[4:] == IGNORE).all()
    write_image(ortho / "top_potsdam_2_10_RGB.tif", (12, 12), 3)
    for bands, wanted in (((), "_RGB.tif"), ((4, 1, 2), "_RGBIR.tif")):
        found = {(city.domain, area): pair for (city, area), pair in isprs._find_sources(isprs_root, bands).items()}
        assert found["potsdam", "2_10"][0].name.endswith(wanted)


def cityscapes(root: Path) -> Path:
    for k, (split, city) in enumerate((s, c) for s in ("train", "val") for c in ("aachen", "bern", "ulm")):
        name = f"{city}_0_{k}"
        write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", (20, 32), k)
        ids = np.random.default_rng(k).choice([0, *(label for label, _, _ in CITYSCAPES)], (20, 32))
        write_mask(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", ids)
    return root


def coco(root: Path) -> Path:
    from test_labels import write_coco

    return write_coco(root)


TRAINED = {"voc": "15-5", "ade20k": "100-50", "isprs": "2-2-1", "cityscapes": "18-1", "coco": "1-1"}


@pytest.mark.parametrize("name", TRAINED)
def test_each_layout_is_checked_and_trained(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the unpacked folder to a run, by the name of the layout alone."""
    from shapes import tiny_run

    from lag_core.cli import main

    made = {"cityscapes": cityscapes, "coco": coco}
    fixture = {"voc": "voc_root", "ade20k": "ade_root", "isprs": "isprs_root"}
    root = made[name](tmp_path / name) if name in made else request.getfixturevalue(fixture[name])
    if name in ("voc", "ade20k"):
        fill(root, name)
    task = ["--task", TRAINED[name]]
    assert main(["data", "check", str(root), "--dataset", name, "--size", "32", "--quiet", *task]) == 0
    assert "step 1:" in capsys.readouterr().out
    run = tiny_run(
        root, tmp_path / "run", "finetune", data={"dataset": name, "task": TRAINED[name], "holdout": 0.0},
        optim={"epochs": 1, "epochs_later": 1, "batch": 2},
    )  # fmt: skip
    assert run.status == "finished" and len(run.steps) == len(run.labels.steps)


def fill(root: Path, name: str) -> None:
    """Masks with a class of each step, as random ids."""
    folder, highest = ("SegmentationClass", 20) if name == "voc" else ("annotations", 150)
    for k, path in enumerate(sorted((root / folder).rglob("*.png"))):
        size = np.array(Image.open(path)).shape
        ids = np.random.default_rng(k).integers(0, highest + 1, size)
        ids[0, 0], ids[0, 1] = 1, highest
        write_mask(path, ids, palette=name == "voc")
