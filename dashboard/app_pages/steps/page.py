"""Steps: what happened to this picture?"""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.steps import words
from dashboard.components.viewer import NOTHING, PENDING, Layer, ProbabilityGrid
from dashboard.page import Empty, Page, View
from dashboard.picture import predictions, stepwise
from dashboard.picture.predictions import Answers, Shown
from dashboard.picture.viewer import choose_beside, show_picture
from dashboard.shell import steps_coming
from dashboard.state import selection
from dashboard.ui import untrusted
from dashboard.ui.wording import percent
from lag_core.data.undecided import LEAST
from lag_core.runs import Run

VIEWER = "steps-viewer"
HEIGHT = 500


def render(page: Page) -> None:
    """Draw the page."""
    picture = page.picture()
    shown = predictions.shown(page.run, picture)
    found = stepwise.answers(page.run, picture, page.step)
    other = stepwise.answers(page.run2, picture, page.step2, page.run) if page.run2 else None
    page.answer(_answer(page, shown, found))
    pixel = _view(page, shown, found, other)
    steps_coming.follow(page, found, other)
    left, right = st.columns((1.15, 1), gap="small")
    with left:
        _pixel_history(page, shown, found, other, pixel)
    with right:
        _class_history(page, shown, found)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    picture = page.picture()
    predictions.shown(page.run, picture)
    predictions.answers(page.run, picture)
    if page.run2:
        predictions.answers(page.run2, picture, page.run)


# ---------------------------------------------------------------------- the picture


def _view(page: Page, shown: Shown, found: Answers, other: Answers | None) -> tuple[int, int] | None:
    """The viewer; returns the chosen pixel."""
    layers, grids, first, first2 = _layers(page, shown, found, other)
    beside = _beside(page, shown, found, first, first2)
    smaller = "" if shown.size == shown.full_size else f" Shown at {shown.size[0]} x {shown.size[1]} pixels."
    with page.section(
        "Every step of this picture",
        "Point at a pixel to read each step's most probable classes; click to keep it."
        f" Scroll to zoom; with *Swipe*, drag the divider.{_counted(shown)}{smaller}",
        slug="picture",
        below=True,
        formula=r"\hat y^t_p = \arg\max_k \; P^t_k(p), \qquad \text{drawn where } P^t_{\hat y}(p) \ge \theta",
        source="P: sigmoid or softmax of the step's logits, as the run was trained; θ: confidence threshold. "
        "Grey: “none”, no class is probable enough (sidebar, undecided pixels); tables and measures take the most "
        "probable class",
    ) as view:
        view.csv(lambda: _pixel_counts(page, shown, found))
        seen = show_picture(
            view,
            shown,
            layers,
            key=VIEWER,
            title="The selected picture",
            height=HEIGHT,
            active=first + page.step,
            second=beside,
            probabilities=grids,
            truth=0 if shown.truth is not None else None,
        )
        if seen.layer is not None and first <= seen.layer <= first + page.last_step:
            selection.go(step=seen.layer - first)
        return seen.pixel
    return None


def _counted(shown: Shown) -> str:
    """What the shares under the steps count."""
    if shown.truth is None:
        return ""
    return " Percent right and none: of the pixels whose class the step knows; “none” is not right."


def _layers(
    page: Page, shown: Shown, found: Answers, other: Answers | None
) -> tuple[list[Layer], list[ProbabilityGrid], int, int]:
    """Truth, the run's steps, the compared run's steps; and where the steps of either begin."""
    layers = [Layer("Ground truth", shown.truth)] if shown.truth is not None else []
    first = len(layers)
    name = untrusted.plain(page.run.name, 60) if page.run2 else ""
    own, grids = predictions.step_layers(found, _notes(page, page.run, shown, found), page.least, name)
    layers += own
    if page.run2 and other:
        their, more = predictions.step_layers(
            other,
            _notes(page, page.run2, shown, other, page.run),
            page.least,
            untrusted.plain(page.run2.name, 60),
        )
        layers, grids = layers + their, grids + more
    return layers, grids, first, first + len(own)


def _notes(page: Page, run: Run, shown: Shown, found: Answers, space: Run | None = None) -> list[str]:
    """The note under each step: how much of the known classes is right as drawn and how much is "none"; without
    ground truth, how much changed."""
    drawn = [found.drawn(t, page.least) for t in range(len(found.predictions))]
    if shown.truth is not None:
        shares = [_right(run, shown.truth, labels, t, space) for t, labels in enumerate(drawn)]
        notes = ["" if np.isnan(share) else f"{percent(share)} right" for share in shares]
    else:
        changed = [float((a != b).mean()) for a, b in zip(found.predictions, found.predictions[1:], strict=False)]
        notes = ["", *(f"{percent(share)} changed" for share in changed)]
        notes = ["" if {t, t - 1} & found.pending else note for t, note in enumerate(notes)]
    none = [_none(run, shown.truth, labels, t, space) for t, labels in enumerate(drawn)]
    return [", ".join(filter(None, (w, f"{percent(n)} none" if n else ""))) for w, n in zip(notes, none, strict=True)]


def _none(run: Run, truth: np.ndarray | None, labels: np.ndarray, step: int, space: Run | None) -> float:
    """Share without a clear class among the pixels that `_right` counts, or among all without truth. 0 for none."""
    asked = np.ones(labels.shape, bool) if truth is None else _asked(run, truth, step, space)
    return float((labels == NOTHING)[asked].mean()) if asked.any() else 0.0


def _right(run: Run, truth: np.ndarray, labels: np.ndarray, step: int, space: Run | None = None) -> float:
    """Share right among pixels of classes that `run` knows after `step`; maps in the indices of `space`."""
    asked = _asked(run, truth, step, space)
    return float((labels == truth)[asked].mean()) if asked.any() else float("nan")


def _asked(run: Run, truth: np.ndarray, step: int, space: Run | None) -> np.ndarray:
    """Where the true class is one that `run` knows after `step`, bool [H, W]."""
    return np.isin(truth, predictions.known_classes(run, step, space or run))


def _beside(page: Page, shown: Shown, found: Answers, first: int, first2: int) -> int | None:
    """Which layer is on the other side: chosen in the page's toolbar."""
    names = {"none": "nothing", "truth": "ground truth", "before": "the step before"}
    if shown.truth is None:
        del names["truth"]
    names |= {str(t): f"step {t}" for t in range(len(found.predictions))}
    if page.run2:
        names["run2"] = f"{untrusted.plain(page.run2.name, 40)}, same step"
    default = "truth" if shown.truth is not None else "before"
    chosen = choose_beside(page, "beside", names, default, label="Beside it", width=240)
    places = {"none": None, "truth": 0, "before": first + page.step - 1 if page.step else None}
    places |= {str(t): first + t for t in range(len(found.predictions))}
    places["run2"] = first2 + page.step2
    return places[chosen]


def _pixel_counts(page: Page, shown: Shown, found: Answers) -> dict[str, list[Any]]:
    """Pixels of each class in the truth and after every step."""
    count = len(page.run.classes)
    table: dict[str, list[Any]] = {"class": [c.name for c in page.run.classes]}
    if shown.truth is not None:
        table["truth"] = np.bincount(shown.truth.ravel(), minlength=256)[:count].tolist()
    for t, labels in enumerate(found.predictions):
        if t in found.pending:
            continue
        table[f"step {t}"] = np.bincount(labels.ravel(), minlength=256)[:count].tolist()
    return table


# ---------------------------------------------------------------------- the answer


def _answer(page: Page, shown: Shown, found: Answers) -> str:
    if page.step in found.pending:
        return f"Step {page.step} is {PENDING}; the others appear as they finish."
    if shown.truth is None:
        return _answer_without_truth(page, found)
    later = words.later_sentence(page.run, shown.truth, found.predictions[page.step], page.step)
    now = _right(page.run, shown.truth, found.predictions[page.step], page.step)
    if np.isnan(now):
        return _joined(f"After step {page.step} none of the classes in this picture has been introduced yet.", later)
    none = _none(page.run, shown.truth, found.drawn(page.step, page.least), page.step, None)
    basis = "Pixels shown as “none” count as their most probable class." if none else ""
    sentence = f"After step {page.step}, **{percent(now)}** of the pixels of known classes are right"
    return _joined(sentence + _since_step_0(page, shown.truth, found, now), later, basis)


def _since_step_0(page: Page, truth: np.ndarray, found: Answers, now: float) -> str:
    """The end of the sentence about the share that is right, and which class is to blame."""
    if page.step == 0:
        missing = words.never_found_sentence(page.run, truth, _shares(page, truth, found)[:1])
        return _joined(".", missing or "Go to a later step to see what it does to them.")
    if found.pending & set(range(page.step)):
        return ". The loss follows when the earlier steps are computed."
    before = percent(_right(page.run, truth, found.predictions[0], 0))
    start = ", as after step 0" if before == percent(now) else f"; after step 0 it was {before}"
    blame = words.known_sentence(page.run, truth, _shares(page, truth, found)[: page.step + 1])
    return _joined(f"{'' if before == '–' else start}.", blame)


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _answer_without_truth(page: Page, found: Answers) -> str:
    if page.step == 0:
        return "This picture has no annotation: you see what each step predicts. Go to a later step."
    if page.step - 1 in found.pending:
        return f"Step {page.step - 1} is {PENDING}; then you see what step {page.step} changed."
    share = float((found.predictions[page.step] != found.predictions[page.step - 1]).mean())
    return (
        f"**{percent(share)}** of the pixels have another class after step {page.step} than after step "
        f"{page.step - 1}. This picture has no annotation, so it is unknown which of the two is right."
    )


def _shares(page: Page, truth: np.ndarray, found: Answers) -> np.ndarray:
    """float [T, K]: share of each class's pixels that is right; NaN if absent, not introduced, or not computed yet."""
    count = len(page.run.classes)
    shares = np.array([predictions.right_shares(labels, truth, count) for labels in found.predictions])
    for t in range(len(shares)):
        shares[t, page.run.labels.seen(t) :] = np.nan
    shares[sorted(found.pending)] = np.nan
    return shares


# ---------------------------------------------------------------------- tables


def _pixel_history(
    page: Page, shown: Shown, found: Answers, other: Answers | None, pixel: tuple[int, int] | None
) -> None:
    truth = None if pixel is None or shown.truth is None else int(shown.truth[pixel[1], pixel[0]])
    names = predictions.class_names(page.run)
    where = f"Pixel {pixel[0]}, {pixel[1]}" if pixel else "The pixel that you click above"
    if truth is not None and truth < len(names):
        where += f", in truth **{untrusted.name(names[truth])}**"
    with page.section("This pixel at each step", f"{where}.", slug="pixel", inline=True) as view:
        if pixel is None:
            raise Empty("Click a pixel in the picture to see each step's class for it.")
        rows = _pixel_rows(page.run, found, shown, pixel, truth, page.run, page.least)
        if page.run2 and other:
            rows += _pixel_rows(page.run2, other, shown, pixel, truth, page.run, page.least)
        _draw_pixel_table(view, rows, bool(page.run2))


def _pixel_rows(
    run: Run,
    found: Answers,
    shown: Shown,
    pixel: tuple[int, int],
    truth: int | None,
    space: Run,
    least: float = LEAST,
) -> list[dict[str, Any]]:
    """One row per step: the class that the pixel was given, the runner-up, and whether it is right."""
    x, y = pixel
    names = predictions.class_names(space)
    table = predictions.class_table(run, space)
    rows = []
    for step, (labels, grid) in enumerate(zip(found.predictions, found.grids, strict=True)):
        if step in found.pending:
            rows.append({"run": untrusted.plain(run.name, 60), "step": step, "called": PENDING, **_NO_CHANCES, "": ""})
            continue
        chance = predictions.probability_at(grid, x, y, shown.size)
        called = int(labels[y, x])
        second = next((int(k) for k in np.argsort(-chance) if k != called), called)
        rows.append(
            {
                "run": untrusted.plain(run.name, 60),
                "step": step,
                "called": _called(names, called, int(found.drawn(step, least)[y, x]), least),
                "%": 100 * chance[called] if called < len(names) else None,
                "next": names[second],
                "next %": 100 * chance[second],
                "": _verdict(called, truth, table[: run.labels.seen(step)]),
            }
        )
    return rows


_NO_CHANCES = {"%": None, "next": "", "next %": None}


def _called(names: list[str], called: int, drawn: int, least: float) -> str:
    """The class that the pixel was given, in words; with "none" where it does not stand out."""
    if called >= len(names):
        return "–"
    return f"none above {percent(least)}; first: {names[called]}" if drawn == NOTHING else names[called]


def _verdict(called: int, truth: int | None, known: np.ndarray) -> str:
    if truth is None or truth == 255:
        return "no truth"
    if truth not in known:
        return "not introduced yet"
    return "right" if called == truth else "wrong"


def _draw_pixel_table(view: View, rows: list[dict[str, Any]], compared: bool) -> None:
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    view.csv({("verdict" if key == "" else key): values for key, values in columns.items()})
    if not compared:
        del columns["run"]
    number = st.column_config.NumberColumn(format="%.0f", width=56)
    st.dataframe(
        columns,
        hide_index=True,
        height="auto",
        column_config={"%": number, "next %": number, "step": st.column_config.NumberColumn(width=44)},
        placeholder="–",
        key="pixel-table",
        alt="Each step's class for the chosen pixel, with probabilities",
    )


def _class_history(page: Page, shown: Shown, found: Answers) -> None:
    with page.section(
        "Its classes, step by step",
        "Percent of each class's pixels that are right; a row that falls shows forgetting.",
        slug="classes",
        inline=True,
        formula=r"R_{t,c} = \frac{|\{p : y_p = c,\ \hat y^t_p = c\}|}{|\{p : y_p = c\}|}",
        source="recall in this picture; empty before a class is introduced, and while a step is being computed",
    ) as view:
        if shown.truth is None:
            raise Empty("This picture has no annotation. Choose one of the run's images to compare with.")
        shares = _shares(page, shown.truth, found)
        counts = np.bincount(shown.truth.ravel(), minlength=256)[: len(page.run.classes)]
        there = np.flatnonzero(counts)
        names = predictions.class_names(page.run)
        table: dict[str, list[Any]] = {"class": [names[k] for k in there], "pixels": counts[there].tolist()}
        for t, row in enumerate(shares):
            table[f"step {t}"] = 100 * row[there]
        view.csv(table)
        number = st.column_config.NumberColumn(format="%.0f", width=60)
        st.dataframe(
            table,
            hide_index=True,
            height="auto",
            column_config={f"step {t}": number for t in range(len(shares))},
            placeholder="–",
            key="class-table",
            alt="Share of each class's pixels that is right, by step",
        )
