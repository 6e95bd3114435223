"""Running the app again does not undo what the user has asked for meanwhile."""

from __future__ import annotations

import ast

import pytest
from repository import ROOT
from streamlit.testing.v1 import AppTest


def two_pages(again: str) -> None:
    """An app whose first page runs the app again while the user has just clicked on the second one's link."""
    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx
    from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

    from dashboard.state.starting_over import start_over

    def first() -> None:
        st.markdown("first")
        if st.session_state.setdefault("asked", False):
            return
        st.session_state["asked"] = True
        requests = getattr(get_script_run_ctx(), "script_requests", None)
        assert requests is not None
        requests.request_rerun(RerunData(page_script_hash=pages[1]._script_hash))
        if again == "start_over":
            start_over()
        st.rerun()

    pages = [st.Page(first, default=True), st.Page(lambda: st.markdown("second"), url_path="second")]
    st.navigation(pages).run()


@pytest.mark.parametrize(("again", "shown"), [("start_over", "second"), ("rerun", "first")])
def test_a_page_that_was_asked_for_comes(again: str, shown: str) -> None:
    """`rerun`: what Streamlit does by itself. If this fails, start_over is needed no more."""
    at = AppTest.from_function(two_pages, args=(again,)).run()
    assert not at.exception and [one.value for one in at.markdown] == [shown]


def test_nobody_else_calls_streamlits_own() -> None:
    found = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "dashboard").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "rerun"
    ]
    assert [str(path) for path in found] == ["dashboard/state/starting_over.py"]
