"""Distillation against direct formulas; what flows where."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lag_core.config import MethodConfig
from lag_core.method.distillation import (
    decay,
    distil_features,
    distil_logits,
    not_labelled_new,
)
from lag_core.method.terms import kept_logits
from lag_core.protocol import LabelSpace

SPACE = LabelSpace(((0, 1, 2), (3,)), background=0, unknown=True)
TERMS = {
    "sigmoid": distil_logits,
    "softmax": lambda s, t: distil_logits(s, t, activation="softmax", temperature=2.0),
    "features": lambda s, t: distil_features(s[:, : t.shape[1]], t),
}


def test_pixels_labelled_new_are_left_out():
    labels = torch.tensor([[[0, 1, 2, 3, 4, 255]]])
    assert not_labelled_new(labels, SPACE, 1).tolist() == [[[True, True, True, True, False, True]]]


def test_sigmoid_distillation_agrees_with_a_loop():
    torch.manual_seed(0)
    student, teacher, keep = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 3, 4), torch.rand(2, 3, 4) > 0.4
    total = 0.0
    for b, y, x in keep.nonzero().tolist():
        for k in range(3):
            t, s = teacher[b, k, y, x].sigmoid().item(), student[b, k, y, x].sigmoid().item()
            total += (t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))) / 3
    assert distil_logits(student, teacher, keep).item() == pytest.approx(total / int(keep.sum()), rel=1e-4)


def test_sigmoid_distillation_has_the_gradient_of_binary_cross_entropy():
    student, teacher = torch.randn(2, 3, 3, 4, requires_grad=True), torch.randn(2, 3, 3, 4)
    (ours,) = torch.autograd.grad(distil_logits(student, teacher), student)
    plain = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    assert torch.allclose(ours, torch.autograd.grad(plain, student)[0], atol=1e-7)


def test_softmax_distillation_equals_torch():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 3, 4)
    kl = F.kl_div((student[:, :3] / 2).log_softmax(1), (teacher / 2).log_softmax(1), log_target=True, reduction="none")
    ours = distil_logits(student, teacher, activation="softmax", temperature=2.0)
    assert torch.allclose(ours, kl.sum(1).mean() * 4, atol=1e-6)


def test_features_are_relative_to_the_teacher():
    student, teacher, keep = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4), torch.rand(2, 3, 4) > 0.4
    error = size = 0.0
    for b, y, x in keep.nonzero().tolist():
        error += float(((student - teacher)[b, :, y, x] ** 2).sum())
        size += float((teacher[b, :, y, x] ** 2).sum())
    assert distil_features(student, teacher, keep).item() == pytest.approx(error / size, rel=1e-5)
    assert distil_features(student * 7, teacher * 7).item() == pytest.approx(
        distil_features(student, teacher).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_reach_the_student_alone_and_stay_finite(name, dtype):
    student = (torch.randn(2, 5, 3, 4) * 30).to(dtype).requires_grad_()
    teacher = (torch.randn(2, 3, 3, 4) * 30).to(dtype).requires_grad_()
    value = TERMS[name](student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all() and student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "features"])
def test_equal_models_cost_nothing(name):
    student = torch.randn(2, 3, 3, 4, requires_grad=True)
    value = TERMS[name](student, student.detach().clone())
    value.backward()
    assert abs(value.item()) < 1e-6 and student.grad.abs().max() < 1e-7


def test_no_pixel_and_no_teacher_signal_give_zero():
    student = torch.randn(2, 3, 3, 4, requires_grad=True)
    teacher, nowhere = torch.randn(2, 3, 3, 4), torch.zeros(2, 3, 4, dtype=torch.bool)
    for term in (distil_logits, distil_features):
        value = term(student, teacher, nowhere)
        value.backward()
        assert value.item() == 0 and not student.grad.any()


def test_decay():
    assert decay(1.0, 0.7) == 1.0 and decay(0.9, 0.5) == pytest.approx(0.9**0.5) and decay(0.5, 0.0) == 1.0


@pytest.mark.parametrize("held", [True, False])
def test_unknown_is_distilled_only_if_it_shall_be(held):
    """The teacher's "unknown" is high on what the step is about to learn (docs/results.md)."""
    student = torch.randn(2, 5, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 4, 4, 4)
    scene = SimpleNamespace(
        config=MethodConfig(kd_unknown=held), space=SPACE, step=1, activation="sigmoid", foreground=False,
        latent_labels=torch.zeros(2, 4, 4, dtype=torch.long), new=SimpleNamespace(logits=student),
    )  # fmt: skip
    loss = kept_logits(scene, SimpleNamespace(logits=teacher))
    (gradient,) = torch.autograd.grad(loss, student)
    assert [bool(gradient[:, k].any()) for k in range(5)] == [held, True, True, True, False]
    first = 0 if held else 1
    assert torch.equal(loss, distil_logits(student[:, first:4], teacher[:, first:]))


def test_kept_pixels_may_weigh_less_than_one():
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    weight = torch.tensor([[[1.0, 0.5], [0.0, 0.25]]])
    for make in (
        lambda **more: distil_logits(student, teacher, **more),
        lambda **more: distil_logits(student, teacher, activation="softmax", temperature=2.0, **more),
    ):
        alone = torch.stack([make(keep=torch.arange(4).view(1, 2, 2) == i) for i in range(4)]).view(1, 2, 2)
        assert torch.allclose(make(keep=weight), (alone * weight).sum() / weight.sum())


def test_temperature_scales_the_sigmoid_form_too():
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    expected = 4 * distil_logits(student / 2, teacher / 2)
    assert torch.allclose(distil_logits(student, teacher, temperature=2.0), expected)
