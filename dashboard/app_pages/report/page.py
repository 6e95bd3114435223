"""Report: take it away, one self-contained HTML file of the present state."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.cache import loaders, photographs
from dashboard.page import Empty, Page
from dashboard.picture import reasons
from dashboard.state import settings
from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted
from dashboard.ui.wording import counted
from lag_core.data.pictures import DataError

if TYPE_CHECKING:
    from lag_core.explain.evidence import Examples
    from lag_core.explain.explanation import Compared, Explanation, Subject
    from lag_core.explain.report import Contents
    from lag_core.runs import Run

KEPT = "_report"
PREVIEW_HEIGHT = 640
CONTENTS = (
    "the verdict in words, on this picture and, if switched on above, on the validation set",
    "the picture, its ground truth, and the prediction of every step",
    "what became of each pixel: kept, learned, forgotten, recovered; the same in the compared run",
    "where the change lives: exact shares, and the swap board of features and heads",
    "IoU, relevance agreement and prototype drift over the steps; ablation and transplant beside random channels",
    "energy of invariant and changed channels; LRP with its conservation error; nearness to the prototype",
    "old, new, all, forgetting and every class's IoU after each step",
    "the configuration, SHA-256 of the run's files, digests, versions, and the command that makes it again",
)


@dataclass(frozen=True)
class Made:
    """A report that this session made; only the newest is kept."""

    key: str
    page: str
    contents: Contents


def render(page: Page) -> None:
    """Draw the page."""
    picture = page.picture()
    with page.toolbar:
        whole = settings.switch(
            "Measure on the validation set, too", "report_set", help="Takes some seconds, once for each class and step."
        )
    name = untrusted.name(page.class_info.name)
    image = untrusted.name("the uploaded picture" if picture.uploaded else picture.name)
    run = untrusted.name(page.run.name)
    page.answer(
        f"One HTML file about **{name}** at step {page.step} of {run} on {image}: opens offline, light or dark."
    )
    key = f"{page.run.digest}/{picture.digest}/{page.cls}/{page.step}/{whole}/{page.run2.digest if page.run2 else ''}"
    made: Made | None = st.session_state.get(KEPT)
    left, right = st.columns((1, 2.1), gap="small")
    with left, page.section("The file", "What it contains. It loads nothing from the network.", slug="file"):
        if made is None or made.key != key:
            st.markdown("\n".join(f"* {line}" for line in CONTENTS))
            made = _make(page, key, whole)
            st.session_state[KEPT] = made
            start_over()
        _offer(page, made)
    with right, page.section("Preview", "The file itself; you can scroll in it.", slug="preview"):
        if made is None or made.key != key:
            raise Empty("Make the report to see it here.")
        st.iframe(made.page, height=PREVIEW_HEIGHT, alt="The report")


def _make(page: Page, key: str, whole: bool) -> Made:
    """Collect and write the report after a click, with progress; raises `Empty` until then."""
    reasons.wait_for_asking(key, True, "Make the report", "It takes some seconds.")
    from lag_core.explain.report import command_line, contents, report

    found = reasons.worked_off(_collect(page, whole), page.run, key, "Collecting")
    picture = page.picture()
    image, mask = Path("PICTURE" if picture.uploaded else picture.id), None
    if picture.shipped:
        image, mask = photographs.files(picture.id)
    command = command_line(
        "report", page.run, str(image), page.cls, page.step, f"{file_stem(page)}.html", mask=mask, image_only=not whole
    )
    if page.run2:
        found = replace(found, compared=_compared(page, page.run2, found.subject))
    text = report(page.run, found, command)
    return Made(key, text, contents(text, found))


def _collect(page: Page, whole: bool) -> Generator[float, None, Explanation]:
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.explanation import Subject, collect

    picture = page.picture()
    name = picture.name
    subject = Subject(name, picture.pixels, picture.truth, page.cls, page.step)
    return collect(loaders.networks(page.run), subject, _examples(page, whole), ResultCache())


def _compared(page: Page, run2: Run, subject: Subject) -> Compared:
    from lag_core.explain.explanation import compared

    trace = loaders.trace(run2, page.picture())
    with loaders.network_lock(run2.digest):
        return compared(page.run, trace, subject)


def _examples(page: Page, whole: bool) -> Examples | None:
    """The validation images to measure on as well; None if they are not wanted or there are none."""
    if not whole:
        return None
    try:
        return reasons.examples(page.run, "set", None, page.data_root, page.cls)
    except DataError:
        return None


def _offer(page: Page, made: Made) -> None:
    """Download button, and what the file holds."""
    st.download_button(
        "Download the report",
        made.page.encode(),
        f"{file_stem(page)}.html",
        "text/html",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
        key="download-report",
    )
    held = made.contents
    st.caption(f"{held.size / 2**20:.1f} MiB · {counted(held.pictures, 'picture')} · {counted(held.plots, 'plot')}")
    for sentence in held.words:
        st.markdown(untrusted.markdown(sentence))
    st.markdown(":gray[It also holds:]")
    st.markdown("\n".join(f"* {line}" for line in CONTENTS[1:]))


def file_stem(page: Page) -> str:
    """Name of the file: run, class, step."""
    words = f"{page.run.name}-{page.class_info.name}-step-{page.step}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-.")[:100] or "report"
