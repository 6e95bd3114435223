"""DKD's losses against its equations, written as loops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from shapes import tiny_config, tiny_run, write_shapes

from lag_core.config import ConfigError
from lag_core.method.dkd import Scores, auxiliary_loss, decomposed_distillation, reasoning_scores
from lag_core.method.foreground import foreground_cross_entropy, silent_catch_all
from lag_core.model.heads import Head, LinearHead
from lag_core.model.prediction import probabilities
from lag_core.protocol import IGNORE

pytestmark = pytest.mark.usefixtures("no_fsync")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(x: float, target: float) -> float:
    return -target * math.log(sigmoid(x)) - (1 - target) * math.log(1 - sigmoid(x))


@pytest.mark.parametrize("positive", [1.0, 4.0])
def test_the_classification_loss_agrees_with_a_loop(positive: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 3, 4), torch.randint(0, 5, (2, 3, 4))
    labels[0, 0] = IGNORE
    total, pixels = 0.0, 0
    for b, y, x in (labels != IGNORE).nonzero().tolist():
        pixels += 1
        for k in (3, 4):
            hit = labels[b, y, x] == k
            total += bce(logits[b, k, y, x].item(), float(hit)) * (positive if hit else 1)
    found = foreground_cross_entropy(logits, labels, range(3, 5), positive)
    assert found.item() == pytest.approx(total / pixels, rel=1e-5)


def test_a_pixel_is_background_where_no_class_is_above_a_half() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 5)
    expected = torch.where((logits[:, 1:] > 0).any(1), 1 + logits[:, 1:].argmax(1), 0)
    assert torch.equal(silent_catch_all(logits).argmax(1), expected)
    assert torch.equal(probabilities(logits, "bce_foreground").argmax(1), expected)


@pytest.mark.parametrize("head", [Head(5, 4, 3), Head(5, 4, 3, act="leaky_relu"), LinearHead(5, 3)])
def test_the_two_scores_are_the_sums_of_what_speaks_for_and_against_a_class(head: Head | LinearHead) -> None:
    torch.manual_seed(0)
    head.eval()
    latent = torch.randn(2, 5, 3, 3)
    with torch.no_grad():
        found, hidden = reasoning_scores([head], latent), head.hidden(latent)
    weight = head.classify.weight[:, :, 0, 0]
    products = weight[None, :, :, None, None] * hidden[:, None]
    assert torch.allclose(found.positive, products.clamp(min=0).sum(2), atol=1e-6)
    assert torch.allclose(found.negative, products.clamp(max=0).sum(2), atol=1e-6)
    assert head.classify.bias is not None
    logits = found.positive + found.negative + head.classify.bias[:, None, None]
    assert torch.allclose(logits, head(latent), atol=1e-5)


def test_distillation_agrees_with_a_loop_and_is_zero_at_equality() -> None:
    torch.manual_seed(0)
    student, teacher = (Scores(torch.rand(2, 4, 2, 3) * 3, -torch.rand(2, 4, 2, 3) * 3) for _ in range(2))
    total = 0.0
    for new, old in zip(student, teacher, strict=True):
        pairs = zip(new[:, 1:3].flatten().tolist(), old[:, 1:3].flatten().tolist(), strict=True)
        total += sum(bce(s, sigmoid(t)) - bce(t, sigmoid(t)) for s, t in pairs) / (2 * 2 * 2 * 3)
    assert decomposed_distillation(student, teacher, range(1, 3)).item() == pytest.approx(total, rel=1e-4)
    assert decomposed_distillation(teacher, teacher, range(1, 3)).item() == pytest.approx(0, abs=1e-6)


def test_it_sees_what_distilling_the_logit_does_not() -> None:
    """Both halves moved by the same amount: the logit is what it was."""
    teacher = Scores(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -2.0))
    student = Scores(teacher.positive + 1, teacher.negative - 1)
    assert torch.equal(student.positive + student.negative, teacher.positive + teacher.negative)
    assert decomposed_distillation(student, teacher, range(1)).item() > 0.05


def test_the_auxiliary_classifier_alone_gets_a_gradient() -> None:
    torch.manual_seed(0)
    head = Head(5, 4, 3).train()
    before = {name: value.clone() for name, value in head.norm.named_buffers()}
    latent = torch.rand(2, 5, 3, 3, requires_grad=True)
    valid = torch.rand(2, 3, 3) > 0.3
    value = auxiliary_loss(head, latent, valid)
    value.backward()
    with torch.no_grad():
        logit = head.classify(head.hidden(latent))[:, 0]
    expected = sum(bce(x, 0.0) for x in logit[valid].tolist()) / int(valid.sum())
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert latent.grad is None and head.conv.weight.grad is None and head.norm.weight.grad is None
    gradient = head.classify.weight.grad
    assert gradient is not None and gradient[0].abs().sum() > 0 and not gradient[1:].any()
    assert all(torch.equal(before[name], value) for name, value in head.norm.named_buffers())


@pytest.mark.parametrize("ground", ["background", "soil"])
def test_a_new_head_starts_from_the_auxiliary_classifier(tmp_path: Path, ground: str) -> None:
    """At a rate of next to nothing it stays there; with a background and without."""
    root = write_shapes(tmp_path / "shapes", train_images=10, ground=ground)
    run = tiny_run(root, tmp_path / "run", "dkd", optim={"lr_head_later": 1e-9, "lr_aspp_later": 0.0})
    before, after = run.tensors(0), run.tensors(1)
    (added,) = [key for key in after if key not in before and key.endswith("classify.weight")]
    assert after[added][0] == pytest.approx(before["heads.0.classify.weight"][0], abs=1e-5)
    terms = [set(event["terms"]) for event in run.events()]
    assert terms[0] == {"segmentation", "auxiliary"}
    assert terms[-1] == {"segmentation", "auxiliary", "kd_logits", "dkd"}


def test_it_needs_its_own_loss(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bce_foreground"):
        tiny_config(tmp_path, "dkd", method={"loss": "bce"})
