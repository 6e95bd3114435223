"""TIFF files as remote sensing writes them: strips or tiles, LZW and others, any number of bands, 8 or 16 bits.

`tifffile` reads them; it comes with the project's extra `[tiff]`. Only the strips or tiles under the part that is asked
for are decoded, so memory does not grow with the picture. Files of another kind (palettes, CMYK, JPEG inside) are left
to Pillow. The first picture of a file is read, its smaller copies (overviews) are skipped, and a file
of several pictures is refused. Ours.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from lag_core.data.files import DataError, Kept, Part, Size, Source, file_of, name_of, state_of

EXTRA = "pip install -e '.[tiff]' (tifffile)"
"""The hint if tifffile is needed and not installed."""

MOST_PIXELS = 1_000_000_000
"""Of a picture that is read in parts."""
MOST_SEGMENT = 512 * 2**20
"""Bytes that one strip or tile unpacks to."""
MOST_BANDS = 256
MOST_PAGES = 32
"""Directories of a file that are read."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_COMPRESSIONS = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""None, LZW, deflate (two numbers), PackBits, LZMA, Zstandard: the lossless ones."""
_BLACK_IS_ZERO, _RGB = 1, 2
_ASSOCIATED_ALPHA = 1
_SUBFILE_TYPE = 254
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller copy, and a mask of transparency."""

_SEGMENTS = Kept(128 * 2**20)
"""The most recently decoded strips and tiles: neighbouring windows share them."""


def is_tiff(source: Source) -> bool:
    """Whether a file begins like a TIFF."""
    with file_of(source) as file:
        return file.read(4) in _MAGIC


def installed() -> bool:
    """Whether the extra is installed."""
    try:
        import tifffile  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class Tiff:
    """The header of a file that can be read in parts."""

    source: Source = field(repr=False)
    size: Size
    bands: int
    bits: int
    """8 or 16, of every band."""
    segment: Size
    """Height and width of a strip or tile."""
    separate: bool
    """Whether each band lies in segments of its own."""
    offsets: tuple[int, ...] = field(repr=False)
    counts: tuple[int, ...] = field(repr=False)
    plain: str
    """Byte order of values that lie uncompressed in strips, row after row; "" for all others."""
    decode: Callable[..., Any] = field(repr=False)
    key: Any = field(repr=False)
    """Of the file's state; None: nothing of it is kept."""

    def values(self, part: Part, bands: Sequence[int] = ()) -> np.ndarray:
        """The three bands, counted from 1, in a part; by default the first three, or the first one three times.

        Shape: -> uint8 or uint16 [h, w, 3]. DataError for a missing band and a damaged file.
        """
        chosen = self._chosen(bands)
        rows, columns = part
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, len(chosen)), f"uint{self.bits}")
        with file_of(self.source) as file:
            for plane in sorted(set(chosen)) if self.separate else [0]:
                mine = [k for k, band in enumerate(chosen) if not self.separate or band == plane]
                within = [0 if self.separate else chosen[k] for k in mine]
                for top, left, values in self._segments(file, plane, part):
                    self._copy(out, part, top, left, values[..., within], mine)
        return out

    def _chosen(self, bands: Sequence[int]) -> list[int]:
        """Bands counted from 0."""
        if not bands:
            return [0, 1, 2] if self.bands >= 3 else [0, 0, 0]
        if max(bands) > self.bands:
            raise DataError(
                f"{name_of(self.source)} has {self.bands} bands, data.bands asks for band {max(bands)} (they count "
                "from 1)"
            )
        return [band - 1 for band in bands]

    def _copy(
        self, out: np.ndarray, part: Part, top: int, left: int, values: np.ndarray, places: Sequence[int]
    ) -> None:
        """Put what a segment at (top, left) has of the part into `out`."""
        rows, columns = part
        first, last = max(top, rows.start), min(top + values.shape[0], rows.stop)
        begin, end = max(left, columns.start), min(left + values.shape[1], columns.stop)
        found = values[first - top : last - top, begin - left : end - left]
        out[first - rows.start : last - rows.start, begin - columns.start : end - columns.start, places] = found

    def _segments(self, file: BinaryIO, plane: int, part: Part) -> Iterator[tuple[int, int, np.ndarray]]:
        """(top, left, values [h, w, n]) of the segments of a plane that a part touches."""
        rows, columns = part
        height, width = self.segment
        if self.plain:
            yield rows.start, 0, self._plain_rows(file, plane, rows)
            return
        down, across = -(-self.size[0] // height), -(-self.size[1] // width)
        for y in range(rows.start // height, -(-rows.stop // height)):
            for x in range(columns.start // width, -(-columns.stop // width)):
                index = (plane * down + y) * across + x
                key = None if self.key is None else (self.key, index)
                yield y * height, x * width, _SEGMENTS.get(key, lambda i=index: self._decoded(file, i))  # type: ignore[misc]

    def _plain_rows(self, file: BinaryIO, plane: int, rows: slice) -> np.ndarray:
        """Rows that lie uncompressed, one strip after the other."""
        height, width = self.segment
        depth = 1 if self.separate else self.bands
        row_bytes = width * depth * self.bits // 8
        strips = -(-self.size[0] // height)
        parts = []
        for strip in range(rows.start // height, -(-rows.stop // height)):
            first, last = max(rows.start, strip * height), min(rows.stop, (strip + 1) * height)
            file.seek(self.offsets[plane * strips + strip] + (first - strip * height) * row_bytes)
            content = file.read((last - first) * row_bytes)
            if len(content) < (last - first) * row_bytes:
                raise DataError(f"{name_of(self.source)} is damaged: it ends before its last row")
            parts.append(content)
        found = np.frombuffer(b"".join(parts), np.dtype(f"{self.plain}u{self.bits // 8}"))
        return found.reshape(-1, width, depth).astype(f"uint{self.bits}", copy=False)

    def _decoded(self, file: BinaryIO, index: int) -> np.ndarray:
        """One strip or tile. Shape: [h, w, n]; zeros where the file leaves it out."""
        depth = 1 if self.separate else self.bands
        if not self.counts[index]:
            return np.zeros((*self.segment, depth), f"uint{self.bits}")
        try:
            file.seek(self.offsets[index])
            values = self.decode(file.read(self.counts[index]), index)[0]
            return np.array(values[0], f"uint{self.bits}")
        except Exception as error:  # a damaged segment: its decoder may raise anything
            raise DataError(f"{name_of(self.source)} is damaged: {error}") from error


def header(source: Source) -> Tiff | None:
    """The header of a TIFF that can be read in parts; None for other files, and where tifffile is not installed.

    DataError for a file of several pictures, and for one that is too large or damaged.
    """
    if not is_tiff(source):
        return None
    key = state_of(source)
    return _header(source) if key is None or isinstance(source, bytes) else _kept_header(source, key)


@lru_cache(maxsize=64)
def _kept_header(source: Source, key: Any) -> Tiff | None:
    return _header(source, key)


def _header(source: Source, key: Any = None) -> Tiff | None:
    try:
        with file_of(source) as file:
            _check_pages(file, source)
            file.seek(0)
            return _opened(file, source, key)
    except DataError:
        raise
    except Exception as error:  # a hostile or damaged header: its reader may raise anything
        raise DataError(f"{name_of(source)} is damaged: {error}") from error


def _opened(file: BinaryIO, source: Source, key: Any) -> Tiff | None:
    try:
        import tifffile
    except ImportError:
        return None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is refused here, or does not matter
    with tifffile.TiffFile(file, name="picture.tif") as opened:
        page: Any = opened.pages[0]
        if not _suits(page):
            return None
        size = int(page.imagelength), int(page.imagewidth)
        if size[0] * size[1] > MOST_PIXELS:
            raise DataError(
                f"{name_of(source)} is too large: it has {size[1]} x {size[0]} pixels, and at most "
                f"{MOST_PIXELS // 1_000_000} million are read"
            )
        return _checked(_described(page, source, size, opened.byteorder, key))


def _suits(page: Any) -> bool:
    """Whether a page stores its values losslessly, in strips or tiles of whole bands."""
    bits = page.bitspersample
    return (
        page.compression in _COMPRESSIONS
        and page.photometric in (_BLACK_IS_ZERO, _RGB)
        and bits in (8, 16)
        and page.sampleformat == 1
        and page.predictor in (1, 2)
        and page.fillorder == 1
        and page.imagedepth == 1
        and _ASSOCIATED_ALPHA not in page.extrasamples
        and page.tags.valueof(274, default=1) == 1  # upright
        and 1 <= page.samplesperpixel <= MOST_BANDS
        and min(page.imagelength, page.imagewidth) > 0
    )


def _described(page: Any, source: Source, size: Size, order: str, key: Any) -> Tiff:
    tiled = bool(page.is_tiled)
    segment = (page.tilelength, page.tilewidth) if tiled else (min(page.rowsperstrip, size[0]), size[1])
    plain = order if page.compression == 1 and page.predictor == 1 and not tiled else ""
    return Tiff(
        source, size, int(page.samplesperpixel), int(page.bitspersample), (int(segment[0]), int(segment[1])),
        page.planarconfig == 2 and page.samplesperpixel > 1,
        tuple(page.dataoffsets), tuple(page.databytecounts), plain, page.decode, key,
    )  # fmt: skip


def _checked(found: Tiff) -> Tiff:
    """DataError unless the header's numbers fit together and each segment can be held."""
    height, width = found.segment
    planes = found.bands if found.separate else 1
    unpacked = height * width * (1 if found.separate else found.bands) * found.bits // 8
    if min(height, width) < 1:
        raise DataError(f"{name_of(found.source)} is damaged: its strips or tiles are empty")
    wanted = planes * -(-found.size[0] // height) * -(-found.size[1] // width)
    if len(found.offsets) < wanted or len(found.counts) < wanted:
        raise DataError(
            f"{name_of(found.source)} is damaged: it has {len(found.offsets)} strips or tiles of {wanted} that its "
            "size needs"
        )
    if unpacked > MOST_SEGMENT and not found.plain:
        raise DataError(
            f"{name_of(found.source)} has strips or tiles of {unpacked // 2**20} MiB, and at most "
            f"{MOST_SEGMENT // 2**20} MiB are unpacked at once: write it in tiles, for example by gdal_translate -co "
            "TILED=YES -co COMPRESS=LZW"
        )
    return found


def _check_pages(file: BinaryIO, source: Source) -> None:
    """DataError for a file of several pictures: it is unclear which one is meant."""
    kinds = list(_subfile_types(file))
    others = [kind for kind in kinds[1:] if not kind & (_REDUCED | _MASK)]
    if others or len(kinds) > MOST_PAGES:
        count = f"more than {MOST_PAGES}" if len(kinds) > MOST_PAGES else str(1 + len(others))
        raise DataError(f"{name_of(source)} holds several pictures ({count}): save each as its own file")


def _subfile_types(file: BinaryIO) -> Iterator[int]:
    """NewSubfileType of each directory, of at most MOST_PAGES + 1 of them."""
    file.seek(0)
    start = file.read(16)
    order, big = ("<" if start[:2] == b"II" else ">"), start[2:4] in (b"+\0", b"\0+")
    counted, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    offset = struct.unpack(f"{order}{pointer}", start[8:16] if big else start[4:8])[0]
    for _ in range(MOST_PAGES + 1):
        if not offset:
            return
        file.seek(offset)
        size = struct.calcsize(counted)
        count = struct.unpack(f"{order}{counted}", file.read(size))[0]
        if count > 4096:
            raise ValueError(f"a directory of {count} tags")
        tags = file.read(count * entry)
        yield _subfile_type([tags[i : i + entry] for i in range(0, len(tags), entry)], order, big)
        offset = struct.unpack(f"{order}{pointer}", file.read(struct.calcsize(pointer)))[0]


def _subfile_type(tags: Sequence[bytes], order: str, big: bool) -> int:
    for tag in tags:
        if struct.unpack(f"{order}H", tag[:2])[0] == _SUBFILE_TYPE:
            at = 12 if big else 8
            return int(struct.unpack(f"{order}I", tag[at : at + 4])[0])
    return 0
