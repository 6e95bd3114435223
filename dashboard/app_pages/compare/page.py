"""Compare: which method keeps what? Any number of runs of one task, seeds by method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.compare import figures
from dashboard.cache import loaders
from dashboard.page import Empty, Page
from dashboard.sidebar import comparable
from dashboard.state import settings
from dashboard.ui import untrusted
from dashboard.ui.wording import counted
from lag_core.comparison import COLUMNS, NOTES, Row, row
from lag_core.explain.class_fates import ClassFate, class_fates
from lag_core.groups import Group, differing, for_paper, group_cells, grouped, other_images, pairing_cells, pairings
from lag_core.runs import Run
from lag_core.tabulating import Format

PAPER_FORMATS: tuple[Format, ...] = ("latex", "markdown")
OF_CHANGE = ("forgetting_fixed", "bwt_fixed", "forgetting", "bwt")
"""Measures of what was lost, not of what is left."""

MOST_SETTINGS = 8
"""Settings drawn beside one another."""


def render(page: Page) -> None:
    """Draw the page."""
    catalogue = loaders.opened()
    found = _together(catalogue.stamp, page.run.digest, _run=page.run, _runs=list(catalogue.runs.values()))
    if not found.runs:
        raise Empty("No run of this task was evaluated yet. `lag evaluate RUN --write` measures it.")
    groups = found.groups
    with page.toolbar:
        st.markdown("Measure", width="content")
        column = settings.select(
            "Measure", "measure", tuple(COLUMNS), "all", names=COLUMNS.__getitem__,
            label_visibility="collapsed", width=170,
        )  # fmt: skip
    page.answer(_answer(groups, column, page.run))
    for sentence in found.warnings:
        st.warning(untrusted.markdown(sentence), icon=":material/warning:")
    _seeds(page, groups, column)
    _verdicts(page, found)
    _settings(page, found, column)


def _same_task(run: Run, other: Run) -> bool:
    return comparable(run, other) and run.config.data.task == other.config.data.task and other.last_step >= 0


@dataclass(frozen=True)
class Together:
    """The evaluated runs of one task, with what is computed from all of them."""

    runs: list[Run]
    rows: list[Row]
    groups: list[Group]
    warnings: list[str]
    fates: list[list[ClassFate]]
    """Of each run, by the class indices of the open one."""
    differing: dict[str, list[str]]


@st.cache_resource(max_entries=8, show_spinner=False)
def _together(stamp: str, digest: str, *, _run: Run, _runs: list[Run]) -> Together:
    """Computed once per catalogue (`stamp`) and open run (`digest`): it costs more with every run. Read-only."""
    found = {run.name: (run, loaders.confusions(run)) for run in _runs if _same_task(_run, run)}
    measured = [(run, matrices) for run, matrices in found.values() if matrices is not None]
    if not measured:
        return Together([], [], [], [], [], {})
    runs, rows = [run for run, _ in measured], [row(run, matrices) for run, matrices in measured]
    groups, why_not = _groups(runs, rows)
    fates = [_in_order(_run, run, class_fates(m, run.labels, len(m) - 1)) for run, m in measured]
    return Together(runs, rows, groups, [*other_images(runs), *why_not], fates, differing(runs))


def _in_order(run: Run, other: Run, fates: list[ClassFate]) -> list[ClassFate]:
    """The other run's fates by the class indices of `run`."""
    return [fates[other.labels.index_of(c.id)] for c in run.classes]


def _groups(runs: list[Run], rows: list[Row]) -> tuple[list[Group], list[str]]:
    """The runs by method; if a seed occurs twice, each run by itself, and a sentence that says so."""
    try:
        return grouped(runs, rows), []
    except ValueError as error:
        alone = [Group(run.name, (one,), (run.config.optim.seed,)) for run, one in zip(runs, rows, strict=True)]
        return alone, [f"{error}. Each run is shown by itself."]


def _answer(groups: list[Group], column: str, run: Run) -> str:
    sign = -1 if column.startswith("forgetting") else 1
    known = [group for group in groups if not np.isnan(group.mean(column))]
    runs = sum(len(group.rows) for group in groups)
    seeds = ", one seed each" if runs == len(groups) else ""
    task = untrusted.name(run.config.data.task)
    head = f"{counted(runs, 'run')} of task {task}, {counted(len(groups), 'method')}{seeds}."
    if not known:
        return head
    best = max(known, key=lambda group: sign * group.mean(column))
    word = "lowest" if sign < 0 else "highest"
    value = f"{100 * best.mean(column):.1f} %"
    said = f"{head} **{untrusted.name(best.name, 60)}** has the {word} *{COLUMNS[column]}*: **{value}**."
    return said + (_what_is_left(groups, best) if column in OF_CHANGE else "")


def _what_is_left(groups: list[Group], best: Group) -> str:
    """For a measure of loss: the method with most left, if it is another. What was not learned cannot be lost."""
    known = [group for group in groups if not np.isnan(group.mean("all"))]
    most = max(known, key=lambda group: group.mean("all"), default=best)
    if most is best:
        return ""
    name, left = untrusted.name(most.name, 60), f"{100 * most.mean('all'):.1f} %"
    own = f"{100 * best.mean('all'):.1f} %"
    return f" What was not learned cannot be lost: over all classes it has {own}, {name} {left}."


def _seeds(page: Page, groups: list[Group], column: str) -> None:
    with page.section(
        "By method",
        "A dot is a seed, the upright line is the mean, the bar is one standard deviation on each side. Runs "
        "that differ only in their seed share a row, as in `lag compare --group`.",
        slug="seeds",
        formula=r"s = \sqrt{\tfrac{1}{n-1}\sum_i (x_i - \bar x)^2}",
        source="lag_core/groups.py; paired tests: exact sign-flip over common seeds",
    ) as view:
        view.plot(
            figures.seeds(groups, column, f"{COLUMNS[column]} (%)", page.ink),
            f"{COLUMNS[column]} of every seed, by method",
            height=figures.height_of(len(groups)),
        )
        heads, cells = ["method", "seeds", *COLUMNS.values()], [group_cells(group) for group in groups]
        view.csv({head: [cell[i] for cell in cells] for i, head in enumerate(heads)})
        st.dataframe(
            {head: [untrusted.plain(cell[i], 80) for cell in cells] for i, head in enumerate(heads)},
            hide_index=True, height=min(38 + 35 * len(groups), 320), key="groups", alt="Mean and deviation by method",
        )  # fmt: skip
        tests = pairings(groups, column)
        with st.expander("Ready for a paper: LaTeX and Markdown", icon=":material/description:"):
            for form in PAPER_FORMATS:
                st.code(for_paper(groups, form), language=form)
        if tests:
            names = ["difference", "pairs", "points", "95 %", "p"]
            lines = [pairing_cells(one) for one in tests]
            st.dataframe(
                {name: [untrusted.plain(line[i], 120) for line in lines] for i, name in enumerate(names)},
                hide_index=True, height=min(38 + 35 * len(lines), 220), key="paired", alt="Paired tests",
            )  # fmt: skip
        st.caption("  \n".join(note.replace("*", "\\*") for note in NOTES))


def _verdicts(page: Page, together: Together) -> None:
    with page.section(
        "What became of each class",
        "After each run's last step, on the pixels known when the class was introduced: **K** kept (90 % of its IoU or "
        "more), **W** weakened (half or more), **L** lost, **–** never learned (below 5 points), **+** learned later, "
        "**N** new.",
        slug="verdicts",
        source="the rules of Why preserved (docs/method.md)",
    ) as view:
        found, names = together.fates, [run.name for run in together.runs]
        table = {c.name: [row[i].word for row in found] for i, c in enumerate(page.run.classes)}
        view.csv({"run": names, **table})
        view.plot(
            lambda: figures.verdicts(names, page.run.classes, found, page.ink), "Verdict on each class, by run",
            height=figures.height_of(len(names)), below=True,
        )  # fmt: skip


def _settings(page: Page, together: Together, column: str) -> None:
    with page.section(
        "Settings that differ",
        "Each line is a run, each axis a setting that differs; the last axis is the measure.",
        slug="settings",
    ) as view:
        runs, rows, apart = together.runs, together.rows, together.differing
        if not apart:
            raise Empty("These runs have the same settings except for the seed.")
        table: dict[str, list[Any]] = {"run": [run.name for run in runs], **{k: list(v) for k, v in apart.items()}}
        view.csv(table | {COLUMNS[column]: [100 * getattr(one, column) for one in rows]})
        shown = dict(list(apart.items())[:MOST_SETTINGS])
        last = [100 * getattr(one, column) for one in rows]
        if np.isnan(last).all():
            raise Empty("None of these runs has this measure. Choose another one above.")
        view.plot(
            lambda: figures.settings([run.name for run in runs], shown, last, COLUMNS[column], page.ink),
            "Settings that differ, a line per run", height=360, below=True,
        )  # fmt: skip
        if len(apart) > len(shown):
            rest = ", ".join(untrusted.name(key) for key in list(apart)[MOST_SETTINGS:])
            st.caption(f"Not drawn, but in the CSV: {rest}.")
