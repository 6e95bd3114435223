"""The page for an app without runs: what the app needs, a field for a folder, a place to drop a run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.loaders import Catalogue
from dashboard.state import folder_naming, runs_folder
from dashboard.state.starting_over import start_over
from dashboard.ui import commands, untrusted
from lag_core.importing.error import CheckpointError
from lag_core.importing.zipped_run import unpack

LONGEST_PATH = 1000


def draw(catalogue: Catalogue) -> None:
    """Draw the page; a given folder or archive opens at once."""
    with st.container(width=760):
        st.markdown("### No run yet")
        st.markdown(
            "This app shows what each training step of a segmentation model did to its classes. It needs a **run**: a "
            f"folder with the network of every step. Looked in {untrusted.markdown(catalogue.root)}."
        )
        for run in catalogue.broken:
            st.warning(f"**{untrusted.name(run.name)}** cannot be opened: {untrusted.markdown(run.reason)}")
        if folder_naming.allowed():
            _ask_for_folder()
        _ask_for_archive()
        st.markdown("##### You have checkpoints of another system")
        st.markdown("They are imported at the command line; the run then appears here:")
        st.code(commands.IMPORT, language="bash", wrap_lines=True)
        st.markdown("##### You have no checkpoints")
        st.markdown("Train a small run; it takes some minutes on two cores:")
        st.code(commands.TRAIN, language="bash", wrap_lines=True)


def _ask_for_folder() -> None:
    given = st.text_input(
        "Folder that holds runs",
        max_chars=LONGEST_PATH,
        key="no-runs-folder",
        placeholder="checkpoints",
        help="Each run is a folder in it, with a file run.json.",
    ).strip()
    if not given:
        return
    if "\0" in given or not Path(given).is_dir():
        st.error(f"{untrusted.markdown(given)} is not a folder on the machine that runs this app.")
        return
    _open(Path(given))


def _ask_for_archive() -> None:
    dropped = st.file_uploader(
        "Or drop a run folder here, as a zip",
        type="zip",
        key="no-runs-archive",
        help="The app takes only the files of a run from it, and checks them before it opens them.",
    )
    if dropped is None:
        return
    try:
        folder = _unpacked(dropped.getvalue(), dropped.name)
    except CheckpointError as reason:
        st.error(f"{untrusted.name(dropped.name)}: {untrusted.markdown(reason)}.")
    except OSError as reason:  # a disk that is full or read-only
        st.error(f"{untrusted.name(dropped.name)} cannot be unpacked here: {untrusted.markdown(reason.strerror)}.")
    else:
        _open(folder)


def _unpacked(content: bytes, name: str) -> Path:
    """A folder with the run of an archive, which lasts until the app ends."""
    folder = Path(tempfile.mkdtemp(prefix="lag-dropped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        unpack(content, name, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _open(folder: Path) -> None:
    """Use this folder from now on, if any run opens; else name each run with the reason."""
    found = loaders.catalogue(folder)
    if found.runs:
        runs_folder.choose(folder)
        start_over()
    if not found.broken:
        st.error(f"There is no run in {untrusted.markdown(folder)}: no folder in it has a file run.json.")
    for run in found.broken:
        st.error(f"**{untrusted.name(run.name)}** cannot be opened: {untrusted.markdown(run.reason)}")
