"""All steps of a run, one after the other, each written as soon as it is finished."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from lag_core import processes
from lag_core.config import Config, ConfigError
from lag_core.data.catalogue import Dataset, open_dataset, task_of, with_range
from lag_core.data.dataset import FileDataset
from lag_core.data.findings import findings
from lag_core.data.splits import hold_out
from lag_core.data.training_images import from_other_domains, step_images
from lag_core.data.windows import WindowedDataset
from lag_core.method.objective import Batch, Objective, needing_one_process
from lag_core.method.starting import start_head
from lag_core.metrics import summary
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import load_segmenter, pretrained_backbone
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, RunError, open_run
from lag_core.sentences import sentence
from lag_core.training import surroundings
from lag_core.training.allocation import LARGEST, Allocation
from lag_core.training.evaluation import Validation, metrics_entry, whole
from lag_core.training.features import FeatureStore, NoStore, Views, batch_order, collect_views, iterations_per_epoch
from lag_core.training.finite import NotFiniteError, check_ending
from lag_core.training.health import silent_class
from lag_core.training.journal import Journal, new_info
from lag_core.training.loading import Order, WorkerLost
from lag_core.training.loop import StepLoop
from lag_core.training.optimiser import Schedule, freeze_all_but, parts, trunk_trains
from lag_core.training.probe import FEWEST, IMAGES, ClassProbe, Probe, probe_images
from lag_core.training.reporting import Reporter
from lag_core.training.resume import Cursor
from lag_core.training.watch import Watch
from lag_core.writing import naming

LOCK = ".training.lock"


class FolderBusy(ConfigError):
    """Another training is writing to the folder."""


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    first_step: Run | None = None,
    reporter: Reporter | None = None,
    store: FeatureStore | None = None,
) -> Run:
    """Train every step of `config` and write the run folder `out`; returns the finished run.

    With `resume`, an unfinished run in `out` is continued; without, an existing run is refused.
    `first_step` is a run whose step 0 is copied instead of trained; its settings for step 0 must be the same.
    `store` keeps trunk features for other runs.
    Raises ConfigError, DatasetMissing or RunError for a user's mistake, NotFiniteError if a loss is NaN or infinite,
    WorkerLost if a process that reads images dies, ProcessLost if one of several that train does.
    """
    out = Path(out)
    if (out / "run.json").exists() and not resume:
        raise ConfigError(f"{out} already holds a run; choose another --out or pass --resume")
    with processes.together(surroundings.kind(config.optim)) as everywhere:
        if first_step is not None and everywhere.count > 1:
            raise ConfigError("only a single process can copy a step 0: start without torchrun")
        with alone(out) if everywhere.first else nullcontext():
            speaker = (reporter or Reporter()) if everywhere.first else Reporter(quiet=True)
            training = ContinualTraining(config, out, speaker, store or FeatureStore())
            if first_step is not None and not training.journal.info["steps"]:
                training.journal.adopt_first_step(first_step)
            return training.run()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder. FolderBusy if one is running there."""
    lock = FileLock(out / LOCK)
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:  # an OSError, too
            raise FolderBusy(f"another training is writing to {out}; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()
        (out / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # a training that was refused leaves no empty folder
            out.rmdir()


def label_spaces(config: Config, dataset: Dataset) -> tuple[LabelSpace, LabelSpace]:
    """(labels of the run, labels of its task). They differ only for joint training, which is one step."""
    task = task_of(config.data, dataset.info)
    background = dataset.info.background
    unknown = config.method.unknown or background is None
    grouping = LabelSpace(task.steps, background, unknown)
    if config.method.labels == "setting":
        return grouping, grouping
    return LabelSpace((grouping.order,), background, unknown), grouping


@dataclass(frozen=True)
class Batches:
    """The batches of one step, each a function of its number."""

    views: Views
    labels: LabelSpace
    step: int
    config: Config
    device: torch.device
    everywhere: processes.Processes = field(default_factory=processes.current)

    @cached_property
    def _targets(self) -> torch.Tensor:
        setting = "sequential" if self.config.method.labels == "all" else self.config.data.setting
        return torch.from_numpy(self.labels.target_table(self.step, setting)).long().to(self.device)

    @cached_property
    def _hidden(self) -> torch.Tensor:
        return torch.from_numpy(self.labels.target_table(self.step, "sequential")).long().to(self.device)

    @property
    def total(self) -> int:
        """Iterations of the step."""
        optim = self.config.optim
        per_epoch = iterations_per_epoch(len(self.views), optim.batch)
        if self.step == 0:
            return max(per_epoch * optim.epochs, optim.min_iterations_first)
        return max(per_epoch * optim.epochs_later, optim.min_iterations)

    def __call__(self, iteration: int) -> Batch:
        """The batch of one iteration."""
        return self._batch(*self.views.take(*self._order(iteration)))

    def stream(self, iterations: Iterable[int]) -> Iterator[Batch]:
        """The batches of consecutive iterations, read ahead if the configuration has workers."""
        return self._stream(map(self._order, iterations))

    def plain(self, shared: bool = False) -> Iterator[Batch]:
        """Every image once, unaugmented (view 0); with `shared`, this process's part of them."""
        size = self.config.optim.batch
        images: Sequence[int] = range(len(self.views))
        if shared:
            images = self.everywhere.share(images)
        chunks = (images[start : start + size] for start in range(0, len(images), size))
        return self._stream((list(rows), [0] * len(rows)) for rows in chunks)

    def _order(self, iteration: int) -> Order:
        optim = self.config.optim
        seed = 7919 * optim.seed + self.step
        rows, picks = batch_order(len(self.views), self.config.data.views, optim.batch, iteration, seed)
        return self._mine(rows).tolist(), self._mine(picks).tolist()

    def _mine(self, batch: np.ndarray) -> np.ndarray:
        """This process's part of a batch, never empty."""
        rank, count = self.everywhere.rank, self.everywhere.count
        return batch[rank::count] if len(batch) > rank else batch[:1]

    def _stream(self, orders: Iterable[Order]) -> Iterator[Batch]:
        return (self._batch(*drawn) for drawn in self.views.stream(orders))

    def _batch(self, inputs: torch.Tensor, masks: torch.Tensor) -> Batch:
        masks = masks.to(self.device)
        targets, hidden = self._targets[masks], self._hidden[masks]
        return Batch(inputs.to(self.device), targets, hidden)


class ContinualTraining:
    """The state that one call of `train` carries from step to step."""

    def __init__(self, config: Config, out: Path, reporter: Reporter, store: FeatureStore):
        self.dataset = open_dataset(config.data)
        data = with_range(config.data, self.dataset)
        if data != config.data:
            config = replace(config, data=data)
            self.dataset = open_dataset(data)
        self.config, self.reporter, self.store = config, reporter, store
        self.device = surroundings.prepare(config.optim)
        self.labels, grouping = label_spaces(config, self.dataset)
        self.grouping = grouping
        self.goes_on = (out / "run.json").exists()
        kept = store if config.data.views else NoStore()
        self.validation = Validation(self.dataset, config.data, self.labels, self.device, kept)
        self._check_before_anything_is_written()
        around = surroundings.describe(self.device)
        info = new_info(out.name, config, self.dataset.info, self.labels, grouping, around)
        self.everywhere = processes.current()
        self.journal = self._journal(out, config, info)
        self._tell(findings(self.dataset, grouping))

    def _journal(self, out: Path, config: Config, info: dict[str, Any]) -> Journal:
        """The writer begins; then the others read the state to resume from, before anything is written again."""
        if self.everywhere.first:
            journal = Journal(out, config, info)
            self.everywhere.wait()
        else:
            self.everywhere.wait()
            journal = Journal(out, config, info, writes=False)
        self.everywhere.wait()
        return journal

    def _check_before_anything_is_written(self) -> None:
        """ConfigError or DataError for mistakes that would otherwise show in the middle of the run."""
        surroundings.amp_type(self.config.optim.amp, self.device)
        self._check_processes()
        if self.config.model.weights != "none" and not self.goes_on:
            pretrained_backbone(self.config.model)
        if isinstance(self.dataset, FileDataset | WindowedDataset):
            self.dataset.check()
        for step in range(len(self.labels.steps)):
            step_images(self.config, self.dataset, self.labels, step)

    def _check_processes(self) -> None:
        """ConfigError for settings that several processes, or fp16, cannot use."""
        count = processes.current().count
        if self.config.optim.batch % (count * self.config.optim.accumulate):
            raise ConfigError(
                f"optim.batch = {self.config.optim.batch}: {count} processes and optim.accumulate = "
                f"{self.config.optim.accumulate} must divide it"
            )
        if self.config.optim.amp == "fp16" and self.config.optim.steadiness > 0:
            raise ConfigError('optim.steadiness measures a curvature that leaves the range of fp16: use amp = "bf16"')
        keys = [*needing_one_process(self.config.method)]
        if self.config.optim.steadiness > 0:
            keys.append("optim.steadiness")
        if count > 1 and keys:
            raise ConfigError(f"{' and '.join(keys)}: only possible in one process; start without torchrun")

    def run(self) -> Run:
        """Every step that is not finished yet."""
        done = len(self.journal.info["steps"])
        model = load_segmenter(open_run(self.journal.out), done - 1, str(self.device)) if done else None
        for step in range(done, len(self.labels.steps)):
            model = self._step(model, step)
            self.journal.cursor, self.journal.states = Cursor(step=step + 1), {}
            self.everywhere.wait()
        run = self.journal.finish()
        self.everywhere.wait()
        return run

    def _step(self, previous: Segmenter | None, step: int) -> Segmenter:
        began = time.perf_counter() - self.journal.cursor.seconds
        batches, loop = self._prepare(previous, step)
        self.reporter.step_begins(
            step, len(self.labels.steps), len(batches.views), self.journal.cursor.iteration, loop.total
        )
        try:
            with processes.lost_is_said():
                loop.run(self.journal.cursor.iteration, self._listener(loop, began))
                self._finish(loop, batches, previous, time.perf_counter() - began)
        except (NotFiniteError, WorkerLost, processes.ProcessLost) as error:
            self.journal.fail(f"step {step}: {error}")
            raise
        return loop.student

    def _prepare(self, previous: Segmenter | None, step: int) -> tuple[Batches, StepLoop]:
        """Network, teacher, objective, optimiser and data of a step; resumed where the journal says so."""
        config, states = self.config, self.journal.states
        surroundings.seed_all(config.optim.seed, step)
        ids = step_images(config, self.dataset, self.labels, step)
        student = self._student(previous, step)  # a copy, so that the last network itself can teach
        teacher = previous.requires_grad_(False).eval() if previous is not None else None
        found = parts(student, config, self.labels, step)
        freeze_all_but(student, found)
        if config.optim.sync_batch_norm and self.everywhere.count > 1:
            processes.sync_batch_norm(student)
        views = self._views(student, ids, trunk_trains(found))
        batches = Batches(views, self.labels, step, config, self.device)
        memory = open_run(self.journal.out).whole_analysis(step - 1) if step else {}
        objective = Objective(
            config.method,
            self.labels,
            step,
            latent=config.model.latent,
            trunk=student.trunk_channels,
            seed=config.optim.seed,
            memory=memory,
            foreign=from_other_domains(config, self.labels, step),
        )
        objective.recall(lambda: self._earlier(student, step))
        schedule = Schedule(found, config, step)
        if states:
            self._restore(student, schedule, objective, batches.total)
            schedule.curvature = states.get("curvature")
        elif teacher is not None:
            self._say_starts(objective.begin(student, teacher, batches.plain))
            self._say_not_replayed(objective)
        loop = StepLoop(
            student=student,
            teacher=teacher,
            objective=objective,
            schedule=schedule,
            batch_of=batches,
            batches=batches.stream,
            total=batches.total,
            step=step,
            gradients_every=config.log.gradients_every,
            events_every=config.log.events_every,
            amp=surroundings.amp_type(config.optim.amp, self.device),
            dead=set(states.get("dead", ())),
            accumulate=config.optim.accumulate,
            channels_last=config.optim.channels_last,
            compiles=config.optim.compile,
        )
        loop.allocation = self._allocation(loop, states)
        return batches, loop

    def _restore(self, student: Segmenter, schedule: Schedule, objective: Objective, total: int) -> None:
        """Continue from resume.pt. RunError if it belongs to another run."""
        states = self.journal.states
        try:
            if self.journal.cursor.iteration > total:
                raise ValueError(f"it stands at iteration {self.journal.cursor.iteration} of {total}")
            student.load_state_dict(states["student"])
            schedule.optimiser.load_state_dict(states["optimiser"])
            if schedule.scaler.is_enabled():
                schedule.scaler.load_state_dict(states["scaler"])
            objective.load_state_dict(states["objective"])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = sentence(error, 200)
            raise RunError(
                f"{self.journal.out / 'resume.pt'} does not belong to this run ({reason}); delete it to train its step "
                "from the beginning"
            ) from None

    def _allocation(self, loop: StepLoop, states: Mapping[str, Any]) -> Allocation | None:
        """The recorder of what each term does to the old classes; None, with a message, if it cannot record."""
        every = self.config.log.shares_every
        if not every or loop.teacher is None:
            return None
        optim = self.config.optim
        if optim.accumulate > 1 or not optim.decay_norms or optim.amp == "fp16":
            self.reporter.say(
                f"step {loop.step}: shares of the terms are not recorded: they need updates from a whole batch with "
                "one weight decay, none of them left out as with fp16"
            )
            return None
        trained = sum(p.numel() for part in loop.schedule.found for p in part.parameters())
        classes = tuple(self._class_probes(loop.student, loop.step)) if trained <= LARGEST else ()
        reason = (
            f"{trained:,} parameters train, more than {LARGEST:,}" if trained > LARGEST
            else "no held-out image of an old class" if not classes
            else "the step was begun without them" if states and "shares" not in states
            else ""
        )  # fmt: skip
        if reason:
            self.reporter.say(f"step {loop.step}: shares of the terms are not recorded: {reason}")
            return None
        probe = Probe(classes, loop.objective.activation)
        allocation = Allocation(loop.student, probe, loop.schedule, every, loop.total)
        if states:
            allocation.load_state_dict(states["shares"])
        return allocation

    def _class_probes(self, model: Segmenter, step: int, images: int = IMAGES) -> Iterator[ClassProbe]:
        """Each old class on held-out training images with their true labels, if there are any that show it.

        `images`: of all classes together, about.
        """
        _, held = hold_out(list(self.dataset.ids("train")), self.config.data.holdout, seed=0)
        present, table = self.dataset.present("train"), torch.from_numpy(self.labels.truth_table())
        old = self.labels.old_channels(step)
        for channel in old:
            index = channel - self.labels.offset
            ids = probe_images(held, present, self.labels.order[index], max(FEWEST, images // len(old)))
            if not ids:
                continue
            rows = list(range(len(ids)))
            features, masks = self._views(model, ids, trunk_moves=False, plain=True).take(rows, [0] * len(rows))
            pixels = table[masks] == index
            if pixels.any():
                yield ClassProbe(index, channel, features.to(self.device), pixels.to(self.device))

    def _student(self, previous: Segmenter | None, step: int) -> Segmenter:
        """The network that this step trains: a new one, or the last one with a head for the new classes."""
        if previous is None:
            backbone = pretrained_backbone(self.config.model)
            return Segmenter(self.config.model, self.labels.head_sizes(0), backbone).to(self.device)
        student = copy.deepcopy(previous)
        student.add_head(len(self.labels.steps[step]))
        start_head(student, self.config.method)
        return student

    def _say_starts(self, starts: Sequence[tuple[int, int]]) -> None:
        """Print which old class each new one starts as, if the method chose one."""
        if starts:
            self.reporter.say("; ".join(f"{self._name(new)} starts as {self._name(old)}" for new, old in starts))

    def _say_not_replayed(self, objective: Objective) -> None:
        """Print which old classes the method's replay leaves out."""
        if out := [self._name(channel) for channel in objective.not_replayed]:
            self.reporter.say(f"not replayed, as their images had another domain: {', '.join(out)}")

    def _name(self, channel: int) -> str:
        """Name of a training channel's class."""
        if channel < self.labels.offset:
            return "unknown"
        dataset_id = self.labels.order[channel - self.labels.offset]
        return next(known.name for known in self.dataset.info.classes if known.id == dataset_id)

    def _earlier(self, model: Segmenter, step: int) -> Iterator[Batch]:
        """The unaugmented images of the earlier steps, annotated with all classes known at this one."""
        ids = dict.fromkeys(i for t in range(step) for i in step_images(self.config, self.dataset, self.labels, t))
        views = self._views(model, list(ids), trunk_moves=False)
        return Batches(views, self.labels, step, self.config, self.device).plain()

    def _views(self, model: Segmenter, ids: list[str], trunk_moves: bool, plain: bool = False) -> Views:
        """Views of images by the configuration, or with `plain` the unaugmented images."""
        optim = self.config.optim
        return collect_views(
            model,
            self.dataset,
            ids,
            replace(self.config.data, views=1) if plain else self.config.data,
            label_stride=optim.label_stride,
            through_trunk=not trunk_moves and self.config.model.shared != "none",
            device=self.device,
            progress=self.reporter.bar,
            store=self.store,
        )

    def _listener(self, loop: StepLoop, began: float) -> Callable[[int, dict[str, Any] | None], None]:
        """Logs events, moves the bar, and saves the run's state every few seconds."""
        saved = time.perf_counter()
        watch = Watch(loop, self.config.method, self.journal)

        def listen(iteration: int, event: dict[str, Any] | None) -> None:
            nonlocal saved
            if event is not None:
                self.journal.event(event)
                self.reporter.iteration(event["loss"], event["images_per_second"])
            else:
                self.reporter.iteration()
            self._tell([*loop.take_findings(), *watch(iteration, event)])
            now = time.perf_counter()
            if now - saved >= self.config.log.resume_seconds:
                self.journal.save_point(Cursor(loop.step, iteration + 1, now - began), loop.state_dict())
                saved = time.perf_counter()

        return listen

    def _tell(self, sentences: Iterable[str]) -> None:
        """Warnings, to the terminal and to run.json."""
        for one in sentences:
            self.journal.warn(one)
            self.reporter.say(one)

    def _silent_classes(self, confusion: np.ndarray, step: int) -> list[str]:
        """Names of the step's classes that occur in the measured images but are never predicted."""
        truth, called = confusion.sum(1), confusion.sum(0)
        silent = [k for k in self.labels.class_indices(step) if truth[k] > 0 and called[k] == 0]
        return [self._name(k + self.labels.offset) for k in silent]

    def _finish(self, loop: StepLoop, batches: Batches, previous: Segmenter | None, seconds: float) -> None:
        """Measure and write a step."""
        model, step = loop.student.eval(), loop.step
        analysis = loop.objective.finish(model, loop.teacher, batches.plain(shared=True), loop.trunk_trains)
        check_ending(model, analysis)
        measured = self.validation.measure([model], self.config.method.loss, self.reporter.bar)[0]
        metrics = metrics_entry(step, measured, len(self.validation.ids))
        self._tell([silent_class(step, name) for name in self._silent_classes(whole(measured), step)])
        rate = loop.total * self.config.optim.batch / seconds
        entry = {
            "images": len(batches.views),
            "iterations": loop.total,
            "seconds": round(seconds, 2),
            "images_per_second": round(rate, 1),
            "trained": [part.name for part in loop.schedule.found],
            "dead_terms": sorted(loop.dead),
            **({} if loop.schedule.curvature is None else {"curvature": round(loop.schedule.curvature, 3)}),
        }
        info = self.journal.info
        info["hours"] = round(info.get("hours", 0.0) + seconds / 3600, 5)
        info["peak_memory_mib"] = round(surroundings.peak_memory_mib(self.device), 1)
        self.journal.finish_step(model, previous, analysis, metrics, entry)
        last = len(self.grouping.steps) - 1 if self.config.method.labels == "all" else step
        self.reporter.step_ends(step, summary(whole(measured), self.grouping, last), seconds, rate)
