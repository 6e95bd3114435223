"""`lag sweep`: rows, filters, going on, two workers; and the events in other formats."""

from __future__ import annotations

import csv
import json
import os
import struct
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import ROOT
from shapes import tiny_config, tiny_run, write_shapes, write_toml

from lag_core.cli import main
from lag_core.commands import sweep
from lag_core.config import ConfigError
from lag_core.event_files import Point, crc32c, export, points_of, tensorboard_of
from lag_core.runs import open_run
from lag_core.training.continual import alone
from lag_core.training.features import FeatureStore

pytestmark = pytest.mark.usefixtures("no_fsync")
RUNS = """
base = "base.toml"
seeds = [0, 1]
[[runs]]
name = "frozen"
method = "frozen"
[[runs]]
name = "frozen, long"
method = "frozen"
set = ["optim.epochs_later=2"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write_shapes(tmp_path / "shapes", train_images=8, val_images=2)
    write_toml(tmp_path / "base.toml", tiny_config(root, "frozen", optim={"epochs": 1, "epochs_later": 1}))
    (tmp_path / "runs.toml").write_text(RUNS)
    return tmp_path


def call(folder: Path, *more: str) -> int:
    files = ["--out", str(folder / "rows.json"), "--work", str(folder / "work")]
    return main(["sweep", str(folder / "runs.toml"), *files, *more])


def rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "rows.json").read_text())


def test_rows_are_made_once_and_those_of_a_filter_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(folder, "--only", "long", "--seeds", "1") == 0
    (first,) = rows(folder)
    assert (first["name"], first["seed"]) == ("frozen, long", 1)
    assert call(folder, "--seeds", "1", "--keep", str(folder / "kept"), "--log", "csv") == 0
    found = rows(folder)
    assert found[0] == first, "a row that is there is not made again"
    assert [(r["name"], r["seed"]) for r in found] == [("frozen, long", 1), ("frozen", 1)]
    kept = open_run(folder / "kept" / "frozen-1")
    assert np.array_equal(kept.confusions(), found[1]["confusion"]) and (kept.path / "events.csv").exists()
    capsys.readouterr()
    assert call(folder, "--list") == 0
    said = capsys.readouterr().out
    assert "4 runs, 2 of them in" in said and said.count("seed 0") == 2 and "seed 1" not in said


def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped behind step 0 and ends as one that was not."""
    assert call(folder, "--only", "long", "--seeds", "0") == 0
    whole = rows(folder)[0]
    (folder / "rows.json").unlink()
    from lag_core.training.journal import Journal

    finish = Journal.finish_step

    def stop(self: Journal, *arguments: Any) -> None:
        finish(self, *arguments)
        if len(self.info["steps"]) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "finish_step", stop)
        assert call(folder, "--only", "long", "--seeds", "0") == 130
    (left,) = (folder / "work" / "rows").iterdir()
    assert len(open_run(left).steps) == 2
    assert call(folder, "--only", "long", "--seeds", "0") == 0
    again = rows(folder)[0]
    assert again["confusion"] == whole["confusion"] and not left.exists()


def test_two_workers_make_the_same_rows_and_share_step_0(folder: Path) -> None:
    assert call(folder, "--seeds", "0") == 0
    alone = rows(folder)
    (folder / "rows.json").unlink()
    files = ["--out", str(folder / "rows.json"), "--work", str(folder / "other")]
    assert main(["sweep", str(folder / "runs.toml"), *files, "--seeds", "0", "--workers", "2"]) == 0
    together = sorted(rows(folder), key=lambda r: r["name"])
    for one, other in zip(sorted(alone, key=lambda r: r["name"]), together, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert len([p for p in (folder / "other" / "first").iterdir() if p.is_dir()]) == 1


def test_a_killed_worker_ends_the_sweep_with_a_sentence() -> None:
    task = (None, None)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(os._exit, 9)
        with pytest.raises(ConfigError, match="a worker was killed"):
            list(sweep._answers(pool, [task]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("base = 1", (), "is not a sweep file"),
        ("[[", (), "cannot be read as a sweep"),
        (RUNS.replace('"frozen, long"', '"frozen"'), (), "gives one name and seed to two runs"),
        (RUNS, ("--only", "lagg"), "no run's name contains 'lagg'; there are frozen, frozen, long"),
        (RUNS, ("--set", "optim.nothing=1"), "unknown key optim.nothing"),
        (RUNS, ("--log", "csv"), "name where to --keep them"),
        (RUNS, ("--workers", "0"), "at least 1"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str, more: tuple[str, ...], said: str
) -> None:
    (folder / "runs.toml").write_text(content)
    assert call(folder, *more) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "work").exists()


def test_a_results_file_of_another_kind_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rows.json").write_text('{"name": 1}')
    assert call(folder) == 2
    assert "is not a results file" in capsys.readouterr().err and (folder / "rows.json").read_text() == '{"name": 1}'


def test_a_run_that_fails_stops_no_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:

    broken = RUNS.replace('"optim.epochs_later=2"', "\"model.weights='nowhere.pt'\"")
    (folder / "runs.toml").write_text(broken)
    assert call(folder, "--seeds", "0") == 1
    assert "frozen, long, seed 0, failed:" in capsys.readouterr().out and [r["name"] for r in rows(folder)] == [
        "frozen"
    ]


def test_a_run_that_another_sweep_is_making_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sweeps with one scratch folder must not write one run together."""
    out = folder / "work" / "rows" / "frozen-0"
    with alone(out):
        (out / "events.jsonl").write_text("of the other one")
        assert call(folder, "--seeds", "0") == 1
        assert (out / "events.jsonl").read_text() == "of the other one"
    assert "frozen, seed 0, failed: another training is writing to" in capsys.readouterr().out
    assert [row["name"] for row in rows(folder)] == ["frozen, long"]


def test_features_are_computed_by_one_worker(tmp_path: Path) -> None:
    from threading import Barrier, Thread

    computed: list[int] = []
    barrier = Barrier(2)

    def work() -> None:
        store = FeatureStore(tmp_path)
        barrier.wait()
        found = store.get("abcd", lambda: (computed.append(1), np.arange(3))[1])  # type: ignore[func-returns-value]
        assert found.tolist() == [0, 1, 2]

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]


# Events in other formats


def read_records(data: bytes) -> list[bytes]:
    """Payloads of a TFRecord file."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA


def test_an_event_file_has_the_bytes_of_its_messages() -> None:
    first, second = read_records(tensorboard_of([Point("loss", 300, 1, 0.5)]))
    assert first == b"\x09" + bytes(8) + b"\x1a\x0dbrain.Event:2"
    scalar = b"\x0a\x04loss" + b"\x15" + struct.pack("<f", 0.5)
    value = b"\x0a" + bytes([len(scalar)]) + scalar
    assert second == b"\x09" + struct.pack("<d", 300) + b"\x10\xac\x02" + b"\x2a" + bytes([len(value)]) + value


def test_every_event_is_exported(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train_images=8, val_images=2)
    run = tiny_run(root, tmp_path / "run", "frozen")
    points = list(points_of(run))
    with export(run, "csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(points)
    losses = [float(line["value"]) for line in lines if line["series"] == "loss"]
    assert losses == [event["loss"] for event in run.events()]
    places = [int(line["place"]) for line in lines if line["series"] == "loss"]
    assert places == list(range(len(places))), "counted on over the steps"
    assert {"terms/segmentation", "learning rate/heads", "iou/red", "miou/known classes"} <= {p.series for p in points}
    assert len(read_records(export(run, "tensorboard").read_bytes())) == len(points) + 1


def test_train_writes_them(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train_images=8, val_images=2)
    config = write_toml(tmp_path / "c.toml", tiny_config(root, "frozen"))
    arguments = ["--config", str(config), "--out", str(tmp_path / "run"), "--log", "csv", "tensorboard", "--quiet"]
    assert main(["train", *arguments]) == 0
    assert (tmp_path / "run" / "events.csv").exists() and list((tmp_path / "run" / "tensorboard").iterdir())


def test_every_shipped_sweep_file_is_read() -> None:
    for path in sorted((ROOT / "configs" / "sweeps").glob("*.toml")):
        for job in sweep.jobs_of(path, ["data.root='x'"]):
            assert sweep.config_of(job).optim.seed == job.seed
