"""Measure every step of a run on its validation set, and compare the result with the stored numbers.

Below the means, each class's IoU at each step is listed with a 95 % bootstrap interval over the images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lag_core.boundary import SHARE
from lag_core.commands.adopt import add_device
from lag_core.commands.arguments import place
from lag_core.runs import Run, RunError, open_run
from lag_core.sentences import counted, say
from lag_core.tiles import tiles_in

if TYPE_CHECKING:
    from lag_core.boundary import BoundaryCounts
    from lag_core.image_counts import ImageCounts, Intervals
    from lag_core.processes import Processes
    from lag_core.training.features import Item, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("--data", type=place, help="dataset folder (default: the one that the run names)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--boundary", action="store_true", help="also measure each class's boundary IoU")
    parser.add_argument(
        "--windows",
        type=float,
        nargs="?",
        const=0.5,
        metavar="OVERLAP",
        help="measure at each image's own resolution, by windows that overlap by this share (0.5 if none is given)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="replace the stored metrics, and keep each image's pixel counts for `compare`",
    )


def run(options: argparse.Namespace) -> int:
    from lag_core.boundary import BoundaryCounts
    from lag_core.commands.measuring import measured as measure
    from lag_core.commands.predict import checked_overlap
    from lag_core.data.windows import WindowedDataset
    from lag_core.device import device_named
    from lag_core.image_counts import ImageCounts
    from lag_core.processes import ProcessLost, first, together
    from lag_core.training.evaluation import measured_ids
    from lag_core.training.reporting import Reporter

    checked_overlap(options.windows)
    opened = open_run(options.run)
    opened.checked_step()
    dataset = opened.open_dataset(options.data)
    if options.windows is not None and isinstance(dataset, WindowedDataset):
        dataset = dataset.pictures  # each whole, its windows put together
    silent = options.json or not first()
    bar, device = Reporter(silent).bar, device_named(options.device)
    counts = ImageCounts(opened.labels)
    edges = BoundaryCounts(opened.labels, len(opened.steps)) if options.boundary else None

    def count(*image: Any) -> None:
        counts.add(*image)
        if edges is not None:
            edges.add(*image)

    names = measured_ids(dataset, opened.config.data)
    try:
        with together(device) as everywhere:
            by_domain = measure(opened, dataset, bar if silent else _announced(bar), device, count, options.windows)
            _join(everywhere, counts, edges, names)
    except ProcessLost as error:
        say(f"lag: {error}; nothing was written", sys.stderr)
        return 1
    if first():
        _tell(options, opened, by_domain, counts, edges)
    return 0


def _join(everywhere: Processes, counts: ImageCounts, edges: BoundaryCounts | None, names: Sequence[str]) -> None:
    """Join the processes' counts in the order of the images."""
    found = everywhere.gathered((counts.by_image, edges and (edges.both, edges.any)))
    by_image = {name: one for images, _ in found for name, one in images.items()}
    counts.by_image = {name: by_image[name] for name in names if name in by_image}
    if edges is not None:
        edges.both, edges.any = (np.sum([one[i] for _, one in found if one], axis=0) for i in (0, 1))


def _tell(
    options: argparse.Namespace,
    opened: Run,
    by_domain: list[dict[str, np.ndarray]],
    counts: ImageCounts,
    edges: BoundaryCounts | None,
) -> None:
    """Print the measurements, and write them if requested."""
    from lag_core.comparison import step_rows, table
    from lag_core.image_pairs import keep
    from lag_core.training.evaluation import totals, write_metrics

    measured = totals(by_domain)
    verdict = "different" if options.write else _verdict(opened, measured)
    if options.write:
        write_metrics(opened.path / "metrics.json", by_domain, len(counts.by_image))
        keep(opened, counts)
        verdict = "written"
    rows, intervals = step_rows(opened, measured), counts.intervals()
    bands = None if edges is None else edges.iou()
    if options.json:
        steps = [
            {
                **r.as_dict(),
                "confusion": m.tolist(),
                "classes": intervals.as_dict(step),
                **({} if bands is None else {"boundary_iou": [None if v != v else float(v) for v in bands[step]]}),
            }
            for step, (r, m) in enumerate(zip(rows, measured, strict=True))
        ]
        say(json.dumps({"run": opened.name, "stored": verdict, "steps": steps}))
    else:
        say(table(rows))
        say(f"\nIoU of each class on {_measured_on(list(counts.by_image))}:")
        say(_class_table(opened, intervals))
        if bands is not None:
            say(f"\nBoundary IoU: {100 * SHARE:g} % of an image's diagonal around the outlines")
            say(_band_table(opened, bands))
        say(_SENTENCES[verdict])


def _measured_on(images: Sequence[str]) -> str:
    """What was measured, and what its intervals are over."""
    tiles = tiles_in(images)
    if tiles == len(images):
        alone = "too few for an interval"
        return f"{counted(tiles, 'image')}, {alone if tiles == 1 else 'with its 95 % bootstrap interval over them'}"
    over = "too few for an interval" if tiles == 1 else "with its 95 % bootstrap interval over the tiles"
    return f"{counted(len(images), 'window')} of {counted(tiles, 'tile')}, {over}"


def _class_table(run: Run, found: Intervals) -> str:
    """A line per class and one for their mean; a column per step."""
    from lag_core.tabulating import tabulated

    def cell(step: int, column: int) -> str:
        value, low, high = (100 * one[step, column] for one in (found.iou, found.low, found.high))
        if value != value:
            return "-"
        return f"{value:.1f}" if low != low else f"{value:.1f} [{low:.1f}, {high:.1f}]"

    names = [*(one.name for one in run.classes), "mean of known classes"]
    steps = range(len(found.iou))
    rows = [[name, *(cell(step, column) for step in steps)] for column, name in enumerate(names)]
    return tabulated(["class", *(f"step {step}" for step in steps)], rows)


def _band_table(run: Run, bands: np.ndarray) -> str:
    from lag_core.comparison import percent
    from lag_core.tabulating import tabulated

    rows = [[one.name, *(percent(v) for v in bands[:, k])] for k, one in enumerate(run.classes)]
    return tabulated(["class", *(f"step {step}" for step in range(len(bands)))], rows)


def _announced(bar: Progress) -> Progress:
    """`bar`, with a line before it: without a terminal no bar is shown, and a silent minute looks like a hang."""

    def begin(items: Sequence[Item], what: str) -> Iterator[Item]:
        say(f"{what}, {len(items)} batches …", flush=True)
        return bar(items, what)

    return begin


ROUNDING = 1e-5
"""Share of pixels that change class when another machine, or number of threads, rounds differently."""

_SENTENCES = {
    "equal": "equal to the stored metrics, pixel by pixel",
    "close": "equal to the stored metrics except for a few pixels in a million, where another machine rounds otherwise",
    "different": "different from the stored metrics",
    "other images": "the dataset is not the one that the stored metrics measured: the classes' true pixels differ",
    "unreadable": "the stored metrics are missing or damaged; --write replaces them",
    "written": "written as the stored metrics",
}


def _verdict(run: Run, measured: np.ndarray) -> str:
    """How the stored confusion matrices compare: a key of `_SENTENCES`."""
    try:
        stored = run.confusions()
    except RunError:
        stored = None
    if stored is None:
        return "unreadable"
    if stored.shape != measured.shape:
        return "different"
    if not np.array_equal(stored.sum(2), measured.sum(2)):
        return "other images"
    moved = np.abs(stored - measured).sum() / 2
    return "equal" if moved == 0 else "close" if moved <= ROUNDING * stored.sum() else "different"
