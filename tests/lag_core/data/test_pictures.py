"""Pictures from anywhere: sound ones are read exactly, all others are one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lag_core.data.pictures import DataError, picture_size, read_image, read_mask

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_are_read_exactly(form: str, options: dict[str, object], tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PIXELS), form, **options)
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        np.testing.assert_array_equal(read_image(source), PIXELS)
        assert picture_size(source) == (5, 8)


def test_jpeg_is_read() -> None:
    grey = np.full((40, 60, 3), 128, np.uint8)
    assert np.abs(read_image(encoded(Image.fromarray(grey), "JPEG")).astype(int) - 128).max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    image = read_image(encoded(Image.fromarray(PIXELS).convert(mode), form))
    assert image.shape == (5, 8, 3) and image.dtype == np.uint8


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture must be turned by 90 degrees clockwise
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(data), np.rot90(PIXELS, -1))
    assert picture_size(data) == (8, 5)


@pytest.mark.parametrize("form", ["GIF", "BMP", "PPM", "ICO"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(DataError, match="allowed are PNG, JPEG, WEBP, TIFF"):
        read_image(encoded(Image.fromarray(PIXELS), form))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_files_are_refused(form: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), form)
    for share in (0.01, 0.3, 0.6, 0.9):
        with pytest.raises(DataError):
            read_image(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_damaged_bytes_raise_nothing_but_a_data_error(form: str) -> None:
    data = encoded(Image.fromarray(PIXELS), form)
    rng = np.random.default_rng(2)
    for _ in range(200):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[rng.integers(0, len(broken), 4)] = rng.integers(0, 256, 4)
        with suppress(DataError):
            assert read_image(broken.tobytes()).shape[-1] == 3


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes unpack to: a decompression bomb."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_100, 10_000, 30_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_a_pixel_is_decoded(side: int) -> None:
    """Above the own limit; above the one where Pillow warns; above the one where Pillow raises."""
    with pytest.raises(DataError, match="too large: at most 80 million pixels"):
        read_image(png_that_claims(side, side))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_warning_as_error_is_the_same_sentence() -> None:
    with pytest.raises(DataError, match="too large"):
        read_mask(png_that_claims(10_000, 10_000))


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"the picture is (not a readable picture|damaged)"):
        read_image(data)


def test_the_sentence_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.png"):
        read_image(path)
    with pytest.raises(DataError, match=r"there is no file .*absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="it is a folder"):
        read_image(tmp_path)


def test_16_bit_pictures_are_refused() -> None:
    deep = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4))
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(encoded(deep, "PNG"))
    with pytest.raises(DataError, match="expected one 8-bit channel"):
        read_mask(encoded(deep, "PNG"))


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_ids_not_colours(mode: str) -> None:
    ids = np.array([[0, 1, 2], [20, 200, 255]], np.uint8)
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    np.testing.assert_array_equal(read_mask(encoded(image, "PNG")), ids)


def test_colour_masks_are_refused() -> None:
    with pytest.raises(DataError, match="is not a mask"):
        read_mask(encoded(Image.fromarray(PIXELS), "PNG"))
