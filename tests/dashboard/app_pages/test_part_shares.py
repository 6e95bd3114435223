"""Why, on a chosen part of the pictures: its shares are those of these pictures, measured after a click and kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard.cache import loaders
from dashboard.picture import measured_on
from dashboard.ui.shipped import shipped
from lag_core.explain.class_fates import class_fates
from lag_core.runs import open_run

torch.set_num_threads(1)

RUN, CLASS, STEP = "animals-3-1-finetune", "dog", 1
WHY = "from dashboard.app import main; main(default='why')"


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Why on two of the photographs that ship, one of which shows the class."""
    monkeypatch.setenv("LAG_RUNS", str(shipped("checkpoints")))
    monkeypatch.setenv("LAG_CACHE", str(tmp_path))
    run = open_run(shipped("checkpoints") / RUN)
    pictures = loaders.picture_set(run, "")
    assert pictures is not None and pictures.kind == "photographs"
    cls = run.class_index(CLASS)
    shows = pictures.pixels[:, cls] > 0
    chosen = np.zeros(len(pictures), bool)
    chosen[[np.flatnonzero(shows)[0], np.flatnonzero(~shows)[0]]] = True
    at = AppTest.from_string(WHY, default_timeout=120)
    at.query_params.update(run=RUN, run2="none", step=str(STEP), **{"class": CLASS})
    at.query_params["pictures"] = measured_on.encode(pictures, chosen)
    return at, measured_on.MeasuredOn(pictures, pictures.counts, chosen), run, cls


def text(at):
    return " ".join(e.value for e in [*at.markdown, *at.caption, *at.info])


def test_the_shares_are_those_of_the_chosen_pictures(app):
    at, part, run, cls = app
    at.run()
    assert not at.exception and "not measured yet" in text(at) and "2 of" in text(at)
    (button,) = [b for b in at.button if b.label == "Measure the shares on 2 pictures"]
    button.click().run()
    assert not at.exception and "not measured yet" not in text(at) and f"({part.words})" in text(at).replace("\\", "")
    from dashboard.app_pages.why import part_shares
    from lag_core.explain.cache import ResultCache, key_of

    encoded = measured_on.encode(part.pictures, part.chosen)
    key = key_of(run.digest, encoded, "shares-of-part", cls=cls, step=STEP, root="")
    kept = part_shares._kept(run, part, cls, STEP, ResultCache(), key)
    fate = class_fates(part.confusions(), run.labels, STEP)[cls]
    assert kept.images == 2
    assert (kept.start, kept.fixed) == pytest.approx((100 * fate.start, 100 * fate.now), abs=1.0)
    assert kept.points.sum() == pytest.approx(kept.end - kept.start, abs=1e-6)
    again = AppTest.from_string(WHY, default_timeout=120)
    again.query_params.update(at.query_params)
    assert "not measured yet" not in text(again.run()), "kept on disk"


def test_a_part_without_the_class_says_so(app):
    at, part, _, cls = app
    without = part.chosen & (part.pictures.pixels[:, cls] == 0)
    at.query_params["pictures"] = measured_on.encode(part.pictures, without)
    at.run()
    assert not at.exception and "None of these pictures shows dog" in text(at)
