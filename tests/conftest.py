"""Fixtures of several test files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import pytest
from browser import chromium, served
from repository import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """Writing without waiting for the disk: these tests write hundreds of files and never lose power."""
    original, os.fsync = os.fsync, lambda file: None
    yield
    os.fsync = original


MAIN = sys.modules["__main__"]


@pytest.fixture(autouse=True)
def own_main() -> None:
    """AppTest leaves its script behind as `__main__`; a process that a later test spawns would run it."""
    sys.modules["__main__"] = MAIN


@pytest.fixture(autouse=True)
def one_look_for_components() -> None:
    """Every AppTest reads the metadata of all installed packages, in search of components; once a process is enough."""
    if "streamlit.testing.v1.app_test" in sys.modules:
        from streamlit.components.v2 import manifest_scanner

        if not hasattr(manifest_scanner.scan_component_manifests, "cache_info"):
            manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app on the runs that ship, with nothing kept of earlier sessions."""
    cache = tmp_path_factory.mktemp("cache")
    with served("dashboard/app.py", {"LAG_RUNS": str(ROOT / "checkpoints"), "LAG_CACHE": str(cache)}) as url:
        yield url
