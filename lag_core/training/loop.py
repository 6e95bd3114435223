"""One step's iterations. Knows no method: it gets an objective and reports what each term did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lag_core import processes
from lag_core.method.objective import Batch, Objective, Result, Term, losses_by_source, weights_by_source
from lag_core.model.segmenter import Output, Segmenter
from lag_core.training.allocation import Allocation, Gradients, gradients_of
from lag_core.training.finite import FiniteCheck, check_finite
from lag_core.training.optimiser import Schedule, set_modes, trunk_trains
from lag_core.training.sharpness import largest_curvature

Listener = Callable[[int, dict[str, Any] | None], None]
"""Called after each update: (iteration, event or None)."""


class _Pass(nn.Module):
    """Forward pass and losses as one module, as DDP needs them."""

    def __init__(self, student: Segmenter, run: Callable[..., Result]):
        super().__init__()
        self.student, self.run = student, run

    def forward(self, *arguments: Any) -> Result:
        return self.run(*arguments)


@dataclass
class StepLoop:
    """The iterations of one step."""

    student: Segmenter
    teacher: Segmenter | None
    objective: Objective
    schedule: Schedule
    batch_of: Callable[[int], Batch]
    """The batch of any iteration."""
    total: int
    step: int
    gradients_every: int
    events_every: int
    batches: Callable[[Iterable[int]], Iterable[Batch]]
    """The batches of consecutive iterations, read ahead."""
    amp: torch.dtype | None = None
    dead: set[str] = field(default_factory=set)
    """Terms that turned out to have no gradient on any trainable parameter."""
    allocation: Allocation | None = None
    """Records what each term does to the old classes; training is the same without it."""
    accumulate: int = 1
    """Parts that a batch is cut into."""
    channels_last: bool = False
    compiles: bool = False
    _findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._finite = FiniteCheck(immediate=next(self.student.parameters()).device.type == "cpu")
        networks = [model for model in (self.student, self.teacher) if model is not None]
        if self.channels_last:
            for model in networks:
                model.to(memory_format=torch.channels_last)
        self._run: nn.Module = _Pass(self.student, self._forward)
        if processes.current().count > 1:
            self._run = DistributedDataParallel(self._run)
        self._trunk, self._behind_trunk = self.student.trunk, self.student.behind_trunk
        if self.compiles:
            self._trunk, self._behind_trunk = torch.compile(self._trunk), torch.compile(self._behind_trunk)

    @property
    def trunk_trains(self) -> bool:
        return trunk_trains(self.schedule.found)

    def run(self, first: int, listener: Listener) -> None:
        """Train from iteration `first`. NotFiniteError names the term; the update is then not made."""
        batches = iter(self.batches(range(first, self.total)))
        for iteration in range(first, self.total):
            listener(iteration, self._iterate(iteration, batches))

    def advance(self, iteration: int, without: frozenset[str] = frozenset()) -> None:
        """Make one update without a report; the terms named in `without` are left out."""
        progress = iteration / self.total
        set_modes(self.student, self.schedule.found, self.step, self.schedule.batch_norm)
        result = self._forward(self.batch_of(iteration), progress, iteration, without)
        check_finite(result.terms)
        self.schedule.backward(weighted_sum(result.terms))
        self.schedule.step(progress)

    def take_findings(self) -> list[str]:
        """Sentences on dead terms that were not reported yet."""
        found, self._findings = self._findings, []
        return found

    def state_dict(self) -> dict[str, Any]:
        """This step's state for resume.pt. NotFiniteError if it is not finite and could not be resumed."""
        self._finite.ask()
        return {
            "student": self.student.state_dict(),
            "optimiser": self.schedule.optimiser.state_dict(),
            "objective": self.objective.state_dict(),
            "dead": sorted(self.dead),
            "curvature": self.schedule.curvature,
            **({"scaler": self.schedule.scaler.state_dict()} if self.schedule.scaler.is_enabled() else {}),
            **({} if self.allocation is None else {"shares": self.allocation.state_dict()}),
        }

    def _iterate(self, iteration: int, batches: Iterator[Batch]) -> dict[str, Any] | None:
        began = time.perf_counter()
        progress = iteration / self.total
        measures = iteration % self.gradients_every == 0
        logs = measures or iteration % self.events_every == 0 or iteration == self.total - 1
        set_modes(self.student, self.schedule.found, self.step, self.schedule.batch_norm)
        batch = next(batches)
        skip = frozenset() if logs else frozenset(self.dead)
        parts = list(cut(batch, self.accumulate))
        for place, part in enumerate(parts, 1):
            with nullcontext() if place == len(parts) else self._gradients_stay_here():
                result = self._run(part, progress, iteration, skip)
                self._finite.note(result.terms)
                self._look_for_dead(result.terms)
                norms = self._measure(result, iteration, progress) if place == len(parts) else None
                loss = weighted_sum(result.terms)
                self.schedule.backward(loss / len(parts) if len(parts) > 1 else loss)
        rates = self.schedule.step(progress)
        if self.allocation is not None:
            self.allocation.after_update(iteration, weights_by_source(result.terms), rates)
        return self._event(iteration, result, loss, norms, rates, len(batch.targets), began) if logs else None

    def _event(
        self,
        iteration: int,
        result: Result,
        loss: Tensor,
        norms: dict[str, float] | None,
        rates: dict[str, float],
        images: int,
        began: float,
    ) -> dict[str, Any]:
        """A line of events.jsonl; for a batch in parts, it describes the last part. Waits for the device."""
        self._finite.ask()
        return {
            "step": self.step,
            "iteration": iteration,
            "total": self.total,
            "loss": loss.item(),
            "terms": {name: {"raw": t.value.item(), "weight": t.weight} for name, t in result.terms.items()},
            **({} if norms is None else {"gradient_norms": norms}),
            "lr": rates,
            "images_per_second": images * processes.current().count / (time.perf_counter() - began),
            **result.facts(),
            **({} if self.allocation is None else self.allocation.take_event()),
        }

    def _measure(self, result: Result, iteration: int, progress: float) -> dict[str, float] | None:
        """Measurements on the graph before the backward pass, where due: shares, curvature, gradient norms."""
        measures = iteration % self.gradients_every == 0
        recorder = self.allocation if self.allocation is not None and self.allocation.measures(iteration) else None
        shared = self.schedule.shared(progress) if measures else []
        wanted = shared if recorder is None else recorder.wanted(iteration)
        scale = self.schedule.scaler.get_scale() if measures else 1.0
        gradients = term_gradients(result.terms, wanted, scale) if measures or recorder is not None else {}
        norms = gradient_norms(result.terms, gradients, shared) if measures else None
        if recorder is not None:
            recorder.before_update(iteration, self._by_source(result), gradients)
        if self.schedule.wants_curvature(progress):
            weighted = [term.value.float() * term.weight for term in result.terms.values()]
            self.schedule.curvature = largest_curvature(weighted, self.schedule.shared(progress))
        return norms

    def _gradients_stay_here(self) -> AbstractContextManager[None]:
        """For all parts of a batch but the last: processes exchange the sum."""
        return self._run.no_sync() if isinstance(self._run, DistributedDataParallel) else nullcontext()

    def _by_source(self, result: Result) -> dict[str, Tensor]:
        """Raw terms by name, with the segmentation term in its parts instead of as one."""
        with torch.autocast(next(self.student.parameters()).device.type, self.amp, enabled=self.amp is not None):
            return losses_by_source(result)

    def _forward(self, batch: Batch, progress: float, iteration: int, skip: frozenset[str]) -> Result:
        with torch.autocast(batch.inputs.device.type, self.amp, enabled=self.amp is not None):
            inputs = batch.inputs
            if self.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
                batch = batch._replace(inputs=inputs)
            features = self._trunk(inputs) if self.trunk_trains else inputs
            teacher = self._teacher_output(features, progress, iteration, skip)
            student = self._student_output(features, teacher)
            return self.objective(self.student, self.teacher, student, teacher, batch, progress, iteration, skip)

    @torch.no_grad()
    def _teacher_output(self, features: Tensor, progress: float, iteration: int, skip: frozenset[str]) -> Output | None:
        """The teacher's output; None if there is no teacher, or nothing uses it."""
        if self.teacher is None or not self.objective.needs_teacher(progress, iteration, skip):
            return None
        return self.teacher.behind_trunk(features)

    def _student_output(self, features: Tensor, teacher: Output | None) -> Output:
        """The student's output. While only heads train, it shares the teacher's latent map, bit for bit."""
        if teacher is None or any(part.name != "heads" for part in self.schedule.found):
            return self._behind_trunk(features)
        return Output(teacher.stage, teacher.latent, self.student.decode(teacher.latent))

    def _look_for_dead(self, terms: Mapping[str, Term]) -> None:
        """Report a term whose value depends on no trainable parameter, once."""
        for name, term in terms.items():
            if name not in self.dead and not term.value.requires_grad:
                self.dead.add(name)
                frozen = not any(part.name != "heads" for part in self.schedule.found)
                why = "the extractor is frozen" if frozen else "nothing that trains reaches it"
                self._findings.append(f"step {self.step}: term {name} has no gradient: {why}")


def cut(batch: Batch, parts: int) -> Iterable[Batch]:
    """A batch in parts of equal size; for a smaller last batch, as equal as possible, and never empty."""
    if parts == 1:
        return [batch]
    pieces = (one.tensor_split(min(parts, len(one))) for one in batch)
    return [Batch(*piece) for piece in zip(*pieces, strict=True)]


def weighted_sum(terms: Mapping[str, Term]) -> Tensor:
    """Sum of the terms, each times its weight."""
    return torch.stack([term.value.float() * term.weight for term in terms.values()]).sum()


def term_gradients(
    terms: Mapping[str, Term], parameters: list[nn.Parameter], scale: float = 1.0
) -> dict[str, Gradients]:
    """Each raw term's gradient on `parameters`; parameters that it does not reach are left out. The graph stays alive.

    scale: for the backward pass, to keep within fp16's range; divided out again.
    """
    if scale == 1:
        return {name: gradients_of(term.value, parameters) for name, term in terms.items()}
    scaled = {name: gradients_of(term.value * scale, parameters) for name, term in terms.items()}
    return {name: {place: g / scale for place, g in own.items()} for name, own in scaled.items()}


def gradient_norms(
    terms: Mapping[str, Term], gradients: Mapping[str, Gradients], parameters: list[nn.Parameter]
) -> dict[str, float]:
    """Euclidean norm of each weighted term's gradient on `parameters`; 0 for a term that does not reach them.

    A norm that is not finite, as the first ones with fp16, is left out.
    """
    norms = {}
    for name, term in terms.items():
        reached = [gradients[name][id(p)] for p in parameters if id(p) in gradients[name]]
        norms[name] = term.weight * math.sqrt(sum(float(g.double().square().sum()) for g in reached))
    return {name: norm for name, norm in norms.items() if math.isfinite(norm)}
