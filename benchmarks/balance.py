"""Are there fair controls for the channels that the product asks about? The energy imbalance of each question.

    python benchmarks/balance.py --data FOLDER            # the runs that ship
    python benchmarks/balance.py --runs RUN RUN

For every old class: the most invariant quarter of the channels (ablation) and the most changed quarter (transplant),
from the step that introduced the class to the last, on four validation pictures. docs/method.md#fair-controls.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from truth_tests.cases import Subject
from truth_tests.latents import Latents

from lag_core.explain import channels, verdict
from lag_core.explain.controls import BALANCED, Matched, alive, energy

ROOT = Path(__file__).parents[1]
PICTURES = 4


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=sorted((ROOT / "checkpoints").glob("*-*")))
    parser.add_argument("--data", type=Path, help="folder of the datasets that are folders of pictures")
    asked = parser.parse_args()
    print("| run | class | ablation | transplant |\n|---|---|---|---|")
    for path in asked.runs:
        for name, *found in imbalances(Subject(path, asked.data, 0)):
            cells = [f"{one:+.2f}" + (" no fair controls" if abs(one) > BALANCED else "") for one in found]
            print(f"| {path.name} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
