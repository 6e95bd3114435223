"""Count the training images of each step of a task."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lag_core.protocol import SETTINGS, LabelSpace, parse_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="aerial", help="aerial, folder, voc, ade20k or isprs")
    parser.add_argument("--root", default="", help="folder of the dataset")
    parser.add_argument("--task", required=True, help='such as "15-1" or "2-2-1"')
    parser.add_argument("--setting", default="overlapped", choices=SETTINGS)
    parser.add_argument("--fraction", type=float, default=1.0, help="share of each later step's images")
    parser.add_argument("--selection", default="prefix", choices=("prefix", "random"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lists", type=Path, help="file of lines 'image id id …' (VOC ids) instead of a dataset")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    from lag_core.data.splits import images_of_step

    present, labels = _from_lists(options) if options.lists else _from_dataset(options)
    counts = [
        len(
            images_of_step(
                present,
                labels,
                step,
                options.setting,
                fraction=options.fraction,
                selection=options.selection,
                seed=options.seed,
            )
        )
        for step in range(len(labels.steps))
    ]
    if options.json:
        print(json.dumps({"task": options.task, "setting": options.setting, "images": counts}))
    else:
        for step, count in enumerate(counts):
            print(f"step {step}: {count:6d} images, classes {', '.join(map(str, labels.steps[step]))}")
    return 0


def _from_dataset(options: argparse.Namespace) -> tuple[dict[str, frozenset[int]], LabelSpace]:
    from lag_core.config import resolve
    from lag_core.data.catalogue import open_dataset, task_of

    data = resolve({"data": {"dataset": options.dataset, "root": options.root, "task": options.task}}).data
    dataset = open_dataset(data)
    background = dataset.info.background
    labels = LabelSpace(task_of(data, dataset.info).steps, background, unknown=background is None)
    return dict(dataset.present("train")), labels


def _from_lists(options: argparse.Namespace) -> tuple[dict[str, frozenset[int]], LabelSpace]:
    from lag_core.config import ConfigError

    try:
        lines = [line.split() for line in options.lists.read_text("utf-8").splitlines() if line.strip()]
        present = {name: frozenset(map(int, ids)) for name, *ids in lines}
        return present, LabelSpace(parse_task(options.task, range(1, 21), 0).steps, background=0)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--lists {options.lists}: {error}") from None
