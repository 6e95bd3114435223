"""Compare: many runs of one task, seeds by method, verdicts by run and class, the settings that differ."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from small_runs import write_run
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.compare import figures
from dashboard.app_pages.compare import page as compare
from dashboard.ui import design
from lag_core.comparison import row
from lag_core.explain.class_fates import class_fates
from lag_core.groups import differing, grouped
from lag_core.runs import open_run

COMPARE = "from dashboard.app import main; main(default='compare')"


def seeded(root, name, seed, **options):
    path = write_run(root, name, **options)
    info = json.loads((path / "run.json").read_text())
    info["config"]["optim"]["seed"] = info["seed"] = seed
    (path / "run.json").write_text(json.dumps(info))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two methods with three seeds each, and a run that was not evaluated."""
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        seeded(root, f"finetune-{seed}", seed, kept=0.1 + 0.05 * seed)
        seeded(root, f"lag-{seed}", seed, method="lag", kept=0.95 + 0.01 * seed)
    write_run(root, "unmeasured", measured=False)
    return root


@pytest.fixture(scope="module")
def runs(root):
    return [open_run(path) for path in sorted(root.iterdir()) if path.name != "unmeasured"]


@pytest.fixture(scope="module")
def groups(runs):
    return grouped(runs, [row(run, run.confusions()) for run in runs])


def text(at):
    return " ".join(e.value for e in (*at.markdown, *at.caption, *at.info, *at.warning))


def test_every_seed_is_a_dot_beside_mean_and_spread(groups):
    figure = figures.seeds(groups, "all", "all (%)", design.LIGHT)
    dots = [trace for trace in figure.data if not trace.name.startswith("mean")]
    assert [len(trace.x) for trace in dots] == [3, 3]
    for group, trace, shape in zip(groups, dots, figure.layout.shapes, strict=True):
        np.testing.assert_allclose(trace.x, 100 * group.values("all"))
        middle, spread = np.mean(trace.x), np.std(trace.x, ddof=1)
        assert (shape.x0, shape.x1) == pytest.approx((middle - spread, middle + spread))


def test_the_matrix_says_each_verdict(runs):
    fates = [class_fates(run.confusions(), run.labels, 2) for run in runs]
    figure = figures.verdicts([run.name for run in runs], runs[0].classes, fates, design.DARK)
    letters = np.array(figure.data[0].text)
    assert letters.shape == (6, 5) and set(letters[:, 4]) == {"N"}
    assert set(letters[:3, :4].ravel()) == {"L"}, "finetune loses every old class"
    assert set(letters[3:, :4].ravel()) <= {"K", "W"}


def test_every_verdict_has_a_colour_and_a_letter_of_its_own():
    from typing import get_args

    from lag_core.explain.class_fates import Word

    assert set(figures.WORDS) == set(get_args(Word))
    assert len({letter for _, letter in figures.WORDS.values()}) == len(figures.WORDS)


@pytest.mark.parametrize("color", [color for color, letter in figures.WORDS.values() if letter])
def test_letters_can_be_read_on_every_colour(color):
    assert design.contrast(design.rgb(color), (255, 255, 255)) >= 4.5


def test_only_settings_that_differ_are_drawn(runs):
    apart = differing(runs)
    assert next(iter(apart)) == "method.name" and apart["method.name"] == ["finetune"] * 3 + ["lag"] * 3
    assert not any(key.startswith("log.") or key == "optim.seed" for key in apart)
    shown = {"method.name": apart["method.name"]}
    figure = figures.settings([run.name for run in runs], shown, [10.0] * 3 + [50.0] * 3, "all", design.LIGHT)
    assert [tuple(trace.y) for trace in figure.data] == [(0, 0)] * 3 + [(1, 1)] * 3
    names = {note.text: note for note in figure.layout.annotations if note.text in {run.name for run in runs}}
    assert len(names) == 6 and {note.x for note in names.values()} == {1}, "each run is named where its line ends"
    heights = sorted(note.y for note in names.values())
    assert np.diff(heights).min() > figures.NAME_HEIGHT - 1e-9
    assert len({trace.line.color for trace in figure.data}) == 6
    assert differing(runs[:3]) == {}


def test_a_single_seed_is_said(runs, groups):
    alone = grouped([runs[0], runs[3]], [row(run, run.confusions()) for run in (runs[0], runs[3])])
    assert "2 methods, one seed each." in compare._answer(alone, "all", runs[0])
    assert "one seed" not in compare._answer(groups, "all", runs[0])


def test_the_page_groups_seeds_and_names_the_best(root, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(root))
    at = AppTest.from_string(COMPARE, default_timeout=60)
    at.query_params["run"] = "finetune-0"
    at.run()
    assert not at.exception and not at.error and not at.warning
    assert "Measure" in [one.value for one in at.markdown], "the box is labelled"
    assert "6 runs of task 2" in text(at) and "2 methods" in text(at) and "**lag** has the highest *all*" in text(at)
    next(s for s in at.selectbox if s.key == "measure").set_value("forgetting_fixed").run()
    assert "**lag** has the lowest *forgetting*" in text(at) and not at.exception


def test_a_seed_twice_is_said_and_each_run_stands_alone(runs):
    doubled = [runs[0], runs[0], runs[3]]
    found, said = compare._groups(doubled, [row(run, run.confusions()) for run in doubled])
    assert len(found) == 3 and "seed twice" in said[0]


def test_the_page_imports_no_torch(root):
    program = (
        "import os, sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"os.environ['LAG_RUNS'] = {str(root)!r}\n"
        f"at = AppTest.from_string({COMPARE!r}, default_timeout=100).run()\n"
        "assert not at.exception and not at.error\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
