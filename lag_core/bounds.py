"""The bounds of a number in a frozen dataclass: they are in the field's metadata, beside its default."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def bounded(default: Any, low: float, high: float, **metadata: Any) -> Any:
    """A field whose value must lie between `low` and `high`, both allowed. `metadata`: what else is known of it."""
    return field(default=default, metadata={"bounds": (low, high), **metadata})


def bounds_of(section: Any) -> dict[str, tuple[float, float]]:
    """Name -> (lowest, highest) of every bounded field of a dataclass."""
    return {one.name: one.metadata["bounds"] for one in fields(section) if "bounds" in one.metadata}
