"""Each loss term's wrapper: which tensors, labels, channels and settings it hands to the formula."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lag_core.config import MethodConfig, ModelConfig
from lag_core.method import terms
from lag_core.method.classification import binary_cross_entropy, cross_entropy, unbiased_cross_entropy
from lag_core.method.consistency import choose_pairs, semantic_consistency
from lag_core.method.decoupling import ChannelScore
from lag_core.method.distillation import distil_features, distil_logits
from lag_core.method.dkd import auxiliary_loss, decomposed_distillation, reasoning_scores
from lag_core.method.foreground import foreground_cross_entropy
from lag_core.method.memory import Memory
from lag_core.method.mib import unbiased_distillation
from lag_core.method.plop import local_pod
from lag_core.method.preserving import feature_preserving
from lag_core.method.prototypes import class_means, semantic_invariance
from lag_core.method.pseudo_labels import PseudoLabels
from lag_core.method.regions import confident_regions
from lag_core.method.replay import ClassStatistics, patch_logits
from lag_core.method.star import Balance, similarity_to_kin
from lag_core.method.terms import SOURCES, Scene
from lag_core.model.heads import Head
from lag_core.model.segmenter import Output, upsample
from lag_core.protocol import IGNORE, LabelSpace

SPACE = LabelSpace(((0, 1, 2), (3,)), background=0, unknown=True)
"""Channels at step 1: 0 unknown, 1 background, 2 and 3 old, 4 new."""
BARE = LabelSpace(((1, 2), (3,)), background=None, unknown=True)
"""Channels at step 1: 0 unknown, 1 and 2 old, 3 new."""
LATENT, SIDE = 6, 8


class Network:
    """Heads on Z, and in front of them a trunk whose output is doubled into Z."""

    def __init__(self, sizes: tuple[int, ...], kernel: int = 3):
        self.config = ModelConfig(latent=LATENT, head_kernel=kernel)  # type: ignore[arg-type]
        self.heads = nn.ModuleList(Head(LATENT, 5, size, kernel) for size in sizes).eval()

    def behind_trunk(self, features: Tensor) -> Output:
        latent = (2 * features).relu()
        return Output(features, latent, torch.cat([head(latent) for head in self.heads], 1))


def grid(*rows: str) -> Tensor:
    """Labels as digits, "." ignored."""
    return torch.tensor([[IGNORE if c == "." else int(c) for c in row] for row in rows])


TARGETS = torch.stack(
    [
        grid("00004444", "00004444", "00004444", "00000000", "00000000", "....0000", "....0000", "00000000"),
        grid("00000000", "04440000", "04440000", "04440000", "04440000", "00000000", "00000000", "0000000."),
    ]
)


def fused_labels(weight: float = 1.0, factor: float = 1.0) -> PseudoLabels:
    """TARGETS, where the teacher has named rows 6 and 7 of both images as the classes 2 and 3."""
    labels, accepted = TARGETS.clone(), torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    for row, channel in ((6, 2), (7, 3)):
        named = labels[:, row] == 0
        labels[:, row][named] = channel
        accepted[:, row] = named
    weights = torch.where(accepted, torch.tensor(weight), torch.tensor(1.0))
    return PseudoLabels(labels, weights, accepted, TARGETS == 0, torch.tensor([factor, 1.0]))


def scene_of(
    space: LabelSpace = SPACE, step: int = 1, fused: PseudoLabels | None = None, kernel: int = 3, **config: Any
) -> Scene:
    """Step 1 with the teacher's answers beside a student that has moved."""
    torch.manual_seed(0)
    teacher = Network(space.head_sizes(0), kernel)
    student = copy.deepcopy(teacher)
    student.heads.append(Head(LATENT, 5, len(space.steps[1]), kernel).eval())
    features = torch.randn(2, LATENT, SIDE, SIDE)
    old = teacher.behind_trunk(features)
    moved = features + 0.5 * torch.randn_like(features)
    new = student.behind_trunk(moved.requires_grad_())
    statistics = ClassStatistics(space.channels(1), LATENT)
    memory = Memory(space.channels(1), LATENT, statistics)
    every = torch.arange(2 * SIDE * SIDE).view(2, SIDE, SIDE) % space.channels(0)
    memory.learn(range(space.channels(0)), [(old.latent.detach(), old.latent.detach(), every)])
    score = ChannelScore(LATENT, warmup=1)
    score.update(torch.tensor([0.5, 0.0, 0.4, 0.1, 0.3, 0.2]))
    return Scene(
        config=MethodConfig(**config), space=space, step=step, iteration=7, seed=3, student=student,  # type: ignore[arg-type]
        teacher=teacher, new=new, old=old, features=features, targets=TARGETS, fused=fused, memory=memory,  # type: ignore[arg-type]
        carrier=None, score=score, replayed=list(space.old_channels(step)),
    )  # fmt: skip


def old_of(scene: Scene) -> Output:
    assert scene.old is not None
    return scene.old


# --- What terms look at. --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "activation"), [("bce", "sigmoid"), ("bce_foreground", "sigmoid"), ("ce", "softmax"), ("mib", "softmax")]
)
def test_the_activation_follows_the_loss(loss: str, activation: str) -> None:
    scene = scene_of(loss=loss)
    assert scene.activation == activation and scene.foreground == (loss == "bce_foreground")


def test_old_classes_are_channels_of_real_classes() -> None:
    assert scene_of().old_classes == [2, 3] and scene_of(BARE).old_classes == [1, 2]


@pytest.mark.parametrize(
    ("config", "space", "expected"),
    [
        ({"pseudo": "off"}, SPACE, range(4, 5)),
        ({"pseudo": "hard"}, SPACE, range(2, 5)),
        ({"pseudo": "off", "replay": 0.5}, SPACE, range(2, 5)),
        ({"pseudo": "hard"}, BARE, range(1, 4)),
    ],
)
def test_channels_that_the_foreground_loss_scores(config: dict[str, Any], space: LabelSpace, expected: range) -> None:
    assert scene_of(space, loss="bce_foreground", **config).scored == expected


def test_at_step_0_the_foreground_loss_scores_no_background() -> None:
    assert scene_of(step=0, loss="bce_foreground", pseudo="off").scored == range(2, 4)


def test_labels_are_the_fused_ones() -> None:
    fused = fused_labels()
    assert scene_of().labels is TARGETS and scene_of(fused=fused).labels is fused.labels
    smaller = replace(scene_of(), new=Output(*(torch.zeros(2, 1, 4, 4),) * 3))
    assert smaller.latent_labels.tolist() == TARGETS[:, 1::2, 1::2].tolist()


def test_the_generator_depends_on_seed_step_and_iteration_alone() -> None:
    def drawn(**changed: int) -> float:
        return float(torch.rand(1, generator=replace(scene_of(), **changed).generator()))

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=4), drawn(step=0), drawn(iteration=8)}) == 4
    assert drawn(seed=2**63 - 1) != drawn()


# --- Segmentation. --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", "ce", "mib"])
def test_segmentation_weighs_pixels_and_images(loss: str) -> None:
    fused = fused_labels(weight=0.25, factor=0.5)
    scene = scene_of(fused=fused, loss=loss)
    weight = fused.weight * torch.tensor([0.5, 1.0])[:, None, None]
    logits = scene.new.logits
    expected = {
        "bce": lambda: binary_cross_entropy(logits, fused.labels, weight),
        "ce": lambda: cross_entropy(logits, fused.labels, weight),
        "mib": lambda: unbiased_cross_entropy(logits, fused.labels, 4, weight),
    }[loss]()
    assert torch.equal(terms.segmentation(scene), expected)
    some = torch.rand(2, SIDE, SIDE) > 0.5
    part = terms.segmentation(scene, some) + terms.segmentation(scene, ~some)
    assert torch.allclose(part, expected)


def test_segmentation_without_fused_labels_counts_each_pixel_once() -> None:
    scene = scene_of(loss="ce")
    assert torch.equal(terms.segmentation(scene), cross_entropy(scene.new.logits, TARGETS))
    one = TARGETS == 4
    expected = cross_entropy(scene.new.logits, TARGETS, one.float())
    assert torch.equal(terms.segmentation(scene, one), expected)


def test_logits_are_brought_to_the_labels_size() -> None:
    scene = scene_of(loss="ce")
    small = scene.new._replace(logits=scene.new.logits[..., ::2, ::2])
    expected = cross_entropy(upsample(small.logits, (SIDE, SIDE)), TARGETS)
    assert torch.equal(terms.segmentation(replace(scene, new=small)), expected)


def test_the_unbiased_loss_begins_at_step_1() -> None:
    scene = scene_of(step=0, loss="mib")
    labels = TARGETS.clamp(max=3).masked_fill(TARGETS == IGNORE, IGNORE)
    scene = replace(scene, targets=labels)
    assert torch.equal(terms.segmentation(scene), cross_entropy(scene.new.logits, labels))


@pytest.mark.parametrize("fused", [None, fused_labels(0.5)], ids=["plain", "fused"])
def test_the_foreground_loss_repeats_the_background(fused: PseudoLabels | None) -> None:
    scene = scene_of(loss="bce_foreground", positive=3.0, pseudo="hard", fused=fused)
    labels = scene.labels
    weight = torch.ones(2, SIDE, SIDE) if fused is None else fused.weight

    def expected(repeats: float) -> Tensor:
        each = torch.where(labels < 2, torch.tensor(repeats), torch.tensor(1.0)) * weight
        return foreground_cross_entropy(scene.new.logits, labels, range(2, 5), 3.0, each)

    assert torch.allclose(terms.segmentation(scene), expected(1.0))
    balanced = replace(scene, balance=Balance(torch.zeros(5), 4.0))
    assert torch.allclose(terms.segmentation(balanced), expected(4.0))


@pytest.mark.parametrize("setting", ["overlapped", "sequential"])
def test_sources_by_where_a_target_comes_from(setting: str) -> None:
    fused = fused_labels()
    if setting == "sequential":  # an annotated old class and the background's own label
        fused.labels[0, 4, :4] = 3
        fused.labels[0, 5, 4:] = 1
    scene = scene_of(fused=fused, loss="bce")
    found = terms.segmentation_by_source(scene)
    assert tuple(found) == SOURCES
    assert float(sum(found.values()).detach()) == pytest.approx(terms.segmentation(scene).item(), rel=1e-5)
    labels = fused.labels
    masks = {
        "new": labels == 4,
        "unlabelled": (labels < 2) & ~fused.accepted,
        "pseudo": fused.accepted,
        "old": ((labels == 2) | (labels == 3)) & ~fused.accepted,
    }
    for name, mask in masks.items():
        assert torch.equal(found[name], terms.segmentation(scene, mask)), name
    assert (found["old"] > 0) == (setting == "sequential")


def test_a_source_that_another_process_shows_is_computed_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes sum within a loss: all must take part, or they wait for each other for ever."""
    monkeypatch.setattr(terms.processes, "mean", lambda value: (value + 1) / 2)  # each source is somewhere
    asked: list[bool] = []
    original = terms.segmentation
    monkeypatch.setattr(terms, "segmentation", lambda scene, mask: asked.append(True) or original(scene, mask))
    found = terms.segmentation_by_source(scene_of(loss="ce"))
    assert len(asked) == len(SOURCES) and found["pseudo"].item() == found["old"].item() == 0


def test_without_pseudo_labels_no_pixel_is_theirs() -> None:
    found = terms.segmentation_by_source(scene_of(loss="ce"))
    assert float(found["pseudo"]) == float(found["old"]) == 0 and found["new"] > 0 and found["unlabelled"] > 0


# --- Terms of the teacher. ------------------------------------------------------------------------


def test_logits_are_kept_where_no_new_class_is() -> None:
    scene = scene_of(fused=fused_labels(), loss="bce", kd_unknown=False)
    keep = scene.labels != 4
    assert torch.equal(
        terms.kept_logits(scene, old_of(scene)),
        distil_logits(scene.new.logits[:, 1:], old_of(scene).logits[:, 1:], keep),
    )


def test_logits_are_kept_by_the_losss_activation() -> None:
    scene = scene_of(loss="ce", kd_unknown=True)
    expected = distil_logits(scene.new.logits, old_of(scene).logits, TARGETS != 4, activation="softmax")
    assert torch.equal(terms.kept_logits(scene, old_of(scene)), expected)


@pytest.mark.parametrize("unknown", [True, False])
def test_foreground_logits_are_kept_everywhere_and_without_the_background(unknown: bool) -> None:
    scene = scene_of(loss="bce_foreground", kd_unknown=unknown)
    expected = distil_logits(scene.new.logits[:, 2:], old_of(scene).logits[:, 2:])
    assert torch.equal(terms.kept_logits(scene, old_of(scene)), expected)


def test_latent_stages_and_mibs_distillation() -> None:
    scene = scene_of(loss="mib")
    new, old = scene.new, old_of(scene)
    assert torch.equal(terms.kept_latent(scene, old), distil_features(new.latent, old.latent))
    assert torch.equal(terms.kept_stages(scene, old), distil_features(new.stage, old.stage))
    assert torch.equal(terms.mib_distillation(scene, old), unbiased_distillation(new.logits, old.logits))
    assert len({terms.COMPUTED[name](scene, old).item() for name in ("kd_latent", "kd_stages", "mib_kd")}) == 3


def test_pod_is_the_mean_of_stage_and_latent_and_grows_with_the_classes() -> None:
    scene = scene_of()
    new, old = scene.new, old_of(scene)
    both = (local_pod(new.stage, old.stage, relative=True) + local_pod(new.latent, old.latent, relative=True)) / 2
    assert torch.allclose(terms.pooled_outputs(scene, old), (4 / 1) ** 0.5 * both)


def test_reasons_of_the_old_classes_are_kept() -> None:
    scene = scene_of(loss="bce_foreground")
    now = reasoning_scores(list(scene.student.heads), scene.new.latent)  # type: ignore[arg-type]
    before = reasoning_scores(list(scene.teacher.heads), old_of(scene).latent)  # type: ignore[union-attr, arg-type]
    expected = decomposed_distillation(now, before, range(2, 4))
    found = terms.kept_reasons(scene, old_of(scene))
    assert torch.allclose(found, expected) and found > 0
    found.backward()
    assert all(p.grad is None for p in scene.teacher.heads.parameters())  # type: ignore[union-attr]
    assert all(p.grad is None for p in scene.student.heads[-1].parameters())
    assert any(p.grad is not None and p.grad.any() for p in scene.student.heads[2].parameters())


def test_the_auxiliary_classifier_sees_every_labelled_pixel() -> None:
    scene = scene_of(fused=fused_labels(), loss="bce_foreground")
    expected = auxiliary_loss(scene.student.heads[0], scene.new.latent, TARGETS != IGNORE)  # type: ignore[arg-type]
    assert torch.equal(terms.auxiliary(scene), expected)


def test_features_are_kept_where_an_old_class_is() -> None:
    scene = scene_of(fused=fused_labels())
    where = (scene.labels == 2) | (scene.labels == 3)
    expected = distil_features(scene.new.latent, old_of(scene).latent, where)
    assert torch.equal(terms.kept_old_features(scene, old_of(scene)), expected) and expected > 0


def test_a_new_class_is_pushed_from_known_old_ones() -> None:
    scene = scene_of()
    new, old = scene.new, old_of(scene)
    mean = scene.memory.prototypes.mean
    expected = similarity_to_kin(new.latent, old.latent, TARGETS, [4], mean, [2, 3])
    assert torch.equal(terms.apart_from_kin(scene, old), expected)
    scene.memory.prototypes.reset([2])
    expected = similarity_to_kin(new.latent, old.latent, TARGETS, [4], mean, [3])
    assert torch.equal(terms.apart_from_kin(scene, old), expected)


@pytest.mark.parametrize("warming", [True, False])
def test_invariance_weighs_the_separation_and_learns_new_prototypes(warming: bool) -> None:
    scene = scene_of(fused=fused_labels(), rho=0.5, spm_separation=0.3)
    known = scene.memory.prototypes
    before = copy.deepcopy(known)
    mask = torch.tensor([False, True, False, True, False, True])
    if warming:
        scene.score.warmup, mask = 2, torch.ones(6, dtype=torch.bool)
    means, counts = class_means(scene.new.latent, scene.labels, list(range(5)))
    forces = semantic_invariance(means, counts, list(range(5)), before.mean.float(), before.known, mask)
    found = terms.invariance(scene, old_of(scene))
    assert torch.allclose(found, forces.aggregation + 0.3 * forces.separation)
    assert forces.aggregation > 0 and forces.separation > 0
    before.update([0, 4], means[[0, 4]].detach(), counts[[0, 4]])
    assert torch.equal(known.mean, before.mean) and torch.equal(known.count, before.count)
    assert not known.mean.requires_grad and known.count[4] == float((TARGETS == 4).sum())


def test_preservation_on_specific_channels_by_the_teachers_regions() -> None:
    scene = scene_of(rho=0.5)
    old = old_of(scene)
    old.logits[:, 2, :4] += 5.0
    regions = old.logits.argmax(1).masked_fill(TARGETS == IGNORE, IGNORE)
    specific = torch.tensor([True, False, True, False, True, False])
    parts = feature_preserving(scene.new.latent, old.latent, regions, [2, 3], specific)
    assert torch.equal(terms.preservation(scene, old), parts.classwise + parts.globally)
    assert parts.classwise > 0 and parts.globally > 0


@pytest.mark.parametrize(("heads", "reached"), [("live", True), ("frozen", False)])
def test_consistency_compares_where_the_teacher_is_sure(heads: str, reached: bool) -> None:
    scene = scene_of(nsc_threshold=0.5, nsc_classes=1, old_heads=heads, loss="bce")
    old = old_of(scene)
    old.logits[:, 2, :3] += 9.0
    old.logits[:, 3, 4:] += 9.0
    regions = confident_regions(old.logits, [2, 3], 0.5)
    pairs = choose_pairs(regions, 1, scene.generator())
    assert len(pairs.channels.unique()) == 1
    expected = semantic_consistency(
        scene.student.heads, scene.teacher.heads, scene.new.latent, old.latent, pairs  # type: ignore[union-attr]
    )  # fmt: skip
    found = terms.consistency(scene, old)
    assert torch.allclose(found, expected) and found > 0
    found.backward()
    assert any(p.grad is not None and p.grad.any() for p in scene.student.heads.parameters()) == reached


# --- Replay. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("loss", ["bce", "ce", "bce_foreground"])
def test_patches_of_old_classes_are_still_told_apart(loss: str, kernel: int) -> None:
    scene = scene_of(kernel=kernel, loss=loss, replay=1.0, replay_samples=3, positive=2.0)
    patches, channels = scene.memory.statistics.sample_patches([2, 3], 3, scene.generator())
    assert channels.tolist() == [2, 2, 2, 3, 3, 3]
    logits, labels = patch_logits(scene.student.heads, patches), channels[:, None, None]
    expected = {
        "bce": lambda: binary_cross_entropy(logits, labels),
        "ce": lambda: cross_entropy(logits, labels),
        "bce_foreground": lambda: foreground_cross_entropy(logits, labels, range(2, 5), 2.0),
    }[loss]()
    assert torch.allclose(terms.replayed(scene, old_of(scene)), expected)


def test_balanced_samples_share_their_classs_amount() -> None:
    scene = scene_of(loss="ce", replay=1.0, replay_samples=4)
    plain = scene_of(loss="ce", replay=1.0, replay_samples=4)
    amounts = torch.tensor([0.0, 0.0, 0.5, 2.0, 0.0])
    patches, channels = scene.memory.statistics.sample_patches([2, 3], 4, scene.generator())
    each = cross_entropy_of_each(patch_logits(scene.student.heads, patches)[:, :, 0, 0], channels)
    expected = sum(amounts[k] * each[channels == k].mean() for k in (2, 3))
    found = terms.replayed(replace(scene, balance=Balance(amounts, 1.0)), old_of(scene))
    assert torch.allclose(found, expected)
    assert torch.allclose(terms.replayed(plain, old_of(plain)), each.mean())


def cross_entropy_of_each(logits: Tensor, channels: Tensor) -> Tensor:
    return -logits.log_softmax(1)[torch.arange(len(channels)), channels]


def test_maps_at_the_trunk_go_through_all_that_trains_and_are_answered_like_the_teacher() -> None:
    scene = scene_of(loss="ce", replay=1.0, replay_at="trunk", replay_samples=2, replay_kd=0.5)
    maps, labels = scene.memory.statistics.sample_maps([2, 3], 2, (SIDE, SIDE), scene.generator())
    new, old = scene.student.behind_trunk(maps), scene.teacher.behind_trunk(maps)  # type: ignore[union-attr]
    kept = distil_logits(new.logits[:, 1:], old.logits[:, 1:], activation="softmax")
    assert torch.allclose(terms.replayed(scene, old_of(scene)), cross_entropy(new.logits, labels) + 0.5 * kept)


def test_carried_maps_come_from_the_batch_and_its_labels() -> None:
    scene = scene_of(fused=fused_labels(), loss="ce", replay=1.0, replay_at="trunk", replay_samples=2, replay_kd=0.0)
    asked: list[Any] = []

    def carry(*arguments: Any) -> tuple[Tensor, Tensor]:
        asked.extend(arguments)
        return scene.features[:1], torch.full((1, SIDE, SIDE), 2)

    carried = replace(scene, carrier=SimpleNamespace(carry=carry))  # type: ignore[arg-type]
    expected = cross_entropy(scene.student.behind_trunk(scene.features[:1]).logits, torch.full((1, SIDE, SIDE), 2))
    assert torch.allclose(terms.replayed(carried, old_of(scene)), expected)
    features, labels, classes, n, generator = asked
    assert features is scene.features and torch.equal(labels, scene.latent_labels) and (classes, n) == ([2, 3], 2)
    assert torch.equal(torch.rand(2, generator=generator), torch.rand(2, generator=scene.generator()))


def test_no_map_costs_nothing_and_is_still_a_function_of_the_network() -> None:
    scene = scene_of(loss="ce", replay=1.0, replay_at="trunk")
    nothing = SimpleNamespace(carry=lambda *_: (scene.features[:0], TARGETS[:0]))
    value = terms.replayed(replace(scene, carrier=nothing), old_of(scene))  # type: ignore[arg-type]
    assert float(value.detach()) == 0 and value.requires_grad
