"""EfficientNet-Lite0: shape, padding, its own input, its weights, relevance; other backbones' input stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_norms import lively
from PIL import Image
from repository import ROOT
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.config import ConfigError, ModelConfig
from lag_core.data.transforms import MEAN, STD, centre_square, to_input
from lag_core.model import efficientnet_lite, weights
from lag_core.model.backbone import build_backbone
from lag_core.model.efficientnet_lite import EfficientNetLite0, Rescaled, SameConv2d, packaged_weights, renamed
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import pretrained_backbone, state_arrays
from lag_core.relevance.layers import Flow, Way, chain_of
from lag_core.relevance.lrp import FoldedSegmenter, lrp
from lag_core.relevance.rules import Composite, Ledger, alpha_beta_rule, composites, epsilon_rule, zbox_rule
from lag_core.relevance.target import Target

torch.set_num_threads(1)

SMALL = ModelConfig(backbone="efficientnet_lite0", latent=8, head_width=6, aspp_rates=(2, 4))
PHOTOGRAPHS = ROOT / "assets/photos/images"


def segmenter(config: ModelConfig = SMALL) -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter(config, (1, 2)).eval()
    lively(model)
    return model


def package_state() -> dict[str, Tensor]:
    """Random weights under the names of the package's file, in its order."""
    torch.manual_seed(1)
    own = EfficientNetLite0().state_dict()
    names = {
        "features.0.1": "_conv_stem",
        "features.0.2": "_bn0",
        "features.17.0": "_conv_head",
        "features.17.1": "_bn1",
    }
    names["classifier"] = "_fc"
    for i in range(16):
        parts = ["_expand_conv", "_bn0", None, "_depthwise_conv", "_bn1", None, "_project_conv", "_bn2"]
        for j, part in enumerate(parts if i else parts[3:]):
            names[f"features.{i + 1}.body.{j}"] = f"_blocks.{i}.{part}"
    return {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v for n, v in own.items()}


def test_its_layers_are_those_of_the_published_table() -> None:
    net = EfficientNetLite0()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008  # 4.7 million in the authors' table
    kernels = [m.kernel_size[0] for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert kernels == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("size", [(64, 80), (51, 70)])
@pytest.mark.parametrize("stride", [8, 16])
def test_five_stages_at_their_strides(stride: int, size: tuple[int, int]) -> None:
    backbone = build_backbone(replace(SMALL, output_stride=stride)).eval()  # type: ignore[arg-type]
    assert backbone.channels == (16, 24, 40, 112, 320)
    x = torch.randn(1, 3, *size)
    for stage, down, channels in zip(
        backbone.stages_until("layer4"), (2, 4, 8, min(stride, 16), stride), backbone.channels, strict=True
    ):
        x = stage(x)
        assert x.shape == (1, channels, *(-(-n // down) for n in size))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(6, 9), (7, 8), (5, 5)])
def test_same_padding_written_out(kernel: int, size: tuple[int, int]) -> None:
    """Output row i sees the rows from 2 i - before, where before is half of what is missing, rounded down."""
    torch.manual_seed(0)
    conv = SameConv2d(2, 3, kernel, 2, kernel // 2, bias=False)
    x = torch.randn(1, 2, *size)
    before = [max(0, (-(-n // 2) - 1) * 2 + kernel - n) // 2 for n in size]
    wide = F.pad(x, (kernel,) * 4)
    found = conv(x)
    assert found.shape[-2:] == tuple(-(-n // 2) for n in size)
    for i in range(found.shape[2]):
        for j in range(found.shape[3]):
            top, left = 2 * i - before[0] + kernel, 2 * j - before[1] + kernel
            window = wide[0, :, top : top + kernel, left : left + kernel]
            assert torch.allclose(found[0, :, i, j], (conv.weight * window).sum((1, 2, 3)), atol=1e-5)


def test_dilation_keeps_what_the_stride_had_sampled() -> None:
    """Every cell of the strided map is found in the dense one, at the edges, too: at its odd rows and columns."""
    model, dense = build_backbone(replace(SMALL, output_stride=16)), build_backbone(replace(SMALL, output_stride=8))
    lively(model.eval())
    dense.eval().load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for stage in model.stages_until("layer2"):
            x = stage(x)
        coarse, fine = model.layer3(x), dense.layer3(x)
    scale = float(coarse.abs().max())
    assert (fine[..., 1::2, 1::2] - coarse).abs().max() <= 1e-5 * scale
    assert (fine[..., ::2, ::2] - coarse).abs().max() > 1e-3 * scale


def test_its_input_is_127_and_128_and_stores_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    found = build_backbone(SMALL).stem[0][0](torch.from_numpy(to_input(picture)))
    expected = (picture.astype(np.float64).transpose(0, 3, 1, 2) - 127) / 128
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert not Rescaled((0.5,) * 3, (0.5,) * 3).state_dict()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large"])
def test_what_other_backbones_see_is_unchanged_to_the_bit(name: str) -> None:
    """What the first convolution gets is (x / 255 - mean) / deviation, computed here as it always was."""
    seen: list[Tensor] = []
    model = Segmenter(ModelConfig(backbone=name, latent=8, head_width=6), (1, 2)).eval()  # type: ignore[arg-type]
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    model(torch.from_numpy(to_input(picture)))
    mean, std = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = ((picture.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.array_equal(seen[0].numpy(), expected)
    assert FoldedSegmenter(model).image_rule(zbox_rule(*_RANGE)) == zbox_rule(*_RANGE)


_RANGE = tuple(tuple((end - MEAN) / STD) for end in (0.0, 1.0))


# --- Relevance. -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"output_stride": 8, "skip": "layer2"}, {"depth": "layer3"}, {"shared": "none"}]
)
def test_relevance_is_conserved(changes: dict) -> None:
    model, images = segmenter(replace(SMALL, **changes)), torch.randn(2, 3, 45, 62)
    recording = FoldedSegmenter(model).record(images)
    assert torch.allclose(recording.logits, model(images).logits, rtol=1e-4, atol=1e-5)
    for composite in composites():
        found = recording.relevance(Target(1), composite)
        assert found.error.max() <= 1e-4, (composite, found.error)


def test_epsilon_goes_to_gradient_times_the_backbones_own_input() -> None:
    model = segmenter().double()
    own = (torch.rand(1, 3, 48, 64, dtype=torch.float64) * 255 - 127) / 128
    images = (own * 128 + 127) / 255
    mean, std = (torch.tensor(v.tolist(), dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    images = ((images - mean) / std).requires_grad_()
    chosen = torch.rand_like(model(images).logits.detach())
    (gradient,) = torch.autograd.grad((model(images).logits * chosen).sum(), images)
    tiny = epsilon_rule(1e-12)
    found = lrp(model, images.detach(), chosen, Composite("tiny", tiny, tiny, tiny))
    expected = gradient * 128 / 255 / std * own
    assert (found.values - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_the_z_box_lies_between_its_own_black_and_white() -> None:
    """Under it no pixel takes part against its output: from a start above zero, nothing below zero arrives."""
    model = segmenter()
    rule = FoldedSegmenter(model).image_rule(composites()["composite"].image)
    assert rule == zbox_rule((-127 / 128,) * 3, (1.0,) * 3)
    picture = torch.rand(1, 3, 48, 48).round()  # black and white alone: the ends of the box
    mean, std = (torch.from_numpy(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    view = FoldedSegmenter(model)
    with torch.no_grad():
        out, back = view.trunk.layers[1].run(view.trunk.layers[0].run(Flow((picture - mean) / std, False))[0])
        ledger = Ledger(1, out.value.device)
        found = back(out.value, Way(alpha_beta_rule(), ledger, rule))
    assert found.min() >= -1e-5 * found.max()


@pytest.mark.parametrize("kind", ["epsilon", "z-box", "alpha1-beta0"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_padded_layer_is_the_convolution_of_a_padded_map(kind: str, groups: int) -> None:
    """The zeros get nothing: the same as autograd's gradient for epsilon, and always nothing lost."""
    torch.manual_seed(0)
    conv = SameConv2d(4, 8, 5, 2, 2, groups=groups, bias=False).double()
    x = torch.rand(2, 4, 7, 10, dtype=torch.float64, requires_grad=True)
    rules = {
        "epsilon": epsilon_rule(1e-12),
        "z-box": zbox_rule((-1.0,) * 4, (2.0,) * 4, 1e-12),
        "alpha1-beta0": alpha_beta_rule(bias=False, epsilon=1e-12),
    }
    with torch.no_grad():
        y, back = chain_of([conv, nn.ReLU()]).run(Flow(x.detach(), True))
        start, ledger = torch.rand_like(y.value) * y.value, Ledger(2, y.value.device)
        found = back(start, Way(rules[kind], ledger, rules[kind]))
    assert found.shape == x.shape
    assert torch.allclose(found.sum((1, 2, 3)) + ledger.absorbed, start.sum((1, 2, 3)), rtol=1e-6)
    if kind == "epsilon":
        z = conv(x)
        (gradient,) = torch.autograd.grad((z * torch.where(z > 0, start / z, 0).detach()).sum(), x)
        assert torch.allclose(found, gradient * x.detach(), rtol=1e-6)


def test_what_only_a_bias_holds_up_is_spread_over_the_map_alone() -> None:
    conv = SameConv2d(2, 4, 3, 2, 1).double()
    with torch.no_grad():
        conv.weight.copy_(-conv.weight.abs())
        conv.bias.fill_(10.0)  # type: ignore[union-attr]
    x = torch.rand(1, 2, 6, 5, dtype=torch.float64) + 0.1
    with torch.no_grad():
        y, back = chain_of([conv, nn.ReLU()]).run(Flow(x, True))
        ledger, rule = Ledger(1, x.device), alpha_beta_rule(bias=False)
        found = back(y.value, Way(rule, ledger, rule))
        expected = torch.zeros_like(x)
        for i in range(3):
            for j in range(3):
                window = expected[0, :, 2 * i : 2 * i + 3, max(0, 2 * j - 1) : 2 * j + 2]
                window += y.value[0, :, i, j].sum() / window.numel()
    assert torch.allclose(found, expected)
    assert float(ledger.absorbed) == pytest.approx(0, abs=1e-9)


# --- Weights. -------------------------------------------------------------------------------------


def test_the_packages_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path, and found in the package; every tensor arrives at its place."""
    state = package_state()
    assert renamed(state).keys() == EfficientNetLite0().state_dict().keys()
    path = tmp_path / "package" / efficientnet_lite.FILE
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    whole = EfficientNetLite0()
    whole.load_state_dict(renamed(state))
    x = torch.randn(1, 3, 48, 48)
    expected = whole.eval().features[:17](x)
    monkeypatch.setattr(weights.efficientnet_lite, "packaged_weights", lambda: path)
    for named in (str(path), "imagenet"):
        net = pretrained_backbone(replace(SMALL, weights=named, output_stride=16)).eval()
        assert torch.equal(net.stages_until("layer3")[0](x), whole.features[:2](x))
        names = {n for n in net.state_dict() if "num_batches" not in n}
        assert len(names) == sum("num_batches" not in n for n in whole.features[:17].state_dict())
    flat = [v for n, v in net.state_dict().items() if "num_batches" not in n]
    theirs = [v for n, v in whole.features[:17].state_dict().items() if "num_batches" not in n]
    assert all(torch.equal(a, b) for a, b in zip(flat, theirs, strict=True)) and expected.shape[1] == 320


def test_a_run_lends_its_backbone(tmp_path: Path) -> None:
    """The tensors that a run stores are all it takes to build the same network again."""
    from safetensors.numpy import save_file

    model = segmenter()
    save_file(state_arrays(model), tmp_path / "step-0.safetensors")
    again = pretrained_backbone(replace(SMALL, weights=str(tmp_path / "step-0.safetensors"))).eval()
    x = torch.randn(1, 3, 48, 48)
    assert torch.equal(again(x), model.backbone(x))


def test_without_the_package_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(ConfigError, match=r"extra \[efficientnet\]"):
        pretrained_backbone(replace(SMALL, weights="imagenet"))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    state = package_state()
    del state["_blocks.3._bn1.weight"]
    torch.save(state, tmp_path / "lacking.pth")
    with pytest.raises(ConfigError, match="lacks 1 tensors"):
        pretrained_backbone(replace(SMALL, weights=str(tmp_path / "lacking.pth")))


DOMESTIC = {"cat": range(281, 286), "chelsea": range(281, 286), "dog": range(151, 269), "sheep": range(348, 351)}
"""ImageNet's numbers of the kinds of cats, dogs, and of ram, bighorn and ibex."""


def test_it_recognises_photographs_with_the_packages_weights() -> None:
    path = packaged_weights()
    if path is None:
        pytest.skip(f"the package {efficientnet_lite.PACKAGE} is not installed")
    net = EfficientNetLite0().eval()
    net.load_state_dict(renamed(torch.load(path, "cpu", weights_only=True)))
    for name, kinds in DOMESTIC.items():
        picture = centre_square(np.asarray(Image.open(PHOTOGRAPHS / f"{name}.jpg").convert("RGB")), 224)
        with torch.no_grad():
            logits = net(torch.from_numpy(to_input(picture[None])))[0]
        assert int(logits.argmax()) in kinds, name
