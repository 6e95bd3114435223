"""The loss terms by name: what each computes from a scene, and how its weight grows over a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lag_core import processes
from lag_core.config import MethodConfig
from lag_core.loss_terms import LOSS_TERMS
from lag_core.method.classification import binary_cross_entropy, cross_entropy, unbiased_cross_entropy
from lag_core.method.consistency import choose_pairs, semantic_consistency
from lag_core.method.decoupling import ChannelScore
from lag_core.method.distillation import decay, distil_features, distil_logits, not_labelled_new
from lag_core.method.dkd import auxiliary_loss, decomposed_distillation, reasoning_scores
from lag_core.method.foreground import foreground_cross_entropy
from lag_core.method.memory import Memory
from lag_core.method.mib import unbiased_distillation
from lag_core.method.plop import local_pod_of_layers, pod_factor
from lag_core.method.preserving import feature_preserving
from lag_core.method.prototypes import class_means, semantic_invariance
from lag_core.method.pseudo_labels import PseudoLabels
from lag_core.method.regions import confident_regions, on_device, resize_labels, size_of
from lag_core.method.replay import patch_logits
from lag_core.method.star import Balance, of_classes, similarity_to_kin
from lag_core.method.stored import StoredMaps
from lag_core.method.transport import Carrier
from lag_core.model.segmenter import Output, Segmenter, upsample
from lag_core.protocol import IGNORE, LabelSpace

SOURCES = ("new", "unlabelled", "pseudo", "old")
"""Where the target of a pixel comes from, see `segmentation_by_source`."""


@dataclass
class Scene:
    """Everything that a term may use in one iteration."""

    config: MethodConfig
    space: LabelSpace
    step: int
    iteration: int
    seed: int
    student: Segmenter
    teacher: Segmenter | None
    new: Output
    """The student's output."""
    old: Output | None
    """The teacher's output; None at step 0, and if nothing uses it."""
    features: Tensor
    """float [B, T, h, w] the trunk's output."""
    targets: Tensor
    """int64 [B, s, s] this step's labels."""
    fused: PseudoLabels | None
    """The labels with the teacher's pseudo-labels; None without them."""
    memory: Memory
    carrier: Carrier | StoredMaps | None
    """The source of maps of old classes; None if they are drawn from the statistics."""
    score: ChannelScore
    replayed: Sequence[int]
    """Old channels that replay may use."""
    balance: Balance | None = None
    """How often pixels count, for STAR; None: each once."""

    @property
    def activation(self) -> str:
        return "sigmoid" if self.config.loss.startswith("bce") else "softmax"

    @property
    def foreground(self) -> bool:
        """Whether the background has no logit of its own."""
        return self.config.loss == "bce_foreground"

    @property
    def scored(self) -> range:
        """Channels that "bce_foreground" scores: all that are known by now with pseudo-labels, which name old classes,
        or with a replay of them; else the step's own, as old classes have no label at all."""
        last = self.space.new_channels(self.step).stop
        every = self.config.pseudo != "off" or self.config.replay > 0
        first = self.space.first_foreground if every else self.space.new_channels(self.step).start
        return range(max(first, self.space.first_foreground), last)

    @property
    def labels(self) -> Tensor:
        """int64 [B, s, s] fused labels."""
        return self.targets if self.fused is None else self.fused.labels

    @property
    def latent_labels(self) -> Tensor:
        """int64 [B, h, w] fused labels at the latent resolution."""
        return resize_labels(self.labels, size_of(self.new.latent))

    @property
    def old_classes(self) -> list[int]:
        """Channels of the real classes that the teacher knows."""
        return list(self.space.old_channels(self.step))

    def generator(self) -> torch.Generator:
        """A CPU generator that depends on seed, step and iteration alone."""
        mixed = 1_000_003 * (10_007 * self.seed + self.step) + self.iteration
        return torch.Generator().manual_seed(mixed % 2**63)  # a large seed would leave int64


def segmentation(scene: Scene, pixels: Tensor | None = None) -> Tensor:
    """The classification loss on the fused labels; with `pixels` bool [B, s, s], their contribution to it.

    Source: docs/method.md#schedule.
    """
    logits = upsample(scene.new.logits, size_of(scene.labels))
    weight = None
    if scene.fused is not None:
        weight = scene.fused.weight * scene.fused.factor[:, None, None]
    if pixels is not None:
        weight = pixels.float() if weight is None else weight * pixels
    if scene.foreground:
        repeated = _repeated_background(scene, weight)
        return foreground_cross_entropy(logits, scene.labels, scene.scored, scene.config.positive, repeated)
    if scene.config.loss == "bce":
        return binary_cross_entropy(logits, scene.labels, weight)
    if scene.config.loss == "ce" or scene.step == 0:
        return cross_entropy(logits, scene.labels, weight)
    return unbiased_cross_entropy(logits, scene.labels, scene.space.new_channels(scene.step).start, weight)


def _repeated_background(scene: Scene, weight: Tensor | None) -> Tensor | None:
    """STAR's repetition of background pixels, multiplied into the pixels' weights."""
    if scene.balance is None:
        return weight
    background = scene.labels < scene.space.first_foreground
    repeats = torch.where(background, scene.balance.background, 1.0)
    return repeats if weight is None else weight * repeats


def segmentation_by_source(scene: Scene) -> dict[str, Tensor]:
    """The segmentation term in parts that add up to it, by where a pixel's target comes from.

    "new": labels of the step's classes; "unlabelled": the catch-all channel (unknown or background); "pseudo": old
    classes that the teacher predicted; "old": old classes that are annotated.
    """
    labels = scene.labels
    pseudo = torch.zeros_like(labels, dtype=torch.bool) if scene.fused is None else scene.fused.accepted
    new = scene.space.new_channels(scene.step)
    is_new = (labels >= new.start) & (labels < new.stop)
    unlabelled = (labels < scene.space.first_foreground) & ~pseudo
    old = ~(pseudo | is_new | unlabelled | (labels == IGNORE))
    masks = dict(zip(SOURCES, (is_new & ~pseudo, unlabelled, pseudo, old), strict=True))
    nothing = torch.zeros((), device=labels.device)
    somewhere = processes.mean(torch.stack([mask.any() for mask in masks.values()]).float()) > 0  # all count alike
    named = zip(masks.items(), somewhere.tolist(), strict=True)
    return {name: segmentation(scene, mask) if shown else nothing for (name, mask), shown in named}


def kept_logits(scene: Scene, old: Output) -> Tensor:
    """Distillation of the old channels' logits where no new class is labelled."""
    if scene.foreground:  # DKD's sum is over all pixels
        return _distilled(scene, scene.new.logits, old.logits)
    keep = not_labelled_new(scene.latent_labels, scene.space, scene.step)
    return _distilled(scene, scene.new.logits, old.logits, keep)


def _distilled(scene: Scene, student: Tensor, teacher: Tensor, keep: Tensor | None = None) -> Tensor:
    first = 0 if scene.config.kd_unknown else scene.space.offset
    if scene.foreground:
        first = scene.space.first_foreground
    return distil_logits(student[:, first:], teacher[:, first:], keep, activation=scene.activation)  # type: ignore[arg-type]


def kept_latent(scene: Scene, old: Output) -> Tensor:
    """Distillation of the latent map Z."""
    return distil_features(scene.new.latent, old.latent)


def kept_stages(scene: Scene, old: Output) -> Tensor:
    """Distillation of the backbone's output."""
    return distil_features(scene.new.stage, old.stage)


def mib_distillation(scene: Scene, old: Output) -> Tensor:
    """MiB's unbiased distillation."""
    return unbiased_distillation(scene.new.logits, old.logits)


def kept_reasons(scene: Scene, old: Output) -> Tensor:
    """DKD's distillation of the positive and the negative reasoning scores of the old classes."""
    assert scene.teacher is not None
    with torch.no_grad():
        before = reasoning_scores(scene.teacher.heads, old.latent)  # type: ignore[arg-type]
    now = reasoning_scores(list(scene.student.heads)[: len(scene.teacher.heads)], scene.new.latent)  # type: ignore[arg-type]
    return decomposed_distillation(now, before, scene.space.old_channels(scene.step))


def auxiliary(scene: Scene) -> Tensor:
    """DKD's auxiliary classifier: all that is labelled is a negative."""
    head = scene.student.heads[0]
    return auxiliary_loss(head, scene.new.latent, scene.latent_labels != IGNORE)  # type: ignore[arg-type]


def kept_old_features(scene: Scene, old: Output) -> Tensor:
    """STAR's OCFM: Z stays the same where an old class is."""
    return distil_features(scene.new.latent, old.latent, of_classes(scene.latent_labels, scene.old_classes))


def apart_from_kin(scene: Scene, old: Output) -> Tensor:
    """STAR's SAD: a new class is pushed away from the old one that it resembles most."""
    known = scene.memory.prototypes
    olds = [k for k in scene.old_classes if known.known[k]]
    new = list(scene.space.new_channels(scene.step))
    return similarity_to_kin(scene.new.latent, old.latent, scene.latent_labels, new, known.mean, olds)


def pooled_outputs(scene: Scene, old: Output) -> Tensor:
    """PLOP's local POD of the backbone's output and the latent map."""
    layers = [scene.new.stage, scene.new.latent], [old.stage, old.latent]
    return pod_factor(scene.space, scene.step) * local_pod_of_layers(*layers, relative=True)


def invariance(scene: Scene, old: Output) -> Tensor:
    """SPM on the semantic-invariant channels. docs/method.md#spm."""
    classes = list(range(scene.space.channels(scene.step)))
    means, counts = class_means(scene.new.latent, scene.latent_labels, classes)
    known = scene.memory.prototypes
    mask = scene.score.working_split(scene.config.rho).invariant.to(means.device)
    forces = semantic_invariance(means, counts, classes, known.mean.to(means), known.known.to(means.device), mask)
    trained = [*scene.space.new_channels(scene.step), *range(scene.space.offset)]
    rows = on_device(tuple(trained), means.device)
    known.update(trained, means[rows].detach(), counts[rows])
    return forces.aggregation + scene.config.spm_separation * forces.separation


def preservation(scene: Scene, old: Output) -> Tensor:
    """SFP on the sample-specific channels. docs/method.md#sfp."""
    regions = old.logits.argmax(1).masked_fill(scene.latent_labels == IGNORE, IGNORE)
    specific = scene.score.working_split(scene.config.rho).specific.to(regions.device)
    loss = feature_preserving(scene.new.latent, old.latent, regions, scene.old_classes, specific)
    return loss.classwise + loss.globally


def consistency(scene: Scene, old: Output) -> Tensor:
    """NSC: the relevance of Z for the old classes stays the same. docs/method.md#nsc."""
    assert scene.teacher is not None
    regions = confident_regions(old.logits, scene.old_classes, scene.config.nsc_threshold, activation=scene.activation)
    pairs = choose_pairs(regions, scene.config.nsc_classes, scene.generator())
    return semantic_consistency(
        scene.student.heads, scene.teacher.heads, scene.new.latent, old.latent, pairs,
        create_graph=scene.config.old_heads == "live",
    )  # fmt: skip


def replayed(scene: Scene, old: Output) -> Tensor:
    """Replay of class statistics: features drawn for the old classes must still be told apart. Ours.

    At "latent", patches of Z go through the heads alone. At "trunk", whole feature maps go through everything that
    trains, and the student must also predict on them as the teacher does.
    """
    with processes.apart():  # each process draws its own
        return _replayed_maps(scene) if scene.config.replay_at == "trunk" else _replayed_patches(scene)


def _replayed_patches(scene: Scene) -> Tensor:
    config = scene.config
    patches, channels = scene.memory.statistics.sample_patches(
        scene.replayed, config.replay_samples, scene.generator(), config.replay_covariance
    )
    logits = patch_logits(scene.student.heads, patches.to(scene.new.latent.device))
    labels = channels.to(logits.device)[:, None, None]
    if scene.balance is None:
        return _told_apart(scene, logits, labels)
    amounts = scene.balance.replayed[channels].to(logits)
    # samples of a class share its amount, and the loss is a mean over all samples
    return _told_apart(scene, logits, labels, (amounts * (len(channels) / config.replay_samples))[:, None, None])


def _replayed_maps(scene: Scene) -> Tensor:
    assert scene.teacher is not None
    maps, labels = _maps_of_old_classes(scene)
    if len(maps) == 0:  # 0, but a function of the parameters: another batch gives the term a gradient
        return scene.new.logits[:0].sum()
    new = scene.student.behind_trunk(maps)
    with torch.no_grad():
        old = scene.teacher.behind_trunk(maps)
    return _told_apart(scene, new.logits, labels) + scene.config.replay_kd * _distilled(scene, new.logits, old.logits)


def _maps_of_old_classes(scene: Scene) -> tuple[Tensor, Tensor]:
    """Trunk features [N, T, h, w] of old classes with labels int64 [N, h, w]: drawn, or from the batch's images."""
    config, device = scene.config, scene.new.latent.device
    if scene.carrier is not None:
        wanted = scene.replayed, config.replay_samples, scene.generator()
        return scene.carrier.carry(scene.features, scene.latent_labels, *wanted)
    maps, labels = scene.memory.statistics.sample_maps(
        scene.replayed, config.replay_samples, size_of(scene.new.latent), scene.generator(), config.replay_covariance
    )
    return maps.to(device), labels.to(device)


def _told_apart(scene: Scene, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    if scene.foreground:
        return foreground_cross_entropy(logits, labels, scene.scored, scene.config.positive, weight)
    loss = binary_cross_entropy if scene.config.loss == "bce" else cross_entropy
    return loss(logits, labels, weight)


COMPUTED: dict[str, Callable[[Scene, Output], Tensor]] = {
    "spm": invariance,
    "sfp": preservation,
    "nsc": consistency,
    "kd_logits": kept_logits,
    "kd_latent": kept_latent,
    "kd_stages": kept_stages,
    "mib_kd": mib_distillation,
    "pod": pooled_outputs,
    "dkd": kept_reasons,
    "ocfm": kept_old_features,
    "sad": apart_from_kin,
    "replay": replayed,
}
"""What each term of `LOSS_TERMS` that needs a teacher computes."""


def weight_of(name: str, config: MethodConfig, progress: float) -> float:
    """Weight of a loss term at a progress in [0, 1), by its schedule. docs/method.md#schedule."""
    schedule, weight = LOSS_TERMS[name].schedule, getattr(config, name)
    if schedule == "decayed":
        return weight * decay(config.kd_decay, progress)
    if schedule == "ramped":
        return weight * min(1.0, (progress + 1e-9) / max(config.ramp, 1e-9))
    return weight
