"""A listener of the loop: checks each event and, at intervals, the latent map by the rules of `health`."""

from __future__ import annotations

from typing import Any

import torch

from lag_core.config import MethodConfig
from lag_core.method.reach import heads_only
from lag_core.model.segmenter import Segmenter
from lag_core.runs import open_run
from lag_core.training.health import Health, constant_channels
from lag_core.training.journal import Journal
from lag_core.training.loop import StepLoop


class Watch:
    """Called after every iteration; returns sentences. Changes no bit of the training.

    Latent channels are counted at intervals, in step 0 only at its end: an untrained network's say nothing.
    """

    def __init__(self, loop: StepLoop, method: MethodConfig, journal: Journal):
        self.loop = loop
        self.batch = loop.batch_of(0)
        before = self._dead(loop.teacher) if loop.teacher is not None else 0
        self.health = Health(loop.step, before, heads_only(method), journal.info["warnings"])
        for event in open_run(journal.out).events():
            if event["step"] == loop.step:
                self.health.observe(event)

    def __call__(self, iteration: int, event: dict[str, Any] | None) -> list[str]:
        last = iteration == self.loop.total - 1
        found = self.health.observe(event) if event is not None else []
        if last or (self.loop.teacher is not None and iteration % self.loop.gradients_every == 0):
            dead, channels = self._dead(self.loop.student), self.loop.student.config.latent
            found += self.health.look(iteration, dead, channels, last)
        return [*found, *(self.health.finish(self.loop.dead) if last else [])]

    @torch.no_grad()
    def _dead(self, model: Segmenter) -> int:
        """Dead channels of a model's latent map on the step's first batch."""
        model.eval()
        features = model.trunk(self.batch.inputs) if self.loop.trunk_trains else self.batch.inputs
        return constant_channels(model.behind_trunk(features).latent)
