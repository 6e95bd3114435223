"""Overview: how did the run go?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import streamlit as st

from dashboard.app_pages.overview import figures, wall
from dashboard.app_pages.overview.scores import BESIDE, COLUMNS, HEADLINE, LOWER_IS_BETTER, OF_CHANGE, Scores, scores
from dashboard.cache import loaders
from dashboard.components.timeline import StepBox, timeline
from dashboard.page import Empty, Page
from dashboard.picture import measured_on
from dashboard.picture.measured_on import MeasuredOn
from dashboard.sidebar import class_names
from dashboard.state import selection, settings
from dashboard.ui import design, untrusted
from dashboard.ui.wording import counted
from lag_core import metrics
from lag_core.runs import Run, RunError

EVERY_DOMAIN = "all"
MATRIX_HEIGHT = 280
TABLE_HEIGHT = 178
DeltaColor = Literal["normal", "inverse", "off"]
IMAGES_OFFERED = 2
"""Images offered for a cell of the confusion matrix."""


def render(page: Page) -> None:
    """Draw the page."""
    _warnings(page.run)
    domain = _choose_domain(page)
    own = measured_on.of_page(page)
    found = scores(page.run, domain, own)
    if found is None or len(found.confusions) <= page.step:
        _timeline(page)
        page.confusions()
        raise Empty("This step has not been evaluated yet. `lag evaluate` writes its confusion matrix.")
    other = _other_scores(page, domain, own)
    page.answer(_answer(page, found, other))
    measured_on.chip(page, own)
    if own is not None and not own.of_domain(domain).any():
        raise Empty(
            "None of the chosen pictures is of this domain. Choose another one above, or measure on all pictures."
        )
    _timeline(page)
    _headline(page, found, other)
    left, right = st.columns((1.15, 1), gap="small")
    with left:
        wall.draw_wall(page, own)
    with right:
        _iou_matrix(page, found)
        _curves(page, found, other)
    wall.draw_gallery(page)
    left, right = st.columns((1, 1.5), gap="small")
    with left:
        _confusion(page, found)
    with right:
        _all_runs(page)
        _what_it_was(page)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    scores(page.run, None, None)
    wall.look_ahead(page)


def _other_scores(page: Page, domain: str | None, own: MeasuredOn | None) -> Scores | None:
    """Of the compared run: on the same pictures where it knows them, else on all of its own."""
    if page.run2 is None:
        return None
    theirs = measured_on.in_run(own, page.run2, page.data_root)
    return scores(page.run2, domain if domain in page.run2.domains else None, theirs)


def _warnings(run: Run) -> None:
    """The trainer's warnings, shown first: a reader must not trust a term that had no effect."""
    sentences = [untrusted.markdown(w) for w in (*run.warnings, *loaders.faults(run))]
    if run.status != "finished":
        sentences.append(f"The run is not finished (status: {untrusted.markdown(run.status)}).")
    if sentences:
        st.warning("  \n".join(sentences), icon=":material/warning:")


def _choose_domain(page: Page) -> str | None:
    """The domain whose images are measured; None for all. Nothing is drawn where there is only one."""
    domains = page.run.domains
    if len(domains) < 2:
        return None
    names = (EVERY_DOMAIN, *(d for d in domains if d != EVERY_DOMAIN))
    with page.toolbar:
        st.markdown("Measured on", width="content")
        chosen = settings.segments(
            "Measured on",
            "domain",
            names,
            names=lambda d: untrusted.name(_domain_name(d)),
            label_visibility="collapsed",
        )
    return None if chosen == EVERY_DOMAIN else chosen


def _domain_name(domain: str) -> str:
    return "all validation images" if domain == EVERY_DOMAIN else domain


def _headline(page: Page, found: Scores, other: Scores | None) -> None:
    """The measures after the step of the scrubber, in percent, with their difference to the compared run."""
    now = found.headline(page.step)
    then = other.headline(min(page.step2, len(other.summaries) - 1)) if other else None
    with st.container(border=True, key="headline", gap="xsmall"):
        columns = st.columns(len(HEADLINE), gap="small")
        for column, (name, title) in zip(columns, HEADLINE.items(), strict=True):
            column.metric(
                title,
                _percent(now[name]),
                _difference(now[name], then[name]) if then else None,
                delta_color=_delta_color(name, now, then),
                help=_MEANING[name],
            )
            if name in BESIDE:
                column.caption(_beside(name, now, page.run.labels.background is not None))
        name = untrusted.name(page.run2.name) if page.run2 else ""
        against = f"; small numbers: difference to {name}" if name else ""
        success = _no_success(now, then, name) if then else ""
        st.caption(
            f"IoU in percent after step {page.step}{against}.{success}{_not_shown(page, found)}"
            f"{_never_learned(page, found)}"
        )


def _delta_color(name: str, now: Mapping[str, float], then: Mapping[str, float] | None) -> DeltaColor:
    """Green for better, red for worse; grey where less was lost because there was less to lose."""
    if then is not None and name in OF_CHANGE and _lost_less(name, now, then) and _less_is_left(now, then):
        return "off"
    return "inverse" if name in LOWER_IS_BETTER else "normal"


def _lost_less(name: str, now: Mapping[str, float], then: Mapping[str, float]) -> bool:
    return now[name] < then[name] if name in LOWER_IS_BETTER else now[name] > then[name]


def _less_is_left(now: Mapping[str, float], then: Mapping[str, float]) -> bool:
    return now["all"] < then["all"]


def _no_success(now: Mapping[str, float], then: Mapping[str, float], other: str) -> str:
    """Says that less forgetting is no success where less is left; the difference is grey then."""
    better = [HEADLINE[name] for name in OF_CHANGE if _lost_less(name, now, then)]
    if not better or not _less_is_left(now, then):
        return ""
    measures = f"{' and '.join(better)} look{'s' * (len(better) == 1)} better than in {other}"
    return f" {measures} although less is left here: what was not learned cannot be lost."


def _beside(name: str, now: Mapping[str, float], background: bool) -> str:
    """The other reading of a measure, as a few words under its tile."""
    other, words = BESIDE[name]
    return "there is no background" if other == "old" and not background else f"{words} {_percent(now[other])}"


def _not_shown(page: Page, found: Scores) -> str:
    """Says which classes do not count because no chosen picture shows them."""
    classes = found.not_shown(page.step)
    return f" None of these pictures shows {_names(page, classes)}, so the means leave that out." if classes else ""


def _names(page: Page, classes: Sequence[int]) -> str:
    return ", ".join(untrusted.name(page.run.classes[c].name) for c in classes)


def _never_learned(page: Page, found: Scores) -> str:
    """Says which older classes have nothing to forget: they lower the mean forgetting, which is no success."""
    classes = found.never_learned(page.step)
    if not classes:
        return ""
    names = _names(page, classes)
    verb, them = ("was", "it") if len(classes) == 1 else ("were", "them")
    return f" {names} {verb} never learned, so nothing of {them} could be lost: that alone lowers the mean forgetting."


def _answer(page: Page, found: Scores, other: Scores | None) -> str:
    """How the run stands after the step, what it lost, and what the compared run kept, in words (Markdown)."""
    now = found.summaries[page.step]
    if page.step == 0:
        ahead = " Go to a later step to see what it forgets." if page.last_step else ""
        return f"After step 0 its classes have a mean IoU of **{_percent(now.all)} %**.{ahead}"
    apart = ", without background," if found.labels.background is not None else ""
    sentence = (
        f"After step {page.step} the old classes{apart} {_mean_iou(now.old_without_background)}, the new ones "
        f"{_mean_iou(now.new)}. {_worst_loss(page, found)}"
    )
    if page.run2 is None or other is None or len(other.summaries) <= page.step2:
        return sentence
    kept = _percent(other.summaries[page.step2].old_without_background)
    return f"{sentence} {untrusted.name(page.run2.name)} has {kept} % on the old ones."


def _mean_iou(value: float) -> str:
    return "are in none of these pictures" if np.isnan(value) else f"have a mean IoU of **{_percent(value)} %**"


def _worst_loss(page: Page, found: Scores) -> str:
    """Which older class, background apart, lost most by now, in words."""
    history = found.confusions[: page.step + 1]
    dropped = metrics.drops(history, found.labels, found.shown)
    dropped[:, : int(found.labels.background is not None)] = np.nan
    if np.isnan(dropped).all():
        return "No older class was measured."
    best, cls = (int(i) for i in np.unravel_index(np.nanargmax(dropped), dropped.shape))
    if dropped[best, cls] <= 0:
        return "None of the old ones has a lower IoU than before."
    name = untrusted.name(page.run.classes[cls].name)
    now = metrics.iou_between(history, found.labels, best, page.step)[cls]
    papers = found.ious[page.step, cls]
    also = "" if _percent(papers) == _percent(now) else f" ({_percent(papers)} % as in the papers)"
    return (
        f"**{name}** lost most: {_percent(found.ious[best, cls])} % after step {best}, now {_percent(now)} % on the "
        f"same pixels{also}."
    )


_MEANING = {
    "old_without_background": "Mean IoU of the classes of step 0, background apart. The papers count the background "
    "too, which hides the loss of all the others. Higher is better.",
    "new": "Mean IoU of the classes of later steps that are known by now. Higher is better.",
    "all": "Mean IoU of every class that is known by now, background included. Higher is better.",
    "harmonic": "2 · old · new / (old + new), old with background as in the papers: high only if both are. "
    "Higher is better.",
    "average": "Mean over the steps so far of “all”. Higher is better.",
    "forgetting_fixed": "IoU points lost: mean over older classes of the best earlier IoU minus the present one, both "
    "on the pixels whose class that earlier step knows. The papers count the pixels of later classes at the later step "
    "only, so that even a frozen network seems to forget. A class that was never learned has nothing to lose. "
    "Lower is better.",
    "bwt_fixed": "Backward transfer: mean over older classes of the present minus the first IoU, both on the pixels "
    "whose class the first of the two steps knows. Higher is better.",
}


def _percent(fraction: float) -> str:
    return "–" if np.isnan(fraction) else f"{100 * fraction:z.1f}"


def _difference(one: float, other: float) -> str | None:
    return None if np.isnan(one - other) else f"{100 * (one - other):+z.1f}"


def _timeline(page: Page) -> None:
    run, ground = page.run, design.rgb(page.ink.surface)
    boxes = [
        StepBox(
            f"{counted(info.images, 'image')} · {_duration(info.seconds)}" if info.images else "trained elsewhere",
            [
                (untrusted.plain(c.name, 40), design.css(design.seen_on(c.color, ground)))
                for c in (run.classes[i] for i in info.classes)
            ],
        )
        for info in run.steps
    ]
    with page.section(
        "Steps",
        "Each box is a step with the classes that it introduces; click one to go there.",
        inline=True,
        border=False,
    ) as view:
        view.csv(lambda: _timeline_table(run))
        label = "Timeline of the steps and the classes that each introduces"
        chosen = timeline(boxes, key="timeline", label=label, step=page.step)
        if chosen is not None and chosen != page.step:
            selection.go(step=chosen)


def _timeline_table(run: Run) -> dict[str, list[Any]]:
    return {
        "step": [s.step for s in run.steps],
        "classes": ["; ".join(run.classes[i].name for i in s.classes) for s in run.steps],
        "images": [s.images for s in run.steps],
        "iterations": [s.iterations for s in run.steps],
        "seconds": [s.seconds for s in run.steps],
        "images_per_second": [s.images_per_second for s in run.steps],
    }


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _iou_matrix(page: Page, found: Scores) -> None:
    with page.section(
        "IoU by step and class",
        "Read along a row: a class that fades was forgotten. Percent; click a cell to select it.",
        formula=r"A_{t,c} = \frac{TP_{t,c}}{TP_{t,c} + FP_{t,c} + FN_{t,c}}",
        source="docs/method.md#accuracy; pixels of classes still to come are ignored",
    ) as view:
        names = [c.name for c in page.run.classes]
        view.csv({"class": names, **{f"step {t}": row for t, row in enumerate(found.ious)}})
        points = view.plot(
            figures.iou_matrix(found.ious, page.run.classes, page.ink, step=page.step, cls=page.cls),
            "Heat map of IoU in percent, steps by classes",
            height=MATRIX_HEIGHT,
            select=True,
        )
        if points and selection.fresh("iou", points[0]["customdata"]):
            step, cls = points[0]["customdata"]
            selection.go(step=step, cls=class_names(page.run)[cls])


def _curves(page: Page, found: Scores, other: Scores | None) -> None:
    runs = [(page.run.name, found.series())]
    if page.run2 and other:
        runs.append((page.run2.name, other.series()))
    against = f" Dotted: {untrusted.name(page.run2.name)}." if len(runs) > 1 and page.run2 else ""
    with page.section(
        "Old, new, all",
        f"Mean IoU over the steps: old falling is forgetting.{against}",
        formula=r"\mathrm{mIoU}_G(t) = \frac{1}{|G|}\sum_{c \in G} A_{t,c}",
        source="G is the classes of step 0 without background (old), of later steps (new), all of both (all)",
    ) as view:
        view.csv(lambda: _curves_table(runs))
        view.plot(
            lambda: figures.curves(runs, page.ink, step=page.step),
            "Mean IoU of old, new and all classes over the steps",
            height=MATRIX_HEIGHT,
            below=True,
        )


def _curves_table(runs: list[tuple[str, dict[str, np.ndarray]]]) -> dict[str, list[Any]]:
    rows = [(n, t, *(s[k][t] for k in ("old", "new", "all"))) for n, s in runs for t in range(len(s["all"]))]
    return {key: [row[i] for row in rows] for i, key in enumerate(("run", "step", "old", "new", "all"))}


def _confusion(page: Page, found: Scores) -> None:
    seen = page.run.labels.seen(page.step)
    matrix = metrics.seen_only(found.confusions[page.step], seen)[:seen, :seen]
    classes = page.run.classes[:seen]
    with page.section(
        f"Confusion after step {page.step}",
        "Row: the true class; columns: what its pixels were called, percent. The diagonal is right.",
        formula=r"S_{ij} = \frac{N_{ij}}{\sum_k N_{ik}}",
        source="N counts validation pixels: truth i, prediction j",
        slug="confusion",
    ) as view:
        view.csv({"true": [c.name for c in classes], **{c.name: list(matrix[:, j]) for j, c in enumerate(classes)}})
        cell = _chosen_cell(seen)
        points = view.plot(
            lambda: figures.confusion_matrix(matrix, classes, page.ink, cell=cell),
            "Heat map: share of each true class's pixels by predicted class",
            height=MATRIX_HEIGHT - 24,
            select=True,
            below=True,
        )
        if points and selection.fresh("confusion", points[0]["customdata"]):
            truth, guess = points[0]["customdata"]
            names = class_names(page.run)
            pair = {"called": names[guess] if guess != truth else "", "wall-of": "class"}
            selection.go(pair=f"{truth}-{guess}", cls=names[truth], **pair)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="actions-pair"):
            st.caption(_pair_sentence(page, found, cell), width="content")
            if cell is not None and cell[0] != cell[1] and page.image_id:
                _images_that_lost(page, cell[0])


def _chosen_cell(seen: int) -> tuple[int, int] | None:
    """The pair of classes in the URL or the session, if both are known at this step."""
    allowed = [f"{i}-{j}" for i in range(seen) for j in range(seen)]
    chosen = selection.choose("pair", ["", *allowed], "", "pair of classes")
    selection.use("pair", chosen, "")
    if not chosen:
        return None
    truth, guess = chosen.split("-")
    return int(truth), int(guess)


def _images_that_lost(page: Page, cls: int) -> None:
    """Buttons to the images in which a class lost most pixels by this step, where a survey knows them."""
    here = set(loaders.image_ids(page.run, page.data_root))
    lost = [name for name in loaders.lost_shares(page.run, page.step, cls) if name in here]
    if lost:
        st.caption(f"Pictures that lost most of it by step {page.step}:", width="content")
    for name in lost[:IMAGES_OFFERED]:
        if st.button(untrusted.name(name), key=f"pair-{name}", type="tertiary", help="Show this picture"):
            selection.go(image=name, cls=class_names(page.run)[cls])


def _pair_sentence(page: Page, found: Scores, cell: tuple[int, int] | None) -> str:
    """What a cell says, and how it came to be over the steps."""
    if cell is None:
        return "Click a cell to follow a pair of classes."
    truth, guess = cell
    names = [untrusted.name(page.run.classes[i].name) for i in cell]
    first = page.run.labels.step_of(max(truth, guess))
    shares = [figures.row_shares(matrix)[truth, guess] for matrix in found.confusions[first:]]
    history = " → ".join(f"{_percent(s)} %" for s in shares)
    if truth == guess:
        return f"**{names[0]}** called **{names[1]}** (right), from step {first}: {history}."
    return f"**{names[0]}** called **{names[1]}**, from step {first}: {history}."


def _all_runs(page: Page) -> None:
    with page.section(
        "All runs",
        "Percent, after each run's last step; ▸ is the open run, ◦ the compared one. Click a row to open it."
        " * as in the papers; + bg: with the background.",
    ) as view:
        catalogue = loaders.opened()
        runs = list(catalogue.runs.values())
        table = _runs_table(catalogue.stamp, _runs=runs)
        view.csv(table)
        number = st.column_config.NumberColumn(format="%.1f", width=62)
        if view.waits("all-runs", TABLE_HEIGHT):
            return
        event: Any = st.dataframe(
            {"": [_mark(page, run) for run in runs], **table},
            column_config={"": st.column_config.TextColumn(width=24)} | dict.fromkeys(COLUMNS.values(), number),
            hide_index=True,
            height=min(38 + 35 * len(runs), TABLE_HEIGHT),
            on_select="rerun",
            selection_mode="single-row",
            placeholder="–",
            key="all-runs",
            alt="Table of all runs with their measures",
        )
        rows = event["selection"]["rows"]
        if rows and rows[0] < len(runs) and selection.fresh("all-runs", rows[0]):
            selection.go(run=runs[rows[0]].name)


def _mark(page: Page, run: Run) -> str:
    if run.name == page.run.name:
        return "▸"
    return "◦" if page.run2 and run.name == page.run2.name else ""


@st.cache_resource(max_entries=4, show_spinner=False)
def _runs_table(stamp: str, *, _runs: list[Run]) -> dict[str, list[Any]]:
    """One row per run: name, method, task, and every measure in percent after its last step. Read-only."""
    table: dict[str, list[Any]] = {"run": [], "method": [], "task": [], **{t: [] for t in COLUMNS.values()}}
    for run in _runs:
        table["run"].append(untrusted.plain(run.name, 60))
        table["method"].append(untrusted.plain(run.method, 30))
        table["task"].append(run.config.data.task)
        values = _final(run)
        for name, title in COLUMNS.items():
            value = values.get(name, float("nan"))
            table[title].append(None if np.isnan(value) else 100 * value)
    return table


def _final(run: Run) -> dict[str, float]:
    try:
        found = scores(run)
    except RunError:
        return {}
    return found.headline(len(found.summaries) - 1) if found else {}


def _what_it_was(page: Page) -> None:
    run = page.run
    with page.section("What the run was", "Everything that it depends on, from its run.json.") as view:
        facts = _facts(run)
        view.csv({"key": list(facts), "value": [str(v) for v in facts.values()]})
        if view.waits("facts", TABLE_HEIGHT):
            return
        st.dataframe(
            {"": list(facts), "value": [untrusted.plain(v, untrusted.LONGEST_TEXT) for v in facts.values()]},
            hide_index=True,
            height=TABLE_HEIGHT,
            column_config={"": st.column_config.TextColumn(width=130)},
            key="facts",
            alt="Facts of the run and its configuration",
        )


def _facts(run: Run) -> dict[str, Any]:
    """What was run, then every value of the configuration by its dotted name."""
    info, data = run.info, run.config.data
    seconds = sum(s.seconds for s in run.steps)
    images = sum(s.images_per_second * s.seconds for s in run.steps)
    versions, machine = info.get("versions", {}), info.get("machine", {})
    facts: dict[str, Any] = {
        "method": run.method,
        "dataset": f"{data.dataset}, task {data.task}, {data.setting}",
        "domains": ", ".join(data.domains) or "one for all steps",
        "network": f"{run.config.model.backbone}, output stride {run.config.model.output_stride}",
        "training time": _duration(seconds) if seconds else "not recorded: trained elsewhere",
        "throughput": f"{images / seconds:.0f} images/s" if seconds else "unknown",
        "peak memory": f"{info['peak_memory_mib']:.0f} MiB" if "peak_memory_mib" in info else "unknown",
        "seed": info.get("seed", run.config.optim.seed),
        "versions": _pairs(versions),
        "revision": info.get("git", "unknown"),
        "machine": _pairs(machine),
        "digest": run.digest,
    }
    for section, table in info["config"].items():
        facts |= {f"{section}.{key}": value for key, value in table.items()}
    return facts


def _pairs(table: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in table.items()) if isinstance(table, dict) and table else "unknown"
