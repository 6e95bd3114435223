"""One table over runs: old, new, all, harmonic mean, average, forgetting and BWT, from their stored metrics.

With --group, runs that differ only in their seed share a line: mean and standard deviation, every seed below, and a
paired test between the methods on their common seeds. If every run keeps its images' pixel counts
(`lag evaluate RUN --write`), a second test is over the images.

--verdicts adds what became of each class by the last step, --settings the settings in which the runs differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from lag_core.commands.arguments import place
from lag_core.sentences import say

if TYPE_CHECKING:
    from lag_core.comparison import Row
    from lag_core.groups import Group, Pairing
    from lag_core.image_pairs import ImagePairing
    from lag_core.runs import Run

VERDICTS = (
    "verdicts after each run's last step, on the pixels known when the class was introduced: kept (90 % of its IoU or "
    "more), weakened (half or more), lost, never learned (below 5 points), learned later (5 points only since a later "
    "step)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lag_core.comparison import COLUMNS
    from lag_core.tabulating import FORMATS

    parser.add_argument("runs", type=place, nargs="+", help="run folders")
    parser.add_argument("--group", action="store_true", help="runs that differ only in their seed share a line")
    parser.add_argument("--measure", default="all", choices=tuple(COLUMNS), help="measure of the paired tests")
    parser.add_argument("--verdicts", action="store_true", help="what became of each class, by run")
    parser.add_argument("--settings", action="store_true", help="the settings in which the runs differ, by run")
    parser.add_argument("--format", default="text", choices=("json", *FORMATS), help="how the tables are written")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="as --format json")


def run(options: argparse.Namespace) -> int:
    from lag_core.comparison import row
    from lag_core.groups import other_images
    from lag_core.runs import RunError, open_run

    opened, rows = [], []
    for path in options.runs:
        one = open_run(path)
        confusions = one.confusions()
        if confusions is None:
            raise RunError(f"{path} has no metrics yet; `lag evaluate {path} --write` measures it")
        opened.append(one)
        rows.append(row(one, confusions))
    for sentence in other_images(opened):
        say(f"lag: {sentence}", sys.stderr)
    found, why_not = _of_groups(opened, rows, options) if options.group else (_of_runs(rows, options), "")
    parts = _besides(opened, options)
    if options.format == "json":
        say(json.dumps(_with_parts(found, parts), indent=1))
    else:
        say("\n\n".join(part for part in (found, *parts.values()) if part))
    if why_not:
        say(f"lag: no paired test over images: {why_not}", sys.stderr)
    return 0


def _of_groups(opened: list[Run], rows: list[Row], options: argparse.Namespace) -> tuple[Any, str]:
    """The tables of the groups as text or for JSON; and why there is no test over images."""
    from lag_core.groups import grouped, pairings
    from lag_core.runs import RunError

    try:
        groups = grouped(opened, rows)
    except ValueError as error:
        raise RunError(str(error)) from None
    tests = pairings(groups, options.measure)
    over_images, why_not = _over_images(opened, groups, options.measure)
    if options.format == "json":
        return _json(groups, tests, over_images, options.measure), why_not
    return _tables(groups, tests, over_images, options), why_not


def _besides(opened: list[Run], options: argparse.Namespace) -> dict[str, Any]:
    """The requested parts besides the numbers, as text or for JSON."""
    asked = {"verdicts": verdicts, "settings": settings}
    return {name: make(opened, options.format) for name, make in asked.items() if getattr(options, name)}


def _with_parts(found: Any, parts: dict[str, Any]) -> Any:
    """JSON of runs alone is a list, as always; with further parts the list is one of them."""
    if not parts:
        return found
    return (found if isinstance(found, dict) else {"runs": found}) | parts


def verdicts(runs: list[Run], form: str) -> Any:
    """What became of each class by the last step, one line per run; for JSON a list with both IoUs as fractions."""
    from lag_core.explain.class_fates import class_fates
    from lag_core.tabulating import tabulated

    found = []
    for run in runs:
        confusions = run.confusions()
        assert confusions is not None  # `run` has asked
        fates = class_fates(confusions, run.labels, len(confusions) - 1)
        found.append({info.name: fate for info, fate in zip(run.classes, fates, strict=True)})
    if form == "json":
        return [
            {"name": run.name, "classes": {
                name: {"verdict": one.word, "start": _number(one.start), "now": _number(one.now)}
                for name, one in fates.items()
            }}
            for run, fates in zip(runs, found, strict=True)
        ]  # fmt: skip
    names = list(dict.fromkeys(name for fates in found for name in fates))
    lines = [
        [run.name, *(fates[name].word if name in fates else "-" for name in names)]
        for run, fates in zip(runs, found, strict=True)
    ]
    table = tabulated(["verdict on", *names], lines, form)  # type: ignore[arg-type]
    return f"{table}\n{VERDICTS}" if form == "text" else table


def settings(runs: list[Run], form: str) -> Any:
    """The settings in which the runs differ, one line per setting; for JSON a list."""
    from lag_core.groups import differing
    from lag_core.tabulating import tabulated

    found = differing(runs)
    if form == "json":
        return [{"setting": name, "values": values} for name, values in found.items()]
    if not found:
        return "The runs have the same settings except for the seed." if form == "text" else ""
    lines = [[name, *values] for name, values in found.items()]
    return tabulated(["setting", *(run.name for run in runs)], lines, form)  # type: ignore[arg-type]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _over_images(runs: list[Run], groups: list[Group], measure: str) -> tuple[list[ImagePairing], str]:
    """The tests over images, or why there is none; neither if there is nothing to compare."""
    from lag_core.image_pairs import image_pairings, kept

    if len(groups) < 2:
        return [], ""
    try:
        return image_pairings(groups, [[kept(runs[at]) for at in group.places] for group in groups], measure), ""
    except ValueError as error:  # a RunError among them
        return [], str(error)


def _of_runs(rows: list[Row], options: argparse.Namespace) -> Any:
    """The table of the runs as text or for JSON."""
    from lag_core.comparison import COLUMNS, percent, table
    from lag_core.tabulating import tabulated

    form = options.format
    if form == "json":
        return [r.as_dict() for r in rows]
    if form == "text":
        return table(rows)
    lines = [[r.name, *(percent(getattr(r, name)) for name in COLUMNS)] for r in rows]
    return tabulated(["run", *COLUMNS.values()], lines, form)


def _tables(
    groups: list[Group], tests: list[Pairing], over_images: list[ImagePairing], options: argparse.Namespace
) -> str:
    """Groups, every seed, and the paired tests, one table each."""
    from lag_core.comparison import COLUMNS, NOTES, percent
    from lag_core.groups import for_paper, pairing_cells
    from lag_core.image_pairs import image_cells
    from lag_core.tabulating import tabulated

    form = options.format
    parts = [for_paper(groups, form)]
    lines = [
        [f"{g.name}, seed {seed}", *(percent(getattr(r, name)) for name in COLUMNS)]
        for g in groups
        for seed, r in zip(g.seeds, g.rows, strict=True)
    ]
    parts.append(tabulated(["run", *COLUMNS.values()], lines, form))
    if tests:
        heading = [f"difference of {COLUMNS[options.measure]}", "pairs", "points", "95 %", "p"]
        parts.append(tabulated(heading, [pairing_cells(one) for one in tests], form))
    if over_images:
        heading = [f"difference of {COLUMNS[options.measure]}", "images", "points", "95 %", "p"]
        parts.append(tabulated(heading, [image_cells(one) for one in over_images], form))
    if form == "text":
        parts.append("\n".join([*NOTES, *_note(groups, tests), *_note_on_images(over_images)]))
    return "\n\n".join(parts)


def _note(groups: list[Group], tests: list[Pairing]) -> list[str]:
    if not tests:
        return ["no paired test: no two methods share two seeds."] if len(groups) > 1 else []
    return ["p: exact sign-flip test over common seeds; with n of them it is never below 2 / 2^n. 95 %: t interval."]


def _note_on_images(over_images: list[ImagePairing]) -> list[str]:
    if not over_images:
        return []
    return ["over images: bootstrap; the same images are drawn for both methods, each averaged over its seeds."]


def _json(groups: list[Group], tests: list[Pairing], over_images: list[ImagePairing], measure: str) -> Any:
    from lag_core.comparison import COLUMNS

    lines = [
        {
            "name": g.name,
            "seeds": list(g.seeds),
            "mean": {name: _number(g.mean(name)) for name in COLUMNS},
            "spread": {name: _number(g.spread(name)) for name in COLUMNS},
            "runs": [r.as_dict() for r in g.rows],
        }
        for g in groups
    ]
    pairs = {"paired": [vars(one) for one in tests]}
    if over_images:
        pairs["paired_over_images"] = [{k: v if v == v else None for k, v in vars(one).items()} for one in over_images]
    return {"groups": lines, "measure": measure, **pairs}
