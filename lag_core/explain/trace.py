"""One image through every step of a run, each trunk once, with methods that explain it.

Each method calls the module for its question with the trace's data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lag_core.capabilities import require
from lag_core.data.transforms import content_size, fit_mask, resize_labels, unfit_scores
from lag_core.data.undecided import least_probability
from lag_core.explain import channels as latent_channels
from lag_core.explain import forgetting, similarity
from lag_core.explain.channels import Moved
from lag_core.explain.controls import Matched, alive, energy
from lag_core.explain.forgetting import Provenance
from lag_core.explain.interventions import (
    GRID,
    Channels,
    Curve,
    Intervention,
    Measure,
    ablation,
    class_iou,
    control_sets,
    curve,
    transplantation,
)
from lag_core.explain.networks import Networks, Passes
from lag_core.model.prediction import certainty, class_probabilities, full_size, label_map
from lag_core.model.segmenter import upsample
from lag_core.predictions import StoredPredictions

if TYPE_CHECKING:
    from lag_core.explain.attribution import Attribution, Method

Where = np.ndarray | tuple[int, int]
"""Part of a picture: a mask, bool [H, W], or one pixel (row, column)."""


Running = Callable[[int], AbstractContextManager[object]]
"""A context that is entered while the network of a step runs: a lock, if several threads use the same trace."""


class Seen(NamedTuple):
    """The results that a trace keeps for a step."""

    latent: Tensor
    """[1, C, h, w] the map Z."""
    logits: Tensor
    """[1, channels, h, w]."""


@dataclass(frozen=True)
class Effect:
    """What changing channels of Z does to one picture, next to random channels of the same number."""

    measured: tuple[str, ...]
    """What `curve` measures, by its last axis: IoU of each class known at the step, by name, on a grid of at most
    GRID x GRID cells of the network's square; without a truth the share of the pixels that change their class."""
    curve: Curve
    prediction: np.ndarray
    """Class indices uint8 [H, W] after the last, largest change of the curve."""


class Trace:
    """The results of every step for one image, as NumPy arrays; computed on first use, and kept.

    `image` is uint8 [H, W, 3]. The network sees it in a square of side `square`, of which it fills `inside` (h, w);
    latent maps and logits have the square's proportions, predictions and scores the image's. `truth`: class indices
    uint8 [H, W], 255 where nothing is annotated; None without annotation. `name`: of the file or validation image,
    untrusted text. Classes are given by index or name. `running`: entered while a step's network runs, once per step.
    Methods raise RunError for a step or class that the run does not have, ValueError if an argument does not fit the
    picture.
    """

    def __init__(
        self,
        networks: Networks,
        image: np.ndarray,
        truth: np.ndarray | None = None,
        name: str = "",
        running: Running = nullcontext,
    ):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected an image uint8 [H, W, 3], found {image.dtype} {image.shape}")
        if truth is not None and truth.shape != image.shape[:2]:
            raise ValueError(f"the truth has the size {truth.shape}, the image {image.shape[:2]}")
        self.networks, self.image, self.truth, self.name = networks, image, truth, name
        self.run = networks.run
        self.square = self.run.config.data.size
        self.inside = content_size(image.shape[0], image.shape[1], self.square)
        self.outputs: dict[int, Seen] = {}
        self._passes: Passes | None = None
        self._running = running
        self.stored = StoredPredictions(self.run) if self.run.kind == "stored" else None

    @property
    def steps(self) -> range:
        """Steps of the run."""
        return range(len(self.networks))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the image's pixels."""
        return image_digest(self.image)

    def inputs(self) -> Tensor:
        """The network's input, float32 [1, 3, S, S]."""
        return self.networks.prepare(self.image)

    @property
    def passes(self) -> Passes:
        """The image's passes through the steps."""
        if self._passes is None:
            self._passes = self.networks.passes(self.inputs())
        return self._passes

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept of the image."""
        kept = [self.image.nbytes, 0 if self._passes is None else self._passes.nbytes]
        return sum(kept) + sum(one.latent.nbytes + one.logits.nbytes for one in tuple(self.outputs.values()))

    def has(self, step: int) -> bool:
        """Whether the result of `step` is kept, so that no network has to run for it."""
        return self.stored is not None or step in self.outputs

    def features(self, step: int) -> Tensor:
        """Features at the end of the trunk of `step`, float32 [1, T, h, w]; not kept where the trunk moves."""
        return self.passes.features(step)

    @torch.no_grad()
    def output(self, step: int) -> Seen:
        """Z and logits of `step` as tensors [1, ...]."""
        if step not in self.outputs:
            require(self.run, "logits")
            with self._running(step):
                if step not in self.outputs:
                    found = self.passes.output(step)
                    self.outputs[step] = Seen(found.latent, found.logits)
                    self.passes.forget_moving()
        return self.outputs[step]

    def latent(self, step: int) -> np.ndarray:
        """The latent map Z, float32 [C, h, w]."""
        require(self.run, "latent")
        return self.output(step).latent[0].cpu().numpy()

    def logits(self, step: int) -> np.ndarray:
        """float32 [channels, h, w], one per training channel."""
        return self.output(step).logits[0].cpu().numpy()

    @torch.no_grad()
    def prediction(self, step: int, logits: Tensor | None = None) -> np.ndarray:
        """Class indices, uint8 [H, W]. With `logits` [1, channels, h, w], of those instead of the step's own."""
        if self.stored is not None:
            return self.stored.labels(step, self.name, self.size)
        return label_map(self._full(step, logits), self.run.labels, self.run.config.method.loss)[0].cpu().numpy()

    @torch.no_grad()
    def certainty(self, step: int, logits: Tensor | None = None) -> np.ndarray:
        """Probability of the class in `prediction`, float32 [H, W]. `logits`: as there. Stored label maps give 1."""
        if self.stored is not None:
            return np.ones(self.size, np.float32)
        return certainty(self._full(step, logits), self.run.labels, self.run.config.method.loss)[0].cpu().numpy()

    def stands_out(self, step: int, least: float | None = None) -> np.ndarray:
        """Where some class has a probability above `least` (default: 0.5 for sigmoid networks, 0 for softmax): bool
        [H, W]. Elsewhere pictures show "none"; `prediction` names the most probable class all the same."""
        default = least_probability(self.run.config.method.loss)
        return self.certainty(step) > (default if least is None else least)

    def _full(self, step: int, logits: Tensor | None) -> Tensor:
        """Logits at the image's own size, [1, channels, H, W]; the step's own where none are given."""
        own = self.output(step).logits if logits is None else logits
        return full_size(own, self.square, self.inside, self.size)

    @torch.no_grad()
    def scores(self, step: int, long_side: int = 64) -> np.ndarray:
        """Probability of each class known at `step`, float32 [seen, gh, gw] on a grid over the image.

        BCE-trained networks score each class by itself, so the scores need not add up to 1.
        """
        height, width = self.size
        factor = min(1.0, long_side / max(height, width))
        grid = max(1, round(height * factor)), max(1, round(width * factor))
        if self.stored is not None:
            return self._stored_scores(self.stored, step, grid)
        full = full_size(self.output(step).logits, self.square, self.inside, self.inside)
        scores = class_probabilities(full, self.run.labels, self.run.config.method.loss)
        return upsample(scores, grid)[0].clamp(0, 1).cpu().numpy()

    def _stored_scores(self, stored: StoredPredictions, step: int, grid: tuple[int, int]) -> np.ndarray:
        """The scores stored with a label map; without any, 1 for the class of the map."""
        found = stored.array(step, self.name, "scores")
        if found is None:
            labels = stored.labels(step, self.name, grid)
            found = (labels == np.arange(self.run.labels.seen(step))[:, None, None]).astype(np.float32)
        return upsample(torch.from_numpy(found)[None], grid)[0].clamp(0, 1).numpy()

    # ------------------------------------------------------------------ questions

    def provenance(self, step: int | None = None) -> Provenance:
        """The fate of each pixel by `step` (default: the last): explain.forgetting. ValueError without a truth."""
        if self.truth is None:
            raise ValueError("without a truth it is unknown what was right: give the trace one")
        last = self.run.checked_step(step)
        maps = np.stack([self.prediction(t) for t in self.steps[: last + 1]])
        return forgetting.provenance(maps, self.truth, self.run.labels, last)

    def channels(self, step: int, source: int | None = None) -> Moved:
        """Distance and split of the channels from `source` (default: the previous step) to `step`: explain.channels."""
        return latent_channels.moved(self, self.run.checked_step(step), self._earlier(step, source))

    def relevance(self, step: int, cls: int | str, method: Method = "lrp", where: Where | None = None) -> Attribution:
        """Which places of the picture, and which channels, speak for a class at a step: explain.attribution.

        The map is float32 [H, W]; score, absorbed share and conservation error are those of the network's square,
        before it was brought to the picture's size. `where`: the pixels whose logits are explained (default: all).
        """
        from lag_core.explain.attribution import Target, attribute

        require(self.run, "gradients", "latent", *(["lrp"] if method.startswith("lrp") else []))
        target = Target(self._known(cls, step) + self.run.labels.offset, self._mask(where))
        found = attribute(self.networks.steps[step], self.inputs(), target, method)
        return replace(found, map=unfit_scores(found.map[None], self.inside, self.size)[0])

    def similarity(self, step: int, prototypes: np.ndarray | None = None) -> np.ndarray:
        """Cosine of each pixel's Z to each prototype: explain.similarity. float32 [K, H, W].

        `prototypes` [K, C]; default: the run's own at the step, NaN for classes without one.
        """
        self.run.checked_step(step)
        known = similarity.of_run(self.run).mean[step] if prototypes is None else prototypes
        return similarity.image_cosines(self, step, known)

    def ablate(
        self,
        step: int,
        channels: Channels,
        *,
        mean: np.ndarray | None = None,
        counts: Sequence[int] | None = None,
        controls: int | None = None,
        seed: int = 0,
    ) -> Effect:
        """What carries the memory? The first k of `channels` are set to 0, or to `mean` [C], for each k of `counts`.

        Default: all of them at once. `controls`: random sets of k channels beside each, alive and of equal energy
        (explain.controls); default: interventions.control_sets. No network is touched.
        """
        self.run.checked_step(step)
        require(self.run, "latent")
        fill = None if mean is None else torch.from_numpy(np.asarray(mean, np.float32))
        question = ablation(self.output(step).latent, self.passes.decoder(step), fill)
        own = self.output(step).latent.cpu().numpy()
        return self._effect(question, step, channels, counts, controls, seed, (energy(own), alive(own)))

    def transplant(
        self,
        step: int,
        channels: Channels,
        source: int | None = None,
        *,
        counts: Sequence[int] | None = None,
        controls: int | None = None,
        seed: int = 0,
    ) -> Effect:
        """What was lost? The first k of `channels` get back their values of `source` (default: the previous step).

        `counts`, `controls`: as in `ablate`.
        """
        require(self.run, "latent")
        own, old = self.output(self.run.checked_step(step)).latent, self.output(self._earlier(step, source)).latent
        question = transplantation(own, old, self.passes.decoder(step))
        both = own.cpu().numpy(), old.cpu().numpy()
        living = energy(both[0]) + energy(both[1]), alive(both[0]) | alive(both[1])
        return self._effect(question, step, channels, counts, controls, seed, living)

    def _effect(
        self,
        question: Intervention,
        step: int,
        channels: Channels,
        counts: Sequence[int] | None,
        controls: int | None,
        seed: int,
        living: tuple[np.ndarray, np.ndarray],
    ) -> Effect:
        chosen = np.asarray(channels, np.int64)
        numbers = [len(chosen)] if counts is None else list(counts)
        largest = max(numbers, default=0)
        if largest > len(chosen):
            raise ValueError(f"{largest} channels are to be changed, but only {len(chosen)} are named")
        others = np.setdiff1d(np.arange(question.latent.shape[1]), chosen)
        names, measure = self._measure(step)
        draw, controls = Matched(*living), control_sets(question.decode) if controls is None else controls
        found = curve(question, np.concatenate([chosen, others]), numbers, measure, controls, seed, draw)
        with torch.no_grad():
            logits = question.decode(question.change(chosen[:largest]))
        return Effect(names, found, self.prediction(step, logits))

    def _measure(self, step: int) -> tuple[tuple[str, ...], Measure]:
        """What an effect at `step` is measured by, see `Effect`."""
        if self.truth is None:
            before = self.prediction(step)
            return ("changed pixels",), lambda logits: np.array([(self.prediction(step, logits) != before).mean()])
        known = self.run.classes[: self.run.labels.seen(step)]
        side = min(self.square, GRID)
        measured = resize_labels(fit_mask(self.truth, self.square), (side, side))[None]
        return tuple(one.name for one in known), class_iou(measured, self.run.labels, self.run.config.method.loss)

    def _earlier(self, step: int, source: int | None) -> int:
        """`source`, or the previous step. ValueError if there is none."""
        if source is None and step == 0:
            raise ValueError("there is no step before step 0: ask about a later step")
        return step - 1 if source is None else self.run.checked_step(source)

    def _known(self, cls: int | str, step: int) -> int:
        """Class index. ValueError for a class that `step` does not know yet."""
        index = self.run.class_index(cls)
        self.run.checked_step(step)
        if index >= self.run.labels.seen(step):
            first = self.run.labels.step_of(index)
            raise ValueError(
                f"step {step} does not know {self.run.classes[index].name} yet: step {first} introduces it"
            )
        return index

    def _mask(self, where: Where | None) -> Tensor:
        """Part of the picture in the network's square, 0 or 1. Shape: float32 [S, S]. ValueError if nothing is left."""
        mask = np.zeros((self.square, self.square), np.float32)
        height, width = self.inside
        if where is None:
            mask[:height, :width] = 1
        elif isinstance(where, tuple):
            (row, column), (rows, columns) = where, self.size
            if not (0 <= row < rows and 0 <= column < columns):
                raise ValueError(f"pixel {where} lies outside of the picture, which has {rows} x {columns}")
            mask[row * height // rows, column * width // columns] = 1
        elif where.shape != self.size:
            raise ValueError(f"the region has the size {where.shape}, the picture {self.size}")
        else:
            mask[:height, :width] = resize_labels(where.astype(bool), self.inside)
        if not mask.any():
            raise ValueError("the region has no pixel at the size at which the network sees the picture")
        return torch.from_numpy(mask)


def image_digest(image: np.ndarray) -> str:
    """Hexadecimal digest of an image: its shape and every pixel."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:24]
