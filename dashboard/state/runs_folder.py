"""Which folder of runs a session opens if the app was started without any.

A folder that was named, or a run that was dropped, is kept for the session. If only this machine can reach the server,
it is kept for the server too, for a reloaded page or a second window.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.state import folder_naming

_KEY = "_runs_root"


def of_session() -> Path | None:
    """The folder that this session chose, as long as it exists."""
    return _if_there(st.session_state.get(_KEY))


def of_server() -> Path | None:
    """The folder that any session of this machine chose last, as long as it exists."""
    return _if_there(_kept().get(_KEY)) if folder_naming.allowed() else None


def choose(folder: Path) -> None:
    """Open the runs in `folder` from now on."""
    st.session_state[_KEY] = folder
    if folder_naming.allowed():
        _kept()[_KEY] = folder


def _if_there(folder: Path | None) -> Path | None:
    return folder if folder is not None and folder.is_dir() else None


@st.cache_resource(show_spinner=False)
def _kept() -> dict[str, Path]:
    return {}
