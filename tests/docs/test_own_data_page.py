"""docs/own-data.md: every command of the page runs, in its order, on a folder of pictures."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from shapes import write_shapes
from small_trees import SMALL, write_list

from lag_core.cli import main

pytestmark = pytest.mark.usefixtures("no_fsync")
PAGE = ROOT / "docs" / "own-data.md"


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [content for named, content in found if named == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    assert lines and all(line.startswith("lag ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def surveyed(folder: Path) -> Any:
    return json.loads((folder / "runs" / "large" / "survey.json").read_text())


def add_mosaic(root: Path) -> None:
    """A validation picture of 96 x 64 pixels, put together of six."""
    for folder in ("images", "masks"):
        parts = [np.array(Image.open(root / folder / f"s{k:02d}.png")) for k in range(6)]
        whole = np.concatenate([np.concatenate(parts[:3], 1), np.concatenate(parts[3:], 1)])
        Image.fromarray(whole).save(root / folder / "mosaic.png")
    write_list(root / "val.txt", [*(root / "val.txt").read_text().split(), "mosaic"])


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    write_shapes(tmp_path / "my-data", train_images=12, val_images=2)
    add_mosaic(tmp_path / "my-data")
    config, sweep = blocks("toml")
    data, _, _ = config.partition("[model]")
    (tmp_path / "my.toml").write_text(data.replace("size = 256", "size = 32").rstrip() + SMALL)
    (tmp_path / "my-sweep.toml").write_text(sweep)
    said = {}
    for arguments in commands():
        arguments = [word if word != "256" else "32" for word in arguments]
        assert main([*arguments, *(["--work", "work"] if arguments[0] == "sweep" else [])]) == 0, arguments
        said[" ".join(arguments)] = capsys.readouterr().out
    assert (tmp_path / "runs" / "try" / "events.csv").exists() and "<img" in (tmp_path / "sheet.html").read_text()
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert sorted((r["name"], r["seed"]) for r in rows) == [(n, s) for n in ("finetune", "lagplus") for s in range(3)]
    latex = next(text for line, text in said.items() if "latex" in line)
    assert latex.count(r"\begin{tabular}") == 3 and r"lag+ & 3 &" in latex
    assert {"step_00.png", "truth.png", "provenance.png", "summary.json", "arrays.npz"} <= {
        path.name for path in (tmp_path / "figure").iterdir()
    }
    assert "Boundary IoU" in next(text for line, text in said.items() if line.startswith("evaluate"))
    assert Image.open(tmp_path / "tiles" / "mosaic.mask.png").size == (96, 64)
    assert (tmp_path / "window" / "step_02.png").exists() and "mosaic@0,0" in json.dumps(surveyed(tmp_path))
    assert (tmp_path / "predictions" / "s12.mask.png").exists() and (tmp_path / "why.html").stat().st_size > 10_000


def test_the_recipe_of_the_page_is_what_it_says(tmp_path: Path) -> None:
    from lag_core.commands.train import read_config

    (tmp_path / "my.toml").write_text(blocks("toml")[0])
    config = read_config(tmp_path / "my.toml", "lag+", recipe="small")
    assert (config.optim.min_iterations_first, config.optim.min_iterations, config.data.views) == (400, 150, 4)
    assert config.data.holdout == 0.1 and config.model.weights == "imagenet"
