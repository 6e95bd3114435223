"""A check of a dataset before training: counts, sizes, ids, shares, steps, and what to fix.

Every listed image and mask is read once; an unreadable one is named and does not end the check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lag_core.data.dataset import SPLITS, Dataset
from lag_core.data.findings import findings
from lag_core.data.pictures import DataError
from lag_core.data.splits import images_of_step
from lag_core.protocol import IGNORE, LabelSpace
from lag_core.sentences import counted

FEW = 16
"""A step with fewer images hardly trains without a minimum number of iterations."""

RARE = 10
"""Training images below which a class is called rare."""

LARGE = 4
"""An image loses its detail in scaling down if its side is this many times the network's."""

Progress = Callable[[Sequence[str], str], Iterator[str]]


@dataclass
class SplitFacts:
    """What was found in the images of one split."""

    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) of each image."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels by dataset id, 255 not annotated."""
    present: dict[str, frozenset[int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """A sentence for each file that cannot be read."""
    unlabelled: list[str] = field(default_factory=list)
    """Images without a single annotated pixel."""

    def images_with(self, number: int) -> int:
        """Images that show a dataset id."""
        return sum(number in ids for ids in self.present.values())


@dataclass
class Inspection:
    """Everything that was found."""

    splits: dict[str, SplitFacts]
    steps: list[int]
    """Training images of each step, those that training holds out included; empty without a task."""
    advice: list[str]
    """What to fix or to know, most urgent first."""


def inspect(
    dataset: Dataset, labels: LabelSpace | None, size: int, progress: Progress, setting: str = "overlapped"
) -> Inspection:
    """Check every image. `labels`: of the task, if there is one; `size`: side of the network's square."""
    splits = {split: _look(dataset, split, progress) for split in SPLITS}
    steps = []
    if labels is not None:
        train = splits["train"].present
        steps = [len(images_of_step(train, labels, t, setting)) for t in range(len(labels.steps))]
    broken = [sentence for facts in splits.values() for sentence in facts.broken]
    advice = [*broken[:20], *_of_sizes(splits, size)]
    if len(broken) * 2 <= sum(facts.images for facts in splits.values()):  # else there is little to count
        advice += [*_of_steps(steps), *_of_classes(dataset, splits)]
    if len(broken) > 20:
        advice.insert(20, f"{counted(len(broken) - 20, 'more file')} cannot be read")
    if not broken:
        advice += findings(dataset, labels or LabelSpace(_one_step(dataset), dataset.info.background, True))
    return Inspection(splits, steps, advice)


def _one_step(dataset: Dataset) -> tuple[tuple[int, ...]]:
    background = dataset.info.background
    return ((*(() if background is None else (background,)), *dataset.info.foreground),)


def _look(dataset: Dataset, split: str, progress: Progress) -> SplitFacts:
    facts = SplitFacts(images=len(dataset.ids(split)))
    for name in progress(dataset.ids(split), f"{split} images"):
        try:
            image, mask = dataset.image(name), dataset.mask(name)
        except DataError as error:
            facts.broken.append(str(error))
            continue
        counts = np.bincount(mask.ravel(), minlength=256)
        facts.sizes[image.shape[0], image.shape[1]] += 1
        facts.pixels += counts
        facts.present[name] = frozenset(np.flatnonzero(counts).tolist()) - {IGNORE}
        if not facts.present[name]:
            facts.unlabelled.append(name)
    return facts


def _of_steps(steps: Sequence[int]) -> Iterator[str]:
    for step, count in enumerate(steps):
        if count == 0:
            yield f"step {step} has no training image and cannot be trained"
        elif count < FEW:
            yield (
                f"step {step} has {counted(count, 'training image')}: train with --recipe small, which gives "
                "each step a least "
                "number of iterations"
            )


def _of_classes(dataset: Dataset, splits: dict[str, SplitFacts]) -> Iterator[str]:
    train, val = splits["train"], splits["val"]
    for one in dataset.info.classes:
        seen, measured = train.images_with(one.id), val.images_with(one.id)
        if not seen:
            yield f"class {one.name!r} is in no training image: nothing can learn it"
        elif not measured:
            yield f"class {one.name!r} is in no validation image: its IoU is not defined"
        elif seen < RARE:
            yield f"class {one.name!r} is in only {counted(seen, 'training image')}: its IoU will depend on chance"
    for split, facts in splits.items():
        if facts.unlabelled:
            yield (
                f"{len(facts.unlabelled)} {split} images have no annotated pixel (the first: {facts.unlabelled[0]!r}): "
                f"take them out of {split}.txt"
            )


def _of_sizes(splits: dict[str, SplitFacts], size: int) -> Iterator[str]:
    longest = max((max(found) for facts in splits.values() for found in facts.sizes), default=0)
    if longest >= LARGE * size:
        yield (
            f"the longest side is {longest} pixels, the network sees {size}: detail is lost when such an image is "
            'scaled down; data.fit = "windows" trains and measures windows of it at its own resolution'
        )
