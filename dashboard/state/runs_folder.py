"""Which folder of runs a session opens where the app was started without any.

A folder that was named, or a run that was dropped, is kept for the session. Where this machine alone reaches the server
it is kept for the server, too: a page that is loaded again, or a second window, finds it.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.state import folder_naming

_KEY = "_runs_root"


def of_session() -> Path | None:
    """The folder that this session chose, as long as it is there."""
    return _if_there(st.session_state.get(_KEY))


def of_server() -> Path | None:
    """The folder that some session of this machine chose last, as long as it is there."""
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
