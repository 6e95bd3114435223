"""Fixtures of several test files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest


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
