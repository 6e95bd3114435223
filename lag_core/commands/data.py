"""Look at a dataset before training on it: `lag data check ROOT`.

Reports counts, sizes, ids, class shares, images of each step, images in both splits, and what to fix; can write a
contact sheet. The dataset is never changed. Ends with 1 if a file cannot be read or a step cannot be trained.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lag_core.commands.arguments import place
from lag_core.config import ConfigError
from lag_core.sentences import counted, say

if TYPE_CHECKING:
    from lag_core.data.dataset import Dataset
    from lag_core.data.inspection import Inspection
    from lag_core.protocol import LabelSpace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lag_core.protocol import SETTINGS

    parser.add_argument("what", choices=("check",), help="inspect a dataset and say what to fix")
    parser.add_argument("root", type=place, help="folder of the dataset")
    parser.add_argument("--dataset", default="folder", help="folder, voc, ade20k, isprs, cityscapes or coco")
    parser.add_argument("--task", help='such as "3-1": the images of each step, too')
    parser.add_argument("--setting", default="overlapped", choices=SETTINGS, help="protocol of a step's images")
    parser.add_argument("--size", type=int, default=256, help="side of the square that the network will see")
    parser.add_argument(
        "--fit",
        default="pad",
        choices=("pad", "crop", "windows"),
        help='as data.fit: "windows" looks at large pictures window by window, at their own resolution',
    )
    parser.add_argument("--bands", type=int, nargs=3, default=[], help="as data.bands: three bands, counted from 1")
    parser.add_argument("--out", type=place, help="contact sheet to write (HTML)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    from lag_core.data.contact_sheet import contact_sheet
    from lag_core.data.inspection import inspect
    from lag_core.training.reporting import Reporter
    from lag_core.writing import write_atomically

    if options.out is not None and options.out.exists():
        raise ConfigError(f"{options.out} exists and is never overwritten; choose another --out")
    dataset, labels = _opened(options)
    found = inspect(dataset, labels, options.size, Reporter(options.quiet).bar, options.setting)
    say(_table(dataset, found))
    for step, count in enumerate(found.steps):
        say(f"step {step}: {counted(count, 'training image')}")
    say("\n".join(f"! {one}" for one in found.advice) or "nothing to fix was found")
    if options.out is not None:
        page = contact_sheet(dataset, found).encode()
        write_atomically(options.out, page)
        say(f"contact sheet -> {options.out} ({len(page) / 2**20:.1f} MiB)")
    return int(any(facts.broken for facts in found.splits.values()) or 0 in found.steps)


def _opened(options: argparse.Namespace) -> tuple[Dataset, LabelSpace | None]:
    """The dataset with the range of deep images filled in, and the task's labels."""
    from dataclasses import replace

    from lag_core.config import resolve
    from lag_core.data.catalogue import open_dataset, task_of, with_range
    from lag_core.protocol import LabelSpace

    task = {} if options.task is None else {"task": options.task}
    table = {"dataset": options.dataset, "root": str(options.root), "size": options.size, "fit": options.fit, **task}
    table |= {"bands": options.bands} if options.bands else {}
    data = resolve({"data": table}).data
    dataset = open_dataset(data)
    data = with_range(data, dataset)
    dataset = open_dataset(replace(data, range=data.range)) if data.range else dataset
    if options.task is None:
        return dataset, None
    background = dataset.info.background
    return dataset, LabelSpace(task_of(data, dataset.info).steps, background, unknown=background is None)


def _table(dataset: Dataset, found: Inspection) -> str:
    """A line per class: images and share of the annotated pixels in each split."""
    from lag_core.protocol import IGNORE
    from lag_core.tabulating import tabulated

    rows = []
    for one in dataset.info.classes:
        cells = []
        for facts in found.splits.values():
            annotated = max(int(facts.pixels[:IGNORE].sum()), 1)
            cells += [str(facts.images_with(one.id)), f"{100 * facts.pixels[one.id] / annotated:.2f} %"]
        rows.append([f"{one.id} {one.name}", *cells])
    totals = [cell for facts in found.splits.values() for cell in (str(facts.images), "")]
    heading = ["class", *(text for split in found.splits for text in (f"{split} images", "of pixels"))]
    return tabulated(heading, [*rows, ["all", *totals]])
