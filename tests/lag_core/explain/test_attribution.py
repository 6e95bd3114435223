"""Attributions and their checks: against formulas by hand, and the model left alone."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lag_core.config import ModelConfig
from lag_core.explain.attribution import METHODS, PATH_STEPS, Attribution, attribute
from lag_core.explain.attribution_checks import (
    agreement,
    cascade,
    pointing,
    randomised,
    rank_correlation,
    top_area,
)
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.relevance.lrp import FoldedSegmenter, NotFinite
from lag_core.relevance.target import Target

torch.set_num_threads(1)


@cache
def model() -> Segmenter:
    torch.manual_seed(0)
    config = ModelConfig(backbone="mobilenet_v2", latent=8, head_width=8)
    network = Segmenter(config, (1, 2))
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


def image() -> Tensor:
    return torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def target() -> Target:
    return Target.region(2, slice(8, 40), slice(10, 30), (48, 48))


def score(images: Tensor, network: Segmenter | None = None) -> Tensor:
    return upsample((network or model())(images).logits, (48, 48))[:, 2, 8:40, 10:30].sum((1, 2))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_the_same_score_and_leaves_the_model_alone(method: str) -> None:
    network = model()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = attribute(network, image(), target(), method)  # type: ignore[arg-type]
    assert found.method == method
    assert found.map.shape == (48, 48) and found.map.dtype == np.float32 and np.ptp(found.map) > 0
    assert found.channels.shape == (8,)
    assert found.score == pytest.approx(float(score(image()).detach()), rel=1e-4)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(m, name) for m in network.modules() for name in hooks)


def test_conservation_where_it_is_promised() -> None:
    errors = {m: attribute(model(), image(), target(), m).conservation for m in METHODS}  # type: ignore[arg-type]
    assert errors["lrp"] is not None and errors["lrp"] <= 1e-3
    assert errors["lrp-epsilon"] is not None and errors["lrp-epsilon"] <= 1e-3
    assert errors["integrated-gradients"] is not None
    assert errors["occlusion"] is None


@pytest.mark.parametrize("method", ["gradient-x-input", "grad-cam"])
def test_the_gap_of_a_map_that_promises_nothing(method: str) -> None:
    """It is that of the map's own sum, of Grad-CAM at the cells of Z."""
    found = attribute(model(), image(), target(), method)  # type: ignore[arg-type]
    total = float(found.map.astype(np.float64).sum())
    if method == "grad-cam":
        total /= (48 / model()(image()).latent.shape[-1]) ** 2  # each cell of Z is that many pixels
    assert found.conservation == pytest.approx(abs(total - found.score) / abs(found.score), rel=1e-3)
    assert found.conservation > 1e-3


def test_grad_cam_has_no_gap_where_it_splits_the_score() -> None:
    """A linear head without bias, a target that is the whole picture, and nothing for ReLU to cut."""
    network = copy.deepcopy(model())
    head = nn.Conv2d(8, 3, 1, bias=False)
    nn.init.ones_(head.weight)
    network.heads = nn.ModuleList([head]).eval()
    found = attribute(network, image(), Target.region(2, slice(0, 48), slice(0, 48), (48, 48)), "grad-cam")
    assert found.conservation is not None and found.conservation < 1e-4
    part = attribute(network, image(), target(), "grad-cam").conservation
    assert part is not None and part > 1e-3, "weights are means over the whole map, so that a part's score is not split"


def test_gradient_times_input_by_hand() -> None:
    leaf = image().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf), leaf)
    expected = (gradient * leaf).sum(1)[0].detach().numpy()
    assert np.allclose(attribute(model(), image(), target(), "gradient-x-input").map, expected, atol=1e-5)


def test_integrated_gradients_by_hand() -> None:
    network, x = copy.deepcopy(model()).double(), image().double()  # in float32, ReLUs flip with the batch size
    nodes, weights = np.polynomial.legendre.leggauss(PATH_STEPS)
    total = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        leaf = (x * node).requires_grad_()
        (gradient,) = torch.autograd.grad(score(leaf, network), leaf)
        total += weight * gradient
    expected = (total * x).sum(1)[0].numpy()
    found = attribute(network, x, target(), "integrated-gradients")
    assert np.allclose(found.map, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    with torch.no_grad():
        owed = float(score(x, network) - score(torch.zeros_like(x), network))
    assert found.conservation == pytest.approx(abs(expected.sum() - owed) / abs(owed), rel=1e-3)


def test_grad_cam_by_hand() -> None:
    latent = model()(image()).latent.detach().requires_grad_()
    logits = upsample(model().decode(latent), (48, 48))[:, 2, 8:40, 10:30].sum()
    (gradient,) = torch.autograd.grad(logits, latent)
    weighted = sum(gradient[0, c].mean() * latent[0, c] for c in range(8))
    expected = upsample(weighted.relu()[None, None], (48, 48))[0, 0].detach().numpy()
    assert np.allclose(attribute(model(), image(), target(), "grad-cam").map, expected, rtol=1e-3, atol=1e-5)


def test_occlusion_by_hand() -> None:
    """Each place gets the mean loss of score over the grey squares that cover it."""
    total, count = np.zeros((48, 48)), np.zeros((48, 48))
    with torch.no_grad():
        whole = float(score(image()))
        for top in (0, 16):
            for left in (0, 16):
                covered = image()
                covered[..., top : top + 32, left : left + 32] = 0
                total[top : top + 32, left : left + 32] += whole - float(score(covered))
                count[top : top + 32, left : left + 32] += 1
    found = attribute(model(), image(), target(), "occlusion").map
    assert np.allclose(found, total / count, rtol=1e-3, atol=1e-3 * np.abs(total).max())


def test_mistakes_are_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="unknown attribution method"):
        attribute(model(), image(), target(), "saliency")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one image"):
        attribute(model(), image().repeat(2, 1, 1, 1), target())
    with pytest.raises(NotFinite):
        attribute(model(), image() * float("nan"), target(), "gradient-x-input")
    training = Segmenter(ModelConfig(backbone="resnet18", latent=4, head_width=4), (1,))
    with pytest.raises(ValueError, match="training mode"):
        attribute(training, image(), Target(0))


# --- Checks. --------------------------------------------------------------------------------------------------


def test_agreement_of_maps() -> None:
    a = np.array([[4.0, 3.0, 0.0, -9.0, 0.0], [0.0] * 5])
    b = np.array([[0.0, 3.0, 4.0, 9.0, 0.0], [0.0] * 5])
    found = agreement(a, b)
    assert found.cosine == pytest.approx(9 / (5 * np.sqrt(9 + 16 + 81)))
    assert found.top_iou == pytest.approx(0.0)  # tops: {0, 1} and {2, 3}
    assert agreement(a, a) == agreement(a, 7 * a)
    assert (agreement(a, a).cosine, agreement(a, a).top_iou) == (pytest.approx(1.0), 1.0)
    assert np.isnan(agreement(a, -np.abs(a)).cosine)
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(a, a.T)


def test_top_area_takes_a_fifth_also_of_equal_values() -> None:
    assert top_area(np.zeros((10, 10))).sum() == 20
    values = np.random.default_rng(0).random((10, 10))
    assert values[top_area(values)].min() > values[~top_area(values)].max()


def test_pointing_counts_positive_relevance_alone() -> None:
    values = np.array([[3.0, 1.0], [-5.0, 4.0]])
    mask = np.array([[True, False], [True, False]])
    found = pointing(values, mask)
    assert (found.inside, found.area, found.hit) == (3 / 8, 0.5, False)
    without = pointing(values, mask, counted=np.array([[True, True], [True, False]]))
    assert (without.inside, without.area, without.hit) == (3 / 4, 2 / 3, True)
    assert np.isnan(pointing(-np.abs(values), mask).inside)
    with pytest.raises(ValueError, match="do not fit"):
        pointing(values, mask, counted=np.zeros((2, 2), bool))


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40), rng.integers(0, 5, 40)

    def slow_ranks(x: np.ndarray) -> np.ndarray:
        return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])

    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(slow_ranks(a), slow_ranks(b))[0, 1])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert np.isnan(rank_correlation(a, np.ones(40)))


def test_cascade_shuffles_from_the_heads_down_and_spares_the_model() -> None:
    network = model()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    order = ["heads", "aspp", "layer4", "layer3", "layer2", "layer1", "stem"]
    for i, (part, shuffled) in enumerate(cascade(network)):
        assert part == order[i]
        for name, tensor in shuffled.state_dict().items():
            owner = name.split(".")[1] if name.startswith("backbone") else name.split(".")[0]
            if order.index(owner) > i:
                assert torch.equal(tensor, before[name])
            elif name.endswith("conv.weight") or name == "heads.0.classify.weight":
                assert not torch.equal(tensor, before[name])
                assert torch.equal(tensor.flatten().sort()[0], before[name].flatten().sort()[0])
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_randomised_weights_change_the_map_and_a_constant_map_is_found_out() -> None:
    def latent_map(network: Segmenter) -> np.ndarray:
        view = FoldedSegmenter(network)
        return view.record(image()).relevance(target(), "epsilon", "trunk").map[0].numpy()

    def edges(network: Segmenter) -> np.ndarray:
        return image()[0, 0].diff(dim=0).numpy()

    assert [r.part for r in randomised(model(), latent_map)][-1] == "stem"
    assert abs(randomised(model(), latent_map)[-1].signed) < 0.9
    assert all(r.signed == pytest.approx(1.0) for r in randomised(model(), edges))


def test_an_attribution_is_plain_numpy() -> None:
    found = attribute(model(), image(), target(), "lrp-epsilon", view=FoldedSegmenter(model()))
    assert isinstance(found, Attribution) and isinstance(found.map, np.ndarray)
    assert float(found.map.sum()) + found.absorbed == pytest.approx(found.score, rel=1e-3)
