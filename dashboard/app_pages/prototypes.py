"""Prototypes: did the class move?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard import exhibit, prototype_maps, settings, state, untrusted
from dashboard.components.viewer import Layer, viewer
from dashboard.components.viewer_state import keep_pixel, kept_pixel, kept_settings
from dashboard.figures import prototypes as figures
from dashboard.figures.prototypes import Series
from dashboard.page import Empty, Page, View
from dashboard.prototype_maps import Kind, Motion
from dashboard.sidebar import class_names
from lag_core.explain import similarity
from lag_core.runs import Run

VIEWER = "prototype-viewer"
UPPER_HEIGHT = 308
HEIGHT = 400
MATRIX_HEIGHT = 540
TABLE_HEIGHT = 250
VALUES_SIDE = 128
"""Cells of the long side of the numbers behind a cosine map."""

SAME, OWN = "same", "own"
D_LATEX = r"d(a, b) = 1 - \frac{a \cdot b}{\lVert a \rVert \lVert b \rVert}"


def render(page: Page) -> None:
    """Draw the page."""
    found = prototype_maps.motions(page.run)
    if not found:
        raise Empty(
            f"{untrusted.markdown(page.run.name)} has no prototypes. `python -m lag_core survey` with the "
            "run's folder measures them on its validation images; methods with prototypes also store their own."
        )
    motion = found[_choose_kind(page, found)]
    other = prototype_maps.motions(page.run2).get(motion.kind) if page.run2 else None
    page.answer(answer(page, motion, other))
    drawn = figures.chosen_classes(motion.drift.since_introduced[-1], page.cls)
    left, middle, right = st.columns((1.25, 1, 1), gap="small")
    with left:
        _paths(page, motion, drawn)
    with middle:
        _drift(page, motion, other, drawn)
    with right:
        _margins(page, motion, other, drawn)
    left, right = st.columns((1.75, 1), gap="small")
    with left:
        _picture(page, motion, other)
    with right:
        _matrix(page, motion)
    left, right = st.columns((1, 1.75), gap="small")
    with left:
        _unknown(page, motion, other, drawn)
    with right:
        _numbers(page, motion)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    for motion in list(prototype_maps.motions(page.run).values())[:1]:
        prototype_maps.nearest(page.run, page.picture(), motion, page.step)
        _cosine_layers(page, motion)
        if page.run2:
            _compared_layers(page, prototype_maps.motions(page.run2).get(motion.kind))


def _choose_kind(page: Page, found: dict[Kind, Motion]) -> Kind:
    """Measured or stored prototypes; what is looked at is said in either case."""
    meaning: dict[Kind, str] = {
        "measured": "measured on the validation images",
        "stored": "stored by training",
    }
    kinds: tuple[Kind, ...] = tuple(found)
    with page.toolbar:
        if len(kinds) == 1:
            st.markdown(f"Prototypes {meaning[kinds[0]]}", width="content")
            return kinds[0]
        st.markdown("Prototypes", width="content")
        chosen = settings.segments(
            "Prototypes",
            "prototypes",
            kinds,
            names=lambda kind: meaning[kind],  # type: ignore[index]
            label_visibility="collapsed",
        )
    return "stored" if chosen == "stored" else "measured"


# ---------------------------------------------------------------------- the answer


def answer(page: Page, motion: Motion, other: Motion | None) -> str:
    """Did the selected class move, in words that follow from the numbers (Markdown)."""
    run, step, cls = page.run, page.step, page.cls
    name = f"**{untrusted.markdown(run.classes[cls].name)}**"
    introduced = run.labels.step_of(cls)
    if motion.kind == "stored":
        return (
            f"Training measures the prototype of {name} at step {introduced} and then keeps it, so stored "
            f"ones do not move. {_neighbour(motion, run, step, cls)} "
            f"`python -m lag_core survey` measures every class anew at every step."
        )
    if step < introduced:
        return f"{name} is introduced at step {introduced}; move the scrubber there to see where it begins."
    if not motion.prototypes.known[step, cls]:
        return f"No validation image shows {name}, so it has no prototype to follow."
    if step == introduced:
        return f"Step {step} introduces {name}; its way begins here. {_neighbour(motion, run, step, cls)}"
    return f"{_way(page, motion, other, name)} {_neighbour(motion, run, step, cls)}"


def _way(page: Page, motion: Motion, other: Motion | None, name: str) -> str:
    """How far the class moved, on the scale of its own spread, and its place among the classes."""
    drift = motion.drift.since_introduced[page.step]
    mine, introduced = float(drift[page.cls]), page.run.labels.step_of(page.cls)
    spread = float(motion.prototypes.spread[introduced, page.cls])
    times = "less than a tenth of" if mine < 0.1 * spread else f"{mine / spread:.1f} times"
    scale = f", {times} the spread of its own pixels" if spread > 0 else ""
    older = [k for k in range(len(drift)) if page.run.labels.step_of(k) < page.step and not np.isnan(drift[k])]
    rank = 1 + sum(bool(drift[k] > mine) for k in older)
    place = f" and {_ordinal(rank)} of the {len(older)} older classes" if len(older) > 1 else ""
    compared = ""
    if page.run2 and other and not np.isnan(theirs := other.drift.since_introduced[page.step2, page.cls2]):
        compared = f" In {untrusted.markdown(page.run2.name)} it moved by **{short(float(theirs))}**."
    return f"From step {introduced} to {page.step}, {name} moved by **{short(mine)}**{scale}{place}.{compared}"


def _ordinal(rank: int) -> str:
    return {1: "the most", 2: "second most", 3: "third most"}.get(rank, f"{rank}th most")


def _neighbour(motion: Motion, run: Run, step: int, cls: int) -> str:
    """The nearest other class and what the margin says."""
    nearest = int(motion.margins.nearest[step, cls])
    if nearest < 0:
        return ""
    name = untrusted.markdown(run.classes[nearest].name)
    distance, margin = (float(a[step, cls]) for a in (motion.margins.distance, motion.margins.margin))
    sentence = f"Its nearest class is **{name}**, at {short(distance)}"
    if np.isnan(margin):
        return f"{sentence}."
    if margin < 0:
        return f"{sentence}: nearer than its own pixels spread, so the two overlap (margin {short(margin)})."
    return f"{sentence}: farther than its own pixels spread (margin {short(margin)})."


def short(value: float) -> str:
    """A number with two significant digits, at least two decimals; 0 stays 0."""
    if np.isnan(value):
        return "–"
    if abs(value) < 5e-7:
        return "0"
    decimals = max(2, 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{min(decimals, 6)}f}".replace("-", "−")


# ---------------------------------------------------------------------- over steps


def _paths(page: Page, motion: Motion, drawn: Sequence[int]) -> None:
    run = page.run
    hollow = " Hollow: not introduced yet." if motion.kind == "measured" else ""
    with page.section(
        "Paths of the prototypes",
        f"One plane for all steps; large marks are step {page.step}. Near one another: alike.{hollow}",
        slug="paths",
        formula=r"x^t_k = A\,(p^t_k / \lVert p^t_k \rVert - \mu), \qquad A: \text{first two principal axes}",
        source="METHOD.md I.4; the axes are fitted once to the unit prototypes of all steps and classes (ours)",
    ) as view:
        introduced = [run.labels.step_of(k) for k in range(len(run.classes))]
        found = similarity.paths(motion.prototypes, motion.projection, drawn)
        view.csv(
            lambda: _table(
                ("class", "step", "axis 1", "axis 2"),
                [
                    (run.classes[path.cls].name, t, *point)
                    for path in found
                    for t, point in zip(path.steps, path.points.tolist(), strict=True)
                ],
            )
        )
        figure = figures.path_plane(
            found, motion.projection, run.classes, introduced, page.ink, cls=page.cls, step=page.step
        )
        _plot(page, view, figure, "Paths of class prototypes in a plane", UPPER_HEIGHT)


def _plot(page: Page, view: View, figure: Any, alt: str, height: int) -> None:
    """Draw a figure whose clicks carry (step, class index)."""
    points = view.plot(figure, alt, height=height, select=True)
    if points and state.fresh(f"prototypes-{view.slug}", points[0]["customdata"]):
        step, cls = points[0]["customdata"]
        state.go(step=step, cls=class_names(page.run)[cls])


def _drift(page: Page, motion: Motion, other: Motion | None, drawn: Sequence[int]) -> None:
    with page.section(
        "Own drift",
        f"Distance of each class to itself when it was introduced; 0: it stayed. {_legend(page, other)}",
        slug="drift",
        formula=r"D^t_k = 1 - \cos(p^t_k, p^{s_k}_k)",
        source="METHOD.md I.4; s: the step that introduces class k",
    ) as view:
        if motion.kind == "stored":
            raise Empty(
                "A stored prototype is kept as it was when its class was introduced: its drift is 0 by "
                "construction. `python -m lag_core survey` measures prototypes that can drift."
            )
        _lines(
            page, view, motion, other, drawn, lambda m: m.drift.since_introduced, "drift (1 − cosine)",
            "Own drift of each class over the steps", UPPER_HEIGHT,
        )  # fmt: skip


def _margins(page: Page, motion: Motion, other: Motion | None, drawn: Sequence[int]) -> None:
    spread = motion.kind == "measured"
    reading = (
        "Distance to the nearest other class, minus the spread of the own pixels: below 0 they overlap."
        if spread
        else "Distance to the nearest other class; stored prototypes come without a spread."
    )
    with page.section(
        "Margin to the nearest class" if spread else "Distance to the nearest class",
        reading,
        slug="margin",
        formula=r"M^t_k = \min_{j \ne k} d(p^t_k, p^t_j) - \overline{d(z, p^t_k)}, \quad " + D_LATEX,
        source="METHOD.md I.4; the spread is the mean over the class's latent pixels z",
    ) as view:
        title = "margin (1 − cosine)" if spread else "distance (1 − cosine)"
        _lines(
            page, view, motion, other, drawn, lambda m: m.margins.margin if spread else m.margins.distance,
            title, "Margin of each class to its nearest neighbour over the steps", UPPER_HEIGHT, nearest=True,
        )  # fmt: skip


def _unknown(page: Page, motion: Motion, other: Motion | None, drawn: Sequence[int]) -> None:
    with page.section(
        "Distance to the unknown class",
        f"A class that comes near 0 is drowning in what the model calls unknown. {_legend(page, other)}",
        slug="unknown",
        formula=r"U^t_k = d(p^t_k, u^t), \quad " + D_LATEX,
        source="METHOD.md I.4; u: embedding of the unknown class that training left after step t",
    ) as view:
        if motion.unknown is None:
            raise Empty("This run does not model the unknown class, or training left no embedding of it.")
        if np.isnan(motion.unknown).all():
            raise Empty("No pixel was labelled unknown in this training, so there is no embedding of it.")
        theirs = other if other is not None and other.unknown is not None else None
        _lines(
            page, view, motion, theirs, drawn, _unknown_of, "distance (1 − cosine)",
            "Distance of each class to the unknown embedding over the steps", TABLE_HEIGHT,
        )  # fmt: skip


def _unknown_of(motion: Motion) -> np.ndarray:
    assert motion.unknown is not None
    return motion.unknown


def _legend(page: Page, other: Motion | None) -> str:
    name = untrusted.markdown(untrusted.plain(page.class_info.name, 24))
    if page.run2 is None or other is None:
        return f"Heavy: {name}."
    return f"Heavy: {name}; dotted: in {untrusted.markdown(untrusted.plain(page.run2.name, 40))}."


def _lines(
    page: Page,
    view: View,
    motion: Motion,
    other: Motion | None,
    drawn: Sequence[int],
    values: Callable[[Motion], np.ndarray],
    y: str,
    alt: str,
    height: int,
    *,
    nearest: bool = False,
) -> None:
    """A line for each class, and a dotted one for the selected class in the compared run."""
    run, own = page.run, values(motion)
    series = [_series(run, motion, own, k, k, "", nearest) for k in drawn]
    if page.run2 and other is not None:
        theirs, name = values(other), untrusted.plain(page.run2.name, 40)
        series.append(_series(page.run2, other, theirs, page.cls2, page.cls, name, nearest))
    if all(np.isnan(one.values).all() for one in series):
        raise Empty("There is nothing to compare yet: no class has been followed from one step to another.")
    view.csv(lambda: {"class": [run.classes[k].name for k in range(own.shape[1])]} | _by_step(own))
    steps = max(len(one.values) for one in series)
    figure = figures.over_steps(series, run.classes, page.ink, cls=page.cls, step=page.step, steps=steps, y=y)
    _plot(page, view, figure, alt, height)


def _series(run: Run, motion: Motion, values: np.ndarray, own: int, cls: int, compared: str, nearest: bool) -> Series:
    """Class `own` of `run`, which is class `cls` of the open run, with what is told on pointing."""
    words = []
    for t in range(len(values)):
        text = f"{_label(run, own)}, step {t}: {short(float(values[t, own]))}"
        if nearest and motion.margins.nearest[t, own] >= 0:
            text += f"<br>nearest: {_label(run, int(motion.margins.nearest[t, own]))}"
        words.append(f"{text}<br>{untrusted.plotly(compared)}" if compared else text)
    return Series(cls, values[:, own], words, dotted=bool(compared))


def _label(run: Run, cls: int) -> str:
    return untrusted.plotly(untrusted.plain(run.classes[cls].name, 40))


def _by_step(values: np.ndarray) -> dict[str, Any]:
    return {f"step {t}": row for t, row in enumerate(values)}


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return {head: [row[i] for row in rows] for i, head in enumerate(heads)}


# ---------------------------------------------------------------------- the picture


def _picture(page: Page, motion: Motion, other: Motion | None) -> None:
    name = untrusted.markdown(untrusted.plain(page.class_info.name, 24))
    with page.section(
        "Pixels against prototypes",
        f"Left: the class whose prototype is nearest, without the heads. Further: cosine to {name} by step.",
        slug="nearest",
        formula=r"\hat y^{\text{near}}_p = \arg\max_{k \le t} \cos(z^t_p, p^t_k)",
        source="ours; z: latent map, upsampled as the logits are; k: classes known at step t",
    ) as view:
        picture = page.picture()
        shown = exhibit.shown(page.run, picture)
        prediction = exhibit.answers(page.run, picture).predictions[page.step]
        near = prototype_maps.nearest(page.run, picture, motion, page.step)
        if (near == 255).all():
            raise Empty(f"No class has a prototype at step {page.step} yet.")
        st.caption(_verdict(page, shown.truth, near, prediction))
        layers = [Layer("Nearest prototype", near), Layer("Prediction", prediction)]
        if shown.truth is not None:
            layers.append(Layer("Ground truth", shown.truth))
        compared = len(layers)
        layers += _compared_layers(page, other)
        first = len(layers)
        layers += _cosine_layers(page, motion)
        view.csv(lambda: _agreement_table(page, shown.truth, near, prediction))
        beside = _beside(page, shown.truth is not None, compared, first, motion)
        _show(page, view, shown, layers, beside)


def _compared_layers(page: Page, other: Motion | None) -> list[Layer]:
    """Nearest prototypes in the compared run at the same step, in the class indices of the open run."""
    if page.run2 is None or other is None:
        return []
    labels = prototype_maps.nearest(page.run2, page.picture(), other, page.step2)
    table = exhibit.class_table(page.run2, page.run)
    return [Layer("Nearest prototype", table[labels], group=untrusted.plain(page.run2.name, 60))]


def _verdict(page: Page, truth: np.ndarray | None, near: np.ndarray, prediction: np.ndarray) -> str:
    """What the two maps say about the selected class, or how far they agree."""
    agree = _percent(float((near == prediction).mean()))
    if truth is None:
        return f"After step {page.step}, both maps agree on {agree} of the pixels."
    name = untrusted.markdown(page.class_info.name)
    mine = truth == page.cls
    if not mine.any() or page.step < page.run.labels.step_of(page.cls):
        known = truth < page.run.labels.seen(page.step)
        right = [float((m == truth)[known].mean()) if known.any() else float("nan") for m in (near, prediction)]
        return (
            f"Of the pixels of known classes, nearest prototypes get {_percent(right[0])} right, the heads "
            f"{_percent(right[1])}; they agree on {agree}."
        )
    by_near, by_heads = (float((m == page.cls)[mine].mean()) for m in (near, prediction))
    return (
        f"Of the {name} pixels, nearest prototypes get **{_percent(by_near)}** right, the heads "
        f"**{_percent(by_heads)}**{_meaning(by_near, by_heads)}; over the whole picture "
        f"they agree on {agree}."
    )


def _meaning(by_near: float, by_heads: float) -> str:
    """What follows where the two differ much, or where both fail."""
    if by_near - by_heads > 0.2:
        return ": the latent map still tells the class apart, the heads no longer do"
    if by_heads - by_near > 0.2:
        return ": the heads tell the class apart where its direction alone does not"
    if max(by_near, by_heads) < 0.2:
        return ": neither finds the class any more"
    return ""


def _cosine_layers(page: Page, motion: Motion) -> list[Layer]:
    """The cosine of each pixel to the selected class's prototype, by step, in one scale."""
    picture = page.picture()
    found = [(t, prototype_maps.cosine(page.run, picture, motion, t, page.cls)) for t in range(page.last_step + 1)]
    maps = [(t, values) for t, values in found if values is not None]
    if not maps:
        return []
    low = min(float(np.quantile(values, 0.02)) for _, values in maps)
    high = max(float(np.quantile(values, 0.98)) for _, values in maps)
    group = f"Cosine to {untrusted.plain(page.class_info.name, 24)}, {short(low)} to {short(high)}"
    return [
        Layer(
            f"Step {t}",
            rgba=figures.colours(values, low, high, page.ink.ramp),
            values=_coarse(values),
            unit="cosine",
            group=group,
        )
        for t, values in maps
    ]


def _coarse(values: np.ndarray) -> np.ndarray:
    """The map at no more than VALUES_SIDE cells a side, for the read-out."""
    rows, columns = exhibit.sampling(values.shape[0], values.shape[1], VALUES_SIDE)
    return np.ascontiguousarray(values[np.ix_(rows, columns)])


def _beside(page: Page, annotated: bool, compared: int, first: int, motion: Motion) -> int | None:
    """What stands beside the map of nearest prototypes: chosen in the page's toolbar.

    compared, first: where the layers of the compared run and the cosines begin.
    """
    names = {"prediction": "the prediction", "none": "nothing"}
    places: dict[str, int | None] = {"prediction": 1, "none": None}
    if annotated:
        names["truth"], places["truth"] = "ground truth", 2
    if page.run2 and compared < first:
        names["run2"], places["run2"] = "the compared run", compared
    steps = np.flatnonzero(motion.prototypes.known[: page.last_step + 1, page.cls]).tolist()
    if page.step in steps:
        names["cosine"], places["cosine"] = "cosine to the class", first + steps.index(page.step)
    with page.toolbar:
        st.markdown("Beside the map", width="content")
        chosen = settings.select(
            "Beside the map",
            "nearest-beside",
            list(names),
            "prediction",
            names=lambda value: names[value],
            label_visibility="collapsed",
            width=190,
        )
    return places[chosen]


def _show(page: Page, view: View, shown: exhibit.Shown, layers: list[Layer], beside: int | None) -> None:
    chosen = kept_settings(VIEWER, len(page.run.classes), split="side")
    pixel = kept_pixel(shown.size)
    event = viewer(
        shown.encoded,
        layers,
        exhibit.palette(page.run),
        exhibit.class_names(page.run),
        key=VIEWER,
        active=0,
        second=beside,
        opacity=chosen.opacity,
        hidden=chosen.hidden,
        threshold=chosen.threshold,
        outlines=chosen.outlines,
        mode=chosen.mode,
        split=chosen.split,
        marker=pixel,
        height=HEIGHT,
        title="The selected picture against the prototypes",
        size=shown.size,
        truth=2 if shown.truth is not None else None,
        strip=True,
        report=True,
        filename=f"{view.file_stem}-step-{page.step}",
    )
    if event and event.kind == "click":
        pixel = (event.x, event.y)
        keep_pixel(pixel)
    if pixel:
        state.use("pixel", f"{pixel[0]}-{pixel[1]}")


def _agreement_table(
    page: Page, truth: np.ndarray | None, near: np.ndarray, prediction: np.ndarray
) -> dict[str, list[Any]]:
    """Pixels of each class in the maps, and how many of them are right."""
    count = len(page.run.classes)
    maps = {"nearest prototype": near, "prediction": prediction}
    table: dict[str, list[Any]] = {"class": [c.name for c in page.run.classes]}
    if truth is not None:
        table["truth"] = np.bincount(truth.ravel(), minlength=256)[:count].tolist()
    for name, labels in maps.items():
        table[name] = np.bincount(labels.ravel(), minlength=256)[:count].tolist()
        if truth is not None:
            table[f"{name}, right"] = np.bincount(truth[labels == truth], minlength=256)[:count].tolist()
    return table


def _percent(fraction: float) -> str:
    if np.isnan(fraction):
        return "–"
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 or fraction == 0 else f"{100 * fraction:.1f} %"


# ---------------------------------------------------------------------- cosines and numbers


def _matrix(page: Page, motion: Motion) -> None:
    run = page.run
    with page.section(
        "Cosines of the prototypes",
        "1: same direction. Off the diagonal, what grows grows alike; click a cell to select its row's class.",
        slug="cosines",
        formula=r"C_{kj} = \cos(p^t_k, p^u_j)",
        source="METHOD.md I.4; rows at the scrubber's step t, columns at step u",
    ) as view:
        against = _choose_columns(page)
        if against == OWN:
            own = motion.prototypes.mean[:, page.cls]
            cosines = similarity.cosine(own, own)
            rows = columns = [f"step {t}" for t in range(len(own))]
            hover = [[_own_words(run, page.cls, a, b, v) for b, v in enumerate(r)] for a, r in enumerate(cosines)]
            data = [(t, page.cls) for t in range(len(own)) for _ in range(len(own))]
            marked: int | None = page.step
        else:
            other = page.step if against == SAME else int(against)
            seen = run.labels.seen(page.step)
            cosines = similarity.similarity_matrix(motion.prototypes, page.step, other)[:seen, :seen]
            rows, columns = figures.labels(run.classes[:seen], page.ink)
            hover = [
                [_pair_words(run, page.step, other, a, b, v) for b, v in enumerate(r)] for a, r in enumerate(cosines)
            ]
            data = [(page.step, k) for k in range(seen) for _ in range(seen)]
            marked = page.cls if page.cls < seen else None
        if np.isnan(cosines).all():
            raise Empty("No two prototypes to compare here. Choose other columns, or move the scrubber.")
        names = [run.classes[k].name for k in range(len(cosines))] if against != OWN else rows
        view.csv({"": names} | {str(n): column for n, column in zip(names, cosines.T, strict=True)})
        figure = figures.cosine_matrix(cosines, rows, columns, hover, page.ink, row=marked, data=data)
        _plot(page, view, figure, "Matrix of cosines between class prototypes", MATRIX_HEIGHT)


def _choose_columns(page: Page) -> str:
    """What the rows are compared with."""
    name = untrusted.plain(page.class_info.name, 24)
    steps = [str(t) for t in range(page.last_step + 1)]
    names = {SAME: "classes at the same step"} | {t: f"classes at step {t}" for t in steps}
    names[OWN] = f"{name} at every step"
    return settings.select(
        "Columns",
        "cosine-columns",
        list(names),
        SAME,
        names=lambda value: names[value],
        label_visibility="collapsed",
    )


def _own_words(run: Run, cls: int, a: int, b: int, value: float) -> str:
    return f"{_label(run, cls)}, step {a} and step {b}: cosine {value:.4f}"


def _pair_words(run: Run, step: int, other: int, a: int, b: int, value: float) -> str:
    return f"{_label(run, a)} at step {step}, {_label(run, b)} at step {other}: cosine {value:.4f}"


def _numbers(page: Page, motion: Motion) -> None:
    with page.section(
        f"All classes after step {page.step}",
        "Cosine distances (1 − cosine): own drift, nearest neighbour, spread of the own pixels.",
        slug="numbers",
        inline=True,
    ) as view:
        table = _class_table(page.run, motion, page.step)
        view.csv(table)
        number = st.column_config.NumberColumn(format="%.4g", width=84)
        text = ("class", "nearest")
        st.dataframe(
            {k: [untrusted.plain(v, 40) for v in c] if k in text else c for k, c in table.items()},
            hide_index=True,
            height=TABLE_HEIGHT,
            column_config={head: number for head in table if head not in text},
            key="prototype-table",
            alt="Drift, neighbours and margins of every class",
        )


def _class_table(run: Run, motion: Motion, step: int) -> dict[str, list[Any]]:
    """One row for each class that is known after `step`."""
    seen = range(run.labels.seen(step))
    nearest = [int(motion.margins.nearest[step, k]) for k in seen]
    columns = {
        "drift": motion.drift.since_introduced,
        "drift, last step": motion.drift.since_last,
        "to nearest": motion.margins.distance,
        "spread": motion.prototypes.spread,
        "margin": motion.margins.margin,
    }
    if motion.unknown is not None:
        columns["to unknown"] = motion.unknown
    if motion.kind == "stored":
        columns = {head: v for head, v in columns.items() if head in ("to nearest", "to unknown")}
    table: dict[str, list[Any]] = {
        "class": [run.classes[k].name for k in seen],
        "nearest": [run.classes[n].name if n >= 0 else "" for n in nearest],
    }
    for head, values in columns.items():
        row = [float(values[step, k]) for k in seen]
        table[head] = [None if np.isnan(v) else v for v in row]
    return table
