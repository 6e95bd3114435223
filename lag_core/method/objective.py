"""A method's objective at one step: loss terms by name, weighted and ready to be summed.

The loop gets an `Objective` and knows nothing about LAG; an `Objective` knows nothing about the optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lag_core import processes
from lag_core.config import MethodConfig
from lag_core.loss_terms import LOSS_TERMS
from lag_core.method.decoupling import ChannelScore, channel_distance
from lag_core.method.foreground import silent_catch_all
from lag_core.method.memory import Memory, only
from lag_core.method.pseudo_labels import ClassEntropy, PseudoLabels, coverage_and_precision, pseudo_labels
from lag_core.method.regions import resize_labels, size_of
from lag_core.method.replay import ClassStatistics
from lag_core.method.star import Balance, balance
from lag_core.method.starting import Start, asks_for_kin, start_from_kin
from lag_core.method.stored import StoredMaps
from lag_core.method.terms import COMPUTED, SOURCES, Scene, auxiliary, segmentation, segmentation_by_source, weight_of
from lag_core.method.transport import Carrier
from lag_core.model.segmenter import Output, Segmenter, upsample
from lag_core.protocol import IGNORE, LabelSpace


class Term(NamedTuple):
    """One loss term: its raw value and the weight that it enters the sum with."""

    value: Tensor
    weight: float


class Batch(NamedTuple):
    """One batch from the loop."""

    inputs: Tensor
    """float32 [B, T, h, w] trunk features, or [B, 3, H, W] images where the trunk itself trains."""
    targets: Tensor
    """int64 [B, s, s] training channels of this step, 255 ignored."""
    hidden: Tensor
    """int64 [B, s, s] channels of every class seen so far: the full annotation, for measuring pseudo-labels only."""


class Result(NamedTuple):
    """Terms by name, and values that are computed on demand."""

    terms: dict[str, Term]
    facts: Callable[[], dict[str, Any]]
    """For the log; counted when asked for, as that waits for the device."""
    sources: Callable[[], dict[str, Tensor]] = dict
    """The raw segmentation term in parts that add up to it, by name of `SOURCES`; computed when asked for."""


def losses_by_source(result: Result) -> dict[str, Tensor]:
    """Raw terms by name, with the segmentation term in its parts: "segmentation.new" and so on."""
    parts = {f"segmentation.{source}": value for source, value in result.sources().items()}
    return {**parts, **{name: term.value for name, term in result.terms.items() if name != "segmentation"}}


def weights_by_source(terms: Mapping[str, Term]) -> dict[str, float]:
    """Weights by the names of `losses_by_source`."""
    own = {f"segmentation.{source}": terms["segmentation"].weight for source in SOURCES}
    return {**own, **{name: term.weight for name, term in terms.items() if name != "segmentation"}}


def needing_one_process(config: MethodConfig) -> tuple[str, ...]:
    """Keys of the configuration that several processes cannot do."""
    return ("method.replay_balance",) if config.replay_balance else ()


class Objective:
    """The loss terms of one step, with the state that they keep.

    `foreign`: old channels whose own step had another domain than this one.
    """

    def __init__(
        self,
        config: MethodConfig,
        space: LabelSpace,
        step: int,
        *,
        latent: int,
        trunk: int,
        seed: int = 0,
        memory: Mapping[str, np.ndarray] | None = None,
        foreign: Collection[int] = (),
    ):
        self.config, self.space, self.step, self.seed = config, space, step, seed
        channels = space.channels(step)
        at_latent = config.replay_at == "latent"
        statistics = ClassStatistics(
            channels,
            latent if at_latent else trunk,
            full=config.replay_covariance == "full",
            rectified=at_latent,
        )
        self.memory = Memory.from_arrays(memory or {}, channels, latent, statistics)
        left_out = foreign if config.replay_domain == "same" else ()
        self.replayed = [k for k in space.old_channels(step) if k not in left_out]
        """Old channels that replay may use (`replay_domain`)."""
        carries = bool(self.replayed) and config.replay_maps == "carried"
        self.present: ClassStatistics | None = None
        """Of the old classes in this step's own images, by the teacher's labels (`replay_domain`)."""
        if carries and config.replay_domain == "step":
            self.present = ClassStatistics(channels, trunk, full=True, rectified=False)
        self.carrier: Carrier | StoredMaps | None = Carrier(statistics, space, step, self.present) if carries else None
        self.score = ChannelScore(latent, config.channel_warmup)
        entropic = step > 0 and config.pseudo == "entropy"
        self.entropy = ClassEntropy(space.channels(step - 1)) if entropic else None
        self.own_pixels: Tensor | None = None
        """float64 [K] pixels of the step by channel, for `replay_balance`; None until `begin` has counted them."""

    @property
    def activation(self) -> str:
        return "sigmoid" if self.config.loss.startswith("bce") else "softmax"

    @property
    def balance(self) -> Balance | None:
        """How often pixels count; None: each once."""
        if self.own_pixels is None:
            return None
        return balance(self.memory.statistics.count, self.own_pixels, list(self.space.old_channels(self.step)))

    @property
    def not_replayed(self) -> list[int]:
        """Old channels that replay leaves out; empty for a method without replay."""
        olds = self.space.old_channels(self.step) if self.config.replay > 0 else ()
        return [k for k in olds if k not in self.replayed]

    def recall(self, earlier: Callable[[], Iterable[Batch]]) -> None:
        """Keep the images of the earlier steps if the method replays them. `earlier` is only called then."""
        if self.step and self.config.replay_maps == "stored":
            self.carrier = StoredMaps(_with_all_labels(earlier()))

    @torch.no_grad()
    def begin(self, student: Segmenter, teacher: Segmenter, plain: Callable[[bool], Iterable[Batch]]) -> list[Start]:
        """Before the first iteration: start the new head, and run a pass over the step's images if the method needs it.

        `plain`: every image of the step once, or with True this process's part of them. Returns which old channel each
        new one starts as, if the method chooses one.
        """
        starts: list[Start] = []
        if asks_for_kin(self.config):
            starts = start_from_kin(student, _answers(teacher, plain(False)), self.space, self.step)
        self._look_ahead(teacher, plain)
        return starts

    def _look_ahead(self, teacher: Segmenter, plain: Callable[[bool], Iterable[Batch]]) -> None:
        """One pass over the step's images with the teacher, for statistics that need it."""
        if self.entropy is None and self.carrier is None and not self.config.replay_balance:
            return
        if self.config.replay_balance:
            self.own_pixels = torch.zeros(self.space.channels(self.step), dtype=torch.float64)
        new = list(self.space.new_channels(self.step))
        self.memory.statistics.reset(new)
        with processes.apart():
            self._look_at(teacher, plain(True), new)
        if self.entropy is not None:
            self.entropy.histogram = _summed(self.entropy.histogram)
        if self.carrier is not None:
            self.memory.pool(new)
        if self.present is not None:
            self.present.pool(range(len(self.present.count)), processes.current().gathered(self.present.state_dict()))

    def _look_at(self, teacher: Segmenter, batches: Iterable[Batch], new: list[int]) -> None:
        for batch in batches:
            old = teacher.behind_trunk(batch.inputs)
            if self.entropy is not None:
                logits = upsample(old.logits, size_of(batch.targets))
                self.entropy.update(logits, batch.targets, self.space, self.activation)
            if self.own_pixels is not None:
                fused = self._fused(old, batch)
                labels = resize_labels(batch.targets if fused is None else fused.labels, size_of(old.latent))
                found = labels[labels != IGNORE].bincount(minlength=len(self.own_pixels))
                self.own_pixels += found.double().cpu()
            if self.carrier is not None:
                fused = self._fused(old, batch)
                labels = resize_labels(batch.targets if fused is None else fused.labels, size_of(old.latent))
                self.memory.add_statistics(new, batch.inputs, labels)
                if self.present is not None:
                    self.present.update(batch.inputs, only(labels, list(self.space.old_channels(self.step))))

    def __call__(
        self,
        student: Segmenter,
        teacher: Segmenter | None,
        new: Output,
        old: Output | None,
        batch: Batch,
        progress: float,
        iteration: int,
        skip: frozenset[str] = frozenset(),
    ) -> Result:
        """The terms of one iteration; those in `skip` (known to be dead) are left out.

        `old` is the teacher's output, or None where it is not needed (`needs_teacher`).
        """
        if self.config.loss == "bce_foreground":
            new = new._replace(logits=silent_catch_all(new.logits))
            old = old and old._replace(logits=silent_catch_all(old.logits))
        fused = self._fused(old, batch)
        scene = Scene(
            config=self.config,
            space=self.space,
            step=self.step,
            iteration=iteration,
            seed=self.seed,
            student=student,
            teacher=teacher,
            new=new,
            old=old,
            features=batch.inputs,
            targets=batch.targets,
            fused=fused,
            memory=self.memory,
            carrier=self.carrier,
            score=self.score,
            replayed=self.replayed,
            balance=self.balance,
        )
        terms = {"segmentation": Term(segmentation(scene), 1.0)}
        if self.config.auxiliary > 0:
            terms["auxiliary"] = Term(auxiliary(scene), self.config.auxiliary)
        if old is not None:
            terms.update(self._preserving_terms(scene, old, progress, skip))
        return Result(terms, lambda: self._facts(fused, batch), lambda: segmentation_by_source(scene))

    def needs_teacher(self, progress: float, iteration: int, skip: frozenset[str] = frozenset()) -> bool:
        """Whether anything in this iteration uses the teacher's output: pseudo-labels, or a term."""
        return self.config.pseudo != "off" or bool(self._wanted(progress, iteration, skip))

    def _wanted(self, progress: float, iteration: int, skip: frozenset[str]) -> dict[str, float]:
        """Every term of `COMPUTED` with a weight above zero, and that weight."""
        due = iteration % self.config.nsc_every == 0
        weights = {
            name: weight_of(name, self.config, progress)
            for name in COMPUTED
            if name not in skip and (due or not LOSS_TERMS[name].sparse) and (self.replayed or name != "replay")
        }
        return {name: weight for name, weight in weights.items() if weight > 0}

    def _preserving_terms(self, scene: Scene, old: Output, progress: float, skip: frozenset[str]) -> dict[str, Term]:
        wanted = self._wanted(progress, scene.iteration, skip)
        if any(LOSS_TERMS[name].needs_split for name in wanted):
            self._score_channels(old.latent, scene.new.latent)
        return {name: Term(COMPUTED[name](scene, old), weight) for name, weight in wanted.items()}

    def _score_channels(self, old: Tensor, new: Tensor) -> None:
        distance = channel_distance(old, new.detach(), self.config.channel_metric, seed=self.seed)
        self.score.update(processes.mean(distance))

    def _fused(self, old: Output | None, batch: Batch) -> PseudoLabels | None:
        if old is None or self.config.pseudo == "off":
            return None
        silent = self.config.loss == "bce_foreground"
        logits = silent_catch_all(old.logits) if silent else old.logits
        return pseudo_labels(
            upsample(logits, size_of(batch.targets)),
            batch.targets,
            self.space,
            self.step,
            rule=self.config.pseudo,
            threshold=self.config.pseudo_threshold,
            margin=self.config.pseudo_margin,
            keep=self.config.pseudo_keep,
            activation=self.activation,  # type: ignore[arg-type]
            entropy_thresholds=self.entropy.thresholds() if self.entropy is not None else None,
        )

    def _facts(self, fused: PseudoLabels | None, batch: Batch) -> dict[str, Any]:
        if fused is None:
            return {}
        quality = coverage_and_precision(fused, batch.hidden)
        return {"pseudo_labels": {"coverage": quality.coverage, "precision": quality.precision}}

    @torch.no_grad()
    def finish(
        self, student: Segmenter, teacher: Segmenter | None, batches: Iterable[Batch], through_trunk: bool
    ) -> dict[str, np.ndarray]:
        """What the step stores for the next one and for the dashboard: arrays by name.

        `prototypes.*`, `statistics.*`: rows of the step's own classes and of the unknown, measured with the finished
        network on the plain images; older rows stay as they were. `channels.distance` [C] and `channels.invariant`
        [C]: each latent channel's mean distance to the teacher's, and the split that follows.
        """
        score = ChannelScore(self.score.distance.numel(), warmup=2**31)
        own = [*range(self.space.first_foreground), *self.space.new_channels(self.step)]
        kept = [0] if self.config.replay_balance and self.step else []  # the background of all steps together
        self.memory.learn(
            dict.fromkeys(own), self._labelled_latents(student, teacher, batches, through_trunk, score), kept
        )
        arrays = self.memory.arrays()
        if teacher is not None:
            score.distance, score.count = _pooled_distance(score)
            split = score.split(self.config.rho)
            arrays["channels.distance"] = score.distance.float().cpu().numpy()
            arrays["channels.invariant"] = split.invariant.cpu().numpy().astype(np.uint8)
            arrays["channels.defined"] = np.array([split.defined], np.uint8)
        return arrays

    def _labelled_latents(
        self,
        student: Segmenter,
        teacher: Segmenter | None,
        batches: Iterable[Batch],
        through_trunk: bool,
        score: ChannelScore,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(Z, features to replay, fused labels at its resolution) of each batch; also scores the channels."""
        for batch in batches:
            features = student.trunk(batch.inputs) if through_trunk else batch.inputs
            new = student.behind_trunk(features)
            old = teacher.behind_trunk(features) if teacher is not None else None
            if old is not None:
                score.update(channel_distance(old.latent, new.latent, self.config.channel_metric, seed=self.seed))
            fused = self._fused(old, batch)
            labels = batch.targets if fused is None else fused.labels
            replayed = new.latent if self.config.replay_at == "latent" else features
            yield new.latent, replayed, resize_labels(labels, size_of(new.latent))

    def state_dict(self) -> dict[str, Any]:
        """Tensors that a resumed step needs."""
        entropy: dict[str, Any] = {"entropy": self.entropy.state_dict()} if self.entropy is not None else {}
        if self.own_pixels is not None:
            entropy["own_pixels"] = self.own_pixels
        if self.present is not None:
            entropy["present"] = self.present.state_dict()
        return {"memory": self.memory.state_dict(), "score": self.score.state_dict(), **entropy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self.score.load_state_dict(state["score"])
        self.own_pixels = state.get("own_pixels")
        if self.present is not None:
            self.present.load_state_dict(state["present"])
        if self.entropy is not None:
            self.entropy.load_state_dict(state["entropy"])


def _answers(teacher: Segmenter, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """The teacher's logits [B, K_old, h, w] and the step's labels [B, h, w] at their resolution."""
    for batch in batches:
        logits = teacher.behind_trunk(batch.inputs).logits
        yield logits, resize_labels(batch.targets, size_of(logits))


def _with_all_labels(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [B, T, h, w] and the full annotation [B, h, w] at their resolution."""
    return ((batch.inputs, resize_labels(batch.hidden, size_of(batch.inputs))) for batch in batches)


def _summed(counts: Tensor) -> Tensor:
    """Sum over the processes. Any shape."""
    return torch.stack(processes.current().gathered(counts)).sum(0)


def _pooled_distance(score: ChannelScore) -> tuple[Tensor, int]:
    """Mean distance of each channel over the batches of all processes, and their number. Shape: [C]."""
    found = processes.current().gathered((score.distance.cpu(), score.count))
    if len(found) == 1:
        return score.distance, score.count
    count = sum(n for _, n in found)
    return torch.stack([distance * n for distance, n in found]).sum(0) / max(count, 1), count
