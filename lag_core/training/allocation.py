"""What each loss term did to the old classes while a step trained.

SGD's update is linear in the gradient, and the gradient is a sum over the loss terms. So an update is a sum over the
terms as well: each has a momentum buffer of its own, clipping multiplies all of them by one factor, and weight decay
is a term beside them. To first order, a term's share in the change of a probe loss P is the sum over the updates of
<grad P, the term's part of the update>. Source: loss change allocation (Lan et al. 2019, arXiv 1909.01440); the split
by term instead of by parameter, the momentum buffers and the probe are ours (docs/method.md).

The terms' gradients and grad P are measured in every m-th iteration. Between two measurements a term's gradient is
interpolated linearly, multiplied by the weight that the term really had, and run through the optimiser's recursion;
grad P is the mean of both ends (trapezoid). With m = 1 the parts add up to the optimiser's update. The rest of the
measured change of P is never distributed: readers show it as unexplained.

Under torchrun each process has the terms' gradients of its part of a batch; their mean is that of the whole batch. The
rest is the same in all processes, and the first one's is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lag_core import processes
from lag_core.model.segmenter import Segmenter
from lag_core.training.optimiser import Part, Schedule
from lag_core.training.probe import Probe, flat

LARGEST = 20_000_000
"""Trained parameters up to which shares are recorded: for each term, two numbers are kept for each of them."""

Gradients = dict[int, Tensor]
"""Gradients by `id` of their parameter; one that a loss does not reach is left out."""

DECAY = "weight decay"
"""The optimiser's own term."""

SEGMENTATION = "segmentation"
SOURCE = SEGMENTATION + "."
"""Prefix of the names of the segmentation term's parts."""

ALL = "all"
"""The mean over the old classes."""


@dataclass
class Segment:
    """One term's path through the optimiser for one part of the network, since the last measurement.

    With B the momentum buffer at the last measurement, F the term's gradient there and L the gradient at the next one:
    buffer = kept B + first F + last L, and the parameters have moved by -(by_kept B + by_first F + by_last L).
    """

    kept: float = 1.0
    first: float = 0.0
    last: float = 0.0
    by_kept: float = 0.0
    by_first: float = 0.0
    by_last: float = 0.0

    def update(self, rate: float, momentum: float, first: float, last: float) -> None:
        """One step of SGD with Nesterov momentum along the gradient first F + last L."""
        self.kept *= momentum
        self.first = momentum * self.first + first
        self.last = momentum * self.last + last
        self.by_kept += rate * momentum * self.kept
        self.by_first += rate * (first + momentum * self.first)
        self.by_last += rate * (last + momentum * self.last)


@dataclass
class Track:
    """What is kept of one loss term between two measurements, over all trained parameters."""

    buffer: Tensor
    """float32 [n]: its part of the momentum at the last measurement."""
    gradient: Tensor | None
    """float32 [n]: its unweighted gradient when it was last measured; None: not yet."""
    segments: dict[str, Segment]
    """By part of the network."""


class Allocation:
    """Records a step's shares; the loop calls it in each iteration. It does not affect the training."""

    def __init__(self, student: Segmenter, probe: Probe, schedule: Schedule, every: int, total: int):
        self.student, self.probe, self.schedule = student, probe, schedule
        self.every, self.total = every, total
        self.parameters: list[nn.Parameter] = [p for part in schedule.found for p in part.parameters()]
        self._slices = _slices(schedule.found)
        self._tracks: dict[str, Track] = {}
        self._probed: Tensor | None = None
        """float32 [C, n]: grad P at the last measurement."""
        names = [*(str(one.index) for one in probe.classes), ALL]
        self._net: dict[str, dict[str, float]] = {name: {} for name in names}
        self._gross: dict[str, dict[str, float]] = {name: {} for name in names}
        self._event: dict[str, Any] | None = None

    def measures(self, iteration: int) -> bool:
        """Whether this iteration's losses are needed."""
        return iteration % self.every == 0

    def wanted(self, iteration: int) -> list[nn.Parameter]:
        """The parameters for the terms' gradients: the parts that have joined by the next measurement."""
        until = (iteration + self.every - 1) / self.total
        return [p for part in self.schedule.found if until >= part.delay for p in part.parameters()]

    def before_update(
        self, iteration: int, losses: Mapping[str, Tensor], known: Mapping[str, Gradients] | None = None
    ) -> None:
        """Measure P, its gradient and each term's gradient.

        `losses` are unweighted, segmentation in its parts; their graph is left alive. `known`: gradients on `wanted`
        that are already measured, by term, segmentation as a whole; they are not measured again.
        """
        gradients = self._gradients(iteration, losses, known or {})
        self._close(iteration, gradients)
        for name, gradient in gradients.items():
            self._track(name).gradient = gradient

    def after_update(self, iteration: int, weights: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Follow one update.

        weights: of each term, as it entered the loss; a term that is left out has weight 0. rates: of each part.
        """
        for name in (*weights, DECAY):
            self._track(name)
        last = self._place(iteration)
        progress = iteration / self.total
        for part in self.schedule.found:
            if progress < part.delay:
                continue  # SGD skips parameters without a gradient, including their momentum
            for name, track in self._tracks.items():
                factor = self.schedule.decay if name == DECAY else weights.get(name, 0.0) * self.schedule.factor
                split = factor * (1 - last), factor * last
                track.segments[part.name].update(rates[part.name], self.schedule.momentum, *split)
        if iteration == self.total - 1:
            self._close(self.total, {})

    def take_event(self) -> dict[str, Any]:
        """The event to log since the last call: {} or {"shares": ...} (docs/run-format.md)."""
        event, self._event = self._event, None
        return {} if event is None else {"shares": event}

    def _place(self, iteration: int) -> float:
        """How far an iteration lies from the last measurement to the next one, in [0, 1); 0 where none follows."""
        behind = iteration % self.every
        return behind / self.every if iteration - behind + self.every < self.total else 0.0

    def _track(self, name: str) -> Track:
        if name not in self._tracks:
            zero = torch.zeros(sum(p.numel() for p in self.parameters), device=self.parameters[0].device)
            self._tracks[name] = Track(zero, None, {part.name: Segment() for part in self.schedule.found})
        return self._tracks[name]

    def _gradients(
        self, iteration: int, losses: Mapping[str, Tensor], known: Mapping[str, Gradients]
    ) -> dict[str, Tensor]:
        """Each term's gradient over all processes, and what weight decay adds. Parts that join after the next
        measurement are 0."""
        joined = self.wanted(iteration)
        last = next(
            (name for name in reversed(list(losses)) if name.startswith(SOURCE) and losses[name].requires_grad), None
        )
        rest = last if SEGMENTATION in known else None  # the whole minus the other parts
        found: dict[str, Tensor] = {}
        reached = torch.zeros_like(self._track(DECAY).buffer, dtype=torch.bool)
        for name, loss in losses.items():
            if name != rest:
                own = known[name] if name in known else gradients_of(loss, joined)
                found[name] = self._flat(own)
                reached |= self._reached(own)
        if rest is not None:
            others = [value for name, value in found.items() if name.startswith(SOURCE)]
            found[rest] = self._flat(known[SEGMENTATION]) - sum(others, torch.zeros_like(self._track(DECAY).buffer))
            reached |= self._reached(known[SEGMENTATION])
        found = {name: processes.mean(gradient) for name, gradient in found.items()}
        reached = processes.mean(reached.float()) > 0
        return {**found, DECAY: flat(self.parameters, self.parameters) * reached}

    def _flat(self, gradients: Gradients) -> Tensor:
        return flat([gradients.get(id(p)) for p in self.parameters], self.parameters)

    def _reached(self, gradients: Gradients) -> Tensor:
        return torch.cat([_filled(p, id(p) in gradients) for p in self.parameters])

    def _close(self, updates: int, gradients: Mapping[str, Tensor]) -> None:
        """End the segment that led to the state after this many updates: add its shares, and log."""
        losses, probed = self.probe.gradients(self.student, self.parameters)
        if self._probed is not None:
            mean = (self._probed + probed) / 2
            for name, track in self._tracks.items():
                self._add(name, mean @ self._moved(track, gradients.get(name)))
        for track in self._tracks.values():
            track.segments = {part.name: Segment() for part in self.schedule.found}
        self._probed = probed
        values = [*losses.tolist(), losses.mean().item()]
        self._event = {
            "updates": updates,
            "loss": dict(zip(self._net, map(_short, values), strict=True)),
            "net": self._acting(self._net),
            "gross": self._acting(self._gross),
        }

    def _acting(self, sums: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """The sums of the terms that have moved any class's loss so far."""
        acting = [name for name in self._tracks if any(self._gross[cls].get(name, 0.0) > 0 for cls in self._gross)]
        return {cls: {name: _short(terms[name]) for name in acting} for cls, terms in sums.items()}

    def _moved(self, track: Track, last: Tensor | None) -> Tensor:
        """Where a term has moved the parameters to in a segment; its buffer goes along. Shape: float32 [n]."""
        first = track.gradient if track.gradient is not None else last
        last = last if last is not None else first
        moved = torch.zeros_like(track.buffer)
        if first is None or last is None:
            return moved  # a term that was in no measured iteration so far: its effect stays unexplained
        buffer = torch.empty_like(track.buffer)
        for name, place in self._slices.items():
            s, b, f, g = track.segments[name], track.buffer[place], first[place], last[place]
            moved[place] = -(s.by_kept * b + s.by_first * f + s.by_last * g)
            buffer[place] = s.kept * b + s.first * f + s.last * g
        track.buffer = buffer
        return moved

    def _add(self, term: str, shares: Tensor) -> None:
        """Add a segment's shares. Shape: float32 [C]."""
        values = [*shares.tolist(), shares.mean().item()]
        for cls, value in zip(self._net, values, strict=True):
            self._net[cls][term] = self._net[cls].get(term, 0.0) + value
            self._gross[cls][term] = self._gross[cls].get(term, 0.0) + abs(value)

    def state_dict(self) -> dict[str, Any]:
        """The state for resume.pt."""
        tracks = {
            name: {
                "buffer": track.buffer,
                "gradient": track.gradient,
                "segments": {part: asdict(segment) for part, segment in track.segments.items()},
            }
            for name, track in self._tracks.items()
        }
        return {
            "tracks": tracks, "probed": self._probed, "net": self._net, "gross": self._gross, "event": self._event,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._tracks = {
            name: Track(t["buffer"], t["gradient"], {part: Segment(**s) for part, s in t["segments"].items()})
            for name, t in state["tracks"].items()
        }
        self._probed, self._event = state["probed"], state["event"]
        self._net, self._gross = state["net"], state["gross"]


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
    """A loss's gradient on some parameters. The graph stays alive."""
    if not (loss.requires_grad and parameters):
        return {}
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    return {id(p): g for p, g in zip(parameters, found, strict=True) if g is not None}


def _slices(found: Sequence[Part]) -> dict[str, slice]:
    """The position of each part in the concatenation of all parameters."""
    places, start = {}, 0
    for part in found:
        size = sum(p.numel() for p in part.parameters())
        places[part.name] = slice(start, start + size)
        start += size
    return places


def _filled(parameter: nn.Parameter, value: bool) -> Tensor:
    return torch.full((parameter.numel(),), value, device=parameter.device)


def _short(value: float) -> float:
    """Six digits are enough for a log."""
    return float(f"{value:.6g}")
