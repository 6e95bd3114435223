"""The error for an unusable checkpoint."""

from __future__ import annotations

from lag_core.data.pictures import DataError


class CheckpointError(DataError):
    """A checkpoint that cannot be used, or not without an option: one sentence with its name and what to do."""
