"""Which neighbouring stages of a backbone are one part of the shares, so that measuring them stays affordable. Pure.

Hybrids form a tree over the stages: each stage that changed between two steps doubles the work after it. If all
pairs of steps would take more operations than a limit, the first stages become one part, as few of them as needed: they
are the most expensive in a tree's leaves, and later stages keep their own shares. A part of several stages has
its share in the game of these parts; the shares still add up, and none is sampled. What both states share
runs once, and a step's own pass runs once for all its pairs. Source: ours
(docs/method.md#shares).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPERATIONS = 20e12
"""Operations per picture (a multiplication and an addition are two) that the hybrids of all pairs of steps may take."""

HEADS = "heads"
"""Name of the heads in tables of costs."""

TOGETHER = " to "
"""Between the first and the last stage of a group, in the part's name."""

Groups = tuple[tuple[str, ...], ...]
"""Names of stages in the network's order; those of a group are one part."""


@dataclass(frozen=True)
class StageGroups:
    """How a run's stages are grouped. Operations are those of one picture, over all pairs of steps."""

    groups: Groups
    operations: float
    """By these groups."""
    apart: float
    """If every stage were a part of its own."""
    limit: float

    @property
    def joined(self) -> tuple[str, ...]:
        """The stages that are one part; empty if each is by itself."""
        return next((group for group in self.groups if len(group) > 1), ())


def each_apart(stages: Sequence[str]) -> StageGroups:
    """Every stage by itself, whatever it costs."""
    return StageGroups(tuple((name,) for name in stages), 0.0, 0.0, OPERATIONS)


def part_of(group: Sequence[str]) -> str:
    """A group's name after `shares.BACKBONE`: the stage, or the first and the last."""
    return group[0] if len(group) == 1 else f"{group[0]}{TOGETHER}{group[-1]}"


def choose(
    stages: Sequence[str],
    rest: str,
    moved: Iterable[frozenset[str]],
    costs: Mapping[str, float],
    steps: int,
    limit: float = OPERATIONS,
) -> StageGroups:
    """The finest grouping whose hybrids take at most `limit` operations a picture; else all stages together.

    stages: of the backbone, in order. rest: what comes between them and the heads, always a part by itself. moved: of
    each pair of steps, what differs among both. costs: operations on a picture by stage, of the rest and of HEADS.
    """
    pairs = list(moved)
    options = [_front_joined(stages, front) for front in range(1, len(stages) + 1)]
    taken = [operations((*groups, (rest,)), pairs, costs, steps) for groups in options]
    best = next((place for place, found in enumerate(taken) if found <= limit), len(options) - 1)
    return StageGroups(options[best], taken[best], taken[0], limit)


def _front_joined(stages: Sequence[str], front: int) -> Groups:
    """The first `front` stages as one group, the others by themselves."""
    return (tuple(stages[:front]), *((name,) for name in stages[front:]))


def operations(groups: Groups, pairs: Sequence[frozenset[str]], costs: Mapping[str, float], steps: int) -> float:
    """Operations a picture: every step by itself once, and of each pair what only its hybrids need."""
    found = steps * sum(costs.values())
    for moved in pairs:
        maps = 1
        for group in groups:
            maps *= 2 if moved & set(group) else 1
            found += max(0, maps - 2) * sum(costs[name] for name in group)
        found += 2 * maps * costs[HEADS]
    return found


def sentence(found: StageGroups) -> str:
    """Which stages are one part, and why; empty if every stage is by itself."""
    if not found.joined:
        return ""
    return (
        f"{part_of(found.joined)} are one part: single stages would take {_tera(found.apart)} "
        f"tera-operations per picture (limit {_tera(found.limit)}), these {_tera(found.operations)}"
    )


def _tera(operations: float) -> str:
    tera = operations / 1e12
    return f"{tera:.0f}" if tera >= 10 else f"{tera:.1f}".removesuffix(".0")


# ---------------------------------------------------------------------- as JSON


def as_json(found: StageGroups) -> dict[str, Any]:
    """For survey.json."""
    return {
        "groups": [list(group) for group in found.groups],
        "operations": found.operations,
        "apart": found.apart,
        "limit": found.limit,
    }


def from_json(given: Any, stages: Sequence[str]) -> StageGroups:
    """The reverse. `stages`: of a backbone, in order. KeyError, TypeError, ValueError for what does not fit."""
    groups = tuple(tuple(group) for group in given["groups"])
    if tuple(name for group in groups for name in group) != tuple(stages) or not all(groups):
        raise ValueError(f"the groups of stages are not {', '.join(stages)} in their order")
    numbers = [float(given[name]) for name in ("operations", "apart", "limit")]
    if not all(math.isfinite(one) and one >= 0 for one in numbers):
        raise ValueError("operations must be a number of at least 0")
    return StageGroups(groups, *numbers)
