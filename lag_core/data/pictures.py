"""Pictures and masks from files that may be broken or hostile: a picture is either sound, or a
`DataError`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from lag_core.data import deep_pixels, tiff
from lag_core.data.files import DataError, Kept, Part, Size, Source, file_of, name_of, state_of, whole

__all__ = ["DataError", "Part", "Source"]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
MAX_PIXELS = 80_000_000
"""Of a picture that is decoded as a whole: below the number at which Pillow warns of decompression bombs. What it warns
of is refused here. TIFF files are read in parts (lag_core/data/tiff.py) up to tiff.MOST_PIXELS."""

LONGEST_SIDE, MOST_PIXELS = 2048, 2 * 2**20
"""A picture that is to be explained is scaled down to these: each class's score is computed at every pixel of it, at
every step."""

_ORIENTATION = 0x0112
"""EXIF tag; values 5..8 turn the picture by a quarter."""

_ON_MASKS = {
    "RGB": '; if its colours are those of the classes, say "palette": true in classes.json (docs/train-your-own.md)',
    "1": "; it holds black and white alone: save it with 8 bits, and the ids 0 and 1",
    "I;16": "; save it with 8 bits: ids are 0 to 255",
}
"""Hints by Pillow's mode."""
_ON_MASKS |= {"RGBA": _ON_MASKS["RGB"], "I;16B": _ON_MASKS["I;16"], "I": _ON_MASKS["I;16"]}

_WHOLE = Kept(320 * 2**20)
"""Pictures and masks that were decoded last to cut a part out of them: windows come one after the other."""

_AT_ONCE = 2 * 2**20
"""Pixels of a picture in parts that are read at once."""


class Scaled(NamedTuple):
    """A picture at working size."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    full_size: tuple[int, int]
    """(height, width) of the file."""


class Readable(Protocol):
    """A picture that can be read in parts."""

    @property
    def size(self) -> Size: ...

    def read(self, part: Part) -> np.ndarray:
        """uint8 [h, w, 3]."""
        ...


class InMemory(NamedTuple):
    """A picture that is decoded."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""

    @property
    def size(self) -> Size:
        return self.pixels.shape[0], self.pixels.shape[1]

    def read(self, part: Part) -> np.ndarray:
        return self.pixels[part]


class InParts(NamedTuple):
    """A TIFF that stays in its file; `value_range` scales 16 bits."""

    file: tiff.Tiff
    value_range: Sequence[float]
    bands: Sequence[int]

    @property
    def size(self) -> Size:
        return self.file.size

    def read(self, part: Part) -> np.ndarray:
        values = self.file.values(part, self.bands)
        return values if self.file.bits == 8 else deep_pixels.scaled(values, _range(self.value_range))


def opened(source: Source, value_range: Sequence[float] = (), bands: Sequence[int] = ()) -> Readable:
    """A picture to read in parts. A TIFF is not decoded in advance; others are decoded once and kept for a while.

    DataError as `read_image`.
    """
    found = _tiff(source, bands)
    if found is not None:
        _check_depth(found.bits, True, source, bool(value_range))
        return InParts(found, value_range, bands)
    state = state_of(source)
    key = None if state is None else (state, tuple(value_range), tuple(bands))
    return InMemory(_WHOLE.get(key, lambda: read_image(source, value_range, bands)))


def read_image(source: Source, value_range: Sequence[float] = (), bands: Sequence[int] = ()) -> np.ndarray:
    """A picture, upright. Shape: -> uint8 [H, W, 3] RGB. DataError if it is not a sound 8-bit picture.

    With `value_range` (low, high), 16-bit pictures are also read, and scaled by it (deep_pixels.scaled). `bands`:
    three bands of the file, counted from 1; by default its colours.
    """
    found = _tiff(source, bands)
    if found is not None:
        _check_size(found.size, source)
        return opened(source, value_range, bands).read(whole(found.size))
    with _sound(source) as image:
        deep = _deep(image, source, bool(value_range))
        if not deep:
            return _colours(image, source, bands)
    return deep_pixels.scaled(read_values(source, bands), _range(value_range))


def _range(value_range: Sequence[float]) -> deep_pixels.Range:
    low, high = value_range
    return low, high


def _colours(image: Image.Image, source: Source, bands: Sequence[int]) -> np.ndarray:
    upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    if not bands:
        return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
    if image.format == "TIFF":
        raise DataError(
            f"{name_of(source)}: data.bands chooses no bands of a TIFF of this kind (a palette, CMYK, JPEG inside, "
            "turned by a tag): save it as plain bands"
        )
    return _banded(np.array(upright.convert("RGB") if image.mode == "P" else upright), source, bands)


def _banded(channels: np.ndarray, source: Source, bands: Sequence[int]) -> np.ndarray:
    """Three channels of an array [H, W] or [H, W, n]. DataError for a missing one."""
    channels = channels if channels.ndim == 3 else channels[..., None]
    if max(bands) > channels.shape[-1]:
        raise DataError(
            f"{name_of(source)} has {channels.shape[-1]} bands, data.bands asks for band {max(bands)} (they count "
            "from 1)"
        )
    return np.ascontiguousarray(channels[..., [band - 1 for band in bands]])


def read_small(source: Source, value_range: Sequence[float] = (), bands: Sequence[int] = ()) -> Scaled:
    """As `read_image`, scaled down while it is decoded to at most LONGEST_SIDE and about MOST_PIXELS.

    Results for a picture take memory per pixel, class and step, and the network sees only its own square.
    A JPEG is decoded at a fraction of its size, a TIFF some rows at a time, others are reduced
    before anything is copied.
    """
    found = _tiff(source, bands)
    size = picture_size(source) if found is None else found.size
    wanted = small_size(*size)
    if wanted == size:
        return Scaled(read_image(source, value_range, bands), size)
    if found is not None:
        return Scaled(_reduced(opened(source, value_range, bands), wanted), size)
    if bands or is_deep(source, bool(value_range)):
        return Scaled(_resized(Image.fromarray(read_image(source, value_range, bands)), wanted), size)
    with _sound(source) as image:
        turned = image.size != (size[1], size[0])
        height, width = reversed(wanted) if turned else wanted
        image.draft("RGB", (width, height))
        if image.mode not in ("RGB", "L"):
            image = image.convert("RGB")  # a palette's indices cannot be averaged
        small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        orientation = image.getexif().get(_ORIENTATION)
        if orientation is not None:
            small.getexif()[_ORIENTATION] = orientation
        return Scaled(np.array(ImageOps.exif_transpose(small).convert("RGB")), size)


def _reduced(picture: Readable, wanted: Size) -> np.ndarray:
    """A picture in parts, brought to a smaller size: means over squares first, some rows at a time."""
    factor = max(1, min(n // (2 * small) for n, small in zip(picture.size, wanted, strict=True)))
    means = [_means(picture.read((rows, slice(0, picture.size[1]))), factor) for rows in row_blocks(picture, factor)]
    return _resized(Image.fromarray(np.concatenate(means)), wanted)


def row_blocks(picture: Readable, factor: int = 1) -> Iterator[slice]:
    """The rows of a picture, about _AT_ONCE pixels at a time, in multiples of `factor`."""
    height, width = picture.size
    count = max(1, _AT_ONCE // (width * factor)) * factor
    return (slice(top, min(top + count, height)) for top in range(0, height, count))


def _means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of side `factor`; those at the far edges are smaller. Shape: uint8 [H, W, 3] -> uint8."""
    if factor == 1:
        return pixels
    starts = [np.arange(0, n, factor) for n in pixels.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(pixels, starts[0], 0, np.uint32), starts[1], 1)
    counts = [np.diff(np.append(begin, n)) for begin, n in zip(starts, pixels.shape[:2], strict=True)]
    return np.round(sums / np.outer(*counts)[..., None]).astype(np.uint8)


def scaled_down(pixels: np.ndarray) -> np.ndarray:
    """A picture in memory, uint8 [H, W, 3], brought to the size of `read_small`."""
    size = (pixels.shape[0], pixels.shape[1])
    wanted = small_size(*size)
    return np.ascontiguousarray(pixels, np.uint8) if wanted == size else _resized(Image.fromarray(pixels), wanted)


def small_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a picture once it is no longer than LONGEST_SIDE and has about MOST_PIXELS at most."""
    factor = min(LONGEST_SIDE / max(height, width), (MOST_PIXELS / (height * width)) ** 0.5)
    return (height, width) if factor >= 1 else (max(1, round(height * factor)), max(1, round(width * factor)))


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.array(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def read_values(source: Source, bands: Sequence[int] = ()) -> np.ndarray:
    """The values of a picture of 16 bits a channel. Shape: -> uint16 [H, W, 3]. DataError if it is damaged."""
    found = _tiff(source, bands)
    if found is not None:
        return found.values(whole(found.size), bands).astype(np.uint16, copy=False)
    with _sound(source) as image, _sound(source) as again:
        values = deep_pixels.values(image, again)
    return values if not bands else _banded(values, source, bands)


def value_parts(source: Source, bands: Sequence[int] = ()) -> Iterator[np.ndarray]:
    """The same, some rows at a time where the file can be read in parts."""
    found = _tiff(source, bands)
    if found is None:
        yield read_values(source, bands)
        return
    for rows in row_blocks(InParts(found, (), bands)):
        yield found.values((rows, slice(0, found.size[1])), bands)


def read_mask(source: Source, inside: Sequence[Path] = (), part: Part | None = None) -> np.ndarray:
    """A mask's ids; of a palette picture its indices. Shape: -> uint8 [H, W], or a part of it.

    DataError if it is damaged, has anything but one 8-bit channel, or leads out of the folders `inside` (reading).
    """
    if part is not None:
        found = _tiff(source, ())
        if found is not None and (found.bands, found.bits) == (1, 8):
            return np.ascontiguousarray(found.values(part)[..., 0])
        state = state_of(source)
        key = None if state is None else (state, "mask")
        return np.ascontiguousarray(_WHOLE.get(key, lambda: read_mask(source, inside))[part])
    with _sound(source, inside) as image:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{name_of(source)} is not a mask: expected one 8-bit channel of ids, found {image.mode}"
                f"{_ON_MASKS.get(image.mode, '')}"
            )
        return np.array(image)


def is_deep(source: Source, accepted: bool = True) -> bool:
    """Whether the picture has 16 bits a channel, from its header alone. DataError for a depth that cannot be read, and
    for any that is not 8 bits unless it is `accepted`."""
    found = _tiff(source, ())
    if found is not None:
        return _check_depth(found.bits, True, source, accepted)
    with _sound(source) as image:
        return _deep(image, source, accepted)


def _deep(image: Image.Image, source: Source, accepted: bool) -> bool:
    return _check_depth(_bits(image), deep_pixels.can_be_read(image), source, accepted)


def _check_depth(bits: int, readable: bool, source: Source, accepted: bool) -> bool:
    """Whether a picture of `bits` a channel is deep; DataError where it cannot be read, or is not `accepted`."""
    if bits <= 8:
        return False
    readable = bits <= 16 and readable
    if not readable or not accepted:
        found = f"{name_of(source)} has more than 8 bits a channel ({bits})"
        if readable:
            raise DataError(
                f"{found}: data.range = [low, high] says which of its values become 0 and 255; `lag train` finds the "
                "range of a dataset and stores it in the run"
            )
        raise DataError(
            f"{found}, which cannot be read: scale all images of the dataset by one range, for example by "
            "gdal_translate -ot Byte -scale 0 2047 0 255, and save them as 8-bit RGB"
        )
    return True


def _bits(image: Image.Image) -> int:
    """Bits of the deepest channel in the file. Pillow silently decodes 16-bit RGB to 8 bits, so the mode is
    not enough: TIFF has it in a tag, PNG in the raw mode of its tile."""
    if image.mode in ("I", "F"):
        return 32
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    deep = image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return 16 if deep else 8


def picture_size(source: Source) -> tuple[int, int]:
    """(height, width) of the upright picture, from its header alone. DataError if it cannot be opened."""
    found = _tiff(source, ())
    if found is not None:
        return found.size
    with _sound(source) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # some versions of Pillow have turned its size already
            width, height = image.tag_v2[256], image.tag_v2[257]
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def is_turned(source: Source) -> bool:
    """Whether a tag says that the picture is stored rotated; it is turned when it is read."""
    if _tiff(source, ()) is not None:
        return False  # those that are read in parts are upright
    with _sound(source) as image:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)


def _tiff(source: Source, bands: Sequence[int]) -> tiff.Tiff | None:
    """The header of a TIFF that is read in parts; None: Pillow reads the file. DataError if only the extra could."""
    found = tiff.header(source)
    if found is None and bands and not tiff.installed() and tiff.is_tiff(source):
        raise DataError(
            f"{name_of(source)}: data.bands chooses bands of a TIFF by {tiff.EXTRA}, which is not installed"
        )
    return found


@contextmanager
def _sound(source: Source, inside: Sequence[Path] = ()) -> Iterator[Image.Image]:
    """The picture while it is open; any error in it becomes a DataError."""
    try:
        with file_of(source, inside) as file, _opened(file, source) as image:
            yield image
    except DataError:
        raise
    # A broken file can make Pillow's decoders raise many errors: OSError, SyntaxError,
    # struct.error
    except Exception as error:
        raise DataError(f"{name_of(source)} is damaged: {error}") from error


def _opened(file: BinaryIO, source: Source) -> Image.Image:
    """The picture, its header read; formats and size are checked before a pixel is decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise DataError(
            f"{name_of(source)} is not a readable picture; allowed are {', '.join(FORMATS)}{_hint(source)}"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(source) from None
    try:
        _check_size((image.height, image.width), source)
    except DataError:
        image.close()
        raise
    return image


def _check_size(size: Size, source: Source) -> None:
    """DataError for a picture that is not decoded as a whole."""
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(source)


def _too_large(source: Source) -> DataError:
    return DataError(
        f"{name_of(source)} is too large: at most {MAX_PIXELS // 1_000_000} million pixels are read at once (a TIFF by "
        f"windows, up to {tiff.MOST_PIXELS // 1_000_000} million){_hint(source)}"
    )


def _hint(source: Source) -> str:
    """A hint at the extra, if it may help."""
    needed = not tiff.installed() and tiff.is_tiff(source)
    return f"; TIFF files of more kinds and sizes are read by {tiff.EXTRA}" if needed else ""
