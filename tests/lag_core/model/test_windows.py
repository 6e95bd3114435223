"""Large pictures by windows: against one pass, against a slow second implementation, at bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import tiny_run, write_shapes
from torch import Tensor

from lag_core.cli import main
from lag_core.data.pictures import InMemory, picture_size, read_image, read_mask
from lag_core.data.png_rows import png_file
from lag_core.data.transforms import MEAN, STD
from lag_core.data.windows import starts
from lag_core.model.prediction import class_probabilities
from lag_core.model.windows import Decided, predict_bands
from lag_core.protocol import LabelSpace

pytestmark = pytest.mark.usefixtures("no_fsync")
LABELS = LabelSpace(((0, 1, 2), (3,)), 0)


@pytest.mark.parametrize(("length", "size", "overlap"), [(100, 32, 0.5), (33, 32, 0.5), (32, 32, 0.5), (97, 16, 0.0)])
def test_windows_cover_a_side_and_overlap(length: int, size: int, overlap: float) -> None:
    found = starts(length, size, overlap)
    assert found[0] == 0 and found[-1] == length - size
    assert all(b - a <= size * (1 - overlap) for a, b in pairwise(found))
    assert starts(10, 32, 0.5) == [0]


def predict_windows(
    image: np.ndarray, logits: Callable[[Tensor], Tensor], labels: LabelSpace, loss: str, size: int, overlap: float
) -> Decided:
    """All rows of a picture in memory."""
    bands = [found for _, found in predict_bands(InMemory(image), logits, labels, loss, size, overlap)]
    return Decided(*(np.concatenate(parts) for parts in zip(*bands, strict=True)))


def by_pixel(inputs: Tensor) -> Tensor:
    """A network without surroundings: the logits of a pixel are its colours."""
    colors = inputs * torch.from_numpy(STD)[:, None, None] + torch.from_numpy(MEAN)[:, None, None]
    return torch.cat([colors * 9, colors[:, :1] * 3], 1)


def by_place(inputs: Tensor) -> Tensor:
    """A network whose answer depends on where in the window a pixel lies."""
    side = torch.linspace(0, 3, inputs.shape[-1])
    return by_pixel(inputs) + torch.stack([side.expand(len(side), -1)] * 4) * torch.arange(4.0)[:, None, None]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(50, 70), (16, 40), (9, 40), (9, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_a_network_without_surroundings_sees_no_windows(size: tuple[int, int], overlap: float) -> None:
    image = picture(*size)
    found = predict_windows(image, by_pixel, LABELS, "ce", 16, overlap)
    values = (image / 255).transpose(2, 0, 1)
    logits = torch.from_numpy(np.concatenate([values * 9, values[:1] * 3])).float()[None]
    scores = class_probabilities(logits, LABELS, "ce")[0].numpy()
    assert np.allclose(found.certainty, scores.max(0), atol=1e-4)
    clear = np.sort(scores, 0)[-1] - np.sort(scores, 0)[-2] > 1e-3
    assert np.array_equal(found.labels[clear], scores.argmax(0)[clear])


def test_windows_are_averaged_as_a_plain_sum_over_all_of_them() -> None:
    """The band by band way against one accumulator for the whole picture."""
    image, size, overlap = picture(45, 61), 16, 0.5
    total, weight = np.zeros((4, 45, 61)), np.zeros((45, 61))
    ramp = np.minimum(np.arange(1, 17), np.arange(16, 0, -1)) / 8
    for top in starts(45, size, overlap):
        for left in starts(61, size, overlap):
            cut = (image[top : top + size, left : left + size] / 255 - MEAN) / STD
            logits = by_place(torch.from_numpy(cut.transpose(2, 0, 1)[None]).float())
            total[:, top : top + size, left : left + size] += logits.softmax(1)[0].numpy() * np.outer(ramp, ramp)
            weight[top : top + size, left : left + size] += np.outer(ramp, ramp)
    found = predict_windows(image, by_place, LABELS, "ce", size, overlap)
    assert np.allclose(found.certainty, total.max(0) / weight, atol=1e-4)
    assert (found.labels == total.argmax(0)).mean() > 0.999


def test_memory_does_not_grow_with_a_pictures_height() -> None:
    """Beyond the picture and the answer, one band."""
    peaks = []
    for height in (256, 2048):
        image = np.zeros((height, 96, 3), np.uint8)
        tracemalloc.start()
        predict_windows(image, lambda x: torch.zeros(len(x), 4, 4, 4), LABELS, "ce", 32, 0.5)
        peaks.append(tracemalloc.get_traced_memory()[1] - 5 * height * 96)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


def test_a_prediction_is_written_without_holding_the_picture(tmp_path: Path) -> None:
    """Neither the picture nor its label map: rows are read, decided and written."""

    class Endless:
        """A picture that is made where it is read."""

        def __init__(self, height: int):
            self.size = (height, 96)

        def read(self, part: tuple[slice, slice]) -> np.ndarray:
            rows = np.arange(part[0].start, part[0].stop) % 200
            return np.broadcast_to(rows.astype(np.uint8)[:, None, None], (len(rows), 96, 3)).copy()

    peaks = []
    for height in (256, 4096):
        picture = Endless(height)
        tracemalloc.start()
        with png_file(tmp_path / "mask.png", picture.size, bytes(768)) as mask:
            for _, found in predict_bands(picture, lambda x: torch.zeros(len(x), 4, 4, 4), LABELS, "ce", 32, 0.0):
                mask.add(found.labels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert picture_size(tmp_path / "mask.png") == (height, 96)
    assert peaks[1] < peaks[0] + 100_000


@pytest.mark.parametrize("palette", [None, bytes(range(256)) * 3])
def test_a_png_written_by_rows_is_the_picture(tmp_path: Path, palette: bytes | None) -> None:
    pixels = picture(50, 37) if palette is None else picture(50, 37)[..., 0]
    with png_file(tmp_path / "x.png", (50, 37), palette) as rows:
        for top in (0, 1, 20):
            rows.add(pixels[top : {0: 1, 1: 20, 20: 50}[top]])
    read = read_image(tmp_path / "x.png") if palette is None else read_mask(tmp_path / "x.png")
    assert np.array_equal(read, pixels)
    with pytest.raises(RuntimeError, match="stop"), png_file(tmp_path / "y.png", (50, 37), palette) as rows:
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"], "nothing half written is left"


@pytest.mark.parametrize("overlap", [-0.1, 0.95])
def test_an_impossible_overlap_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        predict_windows(picture(8, 8), by_pixel, LABELS, "ce", 16, overlap)


def test_the_commands_predict_and_measure_by_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "shapes", train_images=8, val_images=2)
    run = tiny_run(root, tmp_path / "run", "frozen")
    names = (root / "val.txt").read_text().split()
    for folder in ("images", "masks"):  # four times as large: scaled down without windows
        for name in names:
            path = root / folder / f"{name}.png"
            Image.open(path).resize((128, 96), Image.Resampling.NEAREST).save(path)
    large = root / "images" / f"{names[0]}.png"
    assert main(["predict", str(run.path), str(large), "--out", str(tmp_path / "p"), "--windows", "--quiet"]) == 0
    assert Image.open(tmp_path / "p" / f"{names[0]}.mask.png").size == (128, 96)
    capsys.readouterr()
    assert main(["evaluate", str(run.path), "--windows", "0.25", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(np.sum(step["confusion"]) == 2 * 128 * 96 for step in found["steps"])
    for command in (["predict", str(run.path), str(large), "--out", "x"], ["evaluate", str(run.path)]):
        assert main([*command, "--windows", "1.5"]) == 2
        assert "0 to 0.9 of their side" in capsys.readouterr().err
