"""What every page receives, and how it draws a view: see docs/dashboard.md.

A page is a function `render(page: Page)`. It draws its views in `with page.section(…) as view:`; whatever
goes wrong inside stays inside: the user reads a sentence, the other views are drawn.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.components import in_view
from dashboard.ui import design, untrusted
from lag_core.config import ConfigError
from lag_core.data.dataset import DatasetMissing
from lag_core.data.pictures import DataError
from lag_core.data.undecided import LEAST
from lag_core.protocol import ClassInfo
from lag_core.runs import Run, RunError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from streamlit.navigation.page import StreamlitPage

    from lag_core.explain.trace import Trace

Columns = Mapping[str, Sequence[Any]]
"""A table by column, all of one length."""

_log = logging.getLogger(__name__)


class Empty(Exception):
    """There is nothing to draw; the sentence says why and what to do. Raise it in a page or a view."""


@dataclass(frozen=True)
class Page:
    """What the user selected. Every value has been checked against the run."""

    run: Run
    run2: Run | None
    """The run to compare with; None if the user chose none."""
    step: int
    """0 .. run.last_step: the position of the global scrubber; 0 where the first step is not finished."""
    cls: int
    """Class index 0 .. K-1."""
    image_id: str
    """Empty if the run's images are not available and nothing was uploaded."""
    data_root: str
    why_no_image: str = ""
    """Why `image_id` is empty, for the user."""
    figure_format: Literal["png", "svg"] = "png"
    least: float = LEAST
    """Where no class of a sigmoid network has a probability above this, pictures show "none"."""
    ink: design.Ink = field(default_factory=design.ink)
    links: Mapping[str, StreamlitPage] = field(default_factory=dict)
    """The app's pages by slug, for `st.switch_page`."""
    toolbar: Any = None
    """Container on the right of the page's title, for settings of the whole page: `with page.toolbar:`."""
    to_the_end: bool = True
    """Whether figures below the first window are drawn too; else their space is kept empty."""

    @property
    def last_step(self) -> int:
        """-1 where the first step is not finished; only Training is drawn then."""
        return self.run.last_step

    @property
    def class_info(self) -> ClassInfo:
        """The selected class."""
        return self.run.classes[self.cls]

    @property
    def step2(self) -> int:
        """The scrubber's position in the compared run, which may have fewer steps."""
        return min(self.step, self.run2.last_step) if self.run2 else self.step

    @property
    def cls2(self) -> int:
        """The selected class's index in the compared run, which may introduce them in another order."""
        return self.run2.labels.index_of(self.class_info.id) if self.run2 else self.cls

    def picture(self) -> Picture:
        """The selected image; raises `Empty` with the reason where there is none."""
        if not self.image_id:
            raise Empty(self.why_no_image or "Choose an image in the sidebar, or upload one.")
        found = loaders.picture(self.run, self.data_root, self.image_id)
        if found is None:
            raise Empty("This picture is no longer kept. Upload it again in the sidebar.")
        return found

    def trace(self) -> Trace:
        """The selected image through every step of the run. Imports torch."""
        return loaders.trace(self.run, self.picture())

    def confusions(self) -> np.ndarray:
        """Confusion matrices int64 [T, K, K] of the run; raises `Empty` where it was not evaluated."""
        found = loaders.confusions(self.run)
        if found is None:
            self.run.confusions()  # a damaged file says so
            name = untrusted.name(self.run.name)
            raise Empty(f"{name} has not been evaluated yet. `lag evaluate` writes its confusion matrices.")
        return found

    def answer(self, sentence: str) -> None:
        """The page's answer in one Markdown sentence, directly under its question."""
        with st.container(key="answer"):
            st.markdown(sentence)

    @contextmanager
    def section(
        self,
        title: str,
        reading: str,
        *,
        formula: str = "",
        source: str = "",
        slug: str = "",
        inline: bool = False,
        below: bool = False,
        border: bool = True,
        height: int | Literal["content", "stretch"] = "stretch",
    ) -> Iterator[View]:
        """A view with its head: title, a sentence on how to read it, formula (LaTeX) with source, downloads.

        `title`, `reading` and `source` are Markdown: put names from a run through `untrusted.markdown`.
        `slug` names the view in keys and files; give one where the title changes. `inline` puts the sentence
        beside the title, for wide and low views; `below` puts it under what is drawn, where the picture comes first.
        """
        slug = slug or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        with st.container(border=border, height=height, key=f"view-{slug}", gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
                st.markdown(f"##### {title}", width="content")
                if inline:
                    st.caption(reading, width="content")
                st.space("stretch")
                actions = st.container(horizontal=True, width="content", gap="xxsmall", key=f"actions-{slug}")
            if formula:
                _formula(actions, formula, source)
            if not inline and not below:
                st.caption(reading)
            with guarded(title):
                yield View(self, slug, actions)
            if below:
                st.caption(reading)


def _formula(slot: Any, formula: str, source: str) -> None:
    with slot.popover("", icon=":material/function:", type="tertiary", help="Formula and source"):
        st.latex(formula)
        if source:
            st.caption(f"Source: {source}")


@dataclass(frozen=True)
class View:
    """The inside of a section: draws, and offers downloads of what it drew."""

    page: Page
    slug: str
    actions: Any
    """Where the head's buttons go."""

    @property
    def file_stem(self) -> str:
        """Name of a downloaded file: run and view."""
        run = re.sub(r"[^A-Za-z0-9._-]+", "-", self.page.run.name)[:80]
        return f"{run}-{self.slug}"

    def plot(
        self,
        figure: go.Figure | Callable[[], go.Figure],
        alt: str,
        *,
        height: int = design.PLOT_HEIGHT,
        key: str = "",
        select: bool = False,
        below: bool = False,
    ) -> list[dict[str, Any]]:
        """Draw a Plotly figure; its tool bar saves PNG or SVG. `alt` is read out by screen readers.

        With `select`, clicks on marks rerun the page and the clicked points come back, with their
        `customdata`. Plotly reports no clicks on heat maps: `figures.clickable` lays marks over one.

        `below`: the figure lies below a window of 1280 x 800 and may wait until the reader comes near. Hand over a
        function then, and it is made only when it is drawn.
        """
        name = key or self.slug
        if below and self.waits(name, height):
            return []
        figure = figure() if callable(figure) else figure
        options: dict[str, Any] = {"on_select": "rerun", "selection_mode": "points"} if select else {}
        if figure.layout.height != height:
            figure.update_layout(height=height)
        event = st.plotly_chart(
            figure,
            height=height,
            key=f"plot-{name}",
            alt=alt,
            config=design.plot_config(self.file_stem, self.page.figure_format, height),
            **options,
        )
        return list(event["selection"]["points"]) if select else []

    def waits(self, name: str, height: int) -> bool:
        """Whether content below the first window is held back now; then `height` empty pixels are drawn."""
        if self.page.to_the_end:
            return False
        in_view.place(name, height)
        return True

    def csv(self, columns: Columns | Callable[[], Columns]) -> None:
        """Offer a table; a function is called only when somebody downloads it."""

        def content() -> bytes:
            return to_csv(columns() if callable(columns) else columns)

        self._download("CSV", content, "csv", "text/csv", "The numbers of this view")

    def png(self, pixels: np.ndarray | Callable[[], np.ndarray]) -> None:
        """Offer a picture, uint8 [H, W, 3 or 4] or [H, W], as PNG at its own size."""

        def content() -> bytes:
            return to_png(pixels() if callable(pixels) else pixels)

        self._download("PNG", content, "png", "image/png", "This picture")

    def _download(self, label: str, content: Callable[[], bytes], ending: str, mime: str, help: str) -> None:
        self.actions.download_button(
            label,
            content,
            f"{self.file_stem}.{ending}",
            mime,
            key=f"download-{self.slug}-{ending}",
            help=help,
            type="tertiary",
            on_click="ignore",
        )


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Any error inside becomes a sentence in its place; an unexpected one is also logged."""
    try:
        yield
    except Empty as reason:
        st.info(str(reason), icon=":material/info:")
    except RunError as error:
        st.warning(untrusted.markdown(error), icon=":material/warning:")
    except (DatasetMissing, DataError, ConfigError) as error:
        st.info(untrusted.markdown(error), icon=":material/info:")
    except Exception as error:
        _log.exception("%s could not be drawn", what)
        kind = untrusted.name(type(error).__name__)
        st.error(f"{what} could not be drawn ({kind}). The terminal that runs the dashboard has the details.")


def to_csv(columns: Columns) -> bytes:
    """UTF-8 CSV with a head line; missing numbers are empty, nothing is a spreadsheet formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([untrusted.cell(name) for name in columns])
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if _missing(value) else untrusted.cell(value) for value in row])
    return buffer.getvalue().encode()


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and not np.isfinite(value))


def to_png(pixels: np.ndarray) -> bytes:
    """An array as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
