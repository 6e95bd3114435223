"""IoU of each domain: colour and infrared tiles together are all tiles."""

from __future__ import annotations

import domains
import numpy as np
import pytest
from repository import ROOT

from lag_core.explain.survey import read_survey
from lag_core.runs import open_run

RUN = ROOT / "checkpoints" / "aerial-2-2-1-lagplus"


def test_both_is_what_the_run_was_measured_with() -> None:
    run = open_run(RUN)
    both, *single = domains.rows(run, run.last_step)
    assert [cells[1] for cells in (both, *single)] == ["both", "colour", "infrared"]
    confusions = run.confusions()
    assert confusions is not None
    matrix = confusions[run.last_step]
    union = matrix.sum(0) + matrix.sum(1) - np.diagonal(matrix)
    assert [float(cell) for cell in both[2:-1]] == pytest.approx(100 * np.diagonal(matrix) / union, abs=0.3)


def test_the_domains_share_out_the_tiles() -> None:
    run = open_run(RUN)
    survey = read_survey(run)
    assert survey is not None and survey.pictures is not None
    names = run.open_dataset().ids("val")
    of_one = [np.array([name.startswith(prefix) for name in names]) for prefix in list(domains.DOMAINS.values())[1:]]
    assert (np.sum(of_one, 0) == 1).all() and all(one.any() for one in of_one)
