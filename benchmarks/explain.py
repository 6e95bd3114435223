"""What explanations cost: LRP in forward passes, next to captum's and zennit's on the same network; a run of many
steps in memory and operations; the dashboard's questions in seconds.

    python benchmarks/explain.py                 # ResNet-101 DeepLab, 256 px, 2 threads; some minutes
    python benchmarks/explain.py --backbone resnet18 --size 64 --rounds 3 --out /tmp/explain.json
    python benchmarks/explain.py --only steps --only seconds     # the parts named; the file keeps the others
    python benchmarks/explain.py --only shares --data …          # the folder of animals-3-1-lagplus's pictures

Every round runs each contender once, next to a plain forward pass without gradient; a contender's cost is
the median over the rounds of its time divided by that round's forward pass. Wall time is what counts; the
ratio of processor times stands beside it, as other work on the machine disturbs it less. Conservation:
|sum of R (+ what the engine says it absorbed) - score| / |score|; captum and zennit do not report what biases
absorb, so theirs is the plain sum. Steps: see many_steps.py; 19 steps are VOC 2-1.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import torchvision
from captum.attr import LRP
from many_steps import memory, write_run
from many_steps import operations as operations_of_steps
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer

import lag_core
from lag_core.config import ModelConfig
from lag_core.explain import why
from lag_core.explain.evidence import ValidationPictures, finish
from lag_core.explain.hybrids import pair_of
from lag_core.explain.shares_pass import Kept, shares_on
from lag_core.explain.survey import read_survey
from lag_core.model.segmenter import Segmenter
from lag_core.relevance.latent import latent_relevance
from lag_core.relevance.lrp import FoldedSegmenter, Target

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "aerial-2-2-1-lag"
SHARED_PHOTOGRAPHS = SHIPPED.with_name("animals-3-1-lagplus")

Contender = Callable[[], tuple[Tensor, Tensor | float]]
"""Runs once; returns the relevance of the pixels and what was absorbed."""


class Score(nn.Module):
    """The target's weighted sum of logits as a network of its own. Shape: [B, 3, H, W] -> [B, 1]."""

    def __init__(self, model: Segmenter, weights: Tensor):
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, images: Tensor) -> Tensor:
        return (self.model(images).logits * self.weights).flatten(1).sum(1, keepdim=True)


def build_model(backbone: str) -> Segmenter:
    """DeepLab-like, random weights; batch norms take statistics, so that signals neither die nor grow."""
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=backbone,  # type: ignore[arg-type]
        latent=256,
        head_width=256,
        aspp_rates=(6, 12, 18),
        separable=False,
    )
    model = Segmenter(config, (21,))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # cumulative mean
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, 0.0, 0.1)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(2, 3, 128, 128))
    return model.eval()


def ours(view: FoldedSegmenter, images: Tensor, target: Target, composite: str) -> Contender:
    def run() -> tuple[Tensor, Tensor | float]:
        found = view.record(images).relevance(target, composite)
        return found.values, found.absorbed

    return run


def plain_relus(model: Segmenter) -> Segmenter:
    """A copy for engines with hooks: ReLUs not in place."""
    model = copy.deepcopy(model)
    for relu in (m for m in model.modules() if isinstance(m, nn.ReLU)):
        relu.inplace = False
    return model


def captum_lrp(model: Segmenter, images: Tensor, weights: Tensor) -> Contender:
    score = Score(plain_relus(model), weights)
    return lambda: (LRP(score).attribute(images, target=0).detach(), 0.0)


def zennit_lrp(model: Segmenter, images: Tensor, weights: Tensor) -> Contender:
    score = Score(plain_relus(model), weights)
    canonizer = ResNetCanonizer()  # merges batch norm behind any convolution, ASPP and heads too

    def run() -> tuple[Tensor, Tensor | float]:
        x = images.clone().requires_grad_()
        with Gradient(model=score, composite=EpsilonPlusFlat(canonizers=[canonizer])) as attributor:
            _, relevance = attributor(x, lambda out: out.detach())
        return relevance.detach(), 0.0

    return run


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(forward: Callable[[], object], contenders: dict[str, Contender], rounds: int) -> dict[str, dict]:
    """Medians of the ratios to a forward pass; the first round warms up and is dropped."""
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for index in range(rounds + 1):
        for name, run in contenders.items():
            base, own = seconds(forward), seconds(run)
            if index:
                ratios[name].append((own[0] / base[0], own[1] / base[1]))
    return {
        name: {
            "forward_passes": round(statistics.median(r[0] for r in found), 3),
            "forward_passes_processor": round(statistics.median(r[1] for r in found), 3),
            "range": [round(min(r[0] for r in found), 3), round(max(r[0] for r in found), 3)],
        }
        for name, found in ratios.items()
    }


def conservation(run: Contender, score: float) -> dict[str, object]:
    """How far the pixels' relevance, with what was absorbed, is from the score."""
    values, absorbed = run()
    total = float(values.double().sum() + absorbed)
    error = abs(total - score) / abs(score)
    return {
        "conservation_error": error if error == error else "nan",
        "sum_of_pixels_by_score": float(values.double().sum()) / score,
        "finite": bool(values.isfinite().all()),
    }


def operations(run: Callable[[], object]) -> int:
    """Counted floating-point operations of the convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def small_questions(rounds: int) -> dict[str, object]:
    """Seconds of what the dashboard asks most, of a run that ships: its last step, one validation image."""
    run = lag_core.open_run(SHIPPED)
    trace, step, cls = run.trace(run.open_dataset().ids("val")[0]), run.last_step, 0
    ranked = trace.channels(step, source=0).split.order
    output, heads = trace.output(step), trace.networks.steps[step].heads
    weights = torch.ones(1, *output.latent.shape[-2:])
    asked: dict[str, Callable[[], object]] = {
        "relevance of a class at the latent map": lambda: latent_relevance(
            heads, output.latent, cls + run.labels.offset, weights
        ),
        "ablation of 16 channels, 200 random controls": lambda: trace.ablate(step, ranked[:16]),
        "transplant of 16 channels, 200 random controls": lambda: trace.transplant(step, ranked[-16:], 0),
        "curve over 4 numbers of channels, 200 random controls each": lambda: trace.ablate(
            step, ranked[:64], counts=[1, 4, 16, 64]
        ),
    }
    taken = {name: round(statistics.median(seconds(ask)[0] for _ in range(rounds)), 4) for name, ask in asked.items()}
    return {"run": run.name, "aims": {"an ablation or a transplant": 1.0, "relevance": 0.05}, **taken}


def shares_of_a_class(data: Path | None, rounds: int) -> dict[str, object]:
    """Seconds for all shares of one old class since its step: on the validation set, and from the survey."""
    run = lag_core.open_run(SHARED_PHOTOGRAPHS)
    pictures = ValidationPictures(run.open_dataset(data), run)
    held = [pictures[place] for place in range(len(pictures))]
    networks, cls, step = run.networks, run.class_index("dog"), run.last_step
    pair = pair_of((networks, run.labels.step_of(cls)), (networks, step))
    kept: Kept = {}
    whole = seconds(lambda: finish(shares_on(pair, [cls], held, kept=kept)))
    cached = [seconds(lambda: finish(shares_on(pair, [cls], held, kept=kept))) for _ in range(rounds)]
    everyone = list(run.labels.class_indices(run.labels.step_of(cls)))
    together = seconds(lambda: finish(shares_on(pair, everyone, held, kept=kept)))

    def from_survey() -> None:
        survey = read_survey(lag_core.open_run(SHARED_PHOTOGRAPHS))
        assert survey is not None and survey.shares is not None
        shares = survey.shares.of(cls, step)
        assert shares is not None
        why.cause_sentence(why.answer(shares))

    surveyed = [seconds(from_survey) for _ in range(rounds)]
    wall, processor = (statistics.median(one[i] for one in cached) for i in (0, 1))
    return {
        "run": run.name,
        "class": run.classes[cls].name,
        "steps": list(pair.steps),
        "images": len(held),
        "parts": list(pair.parts(cls)),
        "bytes of kept features": sum(one.nbytes for one in kept.values()),
        "aims": {"from kept features": 10.0, "from the survey": 0.1},
        "with the trunk": round(whole[0], 2),
        "with the trunk, processor": round(whole[1], 2),
        "from kept features": round(wall, 2),
        "from kept features, processor": round(processor, 2),
        f"{len(everyone)} classes from kept features": round(together[0], 2),
        f"{len(everyone)} classes from kept features, processor": round(together[1], 2),
        "from the survey, read anew": round(statistics.median(one[0] for one in surveyed), 4),
    }


def machine() -> dict[str, object]:
    """What the numbers depend on; no names."""
    return {
        "processor": platform.machine(),
        "model": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "captum": version("captum"),
        "zennit": version("zennit"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def lrp_costs(backbone: str, size: int, rounds: int) -> dict[str, object]:
    """All contenders on one network, image and target."""
    model = build_model(backbone)
    images = torch.randn(1, 3, size, size)
    mask = torch.zeros(size, size)
    mask[size // 4 : size // 2, size // 3 :] = 1
    target = Target(3, mask)
    view = FoldedSegmenter(model)
    logits = view.record(images).logits
    weights = target.weights(logits)
    score = float((weights * logits).double().sum())

    @torch.no_grad()
    def forward() -> Tensor:
        return model(images).logits

    contenders = {
        "lrp epsilon": ours(view, images, target, "epsilon"),
        "lrp composite (z-box, alpha1-beta0, epsilon)": ours(view, images, target, "composite"),
        "lrp composite (z-box, gamma, epsilon)": ours(view, images, target, "composite-gamma"),
        "captum LRP (epsilon)": captum_lrp(model, images, weights),
        "zennit EpsilonPlusFlat": zennit_lrp(model, images, weights),
    }
    rows = measure(forward, contenders, rounds)
    base = operations(forward)
    for name, run in contenders.items():
        rows[name] |= conservation(run, score)
        if name.startswith("lrp"):  # the counter cannot follow the hooks of the others
            rows[name]["operations"] = round(operations(run) / base, 3)
        print(f"{name:46s}", json.dumps(rows[name]))
    return {
        "network": f"{backbone} DeepLab, output stride 16, ASPP 256, one head of 21",
        "size": size,
        "rounds": rounds,
        "score": score,
        "aims": {"lrp epsilon": 2.2, "lrp composite (z-box, alpha1-beta0, epsilon)": 3.3},
        "results": rows,
    }


def costs_of_steps(steps: int) -> dict[str, object]:
    """Memory and operations of an image at all steps of a long run, next to their aims."""
    with tempfile.TemporaryDirectory() as folder:
        long, short = write_run(Path(folder) / "long", steps), write_run(Path(folder) / "short", 1)
        return {
            "aims": {"memory ratio": 1.5, "operations ratio": 1.1},
            "memory": memory(long, short),
            "operations": operations_of_steps(long),
        }


PARTS = ("lrp", "steps", "seconds", "shares")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data", type=Path, help="folder of the pictures of animals-3-1-lagplus (for shares)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part alone; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/explain.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    measures: dict[str, Callable[[], dict[str, object]]] = {
        "lrp": lambda: lrp_costs(options.backbone, options.size, options.rounds),
        "steps": lambda: costs_of_steps(options.steps),
        "seconds": lambda: small_questions(options.rounds),
        "shares": lambda: shares_of_a_class(options.data, min(options.rounds, 2)),
    }
    kept = json.loads(options.out.read_text()) if options.only and options.out.exists() else {}
    result = {part: kept[part] for part in PARTS if part in kept}
    for part in options.only or PARTS:
        found = measures[part]()
        result[part] = {"machine": machine(), **found}
        if part != "lrp":
            print(part, json.dumps(found, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
