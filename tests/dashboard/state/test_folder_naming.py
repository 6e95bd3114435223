"""The data root is off where others can reach the server."""

from __future__ import annotations

import pytest
import streamlit as st

from dashboard import sidebar
from dashboard.cache import loaders
from dashboard.state import folder_naming


@pytest.mark.parametrize(
    "address, switch, allowed",
    [
        ("localhost", "", True), ("127.0.0.1", "", True), ("::1", "", True), ("0.0.0.0", "", False), (None, "", False),
        ("localhost", "off", False), ("0.0.0.0", "on", True), ("0.0.0.0", "perhaps", False),
    ],
)  # fmt: skip
def test_who_may_name_folders(monkeypatch: pytest.MonkeyPatch, address: str | None, switch: str, allowed: bool) -> None:
    monkeypatch.setattr(st, "get_option", lambda name: address)
    monkeypatch.setenv("LAG_DATA_ROOT", switch)
    assert folder_naming.allowed() is allowed


def test_a_kept_folder_counts_only_where_it_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "session_state", {"data_root": "/secret"})
    monkeypatch.setattr(loaders, "default_data_root", lambda: "given")
    for switch, root in (("on", "/secret"), ("off", "given")):
        monkeypatch.setenv("LAG_DATA_ROOT", switch)
        assert sidebar._kept_root() == root
