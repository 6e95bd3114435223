"""The fate wall and the part of the pictures that verdicts are measured on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT
from small_runs import CLASSES, write_run
from small_surveys import add_survey
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.overview import fates
from dashboard.app_pages.overview.fates import Asked
from dashboard.cache import photograph_counts
from dashboard.cache.picture_set import PictureSet
from dashboard.picture import measured_on
from lag_core import metrics
from lag_core.explain.class_fates import class_fates
from lag_core.explain.picture_counts import PictureCounter
from lag_core.explain.survey import open_survey
from lag_core.protocol import LabelSpace
from lag_core.runs import open_run

CHECKPOINTS = ROOT / "checkpoints"
IDS = [f"rgb-val-{i:04d}" for i in range(4)] + [f"irrg-val-{i:04d}" for i in range(4)]
OVERVIEW = "from dashboard.app import main; main(default='overview')"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two runs that were surveyed on the same pictures, one whose survey is of an earlier version, one without."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "other")):
        add_survey(open_run(write_run(root, name)), IDS, seed=seed)
    add_survey(open_run(write_run(root, "earlier")), IDS, by_picture=False)
    write_run(root, "unseen")
    away = write_run(root, "away")
    told = (away / "run.json").read_text().replace('"dataset": "aerial"', '"dataset": "voc"')
    (away / "run.json").write_text(told.replace('"root": ""', '"root": "/nowhere"'))
    add_survey(open_run(away), IDS, seed=0)
    return root


@pytest.fixture
def app(root, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(root))
    monkeypatch.delenv("LAG_DATA", raising=False)
    at = AppTest.from_string(OVERVIEW, default_timeout=60)
    at.query_params["run"], at.query_params["run2"] = "one", "other"
    return at


@pytest.fixture(scope="module")
def pictures(root):
    return PictureSet.of_survey(open_survey(open_run(root / "one")))


LABELS = open_run(CHECKPOINTS / "aerial-2-2-1-lag").labels


def by_key(elements, key):
    return next(e for e in elements if e.key == key)


def text(at):
    return " ".join(e.value for e in (*at.markdown, *at.caption, *at.info))


def test_the_worst_picture_is_the_one_that_lost_most(pictures):
    found = fates.worst(pictures, LABELS)
    assert set(found) == {(1, 0), (1, 1), *((2, c) for c in range(4))}
    for (step, cls), one in found.items():
        lost = pictures.lost[:, step, cls]
        assert one.lost == lost.max() > 0 and lost[one.place] == lost.max()
        assert one.share == pytest.approx(lost[one.place] / pictures.pixels[one.place, cls])
    among = np.zeros(len(pictures), bool)
    among[5] = True
    assert {one.place for one in fates.worst(pictures, LABELS, among).values()} <= {5, -1}


def test_where_nothing_was_lost_there_is_no_worst_picture(pictures):
    calm = dataclasses.replace(pictures, lost=np.zeros_like(pictures.lost))
    assert {(one.place, one.share) for one in fates.worst(calm, LABELS).values()} == {(-1, 0.0)}


def test_filters_and_orders(pictures):
    lost = fates.parts(pictures, 2, 0, LABELS)
    np.testing.assert_allclose(lost.right + lost.lost + lost.never, 1)
    by_lost = fates.ordered(pictures, LABELS, Asked(2, 0))
    assert (np.diff(pictures.lost[by_lost, 2, 0]) <= 0).all() and len(by_lost) == len(IDS)
    mostly = [fates.chosen(pictures, LABELS, Asked(2, 0, fate)) for fate in (fates.LOST, fates.RIGHT, fates.NEVER)]
    assert (np.sum(mostly, 0) == 1).all(), "each picture has one fate"
    np.testing.assert_array_equal(mostly[0], (lost.lost >= lost.right) & (lost.lost >= lost.never))
    pair = fates.ordered(pictures, LABELS, Asked(2, 0, called=4, order="pair"))
    assert (np.diff(pictures.counts.called(2, 0, 4)[pair]) <= 0).all()
    unsure = fates.ordered(pictures, LABELS, Asked(2, None, order="unsure"))
    assert unsure == list(range(len(IDS))), "small_surveys makes later pictures surer"
    assert "pair" not in fates.orders_known(pictures, Asked(2, 0))
    earlier = dataclasses.replace(pictures, counts=None)
    assert not {"sure", "unsure"} & set(fates.orders_known(earlier, Asked(2, 0)))


def test_many_classes_are_cut_to_those_that_lost_most(pictures):
    assert fates.rows_shown(pictures, LABELS, 2, 3, 12) == [0, 1, 2, 3], "the last step's class can lose nothing yet"
    assert 3 in fates.rows_shown(pictures, LABELS, 2, 3, 2)


@pytest.mark.parametrize("count", [1, 8, 9, 445])
def test_a_part_travels_as_text(pictures, count):
    many = dataclasses.replace(pictures, ids=tuple(map(str, range(count))))
    some = np.random.default_rng(0).random(count) < 0.5
    some[0] = True
    text = measured_on.encode(many, some)
    np.testing.assert_array_equal(measured_on.decode(many, text), some)
    assert len(text) <= 300, "a link carries it"
    assert measured_on.decode(pictures if count != 8 else many, text + "x" * 40) is None


@pytest.mark.parametrize("hostile", ["", "v", "v00000000", "%00", "v" + "A" * 90, "validation"])
def test_a_hostile_part_is_none(pictures, hostile):
    assert measured_on.decode(pictures, hostile) is None
    assert measured_on.decode(pictures, f"v{pictures.digest}{hostile}") is None
    assert measured_on.decode(pictures, measured_on.encode(pictures, np.zeros(8, bool))) is None, "an empty one, too"


def test_a_part_is_measured_on_its_own_pictures(app, pictures):
    some = np.arange(8) < 3
    app.query_params["pictures"] = measured_on.encode(pictures, some)
    at = app.run()
    assert not at.exception and not at.error
    assert "measured on **3 of 8 validation pictures**" in text(at)
    expected = metrics.summary(pictures.counts.confusions(some)[2], LABELS, 2)
    assert next(m for m in at.metric if m.label == "All").value == f"{100 * expected.all:.1f}"
    assert at.query_params["pictures"], "the link keeps it"
    by_key(at.button, "measured-on-all").click().run()
    assert "measured on **3 of 8" not in text(at) and "pictures" not in at.query_params
    assert next(m for m in at.metric if m.label == "All").value != f"{100 * expected.all:.1f}"


def test_what_is_shown_becomes_the_part(app, pictures):
    app.query_params["called"] = "car"
    app.query_params["class"] = "building"
    app.query_params["fate"] = "lost"
    at = app.run()
    shown = fates.chosen(pictures, LABELS, Asked(2, 1, "lost", 4))
    assert 0 < shown.sum() < 8
    by_key(at.button, "take-shown").click().run()
    assert f"measured on **{shown.sum()} of 8" in text(at) and not at.exception


def test_ticked_pictures_become_the_part(app):
    app.session_state["ticked"] = {IDS[1], IDS[6], "a picture of another run"}
    at = app.run()
    by_key(at.button, "take-ticked").click().run()
    assert "measured on **2 of 8" in text(at) and not at.exception
    by_key(at.segmented_control, "domain").set_value("irrg").run()
    assert "None of the chosen pictures" in text(at), "a survey of small_surveys has no domains"
    assert not at.exception


def test_a_run_without_a_survey_says_so_in_its_place(app):
    app.query_params["run"] = "unseen"
    at = app.run()
    assert not at.exception and "run `python -m lag_core survey` once with its folder" in text(at)


def test_an_earlier_survey_has_a_wall_and_no_parts(app, root, pictures):
    app.query_params["run"] = "earlier"
    app.query_params["pictures"] = measured_on.encode(pictures, np.arange(8) < 3)
    at = app.run()
    assert not at.exception and "An earlier version made this survey" in text(at) and "measured on **" not in text(at)


def test_the_wall_and_a_part_of_the_pictures_need_no_torch(root, pictures):
    part = measured_on.encode(pictures, np.arange(8) < 3)
    program = (
        "import os, sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"os.environ['LAG_RUNS'] = {str(root)!r}\n"
        f"at = AppTest.from_string({OVERVIEW!r}, default_timeout=100)\n"
        f"at.query_params['run'] = 'one'\nat.query_params['pictures'] = {part!r}\n"
        "at.run()\n"
        "assert not at.exception and any('3 of 8' in m.value for m in at.markdown)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]


def test_every_shipped_run_of_the_animals_has_its_photographs_counted():
    entries = json.loads(photograph_counts.COUNTS.read_text("utf-8"))
    for path in sorted(CHECKPOINTS.glob("animals-*")):
        run = open_run(path)
        assert run.digest in entries, f"{run.name} was trained anew: run docs/count_photographs.py"
        found = photograph_counts.of_run(run)
        assert found is not None and found.counts is not None and len(found) == len(entries[run.digest]["ids"])
        assert (found.right + found.lost <= found.pixels[:, None]).all()
        assert len(run.classes) == found.pixels.shape[1] != len(CLASSES)


@pytest.mark.parametrize("path", sorted(p for p in CHECKPOINTS.iterdir() if (p / "survey.json").exists()))
def test_the_surveys_that_ship_count_picture_by_picture(path):
    found = open_survey(open_run(path))
    assert found.pictures is not None and not found.faults
    np.testing.assert_array_equal(found.pictures.confusions(), found.confusion)


def test_what_several_processes_counted_is_what_one_counts():
    rng = np.random.default_rng(0)
    maps, trues = rng.integers(0, 3, (4, 2, 5, 5)).astype(np.uint8), rng.integers(0, 3, (4, 5, 5)).astype(np.uint8)
    whole, *apart = (PictureCounter(4, 2, 3) for _ in range(3))
    for place in range(4):
        for counter in (whole, apart[place % 2]):
            counter.add(place, maps[place], trues[place])
            counter.add_confidence(place, 1, np.full((5, 5), 0.1 * place), trues[place])
    apart[0].take(tuple(apart))
    one, joined = whole.counts(), apart[0].counts()
    for name in ("rows", "moves", "moved", "confidence"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(one, name))


def test_forgetting_counts_on_the_part(app, pictures, root, monkeypatch):
    some = np.arange(8) < 3
    at = AppTest.from_string(OVERVIEW.replace("overview", "forgetting"), default_timeout=100)
    at.query_params["run"], at.query_params["class"] = "away", "building"
    at.query_params["pictures"] = measured_on.encode(pictures, some)
    at.run()
    assert not at.exception and "measured on **3 of 8 validation pictures**" in text(at)
    assert "IoU of building on the 3 of 8 validation pictures" in text(at)


def test_losses_of_a_part_are_those_of_its_pictures(root, pictures):
    from dashboard.app_pages.forgetting.fates import losses_of

    some = np.arange(8) < 3
    found = losses_of(measured_on.MeasuredOn(pictures, pictures.counts, some))
    np.testing.assert_array_equal(found.pixels, pictures.pixels[:3].sum(0))
    np.testing.assert_array_equal(found.lost, pictures.lost[:3].sum(0))
    np.testing.assert_array_equal(np.diagonal(found.confusions, axis1=1, axis2=2), pictures.right[:3].sum(0))
    assert found.flows(0).sum((1, 2)).tolist() == [found.pixels[0]] * 2


@pytest.mark.parametrize(("right", "word"), [(850, "kept"), (500, "weakened"), (400, "lost"), (0, "lost")])
def test_class_fates_follow_the_rules_of_why(right, word):
    """900 of 1000 pixels were right when the class was introduced; the lost ones go to the new class."""
    labels = LabelSpace(((0, 1), (2,)), background=None, unknown=True)
    first = np.array([[900, 100, 0], [0, 1000, 0], [1000, 0, 0]])
    second = np.array([[right, 0, 1000 - right], [0, 1000, 0], [0, 990, 10]])
    found = class_fates(np.stack([first, second]), labels, 1)
    assert [one.word for one in found] == [word, "kept", "never learned"]
    assert found[0].start == pytest.approx(0.9) and found[0].now == pytest.approx(right / 1000)
    assert [one.word for one in class_fates(np.stack([first, second]), labels, 0)] == ["new", "new", "to come"]


@pytest.mark.parametrize(("right", "word"), [(4, "learned later"), (60, "kept")])
def test_a_class_that_is_learned_by_a_later_step_was_not_kept(right, word):
    """`right` of 1000 pixels were right when the class was introduced, 76 are at the step after it."""
    labels = LabelSpace(((0, 1), (2,)), background=None, unknown=True)
    first = np.array([[right, 1000 - right, 0], [0, 1000, 0], [1000, 0, 0]])
    second = np.array([[76, 924, 0], [0, 1000, 0], [0, 0, 1000]])
    assert class_fates(np.stack([first, second]), labels, 1)[0].word == word
