"""Training page: the journal as arrays, what the terms did, figures as objects, the page without a browser."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys

import numpy as np
import pytest
from shapes import tiny_run, write_shapes
from small_runs import write_run
from streamlit.testing.v1 import AppTest

from dashboard.app_pages.training import figures, terms
from dashboard.ui import design
from lag_core.config import MethodConfig
from lag_core.explain.effects import Effect, Findings, effects, findings, heads_only
from lag_core.explain.history import EventLog, progress, smoothed
from lag_core.loss_terms import LOSS_TERMS
from lag_core.runs import open_run

STEPS, LENGTH = 3, 12
NORMS = {"segmentation": 3.0, "spm": 1.2, "nsc": 0.8, "sfp": 0.0, "kd_latent": 1e-4}
RAW = {"segmentation": 2.0, "spm": 0.5, "nsc": 0.1, "sfp": 0.0, "kd_latent": 0.3}


def event(step, iteration, **changes):
    """An event as `lag train` writes it; the shared layers join after a quarter of a later step."""
    names = list(RAW) if step else ["segmentation"]
    waits = step > 0 and iteration < LENGTH // 4
    found = {
        "step": step,
        "iteration": iteration,
        "total": LENGTH,
        "loss": 2.0 + iteration,
        "terms": {n: {"raw": RAW[n], "weight": 1.0 if n == "segmentation" else 0.5} for n in names},
        "gradient_norms": {n: 0.0 if waits else NORMS[n] * (1 + 0.1 * iteration) for n in names},
        "lr": {"heads": 0.01, "aspp": 0.0 if waits else 0.001},
        "images_per_second": 100.0 + iteration,
    }
    if iteration % 2:
        del found["gradient_norms"]
    if step:
        found["pseudo_labels"] = {"coverage": 0.25, "precision": 0.5 if iteration % 2 else None}
    return found | changes


def journal(steps=STEPS):
    return [event(t, i) for t in range(steps) for i in range(LENGTH)]


def write_events(folder, events):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [e if isinstance(e, str) else json.dumps(e) for e in events]
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in lines))


def history_of(tmp_path, events):
    write_events(tmp_path, events)
    return EventLog(tmp_path).read()


def same(one, other):
    """Two histories, number by number."""
    return one.table().keys() == other.table().keys() and all(
        np.array_equal(column, other.table()[name], equal_nan=True) for name, column in one.table().items()
    )


def edit(path, **changes):
    """Change keys of a run.json."""
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | changes))


# The journal as arrays


def test_history_holds_every_number_of_the_events(tmp_path):
    events = journal()
    found = history_of(tmp_path, events)
    assert len(found) == len(events) and found.steps == (0, 1, 2)
    assert found.terms == ("segmentation", "spm", "nsc", "sfp", "kd_latent")
    for row, e in enumerate(events):
        assert (found.step[row], found.iteration[row]) == (e["step"], e["iteration"])
        assert found.loss[row] == e["loss"] and found.throughput[row] == e["images_per_second"]
        for name in RAW:
            term = e["terms"].get(name, {"raw": math.nan, "weight": math.nan})
            np.testing.assert_equal(found.raw[name][row], term["raw"])
            np.testing.assert_equal(found.weighted(name)[row], term["raw"] * term["weight"])
            norm = e.get("gradient_norms", {}).get(name, math.nan)
            np.testing.assert_equal(found.norm[name][row], norm)
        assert found.rate["aspp"][row] == e["lr"]["aspp"]
        quality = e.get("pseudo_labels", {})
        np.testing.assert_equal(found.coverage[row], quality.get("coverage", math.nan))
        np.testing.assert_equal(found.precision[row], quality.get("precision") or math.nan)


@pytest.mark.parametrize("chunk", [1, 37, 500])
def test_reading_in_pieces_equals_reading_at_once(tmp_path, chunk):
    whole = history_of(tmp_path / "whole", journal(2))
    content = (tmp_path / "whole" / "events.jsonl").read_bytes()[: 4000 if chunk == 1 else None]
    content = content[: content.rfind(b"\n") + 1]
    (tmp_path / "whole" / "events.jsonl").write_bytes(content)
    whole = EventLog(tmp_path / "whole").read()
    path = tmp_path / "events.jsonl"
    path.touch()
    log = EventLog(tmp_path)
    for start in range(0, len(content), chunk):
        with path.open("ab") as file:
            file.write(content[start : start + chunk])
        log.read()
    assert same(log.read(), whole) and log.bytes_read == len(content)


def test_only_what_was_appended_is_read(tmp_path, monkeypatch):
    write_events(tmp_path, journal(1))
    log = EventLog(tmp_path)
    first = log.read()
    assert log.read() is first, "nothing new: nothing is built anew"
    path = tmp_path / "events.jsonl"
    before = path.stat().st_size
    # What was read may change underneath without being seen: proof that it is not read again.
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"#" * len(content))
        file.seek(0, 2)
        file.write((json.dumps(event(1, 0)) + "\n").encode())
    grown = log.read()
    assert len(grown) == len(first) + 1 and grown.steps == (0, 1)
    assert log.bytes_read == path.stat().st_size > before


def test_a_replaced_or_shortened_journal_is_read_anew(tmp_path):
    write_events(tmp_path, journal(2))
    log = EventLog(tmp_path)
    assert len(log.read()) == 2 * LENGTH
    write_events(tmp_path / "new", journal(3))
    (tmp_path / "new" / "events.jsonl").replace(tmp_path / "events.jsonl")
    assert log.read().steps == (0, 1, 2)
    write_events(tmp_path, journal(1))
    assert log.read().steps == (0,)
    (tmp_path / "events.jsonl").unlink()
    assert len(log.read()) == 0


def test_damaged_lines_are_left_out(tmp_path):
    good = event(0, 0)
    strange = ["{", "7", "null", "[1]", "", '"text"', "\x00\x01", '{"no": "event"}', "[" * 100_000]
    path = tmp_path / "events.jsonl"
    write_events(tmp_path, [good, *strange, event(0, 1)])
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 0, "iteration": 2, "lo')
    found = EventLog(tmp_path).read()
    assert found.iteration.tolist() == [0, 1]


def test_strange_values_are_missing_numbers(tmp_path):
    events = [
        {"step": 0, "iteration": 0, "loss": "high", "terms": [1], "lr": 0.1, "gradient_norms": None},
        {"step": 0, "iteration": 1, "terms": {"ce": 0.5, "kd": {"raw": True}}, "lr": {"heads": None}},
        {"step": 0, "iteration": 2, "total": -4, "terms": {"ce": 10**400}, "pseudo_labels": 3},
        {"step": -1, "iteration": 1e400, "loss": 1.0},
    ]
    found = history_of(tmp_path, events)
    assert np.isnan(found.loss[:3]).all()
    assert found.raw["ce"][1] == 0.5 and found.weight["ce"][1] == 1.0 and np.isnan(found.raw["kd"]).all()
    assert found.rate["network"][0] == 0.1 and found.shared_train.all()
    assert found.length(0) == 4, "at least as many as were seen; a wrong step continues the one before"


def test_more_names_than_a_network_has_are_left_out(tmp_path):
    found = history_of(tmp_path, [{"step": 0, "terms": {f"t{i}": 1.0 for i in range(1000)}}])
    assert len(found.terms) == 64


def test_an_iteration_that_was_logged_twice_counts_once(tmp_path):
    found = history_of(tmp_path, [event(0, 0), event(0, 1, loss=5.0), event(0, 1, loss=6.0), event(1, 0)])
    assert found.iteration.tolist() == [0, 1, 0] and found.loss[1] == 6.0


def test_a_weight_that_is_not_a_number_is_not_hidden(tmp_path):
    found = history_of(tmp_path, [event(0, 0), event(0, 1, terms={"segmentation": {"raw": math.nan}})])
    (step,) = effects(found, Findings(), 1)
    assert step.not_finite == ("segmentation",)
    assert "NaN" in terms.verdict(step) and terms.sign(step) == "problem"


def test_no_journal_is_an_empty_history(tmp_path):
    found = EventLog(tmp_path / "nowhere").read()
    assert len(found) == 0 and found.terms == () and found.steps == () and progress(found) is None
    assert effects(found, Findings(), 0) == () and found.shared_train.shape == (0,)


def test_smoothing_is_a_weighted_mean_of_what_was_before():
    values = np.array([1.0, math.nan, 5.0, 0.0, math.inf, -2.0])
    kept = [1.0, 5.0, 0.0, -2.0]
    slow = []
    for i in range(len(kept)):
        weights = [0.7 ** (i - j) for j in range(i + 1)]
        slow.append(sum(w * v for w, v in zip(weights, kept[: i + 1], strict=True)) / sum(weights))
    found = smoothed(values, 0.7)
    np.testing.assert_allclose(found[[0, 2, 3, 5]], slow)
    assert np.isnan(found[[1, 4]]).all()
    np.testing.assert_allclose(smoothed(np.array([3.0, 1.0]), 0.0), [3.0, 1.0])


# What the terms did


def test_effects_follow_from_the_norms(tmp_path):
    _, later, _ = effects(history_of(tmp_path, journal()), Findings(), 3)
    kinds = {t.name: t.effect for t in later.terms}
    assert kinds == {
        "segmentation": Effect.MOVED, "spm": Effect.MOVED, "nsc": Effect.MOVED,
        "sfp": Effect.ZERO, "kd_latent": Effect.HARDLY,
    }  # fmt: skip
    measured = [1 + 0.1 * i for i in range(4, LENGTH, 2)]
    assert later.term("spm").norm == pytest.approx(statistics.median(1.2 * m for m in measured))
    assert later.term("spm").measured == len(measured), "norms from before the shared layers join do not count"
    assert later.joined == 3 and later.length == LENGTH
    words = terms.verdict(later)
    assert "3 of 5 terms moved the shared layers: spm 2.0, nsc 1.4 beside segmentation 5.1." in words
    assert "**sfp did nothing**: the value was 0 throughout." in words
    assert "join at iteration 3 of 12" in words and terms.sign(later) == "problem"
    _, running = effects(history_of(tmp_path / "running", journal(2)), Findings(), 1)
    assert "sfp did nothing so far" in terms.verdict(running)


def test_dead_terms_are_those_of_the_trainer(tmp_path):
    path = write_run(tmp_path, "run", warnings=["step 1: term spm has no gradient: the extractor is frozen"])
    info = json.loads((path / "run.json").read_text())
    info["steps"][2]["dead_terms"] = ["nsc", "spm"]
    edit(path, steps=info["steps"], warnings=[*info["warnings"], "step 2: term nsc is nan; lower", "Hot."])
    found = findings(open_run(path))
    assert found.dead == {1: ("spm",), 2: ("nsc", "spm")} and found.why == {1: "the extractor is frozen"}
    assert found.not_finite == {2: ("nsc",)} and found.others == ("Hot.",)


def frozen_events():
    return [event(1, i, lr={"heads": 0.01}, gradient_norms=dict.fromkeys(RAW, 0.0)) for i in range(4)]


def test_a_frozen_extractor_says_so(tmp_path):
    dead = ("spm", "sfp", "nsc")
    found = Findings({1: dead}, {1: "the extractor is frozen"})
    (step,) = effects(history_of(tmp_path, frozen_events()), found, 2)
    words = terms.verdict(step)
    assert words.startswith("**spm, nsc and sfp have no gradient**: the extractor is frozen.")
    assert "segmentation and kd\\_latent trained the heads alone" in words and "did nothing" not in words
    assert step.joined is None


def test_a_dead_term_without_an_event_is_still_named(tmp_path):
    (step,) = effects(EventLog(tmp_path).read(), Findings({4: ("pod",)}), 5)
    assert step.step == 4 and "**pod has no gradient**" in terms.verdict(step)


def replaying(tmp_path, raw, **method):
    """Effects of a step in which replay has the value `raw` and no gradient on the shared layers."""
    norms = {"segmentation": 1.0, "replay": 0.0}
    values = {"segmentation": {"raw": 1.0, "weight": 1.0}, "replay": {"raw": raw, "weight": 1.0}}
    events = [event(1, i, gradient_norms=norms, terms=values) for i in range(3, 6)]
    (step,) = effects(history_of(tmp_path, events), Findings(), 2, heads_only(MethodConfig(**method)))
    return step


def test_replay_at_the_latent_map_acts_on_the_heads_alone(tmp_path):
    step = replaying(tmp_path, 1.0, replay_at="latent")
    assert terms.sign(step) != "problem" and "replay acts on the heads alone" in terms.verdict(step)


def test_replay_at_the_trunk_without_a_gradient_is_a_failure(tmp_path):
    step = replaying(tmp_path, 1.0, replay_at="trunk")
    assert terms.sign(step) == "problem" and "**replay did nothing**: a gradient of 0" in terms.verdict(step)


@pytest.mark.parametrize("at", ["latent", "trunk"])
def test_replay_that_replays_nothing_is_a_failure_wherever_it_begins(tmp_path, at):
    step = replaying(tmp_path, 0.0, replay_at=at)
    assert terms.sign(step) == "problem" and "**replay did nothing**: the value was 0" in terms.verdict(step)


@pytest.mark.parametrize(
    ("method", "said", "unsaid"),
    [
        ({"replay_at": "latent"}, "trains the heads, never the shared layers", "scores"),
        ({"replay_at": "trunk", "extractor": "live"}, "trains the ASPP and the heads", "never"),
        ({"replay_at": "trunk", "extractor": "frozen"}, "trains the heads; the ASPP is frozen", "ASPP and"),
        ({"replay_at": "trunk", "replay_kd": 2.0}, "and keep the scores that the old network gave them", "never"),
        ({"replay_at": "trunk", "replay_kd": 0.0}, "must still get their right classes; it", "scores"),
        ({"replay_at": "trunk", "replay_maps": "drawn"}, "drawn from the old classes' statistics", "stored"),
        ({"replay_at": "trunk", "replay_maps": "carried"}, "the step's own images", "stored"),
        ({"replay_at": "trunk", "replay_maps": "stored"}, "stored images of earlier steps", "statistics"),
    ],
)
def test_what_replay_means_follows_from_the_configuration(method, said, unsaid):
    words = terms.meaning("replay", MethodConfig(**method))
    assert said in words and unsaid not in words


@pytest.mark.parametrize(
    ("domain", "domains", "said"),
    [
        ("same", ("rgb", "irrg"), True),
        ("same", ("rgb",), False),
        ("same", (), False),
        ("stored", ("rgb", "irrg"), False),
    ],
)
def test_what_replay_leaves_out_is_said_where_domains_differ(domain, domains, said):
    words = terms.meaning("replay", MethodConfig(replay_domain=domain), domains)
    assert ("in another domain" in words) == said


@pytest.mark.parametrize(("name", "trains"), [("lag+", True), ("lag", False)])
def test_what_replay_means_agrees_with_what_it_moves(tmp_path, name, trains):
    """The gradient of the preset's replay on the ASPP, measured, against the sentence."""
    root = write_shapes(tmp_path / "shapes")
    weights = {"replay": 1.0, "pseudo_threshold": 0.0}
    run = tiny_run(root, tmp_path / "run", name, method=weights, optim={"extractor_delay": 0.0})
    norms = [e["gradient_norms"]["replay"] for e in run.events() if e["step"] > 0]
    assert (max(norms) > 0) == trains
    assert ("never the shared layers" in terms.meaning("replay", run.config.method)) != trains


def test_segmentation_learns_from_pseudo_labels_only_where_there_are_any():
    assert terms.meaning("segmentation", MethodConfig(pseudo="hard")).endswith("on its labels and pseudo-labels.")
    assert terms.meaning("segmentation", MethodConfig(pseudo="off")).endswith("on its labels.")


def test_every_term_has_a_meaning():
    unknown = terms.meaning("no such term", MethodConfig())
    assert all(terms.meaning(name, MethodConfig()) != unknown for name in [*LOSS_TERMS, "segmentation"])


def test_steps_of_which_the_same_is_said_share_a_line(tmp_path):
    events = [{**e, "step": t} for t in (1, 2, 4) for e in frozen_events()]
    groups = terms.grouped(effects(history_of(tmp_path, events), Findings(), 5))
    assert [g[:2] for g in groups] == [(1, 2), (4, 4)]


def test_without_norms_nothing_is_claimed(tmp_path):
    (step,) = effects(history_of(tmp_path, [event(0, 1), event(0, 3)]), Findings(), 1)
    assert step.names(Effect.UNMEASURED) == ("segmentation",)
    assert "effect on them is unknown" in terms.verdict(step) and terms.sign(step) == "worked"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.14, "3.1"),
        (0.0312, "0.031"),
        (99.5, "100"),
        (1234.5, "1,234"),
        (5e-9, "5e-9"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert terms.short(value) == text


def test_progress_and_time_left(tmp_path):
    found = progress(history_of(tmp_path, journal(1)[:8]))
    assert (found.step, found.iteration, found.total) == (0, 8, 12)
    speed = statistics.median(100.0 + i for i in range(8))
    assert found.seconds_left(4) == pytest.approx(4 * 4 / speed)
    assert terms.status(found, 4).startswith("Still training, step 0, iteration 8 of 12")
    assert "measuring" in terms.status(progress(history_of(tmp_path, journal(1))), 4)


# Figures


def traces(figure, name):
    return [t for t in figure.data if t.name == name]


def finite(trace):
    return [(x, y) for x, y in zip(trace.x, trace.y, strict=True) if x is not None]


def test_all_steps_are_equally_wide_and_one_counts_iterations(tmp_path):
    events = [event(0, i, total=LENGTH) for i in range(LENGTH)]
    events += [event(1, i, total=2) for i in range(2)]
    found = history_of(tmp_path, events)
    places = figures.Window(None, 0).positions(found)
    np.testing.assert_allclose(places, [i / LENGTH for i in range(LENGTH)] + [1.0, 1.5])
    window = figures.Window(1, 0)
    assert window.positions(window.of(found)).tolist() == [0.0, 1.0]


def test_zero_has_a_lane_and_dead_terms_are_crossed(tmp_path):
    found = history_of(tmp_path, journal(2))
    figure = figures.gradient_norms([found], figures.Window(None, 1), design.LIGHT, dead={1: ("sfp",)})
    low = 10 ** figure.layout.yaxis.range[0]
    positive = [y for t in figure.data if t.mode != "markers" for _, y in finite(t)]
    assert figure.layout.yaxis.type == "log" and min(positive) == pytest.approx(1e-4 * 1.4)
    (dead,) = traces(figure, "sfp dead")
    assert dead.marker.symbol == "x-thin" and len(finite(dead)) == LENGTH // 2
    assert all(low < y < min(positive) for _, y in finite(dead)), "below everything that is not zero"
    assert dead.showlegend, "a term that is never above zero is in the legend by its crosses"
    (waiting,) = traces(figure, "spm zero")
    assert not waiting.showlegend
    assert len(finite(waiting)) == 2, "measured twice before the shared layers join"
    assert all("no shared layer trains" in t for t in waiting.text if t)
    lanes = {y for t in figure.data if t.mode == "markers" for _, y in finite(t)}
    assert len(lanes) == len(RAW), "a row for each term"
    assert figure.layout.yaxis.ticktext[0] == "<b>0</b>"


def test_norms_are_drawn_as_they_were_logged(tmp_path):
    found = history_of(tmp_path, journal(2))
    figure = figures.gradient_norms([found], figures.Window(1, 1), design.DARK, dead={})
    (spm,) = traces(figure, "spm")
    np.testing.assert_allclose(finite(spm), [(i, 1.2 * (1 + 0.1 * i)) for i in range(4, LENGTH, 2)])


def test_compared_run_is_dotted_where_names_are_shared(tmp_path):
    one = history_of(tmp_path / "one", journal(2))
    other = history_of(tmp_path / "other", [event(0, i, terms={"pod": 1.0}) for i in range(4)])
    figure = figures.term_panels([one, other], figures.Window(None, 0), design.LIGHT)
    assert not [t for t in figure.data if t.line.dash == "dot"]
    figure = figures.term_panels([one, one], figures.Window(None, 0), design.LIGHT)
    dotted = [t for t in figure.data if t.line.dash == "dot"]
    assert len(dotted) == 2 * len(RAW), "raw and weighted of each term"
    assert [a.text for a in figure.layout.annotations[: len(RAW)]] == list(one.terms)


def test_panels_carry_raw_and_weighted(tmp_path):
    found = history_of(tmp_path, journal(2))
    figure = figures.term_panels([found], figures.Window(1, 1), design.LIGHT)
    raw, weighted = traces(figure, "raw"), traces(figure, "weighted")
    for place, name in enumerate(found.terms):
        factor = 1.0 if name == "segmentation" else 0.5
        np.testing.assert_allclose([y for _, y in finite(raw[place])], RAW[name])
        np.testing.assert_allclose([y for _, y in finite(weighted[place])], RAW[name] * factor)


def test_lines_stop_where_a_step_ends_and_averages_start_anew(tmp_path):
    events = [event(t, i, images_per_second=10.0**t) for t in (0, 1) for i in range(4)]
    found = history_of(tmp_path, events)
    figure = figures.throughput([found], figures.Window(None, 0, 0.9), design.LIGHT, ["run"])
    line = figure.data[-1]
    assert line.x[4] is None and line.y[5] == pytest.approx(10.0)


def test_long_lines_keep_their_extremes():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000)
    values[777], values[15_001], values[5] = 50.0, -50.0, math.nan
    kept = figures.kept_rows(values, 1000)
    assert len(kept) <= 1002 and {0, 777, 15_001, 19_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert figures.kept_rows(values[:1000], 1000).tolist() == list(range(1000))


def test_matrix_shows_norms_crosses_and_zeros(tmp_path):
    found = effects(history_of(tmp_path, journal(2)), Findings({1: ("nsc",)}), 1)
    figure = figures.moved_matrix(found, design.LIGHT, marked=1, last=0)
    (texts,) = traces(figure, "texts")
    names = list(RAW)
    at = {(names[y], x): t for x, y, t in zip(texts.x, texts.y, texts.text, strict=True)}
    assert at["nsc", 1] == "<b>✕</b>" and at["sfp", 1] == "<b>0</b>" and at["spm", 1] == "2.0"
    assert ("spm", 0) not in at, "no part of step 0"
    (grid,) = traces(figure, "gradients")
    values = np.array(grid.z, float)
    assert values[0, 1] == 1 and values[4, 1] < values[1, 1] < 1
    (cells,) = traces(figure, "cells")
    assert {tuple(d) for d in cells.customdata} == {(0,)}, "a step that is not finished cannot be chosen"


def test_names_of_a_strange_run_stay_text(tmp_path):
    evil = "<a href='javascript:alert(1)'>x</a>"
    found = history_of(tmp_path, [event(0, 0, terms={evil: 1.0}, gradient_norms={evil: 1.0}, lr={evil: 1.0})])
    window = figures.Window(None, 0)
    drawn = [
        figures.gradient_norms([found], window, design.LIGHT, dead={}),
        figures.term_panels([found], window, design.LIGHT),
        figures.learning_rates([found], window, design.LIGHT),
        figures.moved_matrix(effects(found, Findings(), 1), design.LIGHT, marked=0, last=0),
    ]
    for figure in drawn:
        assert "<a href" not in json.dumps(figure.to_plotly_json(), default=str)


@pytest.mark.parametrize("events", [[], [{"step": 0}], [{"step": 3, "iteration": 5, "loss": 1.0}]])
def test_figures_of_almost_nothing(tmp_path, events):
    found = history_of(tmp_path, events)
    for window in (figures.Window(None, 0), figures.Window(3, 0, 0.9), figures.Window(7, 0)):
        for draw in (figures.learning_rates, figures.pseudo_labels, figures.term_panels):
            assert draw([found], window, design.LIGHT).to_plotly_json()
        assert figures.gradient_norms([found], window, design.LIGHT, dead={}).to_plotly_json()
        assert figures.throughput([found], window, design.LIGHT, ["run"]).to_plotly_json()


# The page


def open_page():
    from dashboard import app

    app.main("training")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two finished runs: one whose losses act, one with a frozen extractor."""
    write_events(write_run(tmp_path, "aerial-2-2-1-finetune", method="lag"), journal())
    warnings = ["step 1: term spm has no gradient: the extractor is frozen", "It was **hot**."]
    write_events(
        write_run(tmp_path, "z-reference", method="reference", warnings=warnings),
        journal(1) + frozen_events(),
    )
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    monkeypatch.delenv("LAG_DATA", raising=False)
    return tmp_path


@pytest.fixture
def page(root):
    return AppTest.from_function(open_page, default_timeout=60)


def text_of(at):
    return "\n".join(e.value for e in [*at.main.markdown, *at.main.caption])


def test_the_answer_comes_first(page):
    page.query_params["step"] = "1"
    at = page.run()
    assert not at.exception and not at.error and not at.warning
    answer = next(m.value for m in at.main.markdown if "moved the" in m.value and "#####" not in m.value)
    assert "**steps 1 and 2**: 3 of 5 terms moved the shared layers" in answer
    assert "Compared, z\\-reference, step 1: **spm has no gradient**" in text_of(at)
    assert "Neuron-relevant" in text_of(at), "each term is explained"
    assert len(at.get("plotly_chart")) == 6


def test_a_frozen_run_is_answered_and_other_warnings_stay_literal(page):
    page.query_params["run"] = "z-reference"
    at = page.run()
    assert not at.exception and not at.error
    assert "spm has no gradient" in text_of(at) and "the extractor is frozen" in text_of(at)
    assert [w.value for w in at.warning] == [r"It was \*\*hot\*\*\."]
    assert "step 2: the journal has no events of this step" in text_of(at)


def test_settings_come_from_the_link_and_hostile_ones_fall_back(page):
    page.query_params.update({"span": "step", "smoothing": "1e99", "step": "1"})
    at = page.run()
    assert at.session_state["span"] == "step" and at.session_state["smoothing"] == "some"
    assert any("smoothing" in t.value for t in at.toast)
    page.query_params["span"] = "now"
    at = page.run()
    assert not at.exception and at.session_state["span"] != "now", "no step is training"


def test_a_run_without_events_says_what_to_do(page, root):
    (root / "z-reference" / "events.jsonl").unlink()
    page.query_params["run"] = "z-reference"
    at = page.run()
    assert not at.exception and not at.error
    assert any("holds no journal" in i.value for i in at.info)
    about = json.loads((root / "z-reference" / "run.json").read_text())
    imported = {"imported": {"format": "plop", "norm": "iabn", "files": []}}
    (root / "z-reference" / "run.json").write_text(json.dumps({**about, **imported}))
    at = page.run()
    assert not at.exception and any("was not trained here" in i.value for i in at.info)


def test_a_run_that_trains_is_followed(page, root):
    path = root / "aerial-2-2-1-finetune"
    info = json.loads((path / "run.json").read_text())
    edit(path, status="training", steps=info["steps"][:1])
    write_events(path, journal(1) + [event(1, i) for i in range(4)])
    at = page.run()
    assert "Still training, step 1, iteration 4 of 12" in text_of(at)
    with (path / "events.jsonl").open("a") as file:
        file.write(json.dumps(event(1, 4)) + "\n" + json.dumps(event(1, 5))[:40])
    at.run()
    assert "Still training, step 1, iteration 5 of 12" in text_of(at)
    edit(path, status="finished", steps=info["steps"])
    at.run()
    assert "Still training" not in text_of(at) and not at.exception


def test_a_run_is_followed_from_its_first_iteration(page, root):
    path = root / "aerial-2-2-1-finetune"
    edit(path, status="training", steps=[])
    write_events(path, [event(0, i) for i in range(4)])
    at = page.run()
    assert not at.exception and not at.error and "Still training, step 0, iteration 4 of 12" in text_of(at)
    assert at.session_state["span"] == "all" and len(at.get("plotly_chart")) >= 3


def test_a_fragment_of_a_run_that_went_on_starts_the_app_again(root, monkeypatch):
    from dashboard.shell import following

    path = root / "aerial-2-2-1-finetune"
    edit(path, status="training")
    run = open_run(path)
    calls = []
    monkeypatch.setattr(following.st, "rerun", lambda **scope: calls.append(scope))
    following.start_over_if_changed(run)
    assert not calls
    edit(path, status="finished")
    following.start_over_if_changed(run)
    assert calls == [{"scope": "app"}]
    (path / "run.json").unlink()
    following.start_over_if_changed(run)
    assert len(calls) == 1


def test_the_page_does_not_import_torch(root):
    program = (
        "import sys\nfrom streamlit.testing.v1 import AppTest\n"
        "at = AppTest.from_string(\"from dashboard import app; app.main('training')\", default_timeout=60).run()\n"
        "assert not at.exception and len(at.get('plotly_chart')) == 6\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
