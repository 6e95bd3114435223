"""The app's frame: `streamlit run dashboard/app.py`. A page is one line in PAGES (docs/dashboard.md)."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard import sidebar
from dashboard.cache import loaders
from dashboard.components import in_view
from dashboard.components.cells import cell_keys
from dashboard.page import Page, guarded
from dashboard.shell import memory_release, prefetch, tour
from dashboard.shell.following import await_first_step
from dashboard.state import selection
from dashboard.ui import design, embedded
from lag_core import reading

HERE = Path(__file__).resolve().parent
ICON = embedded.picture(reading.read_bytes(HERE / "icon.png", reading.PICTURE))


@dataclass(frozen=True)
class Entry:
    """A page: its file in app_pages and its address, its title, the question it answers, its icon.

    before_first_step: whether it can show a run whose first step is still training.
    """

    slug: str
    title: str
    question: str
    icon: str
    before_first_step: bool = False


PAGES = (
    Entry("start", "Start", "What does a network forget, and why?", ":material/home:"),
    Entry("overview", "Overview", "How did the run go?", ":material/insights:"),
    Entry("compare", "Compare", "Which method keeps what?", ":material/leaderboard:"),
    Entry("steps", "Steps", "What happened to this picture?", ":material/layers:"),
    Entry("forgetting", "Forgetting", "What was lost, and where?", ":material/history:"),
    Entry("channels", "Channels", "Which channels carry the old knowledge?", ":material/tune:"),
    Entry("relevance", "Relevance", "Which neurons and pixels speak for a class?", ":material/center_focus_strong:"),
    Entry("prototypes", "Prototypes", "Did the class move?", ":material/conversion_path:"),
    Entry("why", "Why preserved", "Why is this class still here, or gone?", ":material/psychology_alt:"),
    Entry(
        "training", "Training", "Did the loss terms have an effect?", ":material/trending_down:", before_first_step=True
    ),
    Entry("report", "Report", "Save this analysis as one file.", ":material/article:"),
)


def main(default: str = "start") -> None:
    """One run of the script. `default` is the slug of the page shown at the bare address."""
    began = time.monotonic()
    st.set_page_config("Incremental segmentation, explained", ICON, layout="wide")
    st.html(HERE / "style.css")
    if design.ink().dark:
        st.html(HERE / "dark.css")
    selection.begin()
    page = None
    with guarded("The sidebar"):
        page = sidebar.draw(loaders.opened())
    if page is None:
        return
    copied = st.sidebar.popover("Copy link", icon=":material/link:", width="stretch")
    tour.offer()
    links: dict[str, StreamlitPage] = {}
    page = replace(page, links=links)
    links |= {entry.slug: _streamlit_page(entry, page, entry.slug == default) for entry in PAGES}
    drawn = list(links.values())
    shown = st.navigation([*drawn, _slug_of_default(drawn, default)], position="top")
    tour.guide({entry.title: link for entry, link in zip(PAGES, drawn, strict=True)})
    shown.run()
    for sentence in selection.take_notes():
        st.toast(sentence, icon=":material/info:", duration="long")
    sidebar.draw_link(copied)
    with st.sidebar:
        cell_keys()
    selection.publish()
    memory_release.tidy()
    prefetch.begin(page, [entry.slug for entry in PAGES], time.monotonic() - began)


def _streamlit_page(entry: Entry, page: Page, default: bool) -> StreamlitPage:
    """The default page is served at the bare address; its slug is left to `_slug_of_default`."""
    return st.Page(_renderer(entry, page), title=entry.title, url_path=None if default else entry.slug, default=default)


def _slug_of_default(pages: Sequence[StreamlitPage], slug: str) -> StreamlitPage:
    """A page in no menu, so that an address that names the default page leads there too."""
    home = next(page for page in pages if not page.url_path)
    return st.Page(lambda: st.switch_page(home, query_params=st.query_params), url_path=slug, visibility="hidden")


def _renderer(entry: Entry, page: Page) -> Callable[[], None]:
    """A page's file is imported when it is first opened: one that only reads results never loads torch."""

    def render() -> None:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"### {entry.icon} {entry.title}", width="content")
            st.markdown(f":gray[{entry.question}]", width="content")
            st.space("stretch")
            toolbar = st.container(horizontal=True, vertical_alignment="center", width="content")
        if page.last_step < 0 and not entry.before_first_step:
            await_first_step(page.run)
            return
        with guarded(entry.title):
            module = importlib.import_module(f"dashboard.app_pages.{entry.slug}.page")
            module.render(replace(page, toolbar=toolbar, to_the_end=in_view.is_near(entry.slug)))
        in_view.watch(entry.slug)

    return render


if __name__ == "__main__":
    main()
