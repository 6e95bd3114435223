"""Relevance: which neurons and pixels speak for a class?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from dashboard import design, exhibit, relevance_maps, settings, state, untrusted
from dashboard.components.viewer import Layer, viewer
from dashboard.components.viewer_state import keep_pixel, kept_settings
from dashboard.figures import relevance as figures
from dashboard.loaders import Picture
from dashboard.page import Empty, Page
from dashboard.relevance_maps import Asked, Explained, Refused
from dashboard.relevance_scene import (
    ABOUT_WORDS,
    DEPTH_NAMES,
    METHOD_NAMES,
    Scene,
    Series,
    at_first,
    compute,
    progress,
    scene,
)
from dashboard.shelf import SHELF

if TYPE_CHECKING:
    from lag_core.explain.attribution_checks import Pointing, Randomised

VIEWER = "relevance-viewer"
HEIGHT, ROW_HEIGHT, CHANNELS_HEIGHT, SHUFFLED_HEIGHT = 430, 29, 290, 200
VALUES_SIDE = 128

SAME, SIMILAR = 0.9, 0.6
"""Cosines from which two maps count as alike in words, and below which they do not."""
AIMED, CHANCE = 1 / 3, 0.05
"""Of the way from chance to everything on the class: from where a map counts as aimed at it, and as chance."""
EXACT, CLOSE = 1e-3, 0.05
"""Conservation errors up to which nothing, or little, is missing."""
INDEPENDENT = 0.5
"""Rank correlation with the map of shuffled weights from which a map hardly depends on them."""

FORMULAS: dict[str, tuple[str, str]] = {
    "lrp": (
        r"R_i = \sum_j \frac{(a_i w_{ij})^+}{\sum_i (a_i w_{ij})^+} R_j \text{ (backbone)}, \quad "
        r"R_i = \sum_j \frac{a_i w_{ij}}{z_j + \epsilon\,\mathrm{sign}\,z_j} R_j \text{ (ASPP, heads)}",
        "Bach et al. 2015, Montavon et al. 2019; z-box at the image",
    ),
    "lrp-epsilon": (
        r"R_i = \sum_j \frac{a_i w_{ij}}{z_j + \epsilon\,\mathrm{sign}\,z_j} R_j",
        "Bach et al. 2015, everywhere",
    ),
    "gradient-x-input": (r"R_i = x_i \, \frac{\partial s}{\partial x_i}", "Shrikumar et al. 2016"),
    "grad-cam": (
        r"R = \mathrm{ReLU}\Big(\sum_c Z_c \cdot \mathrm{mean}_{xy} \frac{\partial s}{\partial Z_c}\Big)",
        "Selvaraju et al. 2017, at the latent map Z",
    ),
    "integrated-gradients": (
        r"R_i = (x_i - x'_i) \int_0^1 \frac{\partial s(x' + \alpha (x - x'))}{\partial x_i} d\alpha",
        "Sundararajan et al. 2017; x': the mean colour, 32 points",
    ),
    "occlusion": (
        r"R_i = \mathrm{mean}_{w \ni i}\, \big(s(x) - s(x \text{ with } w \text{ grey})\big)",
        "Zeiler and Fergus 2014; windows of 32 pixels, every 16",
    ),
}
"""Of each method: formula and source."""

CHECK_FORMULA = (
    r"e = \frac{|\sum_i R_i + \text{absorbed} - s|}{|s|}, \quad \cos(R^+_t, R^+_{t-1}), \quad "
    r"\frac{|T_t \cap T_{t-1}|}{|T_t \cup T_{t-1}|}, \quad \frac{\sum_{i \in \text{class}} R^+_i}{\sum_i R^+_i}"
)


def render(page: Page) -> None:
    """Draw the page."""
    shared = scene(page)
    page.answer(answer(shared))
    left, right = st.columns((1.55, 1), gap="small")
    with left:
        _maps(shared)
        _shuffled(shared)
    with right:
        _checks(shared)
        _channels(shared)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    if page.step >= page.run.labels.step_of(page.cls):
        shared = at_first(page)
        answer(shared)
        _layers(shared, same=False)


# ---------------------------------------------------------------------- the answer


def answer(shared: Scene) -> str:
    """Which neurons and pixels speak for the class, in words that follow from the numbers (Markdown)."""
    try:
        now = shared.now()
    except Empty as reason:
        return str(reason)
    words = ABOUT_WORDS[shared.questions.about]
    before = shared.own.explained(shared.step - 1)
    then = f" ({_number(before.mean_logit)} after step {shared.step - 1})" if before else ""
    sentence = f"After step {shared.step}, **{shared.name}** gets a mean logit of **{_number(now.mean_logit)}** on"
    sentence = f"{sentence} {words}{then}. {_moved(shared.own, shared.step)} {_aim(shared.own.pointing(shared.step))}"
    return f"{sentence} {_beside_words(shared)}".strip()


def _moved(series: Series, step: int) -> str:
    """What the agreement with the step before says."""
    found = series.agreement(step)
    if found is None:
        return "" if step in series.results and step - 1 in series.asked else "It has no earlier map to compare with."
    if np.isnan(found.cosine):
        return _nothing(series, step)
    words = "lies elsewhere than"
    if found.cosine >= SIMILAR:
        words = "lies where it did" if found.cosine >= SAME else "has partly moved"
    since = "since" if words == "has partly moved" else "after" if words == "lies where it did" else "it did after"
    return (
        f"What speaks for it {words} {since} step {step - 1} (cosine **{found.cosine:.2f}**, overlap of the top fifth "
        f"{found.overlap:.2f})."
    )


def _nothing(series: Series, step: int) -> str:
    """Of two maps, one or both have no positive part."""
    now, before = (
        found is not None and bool((found.map > 0).any()) for found in map(series.explained, (step, step - 1))
    )
    if before:
        return f"Nothing in the picture speaks for it any more; after step {step - 1} something did."
    if now:
        return f"Something in the picture speaks for it again; after step {step - 1} nothing did."
    return f"Nothing in the picture speaks for it, as after step {step - 1}."


def _aim(found: Pointing | None) -> str:
    """What the pointing score says."""
    if found is None or np.isnan(found.inside):
        return ""
    gain = (found.inside - found.area) / (1 - found.area) if found.area < 1 else 0.0
    words = "less than chance" if gain < -CHANCE else "no more than chance"
    if gain > CHANCE:
        words = "aimed at the class" if gain >= AIMED else "a little more than chance"
    return f"{_percent(found.inside)} of it lies on the class, {_percent(found.area)} of the picture: {words}."


def _beside_words(shared: Scene) -> str:
    other = shared.other
    if other is None or (found := other.explained(other.step)) is None:
        return ""
    alike = other.agreement(other.step)
    more = "" if alike is None or np.isnan(alike.cosine) else f", cosine {alike.cosine:.2f} to its step before"
    return f"In {untrusted.markdown(other.name)} the mean logit is **{_number(found.mean_logit)}**{more}."


def conservation_words(found: Explained, method: str) -> str:
    """What the conservation error of a map means."""
    name = METHOD_NAMES[method].removesuffix(" (slow)")
    if found.conservation is None:
        return (
            f"{name[:1].upper()}{name[1:]} promises no conservation: its values rank places, their sum means nothing."
        )
    if not np.isfinite(found.conservation):
        return "The score is 0, so no share of it can be missing and the error has no value."
    error = f"Conservation error {found.conservation:.1g}"
    owed = "score over the mean colour's" if method == "integrated-gradients" else "explained score"
    if found.conservation <= EXACT:
        biases = " and what biases keep" if method.startswith("lrp") else ""
        return f"{error}: the map{biases} add up to the {owed}; nothing is lost or made up."
    words = "little is missing" if found.conservation <= CLOSE else "read this map with care"
    return f"{error}: {_percent(found.conservation)} of the {owed} is not accounted for; {words}."


# ---------------------------------------------------------------------- the maps


def _maps(shared: Scene) -> None:
    method, depth = shared.questions.method, shared.questions.depth
    formula, source = FORMULAS[method]
    with shared.page.section(
        "What speaks for the class",
        "Blue speaks for it, orange against it. Point to read the numbers, click to choose a pixel.",
        slug="relevance",
        inline=True,
        formula=formula,
        source=f"{source}. s: the class's logit over {ABOUT_WORDS[shared.questions.about]}; drawn at "
        f"the {DEPTH_NAMES[depth]}, divided by the number of explained pixels",
    ) as view:
        _offer_computing(shared)
        same = state.choose("scale", ("own", "same"), "own", "scale of the maps") == "same"
        layers, places, high = _layers(shared, same)
        if not places:
            shared.now()
        view.csv(lambda: _map_table(shared))
        beside = _beside(shared, places)
        chosen = kept_settings(VIEWER, len(shared.page.run.classes), split="side")
        event = viewer(
            relevance_maps.grey(shared.picture.digest, _encoded=shared.shown.encoded),
            layers,
            exhibit.palette(shared.page.run),
            exhibit.class_names(shared.page.run),
            key=VIEWER,
            active=places.get(f"step {shared.step}", 0),
            second=beside,
            opacity=chosen.opacity,
            hidden=chosen.hidden,
            threshold=chosen.threshold,
            outlines=chosen.outlines,
            mode=chosen.mode,
            split=chosen.split,
            marker=shared.questions.pixel,
            height=HEIGHT,
            title=f"Relevance for {untrusted.plain(shared.page.class_info.name, 40)}",
            size=shared.shown.size,
            strip=True,
            report=True,
            filename=f"{view.file_stem}-{method}-step-{shared.step}",
        )
        _scale(high)
        if event and event.kind == "click":
            keep_pixel((event.x, event.y))
            if (event.x, event.y) != shared.questions.pixel:
                state.go(pixel=f"{event.x}-{event.y}")
        if event and event.kind == "layer":
            for step in shared.own.asked:
                if places.get(f"step {step}") == event.layer:
                    state.go(step=step)


def _offer_computing(shared: Scene) -> None:
    """A button for maps that are not computed unasked."""
    missing = shared.missing
    if not missing:
        return
    steps = ", ".join(str(s) for s in sorted({one.step for one in missing}))
    word = "steps" if "," in steps else "step"
    if st.button(f"Compute {word} {steps}", key="relevance-compute", icon=":material/play_arrow:"):
        compute(missing, "maps")


def _scale(high: float) -> None:
    """What the colours mean, and whether the maps of a run share them."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chosen = settings.segments(
            "Scale", "scale", ("own", "same"), names={"own": "Each map its own scale", "same": "One a run"}.__getitem__,
            label_visibility="collapsed",
        )  # fmt: skip
        ends = f"at ±{1000 * high:.3g} · 10⁻³ logit" if chosen == "same" else "where a map's values do"
        st.caption(f"Colours end {ends}; maps are divided by the number of explained pixels.", width="content")


def _layers(shared: Scene, same: bool) -> tuple[list[Layer], dict[str, int], float]:
    """The layers of the viewer, the place of each by name, and the value at which the colours of the run end.

    The explained pixels, the maps of the run, the change, the maps of the compared run; empty without any map.
    same: one scale for all maps of a run, not one for each.
    """
    own, other = shared.own, shared.other
    maps, maps2 = _mean_maps(own), _mean_maps(other) if other else {}
    if not maps:
        return [], {}, 1.0
    high, high2 = (figures.scale_of(list(found.values())) if same else 1.0 for found in (maps, maps2))
    group = own.name if other else ""
    named: dict[str, Layer] = {}
    if shared.step in own.asked:
        named["asked"] = _asked_layer(shared, own.asked[shared.step])
    for t, values in maps.items():
        layer = Layer(f"Step {t}", note=_note(own, t), group=group)
        named[f"step {t}"] = _coloured(shared, layer, values, high if same else None, own.asked[t].key)
    if shared.step in maps and shared.step - 1 in maps:
        both = (own.asked[shared.step].key, own.asked[shared.step - 1].key)
        layer = Layer("Change", note=f"since step {shared.step - 1}", group=group)
        change = maps[shared.step] - maps[shared.step - 1]
        named["change"] = _coloured(shared, layer, change, high if same else None, *both)
    for t, values in maps2.items():
        assert other is not None
        layer = Layer(f"Step {t}", note=_note(other, t), group=other.name)
        named[f"run2 step {t}"] = _coloured(shared, layer, values, high2 if same else None, other.asked[t].key)
    return list(named.values()), {name: i for i, name in enumerate(named)}, high


def _mean_maps(series: Series) -> dict[int, np.ndarray]:
    """Each drawable map by step, as its part of the mean logit, float [h, w]."""
    found = {t: series.explained(t) for t in series.asked}
    return {t: one.map / one.pixels for t, one in found.items() if one}


def _note(series: Series, step: int) -> str:
    found = series.explained(step)
    return f"logit {_number(found.mean_logit)}" if found else ""


def _coloured(shared: Scene, layer: Layer, values: np.ndarray, high: float | None, *keys: str) -> Layer:
    """The layer with a signed map, coloured once for all sessions; `keys` are those of the results behind it.

    high: where its colours end, None for its own end.
    """
    key = ("coloured", shared.picture.digest, high, *keys)
    rgba, coarse = SHELF.get(key, lambda: _colours(shared.picture, values, high))
    return replace(layer, rgba=rgba, values=coarse, unit="· 10⁻³")


def _colours(picture: Picture, values: np.ndarray, high: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Colours uint8 [H, W, 4] as shown, and the numbers behind them, in thousandths, at fewer cells."""
    full = relevance_maps.as_shown(picture, values)
    rows, columns = exhibit.sampling(full.shape[0], full.shape[1], VALUES_SIDE)
    coarse = np.ascontiguousarray(1000 * full[np.ix_(rows, columns)])
    return figures.signed(full, high or figures.scale_of([full])), coarse


def _asked_layer(shared: Scene, asked: Asked) -> Layer:
    """The explained pixels in the accent."""
    height, width = shared.shown.size[::-1]
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), asked.mask.shape, strict=True))
    mask = asked.mask[np.ix_(rows, columns)]
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[mask] = (*design.rgb(design.ACCENT), 255)
    count = int(asked.mask.sum())
    return Layer("Explained", rgba=rgba, note=f"{count} pixel{'s' * (count != 1)}")


def _beside(shared: Scene, places: dict[str, int]) -> int | None:
    """What is on the other side of the divider: chosen in the page's toolbar."""
    names = {"before": "step before", "change": "change", "asked": "explained pixels", "none": "nothing"}
    found: dict[str, int | None] = {
        "before": places.get(f"step {shared.step - 1}"),
        "change": places.get("change"),
        "asked": places.get("asked"),
    }
    if shared.other:
        names["run2"] = f"{shared.other.name}, same step"
        found["run2"] = places.get(f"run2 step {shared.other.step}")
    offered = [name for name in names if name == "none" or found.get(name) is not None]
    with shared.page.toolbar:
        st.markdown("beside", width="content")
        chosen = settings.select(
            "Beside the map",
            "relevance-beside",
            offered,
            names=lambda name: names[name],
            label_visibility="collapsed",
            width=150,
        )
    return found.get(chosen)


def _map_table(shared: Scene) -> dict[str, Any]:
    """Every map, a row for each pixel that the network sees."""
    maps = _mean_maps(shared.own)
    rows, columns = np.indices(next(iter(maps.values())).shape)
    table = {f"step {t}": values.ravel().tolist() for t, values in maps.items()}
    return {"row": rows.ravel().tolist(), "column": columns.ravel().tolist()} | table


# ---------------------------------------------------------------------- the checks


def _checks(shared: Scene) -> None:
    with shared.page.section(
        "How far to trust them",
        "A column a map, agreement with the step before it; chance: the class's share of the picture.",
        slug="checks",
        formula=CHECK_FORMULA,
        source="METHOD.md I.5; T: the fifth of the picture with the largest values; thresholds in words are ours",
    ) as view:
        columns = _columns(shared)
        if not columns:
            shared.drawn()
        view.csv(lambda: _check_table(shared, columns, numbers=True))
        pinned, narrow = st.column_config.TextColumn(width=166, pinned=True), st.column_config.TextColumn(width=84)
        table = _check_table(shared, columns, numbers=False)
        st.dataframe(
            table,
            hide_index=True,
            height=(ROW_HEIGHT + 1) * 10 + 4,
            row_height=ROW_HEIGHT,
            column_config=dict.fromkeys(table, narrow) | {"check": pinned},
            key="relevance-checks",
            alt="Conservation error, agreement and pointing score of every map",
        )
        for name, series, step in columns:
            if isinstance(result := series.results[step], Refused):
                st.warning(f"Refused, {name}: {untrusted.markdown(result.why)}", icon=":material/block:")
        if shared.own.explained(shared.step):
            st.caption(conservation_words(shared.drawn(), shared.questions.method))


def _columns(shared: Scene) -> list[tuple[str, Series, int]]:
    """Name, series and step of every map: the scrubber's step first, then the one before, then the others."""
    own = sorted(shared.own.results, key=lambda t: (t != shared.step, t != shared.step - 1, t))
    found = [(f"step {t}", shared.own, t) for t in own]
    if shared.other:
        found += [(f"compared {t}", shared.other, t) for t in sorted(shared.other.results, reverse=True)]
    return found


def _check_table(shared: Scene, columns: list[tuple[str, Series, int]], numbers: bool) -> dict[str, list[Any]]:
    """A row for each check; as text, or as numbers for a file."""
    found = [checks_of(series, step) for _, series, step in columns]
    table: dict[str, list[Any]] = {"check": list(found[0])}
    for (name, _, _), values in zip(columns, found, strict=True):
        table[name] = [v if numbers else _text(check, v) for check, v in values.items()]
    return table


def checks_of(series: Series, step: int) -> dict[str, float | None]:
    """The checks of one map by name; None where there is nothing to tell."""
    result, alike, aim = series.explained(step), series.agreement(step), series.pointing(step)
    by_lrp = series.asked[step].method.startswith("lrp")
    shuffled = relevance_maps.known_check(series.asked[step])
    return {
        "mean logit": None if result is None else result.mean_logit,
        "conservation error": None if result is None else result.conservation,
        "kept by biases (logit)": result.absorbed / result.pixels if result is not None and by_lrp else None,
        "cosine to step before": None if alike is None else alike.cosine,
        "top-20 % IoU with it": None if alike is None else alike.overlap,
        "relevance on the class": None if aim is None else aim.inside,
        "… by chance": None if aim is None else aim.area,
        "peak on the class": None if aim is None else float(aim.hit),
        "shuffled weights, ρ": shuffled[-1].signed if isinstance(shuffled, tuple) else None,
    }


def _text(check: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    if check == "peak on the class":
        return "yes" if value else "no"
    if check in ("relevance on the class", "… by chance"):
        return _percent(value)
    if check == "conservation error":
        return f"{value:.1g}" if np.isfinite(value) else "score is 0"
    return _number(value)


# ---------------------------------------------------------------------- channels


def _channels(shared: Scene) -> None:
    with shared.page.section(
        "Channels that speak for the class",
        f"Relevance of the latent channels at step {shared.step}; hollow: the step before.",
        slug="relevance-channels",
        formula=r"R_c = \frac{1}{|A|} \sum_{xy} R_{c,xy}, \qquad \sum_c R_c + \text{absorbed} = \bar s",
        source="METHOD.md D; by LRP, else gradient times input at the latent map; groups: METHOD.md C.1",
    ) as view:
        shared.drawn()
        now, before = (shared.own.profile(t) for t in (shared.step, shared.step - 1))
        assert now is not None
        split = shared.split
        invariant = None if split is None else split.invariant
        view.csv(lambda: _channel_table(now, before, invariant))
        figure = figures.channel_bars(
            now, before, shared.page.ink, invariant=invariant, names=(f"step {shared.step}", f"step {shared.step - 1}")
        )
        view.plot(figure, "Relevance of the strongest latent channels", height=CHANNELS_HEIGHT)
        st.caption(channel_words(shared))


def channel_words(shared: Scene) -> str:
    """How alike the profiles are, and which group carries the evidence."""
    now = shared.own.profile(shared.step)
    assert now is not None
    sentences = []
    alike = [(s, profile_cosine(s)) for s in (shared.own, shared.other) if s]
    told = [(s, c) for s, c in alike if c is not None]
    if told and told[0][0] is shared.own:
        more = "".join(f" (in {untrusted.markdown(s.name)}: {c:.2f})" for s, c in told[1:])
        sentences.append(f"Profiles of steps {shared.step - 1} and {shared.step}: cosine **{told[0][1]:.2f}**{more}.")
    if shared.split is not None and now.any():
        sentences.append(group_words(now, shared.split.invariant))
    elif shared.split is None and shared.step > 0:
        sentences.append("No distances of channels are known here, or none moved: there is no invariant group.")
    return " ".join(sentences) or "No earlier step knows the class: there is nothing to compare with."


def group_words(profile: np.ndarray, invariant: np.ndarray) -> str:
    """How much of what speaks for the class the invariant channels hold; of what speaks against, if nothing does."""
    speaks = bool((profile > 0).any())
    weight = np.maximum(profile if speaks else -profile, 0)
    share = float(weight[invariant].sum() / weight.sum())
    what = "for it" if speaks else "against it; no channel speaks for it"
    return (
        f"The invariant {_percent(float(invariant.mean()))} of channels hold {_percent(share)} of what speaks {what}."
    )


def profile_cosine(series: Series) -> float | None:
    """Cosine of the channel profiles of the step and the one before; None where one is missing or 0."""
    now, before = series.profile(series.step), series.profile(series.step - 1)
    if now is None or before is None or not (now.any() and before.any()):
        return None
    return float(now @ before / (np.linalg.norm(now) * np.linalg.norm(before)))


def _channel_table(now: np.ndarray, before: np.ndarray | None, invariant: np.ndarray | None) -> dict[str, list[Any]]:
    order = np.argsort(-now, kind="stable")
    table: dict[str, list[Any]] = {"channel": order.tolist(), "relevance": now[order].tolist()}
    if before is not None:
        table["relevance, step before"] = before[order].tolist()
    if invariant is not None:
        table["group"] = ["invariant" if invariant[c] else "specific" for c in order]
    return table


# ---------------------------------------------------------------------- shuffled weights


def _shuffled(shared: Scene) -> None:
    with shared.page.section(
        "Does the map depend on the weights?",
        "Weights are shuffled from the heads down; a map that stays alike shows the picture, not what was learned.",
        slug="shuffled",
        formula=r"\rho_k = \mathrm{Spearman}\big(R(\theta),\; R(\theta \text{ shuffled down to } k)\big)",
        source="Adebayo et al. 2018, cascading; shuffling instead of drawing anew is ours",
    ) as view:
        shared.drawn()
        asked = [s.asked[s.step] for s in (shared.own, shared.other) if s and s.explained(s.step)]
        found = [(one, relevance_maps.known_check(one)) for one in asked]
        missing = [one for one, result in found if result is None]
        if missing:
            _offer_check(missing)
        refused = next((result.why for _, result in found if isinstance(result, Refused)), "")
        if refused:
            st.warning(f"Refused: {untrusted.markdown(refused)}", icon=":material/block:")
        rows = [(_run_name(shared, one), result) for one, result in found if isinstance(result, tuple)]
        if not rows:
            return
        view.csv(lambda: _shuffled_table(rows))
        view.plot(figures.randomised_lines(rows, shared.page.ink), "Rank correlation by part", height=SHUFFLED_HEIGHT)
        for run, result in rows:
            st.caption(f"{untrusted.markdown(run)}{': ' if run else ''}{shuffled_words(result)}")


def _run_name(shared: Scene, asked: Asked) -> str:
    return untrusted.plain(asked.run.name, 24) if shared.other else ""


def _offer_check(missing: list[Asked]) -> None:
    """A button that makes the check for the maps of the step, of both runs."""
    per_map = relevance_maps.passes(missing[0]) + 1 if missing[0].method in relevance_maps.LONG else 1
    count = relevance_maps.SHUFFLED_MAPS * len(missing)
    words = f"It computes {count} more maps" + (", which takes minutes." if per_map > 1 else ", which takes seconds.")
    if st.button("Shuffle and compare", key="relevance-shuffle", icon=":material/shuffle:", help=words):
        with progress(f"{count} maps of shuffled networks", count * per_map, "shuffled") as tick:
            for one in missing:
                relevance_maps.check(one, tick)
        st.rerun()
    st.caption(words)


def shuffled_words(found: tuple[Randomised, ...]) -> str:
    """What the check says."""
    heads, whole = found[0], found[-1]
    values = f"ρ = {_number(heads.signed)} with the heads shuffled, {_number(whole.signed)} with everything"
    if not np.isfinite(whole.signed):
        return f"{values}: a map of shuffled weights is constant, so this one depends on what was learned."
    reach = max(abs(whole.signed), abs(whole.absolute))
    words = "the map depends on what was learned"
    if reach >= INDEPENDENT:
        words = "much of the map is there without anything learned: do not read it as evidence"
    return f"{values} (|map|: {_number(whole.absolute)}): {words}."


def _shuffled_table(rows: list[tuple[str, tuple[Randomised, ...]]]) -> dict[str, list[Any]]:
    flat = [(run, one) for run, found in rows for one in found]
    return {
        "run": [run for run, _ in flat],
        "shuffled down to": [one.part for _, one in flat],
        "rank correlation": [one.signed for _, one in flat],
        "rank correlation of |map|": [one.absolute for _, one in flat],
    }


# ---------------------------------------------------------------------- words


def _number(value: float) -> str:
    """A short number with a true minus sign."""
    return f"{value:.2f}".replace("-", "−") if abs(value) < 100 else f"{value:.0f}".replace("-", "−")


def _percent(fraction: float) -> str:
    if np.isnan(fraction):
        return "–"
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 or fraction == 0 else f"{100 * fraction:.1f} %"
