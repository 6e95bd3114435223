"""Which loss term kept the old classes: shares, rollouts and training again, held against one another.

    python benchmarks/term_shares.py --data ../voc_animals                   # a quarter of an hour on an idle core
    python benchmarks/term_shares.py --data … --only "without distillation" --rollouts 60:30
    python benchmarks/term_shares.py --data … --again                        # and each term left out of the whole step

Step 1 of `animals` 3-1 by `lag`, from step 0 of a run that ships, seed 0. One training records the shares at several
distances between measurements at once (gradients are shared); at some iterations it stops for rollouts, which begin
at its state, once with all terms and once without each. Training again is a rollout over the whole step. All are
measured by the same probe: -log of an old class's normalised probability on held-out training images, in nats.
Writes benchmarks/results/term-shares.json, a row for each setting; docs/faithfulness.md shows it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from streamlit_server import machine
from tables import ROOT
from torch import Tensor

import lag_core
from lag_core.commands.train import read_config
from lag_core.method.objective import weights_by_source
from lag_core.method.terms import COMPUTED, weight_of
from lag_core.model.weights import load_segmenter
from lag_core.runs import Run
from lag_core.training.allocation import Allocation, Gradients
from lag_core.training.continual import ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.loop import StepLoop, weighted_sum
from lag_core.training.optimiser import set_modes
from lag_core.training.probe import ClassProbe, Probe
from lag_core.training.reporting import Reporter
from lag_core.training.rollouts import Rollouts, rollouts
from lag_core.writing import write_atomically

RESULTS = ROOT / "benchmarks" / "results" / "term-shares.json"
SETTINGS: Mapping[str, Sequence[str]] = {
    "without distillation": ("method.kd_logits=0", "method.kd_latent=0"),
    "with distillation": (),
}
IMAGES = 36
"""Held-out images of the probe, of all old classes together."""
EVERY = (5, 10, 20, 30)
"""Iterations between two measurements."""
COSTS = (10, 20)
"""Distances whose cost is measured."""
FEWER = 4
"""Held-out images of a class in the smaller probe."""
ROLLOUTS = ((60, 30), (100, 30))
"""(iteration that it begins with, how many)."""


class SharedGradients(Allocation):
    """A recorder that takes gradients from others which measured them at the same state."""

    memo: dict[Any, Any]

    def _gradients(
        self, iteration: int, losses: Mapping[str, Tensor], known: Mapping[str, Gradients]
    ) -> dict[str, Tensor]:
        key = len(self.wanted(iteration))
        if key not in self.memo:
            self.memo[key] = super()._gradients(iteration, losses, known)
        return dict(self.memo[key])


class SharedProbe(Probe):
    """A probe that remembers what it measured at a state."""

    memo: dict[Any, Any]

    def gradients(self, student: Any, parameters: Any) -> tuple[Tensor, Tensor]:
        if "probe" not in self.memo:
            self.memo["probe"] = super().gradients(student, parameters)
        return self.memo["probe"]


def prepared(
    data: Path, first: Run, overrides: Sequence[str], folder: Path, store: FeatureStore, images: int | None = IMAGES
) -> StepLoop:
    """Step 1 of `lag` with the first step of a run, ready to train, with a recorder.

    images: of its probe; None: as many as in any training.
    """
    changes = [f'data.root="{data}"', "optim.threads=1", "log.shares_every=1", *overrides]
    config = read_config(ROOT / "configs" / "animals-3-1.toml", "lag", changes)
    training = ContinualTraining(config, folder, Reporter(quiet=True), store)
    info = copy.deepcopy(dict(first.info))
    info["config"]["data"]["root"], info["config"]["model"]["weights"] = config.data.root, config.model.weights
    training.journal.adopt_first_step(Run(first.path, info))  # where files lie is no difference
    previous = load_segmenter(lag_core.open_run(folder), 0, "cpu")
    loop = training._prepare(previous, 1)[1]
    assert loop.allocation is not None
    if images is not None:
        classes = tuple(training._class_probes(loop.student, 1, images))
        loop.allocation.probe = Probe(classes, loop.objective.activation)
    return loop


def smaller(probe: Probe, images: int) -> Probe:
    """The probe with the first images of each class alone."""
    parts = [
        ClassProbe(one.index, one.channel, one.features[:images], one.pixels[:images])
        for one in probe.classes
        if one.pixels[:images].any()
    ]
    return Probe(tuple(parts), probe.activation)


def recorders(loop: StepLoop, probe: Probe, memo: dict[Any, Any]) -> dict[str, Allocation]:
    """A recorder for each distance between measurements, and one with a smaller probe. Small probes share nothing."""
    whole = SharedProbe(probe.classes, probe.activation)
    object.__setattr__(whole, "memo", memo)
    found: dict[str, Allocation] = {}
    for every in EVERY:
        found[f"every {every}"] = SharedGradients(loop.student, whole, loop.schedule, every, loop.total)
    few = smaller(probe, FEWER)
    found[f"every 20, {FEWER} images"] = SharedGradients(loop.student, few, loop.schedule, 20, loop.total)
    for one in found.values():
        one.memo = memo  # type: ignore[attr-defined]
    return found


def train(loop: StepLoop, recording: Mapping[str, Allocation], memo: dict[Any, Any], iteration: int) -> None:
    """One iteration of the step, followed by every recorder."""
    progress = iteration / loop.total
    set_modes(loop.student, loop.schedule.found, loop.step)
    result = loop._forward(loop.batch_of(iteration), progress, iteration, frozenset())
    losses = loop._by_source(result)
    memo.clear()
    for one in recording.values():
        if one.measures(iteration):
            one.before_update(iteration, losses)
    weighted_sum(result.terms).backward()
    rates = loop.schedule.step(progress)
    memo.clear()
    for one in recording.values():
        one.after_update(iteration, weights_by_source(result.terms), rates)


def cost(loop: StepLoop, repeats: int) -> dict[str, dict[str, Any]]:
    """Processor seconds of an iteration with and without the recorder: blocks of a cycle each, one after the other.

    From where every part has joined on; each block makes the same iterations, which take a measurement of the gradient
    norms, too. The recorder is the product's own, with its own probe.
    """
    recorder, start = loop.allocation, loop.total // 2 - loop.total // 2 % loop.gradients_every
    assert recorder is not None
    taken: dict[int, list[float]] = {every: [] for every in (0, *COSTS)}
    for _ in range(repeats):
        for every, found in taken.items():
            loop.allocation = (
                Allocation(loop.student, recorder.probe, loop.schedule, every, loop.total) if every else None
            )
            batches = [loop.batch_of(i) for i in range(start, start + loop.gradients_every)]
            began = time.process_time()
            for place, iteration in enumerate(range(start, start + loop.gradients_every)):
                loop._iterate(iteration, iter(batches[place : place + 1]))
            found.append((time.process_time() - began) / loop.gradients_every)
            print(f"cost, every {every}: {found[-1]:.3f} processor seconds per iteration", flush=True)
    loop.allocation = recorder
    plain = statistics.median(taken[0])
    return {
        f"every {every}" if every else "off": {
            "seconds": [round(one, 4) for one in found],
            "more": round(statistics.median(found) / plain - 1, 3),
        }
        for every, found in taken.items()
    }


def measure(loop: StepLoop, places: Sequence[tuple[int, int]], again: bool) -> dict[str, Any]:
    """The row of a setting: shares, rollouts, and with `again` the step without each term."""
    assert loop.allocation is not None
    probe, loop.allocation, memo = loop.allocation.probe, None, {}
    terms = [name for name in COMPUTED if weight_of(name, loop.objective.config, 0.5) > 0]
    recording = recorders(loop, probe, memo)
    starts = {name: one.probe.losses(loop.student).tolist() for name, one in recording.items()}
    found = [rollouts(loop, probe, 0, loop.total, terms)] if again else []
    for iteration in range(loop.total):
        for first, count in places:
            if first == iteration:
                found.append(rollouts(loop, probe, first, count, terms))
        train(loop, recording, memo, iteration)
    events = {name: {**one.take_event()["shares"], "before": starts[name]} for name, one in recording.items()}
    return {"terms": terms, "shares": events, "rollouts": [_row(one) for one in found]}


def _row(found: Rollouts) -> dict[str, Any]:
    return {
        "first": found.first,
        "count": found.count,
        "before": found.before.tolist(),
        "whole": found.whole.tolist(),
        "cost": {term: found.cost(term).tolist() for term in found.without},
    }


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--first", type=Path, default=ROOT / "checkpoints" / "animals-3-1-lag", help="for its step 0")
    parser.add_argument("--only", choices=SETTINGS, action="append", help="this setting; may be repeated")
    parser.add_argument("--rollouts", nargs="*", help="START:COUNT, iterations (default: 60:30 100:30)")
    parser.add_argument("--cost", type=int, metavar="REPEATS", help="measure what recording costs, and nothing else")
    parser.add_argument("--again", action="store_true", help="train the step again without each term")
    parser.add_argument("--store", type=Path, help="folder that keeps features of the trunk")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    torch.set_num_threads(1)
    places = ROLLOUTS
    if options.rollouts is not None:
        places = tuple((int(a), int(b)) for a, b in (text.split(":") for text in options.rollouts))
    if options.cost:
        _write(options.out, "cost", costs(options))
        return
    for name in options.only or SETTINGS:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            first, store = lag_core.open_run(options.first), FeatureStore(options.store)
            loop = prepared(options.data, first, SETTINGS[name], Path(folder) / "run", store)
            row = measure(loop, places, options.again)
        row["processor seconds"] = round(time.process_time() - start, 1)
        _write(options.out, name, row)


def costs(options: argparse.Namespace) -> dict[str, Any]:
    """What recording costs with every term, in the step's second half."""
    with tempfile.TemporaryDirectory() as folder:
        first, store = lag_core.open_run(options.first), FeatureStore(options.store)
        return cost(prepared(options.data, first, (), Path(folder) / "run", store, images=None), options.cost)


def _write(out: Path, name: str, row: dict[str, Any]) -> None:
    """Put a row into the results; the others stay."""
    kept = json.loads(out.read_text("utf-8")) if out.exists() else {}
    kept |= {"task": "animals 3-1, step 1, lag, seed 0", "machine": machine(), name: row}
    write_atomically(out, (json.dumps(kept, indent=1) + "\n").encode())
    print(name, json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main()
