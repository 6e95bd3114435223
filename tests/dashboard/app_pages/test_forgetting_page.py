"""The Forgetting page: its counts against slow ones, its figures as objects, its behaviour without a browser."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import CLASSES, LABELS, write_run
from small_surveys import add_survey, predictions_of
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.forgetting import fates, figures, page
from dashboard.app_pages.forgetting import words as fate_words
from dashboard.cache import loaders
from dashboard.cache.memory_cache import SHELF
from dashboard.picture import predictions as exhibit
from dashboard.picture.predictions import Answers
from dashboard.ui import design
from lag_core.explain.forgetting import Fate
from lag_core.protocol import IGNORE, ClassInfo
from lag_core.runs import open_run

INFOS = [ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in CLASSES]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two runs with surveys, and one without."""
    root = tmp_path_factory.mktemp("runs")
    for name, kept in (("aerial-2-2-1-finetune", 0.5), ("aerial-2-2-1-reference", 0.9)):
        run = open_run(write_run(root, name, method=name.split("-")[-1], kept=kept))
        add_survey(run, run.open_dataset().ids("val")[:20], kept=kept)
    write_run(root, "bare")
    return root


@pytest.fixture
def run(root):
    return open_run(root / "aerial-2-2-1-finetune")


@pytest.fixture
def story(run):
    """A random picture with some pixels that are not annotated."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 5, (12, 10)).astype(np.uint8)
    truth[:2, :2] = IGNORE
    maps = predictions_of(truth, run)
    maps[2, 6:, :3] = truth[6:, :3]
    return fates.Story(truth, maps, fates.follow(maps, truth, run), fates.count_picture(maps, truth, run))


def slow_loss(story, step, cls):
    """(pixels, once right, forgotten, lost at the step) of a class, pixel by pixel."""
    found = [0, 0, 0, 0]
    for y, x in np.ndindex(story.truth.shape):
        if story.truth[y, x] != cls:
            continue
        found[0] += 1
        right = [story.predictions[t, y, x] == cls and t >= LABELS.step_of(cls) for t in range(step + 1)]
        found[1] += any(right)
        if any(right) and not right[-1]:
            found[2] += 1
            found[3] += right[step - 1]
    return tuple(found)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("cls", range(5))
def test_class_loss_counts_pixel_by_pixel(story, step, cls):
    found = fate_words.class_loss(story, step, cls)
    assert (found.pixels, found.once_right, found.forgotten, found.lost_now) == slow_loss(story, step, cls)
    assert (found.target is None) == (found.forgotten == 0)
    if found.target is not None:
        assert found.target != cls and 0 < found.target_share <= 1


def test_the_sentence_follows_from_the_numbers(story, run):
    found = fate_words.class_loss(story, 1, 1)
    sentence = fate_words.loss_sentence(found, run, 1, 1)
    assert f"{100 * found.lost_now / found.pixels:.0f} %" in sentence
    assert sentence.startswith("At step 1") and "all went to **low vegetation**" in sentence
    again = fate_words.loss_sentence(fate_words.class_loss(story, 2, 1), run, 1, 2)
    assert again.startswith("Step 2 lost no more") and "before, at step 1" in again
    assert "introduces **car**" in fate_words.loss_sentence(fate_words.class_loss(story, 2, 4), run, 4, 2)
    assert "introduced at step 2" in fate_words.loss_sentence(fate_words.class_loss(story, 1, 4), run, 4, 1)
    nowhere = fate_words.ClassLoss(0, 0, 0, 0, None, float("nan"), -1, float("nan"))
    assert fate_words.loss_sentence(nowhere, run, 1, 2).startswith("There is no **building**")
    kept = fate_words.ClassLoss(10, 4, 0, 0, None, float("nan"), -1, float("nan"))
    sentence = fate_words.loss_sentence(kept, run, 1, 2)
    assert sentence == "After step 2, no **building** pixel of this picture is lost, but only **40 %** were ever right."


def test_a_loss_stands_beside_the_share_that_was_ever_right(story, run):
    lost = fate_words.ClassLoss(100, 72, 72, 72, 4, 1.0, 2, 1.0)
    assert "**72 %** of the **building** pixels of this picture were lost (72 % were ever right)" in (
        fate_words.loss_sentence(lost, run, 1, 2)
    )
    assert (
        fate_words.compared_sentence(lost, "other") == "In other, 72 % were ever right and **72 %** are lost by then."
    )
    never = fate_words.ClassLoss(10, 0, 0, 0, None, float("nan"), -1, float("nan"))
    assert fate_words.compared_sentence(never, "other") == "In other, none was ever right."
    new = fate_words.loss_sentence(fate_words.ClassLoss(100, 2, 0, 0, None, float("nan"), -1, float("nan")), run, 4, 2)
    assert "2.0 % of its pixels are right" in new


def test_where_nothing_was_ever_right_nothing_is_said_to_be_kept(story, run):
    never = fate_words.ClassLoss(10, 0, 0, 0, None, float("nan"), -1, float("nan"))
    sentence = fate_words.loss_sentence(never, run, 1, 2)
    assert sentence.startswith("No **building** pixel of this picture was ever right") and "none of" not in sentence


def test_a_pixel_s_history_names_each_event_once(story, run):
    for y, x in np.ndindex(story.truth.shape):
        words = fate_words.pixel_history(story, run, (x, y), 2)
        states = [int(states[y, x]) for states in story.fates.states]
        assert (Fate.LEARNED in states) == ("learned at step" in words)
        assert (Fate.RECOVERED in states) == ("recovered at step" in words)
        assert words.count("lost at step") == sum(
            b == Fate.FORGOTTEN and a != Fate.FORGOTTEN for a, b in zip([Fate.ABSENT, *states], states, strict=False)
        )
    assert fate_words.pixel_history(story, run, (0, 0), 2) == " is not annotated."


def test_still_lost_is_only_what_is_forgotten_now(story):
    for t in range(3):
        forgotten = story.fates.states[t] == Fate.FORGOTTEN
        assert ((story.fates.still_lost_at(t) >= 0) == forgotten).all()
        assert ((story.fates.still_lost_to(t) != IGNORE) == forgotten).all()


def test_counts_of_a_compared_run_are_put_in_order(story, run):
    reordered = np.array([3, 1, 4, 0, 2])

    class Other:
        labels = type("L", (), {"index_of": staticmethod(lambda i: int(reordered[LABELS.index_of(i)]))})

    found = fates.in_order_of(story.losses, run, Other())
    for k in range(5):
        assert found.pixels[k] == story.losses.pixels[reordered[k]]
        assert (found.lost[:, k] == story.losses.lost[:, reordered[k]]).all()
        for j in range(5):
            mine = story.losses.confusions[:, reordered[k], reordered[j]]
            assert (found.confusions[:, k, j] == mine).all()
    a, b = found.flows(2), story.losses.flows(4)
    assert a[1, 0, 1] == b[1, 3, 1] and a.sum() == b.sum()


def test_background_shift_sums_old_classes(story, run):
    shares = fates.shift_of(story.losses, run, None)
    assert np.isnan(shares[0]).all() and np.allclose(shares[1:].sum(1), 1)
    mine = story.truth < 2
    assert shares[1, 0] == pytest.approx((story.predictions[1] == story.truth)[mine].mean())
    assert shares[1, 2] == pytest.approx(np.isin(story.predictions[1][mine], (2, 3)).mean())


def test_flows_without_truth_count_every_pixel(story):
    flows = fates.flows_of_all(story.predictions, 5)
    assert flows.shape == (2, 5, 5) and (flows.sum((1, 2)) == story.truth.size).all()
    assert fates.flows_of_all(story.predictions[:1], 5).shape == (0, 5, 5)


# ---------------------------------------------------------------------- figures


def test_sankey_keeps_every_pixel_and_its_colour_says_what_it_is(story):
    flows = story.losses.flows(1)
    figure = figures.flow_diagram([("a", flows), ("b <b>", flows)], INFOS, design.LIGHT, cls=1, step=2, height=600)
    assert len(figure.data) == 2
    link, node = figure.data[0].link, figure.data[0].node
    assert sum(link.value) == 2 * story.losses.pixels[1]
    lost = [v for v, c in zip(link.value, link.color, strict=True) if c.startswith("rgba(213,94,0")]
    assert sum(lost) == flows[:, 1].sum() - flows[:, 1, 1].sum()
    assert all(0 < v < 1 for v in [*node.x, *node.y])
    texts = [a.text for a in figure.layout.annotations]
    assert "<b>step 2</b>" in texts and "b &lt;b&gt;" in texts


def test_sankey_columns_merge_small_classes_and_lose_none():
    flows = np.zeros((1, 4, 4), np.int64)
    flows[0] = [[900, 10, 0, 0], [0, 60, 15, 0], [0, 0, 0, 15], [0, 0, 0, 0]]
    columns = figures.columns_of(flows, 1)
    assert [n.cls for n in columns[0]] == [1, 0, figures.OTHERS]
    assert [sum(n.pixels for n in c) for c in columns] == [1000, 1000]


def test_nodes_of_a_column_do_not_overlap(story):
    columns = figures.columns_of(story.losses.flows(0), 0)
    total, high = int(story.losses.pixels[0]), 250.0
    middles = iter(figures._heights(columns, total, high))
    scale = (1 - (max(map(len, columns)) - 1) * figures.GAP / high) / total
    for column in columns:
        spans = [(m - n.pixels * scale / 2, m + n.pixels * scale / 2) for n, m in zip(column, middles, strict=False)]
        assert all(b[0] - a[1] > 0.9 * figures.GAP / high for a, b in pairwise(spans))
        assert spans[-1][1] <= 1.01


def test_lost_matrix_clicks_carry_step_and_class():
    shares = np.array([[0.0, np.nan], [0.25, 0.0]])
    figure = figures.lost_matrix(
        shares, np.array([8, 4]), INFOS[:2], design.DARK, step=1, cls=0, other=shares / 2, other_name="<i>x"
    )
    assert figure.data[0].z[0][1] == 25 and np.isnan(figure.data[0].z[1][0])
    clicks = dict(zip(map(tuple, figure.data[-1].customdata), figure.data[-1].text, strict=True))
    assert "25.0 % of 8 px" in clicks[1, 0] and "&lt;i&gt;x: 12.5 %" in clicks[1, 0]
    assert "nothing" in clicks[0, 1]


def test_shift_bars_stack_to_a_hundred():
    shares = np.array([[np.nan] * 4, [0.5, 0.1, 0.3, 0.1]])
    figure = figures.shift_bars([("a", shares), ("b", shares)], design.LIGHT, step=1)
    assert len(figure.data) == 8 and sum(t.showlegend for t in figure.data) == 4
    top = figure.data[3]
    assert top.base[1] + top.y[1] == pytest.approx(100)
    assert {t.marker.pattern.shape for t in figure.data[4:]} == {"/"}
    assert figure.data[4].marker.pattern.fillmode == "overlay", "else the hatched bars have no ground"
    assert len(figures.shift_bars([("a", shares)], design.LIGHT, step=1, background=False).data) == 3


# ---------------------------------------------------------------------- the page


def fake_answers(run, picture, space=None):
    """Predictions as in `predictions_of`, without a network; noise where there is no truth."""
    space = space or run
    seen = exhibit.shown(space, picture)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, seen.size[::-1]).astype(np.uint8) if seen.truth is None else seen.truth
    table = exhibit.class_table(run, space)
    maps = predictions_of(exhibit.class_table(space, run)[truth], run, 0.5)
    return Answers(tuple(table[m] for m in maps), tuple(np.zeros((2, 2, 5), np.uint8) for _ in maps))


def open_page():
    from dashboard.app import main

    main(default="forgetting")


@pytest.fixture
def app(root, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(root))
    monkeypatch.delenv("LAG_DATA", raising=False)
    monkeypatch.setattr(exhibit, "answers", fake_answers)
    SHELF.clear()
    return AppTest.from_function(open_page, default_timeout=60)


def texts(at):
    return [e.value for e in [*at.main.markdown, *at.main.caption]]


def headline(at):
    return next(t for t in texts(at) if "**building**" in t or "annotation" in t)


def test_opens_with_an_answer(app):
    at = app.run()
    assert not at.exception and not at.error and not at.warning and not at.info
    assert "After" in headline(at) or "step" in headline(at).lower()
    assert "aerial\\-2\\-2\\-1\\-reference" in headline(at)


def test_the_scrubber_moves_the_answer(app):
    at = app.run()
    last = headline(at)
    next(b for b in at.button if b.key == "step.back").click().run()
    assert headline(at) != last and headline(at).startswith("At step 1")
    next(b for b in at.button if b.key == "step.back").click().run()
    assert "introduces **building**" in headline(at)


def test_counting_on_the_validation_set_and_on_one_class(app):
    app.query_params.update({"counted-on": "set", "pixels-of": "class"})
    at = app.run()
    assert not at.exception and not at.error and not at.info
    assert any("in the validation set" in t for t in texts(at))
    assert any("Sorted by lost building pixels" in t for t in texts(at))


def test_images_that_are_not_here_stand_by_name(app, run, monkeypatch):
    monkeypatch.setattr(loaders, "ids_here", lambda run, root: ())
    at = app.run()
    assert not at.exception and not at.error
    assert any("so you see their names" in text for text in texts(at))
    (names,) = [table.value for table in at.dataframe if list(table.value.columns) == ["image", "lost"]]
    assert set(names["image"]) <= set(run.open_dataset().ids("val")) and (names["lost"] > 0).all()


def test_a_run_without_survey_names_the_command(app):
    app.query_params.update({"run": "bare", "counted-on": "set"})
    at = app.run()
    assert not at.exception and not at.error
    assert sum("lag_core survey" in i.value for i in at.info) == 3, "flows, losses and images need it"


@pytest.mark.parametrize(
    ("key", "value"),
    [("counted-on", "<b>"), ("pixels-of", "x" * 999), ("map-beside", "run3"), ("pixel", "1-99999"), ("hidden", "400")],
)  # fmt: skip
def test_a_hostile_link_falls_back(app, key, value):
    app.query_params[key] = value
    at = app.run()
    assert not at.exception and not at.error
    assert any("The link" in t.value for t in at.toast)


def test_a_pixel_in_the_link_is_told(app):
    app.query_params["pixel"] = "3-4"
    at = app.run()
    assert any(c.value.startswith("Pixel 3, 4, in truth") for c in at.main.caption)


def test_an_upload_shows_changes_instead(app):
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), 77, np.uint8)).save(buffer, "PNG")
    at = app.run()
    next(u for u in at.file_uploader if u.key == "upload").set_value(("a.png", buffer.getvalue(), "image/png")).run()
    assert not at.exception and not at.error
    assert "no annotation" in headline(at) and "Step 2 changed" in headline(at)
    assert any("Where predictions changed" in t for t in texts(at))
    assert any("in the validation set" in t for t in texts(at))


def test_names_from_a_run_are_text(app, tmp_path, monkeypatch):
    evil = "![x](http://evil.example/x.png) <b>"
    path = write_run(tmp_path, "evil", classes=[{**c, "name": f"{evil}{c['id']}"} for c in CLASSES])
    run = open_run(path)
    add_survey(run, ["<b>one</b>", "two"])
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = app.run()
    assert not at.exception and not at.error
    said = [*texts(at), *(e.value for e in [*at.info, *at.warning])]
    assert not any("![x](" in t for t in said)
    assert any("is not the one of run evil" in t for t in said), "the pictures are not this run's"


def test_the_files_of_both_pages_import_no_torch():
    program = (
        "import sys\nimport dashboard.app_pages.forgetting.page, dashboard.app_pages.prototypes.page\n"
        "sys.exit('torch' in sys.modules)"
    )
    folder = Path(page.__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=folder).returncode == 0


def test_losses_of_the_survey_are_its_sums(run):
    losses = fates.survey_of(run)
    survey = loaders.survey(run)
    assert (losses.lost == survey.lost.astype(np.int64).sum(0)).all()
    assert losses.flows(0).sum() == 2 * losses.pixels[0]


def test_a_gain_is_not_a_negative_loss() -> None:
    assert page._points(0.0716, 0) == "7.2 points lost" and page._points(0, 0.0716) == "7.2 points gained"
    assert page._points(0.4214, 0.3866) == "3.4 points lost", "42.1 and 38.7 are printed"


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_no_step_has_a_colour_near_that_of_a_fate(share):
    color = np.array(design.on_ramp(design.SINCE, share))
    fates = np.array([design.rgb(one) for one in design.PROVENANCE.values()])
    assert np.abs(fates - color).max(1).min() >= 40


def test_no_page_speaks_of_the_scrubber_or_of_this_image():
    """The slider is called Step, and what is shown is a picture."""
    pages = Path(page.__file__).parents[1]
    mine = ("steps", "forgetting", "channels", "relevance", "prototypes", "training")
    for path in (path for name in mine for path in (pages / name).glob("*.py")):
        text = path.read_text("utf-8")
        assert not [w for w in ("ove the scrubber", "this image", "Lost since") if w in text], path
