"""Running the whole app again, without undoing what the user has asked for in the meantime."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st


def start_over() -> NoReturn:
    """Run the app again from its beginning.

    `st.rerun` alone asks for the page of this run, so another page requested in the meantime would be forgotten.
    At the empty element Streamlit checks for such a request and goes to the other page.
    """
    st.empty()
    st.rerun(scope="app")
