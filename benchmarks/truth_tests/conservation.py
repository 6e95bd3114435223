"""Does LRP lose or invent relevance? |sum of R + absorbed - score| / |score|, at every step and class.

Asked for the class's logit summed over its true pixels, and over the whole picture; down to the pixels by both
composites that the product offers, and to the latent map. Aim: at most AIM in float32 (docs/method.md#checks).
A picture with
a value that is no number must be refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lag_core.relevance.lrp import Depth, FoldedSegmenter, NotFinite, Recording
from lag_core.relevance.target import Target
from truth_tests.cases import Shown, Subject

AIM = 1e-3
QUESTIONS: tuple[tuple[str, Depth], ...] = (("composite", "pixels"), ("epsilon", "pixels"), ("epsilon", "latent"))


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row per step, class, question; the errors of n pictures and both regions are in it."""
    views = _views(subject)
    labels = subject.run.labels
    kept: dict[tuple[int, str], Recording] = {}
    for cls in range(len(subject.run.classes)):
        for step in range(labels.step_of(cls), len(views)):
            errors: dict[tuple[str, Depth], list[float]] = {question: [] for question in QUESTIONS}
            pictures = subject.pictures(cls, n)
            for picture in pictures:
                recording = _recording(views, step, picture, kept)
                for target in _targets(picture, cls, labels.offset):
                    for composite, to in QUESTIONS:
                        found = recording.relevance(target, composite, to)
                        errors[composite, to].append(float(found.error))
            for (composite, to), values in errors.items():
                yield {
                    "run": subject.name,
                    "step": step,
                    "class": subject.run.classes[cls].name,
                    "composite": composite,
                    "to": to,
                    "images": len(pictures),
                    "errors": values,
                }
    yield {"run": subject.name, "refused": refuses(subject)}


def _views(subject: Subject) -> list[FoldedSegmenter]:
    networks, views = subject.networks, list[FoldedSegmenter]()
    for step, network in enumerate(networks.steps):
        first = networks.same_trunk(step)
        views.append(FoldedSegmenter(network, views[first] if first < step else None))
    return views


def _recording(
    views: list[FoldedSegmenter], step: int, picture: Shown, kept: dict[tuple[int, str], Recording]
) -> Recording:
    """A step's forward pass on a picture; a trunk runs once per picture. `kept` holds those of one picture."""
    if (step, picture.name) not in kept:
        if not any(name == picture.name for _, name in kept):
            kept.clear()
        same = [one for one in kept.values() if one.view.trunk is views[step].trunk]
        kept[step, picture.name] = views[step].record(picture.image, same[0] if same else None)
    return kept[step, picture.name]


def _targets(picture: Shown, cls: int, offset: int) -> Iterator[Target]:
    inside = np.zeros(picture.truth.shape, np.float32)
    inside[: picture.inside[0], : picture.inside[1]] = 1
    for mask in ((picture.truth == cls).astype(np.float32), inside):
        yield Target(cls + offset, torch.from_numpy(mask))


def refuses(subject: Subject) -> bool:
    """Whether a map of a picture with one value that is no number is refused, by both composites."""
    size = subject.run.config.data.size
    image = torch.zeros(1, 3, size, size)
    image[0, 0, size // 2, size // 2] = torch.nan
    recording = FoldedSegmenter(subject.networks.steps[0]).record(image)
    refused = 0
    for composite in ("composite", "epsilon"):
        try:
            recording.relevance(Target(subject.run.labels.offset), composite)
        except NotFinite:
            refused += 1
    return refused == 2
