"""From a dataset to a table: every command, on the built-in aerial tiles and on a folder, each with bad inputs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import write_shapes
from small_trees import SMALL

from lag_core.cli import main
from lag_core.data import catalogue

pytestmark = [pytest.mark.usefixtures("no_fsync"), pytest.mark.slow]
Lag = Callable[..., tuple[int, str]]

TILES = "\nsize = 32\ntiles = 6" + SMALL


@pytest.fixture
def lag(capsys: pytest.CaptureFixture[str]) -> Lag:
    def call(*arguments: object) -> tuple[int, str]:
        status = main([str(word) for word in arguments])
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


@pytest.mark.parametrize("dataset", ["aerial", "folder"])
def test_from_a_dataset_to_a_table(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: Lag) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalogue, "VAL_TILES", 3)
    root = write_shapes(tmp_path / "shapes", 12, 3)
    task = "2-2-1" if dataset == "aerial" else "2-2"
    place = "" if dataset == "aerial" else f'root = "{root}"\n'
    (tmp_path / "my.toml").write_text(f'[data]\ndataset = "{dataset}"\n{place}task = "{task}"{TILES}')

    if dataset == "folder":
        assert lag("data", "check", root, "--task", task, "--size", 32, "--out", "sheet.html", "--quiet")[0] == 0
        assert lag("data", "check", root, "--task", "9-9", "--quiet")[0] == 2
        assert lag("data", "check", root, "--dataset", "vok", "--quiet")[0] == 2
        assert lag("data", "check", tmp_path / "nowhere", "--quiet")[0] == 2

    train = ("train", "--config", "my.toml", "--recipe", "small", "--quiet")
    for method in ("finetune", "mib"):
        for seed in (0, 1):
            more = ("--method", method, "--set", f"optim.seed={seed}", "--out", f"runs/{method}-{seed}")
            assert lag(*train, *more, "--log", "csv", "tensorboard")[0] == 0
    assert list((tmp_path / "runs" / "mib-1" / "tensorboard").iterdir())
    assert lag(*train, "--method", "nothing", "--out", "x")[0] == 2
    assert lag(*train, "--set", "optim.epoch=1", "--out", "x")[0] == 2

    names = [f"runs/{method}-{seed}" for method in ("finetune", "mib") for seed in (0, 1)]
    for name in names:
        assert lag("evaluate", name, "--write")[0] == 0
    status, said = lag("evaluate", names[0], "--boundary")
    assert status == 0 and "Boundary IoU" in said and "95 % bootstrap interval" in said
    assert lag("evaluate", "runs/none")[0] == 2 and lag("evaluate", names[0], "--windows", 2)[0] == 2

    status, said = lag("compare", *names, "--group")
    assert status == 0 and "finetune" in said and "mib" in said
    status, said = lag("compare", *names, "--group", "--format", "csv")
    assert status == 0 and len(list(csv.reader(io.StringIO(said)))) >= 3
    assert r"\begin{tabular}" in lag("compare", *names, "--group", "--format", "latex")[1]
    assert "| mib |" in lag("compare", *names, "--group", "--format", "markdown")[1]
    assert lag("compare", names[0], "runs/none", "--group")[0] == 2

    (tmp_path / "sweep.toml").write_text(
        'base = "my.toml"\nrecipe = "small"\nseeds = [0]\n[[runs]]\nname = "plain"\nmethod = "finetune"\n'
    )
    sweep = ("sweep", "sweep.toml", "--out", "rows.json", "--work", "work")
    assert lag(*sweep)[0] == 0 and len(json.loads((tmp_path / "rows.json").read_text())) == 1
    assert "1 run, 1 of them in rows.json already" in lag(*sweep, "--list")[1]
    assert lag(*sweep, "--only", "other")[0] == 2
