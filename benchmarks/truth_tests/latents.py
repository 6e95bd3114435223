"""Z of every step on some validation pictures of a class: what the two questions about channels are asked on."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lag_core.data.transforms import resize_labels
from lag_core.explain.evidence import GRID, iou_of
from lag_core.explain.interventions import Measure
from lag_core.model.segmenter import Segmenter
from truth_tests.cases import Subject


class Latents:
    """The first n pictures of class index `cls`; their features are those of step 0's trunk.

    ValueError if there are none, or if the trunk of the run moves.
    """

    def __init__(self, subject: Subject, cls: int, n: int):
        self.subject, self.cls = subject, cls
        if not subject.networks.one_trunk:
            raise ValueError(f"{subject.name}: its trunk moves, so its steps share no features")
        self.pictures = subject.pictures(cls, n)
        if not self.pictures:
            raise ValueError(f"{subject.name}: no picture shows enough of {subject.run.classes[cls].name}")

    @cached_property
    @torch.no_grad()
    def features(self) -> Tensor:
        """[n, T, h, w] of the shared trunk."""
        trunk = self.subject.networks.steps[0].trunk
        return torch.cat([trunk(one.image) for one in self.pictures])

    @torch.no_grad()
    def of(self, model: Segmenter) -> Tensor:
        """Z of a step, or of a copy of one. Shape: [n, C, h, w]."""
        return model.behind_trunk(self.features).latent

    @cached_property
    def of_steps(self) -> list[Tensor]:
        """Z of each step."""
        return [self.of(model) for model in self.subject.networks.steps]

    @property
    def measure(self) -> Measure:
        """The class's IoU over all pictures, on the grid of explain.evidence."""
        side = min(self.pictures[0].truth.shape[0], GRID)
        truths = np.stack([resize_labels(one.truth, (side, side)) for one in self.pictures])
        run = self.subject.run
        return iou_of(truths, self.cls, run.labels, run.config.method.loss)
