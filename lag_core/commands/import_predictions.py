"""Write a run folder of label maps that any framework made (docs/open-your-own.md).

STEP0, STEP1 … are folders, one per step, each with `<image>.png` (dataset ids) for every validation image, and
optionally `<image>.npz` with `scores` [K, h, w] or `latent` [C, h, w].
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lag_core.commands.arguments import place
from lag_core.sentences import counted, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", type=place, nargs="+", metavar="STEP", help="folder of label maps, one per step, in order"
    )
    parser.add_argument("--dataset", default="folder", help="folder, voc, ade20k, isprs, cityscapes or coco")
    parser.add_argument("--root", required=True, help="folder of the dataset")
    parser.add_argument("--task", required=True, help='such as "15-1" or "2-2-1"')
    parser.add_argument("--out", type=place, required=True, help="run folder to write")


def run(options: argparse.Namespace) -> int:
    from lag_core.adapters.adopting import write_foreign_run
    from lag_core.commands.measuring import write_measured
    from lag_core.config import ConfigError, resolve
    from lag_core.data.catalogue import open_dataset, task_of
    from lag_core.predictions import store
    from lag_core.protocol import LabelSpace
    from lag_core.writing import whole_folder

    tables = {
        "data": {"dataset": options.dataset, "root": str(Path(options.root).resolve()), "task": options.task},
        "method": {"name": "imported predictions", "loss": "ce"},
    }
    config = resolve(tables)
    dataset = open_dataset(config.data)
    background = dataset.info.background
    labels = LabelSpace(task_of(config.data, dataset.info).steps, background, unknown=background is None)
    if len(options.folders) > len(labels.steps):
        raise ConfigError(
            f"{counted(len(options.folders), 'folder')}, but task {options.task} has "
            f"{counted(len(labels.steps), 'step')}"
        )
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConfigError(f"{options.out} already contains files, which are never overwritten; choose another --out")
    with whole_folder(options.out):
        stored = store(options.folders, dataset, labels, options.out)
        network = {"kind": "stored", "images": list(stored.images), "sha256": stored.digest}
        method = {**tables["method"], "unknown": labels.unknown}
        config = resolve(
            {**tables, "method": method, **({"model": {"latent": stored.channels}} if stored.channels else {})}
        )
        opened = write_foreign_run(options.out, config, labels, dataset.info, network, len(options.folders))
    say(f"{counted(len(opened.steps), 'step')}, {counted(len(stored.images), 'label map')} each -> {opened.path}")
    write_measured(opened, dataset, "cpu")
    return 0
