"""How fast a later step trains: img/s, memory, and where the time goes, for our modes and for a plain loop.

`python benchmarks/training.py --backbone resnet18 --size 224 --batch 8 --out benchmarks/results/training-cpu.json`

Rows are timed in turn, round by round, in one process, so that a ratio is a median of pairs that saw the same machine:
lag, lag+, reference, finetune (the whole network), "plain": a distillation loop as the literature writes it, with two
whole networks, autocast and loader workers, and "segmentation": lag without its own loss terms. The images are made
up; their sizes and files are like VOC's. `--input` times the input pipeline alone. `--compile` times each row of ours
with torch.compile beside itself without, and says what the first iterations took.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lag_core import config as configuration
from lag_core.method.classification import cross_entropy
from lag_core.method.distillation import distil_logits
from lag_core.method.objective import Batch
from lag_core.method.presets import preset
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.training import surroundings
from lag_core.training.continual import Batches, ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.loading import loaded
from lag_core.training.reporting import Reporter

ROWS = ("finetune", "lag", "lag+", "reference", "plain", "segmentation")
BASES = ("finetune", "plain", "segmentation")
"""Rows that the others are divided by."""
SEGMENTATION_ALONE = {"method": dict.fromkeys(("kd_logits", "kd_latent", "spm", "sfp", "nsc"), 0.0)}
"""On top of lag: its network and its teacher's pseudo-labels, without its own loss terms."""
CLASSES = 6
HEIGHT, WIDTH = 375, 500

RATES = dict.fromkeys(("lr_head_later", "lr_aspp_later", "lr_stage_later"), 1e-6)
"""So low that random weights stay finite however many iterations are timed; the time does not depend on them."""

COMPILED = ", compiled"
"""Behind the name of a row that torch.compile was asked for."""

Step = Callable[[int], None]
"""Trains one iteration."""


def write_images(root: Path, count: int) -> Path:
    """Pictures with smooth shapes and some noise, each with all classes, in the folder layout."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    names = [f"i{k:03}" for k in range(count)]
    for name in names:
        coarse = rng.integers(0, CLASSES, (5, 7)).astype(np.uint8)
        mask = np.kron(coarse, np.ones((75, 72), np.uint8))[:HEIGHT, :WIDTH]
        base = np.stack([mask * 40, mask * 17 % 200, mask * 91 % 220], -1)
        image = (base + rng.integers(0, 30, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.jpg", quality=90)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    known = [{"id": i, "name": "background" if i == 0 else f"c{i}", "color": [40 * i, 0, 0]} for i in range(CLASSES)]
    (root / "classes.json").write_text(json.dumps(known))
    (root / "train.txt").write_text("".join(f"{name}\n" for name in names[:-2]))
    (root / "val.txt").write_text("".join(f"{name}\n" for name in names[-2:]))
    return root


def tables_of(row: str, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The configuration of a row; "plain" shares finetune's."""
    compiles, row = compiled(row), row.removesuffix(COMPILED)
    whole = row in ("finetune", "plain")
    fast = options.device == "cuda"
    return configuration.merge(
        [
            preset({"plain": "finetune", "segmentation": "lag"}.get(row, row)),
            SEGMENTATION_ALONE if row == "segmentation" else {},
            {
                "data": {
                    "dataset": "folder", "root": str(root), "task": "3-2", "size": options.size, "views": 0,
                    "augmentation": "field", "workers": options.workers, "holdout": 0.0,
                },
                "model": {
                    "backbone": options.backbone, "shared": "none" if whole else "layer3",
                    "latent": options.latent, "head_width": options.latent, "separable": False,
                },
                "optim": {
                    "epochs": 0, "epochs_later": 1000, "batch": options.batch, "threads": options.threads,
                    "device": options.device, **RATES, "amp": options.amp, "extractor_delay": 0.0,
                    "deterministic": False, "channels_last": fast, "fused": fast, "tf32": fast,
                    "compile": compiles, "label_stride": options.label_stride, "batch_norm": "always" if whole
                    else "first",
                },
                "log": {"events_every": 10**6, "gradients_every": 10**6},
            },
        ]
    )  # fmt: skip


def compiled(row: str) -> bool:
    """Whether a row is one with torch.compile."""
    return row.endswith(COMPILED)


class Stopwatch:
    """Seconds by part. On a GPU it waits at each part's ends, so that only shares are taken from it."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)
        self._inner = [0.0]

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time spent within, without that of the parts inside."""
        began = self.now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = self.now() - began
            self.seconds[name] += whole - self._inner.pop()
            self._inner[-1] += whole

    def watch(self, holder: Any, attribute: str, name: str) -> None:
        """Time every call of holder.attribute."""
        original = getattr(holder, attribute)

        def timed(*args: Any, **named: Any) -> Any:
            with self.part(name):
                return original(*args, **named)

        object.__setattr__(holder, attribute, timed)


class Ours:
    """A row of this project: the trainer's own loop on step 1."""

    def __init__(self, config: configuration.Config, folder: Path):
        training = ContinualTraining(config, folder, Reporter(quiet=True), FeatureStore())
        first = training._step(None, 0)
        self.batches, self.loop = training._prepare(first, 1)
        self.stream = iter(self.batches.stream(range(1, 10**6)))
        self.device = training.device

    def __call__(self, iteration: int) -> None:
        self.loop._iterate(iteration, self.stream)

    def watched(self, watch: Stopwatch) -> Step:
        loop, inner = self.loop, self.stream
        for model in (loop.student, loop.teacher):
            watch.watch(model, "trunk", "trunk")
            watch.watch(model, "behind_trunk", "stage, ASPP and heads")
        loop._behind_trunk, loop._trunk = loop.student.behind_trunk, loop.student.trunk
        objective = loop.objective
        watch.watch(loop.schedule, "step", "optimiser")

        def losses(*args: Any) -> Any:
            with watch.part("losses"):
                return objective(*args)

        losses.needs_teacher = objective.needs_teacher  # type: ignore[attr-defined]
        loop.objective = losses  # type: ignore[assignment]

        def waiting() -> Iterator[Batch]:
            while True:
                with watch.part("data"):
                    batch = next(inner)
                yield batch

        self.stream = waiting()

        def step(iteration: int) -> None:
            with watch.part("backward and rest"):
                self(iteration)

        return step


class Plain:
    """A distillation loop as the literature writes it: both networks whole, NCHW, autocast, no shared trunk."""

    def __init__(self, config: configuration.Config, batches: Batches, student: Segmenter, teacher: Segmenter):
        self.config, self.stream = config, iter(batches.stream(range(1, 10**6)))
        self.student, self.teacher = student, teacher
        self.device = batches.device
        self.student.requires_grad_(True).train()
        self.optimiser = torch.optim.SGD(student.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)
        half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        self.amp = half if config.optim.amp != "off" else None
        self.scaler = torch.amp.GradScaler(enabled=self.amp == torch.float16)

    def __call__(self, iteration: int) -> None:
        batch = next(self.stream)
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            new = self.student(batch.inputs).logits
            with torch.no_grad():
                old = self.teacher(batch.inputs).logits
            loss = cross_entropy(upsample(new, batch.targets.shape[-2:]), batch.targets) + distil_logits(new, old)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        loss.item()  # what a plain loop logs


def rows_of(options: argparse.Namespace, root: Path, folder: Path) -> dict[str, Ours | Plain]:
    rows: dict[str, Ours | Plain] = {}
    twice = [name + COMPILED for name in options.rows if name != "plain"] if options.compile else []
    for name in (*options.rows, *twice):
        config = configuration.resolve(tables_of(name, options, root))
        ours = Ours(config, folder / name)
        rows[name] = ours
        if name == "plain":
            assert ours.loop.teacher is not None
            rows[name] = Plain(config, ours.batches, ours.loop.student, ours.loop.teacher)
    return rows


def timed(step: Step, iterations: range, device: torch.device) -> float:
    """Seconds of one iteration."""
    watch = Stopwatch(device)
    began = watch.now()
    for iteration in iterations:
        step(iteration)
    return (watch.now() - began) / len(iterations)


def ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds."""
    return median(a / b for a, b in zip(own, base, strict=True))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: what the device gives at best."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def product(_: int) -> None:
        a @ b

    return 2 * n**3 / min(timed(product, range(3), device) for _ in range(5))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder) / "images", options.images)
        rows = rows_of(options, root, Path(folder) / "runs")
        device = next(iter(rows.values())).device
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        memory: dict[str, float] = {}
        flops: dict[str, int] = {}
        first: dict[str, float] = {}
        place = 1
        for name, row in rows.items():
            first[name] = timed(row, range(place, place + 2), device) * 2
            if not compiled(name):
                counter = FlopCounterMode(display=False)
                with counter:
                    row(place + 2)
                flops[name] = counter.get_total_flops()
        place += 3
        for _ in range(options.rounds):
            for name, row in rows.items():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                seconds[name].append(timed(row, range(place, place + options.iterations), device))
                memory[name] = surroundings.peak_memory_mib(device)
            place += options.iterations
        amp = surroundings.amp_type(options.amp, device)
        rate = matrix_rate(device, amp or torch.float32)
        found = {
            name: {
                "seconds": median(values),
                "images_per_second": options.batch / median(values),
                **{f"of_{base}": ratio(values, seconds.get(base, values)) for base in BASES},
                "first_two_seconds": first[name],
                "gigaflops": flops[name.removesuffix(COMPILED)] / 1e9,
                "flop_utilisation": flops[name.removesuffix(COMPILED)] / median(values) / rate,
                **({"of_itself": ratio(values, seconds[name.removesuffix(COMPILED)])} if compiled(name) else {}),
                "peak_memory_mib": memory[name] if device.type == "cuda" else None,
                "rounds": values,
            }
            for name, values in seconds.items()
        }
        for name, row in rows.items():
            if isinstance(row, Ours) and not compiled(name):
                found[name]["shares"] = shares(row, range(place, place + options.iterations))
        around = surroundings.describe(device)
    asked = {key: value for key, value in vars(options).items() if key not in ("out", "input")}
    return {"options": asked, **around, "matrix_gigaflops": rate / 1e9, "rows": found}


def shares(row: Ours, iterations: range) -> dict[str, float]:
    """Share of each part in an iteration. Parts inside another are taken out of it."""
    watch = Stopwatch(row.device)
    step = row.watched(watch)
    for iteration in iterations:
        step(iteration)
    whole = sum(watch.seconds.values())
    return {name: value / whole for name, value in watch.seconds.items()}


def rate(batches: Iterable[Any], size: int) -> float:
    """Images a second of batches of `size`, from the first batch on: starting the workers does not count."""
    supply = iter(batches)
    next(supply)
    began = time.perf_counter()
    count = sum(1 for _ in supply)
    return count * size / (time.perf_counter() - began)


def input_rates(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of the input pipeline alone, by number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder) / "images", options.images)
        config = configuration.resolve(tables_of("finetune", options, root))
        training = ContinualTraining(config, Path(folder) / "run", Reporter(quiet=True), FeatureStore())
        views = training._views(training._student(None, 0), list(training.dataset.ids("train")), trunk_moves=True)
        count = options.iterations * 4
        orders = [
            ([k % len(views) for k in range(n * options.batch, (n + 1) * options.batch)], list(range(options.batch)))
            for n in range(count)
        ]
        found: dict[str, list[float]] = {"0": [], "1": [], "2": []}
        for _ in range(options.rounds):
            for workers, rounds in found.items():
                rounds.append(rate(loaded(views._draw, orders, int(workers)), options.batch))  # type: ignore[attr-defined]
        rates = {workers: median(rounds) for workers, rounds in found.items()}
    return {"images_per_second_by_workers": rates, "rounds": found, **surroundings.describe(torch.device("cpu"))}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--latent", type=int, default=128)
    parser.add_argument("--label-stride", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--amp", default="off", choices=["off", "auto", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=3, help="of each row in a round")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--input", action="store_true", help="time the input pipeline alone")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    options = arguments(given)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    found = input_rates(options) if options.input else measure(options)
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    return found


if __name__ == "__main__":
    main()
