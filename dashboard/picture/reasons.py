"""The evidence on a class, measured once for all sessions, with progress that can be cancelled.

Results are in the disk cache of lag_core, keyed by the digests of run and pictures. A measurement holds the run's
lock for one piece of work at a time, so other sessions can go on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Literal, TypeVar

import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.page import Empty
from dashboard.ui import untrusted
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.evidence import Examples
    from lag_core.explain.verdict import Evidence

Where = Literal["image", "set"]
Result = TypeVar("Result")

_ASKED, _STOPPED = "_work_asked", "_work_stopped"


def examples(run: Run, where: Where, picture: Picture | None, root: str, cls: int) -> Examples:
    """The pictures to measure a class on. NoExamples (a DataError) says why there are none."""
    if where == "set":
        return _from_set(run.digest, root, cls, _run=run)
    if picture is None:
        raise Empty("Choose an image in the sidebar, or measure on the validation set.")
    return _from_picture(run.digest, picture.digest, picture.truth is None, cls, _run=run, _picture=picture)


@st.cache_resource(max_entries=6, show_spinner="Reading validation images that show the class…")
def _from_set(digest: str, root: str, cls: int, *, _run: Run) -> Examples:
    from lag_core.explain.evidence import from_validation

    return from_validation(_run, _run.open_dataset(loaders.data_root(root)), cls)


@st.cache_resource(max_entries=32, show_spinner=False)
def _from_picture(digest: str, image: str, blind: bool, cls: int, *, _run: Run, _picture: Picture) -> Examples:
    from lag_core.explain.evidence import one_picture

    if blind:
        raise Empty(
            "This picture has no annotation, so there is no IoU to explain on it. "
            "“Measured on: validation set”, above, asks the same about the run's own images."
        )
    name = untrusted.plain(_run.classes[cls].name, 60)
    return one_picture(_picture.pixels, _picture.truth, cls, name)


def evidence(run: Run, pictures: Examples, cls: int, step: int, *, ask: bool) -> Evidence:
    """The evidence on class index `cls` at `step`, from the cache or measured now.

    ask: measure only after a click on a button. Raises `Empty` while the user has not asked, or has cancelled.
    """
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.evidence import cached, measure

    cache = ResultCache()
    found = cached(run, pictures, cls, step, cache)
    if found is not None:
        return found
    key = f"{run.digest}/{pictures.digest}/{cls}/{step}"
    label = f"Measure {len(pictures)} image{'s' * (len(pictures) > 1)}"
    wait_for_asking(key, ask, label, "Not measured yet: this takes some seconds, once.")
    return worked_off(measure(loaders.networks(run), pictures, cls, step, cache), run, key, "Measuring")


def measured(run: Run, pictures: Examples, cls: int, step: int) -> None:
    """Measure and keep the evidence without asking; other sessions go on between two pieces of work."""
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.evidence import measure

    work = measure(loaders.networks(run), pictures, cls, step, ResultCache())
    done = object()
    share: object = None
    while share is not done:
        with loaders.network_lock(run.digest):
            share = next(work, done)


def wait_for_asking(key: str, ask: bool, label: str, why: str) -> None:
    """Go on if the user asked for the work; else draw its button and raise `Empty` with `why`."""
    session = st.session_state
    stopped = session.get(_STOPPED) == key
    if session.get(_ASKED) == key or (not ask and not stopped):
        return
    st.button(label, key=f"ask-{key[:16]}", icon=":material/play_arrow:", on_click=_start, args=(key,))
    raise Empty("Cancelled." if stopped else why)


def worked_off(work: Generator[float, None, Result], run: Run, key: str, words: str) -> Result:
    """The result of a measurement, with a bar and a button that ends it: a click starts the script again, which
    stops it here, between two pieces of work."""
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, f"{words}…")
        st.button("Cancel", key=f"stop-{key[:16]}", icon=":material/close:", on_click=_stop, args=(key,))
    while True:
        try:
            with loaders.network_lock(run.digest):
                share = next(work)
        except StopIteration as end:
            place.empty()
            return end.value
        bar.progress(min(share, 1.0), f"{words}… {100 * share:.0f} %")


def _start(key: str) -> None:
    st.session_state[_ASKED] = key
    st.session_state.pop(_STOPPED, None)


def _stop(key: str) -> None:
    st.session_state[_STOPPED] = key
    st.session_state.pop(_ASKED, None)
