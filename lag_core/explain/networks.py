"""The networks of all steps of a run, each through its own trunk.

A trunk is known by the digest of what computes it: its weights and its running statistics. Steps whose trunks have the
same digest share the features of a picture, which are then computed once; where the trunk moves, every step runs
through its own. Source: ours (docs/run-format.md, "Tensors").
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lag_core.model.segmenter import Output, Segmenter
from lag_core.model.weights import load_steps, trunk_digest
from lag_core.runs import Run


class Networks:
    """The networks of all steps of a run. Tensors that a step did not change are held once."""

    def __init__(self, run: Run, device: str = "cpu"):
        self.run = run
        self.device = torch.device(device)
        self.steps: list[Segmenter] = load_steps(run, device)

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def trunks(self) -> tuple[str, ...]:
        """Digest of each step's trunk. Steps of one digest give the same features."""
        found: dict[int, str] = {}
        for model in self.steps:
            if id(model.backbone) not in found:  # a backbone that several steps share is one module
                found[id(model.backbone)] = trunk_digest(model)
        return tuple(found[id(model.backbone)] for model in self.steps)

    @property
    def one_trunk(self) -> bool:
        """Whether all steps share their trunk."""
        return len(set(self.trunks)) <= 1

    def same_trunk(self, step: int) -> int:
        """The first step whose trunk is that of `step`."""
        return self.trunks.index(self.trunks[step])

    def passes(self, inputs: Tensor) -> Passes:
        """Some pictures, to be run through any of the steps. Shape: normalised [B, 3, S, S]."""
        return Passes(self, inputs.to(self.device))


class Passes:
    """A batch of pictures on its way through the steps; a trunk runs once for all steps that share it.

    Only the features of the last trunk asked for are kept, so that memory does not grow with steps whose trunks differ:
    ask for the steps in order.
    """

    def __init__(self, networks: Networks, inputs: Tensor):
        self.networks, self.inputs = networks, inputs
        self._kept: tuple[str, Tensor] | None = None

    @torch.no_grad()
    def features(self, step: int) -> Tensor:
        """Features at the end of the trunk of `step`. Shape: float32 [B, T, h, w]."""
        digest = self.networks.trunks[step]
        if self._kept is None or self._kept[0] != digest:
            self._kept = digest, self.networks.steps[step].trunk(self.inputs).contiguous()
        return self._kept[1]

    @torch.no_grad()
    def output(self, step: int) -> Output:
        """Stage, Z and logits of `step`; see `Output`."""
        return self.networks.steps[step].behind_trunk(self.features(step))
