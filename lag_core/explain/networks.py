"""The networks of all steps of a run, with the interface that explanations need.

A trunk is identified by the digest of its weights and running statistics. Steps whose trunks have the
same digest share the features of a picture, which are then computed once; if the trunk changes, every step runs
its own. Steps are loaded on first use (`step_memory`). Source: ours (docs/run-format.md, "Tensors").
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lag_core.adapters.adapted_step import AdaptedStep
from lag_core.adapters.adopting import load_step
from lag_core.adapters.finding import find_adapter
from lag_core.capabilities import Lacks, capabilities, lacking
from lag_core.data.transforms import fit, to_input
from lag_core.explain.decoding import Decode, OwnDecoder
from lag_core.explain.step_memory import MEMORY, StepMemory
from lag_core.model.segmenter import Output, Segmenter
from lag_core.model.weights import StepLoader, trunk_digest
from lag_core.runs import Run

_numbers = itertools.count()


class AdapterLoader:
    """Loads single steps of a run that names an adapter. AdapterError and RunError say what does not fit."""

    def __init__(self, run: Run, device: str):
        self.run, self.device = run, device
        self.adapter = find_adapter(str(run.network.get("adapter", "")))

    def load(self, step: int, others: Mapping[int, object]) -> AdaptedStep:
        """The network of `step`, tested."""
        return load_step(self.adapter, self.run, step, self.device)


class NoNetworks:
    """Stored label maps: there is nothing to load."""

    def __init__(self, run: Run):
        self.run = run

    def load(self, step: int, others: Mapping[int, object]) -> Segmenter:
        raise Lacks(lacking(self.run, ("logits",)))


def loader_of(run: Run, device: str) -> StepLoader | AdapterLoader | NoNetworks:
    """The loader of a run's steps, by its kind."""
    if run.kind == "adapter":
        return AdapterLoader(run, device)
    return NoNetworks(run) if run.kind == "stored" else StepLoader(run, device)


class Steps(Sequence[Any]):
    """The networks by step, each loaded on first use and kept as long as `memory` has room.

    They are `Segmenter`s, or `AdaptedStep`s, which have only images, Z and logits.
    """

    def __init__(self, run: Run, device: str, memory: StepMemory):
        self._count, self._name, self._memory = len(run.steps), next(_numbers), memory
        self._loader = loader_of(run, device)
        weakref.finalize(self, _drop, memory, self._name).atexit = False

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, step: Any) -> Any:
        if isinstance(step, slice):
            return [self[place] for place in range(*step.indices(len(self)))]
        place = step + len(self) if step < 0 else step
        if not 0 <= place < len(self):
            raise IndexError(f"there is no step {step}: the run has {len(self)}")
        return self._memory.get((self._name, place), lambda: self._loader.load(place, dict(self._loaded())))

    def in_memory(self, step: int) -> Any:
        """The network of a step; None if it is not loaded."""
        return self._memory.find((self._name, step))

    def _loaded(self) -> Iterator[tuple[int, Any]]:
        """The steps that are in memory."""
        for place in range(len(self)):
            found = self.in_memory(place)
            if found is not None:
                yield place, found

    def forget(self) -> None:
        """Let all steps go."""
        _drop(self._memory, self._name)


def _drop(memory: StepMemory, name: int) -> None:
    """Let every step of the run with this number go."""
    memory.drop(lambda key: cast("tuple[int, int]", key)[0] == name)


class Networks:
    """The networks of all steps of a run. Tensors that a step did not change are held once.

    `memory`: where the steps lie; by default all runs of the process share one bound in bytes.
    """

    def __init__(self, run: Run, device: str = "cpu", memory: StepMemory | None = None):
        self.run = run
        self.device = torch.device(device)
        self.steps = Steps(run, device, MEMORY if memory is None else memory)
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def trunk(self, step: int) -> str:
        """Digest of the trunk of `step`. Steps of one digest give the same features."""
        if self.run.kind != "segmenter":
            return f"{self.run.digest}/{step}"
        if step not in self._digests:
            model = self.steps[step]
            like = next((t for t in self._digests if self._same_backbone(t, model)), None)
            self._digests[step] = trunk_digest(model) if like is None else self._digests[like]
        return self._digests[step]

    @property
    def can(self) -> frozenset[str]:
        """What they can do: lag_core.capabilities."""
        return capabilities(self.run)

    def _same_backbone(self, step: int, model: Segmenter) -> bool:
        other = self.steps.in_memory(step)
        return other is not None and other.backbone is model.backbone

    @property
    def trunks(self) -> tuple[str, ...]:
        """Digest of each step's trunk."""
        return tuple(self.trunk(step) for step in range(len(self)))

    @property
    def one_trunk(self) -> bool:
        """Whether all steps share their trunk."""
        return len(set(self.trunks)) <= 1

    def same_trunk(self, step: int) -> int:
        """The first step whose trunk is that of `step`."""
        return self.trunks.index(self.trunk(step))

    def prepare(self, image: np.ndarray) -> Tensor:
        """A picture as the networks take it. Shape: uint8 [H, W, 3] -> float32 [1, 3, S, S]."""
        square = fit(image, self.run.config.data.size)[0][None]
        return torch.from_numpy(to_input(square)).to(self.device)

    def passes(self, inputs: Tensor, keep_stages: bool = False, room: int = 0) -> Passes:
        """Some pictures, to be run through any of the steps. Shape: normalised [B, 3, S, S]."""
        return Passes(self, inputs.to(self.device), keep_stages, room)


class Passes:
    """A batch of pictures run through the steps; a trunk runs once for all steps that share it.

    Only the features of the last trunk asked for are kept, so that memory does not grow with steps whose trunks differ:
    ask for the steps in order. `keep_stages` keeps what the stages of the trunk return on the way, too. Prefixes are
    kept up to `room` bytes, none by default.
    """

    def __init__(self, networks: Networks, inputs: Tensor, keep_stages: bool = False, room: int = 0):
        self.networks, self.inputs, self.keep_stages, self.room = networks, inputs, keep_stages, room
        self._prefixes: dict[tuple[int, int], Tensor] = {}
        self._stages: list[Tensor] = []
        self._kept: tuple[str, Tensor] | None = None
        self._trunks: set[str] = set()

    @torch.no_grad()
    def features(self, step: int) -> Tensor:
        """Features at the end of the trunk of `step`. Shape: float32 [B, T, h, w]."""
        digest = self.networks.trunk(step)
        self._trunks.add(digest)
        if self._kept is None or self._kept[0] != digest:
            self._kept = digest, self._run_trunk(self.networks.steps[step]).contiguous()
        return self._kept[1]

    def take_features(self, digest: str, features: Tensor) -> None:
        """Use these precomputed features of the trunk with this digest. Shape: float32 [B, T, h, w]."""
        self._trunks.add(digest)
        self._kept = digest, features

    def _run_trunk(self, model: Segmenter) -> Tensor:
        if not (self.keep_stages and hasattr(model, "backbone")):
            return model.trunk(self.inputs)
        self._stages, maps = [], self.inputs
        for stage in model.backbone.stages_until(model.config.shared):
            maps = stage(maps)
            self._stages.append(maps)
        return maps

    def prefix(self, step: int, end: int, made: Callable[[], Tensor]) -> Tensor:
        """The output of the first `end` modules of `step`: kept, or `made` and kept if there is room."""
        if (step, end) in self._prefixes:
            return self._prefixes[step, end]
        found = made()
        if sum(one.nbytes for one in self._prefixes.values()) + found.nbytes <= self.room:
            self._prefixes[step, end] = found
        return found

    @torch.no_grad()
    def stages(self, step: int) -> list[Tensor]:
        """The output of each stage of the backbone, the stem first; empty for a network without such stages.

        Needs `keep_stages`. Shape: float32 [B, F, h, w] each, of its own F, h and w.
        """
        model, maps = self.networks.steps[step], self.features(step)
        if not hasattr(model, "backbone"):
            return []
        found = list(self._stages)
        for stage in model.backbone.stages_after(model.config.shared):
            maps = stage(maps)
            found.append(maps)
        return found

    @torch.no_grad()
    def output(self, step: int) -> Output:
        """Stage, Z and logits of `step`; see `Output`."""
        return self.networks.steps[step].behind_trunk(self.features(step))

    @property
    def nbytes(self) -> int:
        """Bytes of the pictures and of the features that are kept."""
        kept = [self.inputs, *self._stages, *self._prefixes.values(), *([self._kept[1]] if self._kept else [])]
        return sum(one.nbytes for one in kept)

    def forget_moving(self) -> None:
        """Drop features that no other step is known to share."""
        if len(self._trunks) > 1:
            self._kept, self._stages = None, []

    def decoder(self, step: int) -> Decode:
        """From Z of these pictures to the logits of `step`, with gradients if Z has them; see `Decode`."""
        model = self.networks.steps[step]
        if isinstance(model, AdaptedStep):
            return model.decoder(self.inputs)
        return OwnDecoder(model)

    def heads(self, step: int) -> nn.ModuleList | Decode:
        """The argument for `latent_relevance`: the heads of `step` if it has some, else its decoder."""
        found = getattr(self.networks.steps[step], "heads", None)
        return self.decoder(step) if found is None else found
