"""A probe loss for each old class: measured while a step trains, never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.method.regions import size_of
from lag_core.model.segmenter import Segmenter, upsample

IMAGES = 16
"""Approximate number of held-out images for all old classes together: a probe costs one pass for each."""
FEWEST = 2
"""Held-out images of a class, if there are so many."""


@dataclass(frozen=True)
class ClassProbe:
    """One old class on a few held-out images with their true labels."""

    index: int
    """Class index."""
    channel: int
    features: Tensor
    """float32 [n, T, h, w] the trunk's output."""
    pixels: Tensor
    """bool [n, s, s] the pixels whose true class this is; at least one."""


@dataclass(frozen=True)
class Probe:
    """-log of an old class's normalised probability on its own true pixels, in nats, for each old class.

    Normalised: with sigmoid, a class's probability over the sum of all channels'; with softmax it is the probability.
    """

    classes: tuple[ClassProbe, ...]
    activation: str

    @torch.no_grad()
    def losses(self, student: Segmenter) -> Tensor:
        """Mean over each class's pixels. Shape: float32 [C]."""
        return torch.stack([self._loss(student, one) for one in self.classes])

    def gradients(self, student: Segmenter, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, Tensor]:
        """The losses and their gradients on `parameters`, concatenated. Shape: float32 [C], [C, n]."""
        losses, rows = [], []
        for one in self.classes:
            loss = self._loss(student, one)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            rows.append(flat(found, parameters))
            losses.append(loss.detach())
        return torch.stack(losses), torch.stack(rows)

    def _loss(self, student: Segmenter, one: ClassProbe) -> Tensor:
        logits = upsample(student.behind_trunk(one.features).logits, size_of(one.pixels)).float()
        log_scores = F.logsigmoid(logits) if self.activation == "sigmoid" else logits
        own = log_scores[:, one.channel] - log_scores.logsumexp(1)
        return -own[one.pixels].mean()


def flat(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Concatenated gradients, 0 where there is none. Shape: float32 [n]."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).detach().float().reshape(-1) for g, p in pairs])


def probe_images(held: Sequence[str], present: Mapping[str, frozenset[int]], dataset_id: int, most: int) -> list[str]:
    """The first held-out images that show a class, in their order."""
    return [name for name in held if dataset_id in present[name]][:most]
