"""Groups of runs that differ only in their seed: mean, spread, and paired tests between methods.

The rules are ours. A group is the runs with equal configurations except for seed and folders. Two groups are
compared on the seeds that both have, each seed a pair: the mean difference with its 95 % t interval, and the exact
two-sided sign-flip test: p is the share of the 2^n ways to swap the two runs of pairs that make the mean difference as
large. So p is at least 2 / 2^n: 0.25 with three seeds, 0.0625 with five.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from lag_core import config as configuration
from lag_core.comparison import COLUMNS, LOWER_IS_BETTER, NOTES, Row, percent
from lag_core.runs import Run
from lag_core.tabulating import Format, tabulated

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % quantiles of Student's t for 1, 2, … degrees of freedom."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration."""

    name: str
    rows: tuple[Row, ...]
    """In the order of their seeds."""
    seeds: tuple[int, ...]
    places: tuple[int, ...] = ()
    """Indices of the runs in the argument of `grouped`."""

    def values(self, column: str) -> np.ndarray:
        """One number of each run, as fractions. Shape: float [n]."""
        return np.array([getattr(row, column) for row in self.rows], float)

    def mean(self, column: str) -> float:
        return float(self.values(column).mean())

    def spread(self, column: str) -> float:
        """Standard deviation over seeds (n - 1); NaN for one seed."""
        values = self.values(column)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


@dataclass(frozen=True)
class Pairing:
    """One group against another on the seeds that both have; fractions."""

    first: str
    second: str
    seeds: tuple[int, ...]
    difference: float
    """Mean of first - second."""
    low: float
    high: float
    p: float


def grouped(runs: Sequence[Run], rows: Sequence[Row]) -> list[Group]:
    """The runs in groups, in order of appearance. ValueError if a group holds a seed twice."""
    members: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        members.setdefault(_key(run), []).append(place)
    names = _names([runs[places[0]] for places in members.values()])
    found = []
    for name, places in zip(names, members.values(), strict=True):
        ordered = sorted(places, key=lambda place: runs[place].config.optim.seed)
        seeds = tuple(runs[place].config.optim.seed for place in ordered)
        if len(set(seeds)) < len(seeds):
            twice = ", ".join(runs[place].name for place in ordered)
            raise ValueError(f"{name} has a seed twice among {twice}: leave one of them out")
        found.append(Group(name, tuple(rows[place] for place in ordered), seeds, tuple(ordered)))
    return found


def _tables(run: Run) -> Mapping[str, Mapping[str, object]]:
    """The configuration without values that seeds and machines may change."""
    tables = configuration.neutral(configuration.to_dict(run.config))
    left_out = {"optim": {"seed", "threads", "device"}, "log": set(tables["log"])}
    return {
        section: {key: value for key, value in table.items() if key not in left_out.get(section, set())}
        for section, table in tables.items()
    }


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings in which the runs differ, the method first: "section.key" -> the value of each run, as text.

    Values that seeds and machines may change are left out.
    """
    tables = [_tables(run) for run in runs]
    names = dict.fromkeys((section, key) for table in tables for section, own in table.items() for key in own)
    found = {f"{s}.{k}": [str(table.get(s, {}).get(k, "")) for table in tables] for s, k in names}
    apart = {name: values for name, values in found.items() if len(set(values)) > 1}
    return dict(sorted(apart.items(), key=lambda item: item[0] != "method.name"))


def _key(run: Run) -> str:
    return json.dumps([_tables(run), [one.name for one in run.classes]], sort_keys=True, default=str)


def _names(runs: Sequence[Run]) -> list[str]:
    """The methods' names; where groups share one, with the settings in which they differ."""
    names, tables = [], [_tables(run) for run in runs]
    for run, own in zip(runs, tables, strict=True):
        alike = [table for other, table in zip(runs, tables, strict=True) if other.method == run.method]
        differing = [
            f"{section}.{key}={value}"
            for section, table in own.items()
            for key, value in table.items()
            if any(other[section].get(key) != value for other in alike)
        ]
        names.append(f"{run.method} ({', '.join(differing[:3])})" if differing else run.method)
    return names


def group_cells(group: Group) -> list[str]:
    """A table's line: name, number of seeds, and "mean ± spread" in percent."""
    cells = []
    for column in COLUMNS:
        mean, spread = group.mean(column), group.spread(column)
        cells.append(percent(mean) + ("" if np.isnan(spread) or np.isnan(mean) else f" ± {percent(spread)}"))
    return [group.name, str(len(group.rows)), *cells]


GROUP_HEADS = ("method", "seeds", *COLUMNS.values())
"""Headings of `group_cells`."""


def for_paper(groups: Sequence[Group], form: Format) -> str:
    """The groups as a table; in Markdown and LaTeX the best mean of each column is bold, and footnotes explain."""
    cells = [group_cells(group) for group in groups]
    if form not in ("markdown", "latex"):
        return tabulated(GROUP_HEADS, cells, form)
    bold = {(row, 2 + at) for at, column in enumerate(COLUMNS) for row in _best(groups, column)}
    notes = (*NOTES, f"{SPREAD} Bold: best mean of the column.")
    return tabulated(GROUP_HEADS, cells, form, bold=bold, notes=notes)


SPREAD = "IoU in percent; ±: standard deviation over seeds, where there are several."


def _best(groups: Sequence[Group], column: str) -> list[int]:
    """Indices of the groups with the best printed mean of a column; none with fewer than two to choose from."""
    means = [round(100 * group.mean(column), 2) for group in groups]
    known = [value for value in means if not np.isnan(value)]
    if len(known) < 2:
        return []
    best = min(known) if column in LOWER_IS_BETTER else max(known)
    return [row for row, value in enumerate(means) if value == best]


def pairings(groups: Sequence[Group], column: str) -> list[Pairing]:
    """Every two groups that share at least two seeds."""
    found = (paired(one, other, column) for one, other in combinations(groups, 2))
    return [one for one in found if one is not None]


def paired(first: Group, second: Group, column: str) -> Pairing | None:
    """The paired test; None with fewer than two common seeds or where the number is not defined."""
    seeds = tuple(seed for seed in first.seeds if seed in second.seeds)
    mine, theirs = (
        np.array([group.values(column)[group.seeds.index(seed)] for seed in seeds]) for group in (first, second)
    )
    differences = mine - theirs
    n = len(seeds)
    if n < 2 or np.isnan(differences).any():
        return None
    mean = float(differences.mean())
    quantile = _T[n - 2] if n - 2 < len(_T) else 1.96 + 2.5 / (n - 1)
    reach = quantile * float(differences.std(ddof=1)) / n**0.5
    return Pairing(first.name, second.name, seeds, mean, mean - reach, mean + reach, sign_flip(differences))


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the exact sign-flip test; with more than 16 pairs, of 65,536 random flips. Shape: [n] -> p."""
    n = len(differences)
    if n <= 16:
        signs = np.array(list(product((1, -1), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((1, -1), (65_536, n))
        signs[0] = 1
    means = np.abs(signs @ differences)
    return float((means >= abs(differences.sum()) - 1e-12).mean())


def pairing_cells(one: Pairing) -> list[str]:
    """A table's line, in points."""
    return [
        f"{one.first} - {one.second}", str(len(one.seeds)), f"{100 * one.difference:+z.2f}",
        f"{100 * one.low:+z.2f} to {100 * one.high:+z.2f}", f"{one.p:.3g}",
    ]  # fmt: skip


def other_images(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run whose metrics were taken on other images than the first's: class by class, the true
    pixels differ."""
    sentences, first = [], runs[0]
    wanted = _true_pixels(first)
    for run in runs[1:]:
        found = _true_pixels(run)
        differing = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
        if differing:
            sentences.append(
                f"{run.name} was measured on other images than {first.name}: true pixels of {', '.join(differing[:3])}"
                f"{' and others' if len(differing) > 3 else ''} differ, so their numbers cannot be compared"
            )
    return sentences


def _true_pixels(run: Run) -> dict[str, int]:
    """True pixels of each class in the stored metrics."""
    confusions = run.confusions()
    if confusions is None:
        return {}
    return {one.name: int(count) for one, count in zip(run.classes, confusions[-1].sum(1), strict=True)}
