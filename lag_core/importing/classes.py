"""The classes of imported checkpoints, in the order of introduction, and their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lag_core import reading
from lag_core.config import DataConfig
from lag_core.data.catalogue import DatasetMissing, open_dataset
from lag_core.data.isprs import INFO as ISPRS
from lag_core.data.voc import INFO as VOC
from lag_core.data.voc import palette_color
from lag_core.importing.error import CheckpointError
from lag_core.protocol import ClassInfo, LabelSpace, parse_task

KNOWN = {"voc": VOC, "isprs": ISPRS}
"""Datasets whose classes need no file."""


@dataclass(frozen=True)
class ClassList:
    """Classes in order of introduction: the first is the network's label 0."""

    dataset: str
    """Kind of dataset, as in `config.data.dataset`."""
    name: str
    domains: tuple[str, ...]
    classes: tuple[ClassInfo, ...]


def of_dataset(dataset: str, root: Path | None) -> ClassList:
    """The classes of a dataset in the order of their ids. CheckpointError if they are unknown."""
    if root is None and dataset in KNOWN:
        info = KNOWN[dataset]
    elif root is None:
        raise CheckpointError(f"the classes of {dataset!r} are in its folder: name it with --data, or give --classes")
    else:
        try:
            info = open_dataset(DataConfig(dataset=dataset, root=str(root))).info  # type: ignore[arg-type]
        except DatasetMissing:
            if dataset not in KNOWN:
                raise
            info = KNOWN[dataset]
    classes = sorted(info.classes, key=lambda one: one.id != info.background)  # stable: the background comes first
    return ClassList(dataset, info.name, info.domains, tuple(classes))


def of_file(path: Path, dataset: str | None) -> ClassList:
    """The classes in a JSON file, in order of introduction: objects (id, name, color), or names numbered from 0."""
    try:
        stored = reading.read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"--classes: there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"--classes: {path} is not readable JSON ({error})") from None
    entries = stored.get("classes") if isinstance(stored, dict) else stored
    if not isinstance(entries, list) or not 2 <= len(entries) <= 255:
        raise CheckpointError(f"--classes: {path} contains no list of 2 to 255 classes")
    classes = tuple(_class(place, entry, path) for place, entry in enumerate(entries))
    if len({one.id for one in classes}) < len(classes):
        raise CheckpointError(f"--classes: {path} gives one id to two classes")
    kind = dataset or "folder"
    return ClassList(kind, kind if dataset else path.resolve().parent.name or kind, (), classes)


def _class(place: int, entry: Any, path: Path) -> ClassInfo:
    match entry:
        case str(name) if name:
            return ClassInfo(place, name, palette_color(place))
        case {"id": int(number), "name": str(name), **rest} if name and 0 <= number < 255:
            color = rest.get("color", list(palette_color(number)))
            match color:
                case [int(red), int(green), int(blue)] if all(0 <= v <= 255 for v in (red, green, blue)):
                    return ClassInfo(number, name, (red, green, blue))
    raise CheckpointError(
        f"--classes: {path}: {str(entry)[:80]} is not a class; expected a name, or id 0..254, name and color"
    )


def label_space(classes: Sequence[ClassInfo], task: str, sizes: Sequence[int], unknown: bool, where: str) -> LabelSpace:
    """The steps of `task` over `classes`, if a file's heads have those sizes.

    `sizes`: classes of the steps so far, the background counted with step 0. A task counts classes without the
    background; where the first class is a real one (ISPRS), it counts that, too. Either way it is the network's label
    0, to which the unknown's probability is added.
    """
    ids = [one.id for one in classes]
    if "_" in task:
        raise CheckpointError(
            f"--task {task}: the class orders that codes name by a letter differ; give only the numbers, such as "
            f"{task.partition('_')[0]}, and give the classes in their order with --classes"
        )
    wanted = ""
    for background, rest in ((ids[0], ids[1:]), (None, ids)):
        try:
            steps = parse_task(task, rest, background).steps
        except ValueError as error:
            wanted = wanted or str(error)
            continue
        found = [len(step) for step in steps]
        if found[: len(sizes)] == list(sizes):
            return LabelSpace(steps, ids[0], unknown)
        wanted = wanted or f"task {task!r} over {len(ids)} classes has {_numbers(found)}"
    raise CheckpointError(
        f"{where} has steps of {_numbers(sizes)} classes, the background among them; {wanted}: "
        "say what it was trained on with --task and --classes"
    )


def _numbers(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes[:12])) + (", …" if len(sizes) > 12 else "") if sizes else "no"
