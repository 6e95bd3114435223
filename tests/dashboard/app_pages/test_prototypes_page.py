"""The Prototypes page: its maps against the library, its figures as objects, its behaviour without a browser."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_runs import CLASSES, LABELS, write_run
from small_surveys import CHANNELS, add_survey, predictions_of
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.prototypes import figures, page
from dashboard.app_pages.prototypes import maps as prototype_maps
from dashboard.app_pages.prototypes import picture as prototype_picture
from dashboard.picture import predictions
from dashboard.picture.predictions import Answers
from dashboard.ui import design
from dashboard.ui.wording import short
from lag_core.explain import similarity
from lag_core.explain.similarity import Prototypes
from lag_core.protocol import ClassInfo
from lag_core.runs import open_run

INFOS = [ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in CLASSES]
INTRODUCED = [LABELS.step_of(k) for k in range(5)]


def store_prototypes(run, seed=1):
    """Analysis files as training leaves them: the unknown class first, then the classes known so far."""
    rng = np.random.default_rng(seed)
    rows = rng.random((6, CHANNELS)).astype(np.float32)
    for step in range(3):
        channels = LABELS.channels(step)
        arrays = {
            "prototypes.mean": rows[:channels] + (0.1 * step * (np.arange(channels) == 0))[:, None].astype(np.float32),
            "prototypes.count": np.full(channels, 5.0, np.float32),
        }
        save_file(arrays, run.path / f"analysis_{step:02d}.safetensors")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs with measured and stored, with stored only, and without prototypes."""
    root = tmp_path_factory.mktemp("runs")
    for seed, method in enumerate(("finetune", "reference")):
        run = open_run(write_run(root, f"aerial-2-2-1-{method}", method=method))
        add_survey(run, run.open_dataset().ids("val")[:6], seed)
        store_prototypes(run)
    store_prototypes(open_run(write_run(root, "stored-only")))
    write_run(root, "without")
    return root


@pytest.fixture
def run(root):
    return open_run(root / "aerial-2-2-1-finetune")


@pytest.fixture
def motion(run):
    return prototype_maps.motions(run)["measured"]


# ---------------------------------------------------------------------- maps


def test_kinds_are_never_mixed(run, root):
    found = prototype_maps.motions(run)
    assert list(found) == ["measured", "stored"]
    assert np.isfinite(found["measured"].prototypes.mean).all()
    stored = found["stored"].prototypes
    assert not stored.known[0, 2:].any() and np.isnan(stored.spread).all()
    assert np.nanmax(found["stored"].drift.since_introduced) == 0, "kept as they were introduced"
    assert list(prototype_maps.motions(open_run(root / "stored-only"))) == ["stored"]
    assert prototype_maps.motions(open_run(root / "without")) == {}


def fake_trace(run, shape=(20, 28)):
    rng = np.random.default_rng(5)
    latent = rng.random((CHANNELS, 4, 4)).astype(np.float32)
    return SimpleNamespace(run=run, latent=lambda step: latent, square=32, inside=(23, 32), size=shape, steps=range(3))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_nearest_is_the_library_s_one_class_at_a_time(run, motion, step):
    trace, seen = fake_trace(run), LABELS.seen(step)
    found = prototype_maps.nearest_label(trace, step, motion.prototypes.mean[step, :seen], trace.size)
    assert (found == similarity.image_nearest(trace, step, motion.prototypes.mean[step])).all()
    assert len(np.unique(found)) > 1


def test_nearest_without_any_prototype_is_nothing(run):
    trace = fake_trace(run)
    missing = np.full((3, CHANNELS), np.nan, np.float32)
    assert (prototype_maps.nearest_label(trace, 0, missing, trace.size) == 255).all()


# ---------------------------------------------------------------------- figures


def plane(mean, cls=1, step=2, classes=INFOS):
    prototypes = Prototypes(mean, np.zeros(mean.shape[:2]))
    projection = similarity.fit_projection(prototypes)
    found = similarity.paths(prototypes, projection)
    return (
        figures.path_plane(found, projection, classes, INTRODUCED, design.LIGHT, cls=cls, step=step),
        found,
        projection,
    )


def test_paths_lie_where_the_projection_puts_them(motion):
    figure, found, projection = plane(motion.prototypes.mean)
    marks = {t.name: t for t in figure.data if t.name and t.name.startswith("class")}
    for path in found:
        assert np.allclose(marks[f"class {path.cls}"].x, path.points[:, 0])
    assert f"{100 * projection.explained[0]:.0f} % of variance" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.scaleanchor == "x", "a distance is the same in every direction"
    assert sorted(map(tuple, figure.data[-1].customdata)) == [(t, k) for t in range(3) for k in range(5)]
    assert marks["class 4"].marker.color[0] == design.LIGHT.surface, "hollow before it is introduced"
    assert marks["class 4"].marker.color[2] == design.css(INFOS[4].color)
    assert "<b>building</b>" in [a.text for a in figure.layout.annotations]


def test_paths_that_do_not_move_are_drawn(motion):
    still = np.repeat(motion.prototypes.mean[:1, :1], 5, 1).repeat(3, 0)
    figure, _, projection = plane(still)
    assert np.isnan(projection.explained).all() and "%" not in figure.layout.xaxis.title.text
    assert len(figure.layout.annotations) == 1, "one name where all lie on one place"


def test_many_classes_are_narrowed_to_those_that_moved():
    moved = np.linspace(0, 1, 60)
    moved[7] = np.nan
    kept = figures.chosen_classes(moved, 7)
    assert len(kept) == figures.MOST_LINES and 7 in kept and set(range(37, 60)) <= set(kept)
    assert figures.chosen_classes(moved[:5], 1) == [0, 1, 2, 3, 4]


def test_the_selected_class_is_heavy_and_last_and_the_compared_run_dotted():
    values = np.array([0.0, 0.1, 0.2])
    series = [figures.Series(1, values, ["a"] * 3), figures.Series(0, values, ["b"] * 3),
              figures.Series(1, values * 2, ["c"] * 3, dotted=True)]  # fmt: skip
    figure = figures.over_steps(series, INFOS, design.LIGHT, cls=1, step=1, steps=3, y="d")
    named = [t for t in figure.data if t.name and "class" in t.name]
    assert [t.name for t in named] == ["class 0", "compared class 1", "class 1"]
    assert named[1].line.dash == "dot" and named[2].line.width > named[0].line.width
    assert [tuple(d) for d in figure.data[-1].customdata] == [(t, k) for k in (0, 1, 1) for t in range(3)]


@pytest.mark.parametrize(
    ("smallest", "low"), [(-0.33, -0.4), (0.42, 0.4), (0.93, 0.93), (0.9953, 0.995), (0.99992, 0.9999), (1.0, 0.9999)]
)
def test_colours_begin_below_the_smallest_cosine(smallest, low):
    assert figures.lowest(np.array([[1.0, smallest], [np.nan, 1.0]])) == pytest.approx(low)


def test_cosine_matrix_writes_cosines_and_colours_their_range():
    cosines = np.array([[1.0, 0.5], [-0.25, np.nan]])
    hover = [["a", "b"], ["c", "d"]]
    figure = figures.cosine_matrix(
        cosines, ["x", "y"], ["x", "y"], hover, design.DARK, row=1, data=[(0, 0), (0, 0), (0, 1), (0, 1)]
    )
    assert list(figure.data[1].text) == ["1", ".50", "-.25"]
    assert figure.data[0].z[0][0] == 1 and figure.data[0].z[1][0] == pytest.approx(0.05 / 1.3)
    clicks = zip(figure.data[-1].x, figure.data[-1].y, figure.data[-1].customdata, strict=True)
    assert all(tuple(d) == (0, y) for _, y, d in clicks)
    assert (figures.cosine_matrix(np.full((1, 1), np.nan), ["x"], ["x"], [["a"]], design.DARK)).data


def test_map_colours_follow_the_ramp():
    rgba = design.colours(np.array([[0.0, 0.5], [1.0, 9.0]]), 0, 1, design.LIGHT.ramp)
    assert tuple(rgba[0, 0, :3]) == design.rgb(design.LIGHT.ramp[0])
    assert tuple(rgba[1, 0]) == (*design.rgb(design.LIGHT.ramp[-1]), 255) == tuple(rgba[1, 1])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.3141, "0.31"), (0.0123, "0.012"), (-0.05, "−0.050"), (0.0, "0"), (2e-5, "0.00002"), (1.5, "1.50")],
)
def test_short_numbers(value, text):
    assert short(value).rstrip("0") == text.rstrip("0") or short(value) == text


# ---------------------------------------------------------------------- the page


def fake_answers(run, picture, space=None):
    seen = predictions.shown(space or run, picture)
    maps = predictions_of(seen.truth, run, 0.5)
    return Answers(tuple(maps), tuple(np.zeros((2, 2, 5), np.uint8) for _ in maps))


def open_page():
    from dashboard.app import main

    main(default="prototypes")


@pytest.fixture
def app(root, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(root))
    monkeypatch.delenv("LAG_DATA", raising=False)
    monkeypatch.setattr(predictions, "answers", fake_answers)
    monkeypatch.setattr(
        predictions, "answers_at", lambda run, picture, steps, space=None: fake_answers(run, picture, space)
    )
    monkeypatch.setattr(
        prototype_maps.loaders,
        "trace",
        lambda run, picture: fake_trace(run, picture.pixels.shape[:2]),
    )
    return AppTest.from_function(open_page, default_timeout=60)


def texts(at):
    return [e.value for e in [*at.main.markdown, *at.main.caption]]


def headline(at):
    return next(t for t in texts(at) if "**building**" in t)


def test_the_answer_is_the_drift_and_the_margin(app, motion):
    at = app.run()
    assert not at.exception and not at.error and not at.warning and not at.info
    drift, margins = motion.drift.since_introduced, motion.margins
    assert f"moved by **{short(drift[2, 1])}**" in headline(at)
    assert f"{drift[2, 1] / 0.05:.1f} times" in headline(at)
    nearest = CLASSES[margins.nearest[2, 1]]["name"]
    assert f"nearest class is **{nearest}**, at {short(margins.distance[2, 1])}" in headline(at)
    assert ("overlap" in headline(at)) == (margins.margin[2, 1] < 0)
    assert "reference it moved by" in headline(at)


def test_rank_among_older_classes(app, motion):
    at = app.run()
    drift = motion.drift.since_introduced[2, :4]
    rank = int((drift > drift[1]).sum()) + 1
    words = {1: "the most", 2: "second most", 3: "third most", 4: "4th most"}[rank]
    assert f"{words} of the 4 older classes" in headline(at)


def test_a_step_back_changes_the_answer(app):
    at = app.run()
    next(b for b in at.button if b.key == "step.back").click().run()
    assert "From step 0 to 1" in headline(at)
    next(b for b in at.button if b.key == "step.back").click().run()
    assert "its path begins here" in headline(at)


def test_stored_ones_say_that_they_do_not_move(app):
    app.query_params["prototypes"] = "stored"
    at = app.run()
    assert not at.exception and not at.error
    assert "do not move" in headline(at) and "lag_core survey" in headline(at)
    assert any("0 by construction" in i.value for i in at.info)


def test_a_run_with_stored_prototypes_alone_says_which(app):
    app.query_params["run"] = "stored-only"
    at = app.run()
    assert not at.exception and not at.error
    assert any("stored by training" in t for t in texts(at))
    assert "prototypes" not in [w.key for w in at.main if getattr(w, "key", None)]


def test_a_run_without_prototypes_names_the_command(app):
    app.query_params["run"] = "without"
    at = app.run()
    assert not at.exception and not at.error
    assert any("lag_core survey" in i.value for i in at.info)


@pytest.mark.parametrize("columns", ["0", "1", "own"])
def test_the_matrix_takes_other_columns(app, columns):
    app.query_params["cosine-columns"] = columns
    at = app.run()
    assert not at.exception and not at.error and not at.info and not at.toast


@pytest.mark.parametrize(
    ("key", "value"),
    [("prototypes", "<b>"), ("cosine-columns", "9"), ("nearest-beside", "x" * 999), ("pixel", "nan")],
)
def test_a_hostile_link_falls_back(app, key, value):
    app.query_params[key] = value
    at = app.run()
    assert not at.exception and not at.error
    assert any("The link" in t.value for t in at.toast)


def test_what_the_two_maps_mean():
    assert "latent map still tells" in prototype_picture._meaning(0.7, 0.1)
    assert "neither" in prototype_picture._meaning(0.1, 0.05)
    assert "direction alone" in prototype_picture._meaning(0.1, 0.6)
    assert prototype_picture._meaning(0.8, 0.75) == ""


def test_the_numbers_of_the_table(run, motion):
    table = page._class_table(run, motion, 1)
    assert table["class"] == [c["name"] for c in CLASSES[:4]]
    assert table["drift"] == pytest.approx(list(motion.drift.since_introduced[1, :4]))
    stored = page._class_table(run, prototype_maps.motions(run)["stored"], 1)
    assert "drift" not in stored and "to unknown" in stored
