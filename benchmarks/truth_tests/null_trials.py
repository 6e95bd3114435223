"""Null trials: does the verdict claim a cause where there is none?

A finding claims "carried" (ablation) or "restored" (transplant) where an effect is material and p <= verdict.LEVEL
beside CONTROLS random sets of equally many channels, alive and of equal energy. By its construction a chance claim is
expected in at most LEVEL of the trials of each question; what is counted here is whether that holds. Two kinds of
nothing:

* *random group*: real steps of the run, but the group that is asked about is drawn at random instead of ranked. What it
  does is by definition what random channels do.
* *random jitter*: the later step is a copy of the earlier one in which each channel was jittered as much as a draw
  says, which knows nothing of what the channel carries; ranking and verdict are the product's own. So the most
  invariant channels must not come out as the carriers.
* *equal jitter*: the same with one jitter for all channels. The distance then orders the channels by their energy, in
  nearly the same way in each trial, so that fifty trials test one group a class.

Where the control sets cannot have the energy of the group (controls.BALANCED) no claim is possible: "not comparable".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lag_core.explain import channels, verdict
from lag_core.explain.attribution_checks import rank_correlation
from lag_core.explain.controls import BALANCED, Matched, alive, energy
from lag_core.explain.decoding import OwnDecoder
from lag_core.explain.interventions import CONTROLS, Intervention, ablation, curve, transplantation
from lag_core.explain.verdict import LEAST_CONTROLS, ChannelEffects, EffectCurve, Evidence, OverSteps
from lag_core.model.segmenter import Segmenter
from truth_tests.cases import Subject
from truth_tests.damage import Copied, Jitter
from truth_tests.latents import Latents

PICTURES = 4
JITTER = 0.3
"""Relative standard deviation of the equal jitter."""
JITTERS = (0.03, 1.0)
"""Bounds of the random ones."""


def rows(subject: Subject, trials: int, pictures: int = PICTURES) -> Iterator[dict]:
    """One row a situation and trial, with the words of both questions."""
    questions = _questions(subject, pictures)
    for trial in range(trials):
        latents, step = questions[trial % len(questions)]
        row = {"run": subject.name, "class": subject.run.classes[latents.cls].name, "trial": trial}
        yield {**row, "situation": "random group", **_random_group(latents, step, seed=trial)}
        yield {**row, "situation": "random jitter", **_jittered(latents, step, JITTERS, seed=trial)}
        yield {**row, "situation": "equal jitter", **_jittered(latents, step, JITTER, seed=trial)}


def _questions(subject: Subject, pictures: int) -> list[tuple[Latents, int]]:
    """The pictures of every old class, and the step that introduced it."""
    return [
        (Latents(subject, cls, pictures), subject.run.labels.step_of(cls))
        for cls in subject.foreground
        if subject.run.labels.step_of(cls) < subject.run.last_step and subject.pictures(cls, 1)
    ]


def order_by_energy(subject: Subject, trials: int, pictures: int = PICTURES) -> list[float]:
    """Spearman's correlation of the distance and the energy of the living channels, in each trial of equal jitter."""
    questions, found = _questions(subject, pictures), []
    for trial in range(trials):
        latents, step = questions[trial % len(questions)]
        _, new, distance = _after_jitter(latents, step, JITTER, seed=trial)
        after = new.cpu().numpy()
        living = alive(after)
        found.append(rank_correlation(distance[living], energy(after)[living]))
    return found


def _random_group(latents: Latents, step: int, seed: int) -> dict[str, str | float]:
    last = latents.subject.run.last_step
    old, new = latents.of_steps[step], latents.of_steps[last]
    order = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(alive(new.cpu().numpy())))
    before, after = (latents.subject.networks.steps[t] for t in (step, last))
    return words(latents, (old, new), (before, after), (order, order), seed)


def _jittered(latents: Latents, step: int, share: float | tuple[float, float], seed: int) -> dict[str, str | float]:
    old, model = latents.of_steps[step], latents.subject.networks.steps[step]
    jittered, new, distance = _after_jitter(latents, step, share, seed)
    living = np.flatnonzero(alive(new.cpu().numpy()))
    orders = tuple(living[channels.ranked(name, distance[living])] for name in ("invariant", "changed"))
    return words(latents, (old, new), (model, jittered), orders, seed)


def _after_jitter(
    latents: Latents, step: int, share: float | tuple[float, float], seed: int
) -> tuple[Segmenter, Tensor, np.ndarray]:
    """The jittered copy of a step's network, its Z, and the distance of each channel from the step's own."""
    jittered = Copied(latents.subject.networks.steps[step]).with_change(Jitter(share, seed))
    new = latents.of(jittered)
    return jittered, new, channels.latent_distances(latents.subject.run, latents.of_steps[step], new)


def words(
    latents: Latents,
    z: tuple[Tensor, Tensor],
    models: tuple[Segmenter, Segmenter],
    orders: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> dict[str, str | float]:
    """The verdict's words and p on both questions, for the first quarter of given orders of the channels.

    z, models: of the earlier and of the later step. orders: for the ablation and for the transplant.
    """
    (old, new), later, total = z, models[1], len(orders[0])
    k = verdict.default_count(total)
    decode = OwnDecoder(later)
    questions = ablation(new, decode), transplantation(new, old, decode)
    before_z, after_z = old.cpu().numpy(), new.cpu().numpy()
    living = alive(after_z)
    draws = Matched(energy(after_z), living), Matched(energy(before_z) + energy(after_z), living)
    apart = [draw.imbalance(order[:k]) for draw, order in zip(draws, orders, strict=True)]
    controls = [CONTROLS if abs(one) <= BALANCED else LEAST_CONTROLS for one in apart]
    curves = [_curve(*one, k, latents, seed) for one in zip(questions, orders, draws, controls, apart, strict=True)]
    before, now, mended = (_iou(latents, m, one) for m, one in ((models[0], old), (later, new), (later, old)))
    effects = ChannelEffects(total, total, curves[0], curves[1], mended - now)
    findings = {one.topic: one.word for one in verdict.channel_findings(_evidence(latents, before, now, effects), k)}
    p = {"p_ablation": curves[0].at(k).p_value("cost"), "p_transplant": curves[1].at(k).p_value("gain")}
    imbalance = {"imbalance_ablation": apart[0], "imbalance_transplant": apart[1]}
    return {"ablation": findings["ablation"], "transplant": findings["transplant"], **p, **imbalance}


@torch.no_grad()
def _iou(latents: Latents, model: Segmenter, z: Tensor) -> float:
    return float(latents.measure(model.decode(z))[0])


def _curve(
    question: Intervention,
    order: np.ndarray,
    draw: Matched,
    controls: int,
    apart: float,
    k: int,
    latents: Latents,
    seed: int,
) -> EffectCurve:
    found = curve(question, order, [k], latents.measure, controls, seed, draw)
    return EffectCurve(found.counts, found.effect[:, 0], found.control_effect[:, :, 0], None, np.array([apart]))


def _evidence(latents: Latents, before: float, now: float, effects: ChannelEffects) -> Evidence:
    """A run of two steps: what the rules on channels read, and nothing else."""
    nothing = np.full(2, np.nan)
    over = OverSteps(np.array([before, now]), nothing, nothing, nothing, nothing)
    name, count = latents.subject.run.classes[latents.cls].name, len(latents.pictures)
    return Evidence(
        cls=latents.cls, name=name, step=1, source=0, whole_set=True, images=count, holding=count, run_iou=None,
        over=over, effects=effects,
    )  # fmt: skip
