"""`data.fit = "windows"`: large pictures as windows, images of their own in training, metrics, survey and gallery."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from shapes import SIDE, picture, tiny_run, write_shapes
from small_trees import write_list

from lag_core.cli import main
from lag_core.config import ConfigError, DataConfig
from lag_core.data.catalogue import DataError, open_dataset
from lag_core.data.findings import findings
from lag_core.data.windows import WindowedDataset, named, own_range, starts
from lag_core.explain.measuring import confusions
from lag_core.explain.picture import read_picture
from lag_core.protocol import IGNORE, LabelSpace
from lag_core.runs import Run

pytestmark = pytest.mark.usefixtures("no_fsync")
WINDOWS = {"fit": "windows"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


def write_tiles(root: Path, tiles: int = 3) -> Path:
    """Two training tiles and one validation tile of 100 x 130 pixels, and small pictures beside them."""
    write_shapes(root, train_images=4, val_images=2)
    rng = np.random.default_rng(5)
    names = [f"tile{k}" for k in range(tiles)]
    for name in names:
        parts = [[picture(rng, (1 + (i + j) % 4, 1 + (i + 2 * j) % 4)) for j in range(5)] for i in range(4)]
        for folder, place in (("images", 0), ("masks", 1)):
            whole = np.concatenate([np.concatenate([one[place] for one in row], 1) for row in parts])[:100, :130]
            Image.fromarray(whole).save(root / folder / f"{name}.png")
    for split, more in (("train", names[:-1]), ("val", names[-1:])):
        write_list(root / f"{split}.txt", [*(root / f"{split}.txt").read_text().split(), *more])
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles")


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(root, tmp_path_factory.mktemp("runs") / "run", "finetune", data=WINDOWS)


def windowed(root: Path, size: int = SIDE, overlap: float = 0.25) -> WindowedDataset:
    found = open_dataset(DataConfig(dataset="folder", root=str(root), size=size, fit="windows", overlap=overlap))
    assert isinstance(found, WindowedDataset)
    return found


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_each_validation_pixel_is_annotated_in_one_window(root: Path, overlap: float) -> None:
    dataset = windowed(root, overlap=overlap)
    whole = np.array(Image.open(root / "masks" / "tile2.png"))
    found, times = np.full(whole.shape, IGNORE), np.zeros(whole.shape, int)
    for name in (name for name in dataset.ids("val") if name.startswith("tile2@")):
        _, top, left = named(name) or ("", 0, 0)
        mask = dataset.mask(name)
        place = np.s_[top : top + SIDE, left : left + SIDE]
        found[place] = np.where(mask == IGNORE, found[place], mask)
        times[place] += mask != IGNORE
        assert np.array_equal(dataset.image(name), np.array(Image.open(root / "images" / "tile2.png"))[place])
    assert np.array_equal(found, whole) and (times == 1).all()


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5])
def test_a_pixel_belongs_to_the_window_in_which_it_lies_deepest(overlap: float) -> None:
    length, size = 97, 16
    begins = starts(length, size, overlap)
    ranges = [own_range(begins, at, size, length) for at in begins]
    assert ranges[0][0] == 0 and ranges[-1][1] == length
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    for at, (first, last) in zip(begins, ranges, strict=True):
        for pixel in range(first, last):
            depth = {b: min(pixel - b, b + size - 1 - pixel) for b in begins if b <= pixel < b + size}
            border = pixel in (0, length - 1)
            assert border or depth[at] >= max(depth.values()) - 1 or at in (begins[0], begins[-1])


def test_training_windows_are_annotated_everywhere(root: Path) -> None:
    dataset = windowed(root)
    names = [name for name in dataset.ids("train") if name.startswith("tile0@")]
    assert len(names) == 20 and all((dataset.mask(name) != IGNORE).all() for name in names)
    assert {"s00", "s01"} <= set(dataset.ids("train")), "a small picture stays what it is"


def test_names_of_windows(root: Path) -> None:
    dataset = windowed(root)
    assert named("a@b@3,4") == ("a@b", 3, 4) and named("a@3") is None and named("a@3,4") == ("a", 3, 4)
    assert np.array_equal(dataset.image("tile0@5,7").shape, (SIDE, SIDE, 3)), "a place that somebody names"
    with pytest.raises(KeyError):
        dataset.image("nothing@0,0")
    with pytest.raises(DataError, match="has 130 x 100 pixels: no window begins at row 100, column 0"):
        dataset.image("tile0@100,0")


def test_classes_of_windows_are_kept_apart_from_those_of_pictures(root: Path) -> None:
    dataset = windowed(root)
    for split in ("train", "val"):
        for name, classes in dataset.present(split).items():
            assert classes == set(np.unique(dataset.mask(name)).tolist()) - {IGNORE}
    other = windowed(root, size=48)
    assert set(other.present("val")) != set(dataset.present("val"))


def test_a_run_trains_and_measures_windows(run: Run, root: Path) -> None:
    """Every pixel of the validation set counts once, at its own resolution."""
    pixels = sum(np.array(Image.open(root / "masks" / f"{n}.png")).size for n in (root / "val.txt").read_text().split())
    matrices = run.confusions()
    assert matrices is not None and matrices[-1].sum() == pixels
    dataset = run.open_dataset()
    again = [sum(one.values()) for one in confusions(run, dataset, dataset.ids("val"))]
    assert np.abs(np.stack(again) - matrices).sum() <= 4


def test_survey_explain_and_report_know_windows(run: Run, root: Path, tmp_path: Path) -> None:
    from lag_core.explain.survey import read_survey

    assert main(["survey", str(run.path), "--quiet"]) == 0
    survey = read_survey(run)
    assert survey is not None and "tile2@0,0" in survey.ids
    assert np.array_equal(survey.confusion, run.confusions())
    for image in ("tile2@0,0", str(root / "images" / "tile2.png@11,13")):
        out = tmp_path / f"why{len(image)}"
        arguments = ["explain", str(run.path), "--image", image, "--class", "red", "--image-only", "--quiet"]
        assert main([*arguments, "--out", str(out)]) == 0
        assert (out / "provenance.png").exists() == (image == "tile2@0,0")


def test_a_window_of_a_file_is_at_the_files_resolution(run: Run, root: Path) -> None:
    file, mask = root / "images" / "tile2.png", root / "masks" / "tile2.png"
    pixels, truth = read_picture(run, f"{file}@11,13", mask)
    place = np.s_[11 : 11 + SIDE, 13 : 13 + SIDE]
    assert np.array_equal(pixels, np.array(Image.open(file))[place])
    index = {one.id: k for k, one in enumerate(run.classes)}
    assert truth is not None and np.array_equal(truth, np.vectorize(index.get)(np.array(Image.open(mask))[place]))
    with pytest.raises(DataError, match="no window begins at row 500"):
        read_picture(run, f"{file}@500,0")


def test_evaluate_by_windows_puts_the_windows_of_a_tile_together(
    run: Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run.path), "--windows", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = run.confusions()
    assert stored is not None
    for step, matrix in zip(found["steps"], stored, strict=True):
        assert np.sum(step["confusion"]) == matrix.sum()


def test_data_check_looks_at_windows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "check", str(root), "--size", "32", "--quiet"]
    assert main(arguments) == 0
    assert 'data.fit = "windows"' in capsys.readouterr().out
    assert main([*arguments, "--fit", "windows"]) == 0
    said = capsys.readouterr().out
    assert "windows" not in said, "the advice is taken"
    assert main([*arguments, "--fit", "windows", "--bands", "3", "2", "9"]) == 1
    assert "data.bands asks for band 9" in capsys.readouterr().out


def test_a_tile_in_both_lists_is_said(tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "tiles")
    write_list(root / "val.txt", ["tile0", "tile2"])
    (sentence,) = findings(windowed(root), LabelSpace(((0, 1, 2), (3, 4)), 0))
    assert "1 of 2 validation images are training images, too (the first: 'tile0')" in sentence


def test_what_windows_need_is_said() -> None:
    from lag_core.config import resolve

    with pytest.raises(ConfigError, match="needs images from files"):
        resolve({"data": {"fit": "windows"}})
    for bands in ([1, 2], [0, 1, 2]):
        with pytest.raises(ConfigError, match="expected three bands"):
            resolve({"data": {"bands": bands}})


def test_a_damaged_tile_is_refused_before_training(tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "tiles")
    content = (root / "images" / "tile2.png").read_bytes()
    (root / "images" / "tile2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"tile2\.png is damaged"):
        tiny_run(root, tmp_path / "run", "finetune", data=WINDOWS)
    Image.fromarray(np.zeros((50, 130), np.uint8)).save(root / "masks" / "tile1.png")
    with pytest.raises(DataError, match="has 130 x 50 pixels, its image 130 x 100"):
        windowed(root).mask("tile1@0,0")


def test_an_upload_shows_the_window_that_is_chosen(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The middle one at first; a picture that is one window alone is shown whole."""
    from dashboard.picture import picker

    file = root / "images" / "tile2.png"
    session: dict[str, object] = {"upload": SimpleNamespace(name="a.png", getvalue=file.read_bytes)}
    monkeypatch.setattr("streamlit.session_state", session)
    whole = np.array(Image.open(file))
    for chosen, (top, left) in (("", (45, 59)), ("0,20", (0, 20))):
        session["upload_window"] = chosen
        picker._take_upload(run.config.data)
        kept = picker.loaders.upload(str(session["image"]))
        assert (top, left) in picker._places(run.config.data)[0].values()
        assert np.array_equal(kept.pixels, whole[top : top + SIDE, left : left + SIDE])
    session["upload"] = SimpleNamespace(name="b.png", getvalue=(root / "images" / "s00.png").read_bytes)
    picker._take_upload(run.config.data)
    kept = picker.loaders.upload(str(session["image"]))
    assert np.array_equal(kept.pixels, np.array(Image.open(root / "images" / "s00.png")))
