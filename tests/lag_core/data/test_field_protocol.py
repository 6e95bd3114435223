"""The literature's protocol: full-resolution crops, validation at own size, what trains, batch norm, weight decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import SIDE, tiny_config, tiny_run, write_shapes
from test_transforms import agreement, blocks
from torchvision.transforms.v2 import functional as transforms

from lag_core.config import ConfigError, DataConfig
from lag_core.data import field_augmentation
from lag_core.data.catalogue import open_dataset
from lag_core.data.transforms import resize_labels, to_input
from lag_core.metrics import confusion
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.model.weights import load_segmenter
from lag_core.protocol import IGNORE, LabelSpace
from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.runs import Run
from lag_core.training.evaluation import evaluate, totals
from lag_core.training.features import draw_view
from lag_core.training.optimiser import Schedule, parts, set_modes

pytestmark = pytest.mark.usefixtures("no_fsync")
LABELS = LabelSpace(((0, 1, 2), (3,), (4,)), 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("field") / "shapes")


@pytest.fixture(scope="module")
def moved(root: Path) -> Run:
    """A run whose whole network trains at each step."""
    return tiny_run(root, root.parent / "moved", "finetune", **WHOLE)


WHOLE: dict[str, Any] = {
    "model": {"shared": "none"},
    "data": {"views": 0, "augmentation": "field", "validation": "own"},
    "optim": {"lr_stage": 0.01, "lr_stage_later": 0.01, "label_stride": 1, "batch_norm": "always"},
}


# Augmentation


def test_picture_and_mask_stay_aligned() -> None:
    image, mask = blocks(90, 120)
    rng = np.random.default_rng(0)
    for _ in range(20):
        one = field_augmentation.draw(90, 120, 64, (0.5, 2.0), rng)
        view, labels = field_augmentation.view(image, mask, 64, one)
        assert view.shape == (64, 64, 3) and labels.shape == (64, 64)
        assert agreement(view, labels) > 0.7, one  # blurred borders of small blocks


def test_a_view_is_the_scaled_picture_at_its_place() -> None:
    image, mask = blocks(40, 50)
    whole = field_augmentation.Draw(40, 50, 5, 9, False)
    view, labels = field_augmentation.view(image, mask, 32, whole)
    np.testing.assert_array_equal(view, image[5:37, 9:41])
    np.testing.assert_array_equal(labels, mask[5:37, 9:41])
    mirrored, turned = field_augmentation.view(image, mask, 32, field_augmentation.Draw(40, 50, 5, 9, True))
    np.testing.assert_array_equal(mirrored, view[:, ::-1])
    np.testing.assert_array_equal(turned, labels[:, ::-1])


def test_a_view_is_cut_out_of_the_scaled_picture() -> None:
    """Within one grey level of torchvision's picture, which is scaled as a whole; labels to the bit."""
    rng = np.random.default_rng(3)
    image, mask = rng.integers(0, 256, (61, 83, 3)).astype(np.uint8), rng.integers(0, 9, (61, 83)).astype(np.uint8)
    for _ in range(20):
        one = field_augmentation.draw(61, 83, 40, (0.5, 2.0), rng)
        seen, labels = field_augmentation.view(image, mask, 40, one)
        size = [one.height, one.width]
        picture = transforms.resize(torch.from_numpy(image).permute(2, 0, 1), size, antialias=True).permute(1, 2, 0)
        place = slice(one.top, one.top + 40), slice(one.left, one.left + 40)
        expected, known = picture.numpy()[place], resize_labels(mask, (one.height, one.width))[place]
        flip = -1 if one.mirrored else 1
        h, w = known.shape
        np.testing.assert_array_equal(labels[:, ::flip][:h, :w], known)
        assert np.abs(seen[:, ::flip][:h, :w].astype(int) - expected).max() <= 1


def test_what_lies_outside_is_ignored() -> None:
    image, mask = blocks(20, 20)
    _, labels = field_augmentation.view(image, mask, 32, field_augmentation.Draw(10, 12, 0, 0, False))
    assert (labels[10:] == IGNORE).all() and (labels[:, 12:] == IGNORE).all() and (labels[:10, :12] != IGNORE).all()


def test_scales_and_places_cover_their_range() -> None:
    rng = np.random.default_rng(0)
    drawn = [field_augmentation.draw(100, 100, 64, (0.5, 2.0), rng) for _ in range(400)]
    heights = [one.height for one in drawn]
    assert 50 <= min(heights) < 60 and 190 < max(heights) <= 200
    assert all(0 <= one.top <= max(0, one.height - 64) for one in drawn)
    assert max(one.top for one in drawn) > 100 and 150 < sum(one.mirrored for one in drawn) < 250


def test_a_view_depends_on_its_number_alone(root: Path) -> None:
    config = DataConfig(dataset="folder", root=str(root), size=SIDE, augmentation="field")
    dataset = open_dataset(config)
    views = [draw_view(dataset, "s00", number, config) for number in (3, 4, 3)]
    np.testing.assert_array_equal(views[0][0], views[2][0])
    assert not np.array_equal(views[0][0], views[1][0])


def test_only_validation_images_are_cropped_beforehand(root: Path) -> None:
    small = DataConfig(dataset="folder", root=str(root), size=16, fit="crop", augmentation="field")
    dataset = open_dataset(small)
    assert dataset.image(dataset.ids("val")[0]).shape == (16, 16, 3)
    assert dataset.image(dataset.ids("train")[0]).shape == (SIDE, SIDE, 3)
    assert dataset.mask(dataset.ids("train")[0]).shape == (SIDE, SIDE)


# Validation


def test_validation_at_own_size_is_the_network_on_the_whole_picture(root: Path, moved: Run) -> None:
    dataset = moved.open_dataset(root)
    model, n = load_segmenter(moved, 1), len(moved.labels.order)
    expected = np.zeros((n, n), np.int64)
    for name in dataset.ids("val"):
        image, mask = dataset.image(name), dataset.mask(name)
        with torch.no_grad():
            scores = upsample(model(torch.from_numpy(to_input(image[None]))).logits, (SIDE, SIDE)).sigmoid()
        truth = moved.labels.truth_table()[mask]
        expected += confusion(truth, scores[0].argmax(0).numpy().astype(np.uint8), n)
    np.testing.assert_array_equal(moved.confusions()[1], expected)
    measured = totals(evaluate(moved, dataset, lambda items, what: iter(items)))
    np.testing.assert_array_equal(measured, moved.confusions())


# What trains


def test_the_whole_network_trains_after_step_0(moved: Run) -> None:
    changed = set(moved.delta(1))
    for part in ("backbone.stem.", "backbone.layer2.", "backbone.layer4.", "aspp.", "heads.0.", "heads.1."):
        assert any(name.startswith(part) for name in changed), part


def test_a_network_without_trunk_is_explained(moved: Run) -> None:
    model = load_segmenter(moved, 2)
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model(images).logits
    assert torch.allclose(FoldedSegmenter(model).record(images).logits, expected, atol=1e-4)


@pytest.mark.parametrize(("shared", "still"), [("stem", ["stem"]), ("layer2", ["stem", "layer1", "layer2"])])
def test_stages_are_frozen_by_name(root: Path, tmp_path: Path, shared: str, still: list[str]) -> None:
    run = tiny_run(
        root, tmp_path / "run", "finetune",
        data={"task": "2-2"}, model={"shared": shared}, optim={"lr_stage_later": 0.01, "epochs": 1, "epochs_later": 1},
    )  # fmt: skip
    stages = {name.split(".")[1] for name in run.delta(1) if name.startswith("backbone.")}
    assert stages == {"stem", "layer1", "layer2", "layer3", "layer4"} - set(still)


def test_stages_are_frozen_at_step_0(root: Path) -> None:
    config = tiny_config(root, "finetune", optim={"lr_stage": 0.01, "first_stage": "layer4"})
    model = Segmenter(config.model, (3,))
    trained = {id(p) for part in parts(model, config, LABELS, 0) for p in part.parameters()}
    names = {name.split(".")[1] for name, p in model.backbone.named_parameters(prefix="x") if id(p) in trained}
    assert names == {"layer4"}


@pytest.mark.parametrize(
    ("mode", "step", "by_batch"),
    [("first", 0, True), ("first", 1, False), ("always", 1, True), ("never", 0, False)],
)
def test_batch_norm_modes(root: Path, mode: str, step: int, by_batch: bool) -> None:
    config = tiny_config(root, "finetune", model={"shared": "layer3"}, optim={"lr_stage_later": 0.01})
    model = Segmenter(config.model, (3,) if step == 0 else (3, 1))
    set_modes(model, parts(model, config, LABELS, step), step, mode)
    assert model.aspp.project[1].training == by_batch
    if step:
        assert not model.backbone.layer3.training, "the trunk is frozen"


def test_norms_and_biases_can_be_spared_from_weight_decay(root: Path) -> None:
    config = tiny_config(root, "finetune", optim={"decay_norms": False, "weight_decay": 0.1})
    model = Segmenter(config.model, (3,))
    schedule = Schedule(parts(model, config, LABELS, 0), config)
    decays = {id(p): g["weight_decay"] for g in schedule.optimiser.param_groups for p in g["params"]}
    for part in schedule.found:
        for parameter in part.parameters():
            assert decays[id(parameter)] == (0.0 if parameter.dim() == 1 else 0.1)
    assert set(schedule.step(0.0)) == {part.name for part in schedule.found}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"data": {"scales": [2.0, 0.5]}}, r"data\.scales = \[2\.0, 0\.5\]"),
        ({"model": {"shared": "none"}, "method": {"replay": 1.0, "replay_at": "trunk"}}, "needs a frozen trunk"),
    ],
)
def test_keys_that_do_not_fit_are_refused(root: Path, tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(root, "finetune", **tables)
