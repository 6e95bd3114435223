"""LRP on recorded passes: conservation, against zennit and against our own networks; what has no rule is refused."""

from __future__ import annotations

from typing import Any

import own_adapters
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.relevance.rules import composites
from lag_core.relevance.tape import NoRule, TapedPass
from lag_core.relevance.target import Target

torch.set_num_threads(1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def block(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.01, inplace=True),
    )


class InPlaceNorm(nn.BatchNorm2d):
    """As InPlaceABN computes: |gamma| + eps, and a leaky ReLU that overwrites."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.abs() + self.eps
        return F.leaky_relu_(F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, self.training))


class UNet(nn.Module):
    """Grouped and transposed convolutions, concatenating skips, bilinear resizing, pooling, a gate, a residual sum."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.down1, self.down2 = block(3, 8), block(8, 16, groups=4)
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), InPlaceNorm(16))
        self.up = nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1)
        self.after_up = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.latent = block(16, 8)
        self.classify = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        second = second + self.deep(second)
        up = F.relu(self.after_up(self.up(second)))
        up = up * self.squeeze(F.adaptive_avg_pool2d(up, 1)).sigmoid()
        z = self.latent(torch.cat([up, first], 1))
        return F.interpolate(self.classify(z), size=x.shape[-2:], mode="bilinear", align_corners=False)


def trained(net: nn.Module, side: int = 32) -> nn.Module:
    """Batch norms know pictures of noise, and gammas of either sign."""
    torch.manual_seed(1)
    net.train()
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(4, 3, side, side))
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 0, 1)
        nn.init.normal_(norm.bias, 0, 0.1)
    return net.eval().requires_grad_(False)


def taped(net: Any, images: Tensor, latent: nn.Module | None = None) -> TapedPass:
    return TapedPass(net, net.latent if latent is None else latent, images, MEAN, STD)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.manual_seed(0)
    return trained(UNet())


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).clamp(-2, 2)


@pytest.mark.parametrize("composite", tuple(composites()))
@pytest.mark.parametrize("to", ["pixels", "latent"])
def test_relevance_is_conserved(unet: nn.Module, composite: str, to: Any) -> None:
    recording = taped(unet, IMAGES)
    assert torch.allclose(recording.logits, unet(IMAGES), atol=1e-5)
    found = recording.relevance(Target(1), composite, to)
    assert found.values.shape == (IMAGES.shape if to == "pixels" else recording.latent.shape)
    assert float(found.error.max()) < 1e-3 and float(found.values.abs().sum()) > 0


def test_the_network_is_left_as_it_was(unet: nn.Module) -> None:
    before = unet(IMAGES)
    taped(unet, IMAGES).relevance(Target(0))
    assert torch.equal(unet(IMAGES), before)
    assert not unet.latent._forward_hooks


def test_epsilon_without_biases_is_gradient_times_input() -> None:
    """Of a network of leaky ReLUs, maximum pooling and sums that has no bias at all: the known identity."""
    torch.manual_seed(0)
    net = UNet()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.bias = None
    trained(net)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.bias.zero_(), norm.running_mean.zero_()
    net.squeeze.register_forward_hook(lambda _, __, output: output.detach())
    images = IMAGES[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(images)[:, 1].sum(), images)
    found = taped(net, images.detach()).relevance(Target(1), "epsilon")
    wanted = (images * slope).detach()
    assert float((found.values - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


@pytest.mark.parametrize("network", ["grouped", "transposed"])
def test_zennit_gives_the_same(network: str) -> None:
    """Epsilon and alpha-beta rules on layers that zennit knows, its stabiliser set as small as ours."""
    rules = pytest.importorskip("zennit.rules")
    attribution = pytest.importorskip("zennit.attribution")
    core = pytest.importorskip("zennit.composites")
    torch.manual_seed(0)
    middle = nn.Conv2d(8, 8, 3, padding=1, groups=4) if network == "grouped" else nn.ConvTranspose2d(8, 8, 4, 2, 1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(8, 2, 1))
    net.eval().requires_grad_(False)
    layers = [(nn.ReLU, rules.Pass()), (nn.Conv2d, rules.Epsilon(1e-9)), (nn.ConvTranspose2d, rules.Epsilon(1e-9))]
    net.double()
    images = IMAGES[:1].double().requires_grad_()
    with attribution.Gradient(net, core.LayerMapComposite(layers)) as attributor:
        chosen = torch.zeros_like(net(images))
        chosen[:, 1] = 1
        _, wanted = attributor(images, lambda output: output * chosen)
    found = TapedPass(net, net[3], images.detach(), MEAN, STD).relevance(Target(1), "epsilon")
    assert float((found.values - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


def test_it_agrees_with_the_engine_of_our_own_networks() -> None:
    from lag_core.config import ModelConfig
    from lag_core.model.segmenter import Segmenter

    torch.manual_seed(0)
    model = Segmenter(ModelConfig(backbone="resnet50", latent=16, head_width=16, output_stride=16), (2, 1))
    trained(_Logits(model), 64)
    images = IMAGES[:1].repeat(1, 1, 2, 2)
    own = FoldedSegmenter(model).record(images).relevance(Target(1), "epsilon")
    found = TapedPass(_Logits(model), model.aspp.project, images, MEAN, STD).relevance(Target(1), "epsilon")
    assert float(found.error) < 1e-3
    for mine, theirs in ((found.map, own.map), (found.channels, own.channels)):
        assert float((mine - theirs).abs().max()) < 0.02 * float(theirs.abs().max())


class _Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latent, self.norm = nn.Conv2d(3, 8, 1), nn.LayerNorm(8)
        self.classify = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.latent(x)
        return self.classify(self.norm(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Product(Attention):
    def forward(self, x: Tensor) -> Tensor:
        z = self.latent(x)
        return self.classify(z * z)


class Smooth(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.gelu(self.latent(x)))


class Squashed(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.latent(x).sigmoid())


@pytest.mark.parametrize(
    ("network", "named"),
    [(Attention, "permute"), (Product, "a product of two maps"), (Smooth, "gelu"), (Squashed, "conv2d")],
)
def test_what_has_no_rule_is_named(network: type[nn.Module], named: str) -> None:
    net = network().eval().requires_grad_(False)
    with pytest.raises(NoRule, match=named):
        taped(net, IMAGES)


@pytest.mark.parametrize("name", ["DeepLab", "FCN", "LRASPP"])
def test_torchvisions_networks_conserve(name: str, tmp_path: Any) -> None:
    adapter = getattr(own_adapters, name)()
    path = own_adapters.write_checkpoints(adapter, tmp_path)[1]
    net = adapter.load(path, 1, "cpu").eval().requires_grad_(False)
    images = IMAGES[:1].repeat(1, 1, 2, 2)
    found = TapedPass(lambda x: adapter.logits(net, x), net.get_submodule(adapter.latent), images, MEAN, STD)
    for composite in ("epsilon", "composite"):
        assert float(found.relevance(Target(1), composite).error.max()) < 1e-3, composite
