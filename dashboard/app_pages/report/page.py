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
from lag_core.runs import Run, RunError

if TYPE_CHECKING:
    from lag_core.explain.apart import Apart
    from lag_core.explain.evidence import Examples
    from lag_core.explain.explanation import Compared, Explanation, Subject
    from lag_core.explain.report import Contents

KEPT = "_report"
PREVIEW_HEIGHT = 640


FURTHER = (
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


def holds(page: Page) -> list[str]:
    """The contents of the file, in its order; without ground truth some parts are missing."""
    if page.picture().truth is None:
        return [
            f"if switched on above: the verdict in words, and {FURTHER[0]}, on the validation set, as this picture has "
            "no ground truth",
            "the picture and the prediction of every step",
            *FURTHER[1:],
        ]
    compared = " and how it differs from the compared run, part by part," if page.run2 else ","
    return [
        f"the verdict in words{compared} on this picture and, if switched on above, on the validation set",
        "the picture, its ground truth, and the prediction of every step",
        "what became of each pixel: kept, learned, forgotten, recovered; the same in the compared run",
        "where the change lives: exact shares, and the swap board of features and heads",
        *FURTHER,
    ]


def render(page: Page) -> None:
    """Draw the page."""
    picture = page.picture()
    with page.toolbar:
        whole = settings.switch(
            "Measure on the validation set, too", "report_set", help="Takes some seconds, once for each class and step."
        )
    name = untrusted.name(page.class_info.name)
    image = untrusted.name(picture.name)
    run = untrusted.name(page.run.name)
    page.answer(
        f"One HTML file about **{name}** at step {page.step} of {run} on {image}: opens offline, light or dark."
    )
    digests = (page.run.digest, picture.digest, page.run2.digest if page.run2 else "")
    key = "/".join(str(one) for one in (*digests, page.cls, page.step, whole, page.least))
    made: Made | None = st.session_state.get(KEPT)
    left, right = st.columns((1, 2.1), gap="small")
    with left, page.section("The file", "What it contains. It loads nothing from the network.", slug="file"):
        if made is None or made.key != key:
            st.markdown("\n".join(f"* {line}" for line in holds(page)))
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
    from lag_core.explain.report import contents, report

    found = reasons.worked_off(_collect(page, whole), page.run, key, "Collecting")
    if page.run2:
        found = replace(found, compared=_compared(page, page.run2, found.subject), apart=_apart(page, found, key))
    command = _command(page, found, whole)
    text = report(page.run, found, command)
    return Made(key, text, contents(text, found))


def _command(page: Page, found: Explanation, whole: bool) -> str:
    """The command that makes the report again."""
    from lag_core.explain.report import command_line

    picture = page.picture()
    image, mask = Path("PICTURE" if picture.uploaded else picture.id), None
    if picture.shipped:
        image, mask = photographs.files(picture.id)
    return command_line(
        "report", page.run, str(image), page.cls, page.step, f"{file_stem(page)}.html", mask=mask,
        image_only=not whole, against=page.run2.path if page.run2 and found.apart else None,
        own_shares=found.apart is not None, least=page.least,
    )  # fmt: skip


def _collect(page: Page, whole: bool) -> Generator[float, None, Explanation]:
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.explanation import Subject, collect

    picture = page.picture()
    name = picture.name
    subject = Subject(name, picture.pixels, picture.truth, page.cls, page.step, page.least)
    return collect(loaders.networks(page.run), subject, _examples(page, whole), ResultCache())


def _compared(page: Page, run2: Run, subject: Subject) -> Compared:
    from lag_core.explain.explanation import compared

    trace = loaders.trace(run2, page.picture())
    with loaders.network_lock(run2.digest):
        return compared(page.run, trace, subject)


def _apart(page: Page, found: Explanation, key: str) -> Apart | None:
    """How the run differs from the compared one, as the page Why says it; None where that is not known."""
    from lag_core.explain.apart import Apart, checked_step
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.evidence import class_shares
    from lag_core.explain.shares import difference

    pictures, other = _pictures(page, found), page.run2
    own = found.evidence[-1].shares if found.evidence else None
    if other is None or own is None or pictures is None:
        return None
    try:
        step = checked_step(page.run, other, page.cls, page.step)
    except RunError:
        return None
    if step <= other.labels.step_of(page.cls):
        return None
    work = class_shares(loaders.networks(other), pictures, page.cls, step, ResultCache())
    theirs = reasons.worked_off(work, other, f"{other.digest}/{key}", "Measuring the compared run")
    return Apart(other.name, difference(own, theirs), swapped=False)


def _pictures(page: Page, found: Explanation) -> Examples | None:
    """What the last evidence of the report was measured on: the validation set, or a picture of the class."""
    if found.evidence and found.evidence[-1].whole_set:
        return _examples(page, whole=True)
    picture = page.picture()
    if picture.truth is None or not (picture.truth == page.cls).any():
        return None
    return reasons.examples(page.run, "image", picture, page.data_root, page.cls)


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
    st.markdown("\n".join(f"* {line}" for line in holds(page)[1:]))


def file_stem(page: Page) -> str:
    """Name of the file: run, class, step."""
    words = f"{page.run.name}-{page.class_info.name}-step-{page.step}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-.")[:100] or "report"
