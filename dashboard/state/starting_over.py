"""Running the whole app again, without undoing what the user has asked for meanwhile."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st


def start_over() -> NoReturn:
    """Run the app again from its beginning.

    `st.rerun` alone asks for the page of this run: another page that was asked for meanwhile would be forgotten;
    the empty element is where Streamlit looks, and leaves for the other page.
    """
    st.empty()
    st.rerun(scope="app")
