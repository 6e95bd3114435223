"""SFP against a loop over classes and pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lag_core.method.preserving import _distance, feature_preserving

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


def regions_of(pixels: int, rest: int) -> Tensor:
    """One image of 5 x 6: so many pixels of class 2, then of class 0, the others unknown."""
    flat = torch.full((30,), 255)
    flat[:pixels], flat[pixels : pixels + rest] = 2, 0
    return flat.view(1, 5, 6)


@pytest.mark.parametrize(("pixels", "rest", "counts"), [(4, 4, True), (3, 4, False), (4, 3, False), (5, 5, True)])
def test_a_class_and_its_rest_need_four_pixels_each(pixels: int, rest: int, counts: bool) -> None:
    torch.manual_seed(0)
    student, teacher = torch.rand(1, 8, 5, 6), torch.rand(1, 8, 5, 6)
    found = feature_preserving(student, teacher, regions_of(pixels, rest), [2], SPECIFIC)
    assert (found.classwise > 0) == counts
    always = feature_preserving(student, teacher, regions_of(pixels, rest), [2], SPECIFIC, min_pixels=3)
    assert always.classwise > 0


def test_the_margin_is_one_and_a_distance_is_zero_at_equality() -> None:
    torch.manual_seed(0)
    latent, regions = torch.rand(1, 8, 5, 6), regions_of(10, 10)
    found = feature_preserving(latent, latent, regions, [2], SPECIFIC)
    inside, outside = direction(latent, regions == 2), direction(latent, regions == 0)
    assert float(found.classwise) == pytest.approx(1 - float((inside - outside).norm()), abs=2e-4)
    assert float(_distance(inside[None], inside[None])) == pytest.approx(0, abs=1e-9)
    assert float(_distance(inside[None], inside[None] + 1)) == pytest.approx(len(inside) ** 0.5, abs=2e-4)


def test_a_class_far_from_its_rest_costs_nothing() -> None:
    latent, regions = torch.zeros(1, 8, 5, 6), regions_of(15, 15)
    latent[0, 0][regions[0] == 2] = 1.0
    latent[0, 2][regions[0] == 0] = 1.0
    assert feature_preserving(latent, latent, regions, [2], SPECIFIC).classwise == 0
