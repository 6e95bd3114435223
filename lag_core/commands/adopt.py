"""Write a run folder for your own network's checkpoints, opened by an adapter (docs/open-your-own.md).

One checkpoint per step, in order. Each is loaded and tested, and all are measured on the dataset's validation images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lag_core.commands.arguments import place
from lag_core.sentences import counted, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", type=place, nargs="+", metavar="CHECKPOINT", help="of each step, in order")
    parser.add_argument("--adapter", required=True, help="module:Class, or the name of an installed adapter")
    parser.add_argument("--dataset", default="folder", help="folder, voc, ade20k, isprs, cityscapes or coco")
    parser.add_argument("--root", required=True, help="folder of the dataset")
    parser.add_argument("--out", type=place, required=True, help="run folder to write")
    parser.add_argument("--no-metrics", action="store_true", help="do not measure the steps on the validation images")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option that says where networks run."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where the networks run (default: a GPU if any)",
    )


def run(options: argparse.Namespace) -> int:
    from lag_core.adapters.adopting import adopt
    from lag_core.adapters.finding import allow, find_adapter
    from lag_core.commands.measuring import write_measured
    from lag_core.config import DataConfig, resolve
    from lag_core.data.catalogue import open_dataset
    from lag_core.device import device_named

    device = device_named(options.device)
    name = allow(options.adapter) if ":" in options.adapter else options.adapter
    adapter = find_adapter(name)
    data = {"dataset": options.dataset, "root": str(Path(options.root).resolve()), "size": adapter.size}
    config: DataConfig = resolve({"data": data}).data
    dataset = open_dataset(config)
    opened = adopt(name, adapter, options.checkpoints, dataset.info, data, options.out, device)
    say(f"{counted(len(opened.steps), 'step')}, {counted(len(opened.classes), 'class', 'classes')} -> {opened.path}")
    if not options.no_metrics:
        write_measured(opened, dataset, device)
    if ":" in name:
        say(f"The run names the adapter {name}: start the dashboard with LAG_ADAPTERS={name}")
    return 0
