"""Pages that only read results never import torch: each is drawn in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_runs import write_run
from small_surveys import add_survey

from lag_core.runs import open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A surveyed run whose pictures are here, and one whose pictures are not."""
    root = tmp_path_factory.mktemp("runs")
    here, elsewhere = (write_run(root, name) for name in ("here", "elsewhere"))
    text = (elsewhere / "run.json").read_text()
    text = text.replace('"dataset": "aerial"', '"dataset": "voc"').replace('"root": ""', '"root": "/nowhere"')
    (elsewhere / "run.json").write_text(text)
    for path in (here, elsewhere):
        add_survey(open_run(path), ["rgb-val-0000", "rgb-val-0001"])
    return root


@pytest.mark.parametrize(
    ("page", "run", "shows"),
    [
        ("overview", "here", "Old, new, all"),
        ("training", "here", "Training"),
        ("report", "here", "The file"),
        ("forgetting", "elsewhere", "Lost, by class and step"),
        ("prototypes", "elsewhere", "Own drift"),
    ],
)
def test_a_page_of_results_does_not_import_torch(runs, page, run, shows):
    program = (
        "import os, sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"os.environ['LAG_RUNS'] = {str(runs)!r}\n"
        f'script = "from dashboard.app import main; main(default={page!r})"\n'
        "at = AppTest.from_string(script, default_timeout=100)\n"
        f"at.query_params['run'] = {run!r}\n"
        "at.run()\n"
        "assert not at.exception and not at.error, [e.value for e in at.error]\n"
        f"assert any({shows!r} in m.value for m in at.markdown), [m.value for m in at.markdown]\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
