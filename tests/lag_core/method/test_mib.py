"""MiB's distillation against its equation."""

from __future__ import annotations

import math

import pytest
import torch

from lag_core.method.classification import unbiased_cross_entropy
from lag_core.method.mib import unbiased_distillation
from lag_core.model.heads import Head, share_background


@pytest.mark.parametrize("background", [0, 1])
def test_distillation_agrees_with_a_loop(background):
    torch.manual_seed(0)
    student, teacher, keep = torch.randn(2, 6, 3, 4), torch.randn(2, 4, 3, 4), torch.rand(2, 3, 4) > 0.4
    total = 0.0
    for b, y, x in keep.nonzero().tolist():
        p, q = student[b, :, y, x].softmax(0).tolist(), teacher[b, :, y, x].softmax(0).tolist()
        for k in range(4):
            mass = p[k] + (p[4] + p[5] if k == background else 0)
            total += q[k] * (math.log(q[k]) - math.log(mass))
    ours = unbiased_distillation(student, teacher, keep, background)
    assert ours.item() == pytest.approx(total / int(keep.sum()), rel=1e-4)


def test_without_new_classes_it_is_plain_distillation_and_zero_at_equality():
    teacher = torch.randn(2, 4, 3, 4)
    student = teacher.clone().requires_grad_()
    value = unbiased_distillation(student, teacher)
    value.backward()
    assert abs(value.item()) < 1e-6 and student.grad.abs().max() < 1e-7


def test_a_head_that_shares_the_background_starts_at_zero():
    torch.manual_seed(0)
    old, new = Head(5, 4, 3).eval(), Head(5, 4, 2).eval()
    z, labels = torch.rand(2, 5, 6, 6), torch.zeros(2, 6, 6, dtype=torch.int64)
    with torch.no_grad():
        teacher = old(z)
        share_background(new, old)
        student = torch.cat([old(z), new(z)], 1)
    assert unbiased_distillation(student, teacher).item() == pytest.approx(0, abs=1e-5)
    # the old channels alone now lack the share that went to the new ones
    assert unbiased_cross_entropy(student, labels, 3) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_reach_the_student_alone(dtype):
    student = (torch.randn(2, 6, 3, 4) * 50).to(dtype).requires_grad_()
    teacher = (torch.randn(2, 4, 3, 4) * 50).to(dtype).requires_grad_()
    value = unbiased_distillation(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all() and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_no_kept_pixel_gives_zero():
    student = torch.randn(2, 6, 3, 4, requires_grad=True)
    value = unbiased_distillation(student, torch.randn(2, 4, 3, 4), torch.zeros(2, 3, 4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 and not student.grad.any()
