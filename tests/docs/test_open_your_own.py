"""docs/open-your-own.md: each way's worked example, run as it stands on the page."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import foreign
import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT
from small_trees import write_image, write_list, write_mask
from streamlit.testing.v1 import AppTest

from lag_core.cli import main
from lag_core.runs import Run, list_runs, open_run

PAGE = ROOT / "docs" / "open-your-own.md"
NAMES = ("background", "road", "roof", "tree")
torch.set_num_threads(1)


class Block(NamedTuple):
    """A block of the page."""

    section: str
    language: str
    text: str


def blocks() -> list[Block]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.M)[1:]:
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```", section, flags=re.M | re.S):
            found.append(Block(section.splitlines()[0], language, text))
    return found


def of(section: str, language: str) -> str:
    """The one block of a section in that language."""
    (block,) = [one for one in blocks() if one.section == section and one.language == language]
    return block.text


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("LAG_RUNS", "LAG_ADAPTERS", "LAG_DATA", "LAG_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lag_core.adapters.finding._allowed", set())
    yield tmp_path
    sys.modules.pop("mine", None)


def run_lines(text: str, monkeypatch: pytest.MonkeyPatch, smaller: tuple[str, ...] = ()) -> None:
    """What a shell would do with the lines of a block. `smaller`: options added to the first, to save time."""
    for line in text.splitlines():
        words, smaller = [*shlex.split(line), *smaller], ()
        with monkeypatch.context() as patch:
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("=", 1))
            if words[0] == "lag":
                assert main(words[1:]) == 0, line
            else:
                assert words == ["streamlit", "run", "dashboard/app.py"], line
                _open_app()


def _open_app() -> None:
    """Steps of every run in sight, at its last step."""
    runs = list_runs(Path(os.environ["LAG_RUNS"]))
    assert runs and all(isinstance(one, Run) for one in runs)
    for run in runs:
        app = AppTest.from_string("from dashboard.app import main; main(default='steps')", default_timeout=250)
        app.query_params.update({"run": run.name, "step": str(len(run.steps) - 1)})
        app.run()
        assert not app.exception and not app.error and not app.warning, run.name


def write_data(root: Path, images: int = 2) -> dict[str, np.ndarray]:
    """A folder dataset `my-data` of the page's classes; its pictures by name."""
    rng = np.random.default_rng(0)
    listed = [{"id": i, "name": name, "color": [60 * i, 20, 40]} for i, name in enumerate(NAMES)]
    (root / "images").mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps(listed), "utf-8")
    pictures = {}
    for k in range(images):
        mask = write_mask(root / "masks" / f"p{k}.png", np.kron(rng.permutation(4).reshape(2, 2), np.ones((24, 24))))
        pixels = (mask[..., None] * 60 + rng.integers(0, 40, (*mask.shape, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"p{k}.png")
        pictures[f"p{k}"] = pixels
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in pictures))
    return pictures


def write_voc(home: Path) -> None:
    """VOC 2012 as unpacked, with one image to train on and one to validate."""
    for name in ("a", "b"):
        write_image(home / "JPEGImages" / f"{name}.jpg", (60, 80))
        write_mask(home / "SegmentationClass" / f"{name}.png", np.kron([[0, 15], [16, 8]], np.ones((30, 40))), True)
    for split, name in (("train", "a"), ("val", "b")):
        write_list(home / "ImageSets" / "Segmentation" / f"{split}.txt", [name])


@pytest.mark.slow
def test_checkpoints_of_eight_systems(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a ResNet-50 in PLOP's layout, in place of the ResNet-101 that it trains."""
    write_voc(here / "VOCdevkit" / "VOC2012")
    for step in range(2):
        state = foreign.plop_state(step, "resnet50", first=16)
        torch.save({"model_state": {f"module.{key}": value for key, value in state.items()}}, f"step_{step}.pth")
    run_lines(of("Checkpoints of eight systems", "bash"), monkeypatch, ("--size", "65"))
    run = open_run(here / "runs" / "plop-15-1")
    assert [one.name for one in run.classes[15:17]] == ["person", "pottedplant"] and run.labels.seen(1) == 17
    assert run.confusions() is not None


def test_label_maps_of_any_framework(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write_data(here / "my-data")
    predictors = [lambda picture, most=most: np.minimum(picture[..., 0] // 60, most) for most in (2, 3)]
    given: dict[str, Any] = {"pictures": pictures, "predictors": predictors}
    exec(compile(of("Label maps of any framework", "python"), str(PAGE), "exec"), given)
    run_lines(of("Label maps of any framework", "bash"), monkeypatch)
    confusions = open_run(here / "runs" / "label-maps").confusions()
    assert confusions is not None and confusions[1].sum() == 2 * 48 * 48


def test_a_network_of_your_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    write_data(here / "my-data")
    text = of("A network of your own", "python")
    (here / "mine.py").write_text(text, "utf-8")
    assert len(text[text.index("class Mine") :].splitlines()) < 30
    for step, classes in enumerate((3, 4)):
        torch.manual_seed(step)
        net = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
        for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = None
        with torch.no_grad():
            net(torch.randn(4, 3, 64, 64))  # batch norms that know pictures: numbers are of order 1
        torch.save(net.state_dict(), f"step{step}.pt")
    run_lines(of("A network of your own", "bash"), monkeypatch)
    assert open_run(here / "runs" / "mine").confusions() is not None


def test_every_block_is_run() -> None:
    ways = ("Checkpoints of eight systems", "Label maps of any framework", "A network of your own")
    others = [one for one in blocks() if one.section not in ways or one.language not in ("bash", "python")]
    assert {one.section for one in others} <= {"What it costs"}, "this command takes minutes; it measures the table"


def test_the_costs_are_those_that_were_measured() -> None:
    text = PAGE.read_text("utf-8")
    assert foreign.fill(text, foreign.stored()) == text
