"""Count the training images of each step of a task.

All training images are counted. `train` first sets data.holdout of them aside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from lag_core import reading
from lag_core.commands.arguments import place
from lag_core.config import ConfigError, DataConfig, resolve
from lag_core.protocol import SETTINGS, LabelSpace, parse_task
from lag_core.sentences import say

LISTED_CLASSES = {"voc": 20, "ade20k": 150}
"""Foreground classes of the datasets whose lists of classes can stand in for their masks; 0 is background."""

Listing = tuple[dict[str, frozenset[int]], LabelSpace, Callable[[str], str]]
"""(image -> dataset ids in it, labels, domain of an image)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="aerial", help="aerial, folder, voc, ade20k, isprs, cityscapes or coco")
    parser.add_argument("--root", default="", help="folder of the dataset")
    parser.add_argument("--task", required=True, help='such as "15-1" or "2-2-1"')
    parser.add_argument(
        "--setting", default="overlapped", choices=SETTINGS, help="protocol of a step's images and labels"
    )
    parser.add_argument("--domains", nargs="+", default=[], help="domain of step 0, then of every later step")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of each later step's images")
    parser.add_argument("--selection", default="prefix", choices=("prefix", "random"), help="how they are chosen")
    parser.add_argument("--seed", type=int, default=0, help="of random selection and of `partitioned`")
    parser.add_argument(
        "--lists", type=place, help="file of lines 'image id id …' to count from, with --dataset voc or ade20k"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    from lag_core.data.splits import images_of_step

    data = _data_config(options)
    present, labels, domain_of = _from_lists(options.lists, data) if options.lists else _from_dataset(data)
    counts = [
        len(
            images_of_step(
                present,
                labels,
                step,
                data.setting,
                fraction=data.fraction,
                selection=data.selection,
                seed=options.seed,
                domain_of=domain_of,
                domains=data.domains,
            )
        )
        for step in range(len(labels.steps))
    ]
    if options.json:
        say(json.dumps({"task": data.task, "setting": data.setting, "images": counts}))
    else:
        for step, count in enumerate(counts):
            say(f"step {step}: {count:6d} image{'s' * (count != 1)}, classes {', '.join(map(str, labels.steps[step]))}")
    return 0


def _data_config(options: argparse.Namespace) -> DataConfig:
    """The options as a checked configuration. With --lists, no folder is needed."""
    names = ("dataset", "task", "setting", "domains", "fraction", "selection")
    table = {name: getattr(options, name) for name in names}
    return resolve({"data": {**table, "root": options.root or (str(options.lists) if options.lists else "")}}).data


def _from_dataset(data: DataConfig) -> Listing:
    """From the masks of the whole training set."""
    from lag_core.data.catalogue import open_dataset, task_of

    dataset = open_dataset(data)
    background = dataset.info.background
    labels = LabelSpace(task_of(data, dataset.info).steps, background, unknown=background is None)
    return dict(dataset.present("train")), labels, dataset.domain


def _from_lists(path: Path, data: DataConfig) -> Listing:
    """From a file that says which classes are in which image."""
    if data.dataset not in LISTED_CLASSES:
        raise ConfigError(f"--lists works with --dataset {' or '.join(LISTED_CLASSES)}, not {data.dataset!r}")
    try:
        lines = [line.split() for line in reading.read_text(path, reading.NAMES).splitlines() if line.strip()]
        present = {name: frozenset(map(int, ids)) for name, *ids in lines}
    except (OSError, ValueError) as error:
        raise ConfigError(f"--lists {path}: {error}; expected lines 'image id id …'") from None
    try:
        task = parse_task(data.task, range(1, LISTED_CLASSES[data.dataset] + 1), 0)
    except ValueError as error:
        raise ConfigError(f"--task {data.task}: {error}") from None
    return present, LabelSpace(task.steps, background=0), lambda name: ""
