"""Converted runs of two layouts through doctor, evaluate, survey and every page."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
import torch
from shapes import write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.app import PAGES
from lag_core.cli import main
from lag_core.runs import open_run

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

LAYOUTS = ("plop", "star")
"""Softmax with InPlaceABN; sigmoids without a background's logit."""
BLOCKS = re.compile(r"^(?:body\.mod4\.block|backbone\.layer3\.)(\d+)\.")


def shallow(peer: str, folder: Path) -> list[Path]:
    """Files of two steps as the system writes them, of a ResNet-50: the fixtures' ResNet-101 without 17 blocks."""
    layout = copy.deepcopy(peers.layout(peer))
    first = 1 if peer == "plop" else 0
    layout["keys"] = [entry for entry in layout["keys"] if not (m := BLOCKS.match(entry[0])) or int(m[1]) < 6 + first]
    layout["bias"] = {}
    return [peers.rule().write(layout, step, folder / peers.rule().file_name(layout, step)) for step in (0, 1)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("imported")
    data, out = write_shapes(root / "shapes"), root / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAG_RUNS", str(out))
        patch.setenv("LAG_DATA", "")
        patch.setenv("LAG_CACHE", str(root / "cache"))
        for peer in LAYOUTS:
            paths = shallow(peer, root / "files")
            options = ["--task", "3-1", "--dataset", "folder", "--data", str(data), "--size", "33"]
            norm = ["--norm", "iabn"] if peer == "plop" else []
            assert main(["import", peer, *map(str, paths), *options, *norm, "--out", str(out / peer)]) == 0
            shutil.rmtree(root / "files")
        yield out


@pytest.mark.parametrize("peer", LAYOUTS)
def test_a_converted_run_is_measured_and_drawn(peer: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(runs / peer)
    assert run.config.model.backbone == "resnet50"
    assert main(["evaluate", str(run.path), "--write"]) == 0
    assert main(["survey", str(run.path), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["doctor", "--runs", str(runs)]) == 0
    assert f"+ {peer} " in capsys.readouterr().out
    confusions = run.confusions()
    assert confusions is not None and confusions.shape[0] == 2 and (confusions.sum((1, 2)) > 0).all()
    for entry in PAGES:
        app = AppTest.from_string(f"from dashboard.app import main; main(default={entry.slug!r})", default_timeout=200)
        app.query_params.update({"run": peer, "image": run.open_dataset().ids("val")[0], "step": "1"})
        app.run()
        assert not app.exception and not app.error, (entry.slug, [one.value for one in app.error])
