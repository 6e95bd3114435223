"""Why preserved: why is this class still here, or gone?"""

from __future__ import annotations

from typing import cast

import streamlit as st

from dashboard.app_pages.why import account, detail, on_part, picture_choice, still_holds, swap_board
from dashboard.app_pages.why.account import Account, Where
from dashboard.app_pages.why.waterfall import height_of, waterfall_figure
from dashboard.cache import loaders
from dashboard.page import Page, guarded
from dashboard.shell import which_term
from dashboard.state import selection, settings
from dashboard.ui import embedded, untrusted
from dashboard.ui.wording import counted
from lag_core.explain.shares import BACKBONE, Shares, waterfall
from lag_core.explain.stage_groups import TOGETHER, sentence
from lag_core.explain.why import STILL_THERE, groups

WHERE: dict[str, str] = {"set": "validation set", "image": "this picture"}
NEEDED = "*Detail* shows which parts and channels it needs"
WHAT_KEPT_IT = "; compare a second run (sidebar) to see what kept it"
ICONS: dict[str, str] = {
    "kept": ":material/check_circle:",
    "weakened": ":material/trending_down:",
    "lost": ":material/cancel:",
    "unlearned": ":material/help:",
    "not found": ":material/help:",
    "learned later": ":material/trending_up:",
    "found later": ":material/trending_up:",
}


def render(page: Page) -> None:
    """Draw the page."""
    where = _choose(page)
    source = page.run.labels.step_of(page.cls)
    if page.step <= source:
        _nothing_to_keep(page, source)
        return
    part = on_part.draw(page, where)
    top = st.container()
    pictures, bars = st.columns((1.15, 1), gap="small")
    with pictures:
        _board(page, source)
        which_term.draw(page, page.run, page.cls, page.step)
    with bars, guarded("The shares"):
        found = account.of(page, page.run, page.cls, page.step, where, part)
        beside = account.beside(page, found, where, part)
        top.markdown(_answer(page, found, beside))
        _waterfall(page, found)
        _beside(page, beside)
    _still_holds(page)
    if settings.switch("Detail: channels, relevance, drift", "detail"):
        detail.draw(page, where)


def ahead(page: Page) -> None:
    """Compute what the page shows first, without drawing it."""
    source = page.run.labels.step_of(page.cls)
    if page.step > source:
        picture = page.picture()
        found = swap_board.board(page.run, picture, page.cls, source, page.step)
        swap_board.drawn(page.run, picture, found, page.cls, source, page.step)


def _choose(page: Page) -> Where:
    """Where the verdict is measured: on the validation set if the run's survey has it, else on the picture."""
    survey = loaders.survey(page.run)
    surveyed = survey is not None and survey.shares is not None
    with page.toolbar:
        st.markdown("Shares measured on", width="content")
        where = settings.segments(
            "Shares measured on",
            "why",
            tuple(WHERE),
            "set" if surveyed else "image",
            names=lambda w: WHERE[w],
            label_visibility="collapsed",
            help="The swap board always shows the chosen picture.",
        )
    return cast(Where, where)


def _nothing_to_keep(page: Page, source: int) -> None:
    """The class is new, or comes later: offer a step and class with something to explain."""
    name = untrusted.markdown(page.class_info.name)
    word = "introduces" if page.step == source else "comes before the one that introduces"
    page.answer(f"Step {page.step} {word} **{name}**: there is nothing to keep yet.")
    telling = account.largest_loss(page.run)
    if telling is None:
        return
    cls, step = telling
    other = untrusted.markdown(page.run.classes[cls].name)
    if st.button(f"Go to the largest loss of this run: {other}, step {step}", icon=":material/arrow_forward:"):
        selection.go(cls=account.class_choice(page.run, cls), step=step)


def _answer(page: Page, found: Account, beside: Account | None) -> str:
    """One sentence on top, and how the run differs from the compared one (Markdown)."""
    head = f"{ICONS[found.answer.fate]} **{untrusted.markdown(found.fate)}** {untrusted.markdown(found.cause)}"
    if beside is None or page.run2 is None:
        if found.answer.fate not in STILL_THERE:
            return head
        return f"{head}  \n{NEEDED}{WHAT_KEPT_IT if found.answer.fate in ('kept', 'weakened') else ''}."
    return f"{head}  \n{untrusted.markdown(beside.sentence)}"


def _board(page: Page, source: int) -> None:
    with page.section(
        "Swap board",
        f"Features of step {source} or {page.step} under heads of step {source} or {page.step}: see which of the two "
        "lost the class in this picture. Each pixel takes its most probable class, however unsure. White line: the "
        "class's outline in the picture at the lower left.",
        slug="board",
        height="content",
        formula=r"\hat y = \arg\max_k\, h^{a}_k(Z^{b}), \qquad a, b \in \{s, t\}",
        source="ours (docs/method.md, hybrids and shares); old heads compete among the classes of their step",
    ) as view:  # fmt: skip
        picture = page.picture()
        if picture.truth is not None and not (picture.truth == page.cls).any():
            picture_choice.offer(page)
        found = swap_board.board(page.run, picture, page.cls, source, page.step)
        drawn = swap_board.drawn(page.run, picture, found, page.cls, source, page.step)
        view.csv({"features": [0, 1, 0, 1], "heads": [0, 0, 1, 1], "IoU": list(found.ious)})
        picture_column, board_column = st.columns((1, 2.05), gap="small")
        with picture_column:
            st.image(embedded.again(drawn.picture), width="stretch")
            st.caption("the picture")
            st.image(embedded.again(drawn.truth), width="stretch")
            st.caption("the truth" if found.annotated else f"no annotation: step {source}'s prediction stands in")
        with board_column:
            swap_board.draw(found, drawn, source, page.step)
        st.caption(swap_board.reading(found, page.class_info.name, page.cls, source))


def _waterfall(page: Page, found: Account) -> None:
    shares = found.shares
    with page.section(
        "Where the change lives",
        f"From the IoU at step {shares.step_from} to the IoU at step {shares.step_to}, part by part; they add up. "
        "Orange parts lost points, blue parts gained"
        + (f"; whiskers: 95 % over {counted(shares.images, 'image')}." if shares.has_intervals else "."),
        slug="waterfall",
        formula=r"\varphi_p = \sum_{S \not\ni p} \frac{|S|!\,(n - |S| - 1)!}{n!}\,\big(v(S \cup p) - v(S)\big)",
        source="Shapley 1953; v(S): IoU of the network whose parts in S are as now, on the pixels known then (ours)",
    ) as view:  # fmt: skip
        bars = tuple(waterfall(shares, f"IoU at step {shares.step_from}", f"IoU at step {shares.step_to}"))
        view.csv(lambda: _table(shares))
        view.plot(waterfall_figure(bars, page.ink), _alt(found), height=height_of(bars))
        if shares.newly.points:
            st.caption(
                f"On the same pixels the IoU is {shares.fixed:.1f} now; *newly counted pixels* are those of later "
                "classes, which the papers' measure counts from then on."
            )
        if not shares.exact:
            st.caption("There are many parts, so their orders were sampled; the whiskers include the sampling error.")
        if any(TOGETHER in part for part in shares.parts if part.startswith(BACKBONE)):
            st.caption(_one_part(page))


def _one_part(page: Page) -> str:
    """Why stages are one part: the survey's reason, or the general one."""
    survey = loaders.survey(page.run)
    said = sentence(survey.groups) if survey is not None and survey.groups is not None else ""
    general = "neighbouring stages count as one part, as measuring each would take too long (`lag survey --operations`)"
    return f"Of the features, {said or general}."


def _alt(found: Account) -> str:
    parts = ", ".join(f"{name} {one.points:+z.0f}" for name, one in groups(found.shares).items())
    return f"Waterfall: {found.shares.start:.0f} to {found.shares.end:.0f} IoU points; {parts}"


def _table(shares: Shares) -> dict[str, list[object]]:
    found = shares.estimates
    return {
        "part": list(found),
        "points": [one.points for one in found.values()],
        "low": [one.low for one in found.values()],
        "high": [one.high for one in found.values()],
    }


def _beside(page: Page, beside: Account | None) -> None:
    """How the run differs from the compared one."""
    if beside is None or page.run2 is None:
        return
    name = untrusted.name(page.run2.name, 40)
    with page.section(
        f"Beside {name}",
        beside.how,
        slug="beside",
        formula=r"\Delta_p = \varphi_p(\text{this run}) - \varphi_p(\text{compared run})",
        source="ours; paired bootstrap over the same images",
    ) as view:
        other, own = untrusted.plain(page.run2.name, 24), untrusted.plain(page.run.name, 24)
        bars = tuple(waterfall(beside.shares, f"IoU in {other}", f"IoU in {own}"))
        view.csv(lambda: _table(beside.shares))
        view.plot(waterfall_figure(bars, page.ink), f"Waterfall beside {other}", height=height_of(bars), key="beside")


def _still_holds(page: Page) -> None:
    survey = loaders.survey(page.run)
    if survey is None or survey.holds is None:
        st.caption("What the features still hold (probes, prototypes, calibration) is measured by `lag survey`.")
        return
    still_holds.draw(page, page.run, page.cls, page.step)
