"""Replay of class statistics: moments, samples, storage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lag_core.method.classification import binary_cross_entropy
from lag_core.method.replay import (
    ClassStatistics,
    as_patches,
    patch_logits,
    rectified_gaussian,
)
from lag_core.model.heads import Head


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    mix = torch.randn(6, 6)
    latent = torch.einsum("dc,bchw->bdhw", mix, torch.randn(5, 6, 9, 8)).relu() + 0.1
    labels = torch.tensor([0, 2, 255])[torch.randint(0, 3, (5, 9, 8))]
    labels[:, :4] = 2
    return latent, labels


def gathered(batch: tuple[Tensor, Tensor], full: bool = False) -> ClassStatistics:
    latent, labels = batch
    stats = ClassStatistics(4, 6, full=full)
    for b in range(len(latent)):
        stats.update(latent[b : b + 1], labels[b : b + 1])
    return stats


def pixels_of(batch: tuple[Tensor, Tensor], k: int) -> Tensor:
    latent, labels = batch
    return torch.stack([latent[b, :, y, x] for b, y, x in (labels == k).nonzero().tolist()]).double()


@pytest.mark.parametrize("full", [False, True])
def test_streamed_moments_equal_those_of_all_pixels(batch, full):
    stats = gathered(batch, full)
    for k in (0, 2):
        pixels = pixels_of(batch, k)
        assert stats.count[k] == len(pixels)
        assert torch.allclose(stats.mean[k], pixels.mean(0))
        assert torch.allclose(stats.variance()[k], pixels.var(0, unbiased=False))
        if full:
            assert torch.allclose(stats.covariance()[k], pixels.T.cov(correction=0))
    assert stats.known.tolist() == [True, False, True, False]


def test_moments_do_not_cancel_far_from_zero():
    torch.manual_seed(0)
    stats = ClassStatistics(1, 2)
    values = torch.randn(4, 2, 8, 8, dtype=torch.float64) * 1e-3 + 1e6
    for b in range(4):
        stats.update(values[b : b + 1], torch.zeros(1, 8, 8, dtype=torch.int64))
    expected = values.movedim(1, -1).reshape(-1, 2).var(0, unbiased=False)
    assert torch.allclose(stats.variance()[0], expected, rtol=1e-3)


def test_neighbour_correlation_agrees_with_a_loop_over_pairs(batch):
    latent, labels = batch
    stats = gathered(batch)
    first, second = [], []
    for b, y, x in (labels == 2).nonzero().tolist():
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < 9 and u < 8 and labels[b, v, u] == 2:
                first.append(latent[b, :, y, x].double())
                second.append(latent[b, :, v, u].double())
    a, c = torch.stack(first), torch.stack(second)
    covariance = (a * c).mean(0) - ((a + c) / 2).mean(0) ** 2
    expected = (covariance.sum() / stats.variance()[2].sum()).clamp(0, 1)
    assert torch.allclose(stats.neighbour_correlation()[2], expected)
    assert stats.neighbour_correlation()[1] == 1


@pytest.mark.parametrize("covariance", ["mean", "diagonal", "rectified", "full"])
def test_samples_have_the_moments_they_promise(batch, covariance):
    latent, labels = batch
    if covariance != "rectified":  # far enough from 0 that the cut does not matter
        latent = latent + 30
    stats = gathered((latent, labels), full=True)
    features, channels = stats.sample([2, 1, 0], 20_000, torch.Generator().manual_seed(0), covariance)
    assert features.shape == (40_000, 6) and (features >= 0).all() and features.dtype == torch.float32
    assert channels.tolist() == [2] * 20_000 + [0] * 20_000
    for k in (0, 2):
        drawn = features[channels == k].double()
        assert torch.allclose(drawn.mean(0), stats.mean[k], rtol=0.03)
        if covariance == "mean":
            assert torch.allclose(drawn, stats.mean[k].expand_as(drawn), rtol=1e-5)
        else:
            assert torch.allclose(drawn.var(0), stats.variance()[k], rtol=0.06)
        if covariance == "full":
            largest = stats.covariance()[k].abs().max()
            assert (drawn.T.cov() - stats.covariance()[k]).abs().max() < 0.05 * largest


def test_patches_have_the_neighbours_correlation():
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(8, 5, 24, 24), 3, 1) + 9
    stats = ClassStatistics(1, 5)
    stats.update(smooth, torch.zeros(8, 22, 22, dtype=torch.int64))
    correlation = stats.neighbour_correlation()[0].item()
    assert 0.5 < correlation < 0.8  # two 3x3 windows side by side share 6 of 9 values
    patches, channels = stats.sample_patches([0], 20_000, torch.Generator().manual_seed(0))
    assert patches.shape == (20_000, 5, 3, 3) and len(channels) == 20_000
    for c in range(5):
        pair = torch.stack([patches[:, c, 0, 0], patches[:, c, 2, 1]])
        assert pair.corrcoef()[0, 1].item() == pytest.approx(correlation, abs=0.02)


def test_rectified_gaussian_meets_its_moments():
    mean, variance = torch.tensor([0.0, 0.1, 0.5, 3.0, 2.0]), torch.tensor([0.0, 0.3, 0.2, 0.5, 0.0])
    location, spread = rectified_gaussian(mean, variance)
    assert location.isfinite().all() and spread.isfinite().all() and location[1] < 0
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    p = torch.exp(-(x**2) / 2)
    p = p / p.sum()
    y = (location + spread * x).clamp(min=0)
    m = (p * y).sum(0)
    assert torch.allclose(m, mean.double(), atol=1e-6)
    assert torch.allclose((p * y**2).sum(0) - m**2, variance.double(), atol=2e-3)


def test_replay_trains_a_head_through_the_centre_of_its_patches(batch):
    stats = gathered(batch)
    features, channels = stats.sample([0, 2], 4, torch.Generator().manual_seed(1))
    heads = torch.nn.ModuleList([Head(6, 3, 1), Head(6, 3, 3)]).eval()
    logits = patch_logits(heads, as_patches(features))
    assert logits.shape == (8, 4, 1, 1)
    large = torch.cat([head(features[:, :, None, None].expand(-1, -1, 7, 7)) for head in heads], 1)
    assert torch.allclose(logits[:, :, 0, 0], large[:, :, 3, 3], atol=1e-6)
    patches, _ = stats.sample_patches([0, 2], 4, torch.Generator().manual_seed(1))
    padded = torch.cat([head(patches) for head in heads], 1)
    assert torch.allclose(patch_logits(heads, patches)[:, :, 0, 0], padded[:, :, 1, 1], atol=1e-6)
    binary_cross_entropy(logits, channels[:, None, None]).backward()
    assert all(head.conv.weight.grad.abs().sum() > 0 for head in heads)


def test_same_seed_same_samples_and_exact_restore(batch):
    stats = gathered(batch, full=True)
    again = ClassStatistics(2, 6)
    again.load_state_dict(stats.state_dict())
    for covariance in ("mean", "diagonal", "rectified", "full"):
        a, _ = stats.sample([0, 2], 3, torch.Generator().manual_seed(5), covariance)
        b, _ = again.sample([0, 2], 3, torch.Generator().manual_seed(5), covariance)
        assert a.equal(b)
    latent, labels = batch
    stats.update(latent, labels)
    again.update(latent, labels)
    assert all(stats.state_dict()[name].equal(again.state_dict()[name]) for name in stats.state_dict())


def test_grow_reset_and_nothing_known(batch):
    stats = gathered(batch)
    before = stats.mean.clone()
    stats.grow(6)
    assert stats.mean[:4].equal(before) and stats.known.tolist() == [True, False, True, False, False, False]
    stats.reset([2])
    assert stats.known.tolist() == [True] + [False] * 5
    features, channels = stats.sample([2, 5], 3, torch.Generator())
    assert features.shape == (0, 6) and len(channels) == 0
    assert stats.sample_patches([5], 3, torch.Generator())[0].shape == (0, 6, 3, 3)


def test_a_class_with_fewer_pixels_than_channels_can_be_sampled_in_full():
    stats = ClassStatistics(1, 6, full=True)
    stats.update(torch.rand(1, 6, 1, 2), torch.zeros(1, 1, 2, dtype=torch.int64))
    assert stats.sample([0], 5, torch.Generator(), "full")[0].isfinite().all()
    with pytest.raises(ValueError, match="full=True"):
        ClassStatistics(1, 6).covariance()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_added_up_in_double(dtype):
    stats = ClassStatistics(1, 2)
    stats.update(torch.full((4, 2, 200, 200), 3.0, dtype=dtype), torch.zeros(4, 200, 200, dtype=torch.int64))
    assert stats.mean.tolist() == [[3.0, 3.0]] and stats.count.item() == 160_000
