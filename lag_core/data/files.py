"""What every picture reader needs from a file: its name for messages, its bytes, and the error for a bad file."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from lag_core import reading
from lag_core.sentences import Said

Source = Path | str | bytes
"""A file, or its content."""

Size = tuple[int, int]
"""(height, width)."""

Part = tuple[slice, slice]
"""Rows and columns of a picture, both with start and stop, inside of it."""


class DataError(Said, ValueError):
    """A file of a dataset, or an uploaded one, that cannot be used: one sentence with its name and the reason."""


def file_of(source: Source, inside: Sequence[Path] = ()) -> BinaryIO:
    """The file, open; DataError if there is none, or if it leads out of the folders `inside` (reading)."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return reading.opened(source, reading.RASTER, inside)
    except FileNotFoundError:
        raise DataError(f"there is no file {source}") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None


def name_of(source: Source) -> str:
    """Its name in messages."""
    return "the picture" if isinstance(source, bytes) else str(source)


def state_of(source: Source) -> Hashable | None:
    """A value that changes when the file does; None for bytes and for files that cannot be read."""
    if isinstance(source, bytes):
        return None
    try:
        status = os.stat(source)
    except OSError:
        return None
    return os.path.abspath(source), status.st_size, status.st_mtime_ns


def whole(size: Size) -> Part:
    """All of a picture."""
    return slice(0, size[0]), slice(0, size[1])


class Kept:
    """Decoded arrays by key: the most recently used ones, at most `most` bytes. Thread-safe."""

    def __init__(self, most: int):
        self.most = most
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Hashable | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under `key`, made if missing; None keeps nothing. Read-only."""
        if key is None:
            return make()
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        made = make()
        if made.nbytes > self.most:
            return made
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = made
                self._bytes += made.nbytes
            while self._bytes > self.most:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return made
