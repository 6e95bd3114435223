"""Types of options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def place(text: str) -> Path:
    """A file or folder. An empty text is refused: it would silently mean the working directory."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it is empty; name a file or folder")
    return Path(text)
