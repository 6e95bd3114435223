"""A disk without room: every command that writes says in one sentence which file, and leaves nothing half-written.

The system itself refuses to let any file grow (RLIMIT_FSIZE), so nothing is stood in for and no disk is mounted.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import own_adapters
import peers
import pytest
from PIL import Image
from repository import ROOT
from shapes import tiny_config, tiny_run, write_shapes, write_toml

from lag_core.cli import main, parser
from lag_core.data.folder import open_folder

pytestmark = pytest.mark.usefixtures("no_fsync")
ONE = {"epochs": 1, "epochs_later": 1}


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dataset, a finished run, configuration and sweep file, label maps, another's checkpoint."""
    root = tmp_path_factory.mktemp("full")
    data = write_shapes(root / "data", 10, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAG_CACHE", str(root / "cache"))
        patch.setenv("LAG_ADAPTERS", "own_adapters:Own")
        patch.setattr(os, "fsync", lambda file: None)
        write_toml(root / "tiny.toml", tiny_config(data, "frozen", optim=ONE))
        (root / "sweep.toml").write_text(
            f'base = "{root}/tiny.toml"\nseeds = [0]\n[[runs]]\nname = "a"\nmethod = "frozen"\n'
        )
        tiny_run(data, root / "run", "frozen", optim=ONE)
        dataset, maps = open_folder(data), root / "maps"
        maps.mkdir()
        for name in dataset.ids("val"):
            Image.fromarray(np.zeros_like(dataset.mask(name))).save(maps / f"{name}.png")
        own_adapters.write_checkpoints(own_adapters.Own(), root / "own")
        yield root


def words(place: Path, name: str, out: Path) -> list[str]:
    """The words of a command whose files go to `out`, or into the run."""
    image = (place / "data" / "val.txt").read_text().split()[0]
    picture = str(place / "data" / "images" / f"{image}.png")
    run, config, data = str(place / "run"), str(place / "tiny.toml"), str(place / "data")
    about = ["--image", image, "--class", "red", "--image-only", "--quiet"]
    return {
        "train": ["train", "--config", config, "--out", str(out), "--quiet"],
        "sweep": ["sweep", str(place / "sweep.toml"), "--out", str(out / "rows.json"), "--work", str(out / "work")],
        "survey": ["survey", run, "--quiet", "--device", "cpu"],
        "evaluate": ["evaluate", run, "--write", "--json", "--device", "cpu"],
        "predict": ["predict", run, picture, "--out", str(out), "--quiet", "--device", "cpu"],
        "predict --windows": ["predict", run, picture, "--windows", "--out", str(out), "--quiet", "--device", "cpu"],
        "explain": ["explain", run, *about, "--out", str(out)],
        "report": ["report", run, *about, "--out", str(out / "why.html")],
        "pack": ["pack", run, "--out", str(out), "--quiet"],
        "import-predictions": [
            "import-predictions", str(place / "maps"), "--root", data, "--task", "2-1-1", "--out", str(out),
        ],
        "adopt": [
            "adopt", *map(str, sorted((place / "own").iterdir())), "--adapter", "own_adapters:Own", "--root", data,
            "--out", str(out), "--device", "cpu",
        ],
        "data": ["data", "check", data, "--out", str(out / "sheet.html"), "--quiet"],
    }[name]  # fmt: skip


WRITE = (
    "train", "sweep", "survey", "evaluate", "predict", "predict --windows", "explain", "report", "pack",
    "import-predictions", "adopt", "data",
)  # fmt: skip
ONLY_SAY = {"compare", "doctor", "splits", "dashboard"}


def test_no_command_is_forgotten() -> None:
    commands = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert {name.split()[0] for name in WRITE} | ONLY_SAY | {"import"} == set(commands)


def files_below(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for one in folders for path in one.rglob("*") if path.is_file()}


def held(call: list[str], room: int, out: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command without room; the file that it names, once it is seen that nothing else was left or changed."""
    before = files_below(place / "run")
    with no_file_beyond(room):
        assert main(call) == 2
    text = capsys.readouterr().err
    found = re.search(r"^lag: (\S+): it cannot be written \(it needs (more than )?[\d.]+ MiB, and \d", text, re.M)
    assert found and "Traceback" not in text, text
    assert files_below(place / "run") == before
    assert [path for path in out.rglob("*") if path.name.endswith(".partial")] == []
    return found[1]


@pytest.mark.parametrize("name", WRITE)
def test_a_command_names_the_file_that_has_no_room(
    place: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    named = held(words(place, name, out), 0, out, place, capsys)
    assert named.startswith((str(out), str(place / "run")))
    assert name in ("train", "sweep") or files_below(out) == {}, "the same command can be given again"


@pytest.mark.parametrize("name, room, file", [("explain", 9000, "arrays.npz"), ("predict", 1000, "overlay.png")])
def test_what_has_room_goes_too_when_a_later_file_has_none(
    place: Path, name: str, room: int, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert file in held(words(place, name, out), room, out, place, capsys)
    assert files_below(out) == {}


def test_import_names_the_file_that_has_no_room(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = map(str, peers.write_steps("csseg", tmp_path / "files", (0,), empty=True))
    (tmp_path / "classes.json").write_text('["background", "a", "b", "c", "d", "e"]')
    call = ["import", *paths, "--task", "3-1", "--classes", str(tmp_path / "classes.json")]
    out = tmp_path / "out"
    assert held([*call, "--norm", "iabn", "--out", str(out)], 0, out, place, capsys).startswith(str(out))
    assert not out.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that has no room")
def test_output_that_is_redirected_to_a_full_disk_is_a_sentence(place: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lag_core", "compare", str(place / "run")], stdout=full, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=100,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "lag: standard output: No space left on device\n")
