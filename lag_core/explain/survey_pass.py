"""One pass over the whole validation set with the networks of all steps: what `lag survey` measures.

A trunk runs once per image, however many steps share it; of every step, label maps and latent statistics are added up
and then dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from lag_core.capabilities import capabilities
from lag_core.data.dataset import Dataset
from lag_core.data.remap import truth
from lag_core.data.transforms import Size, content_size, fit, fit_mask, resize_labels, to_input
from lag_core.explain import forgetting, similarity
from lag_core.explain.holds_pass import HoldsCounts, probes_or_say
from lag_core.explain.hybrids import HybridCounts, groups_of
from lag_core.explain.latent_maps import covered
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.picture_counts import PictureCounter
from lag_core.explain.shares_pass import all_pairs, geometry_of, results
from lag_core.explain.stage_groups import OPERATIONS
from lag_core.explain.step_memory import StepMemory
from lag_core.explain.stored_shares import StoredShares
from lag_core.explain.survey import TOP, Survey
from lag_core.method.decoupling import Metric, channel_distance
from lag_core.metrics import confusion
from lag_core.model.prediction import class_probabilities, full_size, highest
from lag_core.predictions import StoredPredictions
from lag_core.processes import Processes, current
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, RunError

BATCH = 8
"""Images in one pass; as in training and evaluation, so that the same image gives the same bits."""

PREFIXES = 2**30
"""Bytes of intermediate features of a batch that are kept for all pairs of steps."""

METRICS: tuple[Metric, ...] = get_args(Metric)

Progress = Callable[[Sequence[int], str], Iterable[int]]
"""Wraps a sequence for a progress bar: (items, what is being done) -> items."""


def survey(
    run: Run,
    dataset: Dataset,
    progress: Progress,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    operations: float = OPERATIONS,
) -> Survey:
    """Measure every step of `run` on the validation images of `dataset`. `say` gets what could not be measured.

    operations: limit for the shares of one picture (stage_groups).

    Processes that work together measure a part of the images each; all get the whole survey.
    """
    if run.kind == "stored":
        return survey_stored(run, dataset, progress)
    networks = Networks(run, device, StepMemory(sys.maxsize))  # every pair of steps holds its two networks
    ids = tuple(dataset.ids("val"))
    steps = len(networks)
    pixels = PixelCounts(len(ids), steps, run.labels)
    latents = LatentSums(len(ids), steps, len(run.labels.order), run.config.model.latent)
    distances = DistanceSums(steps, run.config.model.latent, run.config.optim.seed)
    ours = run.kind == "segmenter"
    decodes = "latent" in capabilities(run)
    groups = groups_of(run, operations) if ours else None
    pairs = all_pairs(networks, groups) if decodes else ()
    hybrids = [HybridCounts(pair, classes, len(ids)) for pair, classes in pairs]
    holds = HoldsCounts(networks, len(ids), probes_or_say(networks, dataset, progress, say)) if ours else None
    everywhere = current()
    for place in progress(everywhere.block(range(0, len(ids), BATCH)), "survey"):
        batch = read_batch(dataset, ids[place : place + BATCH], place, run)
        inputs = torch.from_numpy(batch.inputs).to(memory_format=torch.channels_last)
        passes = networks.passes(inputs, keep_stages=True, room=PREFIXES)
        maps = _walk_steps(networks, passes, batch, latents, distances, holds, pixels.pictures)
        for row, own in enumerate(maps):
            pixels.add(place + row, own, batch.truths[row])
        for one in hybrids:
            one.add(place, (passes, passes), geometry_of(batch.truths, run.config.data.size))
    for counts in (pixels, latents, distances):
        counts.join(everywhere)
    for one in hybrids:
        one.join(everywhere)
    if holds is not None:
        holds.join(everywhere)
    domains = tuple(dataset.domain(i) for i in ids)
    arrays = {**pixels.arrays(), **latents.arrays(), "distances": distances.mean()}
    held = None if holds is None else holds.found(networks, dataset, progress, say)
    return Survey(
        ids, domains, METRICS, run.labels, **arrays,
        shares=_shares(hybrids, ids), groups=groups, holds=held, pictures=pixels.pictures.counts(), faults=(),
    )  # fmt: skip


def survey_stored(run: Run, dataset: Dataset, progress: Progress) -> Survey:
    """The same for stored label maps, and for Z if every map has one."""
    stored, ids, steps = StoredPredictions(run), tuple(dataset.ids("val")), len(run.steps)
    first = stored.array(0, ids[0], "latent")
    width = 0 if first is None or len(first) != run.config.model.latent else len(first)
    pixels = PixelCounts(len(ids), steps, run.labels)
    latents = LatentSums(len(ids), steps, len(run.labels.order), width)
    distances = DistanceSums(steps, width, run.config.optim.seed)
    everywhere = current()
    for place in progress(everywhere.block(range(len(ids))), "survey"):
        true = truth(dataset.mask(ids[place]), run.labels)
        pixels.add(place, np.stack([stored.labels(step, ids[place]) for step in range(steps)]), true)
        before: Tensor | None = None
        for step in range(steps if width else 0):
            found = stored.array(step, ids[place], "latent")
            if found is None:
                raise RunError(f"{run.name} has no latent map of {ids[place]} at step {step}; import it again")
            latent = torch.from_numpy(found)[None]
            latents.add(step, latent, _covering(place, true, run.config.data.size))
            if before is not None:
                distances.add(step, before, latent)
            before = latent
    for counts in (pixels, latents, distances):
        counts.join(everywhere)
    domains = tuple(dataset.domain(i) for i in ids)
    arrays = {**pixels.arrays(), **latents.arrays(), "distances": distances.mean()}
    return Survey(
        ids, domains, METRICS, run.labels, **arrays,
        shares=None, groups=None, holds=None, pictures=pixels.pictures.counts(), faults=(),
    )  # fmt: skip


def _covering(place: int, true: np.ndarray, side: int) -> ImageBatch:
    """A picture whose latent map covers it from border to border."""
    square = resize_labels(true, (side, side))[None]
    return ImageBatch(place, np.empty((1, 3, 0, 0), np.float32), [true], square, [(side, side)])


def _shares(hybrids: Sequence[HybridCounts], ids: Sequence[str]) -> StoredShares:
    """The shares of every class at every later step."""
    return StoredShares({
        (one.cls, shares.step_from, shares.step_to): shares
        for counts in hybrids
        for one, shares in zip(counts.asked, results(counts, names=ids), strict=True)
    })  # fmt: skip


@dataclass(frozen=True)
class ImageBatch:
    """Some validation images as the network sees them."""

    first: int
    """Place of the first one in the validation set."""
    inputs: np.ndarray
    """float32 [b, 3, S, S]."""
    truths: list[np.ndarray]
    """Class indices uint8 [H, W] of each, at its own size."""
    squares: np.ndarray
    """The same in the network's square, uint8 [b, S, S], 255 in the padding."""
    insides: list[Size]
    """(height, width) of each picture in its square."""

    def __len__(self) -> int:
        return len(self.truths)


def read_batch(dataset: Dataset, ids: Sequence[str], first: int, run: Run) -> ImageBatch:
    """Read images and masks."""
    size, labels = run.config.data.size, run.labels
    masks = [dataset.mask(i) for i in ids]
    return ImageBatch(
        first=first,
        inputs=to_input(np.stack([fit(dataset.image(i), size)[0] for i in ids])),
        truths=[truth(mask, labels) for mask in masks],
        squares=np.stack([truth(fit_mask(mask, size), labels) for mask in masks]),
        insides=[content_size(mask.shape[0], mask.shape[1], size) for mask in masks],
    )


@torch.no_grad()
def _walk_steps(
    networks: Networks,
    passes: Passes,
    batch: ImageBatch,
    latents: LatentSums,
    distances: DistanceSums,
    holds: HoldsCounts | None,
    pictures: PictureCounter,
) -> list[np.ndarray]:
    """Run all steps on a batch and add up the statistics of their maps.

    Returns label maps uint8 [T, H, W] an image.
    """
    maps: list[list[np.ndarray]] = [[] for _ in range(len(batch))]
    confidence: list[list[np.ndarray]] = [[] for _ in range(len(batch))]
    before: Tensor | None = None
    for step in range(len(networks)):
        output = passes.output(step)
        for row, scores in enumerate(_class_scores(output.logits, batch, networks.run)):
            called = highest(scores)[0].cpu().numpy()
            maps[row].append(called)
            sure = np.minimum(scores[0].amax(0).cpu().numpy(), 1)
            pictures.add_confidence(batch.first + row, step, sure, batch.truths[row])
            if holds is not None:
                confidence[row].append(holds.add_map(step, scores[0].cpu().numpy(), called, batch.truths[row]))
        if not output.latent.shape[1]:
            continue
        latents.add(step, output.latent, batch)
        if holds is not None:
            holds.add_step(step, passes, output.latent, batch.first, batch.truths, batch.insides)
        if before is not None:
            distances.add(step, before, output.latent)
        before = output.latent
    found = [np.stack(own) for own in maps]
    if holds is not None:
        for own, sure, true in zip(found, confidence, batch.truths, strict=True):
            holds.add_picture(own, np.stack(sure), true)
    return found


def _class_scores(logits: Tensor, batch: ImageBatch, run: Run) -> Iterable[Tensor]:
    """Probabilities of the known classes for each image of a batch at its own size, [1, K, H, W]."""
    for row, (inside, true) in enumerate(zip(batch.insides, batch.truths, strict=True)):
        own = full_size(logits[row : row + 1], run.config.data.size, inside, (true.shape[0], true.shape[1]))
        yield class_probabilities(own, run.labels, run.config.method.loss)


class PixelCounts:
    """Statistics of the label maps: right, lost and shifted pixels of each image, confusions and flows of all."""

    def __init__(self, images: int, steps: int, labels: LabelSpace):
        n = len(labels.order)
        self.labels = labels
        self.pixels = np.zeros((images, n), np.uint32)
        self.right = np.zeros((images, steps, n), np.uint32)
        self.lost = np.zeros((images, steps, n), np.uint32)
        self.shift = np.zeros((images, steps, 4), np.uint32)
        self.confusion = np.zeros((steps, n, n), np.int64)
        self.pictures = PictureCounter(images, steps, n)

    def add(self, index: int, maps: np.ndarray, true: np.ndarray) -> None:
        """Take in one image. Shape: label maps uint8 [T, H, W], truth uint8 [H, W]."""
        n = len(self.labels.order)
        own = np.stack([confusion(true, one, n) for one in maps])
        self.confusion += own
        self.pixels[index] = own[0].sum(1)
        self.right[index] = np.diagonal(own, axis1=1, axis2=2)
        self.lost[index] = forgetting.lost_pixels(maps, true, self.labels)
        shift = forgetting.background_shift(own, self.labels)
        foreground = slice(int(self.labels.background is not None), None)
        parts = (shift.right, shift.background, shift.new, shift.other_old)
        self.shift[index] = np.stack([part[:, foreground].sum(1) for part in parts], -1)
        self.pictures.add(index, maps, true)

    def join(self, everywhere: Processes) -> None:
        """Add the counts of the other processes, each on its own pictures."""
        everywhere.add_up(self.pixels, self.right, self.lost, self.shift, self.confusion)
        self.pictures.take(everywhere.gathered(self.pictures))

    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of `Survey`."""
        return {
            "pixels": self.pixels,
            "right": self.right,
            "lost": self.lost,
            "shift": self.shift,
            "confusion": self.confusion,
            "flows": self._flows(),
        }

    def _flows(self) -> np.ndarray:
        """The transitions of all pictures together, int64 [n, 5] as in `Survey`, those that occur."""
        counted = self.pictures.counts()
        dense = ((cls, counted.flows(cls)) for cls in range(len(self.labels.order)))
        found = [(cls, *at, int(own[tuple(at)])) for cls, own in dense for at in np.argwhere(own).tolist()]
        return np.array(found, np.int64).reshape(-1, 5)


class LatentSums:
    """Statistics of the latent maps: class means and spread, channel means and energies, each channel's top
    images.

    Sums are float64, as their counts reach millions.
    """

    def __init__(self, images: int, steps: int, classes: int, channels: int):
        self.counts = np.zeros((steps, classes), np.int64)
        self.sums = np.zeros((steps, classes, channels))
        self.directions = np.zeros((steps, classes, channels))
        self.cells = np.zeros(steps, np.int64)
        self.totals = np.zeros((steps, channels))
        self.squares = np.zeros((steps, channels))
        self.peaks = np.zeros((steps, channels, images), np.float32)

    def add(self, step: int, latent: Tensor, batch: ImageBatch) -> None:
        """Take in a batch's Z [b, C, h, w]; cells in the padding do not count."""
        maps = latent.cpu().numpy()
        grid = maps.shape[2], maps.shape[3]
        square = batch.squares.shape[-1]
        for row, (values, labels, inside) in enumerate(zip(maps, batch.squares, batch.insides, strict=True)):
            h, w = covered(grid, square, inside)
            own = values[:, :h, :w].reshape(len(values), -1).astype(np.float64)
            self.cells[step] += own.shape[1]
            self.totals[step] += own.sum(1)
            self.squares[step] += np.square(own).sum(1)
            self.peaks[step, :, batch.first + row] = own.max(1)
            self._add_classes(step, own, resize_labels(labels, grid)[:h, :w].ravel())

    def _add_classes(self, step: int, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Shape: Z of the cells [C, n], class indices [n]."""
        member = (labels == np.arange(self.counts.shape[1])[:, None]).astype(np.float64)
        length = np.linalg.norm(pixels, axis=0)
        self.counts[step] += member.sum(1).astype(np.int64)
        self.sums[step] += member @ pixels.T
        self.directions[step] += member @ np.divide(pixels, length, out=np.zeros_like(pixels), where=length > 0).T

    def join(self, everywhere: Processes) -> None:
        """Add the sums of the other processes, each on its own pictures."""
        everywhere.add_up(self.counts, self.sums, self.directions, self.cells, self.totals, self.squares, self.peaks)

    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of `Survey`."""
        counts = np.maximum(self.counts, 1)[:, :, None]
        index, activation = top_images(self.peaks)
        cells = np.maximum(self.cells, 1)[:, None]
        return {
            "latent_pixels": self.counts[0],
            "prototypes": (self.sums / counts).astype(np.float32),
            "spread": similarity.spread(self.directions, self.sums, self.counts).astype(np.float32),
            "channel_mean": (self.totals / cells).astype(np.float32),
            "channel_energy": (self.squares / cells).astype(np.float32),
            "top_index": index,
            "top_activation": activation,
        }


def top_images(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The TOP images by activation, strongest first, equal ones in the order of the set.

    Shape: [T, C, N] -> int32 [T, C, TOP] with -1 and float32 [T, C, TOP] with NaN where N < TOP.
    """
    order = np.argsort(-peaks, axis=-1, kind="stable")[..., :TOP]
    index = np.full((*peaks.shape[:2], TOP), -1, np.int32)
    activation = np.full(index.shape, np.nan, np.float32)
    index[..., : order.shape[-1]] = order
    activation[..., : order.shape[-1]] = np.take_along_axis(peaks, order, -1)
    return index, activation


class DistanceSums:
    """Channel distances between consecutive steps by every metric, mean over images.

    As in training, over the whole square: the metric includes the padding there too.
    """

    def __init__(self, steps: int, channels: int, seed: int):
        self.sums = np.zeros((len(METRICS), steps - 1, channels))
        self.counts = np.zeros(steps - 1)
        self.seed = seed

    def add(self, step: int, before: Tensor, after: Tensor) -> None:
        """Take in a batch of Z at step - 1 and at `step`. Shape: twice [b, C, h, w]."""
        self.counts[step - 1] += len(after)
        for place, metric in enumerate(METRICS):
            distance = channel_distance(before, after, metric, seed=self.seed)
            self.sums[place, step - 1] += len(after) * distance.cpu().numpy().astype(np.float64)

    def join(self, everywhere: Processes) -> None:
        """Add the sums of the other processes."""
        everywhere.add_up(self.sums, self.counts)

    def mean(self) -> np.ndarray:
        """float32 [M, T - 1, C]."""
        return (self.sums / np.maximum(self.counts, 1)[:, None]).astype(np.float32)
