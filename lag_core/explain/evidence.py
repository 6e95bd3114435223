"""Measuring why a class is still here, or gone: what `explain.verdict` puts into words.

Effects of channels on a class's IoU are measured on images that contain the class, at most LIMIT of them, evenly
spaced over the validation set, on a grid of at most GRID x GRID cells of the network's square. The measurements are
generators that yield the share done, so that a caller can show it, hold a lock for one piece of work at a time, or
stop; `finish` drives them. Sources: docs/method.md#channels, #prototypes and #relevance; the choice
of images and grid is ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lag_core import metrics
from lag_core.data.dataset import Dataset
from lag_core.data.pictures import DataError
from lag_core.data.remap import truth as class_indices
from lag_core.data.transforms import fit, fit_mask, resize_labels, to_input
from lag_core.explain import channels, controls, similarity, stored_shares, verdict
from lag_core.explain.cache import ResultCache, key_of
from lag_core.explain.controls import Matched
from lag_core.explain.hybrids import pair_of
from lag_core.explain.interventions import (
    CONTROLS,
    GRID,
    Intervention,
    Measure,
    ablation,
    control_sets,
    curve,
    transplantation,
)
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.shares import Shares
from lag_core.explain.shares_pass import Pictures, shares_on
from lag_core.explain.survey import read_survey
from lag_core.explain.verdict import ChannelEffects, EffectCurve, Evidence, OverSteps, Verdict
from lag_core.explain.without_parts import left_without
from lag_core.metrics import confusion
from lag_core.model.prediction import label_map
from lag_core.model.segmenter import Output, upsample
from lag_core.protocol import LabelSpace
from lag_core.relevance.latent import channel_profile, latent_relevance, relevance_map
from lag_core.runs import Run
from lag_core.tiles import tiles_in

LIMIT = 16
"""Images that a class's effects are measured on."""
MANY = 10**9
"""Larger numbers of different control sets are not distinguished."""
CHUNK = 8
"""Images in one pass."""
Result = TypeVar("Result")
Work = Generator[float, None, Result]
"""Yields the share 0..1 that is done, returns the result."""


class NoExamples(DataError):
    """There is no picture to measure a class on; the message says why."""


@dataclass(frozen=True)
class Examples:
    """The pictures on which a class is measured. ValueError for pictures without a truth of their size."""

    images: tuple[np.ndarray, ...]
    """uint8 [H, W, 3] each."""
    truths: tuple[np.ndarray, ...]
    """Class indices uint8 [H, W] of each, 255 where nothing is annotated."""
    whole_set: bool
    """True: drawn from the validation set; False: one picture of the user's choice."""
    holding: int
    """Images of the validation set that contain the class; 1 for one picture."""
    dataset: Dataset | None = field(default=None, compare=False)
    """The validation set; shares are measured on all of its images. None for one picture."""

    def __post_init__(self) -> None:
        for image, true in zip(self.images, self.truths, strict=True):
            if image.ndim != 3 or image.shape[:2] != true.shape:
                raise ValueError(f"an image of {image.shape} and a truth of {true.shape} do not fit")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal digest of every pixel and label, and of their meaning."""
        found = hashlib.sha256(repr((self.whole_set, self.holding)).encode())
        for array in (*self.images, *self.truths):
            found.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:24]


def one_picture(image: np.ndarray, truth: np.ndarray | None, cls: int, name: str) -> Examples:
    """A single picture. Shape: uint8 [H, W, 3], class indices uint8 [H, W]. `name`: the class's, for NoExamples."""
    if truth is None:
        raise NoExamples(
            "this picture has no annotation, so there is no IoU to explain; choose a validation image, or "
            "measure on the validation set"
        )
    if not (truth == cls).any():
        raise NoExamples(f"this picture shows no {name}; choose another picture or class, or the validation set")
    return Examples((image,), (truth,), whole_set=False, holding=1)


def from_validation(run: Run, dataset: Dataset, cls: int, limit: int = LIMIT) -> Examples:
    """Up to `limit` validation images that contain class index `cls`, evenly spaced in file order."""
    wanted = run.classes[cls].id
    present = dataset.present("val")
    names = [name for name in dataset.ids("val") if wanted in present[name]]
    if not names:
        raise NoExamples(f"no validation image shows {run.classes[cls].name}, so there is nothing to measure")
    places = np.unique(np.linspace(0, len(names) - 1, min(limit, len(names))).round().astype(int))
    chosen = [names[i] for i in places]
    images = tuple(dataset.image(name) for name in chosen)
    truths = tuple(class_indices(dataset.mask(name), run.labels) for name in chosen)
    return Examples(images, truths, whole_set=True, holding=len(names), dataset=dataset)


def why_preserved(
    networks: Networks,
    examples: Examples,
    cls: int,
    step: int,
    k: int | None = None,
    cache: ResultCache | None = None,
    report: Callable[[float], object] | None = None,
) -> tuple[Evidence, Verdict]:
    """The evidence for class index `cls` at `step`, and the words that follow from it.

    `k`: number of channels that the words are about (verdict.default_count of the active ones).
    """
    found = finish(measure(networks, examples, cls, step, cache), report)
    return found, verdict.verdict(found, k)


def finish(work: Work[Result], report: Callable[[float], object] | None = None) -> Result:
    """Run a measurement to its end; `report` is told each share done."""
    while True:
        try:
            share = next(work)
        except StopIteration as end:
            return end.value
        if report is not None:
            report(share)


def measure(
    networks: Networks, examples: Examples, cls: int, step: int, cache: ResultCache | None = None
) -> Work[Evidence]:
    """Everything that the verdict on class index `cls` at `step` needs; read from `cache` if possible."""
    run = networks.run
    run.checked_step(step)
    over = _looked_up(_over_key(run, examples, cls), cache, verdict.over_from_arrays)
    if over is None:
        over = yield from scaled(over_steps(networks, examples, cls), 0.0, 0.2)
        if cache is not None:
            cache.put(_over_key(run, examples, cls), verdict.over_to_arrays(over))
    if step <= run.labels.step_of(cls):
        return assemble(run, examples, cls, step, over, None, None)
    shares = yield from scaled(class_shares(networks, examples, cls, step, cache), 0.2, 0.5)
    key = _effects_key(run, examples, cls, step)
    effects = _looked_up(key, cache, verdict.effects_from_arrays)
    if effects is None:
        effects = yield from scaled(channel_effects(networks, examples, cls, step), 0.5, 1.0)
        if cache is not None:
            cache.put(key, verdict.effects_to_arrays(effects))
    return assemble(run, examples, cls, step, over, effects, shares)


def cached(run: Run, examples: Examples, cls: int, step: int, cache: ResultCache) -> Evidence | None:
    """The evidence if all of it was measured before, without loading a network; else None."""
    over = _looked_up(_over_key(run, examples, cls), cache, verdict.over_from_arrays)
    if over is None:
        return None
    if step <= run.labels.step_of(cls):
        return assemble(run, examples, cls, step, over, None, None)
    effects = _looked_up(_effects_key(run, examples, cls, step), cache, verdict.effects_from_arrays)
    shares = known_shares(run, examples, cls, step, cache)
    return None if effects is None or shares is None else assemble(run, examples, cls, step, over, effects, shares)


def assemble(
    run: Run,
    examples: Examples,
    cls: int,
    step: int,
    over: OverSteps,
    effects: ChannelEffects | None,
    shares: Shares | None,
) -> Evidence:
    """The measurements with their subject."""
    confusions = run.confusions()
    whole = None if confusions is None else metrics.iou_matrix(confusions, run.labels)[:, cls]
    return Evidence(
        cls=cls,
        name=run.classes[cls].name,
        step=step,
        source=run.labels.step_of(cls),
        whole_set=examples.whole_set,
        images=len(examples),
        holding=examples.holding,
        run_iou=whole,
        over=_on_every_image(run, cls, over) if examples.whole_set else over,
        effects=effects,
        shares=shares,
        shared_images=0 if shares is None else shares.images,
    )


def _on_every_image(run: Run, cls: int, over: OverSteps) -> OverSteps:
    """With drift and spread of the survey, if there is one: over all validation images, as on other pages."""
    survey = read_survey(run)
    if survey is None or not survey.prototypes.shape[-1]:
        return over
    found = similarity.measured(survey)
    known = np.arange(len(over.drift)) >= run.labels.step_of(cls)
    return replace(
        over,
        drift=similarity.drift(found, run.labels).since_introduced[:, cls],
        spread=np.where(known, found.spread[:, cls], np.nan),
    )


# ---------------------------------------------------------------------- shares


def class_shares(
    networks: Networks, examples: Examples, cls: int, step: int, cache: ResultCache | None = None
) -> Work[Shares]:
    """Shares of the change of a class since the step that introduced it: from the survey, the cache, or measured.

    For the validation set every image counts, as in the metrics. ValueError for a step that is not later.
    """
    run = networks.run
    source = run.labels.step_of(cls)
    if step <= source:
        raise ValueError(f"step {step} is not later than step {source}, which introduces the class")
    found = known_shares(run, examples, cls, step, cache)
    if found is None:
        pair = pair_of((networks, source), (networks, step))
        (found,) = yield from shares_on(pair, [cls], pictures_of(examples, run), names=names_of(examples))
        if cache is not None:
            case = cls, source, step
            cache.put(_shares_key(run, examples, cls, step), stored_shares.to_arrays({case: found}))
    return found


def known_shares(run: Run, examples: Examples, cls: int, step: int, cache: ResultCache | None) -> Shares | None:
    """The shares if they were measured before, without loading a network; else None."""
    if examples.whole_set and (survey := read_survey(run)) is not None and survey.shares is not None:
        return survey.shares.of(cls, step)
    names = [one.name for one in run.classes]
    images = tiles_in(names_of(examples)) or len(pictures_of(examples, run))
    stored = _looked_up(
        _shares_key(run, examples, cls, step), cache, lambda arrays: stored_shares.from_arrays(arrays, names, images)
    )
    return None if stored is None else stored.of(cls, step)


def _shares_key(run: Run, examples: Examples, cls: int, step: int) -> str:
    return key_of(run.digest, examples.digest, "shares", cls=cls, step=step)


def pictures_of(examples: Examples, run: Run) -> Pictures:
    """The pictures for the shares: every image of the validation set, or the one picture."""
    if examples.whole_set and examples.dataset is not None:
        return ValidationPictures(examples.dataset, run)
    return list(zip(examples.images, examples.truths, strict=True))


def names_of(examples: Examples) -> tuple[str, ...]:
    """Names of the pictures of `pictures_of`; none for a picture of the user's choice."""
    return examples.dataset.ids("val") if examples.whole_set and examples.dataset is not None else ()


class ValidationPictures(Sequence[tuple[np.ndarray, np.ndarray]]):
    """The validation images of a dataset with their truths in class indices, read when they are asked for."""

    def __init__(self, dataset: Dataset, run: Run):
        self.dataset, self.run, self.ids = dataset, run, tuple(dataset.ids("val"))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        name = self.ids[place]
        return self.dataset.image(name), class_indices(self.dataset.mask(name), self.run.labels)


def _over_key(run: Run, examples: Examples, cls: int) -> str:
    return key_of(run.digest, examples.digest, "over-steps", cls=cls, grid=GRID)


def _effects_key(run: Run, examples: Examples, cls: int, step: int) -> str:
    return key_of(run.digest, examples.digest, "effects-and-balance", cls=cls, step=step, grid=GRID, controls=CONTROLS)


def _looked_up(key: str, cache: ResultCache | None, read: Callable[[dict[str, np.ndarray]], Result]) -> Result | None:
    """A result from the cache; None if there is none or it has another form."""
    arrays = cache.get(key) if cache is not None else None
    try:
        return None if arrays is None else read(arrays)
    except (KeyError, ValueError):
        return None


def scaled(work: Work[Result], low: float, high: float) -> Work[Result]:
    """The same work, its share mapped from 0..1 to low..high."""
    while True:
        try:
            share = next(work)
        except StopIteration as end:
            return end.value
        yield low + (high - low) * share


# ---------------------------------------------------------------------- over the steps


@dataclass(frozen=True)
class _Batch:
    """Some of the examples as the network sees them."""

    inputs: np.ndarray
    """float32 [n, 3, S, S]."""
    squares: np.ndarray
    """Class indices uint8 [n, S, S], 255 in the padding."""

    def masks(self, cls: int, size: tuple[int, int]) -> np.ndarray:
        """Where the class is, at the latent resolution. Shape: bool [n, h, w]."""
        return np.stack([resize_labels(one, size) for one in self.squares]) == cls

    def measured(self) -> np.ndarray:
        """The truth on the measuring grid. Shape: uint8 [n, g, g]."""
        side = min(self.squares.shape[-1], GRID)
        return np.stack([resize_labels(one, (side, side)) for one in self.squares])


def _batches(examples: Examples, square: int) -> Iterator[_Batch]:
    for place in range(0, len(examples), CHUNK):
        images = [fit(one, square)[0] for one in examples.images[place : place + CHUNK]]
        truths = [fit_mask(one, square) for one in examples.truths[place : place + CHUNK]]
        yield _Batch(to_input(np.stack(images)), np.stack(truths))


class _StepSums:
    """Sums over batches of the steps' results for one class. T steps, K classes, C channels."""

    def __init__(self, run: Run, cls: int):
        steps, width = len(run.steps), run.config.model.latent
        self.run, self.cls, self.source = run, cls, run.labels.step_of(cls)
        self.confusion = np.zeros((steps, len(run.classes), len(run.classes)), np.int64)
        self.profile = np.zeros((steps, width))
        self.latent = np.zeros((steps, width))
        self.unit = np.zeros((steps, width))
        self.cosines: list[list[float]] = [[] for _ in range(steps)]
        self.pixels = 0

    def add_prediction(self, step: int, output: Output, true: np.ndarray) -> None:
        """The step's confusion with the truth on the measuring grid, uint8 [n, g, g]."""
        labels, loss = self.run.labels, self.run.config.method.loss
        predicted = label_map(upsample(output.logits, true.shape[1:]), labels, loss).cpu().numpy()
        self.confusion[step] += confusion(true, predicted, len(labels.order))

    def add_latent(self, step: int, latent: Tensor, mask: np.ndarray) -> None:
        """Sums of Z, and of Z scaled to length 1, over the class's latent pixels, bool [n, h, w]."""
        own = latent.permute(0, 2, 3, 1)[torch.from_numpy(mask)].double()
        self.latent[step] += own.sum(0).cpu().numpy()
        self.unit[step] += torch.nn.functional.normalize(own, dim=1).sum(0).cpu().numpy()

    def add_relevance(self, step: int, relevance: Tensor, first: np.ndarray | None) -> np.ndarray:
        """The channels' sums, and the cosine of each image's places with `first`, those of s. Returns the places.

        Shape: R [n, C, h, w], [n, h * w] -> [n, h * w].
        """
        self.profile[step] += channel_profile(relevance).double().sum(0).cpu().numpy()
        places = relevance_map(relevance).flatten(1).double().cpu().numpy()
        for one, other in zip(places, places if first is None else first, strict=True):
            cosine = float(similarity.cosine(one[None], other[None])[0, 0])
            if not np.isnan(cosine):
                self.cosines[step].append(cosine)
        return places

    def result(self) -> OverSteps:
        steps = len(self.profile)
        known = np.arange(steps) >= self.source
        speaking = np.maximum(self.profile, 0)
        profile = similarity.cosine(speaking, speaking[self.source][None])[:, 0]
        places = np.array([np.mean(found) if found else np.nan for found in self.cosines])
        return OverSteps(
            iou=metrics.iou_matrix(self.confusion, self.run.labels)[:, self.cls],
            relevance_map=np.where(known, places, np.nan),
            relevance_profile=np.where(known, profile, np.nan),
            drift=np.where(known, similarity.drift_since(self.latent, self.source), np.nan),
            spread=np.where(known, similarity.spread(self.unit, self.latent, np.array(self.pixels)), np.nan),
        )


def over_steps(networks: Networks, examples: Examples, cls: int) -> Work[OverSteps]:
    """IoU, relevance at the latent map and prototype of a class at every step since it was introduced.

    The relevance is that of the class's logit over its true pixels (docs/method.md#nsc).
    """
    run = networks.run
    sums = _StepSums(run, cls)
    asked = range(sums.source, len(networks))
    total, done = len(asked) * -(-len(examples) // CHUNK), 0
    for batch in _batches(examples, run.config.data.size):
        passes, first = _passes(networks, batch), None
        for step in asked:
            first = _add_step(networks, sums, step, passes, batch, first)
            done += 1
            yield done / total
    return sums.result()


def _passes(networks: Networks, batch: _Batch) -> Passes:
    return networks.passes(torch.from_numpy(batch.inputs))


@torch.no_grad()
def _add_step(
    networks: Networks, sums: _StepSums, step: int, passes: Passes, batch: _Batch, first: np.ndarray | None
) -> np.ndarray:
    """One step on one batch; returns the places that speak for the class at s, float64 [n, h * w]."""
    output = passes.output(step)
    mask = batch.masks(sums.cls, (output.latent.shape[-2], output.latent.shape[-1]))
    if step == sums.source:
        sums.pixels += int(mask.sum())
    sums.add_prediction(step, output, batch.measured())
    sums.add_latent(step, output.latent, mask)
    weights = torch.from_numpy(mask).to(output.latent)
    relevance = latent_relevance(passes.heads(step), output.latent, sums.cls + networks.run.labels.offset, weights)
    places = sums.add_relevance(step, relevance, first)
    return places if first is None else first


# ---------------------------------------------------------------------- the two questions about channels


def channel_effects(networks: Networks, examples: Examples, cls: int, step: int, seed: int = 0) -> Work[ChannelEffects]:
    """Ablation of the most invariant channels of `step`, and transplant of the most changed ones from the step
    that introduced the class, along verdict.curve_counts; what is left of it without each part of the network.
    ValueError for a step that is not later than that."""
    run = networks.run
    source = run.labels.step_of(cls)
    if step <= source:
        raise ValueError(f"step {step} is not later than step {source}, which introduces the class")
    batches = list(_batches(examples, run.config.data.size))
    parts = []
    for batch in batches:
        parts.append(_pair(networks, batch, source, step))
        yield 0.2 * len(parts) / len(batches)
    old, new = (torch.cat(side) for side in zip(*parts, strict=True))
    moved = int((old != new).any(0).flatten(1).any(1).sum())
    before, after = old.cpu().numpy(), new.cpu().numpy()
    lives = channels.living(before, after)
    living, either, dead, active = lives.now, lives.either, int(lives.died.sum()), int(lives.now.sum())
    measure = iou_of(np.concatenate([b.measured() for b in batches]), cls, run.labels, run.config.method.loss)
    without = left_without(networks, [b.inputs for b in batches], cls, source, step, measure)
    if not moved or active < 2:
        return ChannelEffects(moved, active, None, None, 0.0, dead, len(living), without)
    distance = channels.latent_distances(run, old, new)
    energies = controls.energy(after), controls.energy(before) + controls.energy(after)
    decode = networks.passes(torch.from_numpy(np.concatenate([b.inputs for b in batches]))).decoder(step)
    questions = (
        (ablation(new, decode), _ranked("invariant", distance, living), Matched(energies[0], living)),
        (transplantation(new, old, decode), _ranked("changed", distance, either), Matched(energies[1], either)),
    )
    curves = []
    for place, (question, ranked, draw) in enumerate(questions):
        work = _effect_curve(question, ranked, verdict.curve_counts(active), measure, draw, seed)
        curves.append((yield from scaled(work, 0.2 + 0.4 * place, 0.6 + 0.4 * place)))
    whole = curve(questions[1][0], np.arange(new.shape[1]), [new.shape[1]], measure, controls=0)
    everything = float(whole.effect[0, 0])
    return ChannelEffects(moved, active, curves[0], curves[1], everything, dead, len(living), without)


def _ranked(order: channels.Order, distance: np.ndarray, living: np.ndarray) -> np.ndarray:
    """The living channels in an order. Shape: float [C], bool [C] -> int64 [living]."""
    places = np.flatnonzero(living)
    return places[channels.ranked(order, distance[places])]


@torch.no_grad()
def _pair(networks: Networks, batch: _Batch, source: int, step: int) -> tuple[Tensor, Tensor]:
    """Z of both steps, [n, C, h, w] each."""
    passes = _passes(networks, batch)
    return passes.output(source).latent, passes.output(step).latent


def _effect_curve(
    question: Intervention, ranked: np.ndarray, counts: Sequence[int], measure: Measure, draw: Matched, seed: int
) -> Work[EffectCurve]:
    """The effect on a single measure of the first k of `ranked`, one number of channels at a time."""
    found = []
    for k in counts:
        found.append(curve(question, ranked, [k], measure, control_sets(question.decode), seed + k, draw))
        yield len(found) / len(counts)
    return EffectCurve(
        np.array(counts),
        np.concatenate([one.effect[:, 0] for one in found]),
        np.concatenate([one.control_effect[:, :, 0] for one in found]),
        np.array([min(draw.distinct(ranked[:k]), MANY) for k in counts]),
        np.array([draw.imbalance(ranked[:k]) for k in counts]),
    )


def iou_of(truths: np.ndarray, cls: int, labels: LabelSpace, loss: str) -> Measure:
    """Measures the IoU of one class over all images together: one number of interventions.class_iou, without the
    confusions of the others.

    Shape: truths uint8 [N, g, g] class indices, 255 where nothing counts; the measure gives float64 [1].
    """
    true = torch.from_numpy(truths)
    size = (truths.shape[1], truths.shape[2])

    def measure(logits: Tensor) -> np.ndarray:
        where = true.to(logits.device)
        counted = where < logits.shape[1] - labels.offset  # not the classes still to come, nor places without a label
        won = (label_map(upsample(logits, size), labels, loss) == cls) & counted
        mine = where == cls
        union = int((won | mine).sum())
        return np.array([int((won & mine).sum()) / union if union else np.nan])

    return measure
