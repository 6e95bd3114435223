"""Planted causes: does the tool name the channels that were damaged?

In a copy of a step k of all C latent channels, drawn at random, are damaged (`damage.plant`). Each ranking that the
product offers as an explanation of what changed between two steps is asked, and its first k compared with the plants:
recall. Chance is k / C. Two situations:

* *copy*: the damaged step is a copy of the step that it is compared with. Nothing else changed, so the truth is
  complete.
* *trained*: the damaged step is a later step of the run, compared with the step that introduced the class: the
  verdict's question. Training changed all channels of it, some perhaps more than the damage: the plants are not the
  only causes, and what is missed may have been beaten by a real one.

Beside it: of the IoU that the plants of a *copy* cost, the share that putting the first k channels back restores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from lag_core.explain import channels
from lag_core.explain.interventions import transplant
from lag_core.method.decoupling import Metric
from lag_core.model.segmenter import Segmenter
from lag_core.relevance.latent import channel_profile, latent_relevance
from truth_tests.cases import Subject
from truth_tests.damage import Copied, Damage, plant, recall
from truth_tests.latents import Latents

COUNTS = (1, 4, 16)
PICTURES = 8
"""Pictures on which channels are compared."""
MATERIAL = 0.01
"""IoU that a plant has to cost for its restoration to be looked at."""
AIM = 0.95

Situation = Literal["copy", "trained"]


class Pair(NamedTuple):
    """Two steps that are compared, on one class's pictures."""

    latents: Latents
    old: int
    new: int
    """The step whose copy is damaged; the same as `old` in the situation "copy"."""
    copied: Copied


def rows(subject: Subject, trials: int, pictures: int = PICTURES) -> Iterator[dict]:
    """One row a situation, k and ranking, with the numbers of all trials."""
    for situation in get_args(Situation):
        pairs = _pairs(subject, situation, pictures)
        if not pairs:
            continue
        width = pairs[0].latents.of_steps[0].shape[1]
        for k in (k for k in COUNTS if 2 * k <= width):
            found: dict[str, list[dict]] = defaultdict(list)
            for trial in range(trials):
                for name, one in _trial(subject, pairs[trial % len(pairs)], k, seed=1000 * k + trial):
                    found[name].append(one)
            row = {"run": subject.name, "situation": situation, "k": k, "channels": width}
            yield from ({**row, "ranking": name, **_lists(every)} for name, every in found.items())


def _lists(trials: list[dict[str, float]]) -> dict[str, list[float]]:
    """Each number with its value in every trial that has it."""
    names = dict.fromkeys(name for one in trials for name in one)
    return {name: [one[name] for one in trials if name in one] for name in names}


def _pairs(subject: Subject, situation: Situation, pictures: int) -> list[Pair]:
    """copy: each step, on its first class. trained: the last step, for the first class of each earlier step whose Z
    differs from it; none where the extractor is frozen."""
    labels, last = subject.run.labels, subject.run.last_step
    found = []
    for step in range(last + 1):
        cls = next(c for c in labels.class_indices(step) if c in subject.foreground)
        if not subject.pictures(cls, 1):
            continue
        latents = Latents(subject, cls, pictures)
        if situation == "copy":
            found.append(Pair(latents, step, step, Copied(subject.networks.steps[step])))
        elif step < last and not latents.of_steps[step].equal(latents.of_steps[last]):
            found.append(Pair(latents, step, last, Copied(subject.networks.steps[last])))
    return found


def _trial(subject: Subject, pair: Pair, k: int, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Each ranking by name, with its recall; `recall_alive`: of the planted channels that are not 0 everywhere."""
    old, intact = pair.latents.of_steps[pair.old], pair.latents.of_steps[pair.new]
    planted = plant(intact, k, seed)
    damaged = pair.copied.with_change(Damage(planted))
    new = pair.latents.of(damaged)
    alive = planted.channels[(intact[:, planted.channels] != 0).flatten(2).any(2).any(0).numpy()]
    for name, ranked in rankings(subject, pair, old, new, damaged, seed).items():
        found = {"recall": recall(ranked[:k], planted.channels)}
        if len(alive):
            found["recall_alive"] = recall(ranked[:k], alive)
        if name == "changed" and pair.old == pair.new:
            found |= restored(pair, damaged, old, new, ranked[:k])
        yield name, found


def rankings(
    subject: Subject, pair: Pair, old: Tensor, new: Tensor, damaged: Segmenter, seed: int
) -> dict[str, np.ndarray]:
    """Every order of channels that the product offers; "changed" is the one that the verdict uses."""
    run = subject.run
    metrics = [metric for metric in get_args(Metric) if metric != "random"]
    found = {"changed": channels.ranked("changed", channels.latent_distances(run, old, new))}
    found |= {
        f"changed, {metric}": channels.ranked("changed", channels.latent_distances(run, old, new, metric))
        for metric in metrics
    }
    one = channels.latent_distances(run, old[:1], new[:1])
    found["changed, one picture"] = channels.ranked("changed", one)
    found["relevance"] = channels.ranked("relevance", profile(pair.latents, new, damaged))
    found["random"] = channels.ranked("random", one, seed)
    return found


def profile(latents: Latents, latent: Tensor, model: Segmenter) -> np.ndarray:
    """Relevance of each channel for the class on its true pixels, over all pictures. Shape: float32 [C]."""
    masks = np.stack([one.truth == latents.cls for one in latents.pictures]).astype(np.float32)
    size = latent.shape[2], latent.shape[3]
    weights = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(masks)[:, None], size)[:, 0]
    channel = latents.cls + latents.subject.run.labels.offset
    return channel_profile(latent_relevance(model.heads, latent, channel, weights)).sum(0).detach().numpy()


@torch.no_grad()
def restored(pair: Pair, damaged: Segmenter, old: Tensor, new: Tensor, chosen: np.ndarray) -> dict[str, float]:
    """IoU that the plants cost, and the share of it that putting the chosen channels back restores."""
    measure = pair.latents.measure
    whole, hurt, mended = (float(measure(damaged.decode(z))[0]) for z in (old, new, transplant(new, old, chosen)))
    cost = whole - hurt
    return {"cost": cost} | ({"restored": (mended - hurt) / cost} if cost >= MATERIAL else {})
