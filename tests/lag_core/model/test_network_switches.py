"""The switches of the network: what each one changes, and that without them nothing is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.config import ConfigError, ModelConfig, resolve
from lag_core.method.replay import patch_logits
from lag_core.model.aspp import ImagePooling
from lag_core.model.backbone import STAGES
from lag_core.model.heads import LinearHead, share_background, transfer_weights
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import trunk_digest
from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.relevance.target import Target

SMALL = ModelConfig(backbone="resnet18", latent=8, head_width=6, aspp_rates=(2, 4))
SWITCHED = ModelConfig(
    backbone="resnet50",
    latent=8,
    aspp_rates=(2, 4),
    separable=False,
    activation="leaky_relu",
    dilated_first_block=True,
    pooling_window=2,
    head="linear",
)


def random_segmenter(config: ModelConfig, seed: int = 0) -> Segmenter:
    """Random weights and running statistics: the statistics of noise, so that depth neither kills nor blows up."""
    torch.manual_seed(seed)
    model = Segmenter(config, (2, 1))
    model.train()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = None
        for _ in range(2):
            model(torch.randn(2, 3, 96, 96))
    return model.eval()


def by_hand(model: Segmenter, x: Tensor) -> Tensor:
    """A ResNet-18 segmenter's logits, written out without a switch."""
    backbone = model.backbone
    conv, norm = backbone.stem[0], backbone.stem[1]  # type: ignore[index]
    x = F.max_pool2d(F.relu(norm(conv(x))), 3, 2, 1)
    for name in STAGES[1:]:
        for block in getattr(backbone, name):
            inner = F.relu(block.bn1(block.conv1(x)))
            skip = x if block.downsample is None else block.downsample(x)
            x = F.relu(block.bn2(block.conv2(inner)) + skip)
    branches = model.aspp.branches
    maps = [F.relu(branches[0][1](branches[0][0](x)))]  # type: ignore[index,operator]
    for branch in list(branches)[1:-1]:
        depthwise = branch[1](branch[0](x))  # type: ignore[index,operator]
        maps.append(F.relu(branch[3](branch[2](depthwise))))  # type: ignore[index,operator]
    pooled = F.relu(branches[-1].project[0](F.adaptive_avg_pool2d(x, 1)))  # type: ignore[index,operator,union-attr]
    maps.append(pooled.expand(-1, -1, *x.shape[-2:]))
    z = F.relu(model.aspp.project[1](model.aspp.project[0](torch.cat(maps, 1))))
    return torch.cat([h.classify(F.relu(h.norm(h.conv(z)))) for h in model.heads], 1)  # type: ignore[operator]


def test_without_a_switch_the_network_is_what_it_was_to_the_bit() -> None:
    model = random_segmenter(SMALL)
    x = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        assert torch.equal(model(x).logits, by_hand(model, x))
    first, second = model.backbone.layer4[0], model.backbone.layer4[1]  # type: ignore[index]
    assert (first.conv1.dilation, first.conv2.dilation, second.conv1.dilation) == ((1, 1), (2, 2), (2, 2))


@pytest.mark.parametrize(
    "switch",
    [{"activation": "leaky_relu"}, {"stem_activation": False}, {"dilated_first_block": True}, {"pooling_window": 2}],
    ids=str,
)
def test_each_switch_changes_the_answer_and_no_weight(switch: dict) -> None:
    plain = random_segmenter(SMALL)
    switched = Segmenter(replace(SMALL, **switch), (2, 1)).eval()
    switched.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        assert (plain(x).logits - switched(x).logits).abs().max() > 1e-3
    if "pooling_window" not in switch:  # the trunk's features are others: nothing kept for the one may serve the other
        assert trunk_digest(plain) != trunk_digest(switched)


def test_leaky_leaves_no_relu_behind() -> None:
    model = Segmenter(SWITCHED, (2,))
    assert not [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert {m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)} == {0.01}


def test_a_window_is_the_mean_around_a_place_with_the_edges_repeated() -> None:
    torch.manual_seed(0)
    module = ImagePooling(3, 2, window=4).double()
    x = torch.randn(2, 3, 3, 9, dtype=torch.float64)
    found = module(x)
    for column in range(9):
        start = min(max(column - 1, 0), 5)  # 4 cells, one before the place
        wanted = module.project(x[..., start : start + 4].mean((2, 3), keepdim=True))
        assert torch.allclose(found[..., column], wanted[..., 0].expand(-1, -1, 3), atol=1e-12)
    small = x[..., :4]
    whole = ImagePooling(3, 2).double()
    whole.load_state_dict(module.state_dict())
    assert torch.equal(module(small), whole(small))


def test_a_linear_head_is_one_convolution() -> None:
    model = Segmenter(SWITCHED, (3,))
    assert {n for n in model.state_dict() if n.startswith("heads.")} == {"heads.0.weight", "heads.0.bias"}
    source = model.heads[0]
    new = model.add_head(2)
    assert isinstance(source, LinearHead) and isinstance(new, LinearHead)
    transfer_weights(new, source, [2, 1])
    assert torch.equal(new.weight[0], source.weight[2]) and torch.equal(new.weight[1], source.weight[1])
    z = torch.randn(4, 8, 3, 3)
    assert torch.allclose(patch_logits(model.heads, z)[..., 0, 0], model.decode(z)[..., 1, 1], atol=1e-5)
    before = source.bias.detach().clone()  # type: ignore[union-attr]
    share_background(new, source)
    assert source.bias[0] < before[0]  # type: ignore[index]


def test_patches_pass_heads_of_both_kernels() -> None:
    """A head that sees one latent pixel gives one logit a patch, too."""
    for kernel in (1, 3):
        model = random_segmenter(replace(SMALL, head_kernel=kernel))
        z = torch.rand(5, 8, 3, 3)
        found = patch_logits(model.heads, z)
        assert found.shape == (5, 3, 1, 1)
        assert torch.allclose(found[..., 0, 0], model.decode(z)[..., 1, 1], atol=1e-5)


@pytest.mark.parametrize("composite", ["epsilon", "composite", "composite-gamma", "composite-flat"])
@pytest.mark.parametrize("stem", [True, False])
def test_relevance_is_conserved_on_a_switched_network(composite: str, stem: bool) -> None:
    model = random_segmenter(replace(SWITCHED, stem_activation=stem))
    x = torch.randn(2, 3, 64, 96)
    view = FoldedSegmenter(model)
    recording = view.record(x)
    with torch.no_grad():
        logits = model(x).logits
    assert torch.allclose(recording.logits, logits, atol=1e-3 * float(logits.abs().max()))
    found = recording.relevance(Target(1, (logits[0, 1] > 0).float()), composite)
    assert float(found.error.max()) < 1e-3


def test_epsilon_relevance_at_the_latent_map_is_gradient_times_z() -> None:
    """Z has both signs under a leaky ReLU; the ASPP's window hands relevance back to the cells that it saw."""
    model = random_segmenter(SWITCHED).double()
    x = torch.randn(1, 3, 64, 160, dtype=torch.float64)
    stage = model.trunk(x).detach()
    leaf = stage.clone().requires_grad_()
    logits = model.behind_trunk(leaf).logits
    (slope,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    found = FoldedSegmenter(model).record(stage).relevance(Target(2), "epsilon", to="trunk")
    assert float(model.behind_trunk(stage).latent.detach().min()) < 0
    assert torch.allclose(found.values, slope * stage, atol=1e-3 * float((slope * stage).abs().max()))


def test_switches_are_part_of_the_configuration() -> None:
    tables = {"data": {"dataset": "aerial"}, "model": {"backbone": "resnet18", "activation": "leaky_relu"}}
    assert resolve(tables).model.activation == "leaky_relu"
    for key, value in (("activation", "leaky_relu"), ("stem_activation", False)):
        with pytest.raises(ConfigError, match=f"model.{key}"):
            resolve({"model": {"backbone": "mobilenet_v2", key: value}})
    with pytest.raises(ConfigError, match=r"model\.pooling_window"):
        resolve({"model": {"pooling_window": -1}})


def test_a_switched_network_learns() -> None:
    """Every switch leaves a gradient on every parameter."""
    model = Segmenter(SWITCHED, (2, 1)).train()
    loss = model(torch.randn(2, 3, 64, 64)).logits.square().mean()
    loss.backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert not lacking
