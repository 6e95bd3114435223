"""Local POD against loops over regions and strips."""

from __future__ import annotations

import pytest
import torch

from lag_core.method.plop import local_pod, local_pod_of_layers, pod_factor
from lag_core.protocol import LabelSpace


def slow_embedding(features: torch.Tensor, scales: tuple[int, ...]) -> list[float]:
    """Every region of one image [C, h, w], its width means and its height means, one number at a time."""
    channels, height, width = features.shape
    values = []
    for s in scales:
        for i in range(s):
            for j in range(s):
                region = features[:, i * height // s : (i + 1) * height // s, j * width // s : (j + 1) * width // s]
                for c in range(channels):
                    values += [float(row.mean()) for row in region[c]]
                    values += [float(column.mean()) for column in region[c].T]
    return values


def slow_pod(student: torch.Tensor, teacher: torch.Tensor, scales: tuple[int, ...]) -> float:
    total = 0.0
    for b in range(len(student)):
        pair = zip(slow_embedding(student[b], scales), slow_embedding(teacher[b], scales), strict=True)
        total += sum((x - y) ** 2 for x, y in pair)
    return total / len(student)


@pytest.mark.parametrize("scales", [(1,), (1, 2), (1, 2, 4)])
def test_local_pod_agrees_with_a_loop_over_regions(scales):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, 12), torch.randn(2, 3, 8, 12)
    expected = slow_pod(student, teacher, scales)
    assert local_pod(student, teacher, scales).item() == pytest.approx(expected, rel=1e-4)
    size = slow_pod(torch.zeros_like(teacher), teacher, scales)
    ours = local_pod(student, teacher, scales, relative=True)
    assert ours.item() == pytest.approx(expected / size, rel=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (15, 15), (3, 2)])
@pytest.mark.parametrize("relative", [False, True])
def test_equal_maps_cost_nothing(size, relative):
    teacher = torch.randn(2, 3, *size)
    student = teacher.clone().requires_grad_()
    value = local_pod(student, teacher, relative=relative)
    value.backward()
    assert value.item() == 0 and not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_reach_the_student_alone(dtype):
    student = (torch.randn(2, 3, 15, 15) * 100).to(dtype).requires_grad_()
    teacher = (torch.randn(2, 3, 15, 15) * 100).to(dtype).requires_grad_()
    value = local_pod(student, teacher, relative=True)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all() and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_layers_are_averaged():
    a, b = torch.randn(1, 2, 8, 8), torch.randn(1, 5, 4, 4)
    expected = (local_pod(a, a + 1) + local_pod(b, b - 2)) / 2
    assert torch.allclose(local_pod_of_layers([a, b], [a + 1, b - 2]), expected)
    assert local_pod_of_layers([], []).item() == 0


def test_factor_is_the_root_of_seen_over_new():
    space = LabelSpace(((0, 1, 2, 3), (4,), (5, 6)), background=0)
    assert pod_factor(space, 1) == pytest.approx((5 / 1) ** 0.5)
    assert pod_factor(space, 2) == pytest.approx((7 / 2) ** 0.5)
