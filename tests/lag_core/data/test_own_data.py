"""Data as people have them: read rightly, refused with a hint that helps, or warned of before training."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import CLASSES, tiny_config, write_shapes
from small_trees import opened, write_list

from lag_core.config import ConfigError
from lag_core.data.catalogue import DataError, Dataset, DatasetMissing
from lag_core.data.findings import findings
from lag_core.data.pictures import is_deep, read_image
from lag_core.explain.picture import read_picture
from lag_core.protocol import LabelSpace
from lag_core.runs import open_run
from lag_core.training.continual import ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.reporting import Reporter

TWO_STEPS = LabelSpace(((0, 1, 2), (3, 4)), 0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", train_images=8, val_images=4)


def png_16(pixels: np.ndarray, kind: int = 2) -> bytes:
    """A 16-bit RGB PNG, which Pillow reads but cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_16(pixels: np.ndarray) -> bytes:
    """An uncompressed little-endian 16-bit RGB TIFF."""
    height, width, _ = pixels.shape
    data = pixels.astype("<u2").tobytes()
    bits = 8 + len(data)
    short, long = 3, 4
    tags = [
        (256, long, 1, width), (257, long, 1, height), (258, short, 3, bits), (259, short, 1, 1), (262, short, 1, 2),
        (273, long, 1, 8), (277, short, 1, 3), (278, long, 1, height), (279, long, 1, len(data)), (284, short, 1, 1),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", bits + 6) + data + struct.pack("<HHH", 16, 16, 16) + directory


SENSOR = np.random.default_rng(0).integers(0, 2048, (6, 9, 3))
"""Values of an 11-bit sensor: their top bytes are 0 to 7, black."""


def lzw(pixels: np.ndarray) -> bytes:
    """A 16-bit grey TIFF, compressed."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.uint16)).save(buffer, "TIFF", compression="tiff_lzw")
    return buffer.getvalue()


@pytest.mark.parametrize("encode", [png_16, tiff_16])
def test_16_bit_rgb_is_scaled_by_the_range_and_never_read_as_its_top_byte(
    encode: Callable[[np.ndarray], bytes],
) -> None:
    content = encode(SENSOR)
    expected = np.array([[[round(255 * v / 2047) for v in pixel] for pixel in row] for row in SENSOR.tolist()])
    assert np.array_equal(read_image(content, (0, 2047)), expected)
    assert read_image(content, (500, 600)).min() == 0 and read_image(content, (500, 600)).max() == 255
    with pytest.raises(DataError, match=r"more than 8 bits a channel \(16\): data\.range"):
        read_image(content)


def test_16_bit_grey_with_a_compressed_file() -> None:
    read = read_image(lzw(SENSOR), (0, 2047))
    assert np.array_equal(read[..., 1], np.round(SENSOR[..., 0] * 255 / 2047))


def test_the_range_does_not_touch_pictures_of_8_bits(root: Path) -> None:
    path = root / "images" / "s00.png"
    assert np.array_equal(read_image(path, (0, 2047)), read_image(path))


@pytest.mark.parametrize("content", [png_16(np.zeros((2, 2, 2), int), kind=4), np.zeros((4, 4), np.float32)])
def test_what_cannot_be_read_without_loss_is_refused(content: bytes | np.ndarray) -> None:
    """Grey with alpha, of which Pillow keeps one byte, and floats."""
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        Image.fromarray(content).save(buffer, "TIFF")
        content = buffer.getvalue()
    with pytest.raises(DataError, match="which cannot be read: scale all images"):
        read_image(content, (0, 2047))


@pytest.fixture
def sensor(root: Path) -> Path:
    """The shapes as an 11-bit sensor sees them."""
    for path in (root / "images").iterdir():
        path.write_bytes(png_16(np.array(Image.open(path)).astype(int) * 8))
    return root


def test_the_range_of_16_bit_images_is_found_and_stored_in_the_run(sensor: Path, tmp_path: Path) -> None:
    begin(sensor, tmp_path / "run")
    run = open_run(tmp_path / "run")
    low, high = run.config.data.range
    every = np.concatenate([np.array(v).ravel() for v in values_of(sensor, "train")])
    assert np.percentile(every, [0.5, 99.5], method="inverted_cdf").tolist() == [low, high]
    named = read_picture(run, "s08")[0]
    assert named.std() > 40 and np.array_equal(named, read_picture(run, sensor / "images" / "s08.png")[0])
    begin(sensor, tmp_path / "run")  # resumed: the same range


def values_of(root: Path, split: str) -> list[np.ndarray]:
    from lag_core.data.pictures import read_values

    return [read_values(root / "images" / f"{name}.png") for name in (root / f"{split}.txt").read_text().split()]


def test_a_configured_range_is_used(sensor: Path, tmp_path: Path) -> None:
    begin(sensor, tmp_path / "run", data={"range": [0, 4080]})
    assert open_run(tmp_path / "run").config.data.range == (0.0, 4080.0)
    assert read_picture(open_run(tmp_path / "run"), "s08")[0].max() <= 128
    with pytest.raises(ConfigError, match="low < high"):
        tiny_config(sensor, "finetune", data={"range": [3, 3]})


def test_depth_is_known_from_the_header(root: Path) -> None:
    assert is_deep(png_16(SENSOR)) and not is_deep(root / "images" / "s00.png")


def begin(root: Path, out: Path, **sections: dict[str, object]) -> list[str]:
    """What a training says before its first step, as it stands in run.json."""
    ContinualTraining(tiny_config(root, "finetune", **sections), out, Reporter(quiet=True), FeatureStore())
    return json.loads((out / "run.json").read_text())["warnings"]


def rename(root: Path, name_of: Callable[[str], str]) -> None:
    for folder in ("images", "masks"):
        for path in list((root / folder).iterdir()):
            target = root / folder / f"{name_of(path.stem)}{path.suffix}"
            target.parent.mkdir(exist_ok=True)
            path.rename(target)


def relist(root: Path, line_of: Callable[[str], str]) -> None:
    for split in ("train", "val"):
        write_list(root / f"{split}.txt", [line_of(name) for name in (root / f"{split}.txt").read_text().split()])


def pictures(dataset: Dataset) -> list[bytes]:
    return [dataset.image(n).tobytes() + dataset.mask(n).tobytes() for s in ("train", "val") for n in dataset.ids(s)]


def test_a_line_with_a_blank_is_one_id(root: Path) -> None:
    """Beside "s00 copy" lies "s00", which must not be taken for it."""
    before = pictures(opened("folder", root))
    for folder in ("images", "masks"):
        shutil.copy(root / folder / "s05.png", root / folder / "s00 copy.png")
    write_list(root / "train.txt", ["s00 copy"])
    dataset = opened("folder", root)
    assert dataset.ids("train") == ("s00 copy",)
    assert pictures(dataset)[0] == before[5] != before[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train.txt").write_bytes(b"\xef\xbb\xbf" + (root / "train.txt").read_bytes()),
        lambda root: (root / "train.txt").write_bytes((root / "train.txt").read_bytes().replace(b"\n", b" \r\n\r\n")),
        lambda root: relist(root, lambda name: f"{name}.png"),
        lambda root: (rename(root, lambda n: f"aachen/{n}"), relist(root, lambda n: f"aachen/{n}")),
        lambda root: (rename(root, lambda n: f"tile {n}"), relist(root, lambda n: f"tile {n}.PNG")),
        lambda root: (rename(root, lambda n: f"{n}.v1"), relist(root, lambda n: f"{n}.v1")),
    ],
    ids=["byte-order mark", "CRLF", "ending", "subfolder", "blanks", "dot"],
)
def test_ids_as_people_write_them_find_the_same_pictures(root: Path, change: Callable[[Path], object]) -> None:
    before = pictures(opened("folder", root))
    change(root)
    assert pictures(opened("folder", root)) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: relist(root, lambda n: f"images/{n}.png masks/{n}.png"), "did you mean 's00'"),
        (lambda root: relist(root, lambda n: f"{n} 1"), "did you mean 's00'"),
        (lambda root: rename(root, lambda n: f"aachen/{n}"), "did you mean 'aachen/s00'"),
        (lambda root: rename(root, lambda n: f"{n}_leftImg8bit"), "did you mean 's00_leftImg8bit'"),
        (
            lambda root: (root / "images" / "s00.png").rename(root / "images" / "s00.gif"),
            "1 of 12 images are missing, the first is 's00'; looked",
        ),
    ],
    ids=["pairs", "columns", "subfolder", "suffix", "format"],
)
def test_names_without_a_file_come_with_a_hint(root: Path, change: Callable[[Path], object], said: str) -> None:
    change(root)
    with pytest.raises(DatasetMissing, match=said):
        opened("folder", root)


@pytest.mark.parametrize("line", ["S00", "s00,", '"s00"', "images\\s00.png", "s00.png,s00.png"])
def test_lines_of_tables_and_other_systems_come_with_a_hint(root: Path, line: str) -> None:
    write_list(root / "train.txt", [line])
    with pytest.raises(DatasetMissing, match="did you mean 's00'"):
        opened("folder", root)


def test_classes_with_a_byte_order_mark_and_blanks_around_a_name(root: Path) -> None:
    content = json.dumps([{**one, "name": f" {one['name']} "} for one in CLASSES])
    (root / "classes.json").write_text(content, "utf-8-sig")
    assert [one.name for one in opened("folder", root).info.classes] == [one["name"] for one in CLASSES]


def test_utf_16_is_refused_with_what_to_do(root: Path) -> None:
    (root / "val.txt").write_bytes((root / "val.txt").read_text().encode("utf-16"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        opened("folder", root)


def test_one_id_written_in_two_ways_is_listed_twice(root: Path) -> None:
    write_list(root / "train.txt", ["s00", "s00.png"])
    with pytest.raises(DataError, match="lists 's00' twice"):
        opened("folder", root)


def test_two_pictures_of_one_name_are_refused(root: Path) -> None:
    Image.open(root / "images" / "s03.png").save(root / "images" / "s03.jpg")
    with pytest.raises(DataError, match=r"s03\.jpg and s03\.png have one name, 's03'"):
        opened("folder", root)


def write_classes(root: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    (root / "classes.json").write_text(json.dumps([change(one) for one in CLASSES]))


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "BACKGROUND", "back-ground", "bg", "BG"])
def test_spellings_of_the_background(root: Path, name: str) -> None:
    write_classes(root, lambda one: {**one, "name": name} if one["id"] == 0 else one)
    info = opened("folder", root).info
    assert info.background == 0 and info.foreground == (1, 2, 3, 4)


def test_the_background_may_have_any_id(root: Path) -> None:
    write_classes(root, lambda one: {**one, "name": "bg"} if one["id"] == 2 else {**one, "name": f"c{one['id']}"})
    info = opened("folder", root).info
    assert info.background == 2 and info.foreground == (0, 1, 3, 4)


@pytest.mark.parametrize("name", ["ground", "playground", "background building"])
def test_other_names_are_classes(root: Path, name: str) -> None:
    write_classes(root, lambda one: {**one, "name": name} if one["id"] == 0 else one)
    assert opened("folder", root).info.background is None


def test_two_backgrounds_are_refused(root: Path) -> None:
    write_classes(root, lambda one: {**one, "name": "bg"} if one["id"] == 1 else one)
    with pytest.raises(DataError, match="two backgrounds: 'background' and 'bg'"):
        opened("folder", root)


def test_one_name_for_two_classes_is_refused(root: Path) -> None:
    write_classes(root, lambda one: {**one, "name": "red"} if one["id"] == 2 else one)
    with pytest.raises(DataError, match="gives the name 'red' to two classes"):
        opened("folder", root)


def test_a_sound_dataset_has_no_findings(root: Path) -> None:
    assert findings(opened("folder", root), TWO_STEPS) == []


def test_one_colour_for_two_classes_is_said(root: Path) -> None:
    write_classes(root, lambda one: {**one, "color": CLASSES[1]["color"]} if one["id"] == 3 else one)
    (sentence,) = findings(opened("folder", root), TWO_STEPS)
    assert "'red' and 'blue' have one colour" in sentence


def test_validation_images_that_are_training_images_are_said_before_training(root: Path, tmp_path: Path) -> None:
    names = (root / "train.txt").read_text().split()
    write_list(root / "val.txt", [*(root / "val.txt").read_text().split(), names[2]])
    (sentence,) = begin(root, tmp_path / "run")
    assert "1 of 5 validation images are training images, too (the first: 's02')" in sentence


def test_a_copy_under_another_name_is_said(root: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(root / folder / "s01.png", root / folder / "s09.png")
    (sentence,) = findings(opened("folder", root), TWO_STEPS)
    assert "1 of 4 validation images are training images, too (the first: 's09')" in sentence


def test_a_class_that_covers_every_image_is_said_before_training(root: Path, tmp_path: Path) -> None:
    """A background by a name that nobody can guess becomes a class, here all of step 0."""
    write_classes(root, lambda one: {**one, "name": "rest"} if one["id"] == 0 else one)
    for path in (root / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[:20] = 0
        Image.fromarray(mask).save(path)
    (sentence,) = begin(root, tmp_path / "run", data={"task": "1-2"})
    assert "class 'rest' covers most pixels of each of 8 training images and is all that step 0 learns" in sentence
    write_classes(root, lambda one: one)
    assert findings(opened("folder", root), TWO_STEPS) == []


def test_a_class_that_covers_all_images_but_one_is_none_of_them(root: Path) -> None:
    write_classes(root, lambda one: {**one, "name": "rest"} if one["id"] == 0 else one)
    paths = sorted((root / "masks").iterdir())
    for path in paths:
        Image.fromarray(np.full((32, 32), 0 if path != paths[0] else 1, np.uint8)).save(path)
    assert findings(opened("folder", root), LabelSpace(((0, 1), (2, 3, 4)), None, True)) == []


def turn(root: Path, orientation: int) -> None:
    """Save the images with a tag that turns them when they are read."""
    for path in list((root / "images").iterdir()):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.open(path).crop((0, 0, 32, 24))
        image.load()
        image.save(path, exif=exif)
        mask = np.array(Image.open(root / "masks" / path.name))[:24]
        Image.fromarray(mask).save(root / "masks" / path.name)


def test_images_that_a_tag_turns_are_said_and_the_advice_helps(root: Path) -> None:
    turn(root, 3)
    (sentence,) = findings(opened("folder", root), TWO_STEPS)
    assert "12 of 12 images looked at are turned by their EXIF orientation" in sentence
    for path in (root / "images").iterdir():
        Image.fromarray(read_image(path)).save(path)
    assert findings(opened("folder", root), TWO_STEPS) == []


def test_a_mask_of_the_turned_size_says_what_turned_the_image(root: Path) -> None:
    turn(root, 6)
    with pytest.raises(DataError, match=r"32 x 24 pixels, its image 24 x 32; the image is turned by its EXIF"):
        opened("folder", root).mask("s00")


def test_masks_of_black_and_white_are_said_and_the_advice_helps(root: Path) -> None:
    for path in (root / "masks").iterdir():
        Image.fromarray(np.where(np.array(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    (sentence,) = findings(opened("folder", root), TWO_STEPS)
    assert "the training masks hold 0 and 255 alone" in sentence and '"remap": {"255": its id}' in sentence
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, "remap": {"255": 1}}))
    dataset = opened("folder", root)
    assert findings(dataset, TWO_STEPS) == [] and set().union(*dataset.present("train").values()) == {0, 1}


@pytest.mark.parametrize(
    ("save", "hint"),
    [
        (lambda mask: Image.fromarray(np.repeat(mask[..., None], 3, -1)), '"palette": true'),
        (lambda mask: Image.fromarray(mask.astype(np.uint16)), "save it with 8 bits: ids are 0 to 255"),
        (lambda mask: Image.fromarray(mask > 0), "save it with 8 bits, and the ids 0 and 1"),
    ],
    ids=["colours", "16 bits", "1 bit"],
)
def test_masks_of_another_depth_are_refused_with_what_to_do(
    root: Path, save: Callable[[np.ndarray], Image.Image], hint: str
) -> None:
    path = root / "masks" / "s00.png"
    save(np.array(Image.open(path))).save(path)
    with pytest.raises(DataError, match=hint):
        opened("folder", root).mask("s00")
