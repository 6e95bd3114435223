"""Each advice cures: once it is taken, what it was given for is gone. No key that a warning names is left out."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from repository import ROOT
from shapes import CLASSES, lively_backbone, tiny_run, write_shapes
from small_trees import write_list

from lag_core import config as configuration
from lag_core.cli import main
from lag_core.commands.train import read_config
from lag_core.config import Config, MethodConfig
from lag_core.loss_terms import LOSS_TERMS
from lag_core.runs import RunError
from lag_core.training.continual import train
from lag_core.training.finite import NotFiniteError
from lag_core.training.reporting import Reporter

pytestmark = pytest.mark.usefixtures("no_fsync")
CORE = ROOT / "lag_core"
Sections = dict[str, dict[str, Any]]

ILL = r"step {}: (the loss jumped|latent channels died)"
SILENT = r"step {}: class \w+ is never predicted"
ABRUPT: Sections = {
    "method": {"kd_latent": 100.0},
    "optim": {"lr_aspp_later": 1.0, "epochs_later": 10, "clip": 0.3},
}
"""The ASPP is thrown off when it joins at step 1."""
HOT_ASPP: Sections = {"optim": {"lr_aspp": 30.0, "lr_head": 0.01, "epochs": 6}}
HOT_HEADS: tuple[Sections, ...] = tuple(
    {"optim": {"lr_aspp": 0.01, "lr_head": rate, "epochs": 6}} for rate in (30.0, 22.0, 20.0, 18.0, 16.0, 14.0)
)
"""Rounding, which differs between processors, decides which of them falls ill and yet trains to its end."""
IDLE: Sections = {"method": {"kd_latent": 1e-7}, "optim": {"extractor_delay": 0.0, "lr_aspp_later": 1e-3}}

CASES: dict[str, tuple[str, tuple[Sections, ...], str, Sections]] = {
    "lower lr_head": ("finetune", HOT_HEADS, ILL.format(0), {"optim": {"lr_head": 0.01}}),
    "lower lr_aspp": ("finetune", (HOT_ASPP,), ILL.format(0), {"optim": {"lr_aspp": 0.001}}),
    "steadiness": ("lag", (ABRUPT,), ILL.format(1), {"optim": {"steadiness": 0.5}}),
    "clip": ("lag", (ABRUPT,), ILL.format(1), {"optim": {"clip": 0.001}}),
    "lower lr_aspp_later": ("lag", (ABRUPT,), ILL.format(1), {"optim": {"lr_aspp_later": 1e-4}}),
    "raise a term": ("lag", (IDLE,), "step 1: term kd_latent moved nothing", {"method": {"kd_latent": 10.0}}),
    "drop a term": ("lag", (IDLE,), "step 1: term kd_latent moved nothing", {"method": {"kd_latent": 0.0}}),
}
"""Advice -> method, settings (the first that call for it count), beginning of the warning, the advice taken."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


class Told:
    """Warnings of tiny runs. The same settings make the same run, which is trained once for all tests that need it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.warnings: dict[str, list[str]] = {}

    def __call__(self, root: Path, method: str, sections: Sections, pattern: str) -> list[str]:
        key = json.dumps([str(root), method, sections], sort_keys=True)
        if key not in self.warnings:
            run = tiny_run(root, Path(mkdtemp(dir=self.folder)) / "run", method, **sections)
            self.warnings[key] = list(run.warnings)
        return [w for w in self.warnings[key] if re.match(pattern, w)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("told"))


@pytest.mark.parametrize("name", CASES)
def test_an_advice_on_training_helps(root: Path, told: Told, name: str) -> None:
    method, ill, pattern, cure = CASES[name]
    found = None
    for sections in ill:
        with suppress(NotFiniteError, RunError):  # it did not train to its end
            if before := told(root, method, sections, pattern):
                found = sections
                break
    assert found is not None, "the settings call for the advice"
    key = next(f"{section}.{key}" for section, table in cure.items() for key in table)
    assert any(key in sentence for sentence in before), "the warning names the key"
    merged = configuration.merge([found, cure])
    assert told(root, method, merged, pattern) == []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures of one class each, which a few iterations can learn, and a backbone that tells colours apart."""
    root = write_shapes(tmp_path_factory.mktemp("plain") / "shapes")
    for place, path in enumerate(sorted((root / "images").iterdir())):
        number = place % 4 + 1
        noise = np.random.default_rng(place).integers(-20, 20, (32, 32, 3))
        Image.fromarray((np.array(CLASSES[number]["color"]) + noise).clip(0, 255).astype(np.uint8)).save(path)
        Image.fromarray(np.full((32, 32), number, np.uint8)).save(root / "masks" / path.name)
    return root, lively_backbone(root, root.parent / "backbone.pt")


def learns(**optim: Any) -> Sections:
    later = {"lr_head": 0.05, "epochs": 40, "epochs_later": 1}
    return {"data": {"task": "3-1"}, "optim": {"lr_stage": 0.0, "lr_aspp": 0.02, **later, **optim}}


LEARNS_LATER = {"lr_head_later": 0.05, "epochs_later": 40}


@pytest.mark.parametrize(
    ("step", "key", "ill", "cured"),
    [
        (0, "lr_head", {"lr_head": 0.02}, {}),
        (0, "epochs", {"epochs": 1}, {}),
        (1, "lr_head_later", LEARNS_LATER | {"lr_head_later": 0.001}, LEARNS_LATER),
        (1, "epochs_later", LEARNS_LATER | {"epochs_later": 1}, LEARNS_LATER),
    ],
)
def test_a_class_that_is_never_predicted_is_after_the_advice(
    plain: tuple[Path, Path], told: Told, step: int, key: str, ill: dict[str, Any], cured: dict[str, Any]
) -> None:
    root, weights = plain
    method, backbone = ("reference" if step else "finetune"), {"model": {"weights": str(weights)}}
    before = told(root, method, learns(**ill) | backbone, SILENT.format(step))
    assert before and all(f"optim.{key}" in sentence for sentence in before)
    assert told(root, method, learns(**cured) | backbone, SILENT.format(step)) == []


def named_keys(*files: str) -> set[str]:
    """Keys of the configuration in the sentences of some files."""
    texts = [
        node.value
        for file in files
        for node in ast.walk(ast.parse((CORE / file).read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    sections = "|".join(one.name for one in fields(Config))
    return {key for text in texts for key in re.findall(rf"\b(?:{sections})\.[a-z]\w*", text)}


def test_no_advice_is_left_out() -> None:
    tried = {f"{section}.{key}" for _, _, _, cure in CASES.values() for section, table in cure.items() for key in table}
    tried |= {f"optim.{key}" for key in ("lr_head", "epochs", "lr_head_later", "epochs_later")}  # a silent class
    assert named_keys("training/health.py") <= tried
    assert named_keys("data/inspection.py", "data/findings.py") <= {"data.fit"}, (
        "tests/lag_core/data/test_windowed_dataset.py"
    )
    assert set(LOSS_TERMS) <= {one.name for one in fields(MethodConfig)}, '"raise or drop method.TERM" names a key'


def test_the_recipe_gives_a_small_step_its_iterations(tmp_path: Path) -> None:
    """`lag data check` advises it where a step has few images."""
    root = write_shapes(tmp_path / "shapes", 10, 2)
    file = tmp_path / "my.toml"
    file.write_text(
        f'[data]\ndataset = "folder"\nroot = "{root}"\ntask = "2-1-1"\nsize = 32\n[model]\nlatent = 8\nhead_width = 4\n'
        'aspp_rates = [1]\n[optim]\nthreads = 1\ndevice = "cpu"\namp = "off"\n'
    )
    plain, small = (read_config(file, "finetune", recipe=recipe) for recipe in (None, "small"))
    for config, least in ((plain, 0), (small, 150)):
        run = train(config, tmp_path / f"run{least}", reporter=Reporter(quiet=True))
        later = [step.iterations for step in run.steps[1:]]
        assert all(count >= least for count in later) and (least or max(later) < 20)


def relist(root: Path) -> None:
    names = (root / "val.txt").read_text().split()
    write_list(root / "val.txt", [name for name in names if name not in (root / "train.txt").read_text().split()])


def without_unlabelled(root: Path) -> None:
    names = (root / "train.txt").read_text().split()
    write_list(root / "train.txt", [n for n in names if (np.array(Image.open(root / f"masks/{n}.png")) != 255).any()])


def rename_ground(root: Path) -> None:
    (root / "classes.json").write_text(json.dumps([{**CLASSES[0], "name": "background"}, *CLASSES[1:]]))


def cover(root: Path) -> None:
    (root / "classes.json").write_text(json.dumps([{**CLASSES[0], "name": "rest"}, *CLASSES[1:]]))
    for path in (root / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[:24] = 0
        Image.fromarray(mask).save(path)


def turn(root: Path) -> None:
    """As a camera that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images" / "s00.png"
    Image.open(path).save(path, exif=exif)


def upright(root: Path) -> None:
    path = root / "images" / "s00.png"
    ImageOps.exif_transpose(Image.open(path)).save(path, exif=Image.Exif())


def whiten(root: Path) -> None:
    for path in (root / "masks").iterdir():
        Image.fromarray(np.where(np.array(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)


DATA: dict[str, tuple[Callable[[Path], object], str, Callable[[Path], object]]] = {
    "in both lists": (
        lambda r: write_list(r / "val.txt", [*(r / "val.txt").read_text().split(), "s00"]),
        "take them out of one of the two lists",
        relist,
    ),
    "no annotated pixel": (
        lambda r: Image.fromarray(np.full((32, 32), 255, np.uint8)).save(r / "masks" / "s03.png"),
        "take them out of train.txt",
        without_unlabelled,
    ),
    "a background by another name": (cover, "call it 'background' in classes.json", rename_ground),
    "a picture that a tag turns": (turn, "mogrify -auto-orient", upright),
    "a class that is white": (
        whiten,
        '"remap": {"255": its id} in classes.json',
        lambda r: (r / "classes.json").write_text(json.dumps({"classes": CLASSES, "remap": {"255": 1}})),
    ),
    "a colour that two classes have": (
        lambda r: (r / "classes.json").write_text(json.dumps([*CLASSES[:4], {**CLASSES[4], "color": [220, 40, 40]}])),
        "have one colour",
        lambda r: (r / "classes.json").write_text(json.dumps(CLASSES)),
    ),
    "a class's id that is none": (
        lambda r: Image.fromarray(np.full((32, 32), 9, np.uint8)).save(r / "masks" / "s03.png"),
        "holds id 9, which is not a class",
        lambda r: (r / "classes.json").write_text(json.dumps({"classes": CLASSES, "others": "ignore"})),
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_an_advice_on_data_helps(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, advice, cure = DATA[name]
    root = write_shapes(tmp_path / "shapes", 40, 8)
    damage(root)
    main(["data", "check", str(root), "--quiet", "--size", "32"])
    assert advice in capsys.readouterr().out
    cure(root)
    main(["data", "check", str(root), "--quiet", "--size", "32"])
    assert advice not in capsys.readouterr().out
