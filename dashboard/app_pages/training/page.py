"""Training: did the loss terms have an effect?"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from dashboard.app_pages.training import figures, terms
from dashboard.page import Empty, Page, guarded
from dashboard.shell import following, which_term
from dashboard.state import selection, settings
from dashboard.ui import untrusted
from lag_core.capabilities import trained_here
from lag_core.explain.effects import Findings, StepEffects, effects, findings, heads_only
from lag_core.explain.history import EventLog, History, progress
from lag_core.runs import Run

QUIET_SECONDS = 600.0
"""After this long without a new line, the training has probably been stopped."""

LOGS_KEPT = 16
"""Journals of runs that are held in memory."""

TOP_HEIGHT, PANELS_HEIGHT, LOW_HEIGHT = 236, 210, 136

SMOOTHING: Mapping[str, float] = {"none": 0.0, "some": 0.7, "strong": 0.93}
SMOOTHED = "some"
"""At first."""

ICONS: Mapping[terms.Sign, str] = {
    "worked": ":green[:material/check_circle:]",
    "nothing old": ":gray[:material/info:]",
    "problem": ":orange[:material/error:]",
}

SOURCE_TERMS = "docs/method.md#schedule; the terms themselves: #spm, #sfp, #nsc, #additions (distillation)"


@dataclass(frozen=True)
class Told:
    """A run with its journal and its trainer's messages."""

    run: Run
    history: History
    findings: Findings
    effects: tuple[StepEffects, ...]


def render(page: Page) -> None:
    """Draw the page; one of a run that trains draws itself anew while the run goes on."""
    window = _controls(page)
    follows = page.run.status == "training"
    if follows:
        st.html(following.STEADY)
    draw = st.fragment(_draw, run_every=following.SECONDS if follows else None)
    draw(page, window)


def ahead(page: Page) -> None:
    """Read what the page shows first, and draw what takes longest, without showing it."""
    told, other = tell(page.run), tell(page.run2) if page.run2 else None
    if len(told.history):
        _term_panels(page, figures.Window(None, page.step, SMOOTHING[SMOOTHED]), told, other)


def _controls(page: Page) -> figures.Window:
    """What is drawn, and how smooth. Outside the part that draws itself anew: a change goes into the link."""
    spans = {"all": "all steps"}
    if page.last_step >= 0:
        spans["step"] = f"step {page.step}"
    if page.run.status == "training":
        spans["now"] = "step in training"
    with page.toolbar:
        st.markdown("Show", width="content")
        span = settings.segments("Show", "span", tuple(spans), names=spans.get, label_visibility="collapsed")  # type: ignore[arg-type]
        st.markdown("Smoothing", width="content")
        smooth = settings.segments(
            "Smoothing", "smoothing", tuple(SMOOTHING), SMOOTHED, label_visibility="collapsed",
            help="Exponential moving average, restarted at each step; the logged values stay faintly behind it.",
        )  # fmt: skip
    step = {"all": None, "step": page.step, "now": len(page.run.steps)}[span]
    return figures.Window(step, page.step, SMOOTHING[smooth])


def _draw(page: Page, window: figures.Window) -> None:
    """Everything under the title."""
    with guarded("Training"):
        following.start_over_if_changed(page.run)
        told = tell(page.run)
        other = tell(page.run2) if page.run2 else None
        _status(told)
        if not len(told.history):
            raise Empty(_nothing(page.run))
        _answer(page, told, other)
        _top(page, window, told, other)
        _middle(page, window, told, other)
        _bottom(page, window, told, other)
        if page.step > 0:
            which_term.draw(page, page.run, _probed(page), page.step)


@st.cache_resource(max_entries=LOGS_KEPT, show_spinner=False)
def _log(folder: str) -> tuple[EventLog, threading.Lock]:
    return EventLog(Path(folder)), threading.Lock()


def read_history(run: Run) -> History:
    """The run's journal, shared by all sessions; each call reads only what was appended since the last."""
    log, lock = _log(str(run.path))
    with lock:
        return log.read()


def tell(run: Run) -> Told:
    """The run's journal and its trainer's messages."""
    history, found = read_history(run), findings(run)
    return Told(run, history, found, effects(history, found, len(run.steps), heads_only(run.config.method)))


def _nothing(run: Run) -> str:
    name = untrusted.name(run.name)
    if run.status == "training":
        return f"{name} has not logged an iteration yet. This page updates by itself."
    if not trained_here(run):
        return f"{name} was not trained here, so there are no losses to show."
    return (
        f"{name} holds no journal (events.jsonl), so there are no losses to show. "
        "Runs that `lag train` writes have one; copy it into the run's folder if it is missing."
    )


def _status(told: Told) -> None:
    """A run that is not finished, and warnings that the verdict does not mention."""
    run = told.run
    for sentence in told.findings.others:
        st.warning(untrusted.markdown(sentence), icon=":material/warning:")
    if run.status == "failed":
        st.error("The training failed and stopped; lower what the verdict names and train again.")
    if run.status == "training":
        quiet = _quiet_seconds(run)
        line = terms.status(progress(told.history), run.config.optim.batch)
        if quiet > QUIET_SECONDS:
            st.markdown(
                f":material/pause_circle: {line}. Nothing was written for {terms.duration(quiet)}: "
                "if it was stopped, `lag train … --resume` goes on with it."
            )
        else:
            st.markdown(f":green[:material/sync:] {line}")


def _quiet_seconds(run: Run) -> float:
    """Seconds since something was last written into the run's folder."""
    paths = [run.path / name for name in ("events.jsonl", "run.json")]
    return time.time() - max((p.stat().st_mtime for p in paths if p.exists()), default=time.time())


def _answer(page: Page, told: Told, other: Told | None) -> None:
    """What the terms did, step by step; steps with the same verdict share a line."""
    lines = [_line(*group, marked=page.step) for group in terms.grouped(told.effects)]
    lines += _without_events(told)
    height: int | Literal["content"] = 96 if len(lines) > 4 else "content"
    with st.container(height=height, border=False, key="training-verdict"):
        page.answer("  \n".join(lines))
        if other and (compared := _compared(page, other)):
            st.caption(compared)


def _without_events(told: Told) -> list[str]:
    """Finished steps of which the journal holds nothing."""
    missing = [info.step for info in told.run.steps if info.step not in told.history.steps]
    named = [f":gray[step {step}: the journal has no events of this step.]" for step in missing if step]
    if 0 in missing:
        named.append(":gray[step 0: taken over from another run, whose journal has its events.]")
    return named


def _line(first: int, last: int, words: str, sign: terms.Sign, *, marked: int) -> str:
    between = "and" if last == first + 1 else "to"
    name = f"step {first}" if first == last else f"steps {first} {between} {last}"
    name = f"**{name}**" if first <= marked <= last else name
    return f"{ICONS[sign]} {name}: {words}"


def _compared(page: Page, other: Told) -> str:
    """The verdict on the same step of the compared run."""
    found = next((e for e in other.effects if e.step == page.step2), None)
    if found is None:
        return ""
    return f"Compared, {untrusted.name(other.run.name)}, step {found.step}: {terms.verdict(found)}"


def _probed(page: Page) -> int | None:
    """The chosen class where it was old at the chosen step, else the mean over the old classes."""
    return page.cls if page.run.labels.step_of(page.cls) < page.step else None


def _top(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    left, right = st.columns((1, 1.75), gap="small")
    with left:
        _matrix(page, told)
    with right:
        _gradients(page, window, told, other)


def _middle(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    left, right = st.columns((1.75, 1), gap="small")
    with left:
        _terms(page, window, told, other)
    with right:
        _pseudo_labels(page, window, told, other)


def _bottom(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    left, right = st.columns(2, gap="small")
    with left:
        _rates(page, window, told, other)
    with right:
        _throughput(page, window, told, other)
    _glossary(page, told)


def _matrix(page: Page, told: Told) -> None:
    with page.section(
        "Did it move the shared layers?",
        "Median gradient norm; ✕: no gradient, 0: always zero. Click a step to go there.",
        formula=r"g_{t,k} = \operatorname{median}_i \lVert \lambda_k \nabla_\theta L_k^{(i)} \rVert_2",
        source="docs/method.md#terms; θ: what old and new classes share; i: measurements while θ trains",
        slug="moved",
    ) as view:
        if not any(step.terms for step in told.effects):
            raise Empty("The journal names no loss term. `log.gradients_every` sets how often norms are taken.")
        view.csv(lambda: _matrix_table(told))
        points = view.plot(
            figures.moved_matrix(told.effects, page.ink, marked=page.step, last=told.run.last_step),
            "Table of the median gradient norm of each loss term on the shared layers, by step",
            height=TOP_HEIGHT,
            select=True,
        )
        if points and selection.fresh("moved", points[0]["customdata"]):
            selection.go(step=points[0]["customdata"][0])


def _matrix_table(told: Told) -> dict[str, list[Any]]:
    rows = [(step.step, term) for step in told.effects for term in step.terms]
    return {
        "step": [step for step, _ in rows],
        "term": [term.name for _, term in rows],
        "effect": [str(term.effect) for _, term in rows],
        "median_gradient_norm": [term.norm for _, term in rows],
        "measurements": [term.measured for _, term in rows],
        "largest_raw_value": [term.largest for _, term in rows],
    }


def _histories(told: Told, other: Told | None) -> list[History]:
    """The open run's history, and the compared one's where it has any."""
    return [told.history, *([other.history] if other and len(other.history) else [])]


def _dotted(other: Told | None) -> str:
    return f" Dotted: {untrusted.name(other.run.name)}." if other and len(other.history) else ""


def _check(columns: list[np.ndarray], why: str) -> None:
    """Empty with `why` if there is no number to draw."""
    if not any(np.isfinite(column).any() for column in columns):
        raise Empty(why)


def _gradients(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    with page.section(
        "Gradient norm",
        f"Each weighted term's norm on the shared layers, logarithmic; the lane below is zero.{_dotted(other)}",
        formula=r"g_k = \lVert \lambda_k \nabla_\theta L_k \rVert_2",
        source="docs/method.md#terms; θ: trained parameters that are no head; λ: the term's weight",
        slug="gradients",
    ) as view:
        shown = window.of(told.history)
        _check(list(shown.norm.values()), _no_numbers(window, "No gradient norm was logged"))
        view.csv(lambda: _picked(shown, ".gradient_norm"))
        view.plot(
            figures.gradient_norms(_histories(told, other), window, page.ink, dead=told.findings.dead),
            "Gradient norm of each loss term on the shared layers over the training",
            height=TOP_HEIGHT,
        )


def _no_numbers(window: figures.Window, what: str) -> str:
    where = "" if window.step is None else f" at step {window.step}"
    return f"{what}{where}. Choose “all steps” above, or lower log.gradients_every and log.events_every."


def _terms(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    with page.section(
        "Each term",
        f"Line: the raw value; filled: what it adds to the loss. Each on its own scale.{_dotted(other)}",
        formula=r"L = \sum_k \lambda_k(i)\, L_k",
        source=SOURCE_TERMS,
        slug="terms",
    ) as view:
        shown = window.of(told.history)
        _check(list(shown.raw.values()), _no_numbers(window, "No term was logged"))
        view.csv(shown.table)
        view.plot(
            _term_panels(page, window, told, other),
            "Raw and weighted value of each loss term over the training",
            height=PANELS_HEIGHT,
        )


def _term_panels(page: Page, window: figures.Window, told: Told, other: Told | None) -> go.Figure:
    return figures.term_panels(_histories(told, other), window, page.ink, columns=_columns(told.history))


def _columns(history: History) -> int:
    """Panels beside one another: up to two rows of them, as long as each stays wide enough."""
    return min(max(math.ceil(len(history.terms) / 2), 2), 4)


def _pseudo_labels(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    with page.section(
        "Pseudo-labels",
        f"Coverage: unlabelled pixels that got a label; precision: labels that are right.{_dotted(other)}",
        formula=r"\text{coverage} = \frac{\#\,\text{accepted}}{\#\,\text{catch-all}},\quad"
        r"\text{precision} = \frac{\#\,\text{correct}}{\#\,\text{judged}}",
        source="docs/method.md#pseudo-label-quality; judged against the full annotation, which training never sees",
    ) as view:
        shown = window.of(told.history)
        _check(
            [shown.coverage],
            "No pseudo-labels here: step 0 has none, and later ones only where `method.pseudo` is on.",
        )
        view.csv(lambda: _picked(shown, "pseudo_labels."))
        runs = _histories(told, other)
        view.plot(
            figures.pseudo_labels(runs, window, page.ink),
            "Coverage and precision of the pseudo-labels over the training, percent",
            height=PANELS_HEIGHT - 24,
        )
        st.caption(_quality(shown))


def _quality(shown: History) -> str:
    """Coverage and precision of the window in words."""
    coverage = shown.coverage[np.isfinite(shown.coverage)]
    precision = shown.precision[np.isfinite(shown.precision)]
    right = f"{100 * np.mean(precision):.0f} % of them right" if len(precision) else "none of which was judged"
    return f"On average {100 * np.mean(coverage):.0f} % covered, {right}."


def _rates(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    with page.section(
        "Learning rate",
        f"One line per part that trains; the lane below is zero.{_dotted(other)}",
        formula=r"\eta(p) = \eta_0 (1 - p)^{0.9}, \quad p = i / n",
        source="docs/method.md#schedule; 0.9 is optim.power; a part joins after optim.extractor_delay",
        slug="rates",
    ) as view:
        shown = window.of(told.history)
        _check(list(shown.rate.values()), _no_numbers(window, "No learning rate was logged"))
        view.csv(lambda: _picked(shown, "lr."))
        view.plot(
            lambda: figures.learning_rates(_histories(told, other), window, page.ink),
            "Learning rate of each part of the network over the training",
            height=LOW_HEIGHT,
            below=True,
        )


def _throughput(page: Page, window: figures.Window, told: Told, other: Told | None) -> None:
    with page.section(
        "Throughput",
        f"Images per second, {_speeds(told)}.{_dotted(other)}",
        formula=r"v = \text{batch} / \text{seconds of the iteration}",
        source="ours; an iteration that measures gradient norms takes longer",
    ) as view:
        shown = window.of(told.history)
        _check([shown.throughput], _no_numbers(window, "No throughput was logged"))
        view.csv(lambda: _picked(shown, "images_per_second"))
        names = [told.run.name, *([other.run.name] if other else [])]
        view.plot(
            lambda: figures.throughput(_histories(told, other), window, page.ink, names),
            "Images per second over the training",
            height=LOW_HEIGHT,
            below=True,
        )


def _speeds(told: Told) -> str:
    """Median speed and time spent, in words."""
    speed = told.history.throughput
    middle = float(np.median(speed[np.isfinite(speed)])) if np.isfinite(speed).any() else math.nan
    seconds = sum(s.seconds for s in told.run.steps)
    spent = f"; {terms.duration(seconds)} in all" if seconds else ""
    return "unknown" + spent if math.isnan(middle) else f"median {middle:,.0f}{spent}"


def _glossary(page: Page, told: Told) -> None:
    with page.section("What the terms are", "This run's terms, with their weights.", inline=True):
        columns = st.columns(2, gap="medium")
        half = -(-len(told.history.terms) // 2)
        for i, name in enumerate(told.history.terms):
            weight = getattr(told.run.config.method, name, None)
            times = f" × {weight:g}" if isinstance(weight, int | float) else ""
            shown = untrusted.name(name, 40)
            meaning = terms.meaning(name, told.run.config.method, told.run.config.data.domains)
            columns[i // half].caption(f"**{shown}**{times}: {meaning}")


def _picked(shown: History, part: str) -> dict[str, list[Any]]:
    """The training's position, and the columns whose name contains `part`."""
    table = shown.table()
    wanted = {name: column for name, column in table.items() if part in name}
    return {name: table[name] for name in ("step", "iteration")} | wanted
