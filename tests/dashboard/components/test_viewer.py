"""Viewer, gallery and exhibit without a browser: what is sent, what is believed of the answer, the sums."""

from __future__ import annotations

import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import streamlit as st
from small_runs import CLASSES, write_run

from dashboard.app_pages.steps import page as steps
from dashboard.components import gallery, payload, viewer, viewer_state
from dashboard.components.payload import Payload
from dashboard.picture import predictions as exhibit
from lag_core.runs import open_run

LABELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture(autouse=True)
def session(monkeypatch):
    """A session of our own, as a plain dictionary."""
    kept: dict[str, object] = {}
    monkeypatch.setattr(st, "session_state", kept)
    return kept


def test_a_payload_is_read_back():
    box = Payload()
    name = box.array(LABELS)
    heat = box.array(np.array([[0.5, -1.0]], np.float32))
    props, blobs = payload.unpack(box.pack({"a": [1, "ü"]}))
    assert props == {"a": [1, "ü"]}
    assert zlib.decompress(blobs[name]) == LABELS.tobytes()
    assert np.frombuffer(zlib.decompress(blobs[heat]), "<f4").tolist() == [0.5, -1.0]


def test_a_blob_is_sent_once_and_again_when_asked_for():
    first = Payload()
    name = first.array(LABELS)
    assert name in payload.unpack(first.pack({}))[1]
    second = Payload()
    assert second.array(LABELS.copy()) == name
    assert payload.unpack(second.pack({}))[1] == {}
    payload.forget([name, {"not": "a name"}, None])
    third = Payload()
    third.array(LABELS)
    assert name in payload.unpack(third.pack({}))[1]


def test_one_pixel_changes_the_name():
    other = LABELS.copy()
    other[2, 3] ^= 1
    box = Payload()
    assert box.array(LABELS) != box.array(other)


def test_what_a_session_remembers_is_bounded(monkeypatch, session):
    monkeypatch.setattr(payload, "_REMEMBERED", 5)
    for i in range(9):
        box = Payload()
        box.picture(bytes([i]))
        box.pack({})
    assert len(session["components/sent blobs"]) == 5


def test_a_lazy_picture_is_made_only_when_needed():
    made = []
    for _ in range(3):
        box = Payload()
        box.lazy_picture("tile 1", lambda: made.append(1) or b"jpeg")
        box.pack({})
    assert made == [1]


GOOD = {"kind": "click", "x": 3, "y": 2, "layer": 1}


def test_a_click_is_believed():
    assert viewer._event(GOOD, 2, (4, 3)) == viewer.ViewerEvent("click", 3, 2, 1)


@pytest.mark.parametrize(
    "change",
    [
        *({"x": x} for x in (4, -1, "a", None, math.inf, [1])),
        *({"layer": layer} for layer in (2, -2)),
        {"y": 3},
        {"kind": "run"},
        {"kind": None},
    ],
)
def test_a_hostile_event_is_none(change):
    assert viewer._event(GOOD | change, 2, (4, 3)) is None


@pytest.mark.parametrize("value", [None, 3, "click", [], {}, {"kind": "click"}])
def test_an_event_of_another_shape_is_none(value):
    assert viewer._event(value, 2, (4, 3)) is None


VIEW = {"opacity": 0.5, "threshold": 0, "hidden": [2, 1, 2], "outlines": True, "mode": "x", "split": "side"}


def test_settings_are_checked():
    assert viewer._settings(VIEW) == viewer.ViewerSettings(0.5, 0.0, (1, 2), True, "classes", "side")
    assert viewer._settings(VIEW | {"opacity": 7}).opacity == 1


@pytest.mark.parametrize("change", [{"opacity": "much"}, {"opacity": math.nan}, {"hidden": 3}, {"hidden": ["a"]}])
def test_unusable_settings_are_none(change):
    assert viewer._settings(VIEW | change) is None


PALETTE = np.zeros((12, 3), np.uint8)
NAMES = [str(i) for i in range(12)]


@pytest.mark.parametrize(
    ("layer", "grid", "palette"),
    [
        (viewer.Layer("a", LABELS.astype(np.int64)), None, PALETTE),
        (viewer.Layer("a", LABELS[:2]), None, PALETTE),
        (viewer.Layer("a", rgba=np.zeros((3, 4, 3), np.uint8)), None, PALETTE),
        (viewer.Layer("a", LABELS), viewer.ProbabilityGrid("a", np.zeros((2, 2, 3), np.uint8)), PALETTE),
        (viewer.Layer("a", LABELS), viewer.ProbabilityGrid("a", np.zeros((2, 2, 12))), PALETTE),
        (viewer.Layer("a", LABELS), None, PALETTE[:3]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(layer, grid, palette):
    with pytest.raises(ValueError, match="viewer: "):
        viewer.viewer(b"", [layer], palette, NAMES, key="v", size=(4, 3), probabilities=[grid] if grid else None)


def test_gallery_shows_the_page_of_a_new_selection_and_keeps_a_turned_one(session):
    items = [gallery.Thumbnail(str(i), b"", "") for i in range(30)]

    def page(selected: str | None) -> int:
        return gallery._page("g", items, selected, 10, 3)

    assert page("25") == 2
    session["g"] = {"page": 0}
    gallery._turn("g", 3)
    assert page("25") == 0, "what somebody turned to stays while the selection does"
    assert page("13") == 1
    session["g"] = {"page": 99}
    gallery._turn("g", 3)
    assert page("13") == 1


def test_gallery_shows_frames_until_its_pictures_are_made_and_only_then(monkeypatch):
    sent = []

    def component(*, key, data, **_):
        sent.append((key, *payload.unpack(data)))
        return {}

    monkeypatch.setattr(gallery, "_component", component)
    made = []
    items = [
        gallery.Thumbnail(str(i), lambda i=i: made.append((i, len(sent))) or bytes([i]), "", version=f"v{i}")
        for i in range(3)
    ]
    gallery.thumbnails(items, key="g", page_size=2)
    assert [key for key, _, _ in sent] == ["g-frames", "g"]
    assert made == [(0, 1), (1, 1)], "after the frames were sent"
    assert [i["image"] for i in sent[0][1]["items"]] == ["", ""] and sent[0][2] == {}
    assert sorted(sent[1][2].values()) == [b"\0", b"\1"]
    gallery.thumbnails(items, key="g", page_size=2)
    assert [key for key, _, _ in sent[2:]] == ["g"], "the browser has the pictures by now"


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("", ()),
        ("2", (2,)),
        ("4-0", (0, 4)),
        ("5", None),
        ("1-1", None),
        ("-1", None),
        ("1-", None),
        ("x", None),
    ],
)
def test_hidden_classes_of_a_link(text, classes):
    assert viewer_state._classes(text, 5) == classes


@pytest.mark.parametrize(
    ("text", "pixel"),
    [("3-2", (3, 2)), ("4-2", None), ("3-3", None), ("3", None), ("3-2-1", None), ("٣-2", None), ("", None)],
)
def test_pixel_of_a_link(text, pixel):
    assert viewer_state._pixel(text, (4, 3)) == pixel


# ---------------------------------------------------------------------- exhibit


@pytest.mark.parametrize(("height", "width"), [(10, 7), (1024, 512), (3000, 2000), (1, 5000)])
def test_sampling_keeps_small_pictures_and_spreads_over_large_ones(height, width):
    rows, columns = exhibit.sampling(height, width, 1024)
    if max(height, width) <= 1024:
        assert rows.tolist() == list(range(height)) and columns.tolist() == list(range(width))
    assert max(len(rows), len(columns)) <= 1024
    for kept, size in ((rows, height), (columns, width)):
        gaps = np.diff([-1, *kept, size])
        assert kept[0] >= 0 and kept[-1] < size
        assert gaps.max() <= size / len(kept) + 1


def test_probability_at_is_the_sum_over_all_cells_with_tent_weights():
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for x, y in [(0, 0), (39, 29), (13, 22), (20, 15)]:
        at_y = min(max((y + 0.5) * 5 / 30 - 0.5, 0), 4)
        at_x = min(max((x + 0.5) * 7 / 40 - 0.5, 0), 6)
        expected = np.zeros(3)
        for i in range(5):
            for j in range(7):
                expected += max(0, 1 - abs(i - at_y)) * max(0, 1 - abs(j - at_x)) * grid[i, j] / 255
        assert np.allclose(exhibit.probability_at(grid, x, y, (40, 30)), expected)


def test_right_shares_counted_pixel_by_pixel():
    rng = np.random.default_rng(1)
    truth = rng.choice([0, 1, 2, 255], (20, 20)).astype(np.uint8)
    prediction = rng.integers(0, 5, (20, 20), dtype=np.uint8)
    shares = exhibit.right_shares(prediction, truth, 5)
    for cls in range(5):
        mine = [p == t for p, t in zip(prediction.flat, truth.flat, strict=True) if t == cls]
        assert math.isnan(shares[cls]) if not mine else shares[cls] == sum(mine) / len(mine)


@pytest.fixture
def two_runs(tmp_path):
    """The same classes; the second run introduces those of step 0 the other way round."""
    one = open_run(write_run(tmp_path, "one"))
    first, second, *rest = one.labels.order
    return one, SimpleNamespace(
        labels=SimpleNamespace(order=(second, first, *rest), seen=one.labels.seen), classes=one.classes
    )


def test_another_runs_classes_are_told_in_the_open_runs_indices(two_runs):
    one, swapped = two_runs
    table = exhibit.class_table(swapped, one)
    assert table[:5].tolist() == [1, 0, 2, 3, 4]
    assert (table[5:] == 255).all()
    grid = np.zeros((1, 1, 5), np.uint8)
    grid[..., 0], grid[..., 1] = 230, 51
    labels = np.array([[0, 1, 255]], np.uint8)
    own = exhibit.Answers((labels,), (grid,), known=((0, 1),))
    told = exhibit._translated(own, swapped, one)
    assert told.grids[0][0, 0].tolist() == [51, 230, 0, 0, 0]
    assert told.predictions[0].tolist() == [[1, 0, 255]]


# ---------------------------------------------------------------------- the page's sentences


@pytest.fixture
def page(tmp_path):
    run = open_run(write_run(tmp_path, "run"))
    return SimpleNamespace(run=run, run2=None, step=2, last_step=2, least=0.5)


def exhibited(truth: np.ndarray | None, *maps: np.ndarray) -> tuple[exhibit.Shown, exhibit.Answers]:
    grids = tuple(np.full((1, 1, 5), 51, np.uint8) for _ in maps)
    return exhibit.Shown(b"", (10, 10), truth, (10, 10)), exhibit.Answers(maps, grids)


def test_the_answer_names_the_class_that_lost_most(page):
    truth = np.repeat(np.array([0, 1, 2, 3, 4], np.uint8), 20).reshape(10, 10)
    first = np.where(truth < 2, truth, 0).astype(np.uint8)
    last = np.where(truth == 1, 4, truth).astype(np.uint8)
    text = steps._answer(page, *exhibited(truth, first, truth, last))
    assert "**80 %** of the pixels of known classes are right; after step 0 it was 100 %" in text
    assert "**building** lost most: 100 % of its pixels were right after step 0, 0 % are now" in text


def test_nothing_lost_is_said(page):
    truth = np.zeros((10, 10), np.uint8)
    assert "No class has lost a pixel" in steps._answer(page, *exhibited(truth, truth, truth, truth))


def test_a_later_class_that_is_called_another_is_told(page):
    page.step = 1
    truth = np.repeat(np.array([0, 4], np.uint8), 50).reshape(10, 10)
    maps = [np.zeros((10, 10), np.uint8), np.where(truth == 4, 1, 0).astype(np.uint8), truth]
    maps[1][9] = 0
    later, called = (CLASSES[k]["name"] for k in (4, 1))
    text = steps._answer(page, *exhibited(truth, *maps))
    assert "**100 %**" in text and ", as after step 0." in text
    assert f"**{later}** comes at step 2; 80 % of its pixels are called **{called}**." in text
    page.step = 2
    assert "comes at step" not in steps._answer(page, *exhibited(truth, *maps))


def test_a_class_that_was_never_found_is_named_not_a_small_loss(page):
    truth = np.repeat(np.array([0, 2], np.uint8), 50).reshape(10, 10)
    nothing = np.zeros((10, 10), np.uint8)
    last = nothing.copy()
    last[0, :2] = 1
    text = steps._answer(page, *exhibited(truth, nothing, nothing, last))
    step = page.run.labels.step_of(2)
    assert f"**{CLASSES[2]['name']}**, learned at step {step}, is found on none of its pixels." in text
    assert "lost most" not in text


def test_a_class_never_found_is_told_beside_the_one_that_lost_most(page):
    truth = np.repeat(np.array([1, 1, 1, 0, 2], np.uint8), 20).reshape(10, 10)
    first = np.where(truth == 2, 0, truth).astype(np.uint8)
    last = np.zeros((10, 10), np.uint8)
    text = steps._answer(page, *exhibited(truth, first, first, last))
    assert f"**{CLASSES[1]['name']}** lost most: 100 %" in text
    assert f"**{CLASSES[2]['name']}**, learned at step" in text and "found on none" in text


def test_a_class_of_step_0_that_lost_little_is_not_called_new(page):
    truth = np.ones((10, 10), np.uint8)
    first, last = truth.copy(), truth.copy()
    first[:4], last[:5] = 0, 0
    text = steps._answer(page, *exhibited(truth, first, first, last))
    assert "lost most: 60 % of its pixels were right after step 0, 50 % are now" in text
    many = np.ones((100, 100), np.uint8)
    almost = many.copy()
    almost[0, 0] = 0
    assert "Almost no pixel was lost." in steps._answer(page, *exhibited(many, many, many, almost))


def test_classes_still_to_come_do_not_count(page):
    page.step = 0
    truth = np.full((10, 10), 4, np.uint8)
    text = steps._answer(page, *exhibited(truth, truth * 0, truth * 0, truth))
    assert "none of the classes in this picture has been introduced yet" in text


def test_without_truth_the_answer_says_what_changed(page):
    maps = [np.zeros((10, 10), np.uint8) for _ in range(3)]
    maps[2][:3] = 4
    text = steps._answer(page, *exhibited(None, *maps))
    assert "**30 %** of the pixels have another class after step 2 than after step 1." in text
    assert "no annotation" in text


def test_a_pixels_rows(page):
    truth = np.full((10, 10), 1, np.uint8)
    shown, found = exhibited(truth, truth, truth * 0, truth * 4)
    found.grids[2][..., 4] = 255
    rows = steps._pixel_rows(page.run, found, shown, (3, 3), 1, page.run)
    assert [row["called"] for row in rows] == [CLASSES[1]["name"], CLASSES[0]["name"], CLASSES[4]["name"]]
    assert [row[""] for row in rows] == ["right", "wrong", "wrong"]
    assert rows[2]["%"] == 100 and rows[2]["next %"] == pytest.approx(20)
    assert steps._verdict(0, 4, np.array([0, 1])) == "not introduced yet"
    assert steps._verdict(0, 255, np.array([0, 1])) == "no truth"


def test_a_pixel_without_a_probable_class_is_drawn_as_none(page):
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    sure = exhibit.quantised_certainty(np.array([[0.5, 0.501], [0.9, 0.2]]))
    found = exhibit.Answers((labels,), (np.zeros((1, 1, 5), np.uint8),), (sure,))
    assert found.drawn(0, 0.5).tolist() == [[viewer.NOTHING, 1], [2, 255]]
    assert found.drawn(0, 0.95).tolist() == [[viewer.NOTHING, viewer.NOTHING], [viewer.NOTHING, 255]]
    assert found.drawn(0, 0).tolist() == labels.tolist()
    always = exhibit.Answers((labels,), (np.zeros((1, 1, 5), np.uint8),))
    assert always.drawn(0, 0.95).tolist() == labels.tolist(), "a softmax network always decides"
    assert found.predictions[0].tolist() == labels.tolist(), "measures keep the most probable class"


def test_step_layers_know_their_classes_and_draw_none(page):
    labels = np.zeros((2, 2), np.uint8)
    sure = exhibit.quantised_certainty(np.array([[0.2, 0.9], [0.9, 0.9]]))
    known = tuple(exhibit.known_classes(page.run, t, page.run) for t in range(3))
    assert known == ((0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4))
    found = exhibit.Answers((labels,) * 3, (np.zeros((1, 1, 5), np.uint8),) * 3, (sure,) * 3, known)
    layers, _ = exhibit.step_layers(found, ["", "", ""], 0.5)
    assert [layer.known for layer in layers] == list(known)
    assert layers[0].labels is not None and layers[0].labels.tolist() == [[viewer.NOTHING, 0], [0, 0]]


def test_notes_count_known_classes_alone_and_say_how_much_is_none(page):
    truth = np.repeat(np.array([0, 4], np.uint8), 50).reshape(10, 10)
    sure = np.full((10, 10), 200, np.uint8)
    sure[:1] = 10
    labels = np.zeros((10, 10), np.uint8)
    shown = exhibit.Shown(b"", (10, 10), truth, (10, 10))
    found = exhibit.Answers((labels,) * 3, (np.zeros((1, 1, 5), np.uint8),) * 3, (sure,) * 3)
    assert steps._notes(page, page.run, shown, found) == [
        "80 % right, 20 % none", "80 % right, 20 % none", "40 % right, 10 % none",
    ]  # fmt: skip
    assert "class the step knows" in steps._counted(shown)
    assert "Pixels shown as “none” count as their most probable class." in steps._answer(page, shown, found)


def test_a_pixels_row_says_none(page):
    labels = np.zeros((10, 10), np.uint8)
    shown = exhibit.Shown(b"", (10, 10), labels, (10, 10))
    low = np.full((10, 10), 60, np.uint8)
    found = exhibit.Answers((labels,), (np.full((1, 1, 5), 51, np.uint8),), (low,))
    rows = steps._pixel_rows(page.run, found, shown, (3, 3), 0, page.run, 0.5)
    assert rows[0]["called"] == f"none above 50 %; first: {CLASSES[0]['name']}"


def test_none_may_be_hidden_by_a_link():
    assert viewer_state._classes(f"1-{viewer.NOTHING}", 5) == (1, viewer.NOTHING)
    assert viewer_state._classes("7", 5) is None


def test_a_word_of_a_component_that_has_left_the_page_is_nothing(session):
    """Overview's gallery asked for a picture again as the page was left; the next page was an error."""
    payload.forget_missing("wall-gallery")
    gallery._turn("wall-gallery", 3)
    gallery._tick("wall-gallery", [], lambda image: pytest.fail(image))
    session["wall-gallery"] = {"missing": ["a"], "page": 1}
    assert payload.told("wall-gallery", "page") == 1 and payload.told("wall-gallery", "tick") is None
