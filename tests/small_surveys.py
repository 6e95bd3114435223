"""Surveys of the small runs: consistent arrays by the survey's own writer, without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from small_runs import LATENT

from lag_core.explain import forgetting
from lag_core.explain.picture_counts import PictureCounter
from lag_core.explain.survey import TOP, Survey, write_survey
from lag_core.runs import Run

CHANNELS = LATENT


def predictions_of(truth: np.ndarray, run: Run, kept: float = 0.5) -> np.ndarray:
    """Label maps uint8 [T, H, W] of a network that knows a class when it is introduced, and loses the upper
    rows of the older ones, a share 1 - `kept` of the height, to the first class of each later step."""
    maps = []
    for t in range(len(run.steps)):
        labels = np.where(truth < run.labels.seen(t), truth, 0).astype(np.uint8)
        if t:
            upper = np.arange(len(truth))[:, None] < (1 - kept) * len(truth)
            labels[upper & (truth < run.labels.class_indices(t).start)] = run.labels.class_indices(t).start
        maps.append(labels)
    return np.stack(maps)


def add_survey(run: Run, ids: Sequence[str], seed: int = 0, kept: float = 0.5, *, by_picture: bool = True) -> Survey:
    """Write a survey of pictures of 16 x 16 pixels into `run`; image i has lost more than image i + 1.

    Without `by_picture` it is one of an earlier version, which did not count picture by picture.
    """
    rng = np.random.default_rng(seed)
    steps, count, number = len(run.steps), len(run.classes), len(ids)
    pixels, right = np.zeros((number, count), np.uint32), np.zeros((number, steps, count), np.uint32)
    lost, shift = np.zeros_like(right), np.zeros((number, steps, 4), np.uint32)
    confusion = np.zeros((steps, count, count), np.int64)
    flows: dict[tuple[int, int, int, int], int] = {}
    pictures = PictureCounter(number, steps, count)
    for i in range(number):
        truth = rng.integers(0, count, (16, 16)).astype(np.uint8)
        share = kept + (1 - kept) * i / max(number, 1)
        maps = predictions_of(truth, run, share)
        pixels[i] = np.bincount(truth.ravel(), minlength=count)
        lost[i] = forgetting.lost_pixels(maps, truth, run.labels)
        pictures.add(i, maps, truth)
        for t, labels in enumerate(maps):
            pictures.add_confidence(i, t, np.full(truth.shape, 0.5 + i / (2 * number)), truth)
            np.add.at(confusion[t], (truth.ravel(), labels.ravel()), 1)
            right[i, t] = np.bincount(truth[truth == labels], minlength=count)
        for t in range(steps - 1):
            for c, a, b in zip(truth.ravel(), maps[t].ravel(), maps[t + 1].ravel(), strict=True):
                key = int(c), t, int(a), int(b)
                flows[key] = flows.get(key, 0) + 1
    survey = Survey(
        ids=tuple(ids), domains=(None,) * number, metrics=("l1",), labels=run.labels,
        pixels=pixels, right=right, lost=lost, shift=shift, confusion=confusion,
        flows=np.array([[*key, n] for key, n in flows.items()], np.int64),
        latent_pixels=np.full(count, 9),
        prototypes=rng.random((steps, count, CHANNELS)).astype(np.float32),
        spread=np.full((steps, count), 0.05, np.float32),
        channel_mean=np.zeros((steps, CHANNELS), np.float32),
        channel_energy=np.zeros((steps, CHANNELS), np.float32),
        top_index=np.full((steps, CHANNELS, TOP), -1, np.int32),
        top_activation=np.full((steps, CHANNELS, TOP), np.nan, np.float32),
        distances=np.zeros((1, steps - 1, CHANNELS), np.float32), pictures=pictures.counts() if by_picture else None,
    )  # fmt: skip
    write_survey(run, survey)
    return survey
