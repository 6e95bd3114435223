"""Small run folders for tests of the dashboard: real files by the run folder's writer, without tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lag_core import config as configuration
from lag_core.config import DataConfig
from lag_core.data.catalogue import open_dataset, task_of
from lag_core.explain.survey import TOP, Survey, write_survey
from lag_core.protocol import LabelSpace
from lag_core.runs import SCHEMA, append_event, labels_to_json, open_run, write_json

DATA = DataConfig(dataset="aerial", task="2-2-1")
INFO = open_dataset(DATA).info
STEPS = task_of(DATA, INFO).steps
CLASSES = [
    {"id": c.id, "name": c.name, "color": list(c.color)} for c in (INFO.class_of(i) for step in STEPS for i in step)
]
LATENT = 6
"""Channels of Z."""
LABELS = LabelSpace(STEPS, INFO.background, unknown=True)


def write_run(
    root: Path,
    name: str,
    *,
    method: str = "finetune",
    kept: float = 0.2,
    classes: Sequence[dict[str, Any]] = CLASSES,
    warnings: Sequence[str] = (),
    measured: bool = True,
) -> Path:
    """Write the run folder root/name of the aerial task 2-2-1.

    After each step a class of an earlier one keeps the share `kept` of the pixels that it had right; the
    lost pixels are called the class after it.
    """
    path = root / name
    path.mkdir(parents=True)
    config = configuration.resolve({"model": {"latent": LATENT}, "method": {"name": method}})
    write_json(
        path / "run.json",
        {
            "schema": SCHEMA,
            "name": name,
            "method": method,
            "status": "finished",
            "dataset": {"name": "aerial", "domains": ["rgb", "irrg"], "classes": list(classes)},
            "task": {"name": "2-2-1", "setting": "overlapped", "steps": [list(s) for s in STEPS]},
            "labels": labels_to_json(LABELS),
            "steps": [_step(t) for t in range(len(STEPS))],
            "warnings": list(warnings),
            "seed": 0,
            "hours": 0.1,
            "peak_memory_mib": 700.0,
            "versions": {"python": "3.11.0", "torch": "2.14.0"},
            "git": "abc1234",
            "machine": {"device": "test", "cores": 2},
            "config": configuration.to_dict(config),
        },
    )
    if measured:
        matrices = [confusion_after(t, kept) for t in range(len(STEPS))]
        domains = [{"rgb": m * 3 // 4, "irrg": m - m * 3 // 4} for m in matrices]
        entries = [
            {"step": t, "confusion": m.tolist(), "by_domain": {d: part.tolist() for d, part in parts.items()}}
            for t, (m, parts) in enumerate(zip(matrices, domains, strict=True))
        ]
        write_json(path / "metrics.json", {"schema": SCHEMA, "steps": entries})
    append_event(path / "events.jsonl", {"step": 0, "iteration": 0, "loss": 1.0})
    return path


def write_lost(path: Path, lost: Mapping[str, int]) -> None:
    """A survey of the run that knows these images of 1000 pixels each, all of the first class, and how many
    of them were lost by the last step; the rest of it is zero."""
    run, steps, classes = open_run(path), len(STEPS), len(CLASSES)
    by_image, by_step = (len(lost), steps, classes), (steps, classes)
    sizes: dict[str, tuple[int, ...]] = {
        "pixels": (len(lost), classes),
        "right": by_image,
        "lost": by_image,
        "shift": (len(lost), steps, 4),
        "confusion": (steps, classes, classes),
        "flows": (0, 5),
        "latent_pixels": (classes,),
        "prototypes": (*by_step, LATENT),
        "spread": by_step,
        "channel_mean": (steps, LATENT),
        "channel_energy": (steps, LATENT),
        "top_index": (steps, LATENT, TOP),
        "top_activation": (steps, LATENT, TOP),
        "distances": (0, steps - 1, LATENT),
    }
    arrays = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    arrays["top_index"][:] = -1
    arrays["pixels"][:, 0] = 1000
    arrays["lost"][:, -1, 0] = list(lost.values())
    write_survey(run, Survey(tuple(lost), (None,) * len(lost), (), run.labels, **arrays))


def _step(step: int) -> dict[str, Any]:
    return {
        "step": step, "files": [], "images": 240 - 40 * step, "iterations": 100, "seconds": 12.0 + step,
        "images_per_second": 130.0, "trained": ["heads"], "dead_terms": [],
    }  # fmt: skip


def confusion_after(step: int, kept: float) -> np.ndarray:
    """int64 [5, 5]: 1000 pixels a class, 900 right when introduced, times `kept` for each later step."""
    matrix = np.zeros((5, 5), np.int64)
    seen = sum(len(s) for s in STEPS[: step + 1])
    for cls in range(5):
        introduced = LABELS.step_of(cls)
        right = int(900 * kept ** (step - introduced)) if introduced <= step else 0
        matrix[cls, cls] = right
        matrix[cls, (cls + 1) % seen if cls < seen else cls % seen] += 1000 - right
    return matrix
