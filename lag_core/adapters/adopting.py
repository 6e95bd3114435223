"""Run folders that name an adapter and the checkpoints of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lag_core import config as configuration
from lag_core.adapters.adapted_step import AdaptedStep
from lag_core.adapters.adapter import Adapter, AdapterError
from lag_core.config import Config, ConfigError
from lag_core.data.dataset import DatasetInfo
from lag_core.protocol import ClassInfo, LabelSpace
from lag_core.runs import SCHEMA, Run, RunError, file_digest, labels_to_json, open_run, write_json


def load_step(adapter: Adapter, run: Run, step: int, device: str) -> AdaptedStep:
    """The network of a step of a run that names an adapter. RunError if the checkpoint is not the run's."""
    try:
        entry = run.network["checkpoints"][step]
        path, digest = Path(str(entry["path"])), str(entry["sha256"])
    except (KeyError, IndexError, TypeError):
        raise RunError(f"{run.path / 'run.json'} names no checkpoint of step {step}; adopt them again") from None
    path = path if path.is_absolute() else run.path / path
    if not path.is_file():
        raise RunError(f"the checkpoint of step {step} is missing: looked for {path}; `lag adopt` names another place")
    if file_digest(path) != digest:
        raise RunError(f"{path} is not the checkpoint that {run.name} was made from; adopt the checkpoints again")
    return adapted(adapter, path, step, run.labels, device)


def adapted(adapter: Adapter, path: Path, step: int, labels: LabelSpace, device: str) -> AdaptedStep:
    """The network in a checkpoint, tested. AdapterError for whatever the adapter's `load` raises."""
    try:
        net = adapter.load(path, step, device)
    except Exception as error:  # the owner's code: it may raise anything
        raise AdapterError(f"adapter {type(adapter).__name__} cannot load {path}: {error}") from error
    if not isinstance(net, torch.nn.Module):
        raise AdapterError(f"adapter {type(adapter).__name__}: load returned {type(net).__name__}, not a network")
    return AdaptedStep(adapter, net.to(device), step, labels)


def label_space(names: Sequence[str], sizes: Sequence[int], dataset: DatasetInfo) -> LabelSpace:
    """The classes of a dataset by step. ConfigError for a name that the dataset does not have."""
    ids = {one.name: one.id for one in dataset.classes}
    for name in names:
        if name not in ids:
            raise ConfigError(f"{dataset.name} has no class {name!r}; it has {', '.join(ids)}")
    order, steps = [ids[name] for name in names], []
    for size in sizes:
        steps.append(tuple(order[:size]))
        order = order[size:]
    background = dataset.background if dataset.background in steps[0] else None
    return LabelSpace(tuple(steps), background, unknown=background is None)


def adopt(name: str, adapter: Adapter, checkpoints: Sequence[Path], dataset: DatasetInfo, data: dict[str, Any],
          out: Path, device: str = "cpu") -> Run:  # fmt: skip
    """Write a run folder of an adapter's checkpoints, one a step, in order; each is loaded and tested.

    `name`: the adapter's, as the run will name it. `data`: dataset and root, as in the configuration.
    """
    if len(checkpoints) > len(adapter.steps):
        raise ConfigError(f"{len(checkpoints)} checkpoints, but the adapter has {len(adapter.steps)} steps")
    labels = label_space(adapter.classes, adapter.steps, dataset)
    width, entries, without_lrp = 0, [], ""
    for step, path in enumerate(checkpoints):
        if not path.is_file():
            raise ConfigError(f"there is no checkpoint {path}")
        network_of_step = adapted(adapter, path, step, labels, device)
        width, without_lrp = _width(network_of_step), without_lrp or network_of_step.without_lrp()
        entries.append({"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": file_digest(path)})
    network = {
        "kind": "adapter",
        "adapter": name,
        "can": ["labels", "logits", "gradients", *(["latent"] if adapter.latent else []), *_lrp(without_lrp)],
        "without_lrp": without_lrp,
        "checkpoints": entries,
    }
    task = "-".join(map(str, [len(labels.steps[0]) - int(labels.background is not None), *adapter.steps[1:]]))
    tables = {
        "data": {**data, "task": task, "size": adapter.size},
        "method": {
            "name": type(adapter).__name__,
            "loss": "bce" if adapter.rule == "sigmoid" else "ce",
            "unknown": labels.unknown,
        },
    }
    if width:
        tables["model"] = {"latent": width}
    return write_foreign_run(out, configuration.resolve(tables), labels, dataset, network, len(checkpoints))


def _lrp(reason: str) -> list[str]:
    return [] if reason else ["lrp"]


def _width(step: AdaptedStep) -> int:
    """Channels of Z; 0 without."""
    return step.behind_trunk(step._pictures()[:1]).latent.shape[1]


def write_foreign_run(
    out: Path, config: Config, labels: LabelSpace, dataset: DatasetInfo, network: dict[str, Any], steps: int
) -> Run:
    """run.json of a run whose networks are not this project's. ConfigError if the folder already contains files."""
    if out.exists() and (not out.is_dir() or any(path.name != "predictions" for path in out.iterdir())):
        raise ConfigError(f"{out} already contains files, which are never overwritten; choose another --out")
    known: dict[int, ClassInfo] = {one.id: one for one in dataset.classes}
    classes = [{"id": i, "name": known[i].name, "color": list(known[i].color)} for i in labels.order]
    nothing = {"files": [], "images": 0, "iterations": 0, "seconds": 0.0, "images_per_second": 0.0}
    content = {
        "schema": SCHEMA,
        "name": out.name,
        "method": config.method.name,
        "status": "finished",
        "dataset": {"name": dataset.name, "domains": list(dataset.domains), "classes": classes},
        "task": {"name": config.data.task, "setting": "overlapped", "steps": labels_to_json(labels)["steps"]},
        "labels": labels_to_json(labels),
        "steps": [{"step": step, **nothing} for step in range(steps)],
        "warnings": [],
        "config": configuration.to_dict(config),
        "network": network,
    }
    write_json(out / "run.json", content)
    return open_run(out)
