"""`lag import`: which system it was, which classes, what is asked, and the run that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from PIL import Image

from lag_core.cli import main
from lag_core.config import DataConfig
from lag_core.data.catalogue import open_dataset
from lag_core.data.isprs import INFO as ISPRS
from lag_core.data.transforms import centre_square, centre_square_of_mask
from lag_core.data.voc import INFO as VOC
from lag_core.importing.classes import label_space, of_dataset, of_file
from lag_core.importing.container import Checkpoint
from lag_core.importing.error import CheckpointError
from lag_core.importing.formats import FORMATS
from lag_core.importing.normalisation import EPS, Norm, adding, in_place
from lag_core.importing.recognition import backbone_of, gamma_of, recognise
from lag_core.runs import open_run

NAMES = ["background", "cat", "dog", "cow", "car", "bus"]


def checkpoint(peer: str, step: int = 0, config: Mapping[str, Any] | None = None) -> Checkpoint:
    tensors = dict(peers.rule().hollow(peers.layout(peer), step))
    return Checkpoint(Path("file.pth"), True, tensors, config or {})


# --- Which system it was.


@pytest.mark.parametrize("peer", ["lag", "dkd", "star", "rcil", "csseg"])
def test_a_system_is_recognised_where_its_files_tell(peer: str) -> None:
    beside = peers.layout(peer).get("config", {})
    assert recognise(checkpoint(peer, 0, beside), 0, None).name == peer


@pytest.mark.parametrize(("peer", "named"), [("ssul", "ssul or lag"), ("mib", "mib or plop"), ("plop", "mib or plop")])
def test_systems_of_one_layout_are_asked_for(peer: str, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        recognise(checkpoint(peer), 0, None)
    assert recognise(checkpoint(peer), 0, peer).name == peer


def test_dkd_and_star_with_a_first_step_of_one_class_are_asked_for() -> None:
    one = checkpoint("star")
    one.tensors["cls.0.weight"] = torch.zeros(1, 256, 1, 1)
    with pytest.raises(CheckpointError, match="dkd or star"):
        recognise(one, 0, None)
    assert recognise(Checkpoint(one.path, True, one.tensors, {"name": "STAR"}), 0, None).name == "star"


def test_the_wrong_word_is_contradicted() -> None:
    with pytest.raises(CheckpointError, match=r"not a checkpoint of ssul: it looks like rcil"):
        recognise(checkpoint("rcil"), 0, "ssul")


def test_other_networks_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not of a known network"):
        recognise(Checkpoint(Path("a.pth"), True, {"conv.weight": torch.zeros(1)}, {}), 0, None)
    with pytest.raises(CheckpointError, match="iabn_sync"):
        recognise(checkpoint("dkd", 0, {"arch": {"args": {"norm_act": "iabn_sync"}}}), 0, "dkd")
    short = checkpoint("plop")
    for key in [k for k in short.tensors if k.startswith("body.mod4.block9.")]:
        del short.tensors[key]
    with pytest.raises(CheckpointError, match="22 blocks"):
        backbone_of(short, FORMATS["plop"])


def test_a_negative_scale_is_asked_about() -> None:
    one, form = checkpoint("plop"), FORMATS["plop"]
    assert gamma_of(one, form, None) is in_place
    one.tensors["body.mod1.bn1.weight"] = -torch.ones(64)
    with pytest.raises(CheckpointError, match="--norm iabn or --norm abn"):
        gamma_of(one, form, None)
    assert gamma_of(one, form, "iabn") is in_place
    assert gamma_of(one, form, "abn")(torch.tensor(-2.0)) == -2
    with pytest.raises(CheckpointError, match="not for ssul"):
        gamma_of(checkpoint("ssul"), FORMATS["ssul"], "abn")


# --- Which classes.


def test_a_task_counts_classes_without_the_background_where_there_is_one() -> None:
    voc = label_space(VOC.classes, "15-1", [16, 1], True, "file")
    assert [len(s) for s in voc.steps] == [16, 1, 1, 1, 1, 1] and voc.background == 0
    isprs = label_space(ISPRS.classes, "2-2-1", [2], True, "file")
    assert isprs.steps == ((1, 2), (3, 4), (5,))
    assert isprs.background == 1, "LAG adds the unknown to impervious surface"


def test_what_does_not_fit_the_heads_is_said_with_both_numbers() -> None:
    with pytest.raises(CheckpointError, match=r"steps of 4, 1 classes.*has 16, 1, 1.*--task and --classes"):
        label_space(VOC.classes, "15-1", [4, 1], True, "file")
    with pytest.raises(CheckpointError, match=r"the class orders that codes name by a letter differ.*15-1"):
        label_space(VOC.classes, "15-1_o", [16], True, "file")
    with pytest.raises(CheckpointError, match="--task and --classes"):
        label_space(VOC.classes, "15-5s", [16], True, "file")


def test_the_order_of_a_class_list_is_that_of_introduction(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": [{"id": 0, "name": "background"}, {"id": 7, "name": "car"}, "third"]}))
    found = of_file(path, "voc")
    assert [(c.id, c.name) for c in found.classes] == [(0, "background"), (7, "car"), (2, "third")]
    assert (found.dataset, found.name) == ("voc", "voc")
    assert of_dataset("voc", None).classes == VOC.classes
    for wrong in ("{", "[]", '["a"]', '["a", {"id": 300, "name": "b"}]', '["a", {"id": 0, "name": "b"}]', '["a", 1]'):
        path.write_text(wrong)
        with pytest.raises(CheckpointError, match="--classes"):
            of_file(path, None)
    with pytest.raises(CheckpointError, match="--data"):
        of_dataset("ade20k", None)


# --- Norms.


def test_a_norm_folded_into_its_convolution_does_the_same() -> None:
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 4, 3).double(), torch.nn.BatchNorm2d(4).double().eval()
    for value in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(value)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    stored = Norm(*(norm.state_dict()[k] for k in ("weight", "bias", "running_mean", "running_var")))
    weight, bias = stored.folded(conv.weight.detach(), conv.bias.detach())  # type: ignore[union-attr]
    assert torch.allclose(torch.nn.functional.conv2d(x, weight, bias), norm(conv(x)), atol=1e-12)
    adds = torch.nn.BatchNorm2d(4).double().eval()
    adds.load_state_dict({**adds.state_dict(), **{k[2:]: v for k, v in adding(bias).named("n").items()}})
    assert torch.allclose(adds(x[:, [0, 1, 2, 0]]), x[:, [0, 1, 2, 0]] + bias.view(1, -1, 1, 1), atol=1e-12)
    assert torch.equal(in_place(torch.tensor([-1.0, 0.0])), torch.tensor([1 + EPS, EPS]))


# --- The command.


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder dataset of four pictures that are no squares."""
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for name, size in (("a", (70, 120)), ("b", (120, 70)), ("c", (90, 90)), ("d", (200, 130))):
        for folder, shape in (("images", (*size, 3)), ("masks", size)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            content = generator.integers(0, 6 if folder == "masks" else 256, shape).astype(np.uint8)
            Image.fromarray(content).save(root / folder / f"{name}.png")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b\nc\nd\n")
    classes = [{"id": i, "name": name, "color": [40 * i, 0, 0]} for i, name in enumerate(NAMES)]
    (root / "classes.json").write_text(json.dumps(classes))
    return root


def test_the_command_writes_a_run_like_any_other(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MiB's old files, recognised by hand; zeros for weights: what changes from step to step are the new heads."""
    paths = peers.write_steps("mib", tmp_path / "files", (0, 1), empty=True)
    out = tmp_path / "runs" / "mine"
    options = ["--task", "3-1", "--dataset", "folder", "--data", str(data), "--out", str(out), "--size", "65"]
    assert main(["import", "mib", *map(str, paths), *options]) == 0
    assert "a run of 2 steps, mib" in capsys.readouterr().out
    run = open_run(out)
    assert [c.name for c in run.classes] == NAMES and [len(s.classes) for s in run.steps] == [4, 1]
    assert (run.config.data.size, run.config.data.fit, run.config.data.root) == (65, "crop", str(data))
    assert (run.config.model.backbone, run.config.model.head, run.config.model.pooling_window) == (
        "resnet101", "linear", 32,
    )  # fmt: skip
    assert set(run.delta(1)) == {"heads.1.weight", "heads.1.bias"}
    assert [entry["name"] for entry in run.info["imported"]["files"]] == [path.name for path in paths]
    assert run.open_dataset().image("b").shape == (65, 65, 3)
    assert main(["doctor", "--runs", str(out.parent)]) == 0
    assert "! mine" in capsys.readouterr().out, "it has no metrics yet"
    assert main(["import", "mib", *map(str, paths), *options]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "said"),
    [((1,), "one checkpoint per step"), ((1, 0), "one checkpoint per step"), ((0, 0), "one checkpoint per step")],
)
def test_steps_out_of_order_are_noticed(
    files: tuple[int, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = peers.write_steps("csseg", tmp_path, files, empty=True)
    (tmp_path / "classes.json").write_text(json.dumps(NAMES))
    options = ["--task", "3-1", "--classes", str(tmp_path / "classes.json"), "--out", str(tmp_path / "run")]
    assert main(["import", *map(str, paths), *options]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_what_is_not_said_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--task", "3-1", "--out", str(tmp_path / "run")]
    assert main(["import", "plop", "a.pth", *out]) == 2
    assert "--dataset voc or --classes" in capsys.readouterr().err
    assert main(["import", "plop", *out, "--dataset", "voc"]) == 2
    assert "one checkpoint per step" in capsys.readouterr().err
    assert main(["import", "plop", str(tmp_path / "none.pth"), *out, "--dataset", "voc"]) == 2
    assert "there is no file" in capsys.readouterr().err


# --- The centre of a picture.


@pytest.mark.parametrize("shape", [(50, 90), (90, 50), (64, 64), (31, 200), (65, 64)])
def test_the_centre_square_is_torchvisions(shape: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    wanted = transforms.Compose([transforms.Resize(48), transforms.CenterCrop(48)])(Image.fromarray(image))
    assert np.array_equal(centre_square(image, 48), np.asarray(wanted))
    mask = image[..., 0]
    cut = centre_square_of_mask(mask, 48)
    assert cut.shape == (48, 48) and set(cut.ravel()) <= set(mask.ravel())


def test_a_cropped_dataset_is_of_squares_and_counts_what_is_in_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    mask = np.zeros((120, 70), np.uint8)
    mask[:8] = 5  # a class that the centre does not show
    Image.fromarray(mask).save(data / "masks" / "b.png")
    whole = open_dataset(DataConfig(dataset="folder", root=str(data), size=32))
    cut = open_dataset(DataConfig(dataset="folder", root=str(data), size=32, fit="crop"))
    assert whole.present("val")["b"] == {0, 5} and cut.present("val")["b"] == {0}
    assert whole.image("b").shape == (120, 70, 3) and cut.image("b").shape == (32, 32, 3)
    assert cut.mask("d").shape == (32, 32)
