"""The sidebar: which run, which other run, step, class, image. It returns the checked `Page` to draw."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Catalogue
from dashboard.page import Page
from dashboard.picture.picker import choose_image
from dashboard.shell import no_runs
from dashboard.shell.scrubber import scrubber
from dashboard.state import folder_naming, opening, selection, settings
from dashboard.ui import untrusted
from lag_core import metrics
from lag_core.data.undecided import LEAST
from lag_core.runs import Run, RunError

NO_RUN = "none"
LONGEST_PATH = 1000
_RUN_BEFORE = "sidebar/run before"


def draw(catalogue: Catalogue) -> Page | None:
    """Draw the sidebar; None, after an explanation in the main area, if there is no run."""
    runs = dict(catalogue.runs)
    if not runs:
        no_runs.draw(catalogue)
        return None
    with st.sidebar:
        run = _choose_run(runs)
        run2 = _choose_second(runs, run)
        step = scrubber(run, opening.of_run(run).step)
        cls = _choose_class(run)
        root = _kept_root()
        image_id, why = choose_image(run, root)
        figure_format = _data_and_export(root)
        least = _choose_least()
        _list_broken(catalogue)
    return Page(run, run2, step, cls, image_id, root, why, figure_format, least)  # type: ignore[arg-type]


def draw_link(slot: st.delta_generator.DeltaGenerator) -> None:
    """The present view as a link with a copy button. Called last, when the page has set its settings."""
    with slot, st.container(key="link"):
        st.caption("This view as a link. The button at its end copies it.")
        st.code(selection.link(), language=None, wrap_lines=True)


def _choose_run(runs: dict[str, Run]) -> Run:
    names = list(runs)
    opened = (
        *(one.run for one in opening.OPENINGS),
        *(name for name, run in runs.items() if run.last_step >= 0),
        *names,
    )
    default = next(name for name in opened if name in runs)
    return runs[settings.select("Run", "run", names, default, stays=True)]


def _choose_second(runs: dict[str, Run], run: Run) -> Run | None:
    """A run over the same classes; others could not be compared.

    Who opens the compared run sees the two change places.
    """
    before = st.session_state.get(_RUN_BEFORE)
    st.session_state[_RUN_BEFORE] = run.name
    if before is not None and st.session_state.get("run2") == run.name:
        st.session_state["run2"] = before
    others = {name: other for name, other in runs.items() if name != run.name and other.last_step >= 0}
    names = [name for name, other in others.items() if comparable(run, other)]
    references = [name for name in names if runs[name].method == "reference"]
    default = next((name for name in (opening.of_run(run).compared, *references) if name in names), NO_RUN)
    name = settings.select("Compare with", "run2", [NO_RUN, *names], default, stays=True)
    return runs.get(name)


def comparable(run: Run, other: Run) -> bool:
    """Whether two runs know the same classes of the same dataset, in whatever order."""
    return {(c.id, c.name) for c in run.classes} == {(c.id, c.name) for c in other.classes} and (
        run.config.data.dataset == other.config.data.dataset
    )


def _choose_class(run: Run) -> int:
    names = class_names(run)
    chosen = settings.select("Class", "class", names, _first_class(run, names), stays=True)
    return names.index(chosen)


def _first_class(run: Run, names: list[str]) -> str:
    wished = opening.of_run(run).cls
    return wished if wished in names else names[_telling_class(run)]


def class_names(run: Run) -> list[str]:
    """A unique name for each class index: equal names get their dataset id as a suffix."""
    names = [untrusted.plain(c.name, 60) for c in run.classes]
    return [f"{n} ({c.id})" if names.count(n) > 1 or not n else n for n, c in zip(names, run.classes, strict=True)]


def _telling_class(run: Run) -> int:
    """The class that lost most, else the first that is not the background."""
    first = min(int(run.labels.background is not None), len(run.classes) - 1)
    try:
        matrices = loaders.confusions(run)
    except RunError:
        return first
    if matrices is None or len(matrices) < 2:
        return first
    lost = metrics.forgetting_fixed(matrices, run.labels)
    lost[:first] = np.nan
    return first if np.isnan(lost).all() else int(np.nanargmax(lost))


def _kept_root() -> str:
    """The data root; never from a link, since it names a folder on this machine."""
    if not folder_naming.allowed():
        return loaders.default_data_root()
    kept = str(st.session_state.get("data_root", loaders.default_data_root()))
    return "" if len(kept) > LONGEST_PATH or "\0" in kept else kept.strip()


def _data_and_export(root: str) -> str:
    with st.expander("Data and export", icon=":material/tune:"):
        if folder_naming.allowed():
            st.text_input(
                "Data root",
                value=root,
                key="data_root",
                max_chars=LONGEST_PATH,
                persist_state="session",
                placeholder="as the run says",
                help="Folder of the run's images, if they do not come with it. LAG_DATA sets its default.",
            )
        return settings.segments("Plots are saved as", "format", ("png", "svg"), names=str.upper)


def _choose_least() -> float:
    """Below which probability pictures show "none"."""
    with st.expander("Undecided pixels", icon=":material/blur_on:"):
        return settings.slide(
            "None up to a probability of", "none-up-to", 0, 0.95, LEAST, 0.05,
            help="If no class has a probability above this, pictures show “none” in grey. This applies to networks "
            "that score each class by itself (sigmoid); others always decide. Measures take the most probable class.",
        )  # fmt: skip


def _list_broken(catalogue: Catalogue) -> None:
    if not catalogue.broken:
        return
    count = len(catalogue.broken)
    with st.expander(f"{count} run{'s' * (count > 1)} cannot be opened", icon=":material/warning:"):
        for run in catalogue.broken:
            st.markdown(f"**{untrusted.name(run.name)}**: {untrusted.markdown(run.reason)}")
