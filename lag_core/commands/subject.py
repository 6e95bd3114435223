"""The subject of `explain` and `report`: run, picture, class and step, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lag_core.commands.adopt import add_device
from lag_core.commands.arguments import place
from lag_core.config import ConfigError
from lag_core.data.undecided import LEAST
from lag_core.sentences import counted, say

if TYPE_CHECKING:
    from lag_core.explain.explanation import Explanation, Subject
    from lag_core.explain.networks import Networks
    from lag_core.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("--image", required=True, help="picture file, or the name of a validation image of the run")
    parser.add_argument("--mask", type=place, help="mask file of dataset ids, for a picture file")
    parser.add_argument("--class", dest="cls", metavar="CLASS", help="name of the class (default: what lost most)")
    parser.add_argument("--step", type=int, help="step of the network (default: the last one)")
    parser.add_argument("--against", type=place, metavar="RUN", help="run to compare with: how the two differ")
    parser.add_argument(
        "--own-shares", action="store_true", help="with --against: never swap parts, compare each run's own shares"
    )
    parser.add_argument(
        "--none-below", type=float, default=LEAST, metavar="P", help='with sigmoid scores: show "none" below P'
    )
    parser.add_argument("--data", type=place, help="dataset folder (default: the one that the run names)")
    parser.add_argument("--image-only", action="store_true", help="do not measure the class on the validation set")
    add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def explain(options: argparse.Namespace) -> tuple[Run, Explanation]:
    """Collect everything, with a progress bar. Raises ConfigError, RunError and similar."""
    from lag_core.allocator import return_memory
    from lag_core.device import device_named
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.evidence import NoExamples, finish, from_validation
    from lag_core.explain.explanation import collect
    from lag_core.explain.networks import Networks
    from lag_core.runs import open_run

    return_memory()
    run = open_run(options.run)
    subject = read_subject(run, options)
    device = device_named(options.device)
    others = _against(run, options.against, subject, device)
    examples = None
    if not options.image_only:
        try:
            examples = from_validation(run, run.open_dataset(options.data), subject.cls)
        except NoExamples as reason:
            if not options.quiet:
                say(f"{reason}; going on with the picture alone")
    if not options.quiet:
        pictures = f" and {counted(len(examples), 'validation image')}" if examples else ""
        say(f"{run.name}: {run.classes[subject.cls].name} at step {subject.step}, on {subject.name}{pictures} …")
    bar = _Bar(options.quiet)
    try:
        networks = Networks(run, device)
        return run, finish(
            collect(networks, subject, examples, ResultCache(), others, swap=not options.own_shares), bar.at
        )
    finally:
        bar.close()


def _against(run: Run, path: Path | None, subject: Subject, device: str) -> Networks | None:
    """The networks of the run to compare with. RunError if it cannot be compared in this class."""
    from lag_core.explain import apart
    from lag_core.explain.networks import Networks
    from lag_core.runs import open_run

    if path is None:
        return None
    if subject.step <= run.labels.step_of(subject.cls):
        raise ConfigError(f"--against: step {subject.step} is not later than the one that introduces the class")
    other = open_run(path)
    apart.checked_step(run, other, subject.cls, subject.step)
    return Networks(other, device)


def read_subject(run: Run, options: argparse.Namespace) -> Subject:
    """The picture with its truth, the class and the step."""
    from lag_core.explain.explanation import Subject

    if not 0 <= options.none_below <= 1:
        raise ConfigError(f"--none-below {options.none_below}: must lie between 0 and 1")
    step = run.checked_step(options.step)
    image, truth = _read_picture(run, options)
    cls = run.class_index(options.cls) if options.cls is not None else telling_class(run, truth, step)
    if truth is not None and truth.shape != image.shape[:2]:
        raise ConfigError(f"{options.mask} and {options.image} differ in size")
    return Subject(Path(options.image).name, image, truth, cls, step, options.none_below)


def _read_picture(run: Run, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray | None]:
    from lag_core.data.windows import named
    from lag_core.explain.picture import read_picture

    window = named(str(options.image))
    files = [options.image, *(window[:1] if window else ())]
    if options.mask is not None and not any(Path(file).is_file() for file in files):
        raise ConfigError(f"--mask needs a picture file; there is no file {options.image}")
    return read_picture(run, options.image, options.mask, options.data)


def telling_class(run: Run, truth: np.ndarray | None, step: int) -> int:
    """The older class in the picture that lost most IoU by `step`; without metrics the first of the foreground."""
    from lag_core import metrics

    first = min(int(run.labels.background is not None), len(run.classes) - 1)
    older = range(first, run.labels.class_indices(step).start) if step else range(first, run.labels.seen(0))
    candidates = [k for k in older if truth is None or (truth == k).any()] or [first]
    confusions = run.confusions()
    if confusions is None or step == 0:
        return candidates[0]
    lost = np.nan_to_num(metrics.forgetting_fixed(confusions[: step + 1], run.labels), nan=-np.inf)
    return max(candidates, key=lambda k: lost[k])


def command(verb: str, options: argparse.Namespace, run: Run, found: Explanation) -> str:
    """The command line that makes the same result again."""
    from lag_core.explain.report import command_line

    subject = found.subject
    return command_line(
        verb,
        run,
        str(options.image),
        subject.cls,
        subject.step,
        str(options.out),
        mask=options.mask,
        data=options.data,
        image_only=options.image_only,
        against=options.against,
        own_shares=options.own_shares,
        least=options.none_below,
    )


class _Bar:
    """A progress bar over shares 0..1."""

    def __init__(self, quiet: bool):
        from tqdm import tqdm

        self._bar = tqdm(total=100, desc="explain", unit="%", leave=False, disable=True if quiet else None)

    def at(self, share: float) -> None:
        self._bar.update(round(100 * share) - self._bar.n)

    def close(self) -> None:
        self._bar.close()
