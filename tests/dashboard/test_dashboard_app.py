"""The app without a browser: what it opens on, how it takes links, what it does with broken things."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from small_runs import CLASSES, write_lost, write_run
from streamlit.testing.v1 import AppTest

from dashboard import page
from dashboard.app_pages.overview import scores
from dashboard.cache import loaders
from dashboard.cache.memory_cache import SHELF
from dashboard.state import selection
from lag_core import metrics
from lag_core.data import pictures
from lag_core.runs import open_run

OVERVIEW = "from dashboard.app import main; main(default='overview')"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with three runs, one of them with a warning, and two damaged ones."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root, "aerial-2-2-1-finetune", kept=0.15)
    write_run(root, "aerial-2-2-1-reference", method="reference", kept=0.9)
    write_run(root, "z-lag", method="lag", kept=0.8, warnings=["Term **spm** has no gradient"], measured=False)
    for name, text in (("newer", '{"schema": 99}'), ("torn", '{"schema"')):
        (root / name).mkdir()
        (root / name / "run.json").write_text(text)
    return root


@pytest.fixture
def app(runs, monkeypatch):
    """The app on these runs, not yet run."""
    monkeypatch.setenv("LAG_RUNS", str(runs))
    monkeypatch.delenv("LAG_DATA", raising=False)
    return AppTest.from_string(OVERVIEW, default_timeout=60)


def by_key(elements, key):
    return next(e for e in elements if e.key == key)


def metric(at, label):
    return next(m for m in at.metric if m.label == label)


def said(at):
    return " ".join(t.value for t in at.toast)


def test_opens_on_the_run_that_forgets_without_a_click(app):
    at = app.run()
    assert not at.exception and not at.error and not said(at)
    assert at.session_state["run"] == "aerial-2-2-1-finetune"
    assert at.session_state["run2"] == "aerial-2-2-1-reference"
    assert at.session_state["step"] == 2
    assert at.session_state["class"] == "building", "the class that lost most"
    assert at.session_state["image"] == "rgb-val-0000"


def test_headline_numbers_are_those_of_the_metrics(app, runs):
    at = app.run()
    run = open_run(runs / "aerial-2-2-1-finetune")
    matrices = run.confusions()
    summary = metrics.summary(matrices[2], run.labels, 2)
    ious = metrics.iou_matrix(matrices, run.labels)
    other = open_run(runs / "aerial-2-2-1-reference").confusions()
    other_old = metrics.summary(other[2], run.labels, 2).old_without_background
    fixed = metrics.forgetting_fixed(matrices, run.labels)
    assert metric(at, "Old").value == f"{100 * summary.old_without_background:.1f}"
    assert metric(at, "Forgetting").value == f"{100 * metrics.mean(fixed):.1f}"
    assert metric(at, "BWT").value == f"{100 * metrics.bwt_fixed(matrices, run.labels):.1f}"
    captions = [c.value for c in at.caption]
    assert f"as in the papers {100 * metrics.mean_forgetting(ious):.1f}" in captions
    assert f"as in the papers {100 * metrics.bwt(ious):.1f}" in captions
    assert metric(at, "Old").delta == f"{100 * (summary.old_without_background - other_old):+.1f}"


def test_every_page_value_comes_from_the_link(app):
    app.query_params.update({"run": "aerial-2-2-1-reference", "step": "1", "class": "tree", "image": "irrg-val-0003"})
    at = app.run()
    state_ = at.session_state
    assert (state_["run"], state_["step"], state_["class"], state_["image"]) == (
        "aerial-2-2-1-reference", 1, "tree", "irrg-val-0003",
    )  # fmt: skip
    assert not said(at)
    assert at.query_params["step"] == "1" and at.query_params["class"] == "tree"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", "../../etc/passwd"),
        ("run", "torn"),
        ("run2", "<script>alert(1)</script>"),
        ("step", "7"),
        ("step", "-1"),
        ("step", "nan"),
        ("step", "1e999"),
        ("step", "0.5"),
        ("class", "nobody"),
        ("image", "/etc/passwd"),
        ("image", "upload:0123456789abcdef"),
        ("domain", "x" * 5000),
        ("pair", "9-9"),
        ("format", "exe"),
    ],
)
def test_a_hostile_link_falls_back_with_a_sentence(app, key, value):
    app.query_params[key] = value
    at = app.run()
    assert not at.exception and not at.error
    assert "The link" in said(at) and "<script>" not in said(at)
    assert key not in at.query_params, "the link is mended"
    at.run()
    assert not said(at), "said once"


def test_buttons_move_the_one_scrubber_and_the_numbers(app):
    at = app.run()
    last = metric(at, "Old").value
    by_key(at.button, "step.back").click().run()
    assert at.session_state["step"] == 1 and at.query_params["step"] == "1"
    assert metric(at, "Old").value != last
    by_key(at.button, "step.back").click().run()
    assert at.session_state["step"] == 0 and by_key(at.button, "step.back").disabled
    by_key(at.button, "step.next").click().run()
    by_key(at.button, "step.next").click().run()
    assert by_key(at.button, "step.next").disabled and metric(at, "Old").value == last
    assert "step" not in at.query_params, "the default is not in the link"


def test_play_starts_over_at_the_end_and_pauses(app):
    at = app.run()
    by_key(at.button, "step.play").click().run()
    assert at.session_state["step"] == 0 and by_key(at.button, "step.play").label == "Pause"
    by_key(at.button, "step.play").click().run()
    assert by_key(at.button, "step.play").label == "Play"


def test_choosing_a_run_keeps_what_it_also_has(app):
    at = app.run()
    by_key(at.selectbox, "class").select("tree").run()
    by_key(at.selectbox, "run").select("aerial-2-2-1-reference").run()
    assert at.session_state["class"] == "tree" and not said(at)
    assert at.session_state["run2"] != "aerial-2-2-1-reference", "a run is not compared with itself"


def test_who_opens_the_compared_run_sees_the_two_change_places(app):
    at = app.run()
    run, compared = at.session_state["run"], at.session_state["run2"]
    by_key(at.selectbox, "run").select(compared).run()
    assert (at.session_state["run"], at.session_state["run2"]) == (compared, run)


def test_damaged_runs_are_listed_and_stop_nothing(app):
    at = app.run()
    listed = " ".join(m.value for m in at.sidebar.markdown)
    assert "torn" in listed and "newer" in listed and "schema 99" in listed
    assert "newer" not in by_key(at.selectbox, "run").options


def test_a_run_that_was_not_evaluated_says_so_and_its_warning_is_literal(app):
    app.query_params["run"] = "z-lag"
    at = app.run()
    assert not at.exception and not at.error
    assert any("lag evaluate" in i.value for i in at.info)
    assert any(r"\*\*spm\*\*" in w.value for w in at.warning)


def test_damaged_metrics_are_a_sentence(app, runs, tmp_path, monkeypatch):
    path = write_run(tmp_path, "bad-metrics")
    (path / "metrics.json").write_text('{"schema": 1, "steps": [{"confusion": [[1]]}]}')
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert not at.exception
    assert any("damaged" in w.value for w in at.warning)


def test_no_runs_says_what_to_do(app, tmp_path, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(tmp_path / "nothing"))
    at = app.run()
    assert not at.exception
    assert any("No run" in m.value for m in at.markdown)
    assert any("lag_core train" in c.value for c in at.code)


@pytest.fixture
def named(runs, tmp_path, monkeypatch):
    """A session of an app without runs, in which somebody named a folder that holds some."""
    monkeypatch.setenv("LAG_RUNS", str(tmp_path / "nothing"))
    monkeypatch.setenv("LAG_DATA_ROOT", "on")
    st.cache_resource.clear()
    at = AppTest.from_string(OVERVIEW, default_timeout=60).run()
    yield by_key(at.text_input, "no-runs-folder").set_value(str(runs)).run()
    st.cache_resource.clear()


def test_overview_lists_the_runs_of_a_folder_that_was_named(named):
    (table,) = [one.value for one in named.dataframe if "method" in one.value]
    assert list(table["run"]) == ["aerial-2-2-1-finetune", "aerial-2-2-1-reference", "z-lag"]


def test_a_folder_that_was_named_is_open_in_the_next_session(named):
    again = AppTest.from_string(OVERVIEW, default_timeout=60).run()
    assert by_key(again.selectbox, "run").value == by_key(named.selectbox, "run").value


def test_where_others_reach_the_server_a_folder_stays_with_its_session(named, monkeypatch):
    monkeypatch.setenv("LAG_DATA_ROOT", "off")
    stranger = AppTest.from_string(OVERVIEW, default_timeout=60).run()
    assert not stranger.selectbox and any("No run" in m.value for m in stranger.markdown)


def test_names_from_a_run_are_never_markdown(app, tmp_path, monkeypatch):
    evil = "![x](http://evil.example/x.png) <b>"
    write_run(tmp_path, "evil", classes=[{**c, "name": f"{evil}{c['id']}"} for c in CLASSES], kept=0.1)
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert not at.exception and not at.error
    for element in [*at.markdown, *at.caption, *at.info, *at.warning]:
        assert "![x](" not in element.value


def png(size=(40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), 77, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_upload_becomes_the_image_of_this_session_alone(app, runs):
    at = app.run()
    by_key(at.file_uploader, "upload").set_value(("mine.png", png(), "image/png")).run()
    assert not at.exception and at.session_state["image"].startswith(loaders.UPLOAD)
    stranger = AppTest.from_string(OVERVIEW, default_timeout=60)
    stranger.query_params["image"] = at.session_state["image"]
    stranger.run()
    assert stranger.session_state["image"] == "rgb-val-0000" and "not here" in said(stranger)


def test_an_upload_that_is_no_picture_is_a_sentence(app):
    at = app.run()
    by_key(at.file_uploader, "upload").set_value(("evil.png", b"GIF89a" + b"\0" * 100, "image/png")).run()
    assert not at.exception and not at.error
    assert "not a readable picture" in said(at)
    assert at.session_state["image"] == "rgb-val-0000"


def test_an_upload_has_the_name_of_its_file(app):
    at = app.run()
    for name, size in (("my dog.jpg", 40), ("other.png", 41), ("my dog.jpg", 42)):
        by_key(at.file_uploader, "upload").set_value((name, png((size, 30)), "image/png")).run()
    assert not at.exception and not at.error
    again, other, first = by_key(at.selectbox, "image").options[:3]
    assert other == "other.png"
    assert again != first and all(re.fullmatch(r"my dog\.jpg [0-9a-f]{4}", one) for one in (again, first))


def test_a_hostile_file_name_is_one_short_line(app):
    at = app.run()
    hostile = "<b>\u202e" + "x\n" * 200 + ".png"
    by_key(at.file_uploader, "upload").set_value((hostile, png((40, 30)), "image/png")).run()
    assert not at.exception and not at.error
    (kept,) = at.session_state["_uploads"].values()
    assert len(kept.name) == loaders.NAME_LENGTH and "\u202e" not in kept.name and "\n" not in kept.name


def test_a_huge_upload_is_scaled_down(app):
    at = app.run()
    by_key(at.file_uploader, "upload").set_value(("wide.png", png((3000, 10)), "image/png")).run()
    (kept,) = at.session_state["_uploads"].values()
    assert kept.pixels.shape == (7, 2048, 3) and kept.full_size == (3000, 10)
    assert "scaled down from 3000 x 10 to 2048 x 7 pixels" in said(at)


@pytest.mark.parametrize(
    ("size", "wanted"), [((2000, 2000), (1448, 1448)), ((100, 80), (100, 80)), ((9, 4096), (4, 2048))]
)
def test_pictures_are_scaled_by_side_and_by_area(size, wanted):
    found = pictures.scaled_down(np.full((size[1], size[0], 3), 9, np.uint8))
    assert found.shape == (wanted[1], wanted[0], 3) and (found == 9).all()


def test_a_large_picture_of_a_dataset_is_scaled_down_with_its_truth(runs, monkeypatch):
    run = open_run(runs / "aerial-2-2-1-finetune")
    dataset = run.open_dataset(None)
    monkeypatch.setattr(pictures, "MOST_PIXELS", dataset.image("rgb-val-0003")[..., 0].size // 4)
    SHELF.clear()
    found = loaders.picture(run, "", "rgb-val-0003")
    full = dataset.mask("rgb-val-0003")
    assert found.full_size == full.shape[::-1] and found.pixels.shape[0] == full.shape[0] // 2
    assert (found.truth == loaders.class_indices(full, run.labels)[1::2, 1::2]).all()
    SHELF.clear()


def test_images_that_lost_most_come_first(app, tmp_path, monkeypatch):
    path = write_run(tmp_path, "surveyed")
    write_lost(path, {"rgb-val-0004": 10, "irrg-val-0007": 700, "rgb-val-0002": 250})
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    app.query_params["pair"] = "0-1"
    at = app.run()
    assert not at.exception and not at.error
    options = by_key(at.selectbox, "image").options
    assert options[:4] == ["irrg-val-0007", "rgb-val-0002", "rgb-val-0004", "rgb-val-0000"]
    assert len(set(options)) == len(options) == 120
    assert at.session_state["image"] == "irrg-val-0007", "opens on the one that lost most"
    by_key(at.button, "pair-rgb-val-0002").click().run()
    assert at.session_state["image"] == "rgb-val-0002" and at.session_state["class"] == "impervious surface"


def test_missing_data_leaves_overview_whole(app, tmp_path, monkeypatch):
    path = write_run(tmp_path, "elsewhere")
    text = (path / "run.json").read_text()
    text = text.replace('"dataset": "aerial"', '"dataset": "voc"').replace('"root": ""', '"root": "/nowhere"')
    (path / "run.json").write_text(text)
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert not at.exception and not at.error
    assert any("nowhere" in c.value and "data root" in c.value for c in at.sidebar.caption)
    assert metric(at, "Old").value


def test_overview_does_not_import_torch(runs):
    program = (
        "import os, sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"os.environ['LAG_RUNS'] = {str(runs)!r}\n"
        f"at = AppTest.from_string({OVERVIEW!r}, default_timeout=60).run()\n"
        "assert not at.exception and at.metric\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def without_steps(path, status="training"):
    """The run as it is before its first step is finished."""
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"steps": [], "status": status}))
    (path / "metrics.json").unlink()


def test_a_run_is_offered_from_its_beginning_and_opens_with_its_first_step(app, tmp_path, monkeypatch):
    path = write_run(tmp_path, "early")
    whole = {name: (path / name).read_text() for name in ("run.json", "metrics.json")}
    without_steps(path)
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert not at.exception and not at.error and by_key(at.selectbox, "run").options == ["early"]
    assert any("is training its first step" in i.value for i in at.info) and not at.metric
    for name, text in whole.items():
        (path / name).write_text(text)
    at.run()
    assert at.metric and all("lag_core survey" in i.value for i in at.info), "nothing but the missing survey"


def test_a_run_that_ended_before_its_first_step_says_so(app, tmp_path, monkeypatch):
    without_steps(write_run(tmp_path, "a-stopped"), "failed")
    write_run(tmp_path, "whole")
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert at.session_state["run"] == "whole", "it opens on one with something to see"
    assert "a-stopped" not in by_key(at.selectbox, "run2").options
    by_key(at.selectbox, "run").select("a-stopped").run()
    assert any("ended before its first step" in i.value for i in at.info) and not at.exception


def test_a_new_run_appears_without_a_restart(app, runs, tmp_path, monkeypatch):
    write_run(tmp_path, "one")
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert by_key(at.selectbox, "run").options == ["one"]
    write_run(tmp_path, "two")
    at.run()
    assert by_key(at.selectbox, "run").options == ["one", "two"]


@pytest.mark.parametrize("raw", ["inf", "-inf", "nan", "", "0x1", "1" * 50, None, True and "7"])
def test_numbers_are_finite_and_within_range(raw):
    value, message = selection.number(raw, 0, 5, 2, "step")
    assert value == 2 and message


def test_number_takes_its_bounds():
    assert selection.whole("5", 0, 5, 2, "step") == (5, None)
    assert selection.whole("0", 0, 5, 2, "step") == (0, None)
    assert selection.whole(3, 0, 5, 2, "step") == (3, None)


def test_one_changed_pixel_changes_the_digest():
    image = np.zeros((512, 512, 3), np.uint8)
    other = image.copy()
    other[300, 301, 2] = 1
    assert loaders.array_digest(image) != loaders.array_digest(other)
    assert loaders.array_digest(image) != loaders.array_digest(image.reshape(256, 1024, 3))


def test_csv_has_every_number_and_no_formula():
    text = page.to_csv({"class": ["=cmd", 'a,"b'], "iou": [0.5, float("nan")]}).decode()
    assert text == 'class,iou\n\'=cmd,0.5\n"a,""b",\n'


def test_joint_training_is_measured_by_the_task_s_steps(tmp_path):
    """One step that knows every class: old are still the classes of the task's step 0."""
    path = write_run(tmp_path, "joint", method="joint")
    run = open_run(path)
    info = dict(run.info)
    info["labels"] = {**info["labels"], "steps": [list(run.labels.order)]}
    info["steps"] = info["steps"][:1]
    joint = type(run)(path, info)
    matrix = np.diag([10, 20, 30, 40, 50]) + np.array([[0, 5, 0, 0, 0]] + [[0] * 5] * 4)
    (path / "metrics.json").write_text(f'{{"schema": 1, "steps": [{{"confusion": {matrix.tolist()}}}]}}')
    found = scores.scores(joint)
    assert found.summaries[0].old == pytest.approx((10 / 15 + 20 / 25) / 2)
    assert found.summaries[0].new == 1
