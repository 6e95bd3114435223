"""A backbone that ends early, one that joins two of its stages, and one of which only the last stages train."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lag_core.config import Config, ConfigError, ModelConfig, OptimConfig, resolve
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import trunk_digest
from lag_core.protocol import LabelSpace
from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.relevance.target import Target
from lag_core.training.optimiser import freeze_all_but, parts, set_modes

FULL = ModelConfig(output_stride=8, latent=8, head_width=6, aspp_rates=(2, 4))
SHORT = replace(FULL, depth="layer3")
JOINED = replace(SHORT, skip="layer1")


def lively(config: ModelConfig) -> Segmenter:
    """Random weights whose statistics are those of noise."""
    torch.manual_seed(0)
    model = Segmenter(config, (2, 1)).train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 3, 64, 64))
    return model.eval()


@torch.no_grad()
def stages(model: Segmenter, x: Tensor) -> list[Tensor]:
    """What each stage returns."""
    found = []
    for stage in model.backbone.stages_until("layer4"):
        x = stage(x)
        found.append(x)
    return found


def test_a_short_backbone_ends_at_layer3_with_the_same_tensors() -> None:
    full, short = lively(FULL), lively(SHORT)
    names = {n for n in full.backbone.state_dict() if not n.startswith("layer4.")}
    assert set(short.backbone.state_dict()) == names
    short.backbone.load_state_dict({n: v for n, v in full.backbone.state_dict().items() if n in names})
    x = torch.randn(1, 3, 64, 80)
    assert torch.equal(short.trunk(x), stages(full, x)[3])
    assert short.trunk(x).shape == (1, short.trunk_channels, 8, 10)


@pytest.mark.parametrize(
    "config",
    [
        replace(FULL, skip="layer3"),
        replace(FULL, skip="layer2", output_stride=16),
        replace(SHORT, skip="layer2"),
        JOINED,
        replace(JOINED, backbone="resnet18", output_stride=16),
        replace(JOINED, backbone="mobilenet_v3_large"),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 80), (52, 70)])
def test_joined_stages_return_all_maps_at_the_size_of_the_first(config: ModelConfig, size: tuple[int, int]) -> None:
    plain, joined = lively(replace(config, skip="none")), lively(config)
    joined.backbone.load_state_dict(plain.backbone.state_dict())
    x = torch.randn(1, 3, *size)
    found = stages(plain, x)[int(config.skip[-1]) : int(config.depth[-1]) + 1]
    whole = joined.trunk(x)
    assert whole.shape == (1, joined.trunk_channels, *found[0].shape[-2:])
    for part, own in zip(whole.split([one.shape[1] for one in found], 1), found, strict=True):
        step = -(-part.shape[-1] // own.shape[-1])
        for i in range(step):
            assert torch.equal(
                part[..., i::step, i::step],
                own[..., : part[0, 0, i::step].shape[0], :][..., : part[0, 0, :, i::step].shape[1]],
            )
    assert trunk_digest(plain) != trunk_digest(joined)  # what is kept for the one may not serve the other


@pytest.mark.parametrize("composite", ["epsilon", "composite", "composite-gamma"])
@pytest.mark.parametrize("config", [SHORT, JOINED], ids=["short", "joined"])
def test_relevance_is_conserved(config: ModelConfig, composite: str) -> None:
    model, x = lively(config), torch.randn(2, 3, 60, 94)
    recording = FoldedSegmenter(model).record(x)
    with torch.no_grad():
        logits = model(x).logits
    assert torch.allclose(recording.logits, logits, atol=1e-3 * float(logits.abs().max()))
    found = recording.relevance(Target(1, (logits[0, 1] > 0).float()), composite)
    assert float(found.error.max()) < 1e-3


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'model\.shared = "layer3" needs model\.depth'):
        resolve({"model": {"depth": "layer3", "shared": "layer3"}})
    with pytest.raises(ConfigError, match=r'model\.skip = "layer1" needs model\.shared'):
        resolve({"model": {"shared": "layer3", "skip": "layer1"}})
    with pytest.raises(ConfigError, match="leaves no later stage"):
        resolve({"model": {"depth": "layer3", "skip": "layer3"}})


def test_stages_before_the_first_one_neither_train_nor_move_their_statistics() -> None:
    config = Config(model=JOINED, optim=OptimConfig(lr_stage=0.01, first_stage="layer3"))
    model = lively(JOINED)
    found = parts(model, config, LabelSpace(((0, 1), (2,)), 0, False), 0)
    freeze_all_but(model, found)
    set_modes(model, found, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for part in found for p in part.parameters()], 0.1)
    model(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
    optimiser.step()
    moved = {n for n, v in model.state_dict().items() if v.is_floating_point() and not torch.equal(v, before[n])}
    assert not [n for n in moved if n.startswith(("backbone.stem.", "backbone.layer1.", "backbone.layer2."))]
    assert [n for n in moved if n.startswith("backbone.layer3.")]
