"""Predict images: index masks in dataset ids, and overlays.

For each image NAME two files are written: NAME.mask.png, a palette PNG whose values are dataset ids, and
NAME.overlay.png. An existing file is never overwritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lag_core.commands.adopt import add_device
from lag_core.commands.arguments import place
from lag_core.config import ConfigError
from lag_core.sentences import counted

if TYPE_CHECKING:
    from lag_core.explain.networks import Networks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("images", type=place, nargs="+", metavar="IMAGE", help="image, or folder of images")
    parser.add_argument("--out", type=place, required=True, help="folder that the pictures are written to")
    parser.add_argument("--step", type=int, help="step of the network (default: the last one)")
    parser.add_argument("--opacity", type=float, default=0.5, help="of the overlay's colours, 0 to 1")
    parser.add_argument(
        "--none-below",
        type=float,
        metavar="P",
        help="overlay: a pixel is grey where no class has a probability above P, 0 to 1 (default: 0.5 for networks "
        "that score each class by itself, 0 for softmax); masks always hold the most probable class",
    )
    parser.add_argument(
        "--windows",
        type=float,
        nargs="?",
        const=0.5,
        metavar="OVERLAP",
        help="predict at the picture's own resolution, by windows of the network's square that overlap by this share "
        "(0.5 if none is given); else a large picture is scaled down",
    )
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def run(options: argparse.Namespace) -> int:
    from lag_core.allocator import return_memory
    from lag_core.data.pictures import read_small
    from lag_core.device import device_named
    from lag_core.explain.networks import Networks
    from lag_core.runs import open_run
    from lag_core.training.reporting import Reporter
    from lag_core.writing import NotWritten

    if not 0 <= options.opacity <= 1:
        raise ConfigError(f"--opacity {options.opacity}: must lie between 0 and 1")
    if options.none_below is not None and not 0 <= options.none_below <= 1:
        raise ConfigError(f"--none-below {options.none_below}: must lie between 0 and 1")
    checked_overlap(options.windows)
    return_memory()
    opened = open_run(options.run)
    step = opened.checked_step(options.step)
    sources = _outputs(options.images, options.out)
    data = opened.config.data
    for source in sources:
        read_small(source, data.range, data.bands)  # a damaged one is refused before anything is written
    reporter = Reporter(options.quiet)
    networks = Networks(opened, device_named(options.device))
    predict = _whole if options.windows is None else _by_windows
    for source in reporter.bar(list(sources), "predict"):
        try:
            predict(networks, source, step, options, sources[source])
        except NotWritten:
            for path in sources[source]:  # both or neither
                path.unlink(missing_ok=True)
            raise
    reporter.say(f"{counted(len(sources), 'image')}, step {step} of {opened.name} -> {options.out}")
    return 0


def checked_overlap(overlap: float | None) -> None:
    """ConfigError for an overlap that windows cannot have."""
    if overlap is not None and not 0 <= overlap <= 0.9:
        raise ConfigError(f"--windows {overlap:g}: windows may overlap by 0 to 0.9 of their side")


def _by_windows(
    networks: Networks, source: Path, step: int, options: argparse.Namespace, targets: tuple[Path, Path]
) -> None:
    """Write mask and overlay of a picture at its own resolution, some rows after the other."""
    from lag_core.capabilities import require
    from lag_core.data.painting import color_table, overlay
    from lag_core.data.pictures import opened
    from lag_core.data.png_rows import png_file
    from lag_core.data.remap import dataset_ids
    from lag_core.data.undecided import least_probability
    from lag_core.explain.measuring import windowed

    run = networks.run
    require(run, "logits")
    picture = opened(source, run.config.data.range, run.config.data.bands)
    size, palette = picture.size, color_table(run.classes).tobytes()
    least = least_probability(run.config.method.loss) if options.none_below is None else options.none_below
    with png_file(targets[0], size, palette) as mask, png_file(targets[1], size) as laid_over:
        for rows, found in windowed(networks, picture, step, options.windows):
            ids = dataset_ids(found.labels, run.labels)
            mask.add(ids)
            pixels = picture.read((rows, slice(0, size[1])))
            laid_over.add(overlay(pixels, ids, run.classes, options.opacity, found.certainty > least))


def _whole(
    networks: Networks, source: Path, step: int, options: argparse.Namespace, targets: tuple[Path, Path]
) -> None:
    """Write the mask at the size of the file, the overlay at the working size."""
    from lag_core.data.painting import color_table, overlay_png
    from lag_core.data.pictures import read_small
    from lag_core.data.png_rows import png_file
    from lag_core.data.remap import dataset_ids
    from lag_core.explain.picture import at_size_by_rows
    from lag_core.explain.trace import Trace
    from lag_core.writing import write_atomically

    run = networks.run
    image, full_size = read_small(source, run.config.data.range, run.config.data.bands)
    trace = Trace(networks, image)
    ids = dataset_ids(trace.prediction(step), run.labels)
    decided = trace.stands_out(step, options.none_below)
    with png_file(targets[0], full_size, color_table(run.classes).tobytes()) as mask:
        for rows in at_size_by_rows(ids, full_size):
            mask.add(rows)
    write_atomically(targets[1], overlay_png(trace.image, ids, run.classes, options.opacity, decided))


def _outputs(given: Iterable[Path], out: Path) -> dict[Path, tuple[Path, Path]]:
    """Image -> its two output files. ConfigError if one is there already or two images have the same name."""
    found: dict[Path, tuple[Path, Path]] = {}
    names: dict[str, Path] = {}
    for source in _images(given):
        if source in found:
            continue
        other = names.setdefault(source.stem, source)
        if other is not source:
            raise ConfigError(f"{other} and {source} would both be written as {source.stem}; predict them separately")
        targets = out / f"{source.stem}.mask.png", out / f"{source.stem}.overlay.png"
        for target in targets:
            if target.exists():
                raise ConfigError(f"{target} exists and is never overwritten; choose another --out")
        found[source] = targets
    return found


def _images(given: Iterable[Path]) -> Iterable[Path]:
    """The files named, and the pictures directly in the folders named, by name."""
    from lag_core.data.folder import IMAGE_ENDINGS

    for path in given:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        if not inside:
            raise ConfigError(f"{path} holds no image; expected files that end in {', '.join(IMAGE_ENDINGS)}")
        yield from inside
