"""SPM against loops over classes and pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lag_core.method.prototypes import PrototypeMemory, class_means, semantic_invariance

CLASSES = [2, 3, 5]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 3, 255])[torch.randint(0, 4, (2, 5, 6))]
    return torch.randn(2, 8, 5, 6).relu(), labels


def slow_means(latent: Tensor, labels: Tensor, k: int) -> Tensor:
    return torch.stack([latent[b, :, y, x] for b, y, x in (labels == k).nonzero().tolist()]).mean(0)


def test_class_means_agree_with_a_loop(batch):
    latent, labels = batch
    labels[0, 0, :3] = 5  # three pixels: too few
    means, counts = class_means(latent, labels, CLASSES)
    for row, k in enumerate([2, 3]):
        assert torch.allclose(means[row], slow_means(latent, labels, k), atol=1e-6)
        assert counts[row] == (labels == k).sum()
    assert counts[2] == 0 and not means[2].any()


def test_memory_is_the_mean_over_all_batches():
    torch.manual_seed(1)
    memory = PrototypeMemory(6, 8)
    latent, labels = torch.randn(6, 8, 5, 6), torch.randint(0, 4, (6, 5, 6))
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        means, counts = class_means(latent[part], labels[part], [0, 2, 3, 5], min_pixels=1)
        memory.update([0, 2, 3, 5], means, counts)
    for k in (0, 2, 3):
        assert torch.allclose(memory.mean[k].float(), slow_means(latent, labels, k), atol=1e-6)
    assert memory.known.tolist() == [True, False, True, True, False, False]
    again = PrototypeMemory(1, 1)
    again.load_state_dict(memory.state_dict())
    assert again.mean.equal(memory.mean) and again.count.equal(memory.count)
    again.grow(8)
    again.reset([2])
    assert again.known.tolist() == [True, False, False, True, False, False, False, False]


def test_forces_agree_with_a_loop(batch):
    latent, labels = batch
    means, counts = class_means(latent, labels, CLASSES)
    prototypes = torch.rand(7, 8)
    known = torch.tensor([True, False, True, False, False, True, True])
    invariant = torch.tensor([True, True, False, True, False, True, True, False])
    forces = semantic_invariance(means, counts, CLASSES, prototypes, known, invariant, margin=0.3)

    def unit(v: Tensor) -> Tensor:
        return v[invariant] / v[invariant].norm()

    aggregation, separation = [], []
    for row, k in enumerate(CLASSES):
        if counts[row] == 0:
            continue
        if known[k]:
            aggregation.append(float((unit(means[row]) - unit(prototypes[k])).square().sum()))
        for j in range(7):
            if j != k and known[j]:
                closeness = float(unit(means[row]) @ unit(prototypes[j]))
                separation.append(max(0.0, closeness - 0.3) ** 2)
    assert len(aggregation) == 1 and len(separation) == 7
    assert forces.aggregation.item() == pytest.approx(sum(aggregation) / 1, rel=1e-5)
    assert forces.separation.item() == pytest.approx(sum(separation) / 7, rel=1e-5)


def test_a_class_at_its_prototype_feels_no_aggregation(batch):
    latent, labels = batch
    means, counts = class_means(latent, labels, [2, 3])
    prototypes = torch.zeros(6, 8)
    prototypes[[2, 3]] = means * 5  # the length does not count
    known = prototypes.any(1)
    forces = semantic_invariance(means, counts, [2, 3], prototypes, known, torch.ones(8, dtype=torch.bool))
    assert forces.aggregation.item() == pytest.approx(0, abs=1e-10) and forces.separation > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_reach_invariant_channels_of_the_student_alone(dtype, batch):
    _, labels = batch
    latent = (torch.randn(2, 8, 5, 6) * 100).relu().to(dtype).requires_grad_()
    prototypes, known = torch.rand(6, 8, requires_grad=True), torch.ones(6, dtype=torch.bool)
    means, counts = class_means(latent, labels, CLASSES)
    forces = semantic_invariance(means, counts, CLASSES, prototypes, known, torch.arange(8) < 4)
    (forces.aggregation + forces.separation).backward()
    assert latent.grad.isfinite().all() and prototypes.grad is None
    assert latent.grad[:, :4].abs().sum() > 0 and not latent.grad[:, 4:].any()


def test_nothing_present_or_nothing_known_gives_zero(batch):
    latent, labels = batch
    latent.requires_grad_()
    everywhere, all_known = torch.ones(8, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    for known, wanted in ((~all_known, CLASSES), (all_known, [4])):
        means, counts = class_means(latent, labels, wanted)
        forces = semantic_invariance(means, counts, wanted, torch.rand(6, 8), known, everywhere)
        (forces.aggregation + forces.separation).backward()
        assert forces.aggregation.item() == forces.separation.item() == 0
        assert not latent.grad.any()
    means, counts = class_means(latent, labels, [])
    empty = semantic_invariance(means, counts, [], torch.rand(6, 8), all_known, everywhere)
    assert empty.aggregation.item() == empty.separation.item() == 0
