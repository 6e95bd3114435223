"""Figures as objects: they carry the data they were given, and untrusted names stay text."""

from __future__ import annotations

import numpy as np
import pytest

from dashboard.app_pages.overview import figures
from dashboard.ui import design, frame, untrusted
from lag_core.protocol import ClassInfo

CLASSES = (
    ClassInfo(0, "impervious surface", (255, 255, 255)),
    ClassInfo(1, "<a href='javascript:alert(1)'>building</a>", (0, 0, 255)),
    ClassInfo(2, "tree", (0, 255, 0)),
)
IOUS = np.array([[0.9, 0.8, np.nan], [0.3, 0.55, 0.7]])


def trace_of(figure, name=None, kind=None):
    """The only trace with that name, or of that kind."""
    (found,) = [t for t in figure.data if (name and t.name == name) or (kind and t.type == kind)]
    return found


def test_iou_matrix_carries_percent_and_blanks():
    figure = figures.iou_matrix(IOUS, CLASSES, design.LIGHT, step=1, cls=2)
    shown = np.array(trace_of(figure, kind="heatmap").z, float)
    np.testing.assert_allclose(shown, 100 * IOUS.T)
    numbers = trace_of(figure, name="numbers")
    written = dict(zip(zip(numbers.x, numbers.y, strict=True), numbers.text, strict=True))
    assert written == {(0, 0): "90", (1, 0): "30", (0, 1): "80", (1, 1): "55", (1, 2): "70"}


def test_iou_matrix_click_names_step_and_class():
    cells = trace_of(figures.iou_matrix(IOUS, CLASSES, design.LIGHT, step=0, cls=0), name="cells")
    for x, y, (step, cls) in zip(cells.x, cells.y, cells.customdata, strict=True):
        assert (x, y) == (step, cls)
    assert len(cells.x) == IOUS.size


def test_iou_matrix_frames_the_selected_step_and_class():
    figure = figures.iou_matrix(IOUS, CLASSES, design.DARK, step=1, cls=2)
    boxes = {(s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes}
    assert boxes == {(0.5, 1.5, -0.5, 2.5), (-0.5, 1.5, 1.5, 2.5)}


def test_confusion_rows_add_up_and_clicks_agree_with_cells():
    counts = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    figure = figures.confusion_matrix(counts, CLASSES, design.LIGHT, cell=(1, 0))
    shown = np.array(trace_of(figure, kind="heatmap").z, float)
    np.testing.assert_allclose(shown[:2].sum(1), 100)
    assert np.isnan(shown[2]).all(), "a class without pixels has no shares"
    cells = trace_of(figure, name="cells")
    place = {tuple(d): (x, y) for d, x, y in zip(cells.customdata, cells.x, cells.y, strict=True)}
    assert place[1, 0] == (0, 1), "truth is the row (y), prediction the column (x)"
    (box,) = figure.layout.shapes
    assert (box.x0, box.y0) == (-0.5, 0.5)


def test_curves_draw_both_runs_with_one_legend():
    series = {"old": np.array([0.9, 0.4]), "new": np.array([np.nan, 0.7]), "all": np.array([0.9, 0.5])}
    one = figures.curves([("a", series)], design.LIGHT, step=0)
    two = figures.curves([("a", series), ("b", series)], design.LIGHT, step=0)
    assert (len(one.data), len(two.data)) == (3, 6)
    assert [t.line.dash for t in two.data] == ["solid"] * 3 + ["dot"] * 3
    assert sum(t.showlegend is not False for t in two.data) == 3
    np.testing.assert_allclose(np.array(two.data[0].y, float), [90, 40])


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_names_are_never_html(ink):
    drawn = [
        figures.iou_matrix(IOUS, CLASSES, ink, step=0, cls=0),
        figures.confusion_matrix(np.eye(3, dtype=np.int64), CLASSES, ink),
        figures.curves([("<b>run</b>", {k: np.ones(1) for k in figures.CURVES})], ink, step=0),
    ]
    for figure in drawn:
        text = figure.to_json()
        # Plotly's JSON writer spells < and > as \u003c and \u003e.
        assert "\\u003ca href" not in text and "<a href" not in text
        assert "\\u003cimg" not in text and "\\u003cb\\u003erun" not in text


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_numbers_can_be_read_on_every_shade(ink):
    for value in np.linspace(0, 1, 101):
        color = design.on_ramp(ink.ramp, value)
        assert design.contrast(color, design.rgb(design.text_on(color))) >= 4.5


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_ramps_grow_monotonically_in_lightness(ink):
    lightness = [design.luminance(design.on_ramp(ink.ramp, v)) for v in np.linspace(0, 1, 51)]
    steps = np.diff(lightness)
    assert (steps < 0).all() or (steps > 0).all()


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_text_can_be_read_on_the_surface(ink):
    surface = design.rgb(ink.surface)
    assert design.contrast(design.rgb(ink.text), surface) >= 7
    assert design.contrast(design.rgb(ink.muted), surface) >= 4.5


@pytest.mark.parametrize("ink", [design.LIGHT, design.DARK])
def test_the_mark_is_seen_on_both_ends_of_the_ramps(ink):
    for end in (ink.ramp[0], ink.ramp[-1]):
        assert design.contrast(design.rgb(design.MARK), design.rgb(end)) >= 3


def deuteranope(color):
    """Viénot, Brettel and Mollon's (1999) picture of a colour for an eye without green cones, linear RGB."""
    linear = np.array([(c / 255) ** 2.2 for c in color])
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    lms = to_lms @ linear
    lms[1] = 0.494207 * lms[0] + 1.24827 * lms[2]
    return np.linalg.inv(to_lms) @ lms


@pytest.mark.parametrize("palette", [list(design.PROVENANCE.values()), list(figures.CURVES.values())])
def test_our_colours_differ_without_green_cones(palette):
    seen = [deuteranope(design.rgb(c)) for c in palette]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 0.1


def test_swatch_of_a_colour_that_drowns_is_hollow():
    assert frame.swatch(CLASSES[0], design.LIGHT) == "□"
    assert "#ffffff" in frame.swatch(CLASSES[0], design.DARK)


def test_big_heat_maps_leave_the_numbers_out():
    size = frame.MOST_NUMBERS + 1
    labels = [str(i) for i in range(size)]
    hover = [labels] * size
    figure = frame.heat(frame.frame(design.LIGHT), np.ones((size, size)), labels, labels, design.LIGHT, hover=hover)
    assert [t.type for t in figure.data] == ["heatmap"] and figure.data[0].showscale


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a*b*", r"a\*b\*"),
        ("[x](http://e.org)", r"\[x\]\(http\:\/\/e\.org\)".replace(r"\/", "/")),
        (":red[x]", r"\:red\[x\]"),
        ("$E$", r"\$E\$"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_is_literal(text, expected):
    assert untrusted.markdown(text) == expected


def test_long_names_are_cut_and_direction_marks_removed():
    assert len(untrusted.plain("x" * 1000)) == len(untrusted.name("x" * 1000)) == untrusted.LONGEST_NAME
    assert untrusted.markdown("x" * 1000) == "x" * 1000, "a sentence may be long"
    assert untrusted.markdown("x" * 9000).endswith("…" + " (cut here; the text is longer)"), (
        "and is never cut in silence"
    )
    assert untrusted.plain("a\u202eb") == "a b"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
def test_csv_cells_are_no_formulas(text):
    assert untrusted.cell(text) == "'" + text
    assert untrusted.cell(-1.5) == -1.5


@pytest.mark.parametrize("ground", [design.LIGHT.surface, design.DARK.surface])
def test_a_class_can_be_seen_beside_its_name_on_either_ground(ground):
    surface = design.rgb(ground)
    for color in [(0, 0, 0), (64, 0, 128), (255, 255, 255), (255, 255, 0), (64, 128, 0), (14, 17, 23)]:
        found = design.seen_on(color, surface)
        assert design.contrast(found, surface) >= 2
        assert found == color or design.contrast(color, surface) < 2, "a colour that is seen stays itself"


def test_room_is_made_for_labels_titles_and_legend_alone():
    figure = frame.frame(design.LIGHT, x="step", y="IoU (%)")
    figure.update_yaxes(tickvals=[0], ticktext=['<span style="color:#000">■</span> impervious surface'])
    frame.make_room(figure)
    bare, labels = figure.layout.margin.b, figure.layout.margin.l
    assert 20 * 6 < labels < 20 * 9 + 40 and figure.layout.margin.t == figure.layout.margin.r == frame.EDGE < bare
    own = frame.frame(design.LIGHT).update_layout(margin={"l": 0, "r": 0, "t": 2, "b": 2})
    frame.make_room(own)
    assert own.layout.margin.l == 0, "a figure that has its own keeps them"


def test_a_finished_figure_is_worked_out_once_for_each_height():
    figure = frame.frame(design.LIGHT)
    figure.finish()
    first = figure.to_dict()
    assert figure.to_dict() is first
    figure.update_layout(height=123)
    assert figure.to_dict()["layout"]["height"] == 123 and figure.to_dict() is figure.to_dict()
