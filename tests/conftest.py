"""Fixtures of several test files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """Writing without waiting for the disk: these tests write hundreds of files and never lose power."""
    original, os.fsync = os.fsync, lambda file: None
    yield
    os.fsync = original
