"""Fixtures of several test files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Shared, chromium, served
from repository import ROOT
from work_order import longest_first

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


SHARED = Shared()
BROWSER_FILES = pytest.StashKey[set[Path]]()


@pytest.fixture(scope="module")
def browser() -> Browser:
    """Headless Chromium; files of browser tests that follow one another share it."""
    return SHARED.once("chromium", chromium)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The app on the runs that ship, with nothing kept at first; browser files that follow one another share it."""
    return SHARED.once("app", partial(_app, tmp_path_factory))


@contextmanager
def _app(folders: pytest.TempPathFactory) -> Iterator[str]:
    variables = {"LAG_RUNS": str(ROOT / "checkpoints"), "LAG_CACHE": str(folders.mktemp("cache"))}
    with served("dashboard/app.py", variables) as url:
        yield url


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[BROWSER_FILES] = {item.path for item in items if item.get_closest_marker("browser")}
    if hasattr(config, "workerinput"):
        longest_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Playwright's event loop runs as long as Chromium does; a file of other tests may start one of its own."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path not in item.config.stash[BROWSER_FILES]:
            SHARED.close()


def pytest_unconfigure() -> None:
    """Where the run was stopped, no last test ended what is shared."""
    SHARED.close()
