"""Runs as they ship: float16 weights, tensors of several runs stored once, no folder of the machine named."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lag_core import config as configuration
from lag_core import palette
from lag_core.config import ConfigError
from lag_core.data.catalogue import Dataset
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import changed
from lag_core.runs import (
    SHARED,
    Run,
    RunError,
    keep_events,
    open_run,
    write_json,
    write_tensors,
)
from lag_core.training.evaluation import evaluate, measured_ids, write_metrics
from lag_core.training.features import Progress
from lag_core.training.model_card import model_card
from lag_core.training.vital_signs import vital_signs
from lag_core.writing import naming, write_atomically

EVENT_LINES = 400
"""At most about so many lines of events.jsonl ship with a run."""

RICH = frozenset({"gradient_norms", "shares"})
"""Keys of the lines that are kept first."""

SHARED_BYTES = 16 * 1024
"""Tensors that are shared by the same runs are stored apart if they have at least this size together."""

Tensors = dict[str, np.ndarray]
Place = tuple[int, int]
"""(number of the run, step)."""


@dataclass
class Packing:
    """A run to be packed: the tensors that each step changed, as they will be stored."""

    run: Run
    deltas: list[Tensors]
    files: list[list[dict[str, Any]]] = field(default_factory=list)
    """Entries of run.json's `files`, a list for each step."""


def pack(
    runs: Sequence[Run],
    root: Path,
    *,
    data: Path | None = None,
    note: str = "",
    commands: Sequence[str] | None = None,
    progress: Progress,
) -> list[Path]:
    """Write copies of finished runs under `root`, as they ship; returns their folders.

    The metrics are measured again with the rounded weights, so every dataset must be available. `note` and a
    command for each run go into the model cards. ConfigError, RunError or DatasetMissing for a user's
    mistake; nothing is left behind then, and no file is ever overwritten.
    """
    _check(runs, root)
    datasets = [one.open_dataset(data if one.config.data.root else None) for one in runs]
    packings = [Packing(one, rounded_deltas(one)) for one in runs]
    with naming(root):
        root.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        _write_shared(packings, root, written)
        for one, dataset, command in zip(packings, datasets, commands or [""] * len(runs), strict=True):
            written.append(_write_run(one, dataset, root, note, command, progress))
    except BaseException:
        for path in written:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise
    return [path for path in written if path.is_dir()]


def _check(runs: Sequence[Run], root: Path) -> None:
    """ConfigError or RunError unless every run is finished and has a free place under `root`."""
    names = [one.name for one in runs]
    for one in runs:
        if one.status != "finished":
            raise RunError(f"{one.path} is not finished (status {one.status!r}) and cannot be packed")
        if names.count(one.name) > 1:
            raise ConfigError(f"two of the runs are called {one.name!r}; rename one folder")
        if one.name == SHARED or (root / one.name).exists():
            raise ConfigError(f"{root / one.name} exists and is never overwritten; choose another --out")


def rounded_deltas(run: Run) -> list[Tensors]:
    """The tensors that each step changed, rounded to float16; a change that rounding undoes is dropped.

    Parameters and running statistics of normalisation layers stay float32: they are few, and small variances
    do not survive float16.
    """
    exact = normalisation_names(run)
    merged: Tensors = {}
    deltas = []
    for step in range(len(run.steps)):
        rounded = {name: _rounded(name, value, exact) for name, value in run.delta(step).items()}
        deltas.append(changed(rounded, merged))
        merged |= rounded
    return deltas


def normalisation_names(run: Run) -> frozenset[str]:
    """Names of the tensors of normalisation layers in the run's last network."""
    with torch.device("meta"):
        model = Segmenter(run.config.model, run.labels.head_sizes(run.last_step))
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    return frozenset(f"{name}.{tensor}" for name, layer in layers for tensor in layer.state_dict())


def _rounded(name: str, value: np.ndarray, exact: frozenset[str]) -> np.ndarray:
    if name in exact:
        return value
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise RunError(f"tensor {name} does not fit float16: it holds {np.abs(value).max():g}")
    return half


def shared_groups(deltas: Sequence[Sequence[Tensors]]) -> Iterator[tuple[tuple[Place, ...], Tensors]]:
    """(places, tensors) of equal tensors that are found in the same steps of the same two or more runs.

    `deltas[run][step]` are a step's tensors. A tensor is equal to another of the same name and bytes.
    """
    places: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for number, steps in enumerate(deltas):
        for step, tensors in enumerate(steps):
            for name, value in tensors.items():
                places[name, _content(value)].append((number, step))
    groups: dict[tuple[Place, ...], Tensors] = defaultdict(dict)
    for (name, _), where in places.items():
        number, step = where[0]
        groups[tuple(where)][name] = deltas[number][step][name]
    for found, tensors in sorted(groups.items()):
        several = len({number for number, _ in found}) > 1
        if several and sum(value.nbytes for value in tensors.values()) >= SHARED_BYTES:
            yield found, tensors


def _content(value: np.ndarray) -> str:
    return hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).hexdigest()


def _write_shared(packings: Sequence[Packing], root: Path, written: list[Path]) -> None:
    """Store each group once under root/shared, and take it out of the steps that name it."""
    for one in packings:
        one.files = [[] for _ in one.deltas]
    for places, tensors in list(shared_groups([one.deltas for one in packings])):
        entry = _write_named_by_digest(root / SHARED, tensors, written)
        for number, step in places:
            packings[number].files[step].append(entry)
            for name in tensors:
                del packings[number].deltas[step][name]


def _write_named_by_digest(folder: Path, tensors: Tensors, written: list[Path]) -> dict[str, Any]:
    """A safetensors file named after the first 16 digits of its SHA-256; its entry for run.json.

    Tensors of few values, as those of a quantised backbone, take a byte per element (palette).
    """
    tensors = palette.indexed(tensors)
    content_name = _file_name(tensors)
    path = folder / content_name
    if not path.exists():
        written.append(path)
    return write_tensors(path, tensors)


def _file_name(tensors: Tensors) -> str:
    from safetensors.numpy import save

    return f"{hashlib.sha256(save(tensors)).hexdigest()[:16]}.safetensors"


def _write_run(one: Packing, dataset: Dataset, root: Path, note: str, command: str, progress: Progress) -> Path:
    """Write a run to a folder of another name, measure it there, and rename it when it is complete."""
    target = root / one.run.name
    with naming(target):
        staging = Path(tempfile.mkdtemp(dir=root, prefix=".packing-"))
    try:
        for step, tensors in enumerate(one.deltas):
            if tensors:
                one.files[step].append(write_tensors(staging / f"step_{step:02d}.safetensors", tensors))
        _copy_analysis(one.run, staging)
        keep_events(staging / "events.jsonl", thinned(one.run.events(), EVENT_LINES))
        write_json(staging / "run.json", neutral_info(one.run.info, one.files))
        packed = open_run(staging)
        measured = evaluate(packed, dataset, progress)
        write_metrics(staging / "metrics.json", measured, len(measured_ids(dataset, packed.config.data)))
        card = model_card(packed, one.run.name, vital_signs(packed, dataset), note=note, command=command)
        write_atomically(staging / "MODEL_CARD.md", card.encode())
        with naming(target):
            staging.chmod(0o755)
            return staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _copy_analysis(run: Run, target: Path) -> None:
    """Copy the analyses. Full covariances (about 400 KiB per class) are left out: only training needs them."""
    for step in range(len(run.steps)):
        arrays = run.whole_analysis(step)
        if arrays.get("statistics.scatter", np.empty(0)).ndim == 3:
            arrays = {name: value for name, value in arrays.items() if not name.startswith("statistics.")}
        if arrays:
            write_tensors(target / f"analysis_{step:02d}.safetensors", arrays)


def neutral_info(info: Mapping[str, Any], files: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """run.json with the packed files, and with only the last part of each path."""
    steps = [{**step, "files": list(entries)} for step, entries in zip(info["steps"], files, strict=True)]
    return {**info, "steps": steps, "weights": "float16", "config": configuration.neutral(info["config"])}


def thinned(events: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """At most `limit` events and two more for each step, evenly spread.

    The first and last of each step stay; those with gradient norms or shares go before those without.
    """
    if len(events) <= limit:
        return list(events)
    rich = [i for i, event in enumerate(events) if RICH & event.keys()]
    plain = [i for i, event in enumerate(events) if not RICH & event.keys()]
    kept = set(_spread(rich, limit))
    kept |= set(_spread(plain, limit - len(kept)))
    for i, event in enumerate(events):
        step = event.get("step")
        if i in (0, len(events) - 1) or events[i - 1].get("step") != step or events[i + 1].get("step") != step:
            kept.add(i)
    return [events[i] for i in sorted(kept)]


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spaced, first and last among them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in places]
