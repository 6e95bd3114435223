"""LRP: rules against matrices written out in loops, conservation on every backbone, the model left alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from batch_norms import lively
from torch import Tensor, nn

from lag_core.config import ModelConfig
from lag_core.model.aspp import ImagePooling
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.relevance.layers import (
    Convolution,
    Flow,
    MaxPool,
    Parallel,
    PooledBranch,
    Residual,
    Way,
    chain_of,
)
from lag_core.relevance.lrp import FoldedSegmenter, NotFinite, lrp
from lag_core.relevance.rules import (
    Composite,
    Ledger,
    Rule,
    alpha_beta_rule,
    composites,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    zbox_rule,
)
from lag_core.relevance.target import Target, downsample_weights

torch.set_num_threads(1)

BACKBONES = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large")
LOW, HIGH = (-2.0, -1.5), (2.0, 2.5)


# --- The slow second implementation: one layer as a dense matrix, the rules as they are printed. --


def matrix_of(conv: nn.Conv2d, size: tuple[int, int]) -> np.ndarray:
    """[inputs, outputs] weights of a convolution on a map of `size`, written out place by place."""
    height, width = size
    with torch.no_grad():
        out_h, out_w = conv(torch.zeros(1, conv.in_channels, *size, dtype=conv.weight.dtype)).shape[2:]
    matrix = np.zeros((conv.in_channels, height, width, conv.out_channels, out_h, out_w))
    per_group, out_per_group = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    kernel = conv.weight.detach().numpy()
    places = itertools.product(range(conv.out_channels), range(out_h), range(out_w), *map(range, kernel.shape[1:]))
    for j, y, x, i, ky, kx in places:
        row = y * conv.stride[0] - conv.padding[0] + ky * conv.dilation[0]
        column = x * conv.stride[1] - conv.padding[1] + kx * conv.dilation[1]
        if 0 <= row < height and 0 <= column < width:
            channel = j // out_per_group * per_group + i
            matrix[channel, row, column, j, y, x] += kernel[j, i, ky, kx]
    return matrix.reshape(conv.in_channels * height * width, -1)


def divided(contributions: np.ndarray, bias: np.ndarray, relevance: np.ndarray, eps: float) -> np.ndarray:
    """Relevance of the inputs, in proportion to contributions [inputs, outputs]; absolute eps."""
    result = np.zeros(len(contributions))
    for j in range(contributions.shape[1]):
        z = contributions[:, j].sum() + bias[j]
        z += eps if z >= 0 else -eps
        result += contributions[:, j] / z * relevance[j]
    return result


def contributions_of(kind: str, a: np.ndarray, w: np.ndarray, j_positive: bool, fan: np.ndarray) -> np.ndarray:
    """c_i of one output, from inputs a [n] and its weights w [n]. fan: the inputs that it sees."""
    c = a * w
    agree = np.where(c > 0, c, 0) if j_positive else np.where(c < 0, c, 0)
    if kind == "epsilon":
        return c
    if kind == "gamma":
        return c + 0.25 * agree
    if kind == "agree":
        return agree
    if kind == "oppose":
        return c - agree
    if kind == "flat":
        return fan.astype(float)
    raise AssertionError(kind)


def slow_rule(
    kind: str,
    a: np.ndarray,
    matrix: np.ndarray,
    bias: np.ndarray,
    relevance: np.ndarray,
    eps: float,
    box: tuple,
) -> np.ndarray:
    """Relevance of the inputs under rule `kind`, output by output."""
    result = np.zeros_like(a)
    z = a @ matrix + bias
    for j in range(matrix.shape[1]):
        w, up = matrix[:, j], z[j] >= 0
        signed = (max if up else min)(bias[j], 0)
        opposed = bias[j] - signed
        if kind == "z-box":
            low, high = box
            parts = [(1.0, a * w - low * np.maximum(w, 0) - high * np.minimum(w, 0), 0.0)]
        elif kind == "alpha2-beta1":
            parts = [
                (2.0, contributions_of("agree", a, w, up, w != 0), signed),
                (-1.0, contributions_of("oppose", a, w, up, w != 0), opposed),
            ]
        elif kind == "alpha1-beta0":
            parts = [(1.0, contributions_of("agree", a, w, up, w != 0), signed)]
        else:
            b = {"epsilon": bias[j], "gamma": bias[j] + 0.25 * signed, "flat": 0.0}[kind]
            parts = [(1.0, contributions_of(kind, a, w, up, w != 0), b)]
        for coefficient, c, b in parts:
            part = divided(c[:, None], np.array([b]), relevance[j : j + 1], eps)
            result += coefficient * part
    return result


RULES: dict[str, Rule] = {
    "epsilon": epsilon_rule(1e-9),
    "gamma": gamma_rule(0.25, epsilon=1e-9),
    "alpha1-beta0": alpha_beta_rule(epsilon=1e-9),
    "alpha2-beta1": alpha_beta_rule(2, 1, epsilon=1e-9),
    "z-box": zbox_rule(LOW, HIGH, epsilon=1e-9),
    "flat": flat_rule(epsilon=1e-9),
}
CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 2},
    "pointwise": {"kernel_size": 1},
}


def run_layer(layer, x: Tensor, relevance, rule: Rule, nonnegative: bool) -> tuple[Tensor, Tensor, Tensor, Ledger]:
    """Output, start and input relevance, ledger of one layer. relevance: a function of the output."""
    with torch.no_grad():
        y, back = layer.run(Flow(x, nonnegative))
        start = relevance(y.value)
        ledger = Ledger(len(x), x.device)
        return y.value, start, back(start, Way(rule, ledger, rule)), ledger


@pytest.mark.parametrize("activation", [None, nn.ReLU()])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
@pytest.mark.parametrize("kind", RULES)
def test_rule_is_its_matrix_form(kind: str, shape: str, nonnegative: bool, activation: nn.Module | None) -> None:
    torch.manual_seed(len(kind) + len(shape))
    conv = nn.Conv2d(2, 4, **CONVOLUTIONS[shape]).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    x = x.abs() if nonnegative else x
    layer = Convolution(conv, None, activation)
    # as after an activation function: relevance only where the output is not zero
    y, start, found, ledger = run_layer(layer, x, lambda y: torch.randn_like(y) * (y != 0), RULES[kind], nonnegative)

    box = tuple(np.repeat(bounds, 20) for bounds in (LOW, HIGH))
    bias = conv.bias.detach().repeat_interleave(y[0, 0].numel()).numpy()
    expected = slow_rule(
        kind, x.numpy().ravel(), matrix_of(conv, (5, 4)), bias, start.numpy().ravel(), 1e-12, box
    )  # fmt: skip
    assert np.allclose(found.numpy().ravel(), expected, rtol=1e-5, atol=1e-6)
    assert float(found.sum() + ledger.absorbed) == pytest.approx(float(start.sum()), abs=1e-8)


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.Hardswish()])
def test_what_the_stabiliser_and_the_bias_keep_is_accounted_for(activation: nn.Module | None, epsilon: float) -> None:
    torch.manual_seed(0)
    layer = Convolution(nn.Conv2d(3, 8, 3).double(), nn.BatchNorm2d(8).double(), activation)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    _, start, found, ledger = run_layer(layer, x, lambda y: y * torch.rand_like(y), epsilon_rule(epsilon), False)
    sums = found.sum((1, 2, 3)) + ledger.absorbed
    assert torch.allclose(sums, start.sum((1, 2, 3)), rtol=1e-12)
    assert (ledger.absorbed.abs() > 1e-9).all()


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_what_only_a_bias_holds_up_is_spread_evenly(shape: str) -> None:
    """Outputs that no input supports, by alpha1-beta0 without biases: equal parts to every input they see."""
    conv = nn.Conv2d(2, 4, **CONVOLUTIONS[shape]).double()
    with torch.no_grad():
        conv.weight.copy_(-conv.weight.abs())
        conv.bias.fill_(10.0)  # type: ignore[union-attr]
    x = torch.rand(1, 2, 5, 4, dtype=torch.float64) + 0.1
    layer = Convolution(conv, None, nn.ReLU())
    _, start, found, ledger = run_layer(layer, x, torch.clone, alpha_beta_rule(bias=False), True)
    seen = matrix_of(conv, (5, 4)) != 0
    expected = np.zeros(x.numel())
    for j, relevance in enumerate(start.numpy().ravel()):
        expected[seen[:, j]] += relevance / seen[:, j].sum()
    assert np.allclose(found.numpy().ravel(), expected)
    assert float(ledger.absorbed) == pytest.approx(0, abs=1e-9)


def test_epsilon_damps_by_the_mean_of_the_layer() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False).double()
    nn.init.constant_(conv.weight, 1.0)
    x = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64)
    _, _, found, _ = run_layer(Convolution(conv, None, None), x, torch.clone, epsilon_rule(0.5), True)
    # mean |z| = 2, so eps = 1: R = x / (x + 1) * x
    assert torch.allclose(found, torch.tensor([[[[0.5, 2.25]]]], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["epsilon", "gamma", "alpha1-beta0", "alpha2-beta1"])
@pytest.mark.parametrize("rectified", [True, False])
def test_residual_addition_is_a_layer_with_weights_one(kind: str, rectified: bool) -> None:
    torch.manual_seed(1)
    body = nn.Conv2d(3, 3, 1, bias=False).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    u = body(x).detach()
    layer = Residual(chain_of(body), None, nn.ReLU() if rectified else None)
    y, start, found, _ = run_layer(layer, x, lambda y: torch.randn_like(y) * (y != 0), RULES[kind], False)
    assert torch.allclose(y, (u + x).relu() if rectified else u + x)

    n = x.numel()
    pair = np.concatenate([u.numpy().ravel(), x.numpy().ravel()])
    ones = np.concatenate([np.eye(n), np.eye(n)])
    both = slow_rule(kind, pair, ones, np.zeros(n), start.numpy().ravel(), 1e-12, ())
    expected = both[n:] + slow_rule(
        kind, x.numpy().ravel(), matrix_of(body, (2, 2)), np.zeros(n), both[:n], 1e-12, ()
    )  # fmt: skip
    assert np.allclose(found.numpy().ravel(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-9, 0.1])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("rectified", [True, False])
def test_a_residual_block_under_epsilon_is_one_linear_layer(epsilon: float, projected: bool, rectified: bool) -> None:
    """The last convolution of the body, the shortcut and the addition, with the biases of both: one matrix."""
    torch.manual_seed(2)
    body = nn.Conv2d(3, 3, 3, padding=1).double()
    shortcut = nn.Conv2d(3, 3, 1).double() if projected else None
    x = torch.randn(1, 3, 3, 2, dtype=torch.float64)
    layer = Residual(chain_of(body), None if shortcut is None else chain_of(shortcut), nn.ReLU() if rectified else None)
    y, start, found, ledger = run_layer(
        layer, x, lambda y: torch.randn_like(y) * (y != 0), epsilon_rule(epsilon), False
    )
    matrix, places = matrix_of(body, (3, 2)), y[0, 0].numel()
    bias = body.bias.detach().repeat_interleave(places).numpy()
    if shortcut is None:
        matrix = matrix + np.eye(x.numel())
    else:
        matrix = matrix + matrix_of(shortcut, (3, 2))
        bias = bias + shortcut.bias.detach().repeat_interleave(places).numpy()
    relevance, own = start.numpy().ravel(), epsilon * float(y.abs().mean())
    expected = divided(x.numpy().ravel()[:, None] * matrix, bias, relevance, own)
    assert np.allclose(found.numpy().ravel(), expected, rtol=1e-9)
    assert float(found.sum() + ledger.absorbed) == pytest.approx(float(start.sum()), abs=1e-9)


def test_a_residual_block_of_another_form_is_refused() -> None:
    conv = nn.Conv2d(2, 2, 1)
    for body, skip in (([conv, nn.ReLU()], None), ([conv], [conv, conv]), ([conv], [nn.MaxPool2d(1)])):
        with pytest.raises(TypeError, match="LRP knows"):
            Residual(chain_of(body), None if skip is None else chain_of(skip), nn.ReLU())


def test_max_pooling_gives_all_to_the_winner() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    pool = nn.MaxPool2d(3, 2, 1)
    y, start, found, _ = run_layer(MaxPool(pool), x, torch.rand_like, epsilon_rule(), False)
    expected = torch.zeros_like(x)
    for b, c, i, j in itertools.product(*map(range, y.shape)):
        window = [
            (x[b, c, row, column].item(), row, column)
            for row in range(2 * i - 1, 2 * i + 2)
            for column in range(2 * j - 1, 2 * j + 2)
            if 0 <= row < 7 and 0 <= column < 6
        ]
        _, row, column = max(window)
        expected[b, c, row, column] += start[b, c, i, j]
    assert torch.equal(found, expected)


def test_concatenation_adds_the_branches_relevance() -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 2, 1).double(), nn.Conv2d(3, 4, 3, padding=1).double()]
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    both = Parallel([chain_of(conv) for conv in convs])
    _, _, found, ledger = run_layer(both, x, torch.clone, epsilon_rule(), False)
    parts = [run_layer(chain_of(c), x, torch.clone, epsilon_rule(), False) for c in convs]
    assert torch.allclose(found, parts[0][2] + parts[1][2])
    assert torch.allclose(ledger.absorbed, parts[0][3].absorbed + parts[1][3].absorbed)


# --- The whole network. ---------------------------------------------------------------------------


def segmenter(backbone: str, shared: str = "layer4", seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    config = ModelConfig(backbone=backbone, latent=16, head_width=8, shared=shared)  # type: ignore[arg-type]
    model = Segmenter(config, (1, 2, 2)).eval()
    lively(model, seed)
    return model


def disc(size: int = 48) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (rows - size / 3) ** 2 + (columns - size / 2) ** 2 < (size / 4) ** 2


@pytest.mark.parametrize("backbone", BACKBONES)
def test_conservation_and_the_models_own_logits(backbone: str) -> None:
    model = segmenter(backbone, "layer3")
    images = torch.randn(2, 3, 48, 48)
    recording = FoldedSegmenter(model).record(images)
    target = Target(3, disc())
    with torch.no_grad():
        logits = model(images).logits
    assert torch.allclose(recording.logits, logits, rtol=1e-4, atol=1e-5)
    score = (upsample(logits, (48, 48))[:, 3] * disc()).double().sum((1, 2))
    shapes = {"pixels": images.shape, "latent": recording.latent.shape, "trunk": recording.features.shape}
    asked = [(name, "pixels") for name in composites()] + [("epsilon", "latent"), ("composite", "trunk")]
    for composite, to in asked:
        found = recording.relevance(target, composite, to)  # type: ignore[arg-type]
        assert torch.allclose(found.score, score, rtol=1e-4)
        assert found.error.max() <= 1e-5, (composite, to, found.error)
        assert found.values.shape == shapes[to]
        assert torch.equal(found.map, found.values.sum(1))
        assert found.channels.shape == (2, 16)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_epsilon_goes_to_gradient_times_input(backbone: str) -> None:
    """With ReLUs alone, LRP-epsilon for eps -> 0 is gradient x input: autograd is the second form."""
    if backbone == "mobilenet_v3_large":
        pytest.skip("hardswish and gates are not piecewise linear: there the two differ")
    model = segmenter(backbone).double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    weights = torch.rand_like(model(images).logits.detach())
    (gradient,) = torch.autograd.grad((model(images).logits * weights).sum(), images)
    tiny = epsilon_rule(1e-12)
    found = lrp(model, images, weights, Composite("tiny", tiny, tiny, tiny))
    expected = (gradient * images).detach()
    assert (found.values - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_relevance_of_an_image_does_not_depend_on_its_batch() -> None:
    view = FoldedSegmenter(segmenter("mobilenet_v2"))
    images = torch.randn(3, 3, 48, 48) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1, 1)
    together = lrp(view, images, Target(1), "composite")
    alone = lrp(view, images[2:], Target(1), "composite")
    assert torch.allclose(together.values[2:], alone.values, rtol=1e-3, atol=1e-6 * float(alone.values.abs().max()))


def test_a_recording_answers_the_same_question_twice_alike() -> None:
    recording = FoldedSegmenter(segmenter("resnet18")).record(torch.randn(1, 3, 48, 48))
    first = [recording.relevance(Target(2), c).values for c in ("epsilon", "composite", "composite-gamma")]
    again = [recording.relevance(Target(2), c).values for c in ("epsilon", "composite", "composite-gamma")]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_composite_brings_all_that_enters_the_backbone_to_the_pixels(backbone: str) -> None:
    recording = FoldedSegmenter(segmenter(backbone)).record(torch.rand(1, 3, 48, 48) - 0.5)
    pixels = recording.relevance(Target(2, disc()), "composite")
    trunk = recording.relevance(Target(2, disc()), "composite", "trunk")
    assert float(pixels.values.sum()) == pytest.approx(float(trunk.values.sum()), rel=1e-3)
    assert float(pixels.absorbed) == pytest.approx(float(trunk.absorbed), rel=1e-3)


def test_composite_keeps_the_sign() -> None:
    """alpha1-beta0 without biases: what enters the ResNet from above arrives at the pixels."""
    view = FoldedSegmenter(segmenter("resnet18"))
    recording = view.record(torch.rand(1, 3, 48, 48) - 0.5)
    start = torch.rand_like(recording.features)
    ledger = Ledger(1, start.device)
    rules = composites()["composite"]
    with torch.no_grad():
        way = Way(rules.backbone, ledger, rules.image)
        down = recording._back_trunk(start * recording.features, way)  # type: ignore[misc]
    assert down.min() >= 0 and float(down.sum()) == pytest.approx(float((start * recording.features).sum()), rel=1e-4)


def test_trunk_features_and_a_lent_trunk_give_the_same_relevance() -> None:
    old, new = segmenter("resnet18", "layer3"), segmenter("resnet18", "layer3", seed=1)
    new.backbone.load_state_dict(old.backbone.state_dict())
    images, target = torch.randn(1, 3, 48, 48), Target(2, disc())
    first = FoldedSegmenter(old)
    second = FoldedSegmenter(new, like=first)
    assert second.trunk is first.trunk
    expected = lrp(new, images, target).values
    assert torch.equal(lrp(second, images, target).values, expected)
    taken_over = second.record(images, like=first.record(images))
    assert torch.equal(taken_over.relevance(target).values, expected)
    with pytest.raises(ValueError, match="shared trunk"):
        FoldedSegmenter(new).record(images, like=first.record(images))
    whole = second.record(images)
    behind = second.record(whole.features)
    assert torch.equal(behind.relevance(target, to="trunk").values, whole.relevance(target, to="trunk").values)
    with pytest.raises(ValueError, match="give the images"):
        behind.relevance(target)


def test_a_view_keeps_the_weights_of_its_construction() -> None:
    model = segmenter("resnet18")
    view, images = FoldedSegmenter(model), torch.randn(1, 3, 48, 48)
    before = lrp(view, images, Target(1))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(1.1)
    assert torch.equal(lrp(view, images, Target(1)).values, before.values)
    assert not torch.equal(lrp(model, images, Target(1)).values, before.values)


# --- The model is left alone. ---------------------------------------------------------------------


def fingerprint(model: nn.Module) -> dict[str, object]:
    """Everything that an explanation might change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "versions": [t._version for t in itertools.chain(model.parameters(), model.buffers())],
        "identity": [id(t) for t in itertools.chain(model.parameters(), model.buffers())],
        "flags": [m.training for m in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "hooks": [len(getattr(m, name)) for m in model.modules() for name in hooks],
        "forwards": ["forward" in vars(m) for m in model.modules()],
        "names": [name for name, _ in model.named_modules()],
    }


def assert_untouched(before: dict[str, object], model: nn.Module) -> None:
    after = fingerprint(model)
    tensors, now = before.pop("tensors"), after.pop("tensors")
    assert all(torch.equal(tensors[k], now[k]) for k in tensors)  # type: ignore[index, attr-defined]
    assert before == after


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_model_is_afterwards_as_it_was(backbone: str) -> None:
    model = segmenter(backbone)
    model.train()
    model.heads[0].eval()
    model.backbone.requires_grad_(False)
    before = fingerprint(model)
    for composite in ("epsilon", "composite"):
        lrp(model, torch.randn(1, 3, 48, 48), Target(1), composite)
    assert_untouched(before, model)


def test_the_model_is_as_it_was_also_after_an_error() -> None:
    model = segmenter("resnet18")
    before = fingerprint(model)
    with pytest.raises(NotFinite, match="not finite"):
        lrp(model, torch.full((1, 3, 48, 48), float("nan")), Target(1))
    model.heads[0].relu = nn.GELU()
    with pytest.raises(TypeError, match="GELU"):
        lrp(model, torch.randn(1, 3, 48, 48), Target(1))
    model.heads[0].relu = nn.ReLU().eval()
    assert_untouched(before, model)


def test_mistakes_are_said_in_a_sentence() -> None:
    view = FoldedSegmenter(segmenter("resnet18"))
    recording = view.record(torch.randn(1, 3, 48, 48))
    with pytest.raises(ValueError, match=r"channels 0\.\.4"):
        recording.relevance(Target(5))
    with pytest.raises(ValueError, match="unknown composite"):
        recording.relevance(Target(1), "best")
    with pytest.raises(ValueError, match="allowed are pixels"):
        recording.relevance(Target(1), to="image")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected images"):
        view.record(torch.randn(1, 4, 48, 48))
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        alpha_beta_rule(2, 2)
    with pytest.raises(ValueError, match="epsilon > 0"):
        epsilon_rule(0.0)


# --- Targets. -------------------------------------------------------------------------------------


def test_downsampled_weights_are_the_transpose_of_upsampling() -> None:
    torch.manual_seed(0)
    logits, weights = torch.randn(2, 1, 4, 5, dtype=torch.float64), torch.rand(2, 32, 40, dtype=torch.float64)
    low = downsample_weights(weights, (4, 5))
    assert torch.allclose((low * logits[:, 0]).sum(), (weights * upsample(logits, (32, 40))[:, 0]).sum())


def test_targets_pick_what_they_say() -> None:
    logits = torch.randn(2, 4, 8, 8)
    full = upsample(logits, (48, 48))
    cases = (
        (Target.pixel(2, 5, 40, (48, 48)), full[:, 2, 5, 40]),
        (Target.region(1, slice(3, 9), slice(0, 7), (48, 48)), full[:, 1, 3:9, 0:7].sum((1, 2))),
        (Target(0), logits[:, 0].sum((1, 2))),
        (Target(3, torch.eye(8)), (logits[:, 3] * torch.eye(8)).sum((1, 2))),
    )
    for target, score in cases:
        assert torch.allclose((target.weights(logits) * logits).sum((1, 2, 3)), score, atol=1e-4)
    with pytest.raises(ValueError, match="no pixel"):
        Target.region(0, slice(70, 71), slice(0, 1), (48, 48))
    with pytest.raises(ValueError, match="expected"):
        Target(0, torch.ones(3, 8, 8)).weights(logits)


def test_image_pooling_spreads_the_mean() -> None:
    torch.manual_seed(0)
    module = ImagePooling(3, 2).double()
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    y, start, found, ledger = run_layer(PooledBranch(module), x, torch.clone, epsilon_rule(1e-9), True)
    assert torch.allclose(y, module(x))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf).sum(), leaf)
    assert torch.allclose(found, gradient * x, atol=1e-6)
    assert torch.allclose(found.sum() + ledger.absorbed, start.sum())
