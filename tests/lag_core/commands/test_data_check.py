"""`lag data check`: it finds what was broken on purpose, and its contact sheet holds the pictures."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import CLASSES, write_shapes
from small_trees import write_list

from lag_core.cli import main

Said = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", train_images=40, val_images=8)


@pytest.fixture
def check(root: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*more: object) -> tuple[int, str]:
        status = main(["data", "check", str(root), "--quiet", *map(str, more)])
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


def test_a_sound_dataset_has_nothing_to_fix(check: Said) -> None:
    status, said = check("--task", "2-1-1")
    assert status == 0 and "nothing to fix was found" in said
    assert re.search(r"1 red +20 .* +4 ", said), said
    assert "step 0: 30 training images" in said and "step 1: 20 training images" in said


def delete_class(root: Path, number: int, split: str) -> None:
    for name in (root / f"{split}.txt").read_text().split():
        mask = np.array(Image.open(root / "masks" / f"{name}.png"))
        mask[mask == number] = 0
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")


@pytest.mark.parametrize(
    ("change", "more", "status", "said"),
    [
        (lambda r: delete_class(r, 2, "train"), (), 0, "class 'green' is in no training image"),
        (lambda r: delete_class(r, 2, "val"), (), 0, "class 'green' is in no validation image"),
        (lambda r: (r / "images" / "s03.png").write_bytes(b"x"), (), 1, "s03.png is not a readable picture"),
        (lambda r: delete_class(r, 4, "train"), ("--task", "2-1-1"), 1, "step 2 has no training image"),
        (
            lambda r: Image.fromarray(np.full((32, 32), 255, np.uint8)).save(r / "masks" / "s03.png"),
            (),
            0,
            "1 train images have no annotated pixel (the first: 's03')",
        ),
        (
            lambda r: write_list(r / "val.txt", [*(r / "val.txt").read_text().split(), "s00"]),
            (),
            0,
            "1 of 9 validation images are training images, too",
        ),
        (
            lambda r: write_list(r / "train.txt", (r / "train.txt").read_text().split()[:12]),
            ("--task", "2-2"),
            0,
            "step 0 has 9 training images: train with --recipe small",
        ),
        (
            lambda r: [
                Image.fromarray(np.zeros((40, 400, 3), np.uint8)).save(r / "images" / "s03.png"),
                Image.fromarray(np.zeros((40, 400), np.uint8)).save(r / "masks" / "s03.png"),
            ],
            ("--size", "100"),
            0,
            "the longest side is 400 pixels, the network sees 100",
        ),
        (
            lambda r: Image.fromarray(np.full((32, 32), 9, np.uint8)).save(r / "masks" / "s03.png"),
            (),
            1,
            "holds id 9, which is not a class",
        ),
    ],
    ids=[
        "not trained", "not measured", "damaged", "empty step", "unlabelled", "both", "few", "large", "foreign id",
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    check: Said, root: Path, change: Callable[[Path], object], more: tuple[object, ...], status: int, said: str
) -> None:
    change(root)
    ended, text = check(*more)
    assert said in text and ended == status


def test_every_damaged_file_is_named_and_none_ends_the_look(check: Said, root: Path) -> None:
    for name in ("s03", "s05"):
        (root / "images" / f"{name}.png").write_bytes(b"x")
    _, text = check()
    assert "s03.png is not" in text and "s05.png is not" in text and re.search(r"background +38 ", text)


def test_the_contact_sheet_is_complete_in_itself(check: Said, root: Path, tmp_path: Path) -> None:
    names = [{**one, "name": "<b>red</b>"} if one["id"] == 1 else one for one in CLASSES]
    (root / "classes.json").write_text(json.dumps(names))
    sheet = tmp_path / "sheet.html"
    status, _ = check("--out", sheet, "--task", "2-1-1")
    page = sheet.read_text()
    assert status == 0 and "&lt;b&gt;red&lt;/b&gt;" in page and "<b>red" not in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    pictures = re.findall(r'data:image/(?:jpeg|png);base64,([^"]+)', page)
    assert len(pictures) == 2 * (24 + 8)
    first = np.array(Image.open(io.BytesIO(base64.b64decode(pictures[1]))).convert("RGB")).astype(int)
    mask = np.array(Image.open(root / "masks" / "s00.png"))
    assert np.abs(first[mask == 1] - (0.4 * np.array(CLASSES[1]["color"]) + 0.6 * np.array([220, 40, 40]))).max() < 25
    status, said = check("--out", sheet)
    assert status == 2 and "exists and is never overwritten" in said


def test_deep_images_are_scaled_before_they_are_shown(check: Said, root: Path) -> None:
    from test_own_data import png_16

    for path in (root / "images").iterdir():
        path.write_bytes(png_16(np.array(Image.open(path)).astype(int) * 8))
    assert check()[0] == 0


def test_the_recipe_fills_what_the_file_leaves_open(root: Path, tmp_path: Path) -> None:
    from lag_core.commands.train import read_config

    file = tmp_path / "my.toml"
    file.write_text(f'[data]\ndataset = "folder"\nroot = "{root}"\n[optim]\nmin_iterations = 7\n')
    plain, small = read_config(file, "lag"), read_config(file, "lag", recipe="small")
    assert (plain.optim.min_iterations_first, plain.optim.warmup) == (0, 0.0)
    assert (small.optim.min_iterations, small.optim.min_iterations_first, small.optim.warmup) == (7, 400, 0.1)
    assert read_config(file, "lag+", recipe="small").optim.lr_aspp_later == 0.005, "a method's own settings stay"
