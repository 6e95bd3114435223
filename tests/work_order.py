"""The order in which `pytest -n` hands out files: a long one at the end would leave the other workers idle."""

from __future__ import annotations

from pathlib import Path

import pytest

LONGEST = (
    "test_import_peers.py",
    "test_import_pages.py",
    "test_training.py",
    "test_adapters.py",
    "test_resume.py",
    "test_advice.py",
    "test_published_configs.py",
    "test_photographs.py",
    "test_processes.py",
    "test_torchrun.py",
    "test_large_pictures.py",
)
"""Files that take the longest without being about the browser, longest first."""


def longest_first(items: list[pytest.Item]) -> None:
    """Browser tests first, those of one app beside one another (they share it); then LONGEST; then as collected."""
    rank: dict[Path, int] = {}
    for item in items:
        rank[item.path] = min(_rank(item), rank.get(item.path, len(LONGEST)))
    items.sort(key=lambda item: rank[item.path])


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("browser"):
        return -1 if "address" in getattr(item, "fixturenames", ()) else -2
    name = item.path.name
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)
