"""Forgetting: where was what lost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from dashboard import design, exhibit, fates, loaders, settings, state, untrusted
from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.components.viewer import Layer, viewer
from dashboard.components.viewer_state import keep_pixel, kept_pixel, kept_settings
from dashboard.fates import CLASS_FATES, FATE_NAMES, Losses, Story
from dashboard.figures import forgetting as figures
from dashboard.loaders import Picture
from dashboard.page import Empty, Page, View
from dashboard.sidebar import class_names
from lag_core.explain.forgetting import Changes, Fate, ImageLoss
from lag_core.protocol import IGNORE
from lag_core.runs import Run

VIEWER = "forgetting-viewer"
HEIGHT = 410
FLOW_HEIGHT = 660
LOWER_HEIGHT = 290
GALLERY_SIZE, GALLERY_SIDE = 9, 82

EVERY, ONE = "all", "class"
PICTURE, SET = "picture", "set"

PROVENANCE_FORMULA = r"""\begin{aligned}
\text{forgotten}^t_p &: \hat y^t_p \ne y_p \text{ and } \exists\, u < t: \hat y^u_p = y_p \\
\text{kept}^t_p &: \hat y^u_p = y_p \text{ for all } u \text{ from its first time, before } t, \text{ to } t
\end{aligned}"""


@dataclass(frozen=True)
class Key:
    """Class indices, then fates, then steps, as the viewer's labels: their colours and names."""

    palette: np.ndarray
    """uint8 [K + 5 + T, 3]."""
    names: list[str]
    fate_base: int
    step_base: int

    def fates(self, states: np.ndarray) -> np.ndarray:
        """Values of Fate -> labels; a pixel whose class is still to come, or not annotated, has none."""
        table = np.full(256, IGNORE, np.uint8)
        for place, fate in enumerate(CLASS_FATES):
            table[fate] = self.fate_base + place
        return table[states]

    def steps(self, values: np.ndarray) -> np.ndarray:
        """Steps, -1 for none -> labels."""
        return np.where(values >= 0, self.step_base + np.maximum(values, 0), IGNORE).astype(np.uint8)


@dataclass(frozen=True)
class Scene:
    """The layers of the viewer, and which of them are steps."""

    layers: list[Layer]
    first: int
    """Where the steps of the run begin."""
    first_step: int
    """The step of that layer."""
    beside: int | None


def render(page: Page) -> None:
    """Draw the page."""
    picture = page.picture() if page.image_id else None
    told = fates.story(page.run, picture) if picture else None
    told2 = fates.story(page.run2, picture, page.run) if page.run2 and picture else None
    only = _choose_pixels(page)
    scope = _choose_scope(page, told)
    page.answer(_answer(page, picture, told, told2))
    left, right = st.columns((1.75, 1), gap="small")
    with left:
        if told:
            _map(page, picture, told, told2, only)
        else:
            _change_map(page, picture)
    with right:
        _flows(page, picture, told, told2, scope)
    columns = st.columns((1, 1, 1.15), gap="small")
    with columns[0]:
        _lost_by_class(page, told, told2, scope)
    with columns[1]:
        _shift(page, told, told2, scope, only)
    with columns[2]:
        _images(page, only)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    picture = page.picture()
    fates.story(page.run, picture)
    fates.survey_of(page.run)
    if page.run2:
        fates.story(page.run2, picture, page.run)
        fates.survey_of(page.run2)


def _choose_pixels(page: Page) -> bool:
    """Whether only the pixels of the selected class are looked at."""
    name = untrusted.markdown(untrusted.plain(page.class_info.name, 24))
    with page.toolbar:
        st.markdown("Pixels of", width="content")
        chosen = settings.segments(
            "Pixels of",
            "pixels-of",
            (EVERY, ONE),
            names=lambda value: name if value == ONE else "all classes",
            label_visibility="collapsed",
        )
    return chosen == ONE


def _choose_scope(page: Page, told: Story | None) -> str:
    """Whether the numbers are those of this picture or of the validation set."""
    if told is None:
        return SET
    with page.toolbar:
        st.markdown("counted on", width="content")
        return settings.segments(
            "Counted on",
            "counted-on",
            (PICTURE, SET),
            names=lambda value: "this picture" if value == PICTURE else "validation set",
            label_visibility="collapsed",
        )


# ---------------------------------------------------------------------- the answer


@dataclass(frozen=True)
class ClassLoss:
    """What one class lost in one picture by a step."""

    pixels: int
    """Of the class in the picture."""
    forgotten: int
    """Wrong after the step and right once."""
    lost_now: int
    """Of them, those that were lost at this very step."""
    target: int | None
    """Class index that most of `lost_now` (else of `forgotten`) went to."""
    target_share: float
    """Share that went there."""
    worst_step: int
    """The step that lost most of `forgotten`; -1 for none."""
    worst_share: float
    """Share of `forgotten` that it lost."""


def class_loss(story: Story, step: int, cls: int) -> ClassLoss:
    """What class `cls`, in the story's own indices, had lost after `step`."""
    mine = story.truth == cls
    at = story.fates.still_lost_at(step)[mine]
    to = story.fates.still_lost_to(step)[mine]
    now = at == step
    gone = to[now] if now.any() else to[to != IGNORE]
    counts = np.bincount(gone, minlength=1)
    by_step = np.bincount(at[at >= 0], minlength=1)
    return ClassLoss(
        pixels=int(mine.sum()),
        forgotten=int((at >= 0).sum()),
        lost_now=int(now.sum()),
        target=int(counts.argmax()) if gone.size else None,
        target_share=float(counts.max() / gone.size) if gone.size else float("nan"),
        worst_step=int(by_step.argmax()) if gone.size else -1,
        worst_share=float(by_step.max() / by_step.sum()) if gone.size else float("nan"),
    )


def _answer(page: Page, picture: Picture | None, told: Story | None, told2: Story | None) -> str:
    if picture is None:
        return f"{page.why_no_image} Below: the validation set, as far as the run has been surveyed."
    if told is None:
        return _answer_without_truth(page, picture)
    found = class_loss(told, page.step, page.cls)
    sentence = loss_sentence(found, page.run, page.cls, page.step)
    if not page.run2 or not told2 or not found.pixels or page.step == 0:
        return sentence
    theirs = class_loss(told2, page.step2, page.cls2)
    name = untrusted.markdown(page.run2.name)
    return f"{sentence} In {name}, **{_percent(theirs.forgotten / theirs.pixels)}** are lost by then."


def loss_sentence(found: ClassLoss, run: Run, cls: int, step: int) -> str:
    """What the numbers say, in words (Markdown)."""
    name = f"**{untrusted.markdown(run.classes[cls].name)}**"
    introduced = run.labels.step_of(cls)
    if not found.pixels:
        return f"There is no {name} in this picture; choose another class, or an image from the list below."
    if step < introduced:
        return f"{name} is introduced at step {introduced}; before that it cannot be lost."
    if step == introduced:
        ahead = " Move the scrubber on to see what later steps forget." if step < run.last_step else ""
        return f"Step {step} introduces {name}, so none of it is lost yet.{ahead}"
    if not found.forgotten:
        return f"After step {step}, none of the {name} pixels that were ever right in this picture is lost."
    target = f"**{untrusted.markdown(run.classes[found.target].name)}**" if found.target is not None else ""
    most = "all" if found.target_share == 1 else "most" if found.target_share > 0.5 else "the largest part"
    went = f"{most} went to {target}"
    if found.lost_now:
        share = _percent(found.lost_now / found.pixels)
        all_told = (
            f" In all, {_percent(found.forgotten / found.pixels)} are lost by now."
            if found.forgotten > found.lost_now
            else ""
        )
        return f"At step {step}, **{share}** of the {name} pixels of this picture were lost; {went}.{all_told}"
    share = _percent(found.forgotten / found.pixels)
    when = "" if found.worst_share == 1 else "most of them "
    return (
        f"Step {step} lost no more {name} here; **{share}** of its pixels were lost before, {when}at step "
        f"{found.worst_step}; {went}."
    )


def _answer_without_truth(page: Page, picture: Picture) -> str:
    beginning = "This picture has no annotation, so nothing says what was lost, only what changed. "
    if page.step == 0:
        return f"{beginning}Move the scrubber on."
    predictions = exhibit.answers(page.run, picture).predictions
    before, now = predictions[page.step - 1], predictions[page.step]
    changed = now[before != now]
    if not changed.size:
        return f"{beginning}Step {page.step} changed nothing."
    counts = np.bincount(changed)
    target = untrusted.markdown(page.run.classes[int(counts.argmax())].name)
    share = _percent(changed.size / now.size)
    return f"{beginning}Step {page.step} changed **{share}** of its pixels, most of them to **{target}**."


# ---------------------------------------------------------------------- the map


def _map(page: Page, picture: Picture | None, told: Story, told2: Story | None, only: bool) -> None:
    assert picture is not None
    shown = exhibit.shown(page.run, picture)
    key = _key(page.run)
    scene = _scene(page, told, told2, key, only)
    with page.section(
        "What became of each pixel",
        "Orange was right once and is lost; point at a pixel for its history, click to keep it.",
        slug="provenance",
        formula=PROVENANCE_FORMULA,
        source="ours (lag_core/explain/forgetting.py); right: the predicted class is the true one",
    ) as view:
        view.csv(lambda: _fate_table(page, told, only))
        _show(page, view, shown, scene, key)
        _pixel_line(page, told, kept_pixel(shown.size))


def _key(run: Run) -> Key:
    count, steps = len(run.classes), len(run.steps)
    colors = [design.rgb(design.PROVENANCE[FATE_NAMES[fate]]) for fate in CLASS_FATES]
    ramp = [design.on_ramp(design.DIVERGING[2::-1], t / max(steps - 1, 1)) for t in range(steps)]
    names = [
        *exhibit.class_names(run),
        *(FATE_NAMES[fate] for fate in CLASS_FATES),
        *(f"since step {t}" for t in range(steps)),
    ]
    palette = np.array([*exhibit.palette(run).tolist(), *colors, *ramp], np.uint8)
    return Key(palette, names, count, count + len(CLASS_FATES))


def _scene(page: Page, told: Story, told2: Story | None, key: Key, only: bool) -> Scene:
    """Truth and what it was lost to, then a map of fates for each step of either run."""
    mine = told.truth == page.cls if only else np.ones(told.truth.shape, bool)
    group = untrusted.plain(page.run.name, 60) if page.run2 else ""
    to, since = told.fates.still_lost_to(page.step), key.steps(told.fates.still_lost_at(page.step))
    layers = [
        Layer("Ground truth", told.truth),
        Layer("Lost to", _masked(to, mine), note=f"after step {page.step}", group=group),
        Layer("Lost since", _masked(since, mine), note=f"after step {page.step}", group=group),
    ]
    first = len(layers)
    layers += _fate_layers(told, key, mine, group)
    first2 = len(layers)
    if page.run2 and told2:
        layers += _fate_layers(told2, key, mine, untrusted.plain(page.run2.name, 60))
    return Scene(layers, first, 0, _beside(page, bool(told2), first, first2))


def _fate_layers(told: Story, key: Key, mine: np.ndarray, group: str) -> list[Layer]:
    layers = []
    for t, states in enumerate(told.fates.states):
        asked = states[mine & (states < Fate.ABSENT)]
        lost = (asked == Fate.FORGOTTEN).mean() if asked.size else float("nan")
        note = "" if np.isnan(lost) else f"{_percent(float(lost))} lost"
        layers.append(Layer(f"Step {t}", _masked(key.fates(states), mine), note=note, group=group))
    return layers


def _masked(labels: np.ndarray, mine: np.ndarray) -> np.ndarray:
    return np.where(mine, labels, IGNORE).astype(np.uint8)


def _beside(page: Page, compared: bool, first: int, first2: int) -> int | None:
    """Which layer is on the other side: chosen in the page's toolbar."""
    names = {"none": "nothing", "truth": "ground truth", "to": "the class it went to", "since": "since when"}
    if page.step:
        names["before"] = "the step before"
    if compared and page.run2:
        names = {"run2": "the compared run"} | names
    with page.toolbar:
        st.markdown("beside", width="content")
        chosen = settings.select(
            "Beside the map",
            "map-beside",
            list(names),
            "run2" if "run2" in names else "to",
            names=lambda value: names[value],
            label_visibility="collapsed",
            width=200,
        )
    places = {"none": None, "truth": 0, "to": 1, "since": 2, "before": first + page.step - 1}
    places["run2"] = first2 + page.step2
    return places[chosen]


def _show(page: Page, view: View, shown: exhibit.Shown, scene: Scene, key: Key) -> None:
    """The viewer; a click keeps the pixel, a step chosen in the strip moves the scrubber."""
    chosen = kept_settings(VIEWER, len(key.names), split="side")
    pixel = kept_pixel(shown.size)
    event = viewer(
        shown.encoded,
        scene.layers,
        key.palette,
        key.names,
        key=VIEWER,
        active=max(scene.first + page.step - scene.first_step, scene.first),
        second=scene.beside,
        opacity=chosen.opacity,
        hidden=chosen.hidden,
        threshold=chosen.threshold,
        outlines=chosen.outlines,
        mode=chosen.mode,
        split=chosen.split,
        marker=pixel,
        height=HEIGHT,
        title="What became of each pixel of the selected picture",
        size=shown.size,
        strip=True,
        report=True,
        filename=f"{view.file_stem}-step-{page.step}",
    )
    if event and event.kind == "click":
        pixel = (event.x, event.y)
        keep_pixel(pixel)
    if pixel:
        state.use("pixel", f"{pixel[0]}-{pixel[1]}")
    chosen_step = event.layer - scene.first + scene.first_step if event and event.kind == "layer" else -1
    if event and event.layer >= scene.first and 0 <= chosen_step <= page.last_step:
        state.go(step=chosen_step)


def _pixel_line(page: Page, told: Story, pixel: tuple[int, int] | None) -> None:
    """The history of the chosen pixel in one line, which is always there so that nothing jumps."""
    if pixel is None:
        st.caption("Click a pixel to read its history here.")
        return
    st.caption(f"Pixel {pixel[0]}, {pixel[1]}{pixel_history(told, page.run, pixel, page.step)}")


def pixel_history(told: Story, run: Run, pixel: tuple[int, int], step: int) -> str:
    """What became of one pixel by `step`, in words (Markdown)."""
    x, y = pixel
    truth = int(told.truth[y, x])
    if truth >= len(run.classes):
        return " is not annotated."
    name = untrusted.markdown(run.classes[truth].name)
    states = [Fate(int(states[y, x])) for states in told.fates.states[: step + 1]]
    events = []
    for t, fate in enumerate(states):
        before = states[t - 1] if t else Fate.ABSENT
        if fate is Fate.LEARNED:
            events.append(f"learned at step {t}")
        elif fate is Fate.FORGOTTEN and before is not Fate.FORGOTTEN:
            target = int(told.fates.went_to[t][y, x])
            to = untrusted.markdown(run.classes[target].name) if target < len(run.classes) else "nothing"
            events.append(f"lost at step {t} to {to}")
        elif fate is Fate.RECOVERED and before is Fate.FORGOTTEN:
            events.append(f"recovered at step {t}")
    if not events:
        introduced = run.labels.step_of(truth)
        events = [f"introduced at step {introduced}" if step < introduced else "never right so far"]
    return f", in truth **{name}**: {', '.join(events)}."


def _fate_table(page: Page, told: Story, only: bool) -> dict[str, list[Any]]:
    """Pixels of each fate, by class and step."""
    rows = []
    for t, states in enumerate(told.fates.states):
        for k in [page.cls] if only else range(len(page.run.classes)):
            counts = np.bincount(states[told.truth == k], minlength=len(Fate))
            rows.append((t, page.run.classes[k].name, *(int(counts[fate]) for fate in CLASS_FATES)))
    heads = ("step", "class", *(FATE_NAMES[fate] for fate in CLASS_FATES))
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


def _change_map(page: Page, picture: Picture | None) -> None:
    """Instead of fates, for a picture without annotation: where the prediction changed."""
    with page.section(
        "Where predictions changed",
        "Each map shows the pixels that a step gave another class, in the colour of that class.",
        slug="changes",
        formula=r"\hat y^t_p \ne \hat y^{t-1}_p",
        source="ours; without annotation nothing says which of the two is right",
    ) as view:
        if picture is None:
            raise Empty(page.why_no_image)
        if page.last_step == 0:
            raise Empty("This run has a single step, so nothing can change.")
        shown, key = exhibit.shown(page.run, picture), _key(page.run)
        predictions = exhibit.answers(page.run, picture).predictions
        changed = fates.moved(page.run, picture)
        view.csv(lambda: {"step": list(range(1, len(predictions))), "changed": list(changed.shares)})
        _show(page, view, shown, _change_scene(page, predictions, changed, key), key)
        now = predictions[page.step]
        st.caption(
            f"{_percent(float((changed.count > 0).mean()))} of the pixels changed at some step, "
            f"{_percent(float((now != predictions[0]).mean()))} are another class than after step 0."
        )


def _change_scene(page: Page, predictions: Sequence[np.ndarray], changed: Changes, key: Key) -> Scene:
    layers = [
        Layer("Prediction", predictions[page.step], note=f"step {page.step}"),
        Layer("Last change", key.steps(changed.last)),
    ]
    first = len(layers)
    for t in range(1, len(predictions)):
        labels = np.where(predictions[t] != predictions[t - 1], predictions[t], IGNORE).astype(np.uint8)
        layers.append(Layer(f"Step {t}", labels, note=f"{_percent(float(changed.shares[t - 1]))} changed"))
    return Scene(layers, first, 1, 0)


# ---------------------------------------------------------------------- flows


def _flows(page: Page, picture: Picture | None, told: Story | None, told2: Story | None, scope: str) -> None:
    blind = picture is not None and told is None
    name = untrusted.markdown(untrusted.plain(page.class_info.name, 24))
    title = "Where its pixels went" if blind else f"Where {name} went"
    what = "this picture" if blind or scope == PICTURE else "the validation set"
    reading = (
        f"All pixels of {what} by predicted class; orange changed class."
        if blind
        else f"Pixels that are {name} in truth, over {what}: orange leaves it, light blue comes to it."
    )
    with page.section(
        title,
        reading,
        slug="flows",
        formula=r"F^t_{ij} = |\{p : y_p = c,\ \hat y^t_p = i,\ \hat y^{t+1}_p = j\}|",
        source="ours; classes with less than 2 % of the pixels of a step are drawn together as others",
    ) as view:
        runs = _flow_runs(page, picture, told, told2, scope)
        if page.last_step == 0:
            raise Empty("This run has a single step, so no pixel can move.")
        if not any(flows.any() for _, flows in runs):
            raise Empty(f"There is no {name} in {what}. Choose another class, or the validation set above.")
        runs = [(run, flows) for run, flows in runs if flows.any()]
        view.csv(lambda: _flow_table(page.run, runs))
        figure = figures.flow_diagram(
            runs, page.run.classes, page.ink, cls=None if blind else page.cls, step=page.step,
            height=FLOW_HEIGHT,
        )  # fmt: skip
        view.plot(figure, "Flows of pixels between predicted classes from step to step", height=FLOW_HEIGHT)


def _flow_runs(
    page: Page, picture: Picture | None, told: Story | None, told2: Story | None, scope: str
) -> list[tuple[str, np.ndarray]]:
    """Name and flows of the run and the compared one, in the class indices of the run."""
    count = len(page.run.classes)
    if picture is not None and told is None:
        runs = [(page.run.name, np.stack(exhibit.answers(page.run, picture).predictions))]
        if page.run2:
            other = exhibit.answers(page.run2, picture, page.run).predictions
            runs.append((page.run2.name, np.stack(other)))
        named = [(name, fates.flows_of_all(maps, count)) for name, maps in runs]
    else:
        named = [(name, losses.flows(page.cls)) for name, losses in _counted(page, told, told2, scope)]
    named = [(name, flows) for name, flows in named if len(flows)]
    return named if len(named) > 1 else [("", flows) for _, flows in named]


def _flow_table(run: Run, runs: Sequence[tuple[str, np.ndarray]]) -> dict[str, list[Any]]:
    rows = [
        (name or run.name, t, run.classes[a].name, run.classes[b].name, int(flow[a, b]))
        for name, flows in runs
        for t, flow in enumerate(flows)
        for a, b in np.argwhere(flow).tolist()
    ]
    heads = ("run", "step", "class at step", "class at next step", "pixels")
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


# ---------------------------------------------------------------------- counts


def _counted(page: Page, told: Story | None, told2: Story | None, scope: str) -> list[tuple[str, Losses]]:
    """Name and counts of the run, and of the compared one where it has them, in the run's class indices.

    `Empty` where the run itself has none.
    """
    if scope == PICTURE and told:
        found = [(page.run.name, told.losses)]
        if page.run2 and told2:
            found.append((page.run2.name, fates.in_order_of(told2.losses, page.run, page.run2)))
        return found
    own = fates.survey_of(page.run)
    if own is None:
        raise Empty(no_survey(page.run))
    theirs = fates.survey_of(page.run2) if page.run2 else None
    found = [(page.run.name, own)]
    if page.run2 and theirs:
        found.append((page.run2.name, fates.in_order_of(theirs, page.run, page.run2)))
    return found


def no_survey(run: Run) -> str:
    """What to do where a run was not surveyed (Markdown)."""
    name = untrusted.markdown(run.name)
    return (
        f"Nobody has looked at all validation images of {name} yet. `python -m lag_core survey` with the "
        "run's folder does so, once."
    )


def _lost_by_class(page: Page, told: Story | None, told2: Story | None, scope: str) -> None:
    what = "this picture" if scope == PICTURE else "the validation set"
    with page.section(
        "Lost, by class and step",
        f"Percent of a class's pixels that were right once and are wrong now, over {what}; click a cell.",
        slug="lost",
        formula=r"L_{t,c} = \frac{|\{p : y_p = c,\ p \text{ forgotten after } t\}|}{|\{p : y_p = c\}|}",
        source="ours; blank where the class has no pixels",
    ) as view:
        counted = _counted(page, told, told2, scope)
        losses = counted[0][1]
        shares = _from_introduction(losses.shares(), page.run)
        other = counted[1] if len(counted) > 1 else None
        names = [c.name for c in page.run.classes]
        table: dict[str, Any] = {"class": names, "pixels": losses.pixels}
        view.csv(table | {f"step {t}": row for t, row in enumerate(shares)})
        figure = figures.lost_matrix(
            shares, losses.pixels, page.run.classes, page.ink, step=page.step, cls=page.cls,
            other=other[1].shares() if other else None, other_name=other[0] if other else "",
        )  # fmt: skip
        points = view.plot(
            figure, "Heat map of lost pixels in percent, by class and step", height=LOWER_HEIGHT, select=True
        )
        if points and state.fresh("lost", points[0]["customdata"]):
            step, cls = points[0]["customdata"]
            state.go(step=step, cls=class_names(page.run)[cls])


def _from_introduction(shares: np.ndarray, run: Run) -> np.ndarray:
    """With NaN before a class is introduced: there is nothing yet that could be lost."""
    known = shares.copy()
    for t in range(len(known)):
        known[t, run.labels.seen(t) :] = np.nan
    return known


def _shift(page: Page, told: Story | None, told2: Story | None, scope: str, only: bool) -> None:
    name = untrusted.markdown(untrusted.plain(page.class_info.name, 24))
    what = f"Pixels of {name}" if only else "Pixels of old classes"
    hatched = f"; hatched: {untrusted.markdown(untrusted.plain(page.run2.name, 40))}" if page.run2 else ""
    where = "this picture" if scope == PICTURE else "the validation set"
    with page.section(
        "Background shift",
        f"{what} over {where} and what each step calls them{hatched}.",
        slug="shift",
        formula=r"S^t_j = \frac{\sum_{c\,\text{old}} N^t_{cj}}{\sum_{c\,\text{old}} \sum_k N^t_{ck}}",
        source="METHOD.md I.7; old: introduced before step t, background apart; j summed over groups",
    ) as view:
        runs = [
            (run, fates.shift_of(losses, page.run, page.cls if only else None))
            for run, losses in _shift_counts(page, told, told2, scope)
        ]
        if all(np.isnan(shares).all() for _, shares in runs):
            raise Empty(f"No step counts {name if only else 'a class'} among the old ones here.")
        view.csv(lambda: _shift_table(runs))
        figure = figures.shift_bars(runs, page.ink, step=page.step, background=page.run.labels.background is not None)
        view.plot(figure, "Stacked shares of what pixels of old classes are called", height=LOWER_HEIGHT)


def _shift_counts(page: Page, told: Story | None, told2: Story | None, scope: str) -> list[tuple[str, Losses]]:
    """As `_counted`; over the validation set the confusion matrices of the evaluation suffice."""
    if scope == PICTURE and told:
        return _counted(page, told, told2, scope)
    found = [(page.run.name, _only_confusions(page.confusions()))]
    theirs = loaders.confusions(page.run2) if page.run2 else None
    if page.run2 and theirs is not None:
        found.append((page.run2.name, fates.in_order_of(_only_confusions(theirs), page.run, page.run2)))
    return found


def _only_confusions(matrices: np.ndarray) -> Losses:
    empty = np.zeros(matrices.shape[:2], np.int64)
    return Losses(matrices[0].sum(1), empty, matrices, lambda cls: np.zeros((0, 0, 0), np.int64))


def _shift_table(runs: Sequence[tuple[str, np.ndarray]]) -> dict[str, list[Any]]:
    rows = [(name, t, *row) for name, shares in runs for t, row in enumerate(shares)]
    heads = ("run", "step", *figures.SHIFT)
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


# ---------------------------------------------------------------------- images


def _images(page: Page, only: bool) -> None:
    name = untrusted.markdown(untrusted.plain(page.class_info.name, 24))
    of = f"{name} pixels" if only else "pixels"
    with page.section(
        "Images that lost most",
        f"By lost {of} after step {page.step}; the number is the share of them. Click one to select it.",
        slug="images",
    ) as view:
        survey = loaders.survey(page.run)
        if survey is None:
            raise Empty(no_survey(page.run))
        ranked = survey.rank_images(page.step, page.cls if only else None)
        if not ranked:
            raise Empty(f"No validation image has lost {of} after step {page.step}.")
        view.csv(lambda: _image_table(ranked))
        items = [
            Thumbnail(
                image.id,
                partial(loaders.thumbnail, page.run, page.data_root, image.id, GALLERY_SIDE),
                untrusted.plain(image.id, 60),
                badge=f"−{_percent(image.share)}",
                tone="bad",
                version=f"{page.run.digest}/{page.data_root}/{image.id}/{GALLERY_SIDE}",
            )
            for image in ranked
        ]
        picked = thumbnails(
            items, key="lost-images", selected=page.image_id, page_size=GALLERY_SIZE, size=GALLERY_SIDE,
            label="Images that lost most",
        )  # fmt: skip
        if picked is not None and picked != page.image_id:
            state.go(image=picked)


def _image_table(ranked: Sequence[ImageLoss]) -> dict[str, list[Any]]:
    return {
        "image": [image.id for image in ranked],
        "lost": [image.lost for image in ranked],
        "share": [image.share for image in ranked],
    }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 or fraction == 0 else f"{100 * fraction:.1f} %"
