"""Start: one photograph, two networks, and what each of them still knows."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboard.app_pages.start import figures
from dashboard.app_pages.start.held import Held, held
from dashboard.cache import loaders
from dashboard.page import Empty, Page
from dashboard.picture import predictions, stepwise
from dashboard.picture.viewer import show_picture
from dashboard.shell import steps_coming, tour
from dashboard.ui import commands, untrusted
from lag_core.runs import Run

HEIGHT = 330
BARS_HEIGHT = 250


def render(page: Page) -> None:
    """Draw the page: what is read from files comes first, the picture when the networks have answered."""
    runs = _held(page)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(_sentence(page, runs), width="content")
        if st.button("Why?", "start.why", type="primary", icon=":material/psychology_alt:"):
            st.switch_page(page.links["why"])
    left, right = st.columns((1.9, 1), gap="small")
    with right:
        _bars(page, runs)
    picture = left.container()
    _cards()
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
        return (
            "After step 0 nothing can be forgotten yet. Press **L** or move the scrubber: later steps have no old data."
        )
    if not runs or not runs[0].classes:
        return f"Step {page.step} learned new classes without the data of the steps before it."
    chosen = page.class_info if runs[0].of(page.class_info.id) else runs[0].classes[0]
    told = [(run.name, run.of(chosen.id)) for run in runs]
    parts = [
        f"{untrusted.name(name)} still has **{pair[1]:.0f}** of {pair[0]:.0f} IoU points"
        for name, pair in told
        if pair is not None and np.isfinite(pair[1])
    ]
    name = untrusted.name(chosen.name)
    return f"Step {page.step} came without old data. **{name}**: {'; '.join(parts)}."


def _bars(page: Page, runs: list[Held]) -> None:
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
        view.plot(
            figures.bars(runs, page.ink, step=page.step), alt="IoU of each old class then and now", height=BARS_HEIGHT
        )


# ---------------------------------------------------------------------- the picture


def _picture(page: Page) -> None:
    """The steps of both runs beside one another, played once."""
    with page.section(
        "The same photograph after each step",
        "Plays once; J and L step back and on.",
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


def _cards() -> None:
    own, train, guide = st.columns(3, gap="small")
    with own.container(border=True, height="stretch"):
        st.markdown("##### Open your own checkpoints")
        st.markdown(
            "SSUL, LAG, DKD, STAR, MiB, PLOP, RCIL and CSSegmentation open with `lag import`, label maps of any "
            "framework with `lag import-predictions`, any PyTorch network with `lag adopt`."
        )
        st.code(commands.IMPORT, language="bash", wrap_lines=True)
    with train.container(border=True, height="stretch"):
        st.markdown("##### Train")
        st.markdown("Some minutes on two cores; the run appears in the sidebar while it trains.")
        st.code(commands.TRAIN, language="bash", wrap_lines=True)
    with guide.container(border=True, height="stretch"):
        st.markdown("##### The five-minute tour")
        st.markdown("One station for each page: what it shows, and what to look for on these two runs.")
        tour.button("start.tour")
