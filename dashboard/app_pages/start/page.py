"""Start: one photograph, two networks, and what each of them still knows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import streamlit as st

from dashboard.app_pages.start.held import Held, held
from dashboard.cache import loaders, photographs
from dashboard.components import in_view
from dashboard.components.held_bars import RunBars, held_bars
from dashboard.page import Empty, Page
from dashboard.picture import predictions, stepwise
from dashboard.picture.viewer import show_picture
from dashboard.shell import steps_coming, tour
from dashboard.ui import commands, design, untrusted
from lag_core.data.pictures import DataError
from lag_core.protocol import ClassInfo
from lag_core.runs import Run

HEIGHT = 440
"""Of the photograph at most; a narrow window leaves it less."""

COLORS = ("#0072B2", "#D55E00")
"""Of the run and the compared run (Okabe and Ito's palette)."""

COMMAND_HEIGHT = 96
"""Of a command in three lines."""


def render(page: Page) -> None:
    """Draw the page: first what is available at once, then the picture once the networks have run."""
    runs = _held(page)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(_sentence(page, runs), width="content")
        if st.button("Why?", "start.why", type="primary", icon=":material/psychology_alt:"):
            st.switch_page(page.links["why"])
    left, right = st.columns((1.9, 1), gap="small")
    picture, below = left.container(), st.container()
    at_once = _answered(page)
    if at_once:
        with picture:
            _picture(page)
    waits = at_once and in_view.waits_for_picture("start")
    with right:
        _bars(page, runs, play=at_once)
    with below:
        _cards(waits)
    if not at_once:
        with picture:
            _picture(page)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    picture = page.picture()
    predictions.shown(page.run, picture)
    predictions.answers(page.run, picture)
    if page.run2:
        predictions.answers(page.run2, picture, page.run)


# ---------------------------------------------------------------------- the answer


def _held(page: Page) -> list[Held]:
    """Of the run and the compared run, as far as they were measured."""
    found = [(run, loaders.confusions(run), step) for run, step in _runs(page)]
    return [held(run, matrices, step) for run, matrices, step in found if matrices is not None and len(matrices) > step]


def _runs(page: Page) -> list[tuple[Run, int]]:
    return [(page.run, page.step), *([(page.run2, page.step2)] if page.run2 else [])]


def _sentence(page: Page, runs: list[Held]) -> str:
    """What became of the selected class, or of the one that lost most."""
    if page.step == 0:
        return "After step 0 nothing can be forgotten yet. Press **L** or go to a later step: it has no old data."
    if not runs or not runs[0].classes:
        return f"Step {page.step} learned new classes without the data of the steps before it."
    chosen = page.class_info if runs[0].of(page.class_info.id) else runs[0].classes[0]
    told = [(run.name, run.of(chosen.id)) for run in runs]
    parts = [
        f"{untrusted.name(name)} {_left(*pair)}" for name, pair in told if pair is not None and np.isfinite(pair[1])
    ]
    name = untrusted.name(chosen.name)
    return f"Step {page.step} came without old data. **{name}**: {'; '.join(parts)}."


def _left(then: float, now: float) -> str:
    """What is left of a class, IoU points when it was learned and now, in words (Markdown)."""
    if round(now) == 0:
        return f"has **none** of its {then:.0f} left"
    return f"still has **{now:.0f}** of {then:.0f} IoU points"


def _bars(page: Page, runs: list[Held], play: bool) -> None:
    """`play`: the photograph beside them will play at once."""
    with page.section(
        "Old classes, then and now",
        "Filled: IoU now. Hollow: when the class was learned, on the same pixels.",
        slug="held",
        formula=r"\mathrm{IoU}^{s \to t}_c \text{ on the pixels whose class step } s \text{ knows}",
        source="docs/method.md#fixed-pixels",
    ) as view:
        if not runs or not runs[0].classes:
            raise Empty("This run has not been evaluated yet: `lag evaluate` measures it.")
        view.csv(
            lambda: {
                "run": [run.name for run in runs for _ in run.classes],
                "class": [info.name for run in runs for info in run.classes],
                "IoU when learned (%)": [value for run in runs for value in run.then.tolist()],
                f"IoU after step {page.step} (%)": [value for run in runs for value in run.now.tolist()],
            }
        )
        classes = [info for info in page.run.classes if info in runs[0].classes]  # in one order at all steps
        held_bars(
            [(untrusted.plain(info.name, 20), design.css(info.color)) for info in classes],
            [_of_run(run, classes, color) for run, color in zip(runs, COLORS, strict=False)],
            key="held-bars",
            label="IoU of each old class when it was learned, and now",
            step=page.step,
            play=play,
        )


def _of_run(run: Held, classes: Sequence[ClassInfo], color: str) -> RunBars:
    """A run's bars in the order of `classes`; NaN where it does not have one of them."""
    at = [next((i for i, own in enumerate(run.classes) if own.id == info.id), None) for info in classes]
    then = np.array([np.nan if i is None else run.then[i] for i in at])
    now = np.array([[np.nan if i is None else row[i] for i in at] for row in run.course])
    return RunBars(untrusted.plain(run.name, 40), color, then, now)


# ---------------------------------------------------------------------- the picture


def _answered(page: Page) -> bool:
    """Whether the picture is a photograph that ships, and no network has to run for it."""
    if not photographs.is_photo(page.image_id):
        return False
    with suppress(Empty, DataError):  # said where the picture would stand
        picture = page.picture()
        return all(stepwise.answered(run, picture) for run, _ in _runs(page))
    return False


def _picture(page: Page) -> None:
    """The steps of both runs beside one another, played once."""
    with page.section(
        "The same photograph after each step",
        "Plays once; J steps back, L forward.",
        slug="start-picture",
        inline=True,
    ) as view:
        picture = page.picture()
        shown = predictions.shown(page.run, picture)
        found, other = stepwise.answers(page.run, picture, page.step), None
        notes = [""] * len(found.predictions)
        layers, grids = predictions.step_layers(found, notes, page.least, untrusted.plain(page.run.name, 60))
        second = None
        if page.run2:
            other = stepwise.answers(page.run2, picture, page.step2, page.run)
            their, more = predictions.step_layers(
                other, [""] * len(other.predictions), page.least, untrusted.plain(page.run2.name, 60)
            )
            second = len(layers) + page.step2
            layers, grids = layers + their, grids + more
        show_picture(
            view,
            shown,
            layers,
            key="start-viewer",
            title="The photograph",
            height=HEIGHT,
            active=page.step,
            second=second,
            probabilities=grids,
            strip=False,
            play=not found.pending and not (other and other.pending),
            plain=True,
        )
        steps_coming.follow(page, found, other)


# ---------------------------------------------------------------------- what next


def _cards(waits: bool) -> None:
    """`waits`: the picture goes first, before the script that colours commands."""
    own, train, guide = st.columns(3, gap="small")
    with own.container(border=True, height="stretch"):
        st.markdown("##### Open your own checkpoints")
        st.markdown(
            "SSUL, LAG, DKD, STAR, MiB, PLOP, RCIL and CSSegmentation open with `lag import`, label maps of any "
            "framework with `lag import-predictions`, any PyTorch network with `lag adopt`."
        )
        _command("import", commands.IMPORT, waits)
    with train.container(border=True, height="stretch"):
        st.markdown("##### Train")
        st.markdown("Some minutes on two cores; the run appears in the sidebar while it trains.")
        _command("train", commands.TRAIN, waits)
    with guide.container(border=True, height="stretch"):
        st.markdown("##### The five-minute tour")
        st.markdown("One stop per page: what it shows, and what to look for in these two runs.")
        tour.button("start.tour")


def _command(name: str, words: str, waits: bool) -> None:
    if waits:
        in_view.place_after_picture(name, COMMAND_HEIGHT)
    else:
        st.code(words, language="bash", wrap_lines=True)
