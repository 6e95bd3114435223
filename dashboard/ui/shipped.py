"""Where the files that ship with the project are: in the repository, or where its wheel puts them."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALLED = Path(sys.prefix) / "share" / "lag"


def shipped(name: str) -> Path:
    """Path of "checkpoints", "assets/photos" or "docs/tour.md"; it exists in one of the two places, or nowhere."""
    own = REPOSITORY / name
    return own if own.exists() or not (INSTALLED / name).exists() else INSTALLED / name
