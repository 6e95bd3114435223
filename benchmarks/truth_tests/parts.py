"""Planted damage of whole parts: do the shares name the part that was damaged?

The later state is a copy of a step's network in which one part alone was damaged (the class's own head, the ASPP, one
backbone stage, the bias of the next step's classes) or two of them at once; the earlier state is the step itself. The
shares of the planted parts must make up at least AIM of the loss, and parts that did not change must get exactly 0.

A trial: a class, a part and a strength at random; trials whose damage costs less than LEAST points are drawn again.
What the undamaged network makes of the pictures is found once, stage by stage; a trial begins at the first module that
differs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lag_core.explain.hybrids import Geometry, HybridCounts, Pair
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.shares import ASPP, BACKBONE, COMPETITION, NEWLY, OWN_HEAD, Shares
from lag_core.explain.shares_pass import results
from lag_core.model.backbone import STAGES
from lag_core.model.segmenter import Segmenter
from truth_tests.cases import Shown, Subject

PICTURES = 4
AIM = 0.95
LEAST = 2.0
"""Points that a damage must cost to count."""
TRIES = 12
KINDS = ("own head", "aspp", "stage", "competition", "two")


class Doctored:
    """Two steps, the second a damaged copy of the first with the next step's heads; as explain.networks.Networks."""

    def __init__(self, networks: Networks, step: int, damaged: Segmenter):
        self.run, self.device = networks.run, networks.device
        self.steps = [networks.steps[step], damaged.eval()]

    def __len__(self) -> int:
        return 2

    def trunk(self, step: int) -> str:
        """The trunks are never taken as shared: a stage may be damaged."""
        return str(step)

    def passes(self, inputs: torch.Tensor) -> Passes:
        return Passes(self, inputs)  # type: ignore[arg-type]


class FromFirstDamage(Pair):
    """A pair whose pictures begin at the first module that differs; `maps`: what lies in front of each module."""

    def __init__(self, doctored: Doctored, step: int, maps: list[torch.Tensor]):
        super().__init__((doctored, 0), (doctored, 1))  # type: ignore[arg-type]
        self.maps = maps
        self.seen = doctored.run.labels.seen(step), doctored.run.labels.seen(step + 1)

    def _below(self, passes: tuple[Passes, Passes]) -> tuple[int, torch.Tensor]:
        names = [part.name for part in self._modules]
        start = next((names.index(name) for name in names if name in self.feature_parts), len(names))
        return start, self.maps[start]


@dataclass(frozen=True)
class Shelf:
    """Some pictures of a class, and what each module of its step makes of them on the way to Z."""

    pictures: list[Shown]
    inputs: torch.Tensor
    maps: list[torch.Tensor]
    """The pictures; what each of the five stages and the ASPP returns."""


@torch.no_grad()
def shelf(model: Segmenter, pictures: list[Shown]) -> Shelf:
    inputs = torch.cat([one.image for one in pictures])
    maps = [inputs]
    for module in (*model.backbone.stages_until(STAGES[-1]), model.aspp):
        maps.append(module(maps[-1]))
    return Shelf(pictures, inputs, maps)


def copy_with_next_heads(networks: Networks, step: int) -> Segmenter:
    """The network of `step` with the heads of the next step beside its own, which never win."""
    model = copy.deepcopy(networks.steps[step])
    heads = copy.deepcopy(list(networks.steps[step + 1].heads[len(model.heads) :]))
    model.heads = nn.ModuleList([*model.heads, *heads])
    with torch.no_grad():
        for head in heads:
            head.classify.weight.zero_()
            head.classify.bias.fill_(-100.0)
    return model


@torch.no_grad()
def damage(kind: str, model: Segmenter, old_heads: int, place: tuple[int, int], rng: np.random.Generator) -> str:
    """Damage one part, and say its name. place: (head, row) of the class."""
    strength = rng.uniform(0.5, 3.0)
    if kind == "own head":
        head, row = place
        model.heads[head].classify.bias[row] -= 4 * strength
        return OWN_HEAD
    if kind == "aspp":
        weight = model.aspp.project[0].weight
        rows = rng.choice(len(weight), max(2, len(weight) // 3), replace=False)
        weight[rows] = weight[rng.permutation(rows)]
        return ASPP
    if kind == "stage":
        stages = {name: found for name in STAGES[1:] if (found := _convolutions(getattr(model.backbone, name)))}
        name = [*stages][rng.integers(len(stages))]
        conv = stages[name][rng.integers(len(stages[name]))]
        noise = torch.randn(conv.weight.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
        conv.weight.add_(strength * conv.weight.std() * noise)
        return BACKBONE + name
    for head in model.heads[old_heads:]:
        head.classify.bias.fill_(rng.uniform(-4.0, 6.0))
    return COMPETITION


def _convolutions(stage: nn.Module) -> list[nn.Conv2d]:
    """Those that mix channels; none in a stage that is empty."""
    return [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]


def rows(subject: Subject, trials: int) -> Iterator[dict]:
    """One row a kind and trial: `trials` of each kind. The damage differs between runs by their place."""
    networks, labels = subject.networks, subject.run.labels
    classes = [k for k in subject.foreground if labels.step_of(k) < subject.run.last_step and subject.pictures(k, 1)]
    shelves = {k: shelf(networks.steps[labels.step_of(k)], subject.pictures(k, PICTURES)) for k in classes}
    for kind in KINDS:
        for trial in range(trials):
            rng = np.random.default_rng([trial, KINDS.index(kind), subject.place])
            cls = classes[trial % len(classes)]
            yield {
                "run": subject.name, "class": subject.run.classes[cls].name, "kind": kind, "trial": trial,
                **_trial(networks, shelves[cls], cls, kind, rng),
            }  # fmt: skip


def _trial(networks: Networks, shown: Shelf, cls: int, kind: str, rng: np.random.Generator) -> dict:
    """The planted parts' share of the loss, and the largest share of a part that did not change."""
    step = networks.run.labels.step_of(cls)
    own = len(networks.steps[step].heads)
    for _ in range(TRIES):
        model = copy_with_next_heads(networks, step)
        kinds = list(rng.choice(KINDS[:4], 2, replace=False)) if kind == "two" else [kind]
        planted = {damage(one, model, own, _head_of(networks, step, cls), rng) for one in kinds}
        found = _shares(Doctored(networks, step, model), shown, cls, step)
        loss = found.start - found.fixed
        if loss >= LEAST:
            break
    planted = {name + networks.run.classes[cls].name if name == OWN_HEAD else name for name in planted}
    shares = {name: -one.points for name, one in found.estimates.items() if name != NEWLY}
    unchanged = [abs(size) for name, size in shares.items() if name not in planted]
    return {
        "planted": sorted(planted),
        "loss": loss,
        "share": sum(shares[name] for name in planted) / loss if loss >= LEAST else None,
        "unchanged": max(unchanged, default=0.0),
        "gap": abs(found.points.sum() - (found.end - found.start)),
    }


def _head_of(networks: Networks, step: int, cls: int) -> tuple[int, int]:
    """(head, row) that makes the logit of a class."""
    channel = cls + networks.run.labels.offset
    for place, size in enumerate(networks.run.labels.head_sizes(step)):
        if channel < size:
            return place, channel
        channel -= size
    raise IndexError(f"no head makes class {cls}")


def _shares(doctored: Doctored, shown: Shelf, cls: int, step: int) -> Shares:
    """Shares between the two states on the pictures, as the network sees them."""
    pair = FromFirstDamage(doctored, step, shown.maps)
    counts = HybridCounts(pair, [cls], len(shown.pictures))
    square = shown.pictures[0].truth.shape[0]
    insides = [one.inside for one in shown.pictures]
    truths = [one.truth[:h, :w] for one, (h, w) in zip(shown.pictures, insides, strict=True)]
    passes = doctored.passes(shown.inputs)
    counts.add(0, (passes, passes), Geometry(square, insides, truths))
    return results(counts, repeats=0)[0]
