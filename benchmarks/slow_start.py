"""How long a new DKD or STAR head takes to say yes, by the weight of positives and of the auxiliary classifier.

    python benchmarks/slow_start.py --iterations 100 200

A made dataset of rectangles (tests/shapes.py) at 128 pixels, task 2-1-1, features of the ImageNet MobileNetV2 that
ships, one seed: it shows what a setting does, not what a method can do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
SIDE = 128
WEIGHTS = ROOT / "checkpoints" / "shared" / "e0c5910a7ee5b661.safetensors"


class Case(NamedTuple):
    """A method with its settings."""

    method: str
    settings: dict[str, Any]
    rate: float = 0.01
    """Of the heads at later steps."""


CASES = {
    "reference": Case("reference", {}, 0.003),
    "dkd": Case("dkd", {"auxiliary": 1.0}),
    "dkd, new heads start at random": Case("dkd", {"auxiliary": 1.0, "transfer": False}),
    "dkd, positive 3": Case("dkd", {"auxiliary": 1.0, "positive": 3.0}),
    "dkd, positive 10": Case("dkd", {"auxiliary": 1.0, "positive": 10.0}),
    "dkd, positive 35": Case("dkd", {"auxiliary": 1.0, "positive": 35.0}),
    "dkd, auxiliary 0.1": Case("dkd", {"auxiliary": 0.1}),
    "dkd, auxiliary 0.1, positive 3": Case("dkd", {"auxiliary": 0.1, "positive": 3.0}),
    "star": Case("star", {}),
    "star, positive 3": Case("star", {"positive": 3.0}),
}


def ious(case: Case, root: Path, iterations: int) -> list[list[float]]:
    """IoU in percent of each class [T, K] after each step."""
    import shapes

    from lag_core.metrics import iou_matrix

    optim = {
        "epochs": 15, "epochs_later": 10, "min_iterations": iterations, "batch": 8, "lr_head_later": case.rate,
        "warmup": 0.1, "lr_stage": 0.0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = shapes.tiny_run(
            root,
            Path(folder) / "run",
            case.method,
            data={"size": SIDE},
            model={"weights": str(WEIGHTS), "latent": 64, "head_width": 32},
            optim=optim,
            method=case.settings,
            log={"events_every": 20, "gradients_every": 10_000, "shares_every": 0},
        )
        confusions = run.confusions()
        assert confusions is not None
        return [[round(100 * float(v), 1) for v in row] for row in iou_matrix(confusions, run.labels)]


def main() -> None:
    import shapes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, nargs="+", default=[100, 200], help="of a later step")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    shapes.SIDE = SIDE
    with tempfile.TemporaryDirectory() as folder:
        root = shapes.write_shapes(Path(folder) / "shapes", 60, 16)
        for iterations in options.iterations:
            for name in options.only:
                found = ious(CASES[name], root, iterations)
                new = np.nanmean([found[-1][3], found[-1][4]])
                line = {"case": name, "iterations": iterations, "new": round(float(new), 1), "iou": found}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
