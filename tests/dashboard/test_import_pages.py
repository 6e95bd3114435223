"""Converted runs of all eight systems through doctor, evaluate, survey and every page."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from peers import PEERS
from shapes import write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.app import PAGES
from lag_core.cli import main
from lag_core.importing.formats import FORMATS
from lag_core.runs import Run, open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
torch.set_num_threads(1)

BLOCKS = re.compile(r"^(?:body\.mod4\.block|(?:backbone|encoder)\.layer3\.)(\d+)\.")
"""Key of a block of the third layer."""
BELOW = re.compile(r"^(?:body\.mod[1-4]|(?:backbone|encoder)\.(?:conv1|bn1|layer[1-3]))\.")
"""Key of what lies below the last layer."""

EVERY_PAGE = ("ssul", "dkd", "rcil", "plop")
"""One of each kind of imported run: heads alone move, and the unknown has a channel; the background has no score;
InPlaceABN and softmax; the same with an activation in the stem. The other runs have one of these configurations and
other tensors. No page asks which system wrote the files."""
HARDEST = ("steps", "why")
"""Pages that run each step's network, and mix two steps' networks."""


def shallow(peer: str, folder: Path) -> list[Path]:
    """Files of two steps as the system writes them, of a ResNet-50: the fixtures' ResNet-101 without 17 blocks.

    SSUL and LAG freeze all but their heads; of the others the last layer and what follows moves. That everything may
    move is shown by tests/lag_core/importing/test_import_peers.py; here each part that moves doubles what the survey's
    shares cost.
    """
    layout = copy.deepcopy(peers.layout(peer))
    first = 1 if any(entry[0].startswith("body.") for entry in layout["keys"]) else 0
    layout["keys"] = [entry for entry in layout["keys"] if not (m := BLOCKS.match(entry[0])) or int(m[1]) < 6 + first]
    layout["bias"] = {}
    variant = "frozen" if peer in ("ssul", "lag") else "moving"
    if variant == "moving":
        upper = [entry[0] for entry in layout["keys"] if not BELOW.match(entry[0])]
        layout["variants"]["moving"]["moves"] = {"prefixes": upper, "suffixes": []}
    named = [(step, folder / peers.rule().file_name(layout, step)) for step in (0, 1)]
    return [peers.rule().write(layout, step, path, variant) for step, path in named]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("imported") / "shapes", 4, 1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the fixtures' kinds by a faster rule: nobody compares these networks with another's answers."""
    monkeypatch.setattr(peers.rule(), "tensor", peers.quick_tensor)


@pytest.mark.parametrize("peer", PEERS)
def test_a_converted_run_is_measured_and_drawn(
    peer: str, data: Path, quick: None, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    for name, value in (("LAG_RUNS", str(runs)), ("LAG_DATA", ""), ("LAG_CACHE", str(tmp_path / "cache"))):
        monkeypatch.setenv(name, value)
    run = imported(peer, data, runs)
    assert run.config.model.backbone == "resnet50"
    assert main(["evaluate", str(run.path), "--write"]) == 0
    assert main(["survey", str(run.path), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["doctor", "--runs", str(runs)]) == 0
    assert f"+ {peer} " in capsys.readouterr().out
    confusions = run.confusions()
    assert confusions is not None and confusions.shape[0] == 2 and (confusions.sum((1, 2)) > 0).all()
    for page in [entry.slug for entry in PAGES] if peer in EVERY_PAGE else HARDEST:
        app = AppTest.from_string(f"from dashboard.app import main; main(default={page!r})", default_timeout=200)
        app.query_params.update({"run": peer, "image": run.open_dataset().ids("val")[0], "step": "1"})
        app.run()
        assert not app.exception and not app.error, (page, [one.value for one in app.error])
    shutil.rmtree(runs)


def imported(peer: str, data: Path, runs: Path) -> Run:
    """A run of two steps; the checkpoints do not stay."""
    files = runs.parent / "files"
    options = ["--task", "3-1", "--dataset", "folder", "--data", str(data), "--size", "33", "--out", str(runs / peer)]
    norm = ["--norm", "iabn"] if FORMATS[peer].in_place else []
    assert main(["import", peer, *map(str, shallow(peer, files)), *options, *norm]) == 0
    shutil.rmtree(files)
    return open_run(runs / peer)
