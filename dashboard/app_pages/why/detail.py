"""Detail of the page Why preserved: effects of channels, agreement of relevance, drift. None of it is the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.why import figures
from dashboard.app_pages.why.figures import Series
from dashboard.page import Empty, Page, View
from dashboard.picture import reasons
from dashboard.picture.reasons import Where
from dashboard.state import selection, settings
from dashboard.ui import untrusted
from lag_core.data.pictures import DataError
from lag_core.explain import verdict as verdicts
from lag_core.explain.verdict import EffectCurve, Evidence, Verdict
from lag_core.runs import Run

PLOT_HEIGHT = 236
EFFECT_HEIGHT = 290
SHARES: dict[str, str] = {"1/8": "1/8", "1/4": "1/4", "1/2": "1/2"}


@dataclass(frozen=True)
class Case:
    """One run's evidence with its verdict."""

    run: Run
    evidence: Evidence
    verdict: Verdict
    k: int
    """Channels in the verdict's sentences; 0 if there are none."""


def draw(page: Page, where: Where) -> None:
    """Everything that was measured besides the shares."""
    share = _choose()
    case = _case(page, page.run, page.cls, page.step, where, share)
    other = None if page.run2 is None else _other(page, where, share)
    _sentences(page, case, other)
    columns = st.columns(3, gap="small")
    with columns[0]:
        _iou(page, case, other)
    with columns[1]:
        _relevance(page, case, other)
    with columns[2]:
        _prototype(page, case, other)
    left, right = st.columns(2, gap="small")
    with left:
        _ablation(page, case, other)
    with right:
        _transplant(page, case, other)


def _choose() -> float:
    """Which share of the channels the sentences are about."""
    share = settings.segments(
        "Share of the channels that the sentences are about", "share", tuple(SHARES), "1/4",
        help="Of the active channels. Choose it before you look at the result.",
    )  # fmt: skip
    above, below = share.split("/")
    return int(above) / int(below)


def _case(page: Page, run: Run, cls: int, step: int, where: Where, share: float) -> Case:
    """The evidence and the verdict on one run; raises `Empty` where it is not measured yet."""
    picture = page.picture() if where == "image" else None
    pictures = reasons.examples(run, where, picture_of(page, run, picture), page.data_root, cls)
    found = reasons.evidence(run, pictures, cls, step, ask=where == "set")
    measured = found.effects is not None and found.effects.ablation is not None
    k = verdicts.count_at(found.effects.active, share) if measured and found.effects else 0
    return Case(run, found, verdicts.verdict(found, k or None), k)


def picture_of(page: Page, run: Run, picture: Any) -> Any:
    """The picture with its truth in the class indices of `run`, which may introduce the classes in another order."""
    if picture is None or picture.truth is None or run.digest == page.run.digest:
        return picture
    from dataclasses import replace

    from dashboard.picture.predictions import class_table

    return replace(picture, truth=class_table(page.run, run)[picture.truth])


def _other(page: Page, where: Where, share: float) -> Case | None:
    """The same of the compared run; None where it cannot be measured."""
    assert page.run2 is not None
    try:
        return _case(page, page.run2, page.cls2, page.step2, where, share)
    except (DataError, Empty):
        return None


def _sentences(page: Page, case: Case, other: Case | None) -> None:
    """What was found, in words, of the run and of the compared one."""
    with page.section(
        "In words",
        f"An effect is claimed if at most {100 * verdicts.LEVEL:.0f} % of random channel sets reach it.",
        slug="words",
        formula=r"p = \frac{1 + |\{i : e_i \ge e\}|}{1 + n} \le 0.05, \qquad e \ge 1 \text{ point}",
        source="rules: lag_core/explain/verdict.py (ours); e: effect of the chosen channels, e_i: of random ones; "
        "for p each question stands by itself",
    ) as view:
        both = [case] if other is None else [case, other]
        view.csv(lambda: _words_table(both))
        for one in both:
            if other is not None:
                st.caption(untrusted.name(one.run.name, 60))
            for finding in one.verdict.details:
                text = untrusted.markdown(finding.text)
                st.markdown(text if finding.word != "not significant" else f":gray[{text}]")


def _words_table(cases: list[Case]) -> dict[str, list[Any]]:
    rows = [(c.run.name, f.topic, f.word, f.text) for c in cases for f in (*c.verdict.findings, *c.verdict.details)]
    return {head: [row[i] for row in rows] for i, head in enumerate(("run", "topic", "conclusion", "sentence"))}


# ---------------------------------------------------------------------- over the steps


def _series(
    case: Case, other: Case | None, values: Callable[[Evidence], np.ndarray], name: str, color: str
) -> list[Series]:
    found = [Series(name, values(case.evidence), color)]
    if other is not None:
        label = f"{name}, {untrusted.plotly(untrusted.plain(other.run.name, 30))}"
        found.append(Series(label, values(other.evidence), color, dotted=True))
    return found


def _steps_view(
    page: Page, view: View, series: list[Series], alt: str, y: str, decimals: int, limits: tuple[float, float] | None
) -> None:
    view.csv(
        lambda: {
            "series": [s.name for s in series for _ in s.values],
            "step": [t for s in series for t in range(len(s.values))],
            y: [float(v) for s in series for v in s.values],
        }
    )
    figure = figures.over_steps(series, page.ink, step=page.step, y=y, decimals=decimals, limits=limits)
    points = view.plot(figure, alt, height=PLOT_HEIGHT, select=True)
    if points and selection.fresh(f"why-{view.slug}", points[0]["customdata"]):
        selection.go(step=points[0]["customdata"][0])


def _dotted(other: Case | None) -> str:
    """What dotted lines are."""
    return "" if other is None else f" Dotted: {untrusted.name(other.run.name, 40)}."


def _iou(page: Page, case: Case, other: Case | None) -> None:
    where = "on the whole validation set" if case.evidence.set_iou is not None else "on the images measured"
    with page.section(
        "IoU", f"IoU of the class {where}. Click a step.{_dotted(other)}", slug="iou",
        formula=r"A_{t,c} = \frac{TP}{TP + FP + FN}", source="docs/method.md#accuracy",
    ) as view:  # fmt: skip
        series = _series(case, other, lambda e: 100 * e.iou, "IoU", figures.MAIN)
        _steps_view(page, view, series, "IoU of the class over the steps", "IoU (%)", 1, (0, 100))


def _relevance(page: Page, case: Case, other: Case | None) -> None:
    with page.section(
        "Relevance",
        f"Agreement with step {case.evidence.source} of the channels (blue) and places (orange) that support the class."
        f"{_dotted(other)}",
        slug="agreement",
        formula=r"R = Z \odot \frac{\partial s_c}{\partial Z}, \quad \cos(r^s_+, r^t_+), \quad "
        r"r: \text{sum of } R \text{ over places, or over channels}",
        source="docs/method.md#relevance; s_c: the class's logit over its true pixels, positive parts compared",
    ) as view:
        series = _series(case, other, lambda e: e.over.relevance_profile, "channels", figures.MAIN)
        series += _series(case, other, lambda e: e.over.relevance_map, "places", figures.SECOND)
        _steps_view(page, view, series, "Agreement of relevance over the steps", "cosine", 2, (0, 1.03))
        silent = _silent_steps(case.evidence)
        if silent:
            st.caption(
                f"Nothing speaks for the class at step{'s' * (len(silent) > 1)} {', '.join(map(str, silent))}: "
                "there is nothing to compare."
            )


def _silent_steps(found: Evidence) -> list[int]:
    """Steps after the compared one at which no channel speaks for the class, so that its line has a gap."""
    profile = found.over.relevance_profile
    return [t for t in range(found.source + 1, len(profile)) if np.isnan(profile[t])]


def _prototype(page: Page, case: Case, other: Case | None) -> None:
    with page.section(
        "Drift",
        f"Of its prototype (blue). Above the mean distance of its pixels (orange) it has moved.{_dotted(other)}",
        slug="prototype",
        formula=r"D_t = 1 - \cos(p^t, p^s), \qquad \text{own pixels}_s = \mathrm{mean}_i\,(1 - \cos(z_i, p^s))",
        source="docs/method.md#spread; z: the class's latent pixels at step s, which introduces it; on the validation "
        "set over all images where the run has a survey, as on the page Prototypes",
    ) as view:
        series = _series(case, other, lambda e: e.over.drift, "drift", figures.MAIN)
        spread = np.full(len(case.evidence.over.drift), case.evidence.over.spread[case.evidence.source])
        series.append(Series(f"its own pixels at step {case.evidence.source}", spread, figures.SECOND))
        _steps_view(page, view, series, "Drift of the prototype over the steps", "1 − cosine", 4, None)


# ---------------------------------------------------------------------- the two questions


Draw = Callable[..., Any]


def _ablation(page: Page, case: Case, other: Case | None) -> None:
    with page.section(
        "Which channels carry the memory?",
        f"Ablation: the channels that changed least since step {case.evidence.source} are set to 0 (blue). A curve "
        "below the grey band of random channels: they carry more.",
        slug="ablation",
        formula=r"Z_c := 0 \text{ for the } k \text{ channels with the smallest } d_c",
        source="docs/method.md#channels; d: channel distance of the run, band: middle 90 % of random sets",
    ) as view:
        _effects(page, view, case, other, lambda e: e.ablation, figures.ablation_figure, "Ablation")


def _transplant(page: Page, case: Case, other: Case | None) -> None:
    with page.section(
        "What was lost?",
        f"Transplant: the channels that changed most are restored from step {case.evidence.source} (orange). A curve "
        "above the grey band of random channels: the loss is in them.",
        slug="transplant",
        formula=r"Z^t_c := Z^s_c \text{ for the } k \text{ channels with the largest } d_c",
        source="docs/method.md#channels; d: channel distance of the run, band: middle 90 % of random sets",
    ) as view:
        _effects(page, view, case, other, lambda e: e.transplant, figures.transplant_figure, "Transplant")


def _effects(
    page: Page,
    view: View,
    case: Case,
    other: Case | None,
    pick: Callable[[Any], EffectCurve | None],
    draw: Draw,
    title: str,
) -> None:
    """The curve of the open run, and that of the compared one beside it."""
    both = [case] if other is None else [case, other]
    view.csv(lambda: _effect_table(both, pick))
    for column, one in zip(st.columns(len(both), gap="small"), both, strict=True):
        with column:
            name = untrusted.name(one.run.name, 40)
            if len(both) > 1:
                st.caption(name)
            effects = one.evidence.effects
            curve = pick(effects) if effects else None
            if effects is None or curve is None:
                st.caption(_why_no_curve(one))
                continue
            figure = draw(curve, page.ink, one.k, effects.active)
            view.plot(figure, f"{title}: effect over the number of channels", height=EFFECT_HEIGHT,
                      key=f"{view.slug}-{both.index(one)}")  # fmt: skip


def _why_no_curve(case: Case) -> str:
    about = case.verdict.about("channels") or case.verdict.findings[0]
    return untrusted.markdown(about.text)


def _effect_table(cases: list[Case], pick: Callable[[Any], EffectCurve | None]) -> dict[str, list[Any]]:
    rows: list[tuple[Any, ...]] = []
    for one in cases:
        curve = pick(one.evidence.effects) if one.evidence.effects else None
        if curve is None:
            continue
        low, high = curve.interval()
        for p, k in enumerate(curve.counts.tolist()):
            controls = curve.controls[p]
            rows.append((one.run.name, k, curve.effect[p], controls.mean(), controls.std(ddof=1), low[p], high[p]))
    heads = ("run", "channels", "effect", "random mean", "random sd", "random 5 %", "random 95 %")
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}
