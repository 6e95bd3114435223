"""The photographs that ship, as a gallery for runs whose own images are not available.

The rule: where a run's validation images are missing, and each of its classes is found by name among the classes of
assets/photos, the app offers these photographs, with their truth in the run's ids. Their image ids carry a prefix,
so they are never taken for validation images: no measurement on the validation set uses them.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.ui import untrusted
from dashboard.ui.shipped import shipped
from lag_core.data.dataset import DatasetMissing
from lag_core.data.photographs import ClassedPhotographs, Credit, Photographs
from lag_core.data.pictures import DataError
from lag_core.runs import Run

PHOTO = "photo:"
"""Image ids with this prefix name a photograph that ships."""

FOLDER = shipped("assets/photos")

SAID = "The photographs of this run may not be published; these are in the public domain or under CC0."


def is_photo(image_id: str) -> bool:
    """Whether the image is a photograph that ships."""
    return image_id.startswith(PHOTO)


def name_of(image_id: str) -> str:
    """The photograph's name in its folder."""
    return image_id.removeprefix(PHOTO)


def of_run(run: Run) -> ClassedPhotographs | None:
    """The photographs in the run's dataset ids; None if they lack its classes, or are not available."""
    shipped = _shipped()
    return None if shipped is None else shipped.for_classes(run.classes, run.labels.background)


def ids(run: Run) -> tuple[str, ...]:
    """Image ids of the photographs that suit the run, in file order; empty where none do."""
    found = of_run(run)
    return () if found is None else tuple(PHOTO + name for name in found.names)


def files(image_id: str) -> tuple[Path, Path]:
    """Picture and mask of a photograph, for a command line."""
    name = name_of(image_id)
    return FOLDER / "images" / f"{name}.jpg", FOLDER / "masks" / f"{name}.png"


def credit(image_id: str) -> str:
    """Who made the photograph, its licence and its source, as one line of Markdown."""
    shipped = _shipped()
    if shipped is None or name_of(image_id) not in shipped.credits:
        return ""
    return _line(shipped.credits[name_of(image_id)])


def _line(found: Credit) -> str:
    address = found.source.replace("(", "%28").replace(")", "%29")
    return f"Photograph: {untrusted.markdown(found.author)} · {untrusted.markdown(found.licence)} · [source]({address})"


@st.cache_resource(show_spinner=False)
def _shipped() -> Photographs | None:
    try:
        return Photographs(FOLDER)
    except (DatasetMissing, DataError):
        return None
