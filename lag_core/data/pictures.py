"""Pictures and masks from files that may be broken or hostile: a picture is either sound, or a
`DataError`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from lag_core import reading
from lag_core.data import deep_pixels
from lag_core.sentences import Said

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
MAX_PIXELS = 40_000_000
"""Own limit, below the one at which Pillow warns of decompression bombs: what it warns of is refused here."""

LONGEST_SIDE, MOST_PIXELS = 2048, 2 * 2**20
"""A picture that is to be explained is scaled down to these: each class's score is computed at every pixel of it, at
every step."""

_ORIENTATION = 0x0112
"""EXIF tag; values 5..8 turn the picture by a quarter."""


class Scaled(NamedTuple):
    """A picture as it is worked with."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    full_size: tuple[int, int]
    """(height, width) of the file."""


class DataError(Said, ValueError):
    """A file of a dataset, or an uploaded one, that cannot be used: one sentence with its name and the
    reason."""


def read_image(source: Path | str | bytes, value_range: Sequence[float] = ()) -> np.ndarray:
    """A picture, upright. Shape: -> uint8 [H, W, 3] RGB. DataError if it is not a sound picture of 8 bits a channel.

    With `value_range` (low, high) pictures of 16 bits are taken, too, and scaled by it (deep_pixels.scaled).
    """
    with _sound(source) as image:
        deep = _deep(image, source, bool(value_range))
        if not deep:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    low, high = value_range
    return deep_pixels.scaled(read_values(source), (low, high))


def read_small(source: Path | str | bytes, value_range: Sequence[float] = ()) -> Scaled:
    """As `read_image`, scaled down while it is decoded to at most LONGEST_SIDE and about MOST_PIXELS.

    What is computed of a picture takes memory for each of its pixels, at every class and step; the network sees no more
    than its own square. A JPEG is decoded at a fraction of its size, others are reduced before anything is copied.
    """
    size = picture_size(source)
    wanted = small_size(*size)
    if wanted == size:
        return Scaled(read_image(source, value_range), size)
    if is_deep(source, bool(value_range)):
        return Scaled(_resized(Image.fromarray(read_image(source, value_range)), wanted), size)
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


def read_values(source: Path | str | bytes) -> np.ndarray:
    """The values of a picture of 16 bits a channel. Shape: -> uint16 [H, W, 3]. DataError if it is damaged."""
    with _sound(source) as image, _sound(source) as again:
        return deep_pixels.values(image, again)


def read_mask(source: Path | str | bytes, inside: Sequence[Path] = ()) -> np.ndarray:
    """A mask's ids; of a palette picture its indices. Shape: -> uint8 [H, W].

    DataError if it is damaged, has anything but one 8-bit channel, or leads out of the folders `inside` (reading).
    """
    with _sound(source, inside) as image:
        if image.mode not in ("L", "P"):
            raise DataError(f"{_name(source)} is no mask: expected one 8-bit channel of ids, found {image.mode}")
        return np.array(image)


def is_deep(source: Path | str | bytes, accepted: bool = True) -> bool:
    """Whether the picture has 16 bits a channel, from its header alone. DataError for a depth that cannot be read, and
    for any that is not 8 bits unless it is `accepted`."""
    with _sound(source) as image:
        return _deep(image, source, accepted)


def _deep(image: Image.Image, source: Path | str | bytes, accepted: bool) -> bool:
    bits = _bits(image)
    if bits <= 8:
        return False
    readable = bits <= 16 and deep_pixels.can_be_read(image)
    if not readable or not accepted:
        found = f"{_name(source)} has more than 8 bits a channel ({bits})"
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
    """Bits of the deepest channel in the file. Pillow decodes 16-bit RGB to 8 bits without a word, so the mode is
    not enough: TIFF says it in a tag, PNG in the raw mode of its tile."""
    if image.mode in ("I", "F"):
        return 32
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    deep = image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return 16 if deep else 8


def picture_size(source: Path | str | bytes) -> tuple[int, int]:
    """(height, width) of the upright picture, from its header alone. DataError if it cannot be opened."""
    with _sound(source) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


@contextmanager
def _sound(source: Path | str | bytes, inside: Sequence[Path] = ()) -> Iterator[Image.Image]:
    """The picture while it is open; whatever goes wrong with it becomes a DataError."""
    try:
        with _file(source, inside) as file, _opened(file, source) as image:
            yield image
    except DataError:
        raise
    # A broken file makes Pillow's decoders raise whatever they stumble over: OSError, SyntaxError,
    # struct.error
    except Exception as error:
        raise DataError(f"{_name(source)} is damaged: {error}") from error


def _file(source: Path | str | bytes, inside: Sequence[Path]) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return reading.opened(source, reading.PICTURE, inside)
    except FileNotFoundError:
        raise DataError(f"there is no file {source}") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None


def _opened(file: BinaryIO, source: Path | str | bytes) -> Image.Image:
    """The picture, its header read; formats and size are checked before a pixel is decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise DataError(f"{_name(source)} is not a readable picture; allowed are {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(source) from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(source)
    return image


def _too_large(source: Path | str | bytes) -> DataError:
    return DataError(f"{_name(source)} is too large: at most {MAX_PIXELS // 1_000_000} million pixels are allowed")


def _name(source: Path | str | bytes) -> str:
    return "the picture" if isinstance(source, bytes) else str(source)
