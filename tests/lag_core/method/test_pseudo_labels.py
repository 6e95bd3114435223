"""Pseudo-labels against loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lag_core.method.pseudo_labels import (
    ClassEntropy,
    coverage_and_precision,
    normalised_entropy,
    pseudo_labels,
)
from lag_core.protocol import LabelSpace

# unknown 0, background 1, old classes 2 and 3, new class 4
SPACE = LabelSpace(((0, 1, 2), (3,)), background=0, unknown=True)
PLAIN = LabelSpace(((0, 1, 2), (3,)), background=0)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 4, 255])[torch.randint(0, 4, (2, 6, 7))]
    return torch.randn(2, 4, 6, 7) * 3, labels


def scores(logits: Tensor, b: int, y: int, x: int, activation: str) -> list[float]:
    v = logits[b, :, y, x]
    return (v.sigmoid() if activation == "sigmoid" else v.softmax(0)).tolist()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_threshold_rules_agree_with_a_loop(rule, activation, batch):
    logits, labels = batch
    pseudo = pseudo_labels(logits, labels, SPACE, 1, rule=rule, threshold=0.6, margin=0.2, activation=activation)
    count = 0
    for b, y, x in torch.ones_like(labels).nonzero().tolist():
        p = scores(logits, b, y, x, activation)
        p1, p2 = sorted(p, reverse=True)[:2]
        k = p.index(p1)
        take = labels[b, y, x] <= 1 and k >= 2 and p1 >= 0.6 and p1 - p2 >= 0.2
        count += take
        assert pseudo.accepted[b, y, x] == take
        assert pseudo.labels[b, y, x] == (k if take else labels[b, y, x])
        expected = p1 - p2 if take and rule == "soft" else 1.0
        assert pseudo.weight[b, y, x].item() == pytest.approx(expected, abs=1e-6)
    assert 0 < count < labels.numel() / 2


def test_new_and_ignored_labels_never_change(batch):
    _, labels = batch
    sure = torch.full((2, 4, 6, 7), -9.0)
    sure[:, 3] = 9.0
    for rule in ("hard", "soft", "adaptive"):
        pseudo = pseudo_labels(sure, labels, SPACE, 1, rule=rule, keep=1.0)
        assert pseudo.labels[labels >= 2].equal(labels[labels >= 2])
        assert (pseudo.labels[labels < 2] == 3).all() and pseudo.accepted.equal(labels < 2)


def test_adaptive_keeps_the_most_certain_share_of_each_class(batch):
    logits, labels = batch
    pseudo = pseudo_labels(logits, labels, SPACE, 1, rule="adaptive", keep=0.4)
    for k in (2, 3):
        found = []
        for b, y, x in (labels <= 1).nonzero().tolist():
            p = scores(logits, b, y, x, "sigmoid")
            p1, p2 = sorted(p, reverse=True)[:2]
            if p.index(p1) == k:
                found.append((1 - (p1 - p2), (b, y, x)))
        best = sorted(found)[: math.ceil(0.4 * len(found))]
        mine = {tuple(place) for place in (pseudo.accepted & (pseudo.labels == k)).nonzero().tolist()}
        assert mine == {place for _, place in best} and mine


def test_entropy_rule_agrees_with_a_loop(batch):
    logits, labels = batch
    labels = labels.masked_fill(labels == 1, 0).masked_fill(labels == 4, 3)
    teacher, thresholds = logits[:, :3], torch.tensor([0.3, 0.5, 0.0])
    pseudo = pseudo_labels(
        teacher, labels, PLAIN, 1, rule="entropy", activation="softmax", entropy_thresholds=thresholds
    )
    for b in range(2):
        trusted = total = 0
        for y, x in torch.ones(6, 7).nonzero().tolist():
            p = scores(teacher, b, y, x, "softmax")
            k, u = p.index(max(p)), -sum(v * math.log(v) for v in p) / math.log(3)
            expected = int(labels[b, y, x])
            if expected == 0:
                total += 1
                trusted += u < thresholds[k]
                expected = k if u < thresholds[k] else 255
            assert pseudo.labels[b, y, x] == expected
        assert pseudo.factor[b].item() == pytest.approx(trusted / total) and 0 < trusted < total
    assert not (pseudo.labels == 2)[pseudo.accepted].any()  # threshold 0 lets nothing through


def test_entropy_medians_agree_with_sorting(batch):
    torch.manual_seed(1)
    logits = torch.randn(4, 3, 20, 20) * 2
    labels = torch.tensor([0, 3, 255])[torch.randint(0, 3, (4, 20, 20))]
    counter = ClassEntropy(3)
    for half in (slice(0, 2), slice(2, 4)):
        counter.update(logits[half], labels[half], PLAIN)
    entropy = normalised_entropy(logits)[labels == 0]
    channel = logits.argmax(1)[labels == 0]
    for k in range(3):
        middle = entropy[channel == k].median().item()
        assert middle <= counter.thresholds()[k].item() <= middle + 2e-3
    again = ClassEntropy(3)
    again.load_state_dict(counter.state_dict())
    assert again.thresholds().equal(counter.thresholds())
    assert not ClassEntropy(3).thresholds().any()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_entropy_lies_between_certain_and_even(activation):
    even, sure = torch.zeros(1, 4, 1, 1), torch.full((1, 4, 1, 1), -80.0)
    sure[0, 2] = 80.0
    assert normalised_entropy(even, activation).item() == pytest.approx(1.0)
    assert normalised_entropy(sure, activation).item() == pytest.approx(0.0, abs=1e-6)


def test_coverage_and_precision_agree_with_a_loop(batch):
    logits, labels = batch
    truth = torch.randint(1, 5, labels.shape)
    truth[:, 0] = 255
    pseudo = pseudo_labels(logits, labels, SPACE, 1, threshold=0.5)
    quality = coverage_and_precision(pseudo, truth)
    where = [tuple(p) for p in pseudo.accepted.nonzero().tolist()]
    judged = [p for p in where if truth[p] != 255]
    right = [p for p in judged if truth[p] == pseudo.labels[p]]
    assert quality.coverage == len(where) / int((labels <= 1).sum())
    assert quality.precision == len(right) / len(judged) and right
    assert (quality.candidates, quality.judged, quality.correct) == (int((labels <= 1).sum()), len(judged), len(right))


@pytest.mark.parametrize("rule", ["hard", "soft", "adaptive", "entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_to_label_and_half_precision(rule, dtype):
    logits = (torch.randn(2, 4, 3, 3) * 40).to(dtype)
    labels = torch.full((2, 3, 3), 255)
    labels[0] = 4
    pseudo = pseudo_labels(logits, labels, SPACE, 1, rule=rule, entropy_thresholds=torch.full((4,), 0.5))
    assert pseudo.labels.equal(labels) and not pseudo.accepted.any()
    assert pseudo.weight.equal(torch.ones(2, 3, 3)) and pseudo.factor.equal(torch.ones(2))
    quality = coverage_and_precision(pseudo, labels)
    assert quality.coverage == 0 and quality.precision is None


def test_mistakes_are_named(batch):
    logits, labels = batch
    with pytest.raises(ValueError, match="one resolution"):
        pseudo_labels(logits[..., :3], labels, SPACE, 1)
    with pytest.raises(ValueError, match="previous step"):
        pseudo_labels(torch.zeros(2, 5, 6, 7), labels, SPACE, 1)
    with pytest.raises(ValueError, match="entropy_thresholds"):
        pseudo_labels(logits, labels, SPACE, 1, rule="entropy")
