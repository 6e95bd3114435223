"""Plots of the sweeps: `python benchmarks/plots.py` draws assets/plots/*.svg from benchmarks/results/*.json.

Text and axes are grey, so that a plot reads on a light page and on a dark one. Needs matplotlib (in the extra "dev").
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tables import METHODS, TASKS, rows_of, title, with_joint

PLOTS = Path(__file__).parents[1] / "assets" / "plots"
ORDER = METHODS[::-1]  # y grows upwards
COLORS = {
    "finetune": "#888888", "plop": "#CC79A7", "star": "#999933", "dkd": "#882255", "mib": "#E69F00",
    "reference": "#0072B2", "lag": "#009E73", "reference with replay": "#56B4E9", "lag+": "#D55E00", "joint": "#888888",
}  # fmt: skip
"""Okabe and Ito's palette, two of Tol's beside it: told apart by colour-blind readers."""
GREY = "#808080"

Rows = Sequence[dict[str, Any]]


def by_name(rows: Rows, column: str) -> dict[str, list[float]]:
    """Values of a column in percent, a list over seeds for each run."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["name"]].append(100 * row[column])
    return groups


def methods(name: str, title: str) -> None:
    """Old, new and all classes of every method: each seed a dot, their mean a bar."""
    rows = rows_of(name)
    if not rows:
        return
    columns = ("old", "new", "all")
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True)
    for place, column in zip(axes, columns, strict=True):
        bars(place, by_name(rows, column))
        place.set_xlabel(f"{column} classes, mIoU %")
    figure.suptitle(title, color=GREY)
    save(figure, name)


def overview(name: str) -> None:
    """All classes of every method, a panel for each task."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(13.5, 3.4), sharey=True)
    for place, task in zip(axes, TASKS, strict=True):
        bars(place, by_name(with_joint(task), "all"))
        place.set_title(title(task).replace(", ", "\n"), color=GREY, fontsize=10)
    axes[len(TASKS) // 2].set_xlabel("all classes, mIoU %")
    save(figure, name)


def bars(place: Axes, groups: dict[str, list[float]]) -> None:
    """A line for each method: each seed a dot, their mean a bar."""
    for y, method in enumerate(ORDER):
        if values := groups.get(method):
            place.plot([mean(values)] * 2, [y - 0.3, y + 0.3], color=COLORS[method], linewidth=3)
            place.plot(values, [y] * len(values), "o", color=COLORS[method], markersize=5, alpha=0.6)
    place.set_yticks(range(len(ORDER)), ORDER)
    place.set_xlim(left=0)
    tidy(place)


def limited(name: str, whole: str) -> None:
    """mIoU against the share of the later steps' images that is left."""
    rows = rows_of(name)
    if not rows:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True)
    for place, column in zip(axes, ("old", "all"), strict=True):
        full, part = by_name(rows_of(whole), column), by_name(rows, column)
        for method in ORDER:
            points = {int(m[1]): v for n, v in part.items() if (m := re.fullmatch(rf"{re.escape(method)} (\d+) %", n))}
            if not points:
                continue
            points |= {100: full[method]} if method in full else {}
            line(place, points, method)
        place.set_xlabel("images of the later steps, %")
        place.set_ylabel(f"{column} classes, mIoU %")
        tidy(place)
    figure.suptitle(" ")  # keeps a line free for the legend
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="upper center", ncol=len(ORDER), frameon=False, labelcolor=GREY
    )
    save(figure, name)


def line(place: Axes, points: dict[int, list[float]], method: str) -> None:
    """Means over seeds with their standard deviation."""
    x = sorted(points)
    spread = [stdev(points[i]) if len(points[i]) > 1 else 0.0 for i in x]
    place.errorbar(x, [mean(points[i]) for i in x], spread, label=method, color=COLORS[method], marker="o", capsize=3)


def changes(name: str, base: str, title: str) -> None:
    """What each change of `base` does: difference of mIoU, seed by seed."""
    rows = rows_of(name)
    if not rows:
        return
    reference = {row["seed"]: 100 * row["all"] for row in rows if row["name"] == base}
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["name"] != base and row["seed"] in reference:
            groups[row["name"].removeprefix(base).lstrip(", ")].append(100 * row["all"] - reference[row["seed"]])
    figure, place = plt.subplots(figsize=(6.5, 0.3 * len(groups) + 1))
    for y, values in enumerate(groups.values()):
        place.plot(values, [y] * len(values), "o", color=COLORS["lag"], markersize=5, alpha=0.6)
        place.plot([mean(values)] * 2, [y - 0.3, y + 0.3], color=COLORS["lag"], linewidth=3)
    place.axvline(0, color=GREY, linewidth=1)
    place.set_yticks(range(len(groups)), list(groups))
    place.invert_yaxis()
    place.set_xlabel(f"mIoU of all classes less {base}'s, points ({title})")
    tidy(place)
    save(figure, name)


def tidy(place: Axes) -> None:
    """Grey axes, no frame."""
    place.tick_params(colors=GREY)
    place.xaxis.label.set_color(GREY)
    place.yaxis.label.set_color(GREY)
    for name, spine in place.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(GREY)
    place.grid(axis="x", color=GREY, alpha=0.2)


def save(figure: Any, name: str) -> None:
    """The same bytes for the same numbers."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.svg", transparent=True, metadata={"Date": None})
    plt.close(figure)


def main(argv: Iterable[str] = ()) -> None:
    plt.rcParams.update({"svg.hashsalt": "lag", "svg.fonttype": "none", "font.family": "sans-serif"})
    overview("overview")
    methods("animals-3-1", "animals 3-1: cat, dog, person | horse | cow | sheep")
    methods("animals-2-2", "animals 2-2: cat, dog | person, horse | cow, sheep")
    changes("ablation-animals-3-1", "lag", "animals 3-1")
    limited("limited-animals-3-1", "animals-3-1")


if __name__ == "__main__":
    main()
