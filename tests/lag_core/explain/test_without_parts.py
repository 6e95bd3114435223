"""What is left of a class without a part of the network, against the network with that part silenced by a hook."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from repository import ROOT
from torch import Tensor, nn

import lag_core
from lag_core.config import ModelConfig
from lag_core.explain.networks import Networks
from lag_core.explain.shares import COMPETITION, OLD_HEADS, OWN_HEAD, UNKNOWN_HEAD
from lag_core.explain.without_parts import _silent_stages, left_without
from lag_core.model.backbone import SkipStage
from lag_core.model.prediction import label_map
from lag_core.model.segmenter import Segmenter

CHECKPOINTS = ROOT / "checkpoints"
CAT = 1


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(lag_core.open_run(CHECKPOINTS / "animals-3-1-lagplus"))


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (2, 3, 96, 96)).astype(np.float32)


@pytest.fixture(scope="module")
def logits(networks: Networks, inputs: np.ndarray) -> dict[str, Tensor]:
    """Logits by the part that is silent, in the order of the parts."""
    seen: list[Tensor] = []

    def measure(one: Tensor) -> np.ndarray:
        seen.append(one)
        return np.zeros(1)

    parts = left_without(networks, [inputs], CAT, 0, 3, measure)
    return dict(zip(parts, seen, strict=True))


def hooked(module: nn.Module, model: Segmenter, inputs: np.ndarray) -> Tensor:
    """Logits of the whole network, the output of a module replaced by its mean."""

    def silence(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return output.mean((0, 2, 3), keepdim=True).expand_as(output)

    handle = module.register_forward_hook(silence)
    try:
        with torch.no_grad():
            return model(torch.from_numpy(inputs)).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("part", ["backbone.stem", "backbone.layer2", "backbone.layer4", "aspp"])
def test_a_feature_part_falls_silent_as_by_a_hook(
    part: str, networks: Networks, inputs: np.ndarray, logits: dict[str, Tensor]
) -> None:
    model = networks.steps[3]
    module = model.aspp if part == "aspp" else getattr(model.backbone, part.split(".")[1])
    assert torch.allclose(logits[part], hooked(module, model, inputs), atol=1e-4)


def test_silent_heads_never_win(networks: Networks, logits: dict[str, Tensor]) -> None:
    labels, loss = networks.run.labels, networks.run.config.method.loss

    def drawn(part: str) -> set[int]:
        return set(label_map(logits[part], labels, loss).unique().tolist())

    assert CAT not in drawn(OWN_HEAD + "cat")
    assert drawn(OLD_HEADS) <= {0, CAT, *range(labels.seen(0), labels.seen(3))}
    assert 0 not in drawn(UNKNOWN_HEAD)
    assert max(drawn(COMPETITION)) < labels.seen(0)


def test_the_class_is_measured_on_all_pictures_together(networks: Networks, inputs: np.ndarray) -> None:
    shapes: list[int] = []

    def measure(one: Tensor) -> np.ndarray:
        shapes.append(len(one))
        return np.array([0.25])

    found = left_without(networks, [inputs, inputs[:1]], CAT, 0, 3, measure)
    assert set(shapes) == {3} and set(found.values()) == {0.25}


def test_of_a_stage_that_hands_its_input_on_only_its_own_output_falls_silent() -> None:
    torch.manual_seed(0)
    model = Segmenter(ModelConfig(backbone="mobilenet_v2", skip="layer2"), (3,)).eval()
    assert isinstance(model.backbone.layer4, SkipStage)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole, rest = model.backbone(images), dict(_silent_stages(model, images))["backbone.layer4"]
    own = model.backbone.channels[4] - model.backbone.channels[3]
    assert torch.equal(rest[:, :-own], whole[:, :-own])
    mean = whole[:, -own:].mean((0, 2, 3), keepdim=True)
    assert torch.allclose(rest[:, -own:], mean.expand_as(rest[:, -own:])) and not torch.equal(rest, whole)
