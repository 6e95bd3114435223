"""The classification losses against loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lag_core.method.classification import (
    binary_cross_entropy,
    cross_entropy,
    softplus,
    unbiased_cross_entropy,
)
from lag_core.method.regions import confident_regions, membership, region_sums, resize_labels

HALVES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 6, (2, 4, 5))
    labels[0, 0, :3] = 255
    return torch.randn(2, 6, 4, 5) * 3, labels, torch.rand(2, 4, 5)


def pixels(labels: Tensor) -> list[tuple[int, int, int]]:
    return [tuple(p) for p in (labels != 255).nonzero().tolist()]


def test_binary_cross_entropy_is_a_sum_over_channels_and_a_mean_over_pixels(batch):
    logits, labels, weight = batch
    total = 0.0
    for b, y, x in pixels(labels):
        for k in range(6):
            q = 1 / (1 + math.exp(-logits[b, k, y, x].item()))
            p = q if labels[b, y, x] == k else 1 - q
            total -= math.log(p) * weight[b, y, x].item()
    assert binary_cross_entropy(logits, labels, weight).item() == pytest.approx(total / len(pixels(labels)), rel=1e-5)


def test_softplus_and_its_gradients_equal_torch():
    x = torch.tensor([-1e4, -90.0, -20.0, -1.0, 0.0, 1e-3, 3.0, 17.0, 90.0, 1e4], requires_grad=True)
    assert torch.allclose(softplus(x), F.softplus(x), atol=1e-7)
    (ours,) = torch.autograd.grad(softplus(x).sum(), x)
    assert torch.allclose(ours, x.sigmoid(), atol=0)
    assert torch.autograd.gradgradcheck(softplus, torch.randn(5, dtype=torch.float64, requires_grad=True))


def test_binary_cross_entropy_equals_torch(batch):
    logits, labels, _ = batch
    one_hot = F.one_hot(labels.masked_fill(labels == 255, 0), 6).permute(0, 3, 1, 2).float()
    each = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1)
    assert torch.allclose(binary_cross_entropy(logits, labels), each[labels != 255].mean())


def test_cross_entropy_counts_only_labelled_pixels(batch):
    logits, labels, weight = batch
    log_p = logits.log_softmax(1)
    total = sum(-log_p[b, labels[b, y, x], y, x] * weight[b, y, x] for b, y, x in pixels(labels))
    assert torch.allclose(cross_entropy(logits, labels, weight), total / len(pixels(labels)))


def test_unbiased_cross_entropy_sums_the_old_channels_for_the_background(batch):
    logits, labels, _ = batch
    p = logits.softmax(1)
    total = 0.0
    for b, y, x in pixels(labels):
        k = int(labels[b, y, x])
        mass = p[b, :4, y, x].sum() if k == 0 else p[b, k, y, x]
        total -= math.log(mass)
    assert unbiased_cross_entropy(logits, labels, 4).item() == pytest.approx(total / len(pixels(labels)), rel=1e-5)


@pytest.mark.parametrize("n_old", [0, 1])
def test_unbiased_cross_entropy_without_old_classes_is_cross_entropy(batch, n_old):
    logits, labels, weight = batch
    assert torch.allclose(unbiased_cross_entropy(logits, labels, n_old, weight), cross_entropy(logits, labels, weight))


@pytest.mark.parametrize("loss", [binary_cross_entropy, cross_entropy, lambda z, y: unbiased_cross_entropy(z, y, 3)])
@pytest.mark.parametrize("dtype", HALVES)
def test_losses_are_finite_in_half_precision_and_zero_without_labels(loss, dtype, batch):
    _, labels, _ = batch
    logits = (torch.randn(2, 6, 4, 5) * 50).to(dtype).requires_grad_()
    value = loss(logits, labels)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    logits.grad = None
    empty = loss(logits, torch.full_like(labels, 255))
    empty.backward()
    assert empty.item() == 0 and not logits.grad.any()


def test_ignored_pixels_have_no_gradient(batch):
    logits, labels, _ = batch
    logits.requires_grad_()
    binary_cross_entropy(logits, labels).backward()
    assert not logits.grad[0, :, 0, :3].any() and logits.grad[1].abs().sum() > 0


def test_losses_leave_autocast():
    latent = torch.full((1, 1, 300, 300), 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = region_sums(latent, torch.ones(1, 1, 300, 300))
    assert total.item() == 90_000  # bfloat16 would stop counting far below


def test_resized_labels_keep_their_ids_and_take_the_centre():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, :4, 4:] = 255
    labels[0, 4:, :4] = 20
    small = resize_labels(labels, (2, 2))
    assert small.tolist() == [[[0, 255], [20, 0]]]
    assert resize_labels(small, (8, 8)).equal(labels)


def test_region_sums_agree_with_a_loop():
    torch.manual_seed(1)
    latent, labels = torch.randn(3, 5, 4, 6), torch.randint(0, 4, (3, 4, 6))
    sums = region_sums(latent, membership(labels, [2, 0, 9]))
    for row, k in enumerate([2, 0, 9]):
        slow = torch.zeros(5)
        for b, y, x in (labels == k).nonzero().tolist():
            slow += latent[b, :, y, x]
        assert torch.allclose(sums[row], slow, atol=1e-5)
    with pytest.raises(ValueError, match="resize the labels first"):
        region_sums(latent, membership(labels[:, :2], [0]))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_confident_regions_agree_with_a_loop(activation):
    torch.manual_seed(2)
    logits = torch.randn(2, 5, 3, 4) * 2
    regions = confident_regions(logits, [1, 3], 0.6, activation=activation)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                v = logits[b, :, y, x]
                scores = v.sigmoid() if activation == "sigmoid" else v.softmax(0)
                k = int(scores.argmax())
                assert regions[b, y, x] == (k if k in (1, 3) and scores[k] >= 0.6 else 255)
    assert set(regions.unique().tolist()) - {255}


def test_a_weight_leaves_the_divisor_as_it_is(batch):
    logits, labels, _ = batch
    for loss in (binary_cross_entropy, cross_entropy, lambda z, y, w=None: unbiased_cross_entropy(z, y, 3, w)):
        half = torch.full(labels.shape, 0.5)
        assert torch.allclose(loss(logits, labels, half), 0.5 * loss(logits, labels))


def test_unbiased_cross_entropy_of_ignored_pixels_is_that_of_the_others(batch):
    logits, labels, _ = batch
    other = logits.clone()
    other[0, :, 0, :3] = 100.0  # ignored
    for loss in (binary_cross_entropy, cross_entropy, lambda z, y: unbiased_cross_entropy(z, y, 3)):
        assert torch.equal(loss(other, labels), loss(logits, labels))


def test_softplus_far_from_zero():
    assert softplus(torch.tensor([-200.0, 200.0])).tolist() == [0.0, 200.0]
    assert float(softplus(torch.zeros(1))) == pytest.approx(math.log(2))
