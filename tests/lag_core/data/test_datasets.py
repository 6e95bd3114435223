"""The folder dataset, what is kept of it, generated tiles, tasks; sentences for what is missing or broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from small_trees import opened, write_image, write_list, write_mask

from lag_core.config import ConfigError, DataConfig
from lag_core.data import presence
from lag_core.data.catalogue import DataError, DatasetMissing, open_dataset, task_of
from lag_core.protocol import IGNORE

DATA = Path(os.environ.get("LAG_TEST_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


CLASSES = [
    {"id": 0, "name": "background", "color": [0, 0, 0]},
    {"id": 7, "name": "cat", "color": [64, 0, 0]},
    {"id": 3, "name": "dog", "color": [64, 0, 128]},
]
MASKS = {"b": [[0, 7, 7], [255, 0, 0]], "a": [[3, 3, 3], [0, 7, 0]], "v": [[0, 0, 0], [0, 0, 3]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for name, ids in MASKS.items():
        write_mask(root / "masks" / f"{name}.png", ids)
        write_image(root / "images" / f"{name}.{'jpg' if name == 'v' else 'png'}", seed=ord(name))
    write_list(root / "train.txt", ["b", "a"])
    write_list(root / "val.txt", ["v"])
    (root / "classes.json").write_text(json.dumps({"ignore_index": 255, "classes": CLASSES}))
    return root


def test_folder(folder: Path) -> None:
    dataset = opened("folder", folder)
    assert dataset.info.name == "pets"
    assert [(one.id, one.name) for one in dataset.info.classes] == [(0, "background"), (3, "dog"), (7, "cat")]
    assert dataset.info.class_of(7).color == (64, 0, 0)
    assert dataset.info.background == 0 and dataset.info.foreground == (3, 7) and dataset.info.domains == ()
    assert dataset.ids("train") == ("b", "a") and dataset.ids("val") == ("v",)
    np.testing.assert_array_equal(dataset.mask("a"), MASKS["a"])
    assert dataset.image("v").shape == (2, 3, 3)
    assert dataset.domain("a") == ""
    assert dataset.present("train") == {"b": {0, 7}, "a": {0, 3, 7}}
    assert list(dataset.present("train")) == ["b", "a"]
    assert task_of(DataConfig(task="1-1"), dataset.info).steps == ((0, 3), (7,))


def test_folder_accepts_a_plain_list_of_classes(folder: Path) -> None:
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    assert len(opened("folder", folder).info.classes) == 3


def test_folder_without_a_class_called_background_has_none(folder: Path) -> None:
    sky = [{"id": 0, "name": "sky", "color": [1, 2, 3]}, *CLASSES[1:]]
    (folder / "classes.json").write_text(json.dumps(sky))
    info = opened("folder", folder).info
    assert info.background is None
    assert task_of(DataConfig(task="2-1"), info).steps == ((0, 3), (7,))


def test_a_foreign_id_names_file_and_id(folder: Path) -> None:
    write_mask(folder / "masks" / "a.png", [[3, 3, 9], [0, 7, 0]])
    dataset = opened("folder", folder)
    with pytest.raises(DataError, match=r"a\.png holds id 9, .* \(known: 0, 3, 7, 255\)"):
        dataset.mask("a")
    with pytest.raises(DataError, match=r"a\.png holds id 9"):
        dataset.present("train")


def test_a_mask_of_another_size_than_its_image(folder: Path) -> None:
    write_mask(folder / "masks" / "a.png", [[0, 0]])
    with pytest.raises(DataError, match=r"a\.png has 2 x 1 pixels, its image 3 x 2"):
        opened("folder", folder).mask("a")


def test_a_corrupt_image(folder: Path) -> None:
    (folder / "images" / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"b\.png is not a readable picture"):
        opened("folder", folder).image("b")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("classes.json", r"pets has no classes\.json: looked for .*classes\.json; a dataset folder holds"),
        ("val.txt", r"pets has no val\.txt: looked for"),
        ("images", r"pets has no folder images: looked for"),
        ("masks", r"pets has no folder masks: looked for"),
        (
            "images/a.png",
            r"pets is incomplete: 1 of 3 images are missing, the first is 'a'; looked in .*images",
        ),
        ("masks/v.png", r"pets is incomplete: 1 of 3 masks are missing, the first is 'v'"),
    ],
)
def test_what_lacks_in_a_folder_is_said(folder: Path, lost: str, said: str) -> None:
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetMissing, match=said):
        opened("folder", folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not readable JSON"),
        ("[]", "contains no list of classes"),
        ('{"classes": 3}', "contains no list of classes"),
        ('[{"id": 255, "name": "x", "color": [0, 0, 0]}]', "is not a class"),
        ('[{"id": 1, "name": "x", "color": [0, 0]}]', "is not a class"),
        ('[{"id": 1, "name": "x", "color": [0, 0, 256]}]', "is not a class"),
        ('[{"id": "1", "name": "x", "color": [0, 0, 0]}]', "is not a class"),
        (json.dumps([CLASSES[1], CLASSES[1]]), "one id to two"),
    ],
)  # fmt: skip
def test_broken_class_lists_are_said(folder: Path, content: str, said: str) -> None:
    (folder / "classes.json").write_text(content)
    with pytest.raises(DataError, match=rf"classes\.json.*{said}"):
        opened("folder", folder)


def test_broken_split_lists_are_said(folder: Path) -> None:
    write_list(folder / "train.txt", ["a", "b", "a"])
    with pytest.raises(DataError, match=r"train\.txt lists 'a' twice"):
        opened("folder", folder)
    (folder / "train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train\.txt lists no image"):
        opened("folder", folder)
    (folder / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt cannot be read"):
        opened("folder", folder)


def test_a_missing_root_is_said(tmp_path: Path) -> None:
    for name in ("folder", "voc", "ade20k", "isprs"):
        with pytest.raises(DatasetMissing, match=rf"dataset '{name}': there is no folder .*nowhere; set data\.root"):
            opened(name, tmp_path / "nowhere")


def test_presence_is_read_from_the_cache(folder: Path, cache: Path) -> None:
    first = opened("folder", folder).present("train")
    stored = list(cache.glob("presence-pets-*.json"))
    assert len(stored) == 1
    stored[0].write_text("[[3], [7]]")
    assert opened("folder", folder).present("train") == {"b": {3}, "a": {7}} != first


def test_presence_is_computed_anew_when_a_mask_changes(folder: Path) -> None:
    opened("folder", folder).present("train")
    write_mask(folder / "masks" / "b.png", [[3, 3, 3], [3, 3, 3]])
    os.utime(folder / "masks" / "b.png", (1, 1))
    assert opened("folder", folder).present("train")["b"] == {3}


@pytest.mark.parametrize("content", ["", "{", "[[0]]", '[["x"], [1]]', "[[0], [999]]", "[[0], 3]", "null"])
def test_an_unreadable_cache_is_computed_anew(folder: Path, cache: Path, content: str) -> None:
    first = opened("folder", folder).present("train")
    (stored,) = cache.glob("presence-*.json")
    stored.write_text(content)
    assert opened("folder", folder).present("train") == first
    assert json.loads(stored.read_text()) == [[0, 7], [0, 3, 7]]


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    assert opened("folder", folder).present("val") == {"v": {0, 3}}
    monkeypatch.delenv("LAG_CACHE")
    assert presence.cache_dir() == Path.home() / ".cache" / "lag"


def test_no_partial_file_is_left(folder: Path, cache: Path) -> None:
    opened("folder", folder).present("train")
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_aerial() -> None:
    dataset = open_dataset(DataConfig(tiles=2, size=64))
    assert dataset.info.name == "aerial" and dataset.info.background is None
    assert [one.id for one in dataset.info.classes] == [1, 2, 3, 4, 5]
    assert len(dataset.ids("train")) == 2 * len(dataset.info.domains)
    assert {dataset.domain(name) for name in dataset.ids("train")} == set(dataset.info.domains)
    for name, found in dataset.present("train").items():
        assert dataset.image(name).shape == (64, 64, 3)
        assert found == set(np.unique(dataset.mask(name)).tolist()) - {IGNORE} <= {1, 2, 3, 4, 5}


def test_aerial_presence_is_kept_by_its_parameters(cache: Path) -> None:
    open_dataset(DataConfig(tiles=1, size=64)).present("train")
    open_dataset(DataConfig(tiles=1, size=64)).present("train")
    assert len(list(cache.glob("presence-aerial-*.json"))) == 1
    open_dataset(DataConfig(tiles=1, size=96)).present("train")
    assert len(list(cache.glob("presence-aerial-*.json"))) == 2


def test_aerial_tiles_have_a_largest_size() -> None:
    with pytest.raises(ConfigError, match=r"dataset 'aerial': .*2048"):
        open_dataset(DataConfig(size=2048))


@pytest.mark.parametrize("task", ["3-3", "x", "1-1_z"])
def test_a_wrong_task_is_a_config_error(folder: Path, task: str) -> None:
    info = opened("folder", folder).info
    with pytest.raises(ConfigError, match=rf"data\.task = '{task}': task"):
        task_of(DataConfig(task=task), info)


def test_a_dataset_without_domains_refuses_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="has no domain 'rgb'; allowed are none: leave the list empty"):
        task_of(DataConfig(task="1-1", domains=("rgb",)), opened("folder", folder).info)


@pytest.mark.parametrize(
    ("name", "background", "counts"), [("voc_animals", 0, (1199, 445)), ("camvid", None, (367, 101))]
)
def test_real_folders(name: str, background: int | None, counts: tuple[int, int]) -> None:
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f"no {root}: set LAG_TEST_DATA to the folder with the local test data")
    dataset = opened("folder", root)
    assert dataset.info.background == background
    assert (len(dataset.ids("train")), len(dataset.ids("val"))) == counts
    known = {one.id for one in dataset.info.classes}
    reading: Callable[[str], np.ndarray] = dataset.mask
    for image in dataset.ids("val")[::20]:
        assert reading(image).shape == dataset.image(image).shape[:2]
    found = dataset.present("val")
    assert set().union(*found.values()) == known
