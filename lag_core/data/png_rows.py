"""A PNG that is written some rows at a time: of any size, with the memory of a few rows.

Source: the PNG specification (ISO/IEC 15948): colour types 2 and 3, filters 0 and 2, one zlib stream over all rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lag_core.data.files import Size
from lag_core.writing import Partial, partial_file

_LEVEL = 4
_RGB, _PALETTE = 2, 3
_PLAIN, _UP = 0, 2
"""Filters: the bytes themselves, and their difference to the row above, which compresses photographs well."""


class PngRows:
    """Takes rows from top to bottom; `png_file` makes it."""

    def __init__(self, file: Partial, size: Size, palette: bytes | None):
        self._file, self._kind = file, _RGB if palette is None else _PALETTE
        self._deflate = zlib.compressobj(_LEVEL)
        self._above = np.zeros((1, size[1] * (3 if palette is None else 1)), np.uint8)
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, self._kind, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", palette)

    def add(self, rows: np.ndarray) -> None:
        """The next rows. Shape: uint8 [h, W, 3], or [h, W] of palette indices."""
        flat = rows.reshape(len(rows), -1)
        rgb = self._kind == _RGB
        lines = flat - np.concatenate([self._above, flat[:-1]]) if rgb else flat
        self._above = flat[-1:].copy()
        kinds = np.full((len(flat), 1), _UP if rgb else _PLAIN, np.uint8)
        self._chunk(b"IDAT", self._deflate.compress(np.concatenate([kinds, lines], 1).tobytes()))

    def end(self) -> None:
        """Call after the last row."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, content: bytes) -> None:
        if content or name == b"IEND":
            self._file.write(
                struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
            )


@contextmanager
def png_file(path: Path, size: Size, palette: bytes | None = None) -> Iterator[PngRows]:
    """A PNG at `path`, which appears when it is complete. `palette`: 768 bytes; None: an RGB picture.

    NotWritten, which names `path`, if it cannot be written.
    """
    with partial_file(path) as file:
        rows = PngRows(file, size, palette)
        yield rows
        rows.end()
