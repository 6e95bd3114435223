"""Relevance page, beside the maps: how far to trust them, their channels, shuffled weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from dashboard.app_pages.relevance import figures, maps
from dashboard.app_pages.relevance.maps import Asked, Explained, Refused
from dashboard.app_pages.relevance.scene import METHOD_NAMES, Scene, Series, progress
from dashboard.page import Empty
from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted
from dashboard.ui.wording import counted, number, percent

if TYPE_CHECKING:
    from lag_core.explain.attribution_checks import Randomised

ROW_HEIGHT, CHANNELS_HEIGHT, SHUFFLED_HEIGHT = 29, 290, 200

EXACT, CLOSE = 1e-3, 0.05
"""Conservation errors up to which nothing, or little, is missing."""
UNPROMISED = ("gradient-x-input", "grad-cam")
"""Methods whose maps have a conservation error that nothing bounds."""
INDEPENDENT = 0.5
"""A map hardly depends on the weights if its rank correlation with the map of shuffled weights is this high."""

CHECK_FORMULA = (
    r"e = \frac{|\sum_i R_i + \text{absorbed} - s|}{|s|}, \quad \cos(R^+_t, R^+_{t-1}), \quad "
    r"\frac{|T_t \cap T_{t-1}|}{|T_t \cup T_{t-1}|}, \quad \frac{\sum_{i \in \text{class}} R^+_i}{\sum_i R^+_i}"
)


def conservation_words(found: Explained, method: str) -> str:
    """What the conservation error of a map means."""
    name = METHOD_NAMES[method].removesuffix(" (slow)")
    if found.conservation is None:
        return (
            f"{name[:1].upper()}{name[1:]} promises no conservation: its values rank places, their sum means nothing."
        )
    if not np.isfinite(found.conservation):
        return "The score is 0, so no share of it can be missing and the error has no value."
    if method in UNPROMISED:
        where = ", at the cells of Z and after ReLU," if method == "grad-cam" else ""
        return (
            f"{name[:1].upper()}{name[1:]} promises no conservation: its sum{where} misses the explained score "
            f"by {percent(found.conservation)} of it. Compare places, not sums."
        )
    error = f"Conservation error {found.conservation:.1g}"
    owed = "score over the mean colour's" if method == "integrated-gradients" else "explained score"
    if found.conservation <= EXACT:
        biases = " and what biases keep" if method.startswith("lrp") else ""
        return f"{error}: the map{biases} add up to the {owed}; nothing is lost or made up."
    words = "little is missing" if found.conservation <= CLOSE else "read this map with care"
    return f"{error}: {percent(found.conservation)} of the {owed} is not accounted for; {words}."


def draw_checks(shared: Scene) -> None:
    with shared.page.section(
        "Checks of these maps",
        "A column per map, with its agreement with the previous step; chance: the class's share of the picture.",
        slug="checks",
        formula=CHECK_FORMULA,
        source="docs/method.md#relevance; T: the fifth of the picture with the largest values; thresholds are ours",
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
            height="content",
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
    shuffled = maps.known_check(series.asked[step])
    return {
        "mean logit": None if result is None else result.mean_logit,
        "conservation error": None if result is None else result.conservation,
        "kept by biases (logit)": result.absorbed / result.pixels if result is not None and by_lrp else None,
        "cosine to step before": None if alike is None else alike.cosine,
        "top-20 % IoU with it": None if alike is None else alike.top_iou,
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
        return percent(value)
    if check == "conservation error":
        return f"{value:.1g}" if np.isfinite(value) else "score is 0"
    return number(value)


def draw_channels(shared: Scene) -> None:
    with shared.page.section(
        "Channels that speak for the class",
        f"Relevance of the latent channels at step {shared.step}; hollow: the previous step.",
        slug="relevance-channels",
        formula=r"R_c = \frac{1}{|A|} \sum_{xy} R_{c,xy}, \qquad \sum_c R_c + \text{absorbed} = \bar s",
        source="docs/method.md#nsc; by LRP, else gradient times input at the latent map; groups: docs/method.md#split",
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
        more = "".join(f" (in {untrusted.name(s.name)}: {c:.2f})" for s, c in told[1:])
        sentences.append(f"Profiles of steps {shared.step - 1} and {shared.step}: cosine **{told[0][1]:.2f}**{more}.")
    if shared.split is not None and now.any():
        sentences.append(group_words(now, shared.split.invariant))
    elif shared.split is None and shared.step > 0:
        sentences.append("The channel distances are unknown here, or no channel moved: there is no invariant group.")
    return " ".join(sentences) or "No earlier step knows the class: there is nothing to compare with."


def group_words(profile: np.ndarray, invariant: np.ndarray) -> str:
    """Share of the positive relevance that the invariant channels hold; of the negative, if none is positive."""
    speaks = bool((profile > 0).any())
    weight = np.maximum(profile if speaks else -profile, 0)
    share = float(weight[invariant].sum() / weight.sum())
    what = "for it" if speaks else "against it; no channel speaks for it"
    return f"The invariant {percent(float(invariant.mean()))} of channels hold {percent(share)} of what speaks {what}."


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


def draw_shuffled(shared: Scene) -> None:
    with shared.page.section(
        "Does the map depend on the weights?",
        "Weights are shuffled from the heads down; a map that stays the same shows the picture, not what was learned.",
        slug="shuffled",
        formula=r"\rho_k = \mathrm{Spearman}\big(R(\theta),\; R(\theta \text{ shuffled down to } k)\big)",
        source="Adebayo et al. 2018, cascading; shuffling instead of drawing anew is ours",
    ) as view:
        if shared.page.run.kind != "segmenter":
            raise Empty(
                "An adapter does not name the parts of its network, so they are not shuffled one after another."
            )
        shared.drawn()
        asked = [s.asked[s.step] for s in (shared.own, shared.other) if s and s.explained(s.step)]
        found = [(one, maps.known_check(one)) for one in asked]
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
            st.caption(f"{untrusted.name(run)}{': ' if run else ''}{shuffled_words(result)}")


def _run_name(shared: Scene, asked: Asked) -> str:
    return untrusted.plain(asked.run.name, 24) if shared.other else ""


def _offer_check(missing: list[Asked]) -> None:
    """A button that makes the check for the maps of the step, of both runs."""
    per_map = maps.passes(missing[0]) + 1 if missing[0].method in maps.LONG else 1
    count = maps.SHUFFLED_MAPS * len(missing)
    words = f"It computes {counted(count, 'more map')}" + (
        ", which takes minutes." if per_map > 1 else ", which takes seconds."
    )
    if st.button("Shuffle and compare", key="relevance-shuffle", icon=":material/shuffle:", help=words):
        with progress(f"{counted(count, 'map')} of shuffled networks", count * per_map, "shuffled") as tick:
            for one in missing:
                maps.check(one, tick)
        start_over()
    st.caption(words)


def shuffled_words(found: tuple[Randomised, ...]) -> str:
    """What the check says."""
    heads, whole = found[0], found[-1]
    values = f"ρ = {number(heads.signed)} with the heads shuffled, {number(whole.signed)} with everything"
    if not np.isfinite(whole.signed):
        return f"{values}: a map of shuffled weights is constant, so this one depends on what was learned."
    reach = max(abs(whole.signed), abs(whole.absolute))
    words = "the map depends on what was learned"
    if reach >= INDEPENDENT:
        words = "much of the map remains without learned weights: do not read it as evidence"
    return f"{values} (|map|: {number(whole.absolute)}): {words}."


def _shuffled_table(rows: list[tuple[str, tuple[Randomised, ...]]]) -> dict[str, list[Any]]:
    flat = [(run, one) for run, found in rows for one in found]
    return {
        "run": [run for run, _ in flat],
        "shuffled down to": [one.part for _, one in flat],
        "rank correlation": [one.signed for _, one in flat],
        "rank correlation of |map|": [one.absolute for _, one in flat],
    }
