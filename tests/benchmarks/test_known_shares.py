"""What a prototype measured on the shipped run `animals-3-1-finetune`, measured again by the product.

For shares the prototype took every fourth validation image, 110 of them, and counted the own head and the other old
heads as one part. For the swap board it took 24 images that show the class, evenly spaced over the validation set.
Needs the photographs: skipped where they are not.
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

import lag_core
from lag_core.explain.evidence import ValidationPictures, finish, from_validation
from lag_core.explain.hybrids import HybridCounts, Pair
from lag_core.explain.shares import COMPETITION, UNKNOWN_HEAD, is_feature
from lag_core.explain.shares_pass import count_pictures, shares_on

PHOTOGRAPHS = Path(os.environ.get("LAG_TEST_DATA", ROOT.parent / "shared" / "data")) / "voc_animals"
KNOWN = {
    "cat": (60.6, -3.5, 0.0, -49.0, -8.1),
    "dog": (61.3, -11.1, -0.8, -35.8, -13.5),
    "person": (37.5, -10.3, -5.0, -19.5, -2.8),
}
"""IoU at step 0, shares of features, unknown head, old heads and competition; at step 3 all have the IoU 0."""
BOARD = {"cat": (69, 0, 62), "dog": (55, 0, 29)}
"""IoU points with features and heads of step 0; of step 0 and 3; of 3 and 0."""
WITHIN = 1.5
"""IoU points."""

pytestmark = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"needs the photographs in {PHOTOGRAPHS}")


def group_of(part: str) -> int:
    """Place of a part among the prototype's four."""
    return 0 if is_feature(part) else 1 if part == UNKNOWN_HEAD else 3 if part == COMPETITION else 2


def shapley(values: dict[frozenset[int], float], players: list[int]) -> dict[int, float]:
    """By the definition."""
    found, n = {}, len(players)
    for one in players:
        rest = [p for p in players if p != one]
        sets = [frozenset(s) for size in range(n) for s in itertools.combinations(rest, size)]
        weights = [math.factorial(len(s)) * math.factorial(n - len(s) - 1) / math.factorial(n) for s in sets]
        found[one] = sum(w * (values[s | {one}] - values[s]) for w, s in zip(weights, sets, strict=True))
    return found


def test_the_prototypes_shares_come_out_again() -> None:
    run = lag_core.open_run(ROOT / "checkpoints" / "animals-3-1-finetune")
    every = ValidationPictures(run.open_dataset(PHOTOGRAPHS), run)
    pictures = [every[place] for place in list(range(0, len(every), 4))[:110]]
    pair = Pair((run.networks, 0), (run.networks, 3))
    counts = HybridCounts(pair, [run.class_index(name) for name in KNOWN], len(pictures))
    for _ in count_pictures(counts, pictures):
        pass
    for at, (name, (start, *wanted)) in enumerate(KNOWN.items()):
        asked, own = counts.asked[at], counts.counts(at)
        hits, called = own.hits.sum(0), own.called.sum(0)
        ious = 100 * hits / np.maximum(own.true.sum() + called - hits, 1)
        groups = [group_of(part) for part in asked.parts]
        values: dict[frozenset[int], float] = {}
        for mask, iou in zip(asked.plan.masks, ious.tolist(), strict=True):
            inside = {g for i, g in enumerate(groups) if mask >> i & 1}
            outside = {g for i, g in enumerate(groups) if not mask >> i & 1}
            if not inside & outside:  # the parts of a group go together
                values[frozenset(inside)] = iou
        shares = shapley(values, sorted(set(groups)))
        assert values[frozenset()] == pytest.approx(start, abs=WITHIN)
        assert [shares.get(g, 0.0) for g in range(4)] == pytest.approx(wanted, abs=WITHIN), name
        assert values[frozenset(groups)] == 0


@pytest.mark.parametrize("name", BOARD)
def test_the_prototypes_swap_board_comes_out_again(name: str) -> None:
    run = lag_core.open_run(ROOT / "checkpoints" / "animals-3-1-finetune")
    shown = from_validation(run, run.open_dataset(PHOTOGRAPHS), run.class_index(name), 24)
    pair = Pair((run.networks, 0), (run.networks, 3))
    pictures = list(zip(shown.images, shown.truths, strict=True))
    (found,) = finish(shares_on(pair, [run.class_index(name)], pictures, repeats=0))
    board = found.corners
    assert len(pictures) == 24
    assert [board[0, 0], board[0, 1], board[1, 0]] == pytest.approx(BOARD[name], abs=WITHIN)
