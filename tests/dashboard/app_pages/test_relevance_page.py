"""Relevance page: figures as objects, maps against the library, the page without a browser on a tiny trained run."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from shapes import tiny_run, write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.relevance import checks, figures, maps
from dashboard.app_pages.relevance import page as page_file
from dashboard.app_pages.relevance.maps import Asked, Explained, Refused
from dashboard.app_pages.relevance.scene import middle_pixel
from dashboard.cache import loaders
from dashboard.cache.memory_cache import SHELF
from dashboard.ui import design
from lag_core.explain.attribution import Method, attribute
from lag_core.explain.attribution_checks import Pointing, Randomised
from lag_core.explain.attribution_methods import ATTRIBUTION_METHODS
from lag_core.relevance.lrp import FoldedSegmenter, NotFinite
from lag_core.relevance.target import Target

torch.set_num_threads(1)

INK = design.LIGHT


def traces(figure):
    return {trace.name: trace for trace in figure.data if trace.name}


# Figures


def test_colours_are_signed_and_nothing_is_transparent():
    found = figures.signed(np.array([[-2.0, -1.0, 0.0, 0.5, 1.0]]), 1.0)[0]
    assert found[2, 3] == 0 and found[0, 3] == found[1, 3] == found[4, 3] == 255
    assert tuple(found[1, :3]) == design.rgb(design.DIVERGING[0]) and (found[0] == found[1]).all()
    assert tuple(found[4, :3]) == design.rgb(design.DIVERGING[-1])
    assert 0 < found[3, 3] < 255 and found[3, 2] > found[3, 0], "blue speaks for, more opaque where it is more"


def test_a_scale_leaves_outliers_out_and_is_never_zero():
    values = np.ones((50, 50))
    values[0, 0] = 1e6
    assert figures.scale_of([values, -2 * np.ones((50, 50))]) == 2
    assert figures.scale_of([np.zeros((3, 3))]) == 1 and figures.scale_of([]) == 1
    single = np.zeros((50, 50))
    single[3, 3] = 7
    assert figures.scale_of([single]) == 7, "one cell alone is seen"


def test_bars_show_the_strongest_of_either_step_in_order():
    now, before = np.array([0.1, -3, 2, 0, 0.2]), np.array([0, 0, 0, 9.0, 0])
    assert figures.strongest([now, before], 3).tolist() == [2, 3, 1]
    invariant = np.array([True, False, True, False, False])
    found = traces(figures.channel_bars(now, before, INK, invariant=invariant, names=("step 2", "<b>")))
    assert list(found["step 2, invariant"].x) == ["2", "0"] and list(found["step 2, invariant"].y) == [2, 0.1]
    assert found["step 2, specific"].marker.color == design.SPECIFIC
    assert dict(zip(found["&lt;b&gt;"].x, found["&lt;b&gt;"].y, strict=True))["3"] == 9
    alone = figures.channel_bars(now, None, INK)
    assert [t.name for t in alone.data] == ["this step"] and alone.layout.xaxis.type == "category"


def test_lines_of_shuffled_weights_begin_at_one_and_dot_the_second_run():
    check = (Randomised("heads", 0.5, 0.7), Randomised("aspp", -0.2, 0.1))
    figure = figures.randomised_lines([("a", check), ("b", check[:1])], INK)
    found = traces(figure)
    assert list(found["map, a"].y) == [1, 0.5, -0.2] and list(found["map, a"].x) == ["nothing", "heads", "aspp"]
    assert list(found["|map|, a"].y) == [1, 0.7, 0.1] and found["map, b"].line.dash == "dot"


# Words


def explained(values, conservation=None, score=1.0, absorbed=0.0):
    values = np.asarray(values, np.float32)
    return Explained(values, np.ones(4, np.float32), score, values.size, absorbed, conservation)


@pytest.mark.parametrize(
    ("error", "method", "words"),
    [
        (1e-8, "lrp", "and what biases keep add up"),
        (0.01, "integrated-gradients", "little is missing"),
        (0.4, "integrated-gradients", "40 % of the score over the mean colour's is not accounted for; read"),
        (np.inf, "lrp", "The score is 0"),
        (None, "occlusion", "promises no conservation"),
        (0.4, "grad-cam", "its sum, at the cells of Z and after ReLU, misses the explained score by 40 % of it"),
        (1.7, "gradient-x-input", "its sum misses the explained score by 170 % of it"),
    ],
)
def test_the_conservation_error_is_put_in_words(error, method, words):
    assert words in checks.conservation_words(explained([[1, 2]], error), method)


def test_a_map_that_does_not_need_the_weights_is_called_so():
    def said(signed, absolute):
        return checks.shuffled_words((Randomised("heads", 0.9, 0.9), Randomised("stem", signed, absolute)))

    assert "depends on what was learned" in said(0.1, 0.2) and "do not read it" in said(0.1, 0.8)
    assert "is constant" in said(float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("inside", "area", "words"),
    [
        (0.87, 0.58, "aimed at the class"),
        (0.3, 0.2, "a little more than chance"),
        (0.2, 0.2, "no more than chance"),
        (0.05, 0.3, "less than chance"),
        (1.0, 1.0, "no more than chance"),
    ],
)
def test_the_pointing_score_is_weighed_against_chance(inside, area, words):
    assert page_file._aim(Pointing(inside, area, True)).endswith(f"{words}.")


def test_the_groups_are_weighed_by_what_speaks_for_the_class_or_else_against_it():
    invariant = np.array([True, False, False, True])
    assert "50 % of channels hold 75 % of what speaks for it" in checks.group_words(
        np.array([3.0, 1, -9, 0]), invariant
    )
    assert "hold 25 % of what speaks against it; no channel" in checks.group_words(
        np.array([-1.0, -3, 0, 0]), invariant
    )


def test_before_a_click_a_true_pixel_in_the_middle_is_explained():
    true = np.zeros((9, 9), bool)
    assert middle_pixel(true, (9, 9)) == middle_pixel(None, (9, 9)) == (4, 4)
    true[0, :3] = True
    assert middle_pixel(true, (9, 9)) == (1, 0)


# Maps


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two tiny runs of one task."""
    top = tmp_path_factory.mktemp("relevance")
    data = write_shapes(top / "data")
    faster = {"optim": {"lr_aspp_later": 0.05, "extractor_delay": 0.0}}
    tiny_run(data, top / "runs" / "moves", "finetune", **faster)
    tiny_run(data, top / "runs" / "other", "reference")
    return top / "runs"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    SHELF.clear()


def picture_of(run, cls):
    """The first validation image that shows the class."""
    pictures = (loaders.picture(run, "", name) for name in run.open_dataset(None).ids("val"))
    return next(picture for picture in pictures if (picture.truth == cls).any())


@pytest.fixture
def asked(root):
    run = loaders.catalogue(root).runs["moves"]
    picture = picture_of(run, 1)
    mask = maps.asked_mask(run, picture, 2, 1, "true", picture.truth == 1, None)
    return Asked(run, picture, 2, 1, mask)


def test_methods_are_those_of_the_library():
    assert get_args(Method) == maps.METHODS == tuple(maps.DEPTHS)
    meanings = [one.meaning for one in ATTRIBUTION_METHODS.values()]
    assert len(set(meanings)) == len(meanings) and all(text.endswith(".") for text in meanings)


@pytest.mark.parametrize("method", maps.METHODS)
def test_maps_at_pixels_are_the_library_s(asked, method):
    depth = maps.DEPTHS[method][-1]
    one = asked._replace(method=method, depth=depth)
    ticks = []
    (found,) = maps.explain([one], lambda: ticks.append(1))
    trace = loaders.trace(one.run, one.picture)
    target = Target(1 + one.run.labels.offset, torch.from_numpy(one.mask.astype(np.float32)))
    expected = attribute(trace.networks.steps[2], maps._images(trace), target, method)
    scale = np.abs(expected.map).max()
    np.testing.assert_allclose(found.map, expected.map, atol=1e-4 * scale)
    np.testing.assert_allclose(found.channels, expected.channels, atol=1e-3 * np.abs(expected.channels).max())
    assert found.mean_logit == pytest.approx(expected.score / one.mask.sum(), rel=1e-4)
    if method in maps.LONG:
        assert abs(len(ticks) - maps.passes(one)) <= 2, "the progress bar ends where the work does"


@pytest.mark.parametrize("method", ["lrp", "gradient-x-input"])
def test_maps_at_the_latent_map_keep_its_sum(asked, method):
    (found,) = maps.explain([asked._replace(method=method)])
    trace = loaders.trace(asked.run, asked.picture)
    target = Target(1 + asked.run.labels.offset, torch.from_numpy(asked.mask.astype(np.float32)))
    exact = FoldedSegmenter(trace.networks.steps[2]).record(trace.features(2)).relevance(target, "epsilon", "latent")
    profile = exact.channels[0].numpy()
    np.testing.assert_allclose(found.channels, profile, atol=1e-3 * np.abs(profile).max())
    cells = exact.map.shape[1] * exact.map.shape[2]
    assert found.map.mean() == pytest.approx(float(exact.map.mean()), rel=0.1), "bilinear, as the logits are"
    assert found.map.shape == trace.inside and cells < found.map.size


def test_a_result_is_computed_once_and_survives_the_process(asked, monkeypatch):
    assert maps.known(asked) is None
    (found,) = maps.explain([asked])

    def refuse(*_):
        raise AssertionError("computed twice")

    monkeypatch.setattr(maps, "_by_method", refuse)
    assert maps.explain([asked])[0] is found
    SHELF.clear()
    again = maps.known(asked)
    np.testing.assert_array_equal(again.map, found.map)
    assert (again.score, again.conservation, again.pixels) == (found.score, found.conservation, found.pixels)
    other = asked.mask.copy()
    other[0, 0] = ~other[0, 0]
    assert maps.known(asked._replace(mask=other)) is None, "one pixel more is another question"


def test_what_is_not_finite_is_refused_and_not_stored(asked, monkeypatch):
    def broken(*_):
        raise NotFinite("LRP gave values that are not finite")

    monkeypatch.setattr(maps, "_by_method", broken)
    assert maps.explain([asked]) == [Refused("LRP gave values that are not finite.")]
    SHELF.clear()
    assert maps.known(asked) is None


def test_a_long_method_stops_where_its_tick_says(asked):
    class Stopped(BaseException):
        pass

    def stop():
        raise Stopped

    one = asked._replace(method="occlusion", depth="pixels")
    with pytest.raises(Stopped):
        maps.explain([one], stop)
    assert maps.known(one) is None
    network = loaders.trace(one.run, one.picture).networks.steps[2]
    assert not network._forward_pre_hooks, "the shared network has no hook"


def test_shuffled_weights_leave_the_network_alone(asked):
    network = loaders.trace(asked.run, asked.picture).networks.steps[2]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ticks = []
    found = maps.check(asked, lambda: ticks.append(1))
    assert len(ticks) == maps.SHUFFLED_MAPS == len(found) + 1
    assert [one.part for one in found][:2] == ["heads", "aspp"]
    assert all((before[name] == tensor).all() for name, tensor in network.state_dict().items())
    SHELF.clear()
    assert maps.known_check(asked) == found


# The page


def open_page():
    from dashboard import app

    app.main("relevance")


@pytest.fixture
def page(root, monkeypatch):
    monkeypatch.setenv("LAG_RUNS", str(root))
    monkeypatch.delenv("LAG_DATA", raising=False)
    found = AppTest.from_function(open_page, default_timeout=120)
    image = picture_of(loaders.catalogue(root).runs["moves"], 1).id
    found.query_params.update({"run": "moves", "run2": "other", "class": "red", "step": "1", "image": image})
    return found


def text_of(at):
    return "\n".join(e.value for e in [*at.main.markdown, *at.main.caption])


def checks_in(at):
    frame = at.dataframe[0].value
    return {name: dict(zip(frame["check"], frame[name], strict=True)) for name in frame.columns[1:]}


def test_the_answer_comes_first_and_every_map_has_its_checks(page):
    at = page.run()
    assert not at.exception and not at.error and not at.warning and not at.info
    assert "After step 1, **red** gets a mean logit of" in text_of(at) and "In other the mean logit is" in text_of(at)
    found = checks_in(at)
    assert list(found) == ["step 1", "step 0", "step 2", "compared 1", "compared 0"]
    assert all(float(column["conservation error"]) < 1e-3 for column in found.values())
    assert found["step 0"]["cosine to step before"] == "–" and found["step 1"]["top-20 % IoU with it"] != "–"
    assert "add up to the explained score" in text_of(at) and len(at.get("plotly_chart")) == 1


def test_shuffling_is_done_on_demand(page):
    at = page.run()
    at.button(key="relevance-shuffle").click().run()
    assert not at.exception and not at.error
    assert len(at.get("plotly_chart")) == 2 and checks_in(at)["step 1"]["shuffled weights, ρ"] != "–"
    assert "with the heads shuffled" in text_of(at)


def test_a_long_method_waits_for_its_button(page):
    page.query_params["method"] = "integrated-gradients"
    at = page.run()
    assert not at.exception and "Not computed yet" in text_of(at)
    at.button(key="relevance-compute").click().run()
    assert not at.exception and not at.error and "Not computed yet" not in text_of(at)
    assert {"step 1", "step 0", "compared 1"} <= set(checks_in(at))
    assert at.button(key="relevance-compute").label == "Compute step 2"


def test_a_step_that_does_not_know_the_class(page):
    page.query_params.update({"class": "yellow", "step": "0"})
    at = page.run()
    assert any("is introduced at step" in i.value for i in at.info) and not at.exception


def test_hostile_links_fall_back(page):
    page.query_params.update(
        {"method": "<script>", "depth": "../..", "about": "all", "pixel": "9999-1", "scale": "nan",
         "relevance-beside": "x"}
    )  # fmt: skip
    at = page.run()
    assert not at.exception and not at.error
    assert (at.session_state["method"], at.session_state["depth"]) == ("lrp", "latent")
    assert at.session_state["about"] in ("true", "predicted") and at.session_state["scale"] == "own"


def test_a_depth_that_a_method_lacks_falls_back(page):
    page.query_params.update({"method": "grad-cam", "depth": "pixels"})
    at = page.run()
    assert not at.exception and at.session_state["depth"] == "latent"
    assert "promises no conservation" in text_of(at)


def test_one_pixel_is_explained(page):
    page.query_params.update({"about": "pixel", "pixel": "5-6", "method": "lrp-epsilon", "depth": "pixels"})
    at = page.run()
    assert not at.exception and not at.error and "on the clicked pixel" in text_of(at)
