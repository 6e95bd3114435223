"""Checkpoints of all steps -> a run folder like any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lag_core import config as configuration
from lag_core.config import Config
from lag_core.importing.classes import ClassList, label_space
from lag_core.importing.container import Checkpoint, read_checkpoint
from lag_core.importing.error import CheckpointError
from lag_core.importing.formats import Format
from lag_core.importing.recognition import backbone_of, gamma_of, recognise
from lag_core.importing.source import Source
from lag_core.importing.torchvision_layout import Shapes
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import changed
from lag_core.protocol import LabelSpace
from lag_core.runs import SCHEMA, Run, labels_to_json, open_run, write_json, write_tensors
from lag_core.writing import whole_folder


@dataclass(frozen=True)
class Request:
    """What to import, and what the files do not say."""

    checkpoints: tuple[Path, ...]
    """One per step, in order."""
    out: Path
    task: str
    classes: ClassList
    format: str | None = None
    """None: recognise it."""
    size: int | None = None
    """Side of the square that the network is to see; None: that of the format's own evaluation."""
    root: str = ""
    """Folder of the dataset."""
    setting: str = "overlapped"
    norm: str | None = None
    """"iabn" or "abn"; None: not given."""
    output_stride: int = 16


def import_run(request: Request, say: Callable[[str], None] = lambda sentence: None) -> Run:
    """Write the run folder and open it. CheckpointError or ConfigError leave nothing behind."""
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise CheckpointError(f"{request.out} exists and is not empty; name another run folder with --out")
    with whole_folder(request.out):
        _write(request, say)
    return open_run(request.out)


def _write(request: Request, say: Callable[[str], None]) -> None:
    form, config, labels = _first(request)
    before: dict[str, np.ndarray] = {}
    files: list[dict[str, Any]] = []
    origins: list[dict[str, str]] = []
    for step, path in enumerate(request.checkpoints):
        checkpoint = read_checkpoint(path)
        recognise(checkpoint, step, form.name)
        tensors = converted(checkpoint, form, config, labels, step, request.norm)
        delta = changed(tensors, before)
        files.append(write_tensors(request.out / f"step_{step:02d}.safetensors", delta))
        origins.append({"name": path.name, "sha256": checkpoint.sha256})
        say(f"step {step}: {path.name}, {len(delta)} of {len(tensors)} tensors are new or changed")
        before = tensors
    write_json(request.out / "run.json", _info(request, form, config, labels, files, origins))


def _first(request: Request) -> tuple[Format, Config, LabelSpace]:
    """Format, configuration and classes, by the first and the last file."""
    first = read_checkpoint(request.checkpoints[0])
    form = recognise(first, 0, request.format)
    config = _config(request, form, backbone_of(first, form))
    last = len(request.checkpoints) - 1
    sizes = form.step_sizes(Source(read_checkpoint(request.checkpoints[-1]), form.title), last)
    if len(sizes) != last + 1:
        raise CheckpointError(
            f"{request.checkpoints[-1]} has {len(sizes)} steps, but is the file of step {last}: name one "
            "checkpoint per step, from step 0 on, in order"
        )
    where = str(request.checkpoints[-1])
    return form, config, label_space(request.classes.classes, request.task, sizes, form.unknown, where)


def converted(
    checkpoint: Checkpoint, form: Format, config: Config, labels: LabelSpace, step: int, norm: str | None
) -> dict[str, np.ndarray]:
    """Our network's tensors after `step`, float32, by name."""
    shapes = shapes_of(config, labels, step)
    source = Source(checkpoint, form.title)
    tensors = form.tensors(source, shapes, gamma_of(checkpoint, form, norm))
    source.finish()
    return {name: tensors[name].contiguous().numpy() for name in shapes}


def shapes_of(config: Config, labels: LabelSpace, step: int) -> Shapes:
    """Name and shape of every tensor of the network after `step`."""
    with torch.device("meta"):
        model = Segmenter(config.model, labels.head_sizes(step))
    state = model.state_dict().items()
    return {name: tuple(value.shape) for name, value in state if not name.endswith("num_batches_tracked")}


def _config(request: Request, form: Format, backbone: str) -> Config:
    data = {
        "dataset": request.classes.dataset,
        "root": request.root or request.classes.name,
        "task": request.task,
        "setting": request.setting,
        "size": request.size or form.size,
        "fit": "crop",
    }
    model = {"backbone": backbone, "output_stride": request.output_stride, **form.network}
    method = {"name": form.name, "loss": form.loss, "unknown": form.unknown, "extractor": "live", "old_heads": "live"}
    return configuration.resolve({"data": data, "model": model, "method": method})


def _info(
    request: Request,
    form: Format,
    config: Config,
    labels: LabelSpace,
    files: Sequence[dict[str, Any]],
    origins: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """run.json. Values that only training knows (images, iterations, seconds) are 0."""
    known = {one.id: one for one in request.classes.classes}
    classes = [{"id": i, "name": known[i].name, "color": list(known[i].color)} for i in labels.order]
    untold = {"images": 0, "iterations": 0, "seconds": 0.0, "images_per_second": 0.0}
    return {
        "schema": SCHEMA,
        "name": request.out.name,
        "method": form.name,
        "status": "finished",
        "dataset": {"name": request.classes.name, "domains": list(request.classes.domains), "classes": classes},
        "task": {"name": request.task, "setting": request.setting, "steps": [list(s) for s in labels.steps]},
        "labels": labels_to_json(labels),
        "steps": [{"step": step, "files": [file], **untold} for step, file in enumerate(files)],
        "warnings": [],
        "imported": {"format": form.name, "norm": request.norm, "files": list(origins)},
        "config": configuration.to_dict(config),
    }
