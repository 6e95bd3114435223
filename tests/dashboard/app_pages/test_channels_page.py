"""Channels page: figures as objects, the measures against loops, the page without a browser on a tiny trained run."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from shapes import lively_backbone, tiny_run, write_shapes
from small_runs import CLASSES as AERIAL
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.channels import figures, maps
from dashboard.app_pages.channels import page as channels_page
from dashboard.app_pages.channels import scene as channel_scene
from dashboard.cache import loaders
from dashboard.cache.background import BACKGROUND
from dashboard.cache.memory_cache import SHELF
from dashboard.components import in_view
from dashboard.picture import channel_distances, stepwise
from dashboard.ui import design
from dashboard.ui.effect_curves import EffectLine, effect_curves
from lag_core.explain import channels
from lag_core.explain.interventions import ablate
from lag_core.explain.networks import Networks
from lag_core.explain.survey import write_survey
from lag_core.explain.survey_pass import survey
from lag_core.explain.trace import Trace
from lag_core.method.decoupling import Metric
from lag_core.protocol import ClassInfo

torch.set_num_threads(1)

INK = design.LIGHT
CLASSES = [ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in AERIAL]
DISTANCE = np.array([0.3, 0.0, 0.2, 0.1], np.float32)


def traces(figure):
    return {trace.name: trace for trace in figure.data if trace.name}


# Figures


def test_curve_parts_the_sorted_distances_at_the_cut():
    figure = figures.distance_curve(
        channels.split(DISTANCE, 0.5), "KL", INK, channel=0, compared=DISTANCE[:3], name="<b>"
    )
    found = traces(figure)
    np.testing.assert_allclose(found["invariant"].y, [0.0, 0.1])
    np.testing.assert_allclose(found["specific"].y, [0.2, 0.3])
    assert figure.layout.shapes[0].x0 == 50
    assert [int(d[0]) for d in found["cells"].customdata] == [1, 3, 2, 0], "a click names the channel"
    assert found["channel 0"].x[0] == 87.5, "the fourth of four channels"
    np.testing.assert_allclose(found["&lt;b&gt;"].y, [0.0, 0.2, 0.3])


@pytest.mark.parametrize(("rho", "names"), [(0, {"specific"}), (1, {"invariant"})])
def test_curve_with_a_single_group(rho, names):
    found = traces(figures.distance_curve(channels.split(DISTANCE, rho), "KL", INK, channel=2))
    assert {"invariant", "specific"} & set(found) == names


def test_stability_leaves_undefined_steps_out_and_names_chance():
    figure = figures.stability_bars(np.array([0.5, np.nan]), 1 / 3, INK, step=2)
    assert [d[0] for d in traces(figure)["cells"].customdata] == [2]
    assert figure.layout.annotations[0].text == "chance 0.33"


def test_changed_bars_count_pixels():
    before, after = np.array([[0, 0], [1, 2]], np.uint8), np.array([[0, 1], [1, 1]], np.uint8)
    lost, gained = figures.lost_and_gained(before, after, 5)
    assert lost.tolist() == [25, 0, 25, 0, 0] and gained.tolist() == [0, 50, 0, 0, 0]
    found = traces(figures.changed_bars(before, after, CLASSES, INK, truth=before))
    assert [-x for x in found["lost"].x] == [25, 0, 25] and list(found["gained"].x) == [0, 50, 0]
    assert "50 % after" in found["lost"].customdata[0][1]


def test_effects_carry_the_band_and_the_marked_point():
    counts = np.array([0, 1, 2])
    lines = [EffectLine("invariant", "least moved", "#000", np.array([0.0, -1, -5]))]
    band = (np.array([0.0, -2, -3]), np.array([0.0, -1, -2]), np.array([0.0, 0, -1]))
    found = traces(effect_curves(counts, lines, INK, y="points", chosen=("invariant", 2), band=band))
    assert (found["shown"].x[0], found["shown"].y[0]) == (2, -5)
    assert list(found["high"].y) == [0, 0, -1] and list(found["random channels, 90 %"].y) == [0, -2, -3]
    assert "random: -3.0 to -1.0" in found["cells"].text[2]


def test_profile_is_dotted_before_a_class_is_known():
    profiles = np.arange(15.0).reshape(3, 5)
    figure = figures.profile_lines(profiles, CLASSES, [0, 0, 1, 1, 2], INK, cls=2, step=1)
    dashes = {line.line.dash: list(line.x) for line in figure.data if line.name == "class 2"}
    assert dashes == {"dot": [0, 1], "solid": [1, 2]}


def test_tile_has_one_scale_and_keeps_its_proportions():
    entry = channels.gallery(np.zeros((1, 2, 2)), np.ones((1, 2, 2)), [0])[0]
    tile = figures.tile(entry, INK)
    assert tile.shape[0] == figures.TILE_SIDE and tile.shape[1] / tile.shape[0] == pytest.approx(
        figures.TILE_ASPECT, 0.01
    )
    assert tuple(tile[0, 0]) == design.rgb(INK.ramp[0]) and tuple(tile[0, -1]) == design.rgb(INK.ramp[-1])


def test_paint_leaves_unknown_pixels_alone():
    pixels = np.full((1, 2, 3), 100, np.uint8)
    found = figures.painted(pixels, np.array([[0, 255]], np.uint8), np.array([[200, 200, 200]], np.uint8))
    assert found[0, 0, 0] == round(100 + 100 * figures.PAINT_OPACITY) and found[0, 1, 0] == 100


def test_the_background_does_not_darken_the_photograph():
    pixels, palette = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 0, 0], [200, 200, 200]], np.uint8)
    found = figures.painted(pixels, np.array([[0, 1, 254]], np.uint8), palette, background=0)
    assert found[0, 0, 0] == 100 and found[0, 1, 0] > 100 and found[0, 2, 0] != 100
    assert figures.painted(pixels, np.array([[0, 1, 254]], np.uint8), palette)[0, 0, 0] < 100


# Maps and measures


def test_metrics_are_those_of_the_method():
    assert get_args(Metric) == channel_distances.METRICS


def test_counts_grow_from_none_and_hold_the_quarter():
    for total in (1, 2, 8, 32, 128):
        found = maps.counts(total)
        assert found[0] == 0 and max(1, round(total / 4)) in found and list(found) == sorted(set(found))
        assert found[-1] <= total


def test_stability_needs_two_defined_splits():
    rows = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 0, 0], [3, 2, 1, 0]], np.float32)
    np.testing.assert_equal(channel_distances.stability(rows, 0.5), [1.0, np.nan, np.nan])


def test_sides_are_those_that_crossed_the_cut():
    rows = np.array([[0, 1, 2, 3], [0, 2, 1, 3]], np.float32)
    now = channels.split(rows[1], 0.5).invariant
    assert channel_distances.sides(rows, 2, 0.5, now).tolist() == [False, True, True, False]
    assert channel_distances.sides(rows, 1, 0.5, now) is None
    assert channel_distances.sides(np.zeros((2, 4), np.float32), 2, 0.5, now) is None


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run whose extractor moves, with a survey, and one whose extractor is frozen, without."""
    top = tmp_path_factory.mktemp("channels")
    data = write_shapes(top / "data")
    model = {"weights": str(lively_backbone(data, top / "backbone.pt"))}
    faster = {"optim": {"lr_aspp_later": 0.05, "extractor_delay": 0.0, "lr_stage": 0.0}, "model": model}
    moves = tiny_run(data, top / "runs" / "moves", "finetune", **faster)
    write_survey(moves, survey(moves, moves.open_dataset(None), lambda batches, _: batches))
    tiny_run(data, top / "runs" / "z-frozen", "reference")
    return top / "runs"


def test_measures_in_loops(root):
    run = loaders.catalogue(root).runs["moves"]
    dataset = run.open_dataset(None)
    name = dataset.ids("val")[0]
    image = dataset.image(name)
    trace = Trace(Networks(run), image)
    truth = np.array([[run.labels.truth_table()[v] for v in row] for row in dataset.mask(name)], np.uint8)
    step = run.last_step
    measure = maps.PictureMeasure(trace, step, truth)
    changed = ablate(trace.output(step).latent, [0, 3, 5])
    with torch.no_grad():
        logits = trace.networks.steps[step].decode(changed)
    found, before, after = measure(logits), trace.prediction(step), trace.prediction(step, logits)
    pairs = list(zip(truth.ravel(), before.ravel(), after.ravel(), strict=True))
    old = run.labels.seen(step - 1)

    def share(of, where):
        kept = [of(p) for p in pairs if where(p)]
        return sum(kept) / len(kept) if kept else np.nan

    expected = [
        share(lambda p: p[1] != p[2], lambda p: True),
        share(lambda p: p[0] == p[2], lambda p: p[0] < old),
        share(lambda p: p[0] == p[2], lambda p: p[0] < run.labels.seen(step)),
        *(share(lambda p: p[0] == p[2], lambda p, k=k: p[0] == k) for k in range(run.labels.seen(step))),
    ]
    np.testing.assert_allclose(found, expected, equal_nan=True)


def test_tested_are_channels_whose_change_can_do_anything(root):
    """Alive at the step; for a transplant a channel that died counts, too."""
    run = loaders.catalogue(root).runs["moves"]
    picture = loaders.picture(run, loaders.default_data_root(), run.open_dataset(None).ids("val")[0])
    assert picture is not None
    step = run.last_step
    alive = {t: [len(np.unique(m)) > 1 for m in loaders.trace(run, picture).latent(t)] for t in (0, step)}
    off, old = (maps.testable(run, picture, step, how, 0) for how in ("zero", "old"))
    assert off.tolist() == alive[step]
    assert old.tolist() == [a or b for a, b in zip(alive[0], alive[step], strict=True)]


def test_living_channels_are_ranked_first(monkeypatch):
    monkeypatch.setattr(channel_scene, "testable", lambda scene, how: np.array([1, 2, 5]))
    scene = SimpleNamespace(defined=lambda: SimpleNamespace(distance=np.array([0.0, 0.3, 0.1, 0.0, 0.9, 0.2])))
    assert channel_scene.ranked(scene, "invariant", "zero").tolist() == [2, 5, 1, 0, 3, 4]
    assert channel_scene.ranked(scene, "changed", "zero").tolist() == [1, 5, 2, 4, 0, 3]
    assert channel_scene.sizes(scene, "zero") == maps.counts(3)
    assert channel_scene.quarter(scene, "zero") in channel_scene.sizes(scene, "zero")


def test_dead_channels_are_said(monkeypatch):
    scene = SimpleNamespace(run=None, picture=None, pair=channel_distances.Step(0, 1, "validation", "l2"))
    before, now = np.ones(96, bool), np.arange(96) < 26
    for living, said in (
        (channels.Living(before, now), " **70 of 96 channels died at step 1** (on the validation images)."),
        (channels.Living(before, before), ""),
        (None, ""),
    ):
        monkeypatch.setattr(maps, "living", lambda *_, found=living: (found, "on the validation images"))
        assert channels_page._died(scene) == said


def test_a_signed_channel_is_drawn_about_0():
    entry = channels.gallery(np.full((1, 2, 2), -2.0), np.full((1, 2, 2), 1.0), [0])[0]
    tile = figures.tile(entry, INK)
    table = design.ramp_table(INK.ramp, 256)
    assert tuple(tile[0, 0]) == table[0] and tuple(tile[0, -1]) == table[round(0.75 * 255)]
    grey = np.zeros((2, 2, 3), np.uint8)
    low, high = (figures.over_picture(grey, np.full((2, 2), v), 2.0, INK, -2.0) for v in (-2.0, 2.0))
    assert not np.array_equal(low, high)


# The page


def open_page():
    from dashboard import app

    app.main("channels")


@pytest.fixture
def page(root, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(root))
    monkeypatch.delenv("LAG_DATA", raising=False)
    found = AppTest.from_function(open_page, default_timeout=120)
    found.query_params.update({"run": "moves", "run2": "none"})
    return found


def text_of(at):
    return "\n".join(e.value for e in [*at.main.markdown, *at.main.caption])


def test_the_answer_comes_first_and_every_view_is_drawn(page):
    at = page.run()
    assert not at.exception and not at.error and not at.warning and not at.info
    assert "moved most" in text_of(at) and "least moved" in text_of(at)
    assert len(at.get("plotly_chart")) >= 4 and "next to random ones" in text_of(at)
    assert "(p = " in text_of(at), "the effect stands next to random channels"


@pytest.fixture
def in_a_browser(monkeypatch):
    """As with somebody at the other end, on a server that has computed nothing; the random channels wait at a gate."""
    gate, draw = threading.Event(), maps.draw_controls

    def behind_the_gate(asked):
        assert gate.wait(60)
        yield from draw(asked)

    monkeypatch.setattr(stepwise, "waits_for_all", lambda: False)
    monkeypatch.setattr(maps, "draw_controls", behind_the_gate)
    SHELF.clear()
    yield gate
    gate.set()
    BACKGROUND.settle()


def test_a_step_is_drawn_before_its_random_channels(page, in_a_browser):
    """They take seconds: the page stands meanwhile, and is drawn anew when they are there."""
    at = page.run()
    assert not at.exception and not at.error
    assert "Only the random channels show whether that is more than chance" in text_of(at) and "(p = " not in text_of(
        at
    )
    assert len(at.get("progress")) == 1
    in_a_browser.set()
    BACKGROUND.settle()
    at.run()
    assert not at.exception and "(p = " in text_of(at) and not at.get("progress")


def test_what_is_far_below_asks_for_no_random_channels(page, in_a_browser, monkeypatch):
    monkeypatch.setattr(in_view, "is_near", lambda page: False)
    page.query_params["k"] = "4"
    at = page.run()
    assert not at.exception and not at.error and not at.get("progress")
    assert not BACKGROUND._jobs and at.query_params["k"] == "4", "what the link says is not forgotten"


def test_random_channels_are_those_of_the_library(root):
    """In pieces, and next to each other, they are what `curve` measures for each number by itself."""
    from lag_core.explain.interventions import curve

    run = loaders.catalogue(root).runs["moves"]
    picture = loaders.picture(run, "", loaders.image_ids(run, "")[0])
    asked = maps.Change(run, picture, 2, "old", 1, np.arange(8)[::-1], (0, 2, 4))
    assert list(maps.draw_controls(asked))[-1] == 1
    found, trace = maps.known_controls(asked), loaders.trace(run, picture)
    question, draw = maps._intervention(run, trace, 2, "old", 1), maps._fair(trace, 2, "old", 1)
    measure = maps.PictureMeasure(trace, 2, maps.truth_inside(trace, picture))
    for place, k in enumerate(asked.counts):
        alone = curve(question, asked.ranked, (k,), measure, found.controls.shape[1], run.config.optim.seed, draw)
        np.testing.assert_allclose(found.controls[place], alone.controls[0], equal_nan=True)
        np.testing.assert_allclose(found.chosen[place], alone.chosen[0], equal_nan=True)
        np.testing.assert_allclose(found.untouched, alone.untouched, equal_nan=True)
    np.testing.assert_allclose(maps.effect(asked).curve.chosen, found.chosen, equal_nan=True)


def test_stepping_back_and_forth_leads_to_the_same_view(page):
    at = page.run()
    before = dict(at.query_params), text_of(at)
    for step in (1, 2):
        at.slider(key="step.slider").set_value(step).run()
        assert not at.exception
    assert (dict(at.query_params), text_of(at)) == before


def test_a_frozen_extractor_is_said_in_a_sentence(page):
    page.query_params["run"] = "z-frozen"
    at = page.run()
    assert not at.exception and not at.error
    assert "**The extractor did not move**: every channel is the same in both steps" in text_of(at)
    assert any("survey" in i.value for i in at.info), "without a survey, the page says how to get one"


def test_step_0_and_hostile_links(page):
    page.query_params["step"] = "0"
    assert any("Step 0 is the first step, so no channel" in i.value for i in page.run().info)
    page.query_params.update({"step": "2", "channel": "-3", "rho": "nan", "metric": "<b>", "k": "1e9", "since": "7"})
    at = page.run()
    assert not at.exception and not at.error
    assert 0 <= at.session_state["channel"] < 8 and at.session_state["rho"] == 0.5
    assert at.session_state["metric"] == "entropy_kl" and at.session_state["since"] == "1"


def test_settings_of_a_link_hold(page):
    page.query_params.update(
        {"channel": "3", "basis": "image", "metric": "l2", "since": "0", "without": "old", "channels": "specific",
         "sort": "relevance", "question": "lost", "order": "changed", "k": "4", "random": "off", "rho": "0.25"}
    )  # fmt: skip
    at = page.run()
    assert not at.exception and not at.error
    text = text_of(at)
    assert "##### Without channel 3" in text and "From step 0 to 2" in text
    assert "**4 most moved** channels from step 0" in text and "Only the random channels show" in text


def test_another_channel_by_its_number(page):
    page.query_params["channel"] = "3"
    at = page.run()
    at.number_input[0].set_value(5).run()
    assert not at.exception and "##### Without channel 5" in text_of(at)


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_a_class_in_the_colour_of_the_ground_is_seen_all_the_same(ink):
    surface = design.rgb(ink.surface)
    colors = {"background": (0, 0, 0), "cat": (64, 0, 0), "sky": (255, 255, 255)}
    classes = [ClassInfo(i, name, color) for i, (name, color) in enumerate(colors.items())]
    bars = figures.changed_bars(np.array([[0, 1, 2]]), np.array([[1, 2, 0]]), classes, ink)
    lines = figures.profile_lines(np.ones((2, 3)), classes, [0, 0, 0], ink, cls=1, step=1)
    shown = [one for trace in bars.data for one in trace.marker.color or ()]
    shown += [trace.line.color for trace in lines.data if (trace.name or "").startswith("class")]
    assert len(shown) == 9 and all(design.contrast(design.rgb(one), surface) >= 2 for one in shown)


def test_which_set_carries_more_is_a_sentence():
    from dashboard.app_pages.channels import page as channels

    assert channels._switched_off_words(50, 50) == "So both sets carry about as much of the old classes."
    assert channels._switched_off_words(20, 80) == "So here the channels that moved least carry more of them."
