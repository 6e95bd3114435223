"""Do the intervals of the shares cover what they promise, and are sampled shares inside their stated error?

*Coverage*: the validation images of a run, with each image's pixel counts by every hybrid, are the population; its
shares are the truth. REPEATS times, images are drawn from it with replacement (as many as it has, and few: DRAWN), the
interval is computed from them alone, and it is counted how often the truth lies inside, part by part. A part that none
of the drawn images shows has an interval without width; such cases count as misses, and are also counted by themselves.
*Sampled*: shares by sampled orders of the same hybrids against the exact ones, in units of their stated error. Of five
parts there are 60 pairs of orders; PAIRS are drawn, fewer than the product draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch

from lag_core.data.remap import truth
from lag_core.explain import shares as rules
from lag_core.explain.hybrids import HybridCounts, Pair
from lag_core.explain.shares import Counts, Plan, plan, shares_of
from lag_core.explain.shares_pass import BATCH, geometry_of
from truth_tests.cases import Subject

REPEATS, DRAWN, BOOTSTRAP = 200, 60, 300
PAIRS = (8, 16)
SEEDS = 40


def rows(subject: Subject, classes: int) -> Iterator[dict]:
    """One row per class of step 0, at the last step, with its coverage and the errors of sampled orders."""
    labels = subject.run.labels
    asked = [k for k in subject.foreground if labels.step_of(k) == 0][:classes]
    counts = _counts(subject, asked)
    for at, cls in enumerate(asked):
        one, pixels = counts.asked[at], counts.counts(at)
        exact = shares_of(pixels, one.parts, one.plan, counts.pair.steps, repeats=0)
        yield {
            "run": subject.name, "class": subject.run.classes[cls].name,
            "all": _coverage(pixels, one.parts, one.plan, exact.points, len(pixels)),
            "few": _coverage(pixels, one.parts, one.plan, exact.points, DRAWN),
            "errors": {str(pairs): _sampled(pixels, one.parts, exact.points, pairs) for pairs in PAIRS},
        }  # fmt: skip


def _counts(subject: Subject, classes: list[int]) -> HybridCounts:
    """Counts of every validation image between step 0 and the last one."""
    ids, run = list(subject.dataset.ids("val")), subject.run
    counts = HybridCounts(Pair((subject.networks, 0), (subject.networks, run.last_step)), classes, len(ids))
    for place in range(0, len(ids), BATCH):
        names = ids[place : place + BATCH]
        inputs = np.concatenate([subject.shown(name).image.numpy() for name in names])
        passes = subject.networks.passes(torch.from_numpy(inputs))
        truths = [truth(subject.dataset.mask(name), run.labels) for name in names]
        counts.add(place, (passes, passes), geometry_of(truths, run.config.data.size))
    return counts


def _coverage(
    counts: Counts, parts: tuple[str, ...], planned: Plan, true: np.ndarray, images: int
) -> dict[str, int | float]:
    """Of intervals by that many images: how many there are, hold the truth, and have no image that shows the part.

    Parts whose share is 0 by construction are left out. Beside them the intervals' mean width, in points.
    """
    rng, found = np.random.default_rng(0), {"images": images, "intervals": 0, "inside": 0, "unseen": 0, "width": 0.0}
    asked = [at for at, share in enumerate(true) if share != 0]
    for repeat in range(REPEATS):
        drawn = rng.integers(0, len(counts), images)
        part = Counts(counts.hits[drawn], counts.called[drawn], counts.true[drawn], counts.called_new[drawn])
        estimates = [*shares_of(part, parts, planned, (0, 1), repeats=BOOTSTRAP, seed=repeat).estimates.values()]
        for one, share in ((estimates[at], true[at]) for at in asked):
            found["intervals"] += 1
            found["inside"] += one.low <= share <= one.high
            found["unseen"] += one.low == one.high
            found["width"] += (one.high - one.low) / (REPEATS * len(asked))
    return {key: float(value) if key == "width" else int(value) for key, value in found.items()}


def _sampled(counts: Counts, parts: tuple[str, ...], exact: np.ndarray, pairs: int) -> list[float]:
    """|sampled - exact| over the stated error, for each part and SEEDS draws of that many pairs of orders."""
    every = plan(parts)
    if not every.exact or math.factorial(len(parts)) // 2 <= pairs:
        return []
    found: list[float] = []
    with mock.patch.object(rules, "EXACT", 2):
        for seed in range(SEEDS):
            planned = plan(parts, orders=pairs, seed=seed)
            columns = [every.masks.index(mask) for mask in planned.masks]
            part = Counts(counts.hits[:, columns], counts.called[:, columns], counts.true, counts.called_new)
            sampled = shares_of(part, parts, planned, (0, 1), repeats=0)
            gaps = np.abs(sampled.points - exact)[1:] / np.maximum(sampled.error[1:], 1e-9)
            found += [float(g) for g, e in zip(gaps, sampled.error[1:], strict=True) if e > 1e-6]
    return found
