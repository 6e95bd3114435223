"""Whether a user may name folders of the machine that serves the dashboard: not if others can reach it."""

from __future__ import annotations

import os

import streamlit as st

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Addresses that this machine alone can reach."""


def allowed() -> bool:
    """LAG_DATA_ROOT = "on" or "off" decides; else whether the server listens on the loopback address alone."""
    said = os.environ.get("LAG_DATA_ROOT", "").strip().lower()
    return said == "on" if said in ("on", "off") else st.get_option("server.address") in LOOPBACK
