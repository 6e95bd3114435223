"""What the checks ask about: one class of one picture at one step of a run.

Choice of pictures: the first n of a split, in file order, on which the class covers at least COVERS of the picture
as the network sees it. Which pictures these are follows from the data alone, never from what a network says of them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lag_core.data.dataset import Dataset
from lag_core.data.remap import truth
from lag_core.data.transforms import content_size, fit, fit_mask, to_input
from lag_core.explain.networks import Networks
from lag_core.model.prediction import class_probabilities
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.relevance.target import Target
from lag_core.runs import Run, open_run

COVERS = 0.02
"""Least share of the picture that a class covers for the picture to count as one of the class."""


class Subject:
    """A run with its networks and pictures.

    place: of the run among those that are compared. Where pictures are explained one by one, each run takes others.
    """

    split = "val"

    def __init__(self, path: Path, data: Path | None = None, place: int = 0):
        self.run: Run = open_run(path)
        self.dataset: Dataset = self.run.open_dataset(data)
        self.networks = Networks(self.run)
        self.place = place
        self._shown: dict[str, Shown] = {}

    def on(self, split: str) -> Subject:
        """The same run with the pictures of another split."""
        other = copy.copy(self)
        other.split = split
        return other

    @property
    def name(self) -> str:
        """The run's."""
        return self.run.name

    @property
    def foreground(self) -> range:
        """Class indices without the background."""
        return range(int(self.run.labels.background is not None), len(self.run.classes))

    def shown(self, name: str) -> Shown:
        """A picture of the split, read once."""
        if name not in self._shown:
            image, mask, size = self.dataset.image(name), self.dataset.mask(name), self.run.config.data.size
            inside = content_size(mask.shape[0], mask.shape[1], size)
            square = truth(fit_mask(mask, size), self.run.labels)
            self._shown[name] = Shown(name, torch.from_numpy(to_input(fit(image, size)[0][None])), square, inside)
        return self._shown[name]

    def pictures(self, cls: int, n: int) -> list[Shown]:
        """The first n pictures of class index `cls`; fewer if there are fewer."""
        present, wanted = self.dataset.present(self.split), self.run.classes[cls].id
        holding = (self.shown(one) for one in self.dataset.ids(self.split) if wanted in present[one])
        return list(itertools.islice((one for one in holding if one.cover(cls) >= COVERS), n))

    def cases(self, n: int, steps: Sequence[str] = ("first", "last")) -> Iterator[Case]:
        """n pictures per class at the step that introduces it ("first") and at the run's last one, classes in turn.

        The run in place p takes the pictures p * n to p * n + n - 1, from the beginning again where there are no more.
        """
        for one in range(n):
            for cls in self.foreground:
                at = {"first": self.run.labels.step_of(cls), "last": self.run.last_step}
                wanted = self.place * n + one
                pictures = self.pictures(cls, wanted + 1)
                for step in sorted({at[name] for name in steps}) if pictures else ():
                    yield Case(self, step, cls, pictures[wanted % len(pictures)])


@dataclass(frozen=True)
class Shown:
    """A picture as the network sees it."""

    name: str
    image: Tensor
    """float32 [1, 3, S, S]."""
    truth: np.ndarray
    """Class indices uint8 [S, S], 255 in the padding and where nothing is annotated."""
    inside: tuple[int, int]
    """(h, w) of the picture in the square."""

    def cover(self, cls: int) -> float:
        """Share of the picture that is annotated as `cls`."""
        return float((self.truth == cls).sum() / (self.inside[0] * self.inside[1]))


@dataclass(frozen=True)
class Case:
    """One class on one picture at one step."""

    subject: Subject
    step: int
    cls: int
    picture: Shown
    other: Segmenter | None = None
    """A network that takes the place of the step's own."""

    @property
    def model(self) -> Segmenter:
        """The network that is asked."""
        return self.subject.networks.steps[self.step] if self.other is None else self.other

    def with_model(self, model: Segmenter) -> Case:
        """The same question to another network."""
        return replace(self, other=model)

    @property
    def row(self) -> dict[str, str | int]:
        """What a row of the results begins with."""
        name = self.subject.run.classes[self.cls].name
        return {"run": self.subject.name, "step": self.step, "class": name, "image": self.picture.name}

    @cached_property
    def mask(self) -> Tensor:
        """True pixels of the class, float32 [S, S]."""
        return torch.from_numpy((self.picture.truth == self.cls).astype(np.float32))

    @property
    def target(self) -> Target:
        """The class's logit, summed over its true pixels: what the dashboard asks first (docs/method.md#nsc)."""
        return Target(self.cls + self.subject.run.labels.offset, self.mask)

    @torch.no_grad()
    def probability(self, images: Tensor) -> np.ndarray:
        """Mean probability of the class over its true pixels. Shape: [B, 3, S, S] -> float64 [B]."""
        run = self.subject.run
        logits = upsample(self.model(images).logits, self.mask.shape)  # type: ignore[arg-type]
        scores = class_probabilities(logits, run.labels, run.config.method.loss)[:, self.cls]
        return ((scores * self.mask).sum((1, 2)).double() / self.mask.sum()).cpu().numpy()
