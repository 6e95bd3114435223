"""TIFF files of remote sensing: read exactly, part by part, by any three bands; hostile ones are one sentence."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lag_core.data import tiff
from lag_core.data.pictures import DataError, is_deep, opened, picture_size, read_image, read_mask, read_small

tifffile = pytest.importorskip("tifffile", reason="the extra [tiff] is not installed")
pytest.importorskip("imagecodecs", reason="the extra [tiff] is not installed")

SIX = np.random.default_rng(0).integers(0, 256, (150, 90, 6)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 2048, (150, 90, 4)).astype(np.uint16)

LAYOUTS = {
    "plain": {},
    "one strip": {"rowsperstrip": 150},
    "rows": {"rowsperstrip": 7},
    "LZW": {"compression": "lzw", "rowsperstrip": 16},
    "LZW and predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib", "predictor": True},
    "tiles": {"tile": (32, 64)},
    "LZW tiles": {"tile": (16, 16), "compression": "lzw", "predictor": True},
    "PackBits": {"compression": "packbits"},
    "Zstandard": {"compression": "zstd", "tile": (64, 64)},
}


def written(values: np.ndarray, *, planar: bool = False, order: str = "<", big: bool = False, **how: object) -> bytes:
    buffer = io.BytesIO()
    single = values.shape[-1] == 1
    arranged = values[..., 0] if single else np.moveaxis(values, -1, 0) if planar else values
    with tifffile.TiffWriter(buffer, bigtiff=big, byteorder=order) as file:
        file.write(
            np.ascontiguousarray(arranged),
            photometric="rgb" if values.shape[-1] >= 3 else "minisblack",
            planarconfig=None if single else "separate" if planar else "contig",
            metadata=None,
            **how,
        )
    return buffer.getvalue()


@pytest.mark.parametrize("how", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("planar", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)], ids=["little", "big end", "big"])
def test_every_layout_gives_the_values_back(
    how: dict[str, object], planar: bool, order: str, big: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(written(SIX, planar=planar, order=order, big=big, **how))
    assert np.array_equal(read_image(path), SIX[..., :3]) and picture_size(path) == (150, 90)
    assert np.array_equal(read_image(path, bands=(6, 2, 2)), SIX[..., [5, 1, 1]])
    part = opened(path, bands=(4, 1, 2)).read((slice(33, 120), slice(17, 90)))
    assert np.array_equal(part, SIX[33:120, 17:90, [3, 0, 1]])
    deep = written(DEEP, planar=planar, order=order, big=big, **how)
    expected = np.round(DEEP[..., [3, 0, 1]] * (255 / 2047)).astype(np.uint8)
    assert is_deep(deep) and np.array_equal(read_image(deep, (0, 2047), (4, 1, 2)), expected)


def test_the_same_pixels_as_pillow_reads(tmp_path: Path) -> None:
    """Kinds that both read, and kinds that are left to Pillow."""
    rgb = Image.fromarray(np.ascontiguousarray(SIX[..., :3]))
    for mode, more in (
        ("RGB", {}), ("RGB", {"compression": "tiff_lzw"}), ("L", {}), ("LA", {}), ("RGBA", {}), ("P", {}), ("CMYK", {}),
        ("1", {}), ("YCbCr", {}), ("RGB", {"compression": "jpeg"}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        rgb.convert(mode).save(buffer, "TIFF", **more)
        expected = np.array(Image.open(buffer).convert("RGB"))
        assert np.array_equal(read_image(buffer.getvalue()), expected), (mode, more)


def test_a_turned_tiff_is_upright() -> None:
    content = written(SIX[..., :3], extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(read_image(content), np.rot90(SIX[..., :3], -1)) and picture_size(content) == (90, 150)
    with pytest.raises(DataError, match="turned by a tag"):
        read_image(content, bands=(3, 2, 1))
    large = np.zeros((1400, 2400, 3), np.uint8)
    large[:700, :1200] = 255
    for turn in range(1, 9):
        content = written(large, extratags=[(274, "H", 1, turn, True)])
        small, whole = read_small(content), read_image(content)
        assert small.full_size == whole.shape[:2] == picture_size(content)
        height, width = small.pixels.shape[:2]
        corners = small.pixels[[5, 5, -5, -5], [5, -5, 5, -5], 0]
        assert np.array_equal(corners, whole[[5, 5, -5, -5], [5, -5, 5, -5], 0]) and (height > width) == (turn > 4)


def test_one_and_two_bands_are_grey() -> None:
    for count in (1, 2):
        grey = read_image(written(SIX[..., :count]))
        assert np.array_equal(grey, np.repeat(SIX[..., :1], 3, -1))


def test_overviews_are_passed_over_and_several_pictures_are_refused() -> None:
    for kinds, refused in (([1, 1], False), ([4, 1], False), ([0], True), ([1, 0], True)):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as file:
            file.write(SIX[..., :3], photometric="rgb", metadata=None)
            for kind in kinds:
                if kind == 4:
                    file.write(SIX[..., 0] > 9, photometric="minisblack", subfiletype=4, metadata=None)
                else:
                    file.write(SIX[::2, ::2, :3], photometric="rgb", subfiletype=kind, metadata=None)
        if refused:
            with pytest.raises(DataError, match=r"holds several pictures \(2\): save each as its own file"):
                read_image(buffer.getvalue())
        else:
            assert np.array_equal(read_image(buffer.getvalue()), SIX[..., :3])


def test_bands_that_are_not_there_are_refused() -> None:
    with pytest.raises(DataError, match=r"has 6 bands, data\.bands asks for band 7"):
        read_image(written(SIX), bands=(1, 2, 7))


def test_bands_of_other_formats() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(SIX[..., :4])).save(buffer, "PNG")
    assert np.array_equal(read_image(buffer.getvalue(), bands=(4, 3, 1)), SIX[..., [3, 2, 0]])
    with pytest.raises(DataError, match="has 4 bands"):
        read_image(buffer.getvalue(), bands=(5, 1, 1))
    assert np.array_equal(read_small(buffer.getvalue(), bands=(4, 3, 1)).pixels, SIX[..., [3, 2, 0]])


def test_bands_and_range_reach_training_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A four-band dataset of 11 bits: near infrared, red, green are what the network and the picture are of."""
    from shapes import tiny_run, write_shapes

    from lag_core.data.pictures import value_parts
    from lag_core.explain.picture import read_picture

    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    root = write_shapes(tmp_path / "shapes", 6, 2)
    for path in list((root / "images").iterdir()):
        rgb = np.array(Image.open(path)).astype(np.uint16) * 8
        content = written(np.dstack([rgb, 2040 - rgb[..., 0]]), compression="lzw")
        path.with_suffix(".tif").write_bytes(content)
        path.unlink()
    run = tiny_run(root, tmp_path / "run", "finetune", data={"bands": [4, 1, 2]}, optim={"epochs": 1})
    assert run.config.data.bands == (4, 1, 2) and run.config.data.range[1] > 1000
    seen = read_picture(run, "s06")[0]
    values = next(value_parts(root / "images" / "s06.tif", (4, 1, 2))).astype(float)
    low, high = run.config.data.range
    assert np.array_equal(seen, np.clip((values - low) * 255 / (high - low), 0, 255).round())


def test_a_mask_in_a_tiled_tiff_is_read_part_by_part(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    path.write_bytes(written(SIX[..., :1], tile=(32, 32), compression="lzw"))
    assert np.array_equal(read_mask(path), SIX[..., 0])
    assert np.array_equal(read_mask(path, part=(slice(40, 90), slice(3, 70))), SIX[40:90, 3:70, 0])


def test_a_large_file_is_read_in_parts_at_bounded_memory(tmp_path: Path) -> None:
    """More pixels than are decoded at once: a window, and the whole reduced."""
    path = tmp_path / "large.tif"
    tile = np.full((512, 512, 3), 200, np.uint8)
    count = 24 * 16
    tiles = (tile if k % 2 else np.zeros_like(tile) for k in range(count))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(
            tiles, shape=(8_000, 12_000, 3), dtype=np.uint8, tile=(512, 512), photometric="rgb", compression="zlib"
        )
    assert picture_size(path) == (8_000, 12_000)
    tracemalloc.start()
    window = opened(path).read((slice(7_000, 8_000), slice(600, 1600)))
    small = read_small(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert window.shape == (1000, 1000, 3) and set(np.unique(window)) <= {0, 200}
    assert small.full_size == (8_000, 12_000) and 60 < small.pixels.mean() < 140
    assert peak < 240 * 2**20
    with pytest.raises(DataError, match="at most 80 million pixels are read at once"):
        read_image(path)


def claims(width: int, height: int, **tags: int) -> bytes:
    """A TIFF whose header promises a size that its few bytes do not have."""
    entries = {256: width, 257: height, 258: 8, 259: 5, 262: 1, 273: 8, 277: 1, 278: height, 279: 4}
    entries |= {int(key[1:]): value for key, value in tags.items()}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(entries)) + body + bytes(4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (claims(2**31, 2**31), "too large|damaged"),
        (claims(60_000, 60_000), "too large: it has 60000 x 60000 pixels, and at most 1000 million are read"),
        (claims(30_000, 30_000), "strips or tiles of 858 MiB, and at most 512 MiB are unpacked at once"),
        (claims(300, 300), "is damaged"),
        (claims(300, 300, t278=1), "it has 1 strips or tiles of 300 that its size needs"),
        (claims(300, 300, t277=60_000), "damaged|not a readable"),
        (claims(0, 300), "damaged|not a readable"),
    ],
    ids=["beyond numbers", "huge", "one huge strip", "corrupt strip", "too few strips", "bands", "empty"],
)
def test_headers_that_lie_are_one_sentence(content: bytes, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=said):
        opened(content).read((slice(0, 10), slice(0, 10)))
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


def test_a_chain_of_pages_without_end_is_refused() -> None:
    content = bytearray(claims(30, 30))
    content[-4:] = struct.pack("<I", 12)  # the next directory is this one
    with pytest.raises(DataError, match=r"holds several pictures \(more than 32\)"):
        read_image(bytes(content))


@pytest.mark.parametrize("how", [{"compression": "lzw"}, {}, {"tile": (32, 32), "compression": "zlib"}])
def test_truncated_and_damaged_files_raise_nothing_but_a_data_error(how: dict[str, object]) -> None:
    content = written(SIX, **how)
    for share in (0.01, 0.3, 0.6, 0.9):
        with pytest.raises(DataError):
            read_image(content[: int(len(content) * share)])
    rng = np.random.default_rng(3)
    for _ in range(150):
        broken = bytearray(content)
        for place in rng.integers(0, len(content), 4).tolist():
            broken[place] = int(rng.integers(0, 256))
        with suppress(DataError):
            assert read_image(bytes(broken)).shape[-1] == 3


def test_without_the_extra_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert not tiff.installed()
    path.write_bytes(written_by_pillow(SIX[..., :3]))
    assert np.array_equal(read_image(path), SIX[..., :3])
    for content, bands in ((written_by_pillow(SIX[..., :4]), (4, 1, 2)), (claims(300_000, 3000, t258=8), ())):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"pip install -e '\.\[tiff\]' \(tifffile\)"):
            read_image(path, bands=bands)


def written_by_pillow(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "TIFF", compression="tiff_lzw")
    return buffer.getvalue()
