"""A picture of 40 million pixels: predicted at its own size, and explained, each with at most 1 GB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import tiny_run, write_shapes

from lag_core.data.pictures import LONGEST_SIDE, MOST_PIXELS, picture_size, read_image, read_small, small_size
from lag_core.explain.picture import at_size

pytestmark = pytest.mark.usefixtures("no_fsync")

CODE = """
import sys
from lag_core.cli import main
code = main(sys.argv[1:])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024)
raise SystemExit(code)
"""


def large(path: Path, size: tuple[int, int] = (8000, 5000)) -> Path:
    """Stripes; (width, height)."""
    row = (np.arange(size[0]) // 40 % 2 * 200).astype(np.uint8)
    Image.fromarray(np.broadcast_to(row[None, :, None], (size[1], size[0], 3)).copy()).save(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return tiny_run(write_shapes(root / "shapes", 6, 2), root / "run", "finetune", optim={"epochs": 1}).path


def largest_size(*words: object) -> int:
    """MiB that a command took."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words), "--quiet"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_explain_takes_at_most_a_gigabyte(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    picture = large(tmp_path / f"large.{ending}")
    about = ["--image", picture, "--class", "red", "--image-only", "--out", tmp_path / "out"]
    assert largest_size("explain", run, *about) <= 1000
    assert picture_size(tmp_path / "out" / "step_00.png") == small_size(5000, 8000)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_predict_takes_at_most_a_gigabyte(run: Path, tmp_path: Path, ending: str) -> None:
    picture = large(tmp_path / f"large.{ending}")
    assert largest_size("predict", run, picture, "--out", tmp_path / "out") <= 1000
    assert picture_size(tmp_path / "out" / "large.mask.png") == (5000, 8000)
    assert picture_size(tmp_path / "out" / "large.overlay.png") == small_size(5000, 8000)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_what_is_read_small_is_the_picture(tmp_path: Path, ending: str, mode: str) -> None:
    if (ending, mode) in {("jpg", "P"), ("jpg", "RGBA"), ("webp", "P"), ("webp", "L")}:
        pytest.skip("no such files")
    ramp = np.linspace(0, 255, 3000).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (1500, 3000, 3)).copy()).convert(mode)
    image.save(tmp_path / f"x.{ending}")
    found = read_small(tmp_path / f"x.{ending}")
    assert found.full_size == (1500, 3000) and found.pixels.shape == (*small_size(1500, 3000), 3)
    whole = read_image(tmp_path / f"x.{ending}")
    expected = np.asarray(Image.fromarray(whole).resize(found.pixels.shape[1::-1], Image.Resampling.LANCZOS)).astype(
        int
    )
    assert np.abs(found.pixels.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright_when_small(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((1400, 2400, 3), np.uint8)
    pixels[:700, :1200] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif)
    small, whole = read_small(tmp_path / "x.jpg"), read_image(tmp_path / "x.jpg")
    assert small.full_size == whole.shape[:2]
    assert (at_size(small.pixels[..., 0], whole.shape[:2]) > 127).tolist()[::700] == (whole[::700, :, 0] > 127).tolist()


def test_a_small_picture_is_left_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(read_small(tmp_path / "x.png").pixels, pixels)
    height, width = small_size(40, 1_000_000)
    assert (height, width) == (1, LONGEST_SIDE) and height * width <= MOST_PIXELS
