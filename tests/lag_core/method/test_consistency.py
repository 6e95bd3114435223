"""Latent relevance and NSC: against loops, exact identities, and what the shortcut costs (nothing)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lag_core.method.consistency import (
    choose_pairs,
    relevance_consistency,
    semantic_consistency,
)
from lag_core.model.heads import Head
from lag_core.relevance.latent import channel_profile, latent_relevance, relevance_map


class Heads(nn.Module):
    """Two heads side by side, as in the segmenter."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(6, 4, 2), Head(6, 4, 3)])
        for head in self.heads:
            nn.init.normal_(head.norm.bias)
            nn.init.uniform_(head.norm.running_var, 0.5, 2)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([head(z) for head in self.heads], 1)


@pytest.fixture
def models() -> tuple[Heads, Heads]:
    torch.manual_seed(0)
    teacher = Heads().eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    for p in student.parameters():
        p.add_(torch.randn_like(p) * 0.3)
    return student, teacher


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    regions = torch.tensor([1, 3, 4, 255])[torch.randint(0, 4, (3, 5, 6))]
    regions[1] = 255
    regions[1, 2, 2] = 3
    return torch.rand(3, 6, 5, 6), torch.rand(3, 6, 5, 6), regions


def slow_relevance(decode: nn.Module, z: Tensor, k: int, mask: Tensor) -> Tensor:
    """Z times the slope of the score, by finite differences in double precision."""
    decode, z = copy.deepcopy(decode).double(), z.double()
    result, step = torch.zeros_like(z), 1e-5
    for place in torch.ones_like(z).nonzero().tolist():
        shift = torch.zeros_like(z)
        shift[tuple(place)] = step
        up, down = (float((decode(v[None])[0, k] * mask).sum()) for v in (z + shift, z - shift))
        result[tuple(place)] = z[tuple(place)] * (up - down) / (2 * step)
    return result


def test_relevance_agrees_with_finite_differences(models, scene):
    _, teacher = models
    latent, _, regions = scene
    masks = torch.stack([regions[0] == 3, regions[2] == 4])
    ours = latent_relevance(teacher, latent[[0, 2]], torch.tensor([3, 4]), masks)
    for row, (b, k) in enumerate([(0, 3), (2, 4)]):
        assert torch.allclose(ours[row].double(), slow_relevance(teacher, latent[b], k, masks[row]), atol=1e-5)
    single = latent_relevance(teacher, latent[:1], 3, masks[:1].float())
    assert torch.allclose(single, ours[:1], atol=1e-6)


def test_relevance_without_biases_adds_up_to_the_score(scene):
    latent, _, regions = scene
    head = Head(6, 4, 3).eval()
    nn.init.zeros_(head.norm.bias)
    nn.init.zeros_(head.classify.bias)
    mask = regions[:1] == 3
    relevance = latent_relevance(head, latent[:1], 2, mask)
    score = (head(latent[:1])[:, 2] * mask).sum()
    assert torch.allclose(relevance.sum(), score, rtol=1e-4)
    assert torch.allclose(channel_profile(relevance).sum(), score, rtol=1e-4)


def test_map_and_profile_agree_with_loops():
    relevance = torch.randn(2, 3, 4, 5)
    for p in range(2):
        for c in range(3):
            total = sum(relevance[p, c].flatten().tolist())
            assert channel_profile(relevance)[p, c].item() == pytest.approx(total, abs=1e-5)
        for y in range(4):
            for x in range(5):
                total = sum(relevance[p, :, y, x].tolist())
                assert relevance_map(relevance)[p, y, x].item() == pytest.approx(max(0.0, total), abs=1e-6)


def test_rows_through_their_own_heads_give_the_same(models, scene):
    student, _ = models
    latent, _, regions = scene
    channels, masks = torch.tensor([4, 0, 1]), regions != 255
    whole = latent_relevance(student, latent, channels, masks)
    assert torch.allclose(latent_relevance(student.heads, latent, channels, masks), whole, atol=1e-6)
    with pytest.raises(ValueError, match="channels 0 to 4"):
        latent_relevance(student.heads, latent, 5, masks)


def test_relevance_works_where_gradients_are_off(models, scene):
    _, teacher = models
    latent, _, regions = scene
    expected = latent_relevance(teacher, latent, 1, regions == 1)
    with torch.no_grad():
        assert latent_relevance(teacher, latent, 1, regions == 1).equal(expected)
    with torch.inference_mode():
        assert latent_relevance(teacher, latent.clone(), 1, regions == 1).equal(expected)
    assert not expected.requires_grad


def test_every_image_is_paired_with_every_drawn_class_in_it(scene):
    _, _, regions = scene
    pairs = choose_pairs(regions, 9, torch.Generator())
    expected = {(b, k) for b in range(3) for k in (1, 3, 4) if (regions[b] == k).any()}
    found = list(zip(pairs.images.tolist(), pairs.channels.tolist(), strict=True))
    assert set(found) == expected and len(found) == len(expected)
    for (b, k), mask in zip(found, pairs.masks, strict=True):
        assert mask.equal(regions[b] == k)
    assert 1 not in choose_pairs(regions, 9, torch.Generator(), min_pixels=2).images
    assert 1 in pairs.images


def test_few_classes_are_drawn_by_seed(scene):
    _, _, regions = scene
    generators = [torch.Generator().manual_seed(seed) for seed in range(20)]
    draws = [tuple(choose_pairs(regions, 1, g).channels.unique().tolist()) for g in generators]
    assert set(draws) == {(1,), (3,), (4,)}
    assert draws[7] == tuple(choose_pairs(regions, 1, torch.Generator().manual_seed(7)).channels.unique().tolist())


def slow_nsc(student, teacher, new: Tensor, old: Tensor, regions: Tensor) -> float:
    """One (image, class) pair at a time, straight from the formula."""
    values = []
    for b in range(len(regions)):
        for k in (1, 3, 4):
            mask = regions[b] == k
            if not mask.any():
                continue
            sides = []
            for decode, z in ((student, new), (teacher, old)):
                leaf = z[b : b + 1].detach().clone().requires_grad_()
                (decode(leaf)[0, k] * mask).sum().backward()
                r = (leaf * leaf.grad).detach()[0]
                sides.append((r.sum(0).clamp(min=0), r.sum((1, 2))))
            (m, p), (n, q) = sides
            spatial = (m / (m.norm() + 1e-6) - n / (n.norm() + 1e-6)).square().sum()
            profile = (p / (p.norm() + 1e-6) - q / (q.norm() + 1e-6)).square().sum()
            values.append(float(spatial + 0.5 * profile))
    return sum(values) / len(values)


def test_consistency_agrees_with_a_loop(models, scene):
    student, teacher = models
    new, old, regions = scene
    pairs = choose_pairs(regions, 9, torch.Generator())
    ours = semantic_consistency(student, teacher, new, old, pairs)
    assert ours.item() == pytest.approx(slow_nsc(student, teacher, new, old, regions), rel=1e-4) and ours > 0.01


def test_consistency_of_equal_models_is_exactly_zero(models, scene):
    _, teacher = models
    _, old, regions = scene
    student, latent = copy.deepcopy(teacher), old.clone().requires_grad_()
    pairs = choose_pairs(regions, 9, torch.Generator())
    for create_graph in (False, True):
        value = semantic_consistency(student, teacher, latent, old, pairs, create_graph=create_graph)
        assert value.item() == 0
        assert not torch.autograd.grad(value, latent)[0].any()


def test_gradient_to_the_latent_map_needs_no_second_derivative(models, scene):
    student, teacher = models
    new, old, regions = scene
    new.requires_grad_()
    pairs = choose_pairs(regions, 9, torch.Generator())
    cheap = semantic_consistency(student, teacher, new, old, pairs)
    full = semantic_consistency(student, teacher, new, old, pairs, create_graph=True)
    (a,), (b,) = torch.autograd.grad(cheap, new), torch.autograd.grad(full, new)
    assert torch.allclose(a, b, atol=1e-7) and a.abs().sum() > 0


def test_gradient_agrees_with_finite_differences(models, scene):
    student, teacher = (m.double() for m in models)
    new, old, regions = scene
    new, old = new.double().requires_grad_(), old.double()
    pairs = choose_pairs(regions, 9, torch.Generator())
    value = semantic_consistency(student, teacher, new, old, pairs)
    (grad,) = torch.autograd.grad(value, new)
    for place in ((0, 0, 2, 2), (2, 4, 1, 3), (0, 3, 4, 0)):
        shift = torch.zeros_like(new)
        shift[place] = 1e-6
        up, down = (semantic_consistency(student, teacher, (new + s).detach(), old, pairs) for s in (shift, -shift))
        assert grad[place].item() == pytest.approx(((up - down) / 2e-6).item(), rel=1e-3, abs=1e-7)


def test_heads_learn_only_with_create_graph_and_the_teacher_never(models, scene):
    student, teacher = models
    new, old, regions = scene
    student.requires_grad_()
    teacher.requires_grad_()
    old.requires_grad_()
    pairs = choose_pairs(regions, 9, torch.Generator())
    semantic_consistency(student, teacher, new.requires_grad_(), old, pairs).backward()
    assert all(p.grad is None for p in student.parameters())
    semantic_consistency(student, teacher, new, old, pairs, create_graph=True).backward()
    assert student.heads[1].conv.weight.grad.abs().sum() > 0
    assert old.grad is None and all(p.grad is None for p in teacher.parameters())


def test_a_batch_without_any_pair_gives_zero(models, scene):
    student, teacher = models
    new, old, regions = scene
    new.requires_grad_()
    pairs = choose_pairs(torch.full_like(regions, 255), 4, torch.Generator())
    assert len(pairs.images) == 0
    value = semantic_consistency(student, teacher, new, old, pairs)
    assert value.item() == 0 and not torch.autograd.grad(value, new)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(dtype, models, scene):
    student, teacher = models
    _, _, regions = scene
    new = (torch.rand(3, 6, 5, 6) * 300).to(dtype).requires_grad_()
    old = (torch.rand(3, 6, 5, 6) * 300).to(dtype)
    value = semantic_consistency(student, teacher, new, old, choose_pairs(regions, 9, torch.Generator()))
    value.backward()
    assert value.isfinite() and new.grad.isfinite().all() and new.grad.abs().sum() > 0
    dead = relevance_consistency(torch.zeros(2, 6, 5, 6, requires_grad=True), torch.rand(2, 6, 5, 6))
    dead.backward()
    assert dead.isfinite()


def test_a_mask_of_the_wrong_size_is_refused(models, scene):
    _, teacher = models
    latent, _, _ = scene
    with pytest.raises(ValueError, match="at the latent resolution"):
        latent_relevance(teacher, latent, 1, torch.ones(3, 10, 12))
