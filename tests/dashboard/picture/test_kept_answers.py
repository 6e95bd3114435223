"""Answers on the photographs that ship: what is kept is what the networks say, and Start needs no network."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT

from dashboard.cache import loaders, photographs
from dashboard.picture import kept_answers, predictions
from lag_core.runs import open_run

PHOTOGRAPH = "photo:dog"


@pytest.mark.parametrize("name", ["animals-3-1-lagplus", "animals-3-1-finetune"])
def test_kept_answers_are_what_the_networks_say(name):
    """Run `python -m dashboard.picture.kept_answers` after a run that ships was trained again."""
    run = open_run(ROOT / "checkpoints" / name)
    picture = loaders.picture(run, "", PHOTOGRAPH)
    kept = kept_answers.find(run.digest, picture.digest)
    assert kept is not None
    found = predictions.computed(run, picture)
    assert len(kept["predictions"]) == len(run.labels.steps)
    differ = kept["predictions"] != np.stack(found.predictions)
    assert differ.mean() < 1e-3  # another processor may round a tie the other way
    for kind in ("grids", "certainty"):  # a softmax network keeps no certainty
        ours = getattr(found, kind)
        assert len(kept[kind]) == len(ours)
        assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(kept[kind], ours, strict=True))


def test_every_photograph_of_every_run_that_ships_is_kept():
    expected = set()
    for run in loaders.catalogue(ROOT / "checkpoints").runs.values():
        for image_id in photographs.ids(run):
            picture = loaders.picture(run, "", image_id)
            expected.add(f"{run.digest}-{picture.digest}.npz")
    assert expected == {path.name for path in kept_answers.FOLDER.glob("*.npz")}


def test_what_is_kept_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_answers, "FOLDER", tmp_path / "answers")
    rng = np.random.default_rng(0)
    arrays = {
        "predictions": rng.integers(0, 255, (2, 5, 4), np.uint8),
        "grids": rng.integers(0, 255, (2, 3, 4, 6), np.uint8),
        "certainty": np.zeros(0, np.uint8),
    }
    kept_answers.keep("run", "picture", arrays)
    found = kept_answers.find("run", "picture")
    assert found is not None and all((found[name] == arrays[name]).all() for name in kept_answers.NAMES)
    assert kept_answers.find("run", "another") is None


def test_the_first_picture_needs_no_network():
    program = (
        "import os, sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"os.environ['LAG_RUNS'] = {str(ROOT / 'checkpoints')!r}\n"
        "from dashboard.shell import prefetch\nprefetch.begin = lambda *given, **named: None\n"
        'script = "from dashboard.app import main; main()"\n'
        "at = AppTest.from_string(script, default_timeout=100)\n"
        "at.run()\n"
        "assert not at.exception and not at.error, [e.value for e in at.error]\n"
        "assert any('The same photograph' in m.value for m in at.markdown)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
