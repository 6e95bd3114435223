"""glibc's memory allocator: let it give large pieces that are freed back to the system. Nothing happens without glibc.

By itself it raises the size from which a piece is mapped on its own, up to 32 MiB, after each larger one that is
freed. Smaller pieces then lie in the heap, and a hole in its midst stays with the process. `explain` kept 120 MiB more
for a photograph of 40 megapixels than with a fixed size.
"""

from __future__ import annotations

import ctypes
from typing import Any

MMAP_THRESHOLD, ARENA_MAX = -3, -8
"""Names of glibc's mallopt."""


def function(name: str) -> Any:
    """A function of the C library; None where it is not glibc, or has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


def return_memory(piece: int = 2**20, arenas: int | None = None) -> None:
    """Pieces of `piece` bytes or more go back to the system when they are freed; at most `arenas` heaps are used."""
    mallopt = function("mallopt")
    if mallopt is None:
        return
    if arenas is not None:
        mallopt(ARENA_MAX, arenas)
    mallopt(MMAP_THRESHOLD, piece)
