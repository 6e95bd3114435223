"""What the features still hold of a class: what probes, prototypes and the classes of its own step alone would find.

Everything comes from the survey; nothing is computed on a network here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.why import held_figures as figures
from dashboard.app_pages.why.held_figures import Held
from dashboard.cache import loaders
from dashboard.page import Empty, Page
from dashboard.state import selection
from dashboard.ui import untrusted
from lag_core import metrics
from lag_core.explain import calibration
from lag_core.explain.holds import SITES, Holds
from lag_core.explain.survey import Survey
from lag_core.explain.task_confusion import alone
from lag_core.runs import Run

HEIGHT = 280


def draw(page: Page, run: Run, cls: int, step: int) -> None:
    """Draw it for a class index of `run` at a step: lines over the steps, destinations, calibration."""
    left, right = st.columns((1.6, 1), gap="small")
    with left:
        _lines(page, run, cls, step)
    with right:
        _destinations(page, run, cls, step)
    calibration_slot = st.expander("Calibration: does confidence match accuracy?")
    labels_slot = st.expander("Labels of the training images: what was called background")
    if page.to_the_end:  # they lie far below
        with calibration_slot:
            _calibration(page, run, cls, step)
        with labels_slot:
            _labels(page, run, cls, step)


def _survey(run: Run) -> tuple[Survey, Holds]:
    """The survey with what features hold; `Empty` says how to get one."""
    found = loaders.survey(run)
    if found is None or found.holds is None:
        name = untrusted.name(run.name)
        raise Empty(f"What the features of {name} still hold is not measured yet: `lag survey {name}` does it.")
    return found, found.holds


def _lines(page: Page, run: Run, cls: int, step: int) -> None:
    with page.section(
        "What the features still hold",
        "IoU of this class by a linear classifier on frozen features, beside the network's own. Where the first "
        "stays and the second falls, the features hold the class and the heads do not use it.",
        slug="still-holds",
        formula=r"W_t = \arg\min_W \sum_i w_i \|W^\top x_i - e_{y_i}\|^2 + \lambda \|W\|^2",
        source="Davari et al., CVPR 2022; fitted on held-out training images with all labels, measured on the "
        "validation images, all classes counted (network: those known by then). Control: mean of the classes that "
        "were not taught by then",
    ) as view:
        survey, holds = _survey(run)
        lines = _held(run, survey, holds, cls, page)
        view.csv(
            lambda: {
                "line": [one.name for one in lines for _ in one.values],
                "step": [t for one in lines for t in range(len(one.values))],
                "IoU": [float(v) for one in lines for v in one.values],
            }
        )
        st.caption(answer(run, survey, holds, cls, step))
        points = view.plot(
            lambda: figures.held_lines(lines, page.ink, step=step), "IoU of probes and of the network over the steps",
            height=HEIGHT, select=True, below=True,
        )  # fmt: skip
        if points and selection.fresh("still-holds", points[0]["customdata"]):
            selection.go(step=points[0]["customdata"][0])


def _held(run: Run, survey: Survey, holds: Holds, cls: int, page: Page) -> list[Held]:
    """The lines of the figure, the network's own first."""
    own = metrics.iou_matrix(survey.confusion, run.labels)[:, cls]
    lines = [Held("network", own, page.ink.text, width=3)]
    masked = holds.masked_iou()[:, cls]
    if not alone(run.labels)[cls]:
        lines.append(Held("network, classes of its step alone", masked, page.ink.text, "dot"))
    if holds.probes is None:
        return lines
    ious = holds.probes.iou()
    colors = figures.site_colors(len(SITES), page.ink)
    for site, name in reversed(list(enumerate(SITES))):
        if np.isfinite(ious[:, site, cls]).any():
            lines.append(Held(f"probe on {name}", ious[:, site, cls], colors[site]))
    lines.append(Held("nearest prototype", holds.probes.nearest_iou()[:, cls], figures.NEAREST))
    lines.append(Held("control: Z, classes not taught yet", holds.probes.control(run.labels)[:, -1], "#009E73", "dash"))
    return lines


def answer(run: Run, survey: Survey, holds: Holds, cls: int, step: int) -> str:
    """The figure in words, as literal Markdown."""
    first = run.labels.step_of(cls)
    name = untrusted.name(run.classes[cls].name, 40)
    if step < first:
        return f"{name} is introduced at step {first}."
    if holds.probes is None:
        return "No probe: the survey found no training image that was held out (data.holdout), or none at all."
    own = 100 * metrics.iou_matrix(survey.confusion, run.labels)[:, cls]
    probe = 100 * holds.probes.iou()[:, -1, cls]
    if np.isnan(probe[step]):
        return f"No held-out training image shows {name}, so there is no probe of it."
    if step == first:
        return f"{name}: the network reaches {own[step]:.0f}, a probe on Z {probe[step]:.0f}."
    return (
        f"{name}, step {first} to {step}: the network {own[first]:.0f} → {own[step]:.0f}, a probe on Z "
        f"{probe[first]:.0f} → {probe[step]:.0f}."
    )


def _destinations(page: Page, run: Run, cls: int, step: int) -> None:
    with page.section(
        "Where its lost pixels went",
        "Pixels that were right at an earlier step and are wrong now, by predicted class.",
        slug="lost-to",
        formula=r"\{p : \exists s < t,\; \hat y^s_p = y_p = c,\; \hat y^t_p \ne c\}",
        source="lag_core/explain/lost_destinations.py (ours); none: no class has a probability above 0.5",
    ) as view:
        survey, holds = _survey(run)
        counts = holds.lost.destinations(run.labels).stacked()[:, cls]
        total = int(survey.pixels[:, cls].sum())
        view.csv(lambda: {"step": list(range(len(counts))), **dict(zip(figures.DESTINATIONS, counts.T, strict=True))})
        if not counts.any():
            raise Empty("No pixel of this class was lost after any step.")
        sure = holds.lost.mean_confidence()[step, cls]
        if np.isfinite(sure):
            st.caption(f"Mean confidence of the wrong answer on them at step {step}: {100 * sure:.0f}\u00a0%.")
        view.plot(
            lambda: figures.destination_bars(
                counts, total, page.ink, step=step,
                background=run.labels.background is not None and cls != 0,
                none=run.config.method.loss == "bce",
            ),
            "Lost pixels of the class by destination", height=HEIGHT, below=True,
        )  # fmt: skip


def _calibration(page: Page, run: Run, cls: int, step: int) -> None:
    with page.section(
        "Reliability",
        f"At step {step}, by predicted class. Below the diagonal: more confident than right.",
        slug="reliability",
        formula=r"\mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|",
        source="Guo et al., ICML 2017; 15 bins of equal width",
        border=False,
    ) as view:
        _, holds = _survey(run)
        counted = holds.calibration.at(step)
        curves = {name: counted.of(members) for name, members in calibration.groups(run.labels, step).items()}
        curves = {name: curve for name, curve in curves.items() if curve.count.any()}
        if not curves:
            raise Empty("No pixel was called a known class at this step.")
        own = counted.of([cls])
        words = [f"{name} {100 * curve.ece:.1f}" for name, curve in curves.items()]
        words += [f"{untrusted.name(run.classes[cls].name, 40)} {100 * own.ece:.1f}"] * bool(own.count.any())
        st.caption(f"Expected calibration error (points): {', '.join(words)}.")
        view.csv(
            lambda: {
                "group": [name for name, curve in curves.items() for _ in curve.count],
                "confidence": [v for curve in curves.values() for v in curve.mean_confidence.tolist()],
                "right": [v for curve in curves.values() for v in curve.accuracy.tolist()],
                "pixels": [v for curve in curves.values() for v in curve.count.tolist()],
            }
        )
        drawn = {name: (curve.mean_confidence, curve.accuracy, curve.count) for name, curve in curves.items()}
        view.plot(
            lambda: figures.reliability_lines(drawn, page.ink), "Share right over confidence", height=HEIGHT, below=True
        )


def _labels(page: Page, run: Run, cls: int, step: int) -> None:
    with page.section(
        "Labels without a class",
        "The true classes of pixels without a label in a step's own training images, and how far pseudo-labels "
        f"of {untrusted.name(run.classes[cls].name, 40)} correct this.",
        slug="background-labels",
        source="lag_core/explain/background_labels.py (ours), after Cermelli et al., CVPR 2020",
        border=False,
    ) as view:
        _, holds = _survey(run)
        if holds.background is None:
            raise Empty("The training images were not available when the run was surveyed.")
        table = _label_table(run, holds, cls)
        view.csv(table)
        st.dataframe(table, hide_index=True, width="stretch")


def _label_table(run: Run, holds: Holds, cls: int) -> dict[str, Any]:
    """Percent by step, as text, since entries may be empty."""
    assert holds.background is not None
    shares = holds.background.shares(run.labels)
    steps = range(len(shares))
    table: dict[str, Any] = {"step": list(steps), "training images": holds.background.images.tolist()}
    for place, name in enumerate(("background", "old classes", "classes to come", "of no step")):
        if place or run.labels.background is not None:
            table[f"truly {name} (%)"] = [_percent(shares[t, place]) for t in steps]
    if holds.pseudo is not None:
        precision, coverage = holds.pseudo.precision()[:, cls], holds.pseudo.coverage()[:, cls]
        table["pseudo-labels: right (%)"] = [_percent(v) for v in precision]
        table["pseudo-labels: found (%)"] = [_percent(v) for v in coverage]
    return table


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"
