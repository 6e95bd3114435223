"""Are there fair controls for the channels that the product asks about? The energy imbalance of each question.

    python benchmarks/balance.py --data FOLDER            # the runs that ship
    python benchmarks/balance.py --runs RUN RUN
    python benchmarks/balance.py --data FOLDER --equal-jitter   # rank correlation of distance and energy

For every old class: the most invariant quarter of the channels (ablation) and the most changed quarter (transplant),
from the step that introduced the class to the last, on four validation pictures. docs/method.md#fair-controls.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from truth_tests import null_trials
from truth_tests.cases import Subject
from truth_tests.latents import Latents

from lag_core.explain import channels, verdict
from lag_core.explain.controls import BALANCED, Matched, alive, energy

ROOT = Path(__file__).parents[1]
PICTURES = 4
TRIALS = 50
"""Of equal jitter in each run, the same as in benchmarks/faithfulness.py."""


def imbalances(subject: Subject) -> Iterator[tuple[str, float, float]]:
    """Class, and the imbalance of its ablation and of its transplant."""
    last = subject.run.last_step
    for cls in subject.foreground:
        step = subject.run.labels.step_of(cls)
        if step < last and subject.pictures(cls, 1):
            latents = Latents(subject, cls, PICTURES)
            old, new = latents.of_steps[step], latents.of_steps[last]
            distance = channels.latent_distances(subject.run, old, new)
            before, after = old.cpu().numpy(), new.cpu().numpy()
            k = verdict.default_count(int(alive(after).sum()))
            ablated = _of(distance, "invariant", energy(after), alive(after), k)
            put_back = _of(distance, "changed", energy(before) + energy(after), alive(before) | alive(after), k)
            yield subject.run.classes[cls].name, ablated, put_back


def _of(distance: np.ndarray, order: channels.Order, strength: np.ndarray, living: np.ndarray, k: int) -> float:
    places = np.flatnonzero(living)
    return Matched(strength, living).imbalance(places[channels.ranked(order, distance[places])][:k])


def print_imbalances(runs: Sequence[Path], data: Path | None) -> None:
    print("| run | class | ablation | transplant |\n|---|---|---|---|")
    for path in runs:
        for name, *found in imbalances(Subject(path, data, 0)):
            cells = [f"{one:+.2f}" + (" no fair controls" if abs(one) > BALANCED else "") for one in found]
            print(f"| {path.name} | {name} | {' | '.join(cells)} |", flush=True)


def print_orders(runs: Sequence[Path], data: Path | None) -> None:
    print("| run | least rank correlation | median | largest |\n|---|---|---|---|")
    for path in runs:
        found = null_trials.order_by_energy(Subject(path, data, 0), TRIALS)
        print(f"| {path.name} | {min(found):.3f} | {np.median(found):.3f} | {max(found):.3f} |", flush=True)


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=sorted((ROOT / "checkpoints").glob("*-*")))
    parser.add_argument("--data", type=Path, help="folder of the datasets that are folders of pictures")
    parser.add_argument("--equal-jitter", action="store_true", help="rank correlation of distance and energy instead")
    asked = parser.parse_args()
    (print_orders if asked.equal_jitter else print_imbalances)(asked.runs, asked.data)


if __name__ == "__main__":
    main()
