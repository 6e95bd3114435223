"""SFP against a loop over classes and pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lag_core.method.preserving import feature_preserving

CLASSES = [2, 3, 5]
SPECIFIC = torch.tensor([True, False, True, True, False, True, True, False])


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    regions = torch.tensor([0, 2, 3, 255])[torch.randint(0, 4, (2, 5, 6))]
    regions[0, 0, :3] = 5  # three pixels: too few
    return torch.randn(2, 8, 5, 6).relu(), torch.randn(2, 8, 5, 6).relu(), regions


def direction(latent: Tensor, where: Tensor) -> Tensor:
    mean = torch.stack([latent[b, SPECIFIC, y, x] for b, y, x in where.nonzero().tolist()]).mean(0)
    return mean / mean.norm()


@pytest.mark.parametrize("margin", [1.0, 0.2])
def test_both_granularities_agree_with_a_loop(scene, margin):
    student, teacher, regions = scene
    triplets = []
    for k in (2, 3):
        anchor = direction(teacher, regions == k)
        positive = direction(student, regions == k)
        negative = direction(student, (regions != k) & (regions != 255))
        triplets.append(max(0.0, float((anchor - positive).norm() - (anchor - negative).norm()) + margin))
    distances = []
    for b in range(2):
        whole = torch.ones(1, 5, 6)
        old, new = direction(teacher[b : b + 1], whole), direction(student[b : b + 1], whole)
        distances.append(float((old - new).square().sum()))
    ours = feature_preserving(student, teacher, regions, CLASSES, SPECIFIC, margin)
    assert ours.classwise.item() == pytest.approx(sum(triplets) / 2, abs=1e-4)
    assert ours.globally.item() == pytest.approx(sum(distances) / 2, rel=1e-5)


def test_equal_models_leave_only_the_negative(scene):
    _, teacher, regions = scene
    student = teacher.clone().requires_grad_()
    ours = feature_preserving(student, teacher, regions, CLASSES, SPECIFIC)
    assert ours.globally.item() == 0 and 0 < ours.classwise.item() < 1
    (grad,) = torch.autograd.grad(ours.globally, student, retain_graph=True)
    assert grad.abs().max() < 1e-7
    (grad,) = torch.autograd.grad(ours.classwise, student)
    assert grad.isfinite().all()
    assert not grad.permute(0, 2, 3, 1)[regions == 255].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_reach_specific_channels_of_the_student_alone(dtype, scene):
    _, _, regions = scene
    student = (torch.randn(2, 8, 5, 6) * 100).relu().to(dtype).requires_grad_()
    teacher = (torch.randn(2, 8, 5, 6) * 100).relu().to(dtype).requires_grad_()
    ours = feature_preserving(student, teacher, regions, CLASSES, SPECIFIC)
    for value in ours:
        (grad,) = torch.autograd.grad(value, student, retain_graph=True)
        assert grad.isfinite().all() and grad[:, SPECIFIC].abs().sum() > 0
        assert not grad[:, ~SPECIFIC].any()
    sum(ours).backward()
    assert teacher.grad is None


def test_nothing_present_and_nothing_specific_give_zero(scene):
    student, teacher, regions = scene
    student.requires_grad_()
    for classes, labels in (([5], regions), ([], regions), ([2], torch.full_like(regions, 2))):
        value = feature_preserving(student, teacher, labels, classes, SPECIFIC).classwise
        assert value.item() == 0
        assert not torch.autograd.grad(value, student)[0].any()
    ours = feature_preserving(student, teacher, regions, CLASSES, torch.zeros(8, dtype=torch.bool))
    assert ours.classwise.item() == ours.globally.item() == 0
    assert not torch.autograd.grad(sum(ours), student)[0].any()
