"""How steep each loss term is where a step begins: `python benchmarks/curvature.py RUN`.

Prints, for each term with the run's own weights, its largest curvature on what joins the heads, and the largest rate
at which Nesterov's momentum is stable on it (lag_core/training/sharpness.py), beside the rate that the run used.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from lag_core import config as configuration
from lag_core.model.weights import load_segmenter
from lag_core.runs import open_run
from lag_core.training.continual import ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.reporting import Reporter
from lag_core.training.sharpness import largest_curvature, largest_rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--images", type=int, default=8, help="about so many of the step's images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = open_run(options.run)
    share = min(1.0, options.images / run.info["steps"][options.step]["images"])
    changes = {
        "model": {"weights": "none"},
        "data": {"views": 1, "fraction": share},
        "optim": {"batch": options.images, "extractor_delay": 0.0},
        "method": {"ramp": 0.0},
    }
    config = configuration.resolve(configuration.merge([configuration.to_dict(run.config), changes]))
    with tempfile.TemporaryDirectory() as folder:
        training = ContinualTraining(config, Path(folder) / "run", Reporter(quiet=True), FeatureStore())
        training.journal.out = run.path  # what the step before left is read from there
        _, loop = training._prepare(load_segmenter(run, options.step - 1), options.step)
    loop.student.eval()
    terms = loop._forward(next(iter(loop.batches([0]))), 0.0, 0, frozenset()).terms
    optim, shared = run.config.optim, loop.schedule.shared(0.0)
    print(f"{run.name}, step {options.step}: the ASPP's rate is up to {optim.lr_aspp_later:g}")
    for name, term in terms.items():
        curvature = largest_curvature([term.value.float() * term.weight], shared)
        stable = largest_rate(curvature, optim.momentum)
        print(f"{name:>14}  weight {term.weight:<5g} curvature {curvature:9.1f}  stable below {stable:.2g}", flush=True)


if __name__ == "__main__":
    main()
