"""Hybrids of two networks: the pixel counts that shares are made of.

Two states of one run (an earlier and a later step), or the same step of two runs with a common step 0, are cut
into parts: each backbone stage, the ASPP, and the logits of each class by the head that makes them. A hybrid takes
some parts from the later state ("now") and the others from the earlier one ("then"). Features run once for each set of
feature parts; both states' heads decode each of them; every hybrid is then a choice among these logits, made pixel by
pixel. No network is touched.

A pixel goes to a class by the rule of `model.prediction.label_map`. Later classes take part only in hybrids with the
part `competition`: absent, their logits are minus infinity. Source: ours (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from lag_core.explain.networks import Networks, Passes
from lag_core.explain.shares import (
    ASPP,
    BACKBONE,
    COMPETITION,
    FEATURES,
    OLD_HEADS,
    OWN_HEAD,
    UNKNOWN_HEAD,
    Counts,
    Plan,
    is_feature,
    plan,
)
from lag_core.explain.stage_groups import OPERATIONS, StageGroups, choose, each_apart, part_of
from lag_core.model.backbone import STAGES, depth
from lag_core.model.operations import operations_of
from lag_core.model.prediction import full_size
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import StepLoader
from lag_core.processes import Processes
from lag_core.protocol import LabelSpace
from lag_core.runs import Run


@dataclass(frozen=True)
class Geometry:
    """How a batch of pictures lies in the network's square, and what they show."""

    square: int
    insides: Sequence[tuple[int, int]]
    """(height, width) of each picture in its square."""
    truths: Sequence[np.ndarray]
    """Class indices uint8 [H, W] of each, at the size at which it is measured; 255 where nothing counts."""


def equal_tensors(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same weights and running statistics, bit for bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    names = [name for name in mine if not name.endswith("num_batches_tracked")]
    kept = [name for name in theirs if not name.endswith("num_batches_tracked")]
    return names == kept and all(torch.equal(mine[name], theirs[name]) for name in names)


def groups_of(run: Run, limit: float = OPERATIONS) -> StageGroups:
    """Which stages of a run are one part: hybrids of all its pairs then take at most `limit` operations a picture.

    What moved is read from the heads of the run's files.
    """
    origins, count = StepLoader(run).origins, len(run.steps)
    moved = [
        frozenset(_module_of(name) for name, place in origins[now].items() if origins[then].get(name) != place)
        for then in range(count)
        for now in range(then + 1, count)
    ]
    if not any(one & set(STAGES) for one in moved):
        return each_apart(STAGES)
    costs = operations_of(run.config.model, run.config.data.size, run.labels.head_sizes(run.last_step))
    return choose(STAGES, ASPP, moved, costs, count, limit)


def _module_of(name: str) -> str:
    """The stage, or the module at the top, that a tensor belongs to."""
    first, second = name.split(".")[:2]
    return second if first == "backbone" else first


@dataclass(frozen=True)
class FeaturePart:
    """Neighbouring modules that are one part: their places in the network are first .. end - 1."""

    name: str
    first: int
    modules: Sequence[tuple[nn.Module, nn.Module]]
    """(then, now) of each."""

    @property
    def end(self) -> int:
        return self.first + len(self.modules)

    @cached_property
    def changed(self) -> bool:
        """Whether the states differ in it."""
        return any(then is not now and not equal_tensors(then, now) for then, now in self.modules)

    def behind(self, start: int) -> FeaturePart:
        """The part of it after the first `start` modules of the network."""
        first = max(start, self.first)
        return FeaturePart(self.name, first, self.modules[first - self.first :])

    def run(self, state: int, x: Tensor) -> Tensor:
        """The modules of then (0) or now (1), in order."""
        for pair in self.modules:
            x = pair[state](x)
        return x


@dataclass(frozen=True)
class _Way:
    """How pictures go up the tree of hybrids."""

    bits: Mapping[str, int]
    """By feature part that differs."""
    wanted: frozenset[int]
    passes: tuple[Passes, Passes]
    steps: tuple[int, int]

    def through(self, part: FeaturePart, state: int, x: Tensor, alone: tuple[int, ...]) -> Tensor:
        """The output of a part of then (0) or now (1) for x. `alone`: the states that alone would give the same."""
        if not alone:
            return part.run(state, x)
        owner = alone[0]
        return self.passes[owner].prefix(self.steps[owner], part.end, lambda: part.run(state, x))


class Pair:
    """An earlier and a later state, cut into parts: `then` and `now` are steps of the networks of each side.

    groups: which stages are one part; by default what is affordable for the run of `now`. ValueError if the two do not
    know the classes in the same order.
    """

    def __init__(self, then: tuple[Networks, int], now: tuple[Networks, int], groups: StageGroups | None = None):
        self.networks, self.steps = (then[0], now[0]), (then[1], now[1])
        self._groups = groups
        old, new = then[0].run, now[0].run
        self.labels: LabelSpace = new.labels
        self.rule: str = new.config.method.loss
        self.seen = old.labels.seen(self.steps[0]), new.labels.seen(self.steps[1])
        known = min(self.seen)
        if (
            old.labels.order[:known] != new.labels.order[:known]
            or old.labels.unknown != new.labels.unknown
            or old.config.method.loss != self.rule
        ):
            raise ValueError(f"{old.name} and {new.name} do not know the same classes in the same order")

    @cached_property
    def models(self) -> tuple[Segmenter, Segmenter]:
        """The networks then and now."""
        then, now = (nets.steps[step] for nets, step in zip(self.networks, self.steps, strict=True))
        return then, now

    @cached_property
    def groups(self) -> StageGroups:
        """Which stages are one part."""
        return groups_of(self.networks[1].run) if self._groups is None else self._groups

    @cached_property
    def _modules(self) -> list[FeaturePart]:
        """Feature parts in the order in which a picture passes them, the unchanged ones among them."""
        then, now = self.models
        found, first = [], 0
        for group in self.groups.groups:
            stages = [(getattr(then.backbone, name), getattr(now.backbone, name)) for name in group]
            found.append(FeaturePart(BACKBONE + part_of(group), first, stages))
            first += len(group)
        return [*found, FeaturePart(ASPP, first, [(then.aspp, now.aspp)])]

    @cached_property
    def feature_parts(self) -> tuple[str, ...]:
        """Feature parts that differ."""
        return tuple(part.name for part in self._modules if part.changed)

    @cached_property
    def _moved_channels(self) -> np.ndarray:
        """Which training channels known then are made by weights that changed. Shape: bool [channels then]."""
        moved: list[bool] = []
        for then, now in zip(self.models[0].heads, self.models[1].heads, strict=False):
            last = getattr(then, "classify", None)
            if last is None or not isinstance(last, nn.Conv2d):
                raise TypeError(f"{type(then).__name__} has no layer `classify` whose rows are classes")
            rest = [n for n in then.state_dict() if not n.startswith("classify.") and "num_batches" not in n]
            same = all(torch.equal(then.state_dict()[n], now.state_dict()[n]) for n in rest)
            rows = zip(_rows(then), _rows(now), strict=True)
            moved += [not (same and torch.equal(a, b)) for a, b in rows]
        return np.array(moved, bool)

    def parts(self, cls: int) -> tuple[str, ...]:
        """Names of the parts that differ for a class, without those that do not affect its decision."""
        own, others, catch_all = self._channels_of(cls)
        name = OWN_HEAD + self.networks[1].run.classes[cls].name
        found = list(self.feature_parts)
        for part, channels in ((name, own), (OLD_HEADS, others), (UNKNOWN_HEAD, catch_all)):
            if any(self._moved_channels[c] for c in channels):
                found.append(part)
        if self.seen[1] > self.seen[0]:
            found.append(COMPETITION)
        return tuple(found)

    def every_part(self, cls: int) -> tuple[str, ...]:
        """Names of all parts, also of those that did not change, in the network's order."""
        own, others, catch_all = self._channels_of(cls)
        heads = [
            *([OWN_HEAD + self.networks[1].run.classes[cls].name] if own else []),
            *([OLD_HEADS] if others else []),
            *([UNKNOWN_HEAD] if catch_all else []),
        ]
        return (
            *(part.name for part in self._modules),
            *heads,
            *([COMPETITION] if self.seen[1] > self.seen[0] else []),
        )

    def _channels_of(self, cls: int) -> tuple[list[int], list[int], list[int]]:
        """Training channels of the class itself, of the other old classes, and of unknown and background."""
        offset, background = self.labels.offset, self.labels.background is not None
        catch_all = [0] * (offset and background) + ([offset] if background and cls != 0 else [])
        own = [cls + offset]
        others = [k + offset for k in range(int(background), self.seen[0]) if k != cls]
        return own, others, catch_all

    @torch.no_grad()
    def latents(self, passes: tuple[Passes, Passes], wanted: frozenset[int]) -> Iterator[tuple[int, Tensor]]:
        """(set of feature parts that are as now, Z) for each wanted set; bit i is feature part i.

        Sets share what they have in common on the way up. What a state makes of the pictures by itself is looked up
        among the prefixes that `passes` keeps.
        """
        start, features = self._below(passes)
        bits = {name: 1 << i for i, name in enumerate(self.feature_parts)}
        behind = [part.behind(start) for part in self._modules if part.end > start]
        yield from self._walk(behind, features, 0, _Way(bits, wanted, passes, self.steps), (0, 1))

    def _below(self, passes: tuple[Passes, Passes]) -> tuple[int, Tensor]:
        """The number of leading modules that both states share, and their output for the pictures."""
        trunks = [nets.trunk(step) for nets, step in zip(self.networks, self.steps, strict=True)]
        shared = self.models[0].config.shared
        if trunks[0] == trunks[1] and shared == self.models[1].config.shared:
            return depth(shared), passes[1].features(self.steps[1])
        return 0, passes[1].inputs

    def _walk(
        self, parts: Sequence[FeaturePart], x: Tensor, mask: int, way: _Way, alone: tuple[int, ...]
    ) -> Iterator[tuple[int, Tensor]]:
        """`mask`: what was chosen so far. `alone`: the states that would have made x by themselves."""
        for place, part in enumerate(parts):
            if part.name not in way.bits:
                x = way.through(part, 1, x, alone)
                continue
            bit = way.bits[part.name]
            below = sum(way.bits[one.name] for one in parts[place:] if one.name in way.bits)
            for state, chosen in ((0, mask), (1, mask | bit)):
                if any((one & ~below) == (mask & ~below) and (one & bit) == (chosen & bit) for one in way.wanted):
                    still = tuple(one for one in alone if one == state)
                    yield from self._walk(parts[place + 1 :], way.through(part, state, x, still), chosen, way, still)
            return
        yield mask, x

    @torch.no_grad()
    def decoded(self, latent: Tensor, passes: tuple[Passes, Passes]) -> tuple[Tensor, Tensor]:
        """Logits of Z by the heads of both states. Shape: [B, C, h, w] -> [B, channels then], [B, channels now]."""
        then, now = (one.decoder(step) for one, step in zip(passes, self.steps, strict=True))
        return then(latent), now(latent)


class WholePair(Pair):
    """Two states of a network that names no stages: one feature part, everything up to Z, and all heads changed."""

    feature_parts = (FEATURES,)

    @cached_property
    def _modules(self) -> list[FeaturePart]:
        return []

    @cached_property
    def _moved_channels(self) -> np.ndarray:
        return np.ones(self.seen[0] + self.labels.offset, bool)

    def every_part(self, cls: int) -> tuple[str, ...]:
        return (FEATURES, *super().every_part(cls))

    @torch.no_grad()
    def latents(self, passes: tuple[Passes, Passes], wanted: frozenset[int]) -> Iterator[tuple[int, Tensor]]:
        """Z then (0) and now (1)."""
        for mask in sorted(wanted):
            yield mask, passes[mask].output(self.steps[mask]).latent


def pair_of(then: tuple[Networks, int], now: tuple[Networks, int], groups: StageGroups | None = None) -> Pair:
    """The pair of two states, cut as finely as their networks name their parts and as is affordable (`groups_of`)."""
    ours = all(networks.run.kind == "segmenter" for networks, _ in (then, now))
    return Pair(then, now, groups) if ours else WholePair(then, now)


def _rows(head: nn.Module) -> Iterator[Tensor]:
    """Weight and bias of each class's row of a head's last layer."""
    last = head.classify
    assert isinstance(last, nn.Conv2d)
    bias = torch.zeros(last.out_channels) if last.bias is None else last.bias
    for weight, offset in zip(last.weight, bias, strict=True):
        yield torch.cat([weight.flatten(), offset[None].to(weight)])


# ---------------------------------------------------------------------- deciding pixels


class Decisions:
    """Scores of the pixels of one picture for one Z, from which every choice of heads decides.

    Shape: logits then [channels, P], now [channels, P] at P pixels; counted: bool [P], which of them count (all).
    NumPy: each operation is small, and torch's threads would wait for one another.
    """

    def __init__(
        self,
        then: Tensor,
        now: Tensor,
        labels: LabelSpace,
        rule: str,
        seen: tuple[int, int],
        counted: np.ndarray | None = None,
    ):
        self.labels, self.rule, self.seen = labels, rule, seen
        self.scores = tuple(_comparable(one, labels, rule).cpu().numpy() for one in (then, now))
        self.counted = counted
        self.first = int(labels.background is not None)

    def background(self, unknown: int, background: int, where: np.ndarray | slice) -> np.ndarray:
        """Score of the background at some pixels, the unknown folded in; each from then (0) or now (1)."""
        own = self.scores[background][self.labels.offset][where]
        if not self.labels.unknown:
            return own
        other = self.scores[unknown][0][where]
        return own + other if self.rule == "bce" else np.logaddexp(own, other)

    def contest(self, cls: int) -> Contest:
        """One class against the others, at the counted pixels that it wins in some hybrid at most.

        Among equal scores the lower class index wins, as in `label_map`.
        """
        own = self._own(cls)
        before = [self._highest(one, self.first, cls) for one in self.scores]
        after = [self._highest(one, max(cls + 1, self.first), self.seen[0]) for one in self.scores]
        most = np.maximum.reduce(list(own.values()))
        able = (most >= np.minimum(*before)) & (most >= np.minimum(*after))
        where = np.flatnonzero(able if self.counted is None else able & self.counted)
        shadowed = cls >= self.first and self.labels.background is not None
        later = self.scores[1][self.seen[0] + self.labels.offset :]
        return Contest(
            where=where,
            own={key: one[where] for key, one in own.items()},
            before=[one[where] for one in before],
            after=[one[where] for one in after],
            background=[self.background(state, state, where) if shadowed else None for state in (0, 1)],
            later=later[:, where].max(0) if len(later) else None,
        )

    def _own(self, cls: int) -> dict[tuple[int, int], np.ndarray]:
        """The class's scores by (unknown head, own head)."""
        both = [(catch_all, state) for catch_all in (0, 1) for state in (0, 1)]
        if cls < self.first:
            return {(catch_all, state): self.background(catch_all, state, slice(None)) for catch_all, state in both}
        return {(catch_all, state): self.scores[state][cls + self.labels.offset] for catch_all, state in both}

    def _highest(self, scores: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Highest score of the classes start..stop - 1; minus infinity where there are none. Shape: [P]."""
        rows = scores[start + self.labels.offset : max(start, stop) + self.labels.offset]
        return rows.max(0) if len(rows) else np.full(scores.shape[1], -np.inf, scores.dtype)


@dataclass(frozen=True)
class Contest:
    """A class's scores beside its rivals' at Q of a picture's counted pixels. Everything by then (0) and now (1)."""

    where: np.ndarray
    """int [Q]; elsewhere the class wins in no hybrid."""
    own: Mapping[tuple[int, int], np.ndarray]
    """By (unknown head, own head), float [Q]."""
    before: Sequence[np.ndarray]
    """Highest score of the old foreground classes of lower index, which win among equal scores, float [Q]."""
    after: Sequence[np.ndarray]
    """Highest score of the old foreground classes of higher index, float [Q]."""
    background: Sequence[np.ndarray | None]
    """Score of the background; None where there is none, or it is the class itself."""
    later: np.ndarray | None
    """Highest score of the later classes now; None without any."""

    def won(self, own: int, others: int, catch_all: int, competition: bool) -> np.ndarray:
        """Whether the class is the decision, its parts then (0) or now (1). Shape: bool [Q]."""
        score, background = self.own[catch_all, own], self.background[catch_all]
        found = (score > self.before[others]) & (score >= self.after[others])
        if background is not None:
            found &= score > background
        if competition and self.later is not None:
            found &= score >= self.later
        return found


def _comparable(logits: Tensor, labels: LabelSpace, rule: str) -> Tensor:
    """Scores of which the highest is the decision. Shape: [channels, P] -> same.

    Under "bce_foreground" the background's logit is 0: it wins where no class is above 0.5.
    """
    if rule == "bce":
        return logits.sigmoid()
    if rule == "bce_foreground" and labels.background is not None:
        logits = logits.clone()
        logits[labels.offset] = 0.0
    return logits


# ---------------------------------------------------------------------- counting


@dataclass(frozen=True)
class Asked:
    """One class of a pair with its plan."""

    cls: int
    parts: tuple[str, ...]
    plan: Plan

    @cached_property
    def features(self) -> int:
        """How many of the parts are feature parts; they come first."""
        return sum(is_feature(part) for part in self.parts)

    def feature_set(self, mask: int) -> int:
        """The feature parts of a set."""
        return mask & ((1 << self.features) - 1)

    @cached_property
    def choices(self) -> dict[int, dict[tuple[int, int, int, bool], list[int]]]:
        """By set of feature parts: each choice of heads with the places of the plan's sets that make it."""
        found: dict[int, dict[tuple[int, int, int, bool], list[int]]] = {}
        for place, mask in enumerate(self.plan.masks):
            found.setdefault(self.feature_set(mask), {}).setdefault(self.choice(mask), []).append(place)
        return found

    def choice(self, mask: int) -> tuple[int, int, int, bool]:
        """(own head, old heads, unknown head, competition) of a set: then (0) or now (1).

        A part that did not change is taken as it is now.
        """

        def now(test: Callable[[str], bool]) -> int:
            places = [i for i, part in enumerate(self.parts) if test(part)]
            return int(not places or mask >> places[0] & 1)

        return (
            now(lambda part: part.startswith(OWN_HEAD)),
            now(lambda part: part == OLD_HEADS),
            now(lambda part: part == UNKNOWN_HEAD),
            bool(now(lambda part: part == COMPETITION)),
        )


class HybridCounts:
    """Counts of every hybrid of a pair for some classes, filled batch by batch."""

    def __init__(self, pair: Pair, classes: Sequence[int], images: int, seed: int = 0):
        self.pair = pair
        self.asked = []
        for cls in classes:
            parts = pair.parts(cls)
            self.asked.append(Asked(cls, parts, plan(parts, seed=seed)))
        self.hits = [np.zeros((images, len(one.plan.masks)), np.int64) for one in self.asked]
        self.called = [np.zeros_like(hits) for hits in self.hits]
        self.true = np.zeros((images, len(self.asked)), np.int64)
        self.called_new = np.zeros((images, len(self.asked)), np.int64)

    @cached_property
    def wanted(self) -> frozenset[int]:
        """Sets of feature parts that some hybrid needs."""
        return frozenset(features for one in self.asked for features in one.choices)

    @torch.no_grad()
    def add(self, first: int, passes: tuple[Passes, Passes], geometry: Geometry) -> None:
        """Count a batch of pictures; `first` is the index of its first picture."""
        for features, latent in self.pair.latents(passes, self.wanted):
            both = self.pair.decoded(latent, passes)
            for row, truth in enumerate(geometry.truths):
                self._count(first + row, features, both, row, geometry, truth)

    def _count(
        self, place: int, features: int, both: tuple[Tensor, Tensor], row: int, geometry: Geometry, truth: np.ndarray
    ) -> None:
        then_seen, now_seen = self.pair.seen
        counted = truth < max(now_seen, then_seen)
        size = (truth.shape[0], truth.shape[1])
        then, now = (
            full_size(one[row : row + 1], geometry.square, geometry.insides[row], size)[0].flatten(1) for one in both
        )
        shown = truth.ravel()
        decisions = Decisions(then, now, self.pair.labels, self.pair.rule, self.pair.seen, counted.ravel())
        fixed = shown < then_seen
        for at, one in enumerate(self.asked):
            mine = shown == one.cls
            self.true[place, at] = np.count_nonzero(mine)
            self._count_class(place, at, features, decisions, mine, fixed)

    def _count_class(
        self, place: int, at: int, features: int, decisions: Decisions, mine: np.ndarray, fixed: np.ndarray
    ) -> None:
        one, contest = self.asked[at], decisions.contest(self.asked[at].cls)
        mine, fixed = mine[contest.where], fixed[contest.where]
        last = len(one.plan.masks) - 1
        for choice, columns in one.choices.get(features, {}).items():
            won = contest.won(*choice)
            called = int(np.count_nonzero(won & fixed))
            self.hits[at][place, columns] = np.count_nonzero(won & mine)
            self.called[at][place, columns] = called
            if last in columns:
                self.called_new[place, at] = int(np.count_nonzero(won)) - called

    def join(self, everywhere: Processes) -> None:
        """Add the counts of the other processes, each on its own pictures."""
        everywhere.add_up(*self.hits, *self.called, self.true, self.called_new)

    def counts(self, at: int) -> Counts:
        """The counts of the class at this index of `classes`."""
        return Counts(self.hits[at], self.called[at], self.true[:, at], self.called_new[:, at])
