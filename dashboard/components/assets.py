"""Scripts and styles of the inline components, read from the files beside this one.

A component is one script for the browser. To keep its parts small and named after what they do, the script is
written in several files, which share one scope, and is put together here; there is no build step.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


@cache
def source(*names: str) -> str:
    """The files `names` (of this folder), one after the other."""
    return "\n".join((_FOLDER / name).read_text("utf-8") for name in names)
