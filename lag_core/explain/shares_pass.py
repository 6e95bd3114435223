"""Runs the pictures that shares are measured on through all hybrids.

A picture is measured at its own size, as metrics are, or at the size at which the network sees it where that is
smaller. The work is a generator that yields the share done, so that a caller can show it, hold a lock for one batch
at a time, or stop.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch

from lag_core.data.transforms import content_size, fit, resize_labels, to_input
from lag_core.explain.hybrids import Geometry, HybridCounts, Pair, groups_of, pair_of
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.shares import REPEATS, Shares, shares_of
from lag_core.explain.stage_groups import StageGroups
from lag_core.tiles import tiles_of

BATCH = 8
"""Pictures in one pass; as in training and evaluation, so that the same picture gives the same bits."""

Pictures = Sequence[tuple[np.ndarray, np.ndarray]]
"""Pictures with their truths: uint8 [H, W, 3], class indices uint8 [H, W], 255 where nothing is annotated."""


def measured_at(truth: np.ndarray, square: int) -> np.ndarray:
    """The truth at the size at which a picture is measured: its own, or what it has in the network's square."""
    inside = content_size(truth.shape[0], truth.shape[1], square)
    return resize_labels(truth, inside) if inside[0] * inside[1] < truth.size else truth


def geometry_of(truths: Sequence[np.ndarray], square: int) -> Geometry:
    """How pictures with these truths lie in the network's square."""
    insides = [content_size(true.shape[0], true.shape[1], square) for true in truths]
    return Geometry(square, insides, [measured_at(true, square) for true in truths])


Kept = dict[tuple[str, int], torch.Tensor]
"""Trunk features float32 [B, T, h, w] by (digest of the trunk, place of a batch's first picture)."""


def shares_on(
    pair: Pair,
    classes: Sequence[int],
    pictures: Pictures,
    repeats: int = REPEATS,
    seed: int = 0,
    kept: Kept | None = None,
    names: Sequence[str] = (),
) -> Generator[float, None, list[Shares]]:
    """The shares of some classes between the two states of a pair, on these pictures. Yields the share done.

    `names`: of the pictures, by which windows of one tile are known. `kept`: a store for the trunk's features of
    these pictures, for the next question.
    """
    counts = HybridCounts(pair, classes, len(pictures), seed)
    yield from count_pictures(counts, pictures, kept)
    return results(counts, repeats, seed, names)


def count_pictures(counts: HybridCounts, pictures: Pictures, kept: Kept | None = None) -> Iterator[float]:
    """Count every picture in all hybrids. Yields the share done."""
    pair = counts.pair
    square = pair.networks[1].run.config.data.size
    for place in range(0, len(pictures), BATCH):
        batch = [pictures[i] for i in range(place, min(place + BATCH, len(pictures)))]
        passes = _kept_passes(pair, place, kept)
        if passes is None:
            inputs = torch.from_numpy(to_input(np.stack([fit(image, square)[0] for image, _ in batch])))
            passes = _both(pair, inputs)
            _keep_features(pair, passes, place, kept)
        counts.add(place, passes, geometry_of([true for _, true in batch], square))
        yield (place + len(batch)) / len(pictures)


def results(counts: HybridCounts, repeats: int = REPEATS, seed: int = 0, names: Sequence[str] = ()) -> list[Shares]:
    """The shares of each class that was counted. `names`: as in `shares_on`."""
    pair = counts.pair
    tiles = tiles_of(names) if names else None
    return [
        shares_of(
            counts.counts(at) if tiles is None else counts.counts(at).by_tile(tiles), one.parts, one.plan, pair.steps,
            every=pair.every_part(one.cls), repeats=repeats, seed=seed,
        )
        for at, one in enumerate(counts.asked)
    ]  # fmt: skip


def _both(pair: Pair, inputs: torch.Tensor) -> tuple[Passes, Passes]:
    then, now = pair.networks
    passes = now.passes(inputs)
    return (passes if then is now else then.passes(inputs)), passes


def _shared_trunk(pair: Pair) -> str | None:
    """Digest of the trunk that both states share; None where each has its own."""
    then, now = (networks.trunk(step) for networks, step in zip(pair.networks, pair.steps, strict=True))
    return now if then == now else None


def _kept_passes(pair: Pair, place: int, kept: Kept | None) -> tuple[Passes, Passes] | None:
    """Passes that begin with the features that are kept of a batch; None where there are none."""
    trunk = None if kept is None else _shared_trunk(pair)
    if kept is None or trunk is None or (trunk, place) not in kept:
        return None
    features = kept[trunk, place]
    passes = _both(pair, features.new_empty(len(features), 0))  # the pictures themselves are not needed
    passes[1].take_features(trunk, features)
    return passes


def _keep_features(pair: Pair, passes: tuple[Passes, Passes], place: int, kept: Kept | None) -> None:
    """Keep the trunk's features of a batch, if both states share the trunk."""
    trunk = None if kept is None else _shared_trunk(pair)
    if kept is not None and trunk is not None:
        kept[trunk, place] = passes[1].features(pair.steps[1])


def all_pairs(networks: Networks, groups: StageGroups | None = None) -> Iterator[tuple[Pair, list[int]]]:
    """Every pair (step that introduces classes, later step) of a run, with the classes that it introduced.

    groups: which stages are one part; by default what is affordable.
    """
    run = networks.run
    if groups is None and run.kind == "segmenter":
        groups = groups_of(run)
    for then in range(len(networks)):
        for now in range(then + 1, len(networks)):
            yield pair_of((networks, then), (networks, now), groups), list(run.labels.class_indices(then))
