"""The fate wall: steps by classes, in each cell the picture that lost most; and all pictures, filtered and sorted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from dashboard.app_pages.overview import fates
from dashboard.app_pages.overview.fates import Asked, Worst
from dashboard.cache import loaders
from dashboard.cache.picture_set import PictureSet
from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.components.wall import WallCell, wall
from dashboard.page import Empty, Page, View
from dashboard.picture import measured_on
from dashboard.picture.measured_on import MeasuredOn
from dashboard.picture.picker import image_name
from dashboard.sidebar import class_names
from dashboard.state import selection, settings
from dashboard.ui import design, untrusted
from dashboard.ui.wording import counted, lost, percent

MOST_ROWS, MOST_COLUMNS = 12, 8
SIDE = 96
"""Of a thumbnail, CSS pixels."""
PAGE_SIZE = 24
TICKED = "ticked"
EVERY, ONE = "all", "class"


def draw_wall(page: Page, own: MeasuredOn | None) -> None:
    """The wall."""
    pictures = loaders.picture_set(page.run, page.data_root)
    with page.section(
        "Fate wall",
        "For each class and step, the picture that lost most pixels of the class, with the share that is lost there. "
        "Click one to open it at that step.",
        formula=r"L_{t,c}(x) = |\{p \in x : y_p = c,\ p \text{ wrong after } t,\ \text{right at an earlier step}\}|",
        source="ours, from `lag survey`",
    ) as view:
        if pictures is None:
            raise Empty(_no_survey(page))
        if page.last_step < 1:
            raise Empty("This run has a single step, so nothing can be lost.")
        _said_of(page, pictures, own)
        _cells(page, view, pictures, own)


def _no_survey(page: Page) -> str:
    name = untrusted.name(page.run.name, 60)
    return (
        f"{name} has no survey of its validation pictures yet: run `python -m lag_core survey` once with its folder. "
        "Until then **Steps** and **Forgetting** show one picture at a time; choose it in the sidebar."
    )


def _said_of(page: Page, pictures: PictureSet, own: MeasuredOn | None) -> None:
    """Which pictures these are, where that is not what one expects."""
    if pictures.kind == "photographs":
        whole = " The numbers above cover the whole validation set." if own is None else ""
        st.caption(
            f"These are the {counted(len(pictures), 'photograph')} that ship: the run's own validation pictures are "
            f"not here.{whole}"
        )
    elif not _here(page):
        st.caption("The pictures are not available here, so you see their names (sidebar, Data and export).")


def _here(page: Page) -> frozenset[str]:
    """Ids of the pictures that can be opened."""
    return frozenset(loaders.ids_here(page.run, page.data_root))


def _cells(page: Page, view: View, pictures: PictureSet, own: MeasuredOn | None) -> None:
    labels, among = page.run.labels, own.chosen if own and own.pictures is pictures else None
    found = fates.worst(pictures, labels, among)
    rows = fates.rows_shown(pictures, labels, page.step, page.cls, MOST_ROWS)
    last = pictures.lost.shape[1] - 1
    first = max(1, min(page.step - MOST_COLUMNS // 2, last - MOST_COLUMNS + 1))
    steps = range(first, min(first + MOST_COLUMNS, last + 1))
    here = _here(page)
    cells = [[_cell(page, pictures, found.get((t, c)), here, t, c) for t in steps] for c in rows]
    chosen = (rows.index(page.cls), page.step - first) if page.cls in rows and page.step in steps else None
    picked = wall(
        [(untrusted.plain(page.run.classes[c].name, 40), design.css(page.run.classes[c].color)) for c in rows],
        [f"step {t}" for t in steps],
        cells,
        key="fate-wall",
        label="Fate wall: the picture that lost most, by class and step",
        chosen=chosen,
    )
    view.csv(lambda: _table(page, pictures, list(found.values())))
    known = labels.seen(last - 1)
    if len(rows) < known or len(steps) < last:
        st.caption(
            f"{len(rows)} of {counted(known, 'class', 'classes')}, those that lost the largest share by step "
            f"{page.step}; {len(steps)} of {counted(last, 'step')}, those around the chosen one. The CSV has all."
        )
    if picked is not None:
        cell = found[steps[picked[1]], rows[picked[0]]]
        selection.go(step=cell.step, cls=class_names(page.run)[cell.cls], image=pictures.ids[cell.place])
    _open_links(page)


def _cell(page: Page, pictures: PictureSet, one: Worst | None, here: frozenset[str], step: int, cls: int) -> WallCell:
    name = untrusted.plain(page.run.classes[cls].name, 40)
    if one is None:
        introduced = page.run.labels.step_of(cls)
        text = "new" if introduced == step else "not known yet"
        return WallCell("", f"{name}, step {step}: introduced at step {introduced}", text=text)
    if one.place < 0:
        return WallCell("", f"{name}, step {step}: no picture lost a pixel", text="nothing lost")
    image_id = pictures.ids[one.place]
    shown = untrusted.plain(image_name(image_id), 60)
    words = (
        f"{name}, step {step}: {shown} lost {percent(one.share)} of its {name} pixels ({counted(one.lost, 'pixel')})"
    )
    if image_id not in here:
        return WallCell("", words, lost(one.share), text=shown)
    return WallCell(
        image_id, words, lost(one.share),
        version=_version(page, image_id), image=partial(loaders.thumbnail, page.run, page.data_root, image_id, SIDE),
    )  # fmt: skip


def _version(page: Page, image_id: str) -> str:
    return f"{page.run.digest}/{page.data_root}/{image_id}/{SIDE}"


def _open_links(page: Page) -> None:
    """Where the opened picture goes on."""
    if not page.image_id:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="actions-opened"):
        st.caption(f"Open: {untrusted.name(image_name(page.image_id), 60)}, step {page.step}.", width="content")
        for slug, words in (("steps", "Look at it on Steps"), ("forgetting", "Where it was lost"), ("why", "Why?")):
            if slug in page.links and st.button(words, key=f"wall-{slug}", type="tertiary"):
                st.switch_page(page.links[slug])


def _table(page: Page, pictures: PictureSet, found: Sequence[Worst]) -> dict[str, list[Any]]:
    lost = [one for one in found if one.place >= 0]
    return {
        "class": [page.run.classes[one.cls].name for one in lost],
        "step": [one.step for one in lost],
        "picture": [pictures.ids[one.place] for one in lost],
        "lost pixels": [one.lost for one in lost],
        "share": [one.share for one in lost],
    }


def look_ahead(page: Page) -> None:
    """Make the thumbnails that the wall and the gallery show first."""
    pictures = loaders.picture_set(page.run, page.data_root)
    if pictures is None or page.last_step < 1:
        return
    scope, order = _scope_at_first(pictures), _order_at_first(page.step)
    known = scope == ONE and page.cls < page.run.labels.seen(page.step)
    asked = Asked(page.step, page.cls if known else None, order=order)
    worst = [pictures.ids[one.place] for one in fates.worst(pictures, page.run.labels).values() if one.place >= 0]
    ordered = [pictures.ids[place] for place in fates.ordered(pictures, page.run.labels, asked)]
    at = ordered.index(page.image_id) // PAGE_SIZE if page.image_id in ordered else 0  # the gallery opens there
    for image_id in {*worst, *ordered[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]} & _here(page):
        loaders.thumbnail(page.run, page.data_root, image_id, SIDE)


# ---------------------------------------------------------------------- all pictures


def draw_gallery(page: Page) -> None:
    """All pictures of the set; nothing without a survey, as the wall already says so."""
    pictures = loaders.picture_set(page.run, page.data_root)
    if pictures is None or page.last_step < 0:
        return
    with page.section(
        f"All {len(pictures)} {pictures.noun}",
        "Filter and sort them. Click one to open it; tick the box in its corner to select it (space bar). "
        "Verdicts can be measured on the pictures shown, or on those ticked.",
        slug="gallery",
    ) as view:
        asked = _asked(page, pictures)
        places = fates.ordered(pictures, page.run.labels, asked)
        ticked = _ticked(pictures)
        view.csv(lambda: _gallery_table(page, pictures, asked, places))
        _take_buttons(page, pictures, places, ticked)
        if not places:
            raise Empty("No picture fits these filters. Choose another fate, class or pair.")
        _thumbnails(page, pictures, asked, places, ticked)


def _asked(page: Page, pictures: PictureSet) -> Asked:
    """Filters and order, from the widgets."""
    labels, names = page.run.labels, class_names(page.run)
    own = names[page.cls]
    one, two, three, four = st.columns(4, gap="small")
    with one:
        scope = settings.select(
            "Pixels of", "wall-of", (ONE, EVERY), _scope_at_first(pictures),
            names=lambda v: own if v == ONE else "all classes",
            help="The class is that of the sidebar.",
        )  # fmt: skip
    cls = page.cls if scope == ONE and page.cls < labels.seen(page.step) else None
    with two:
        fate = settings.select(
            f"Fate after step {page.step}", "fate", tuple(fates.FATES), names=fates.FATES.__getitem__
        )
    with three:
        called = _choose_called(page, pictures, cls)
    asked = Asked(page.step, cls, fate, called)
    with four:
        orders = fates.orders_known(pictures, asked)
        default = "pair" if called is not None else _order_at_first(page.step)
        order = settings.select("Sorted by", "sorted-by", orders, default, names=fates.ORDERS.__getitem__)
    if scope == ONE and cls is None:
        st.caption(
            f"{untrusted.name(page.class_info.name, 40)} is not known at step {page.step}: all classes are shown."
        )
    return Asked(page.step, cls, fate, called, order)


def _scope_at_first(pictures: PictureSet) -> str:
    return EVERY if pictures.kind == "photographs" else ONE


def _order_at_first(step: int) -> str:
    return "lost" if step else "right"


def _choose_called(page: Page, pictures: PictureSet, cls: int | None) -> int | None:
    """The other class of a confusion pair; not offered without a class of its own."""
    names = class_names(page.run)[: page.run.labels.seen(page.step)]
    own = class_names(page.run)[page.cls]
    known = pictures.counts is not None and cls is not None
    others = [name for name in names if name != own] if known else []
    chosen = settings.select(
        f"{untrusted.plain(own, 24)} called", "called", ("", *others), names=lambda v: v or "anything",
        disabled=not others, help="A confusion pair: pictures in which pixels of the class are called another class.",
    )  # fmt: skip
    return names.index(chosen) if chosen else None


def _ticked(pictures: PictureSet) -> set[str]:
    """Ids of the ticked pictures."""
    kept: set[str] = st.session_state.setdefault(TICKED, set())
    return kept & set(pictures.ids)


def _tick(image_id: str) -> None:
    kept: set[str] = st.session_state.setdefault(TICKED, set())
    st.session_state[TICKED] = kept ^ {image_id}


def _take_buttons(page: Page, pictures: PictureSet, places: Sequence[int], ticked: set[str]) -> None:
    """Measure verdicts on the pictures shown, or on those ticked."""
    if pictures.counts is None:
        st.caption(
            "An earlier version made this survey and did not count picture by picture. Run `lag survey` again "
            "to measure verdicts on a part of the pictures."
        )
        return
    shown, chosen = np.zeros(len(pictures), bool), np.isin(pictures.ids, list(ticked))
    shown[list(places)] = True
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="actions-take"):
        st.markdown(f"**{len(places)}** of {counted(len(pictures), 'picture')}", width="content")
        st.button(
            f"Measure on {'it' if len(places) == 1 else f'these {len(places)}'}", key="take-shown",
            icon=":material/filter_alt:", disabled=len(places) in (0, len(pictures)),
            on_click=measured_on.take, args=(pictures, shown),
            help="Overview, Forgetting and Why are then measured on these pictures alone.",
        )  # fmt: skip
        if ticked:
            st.button(
                f"Measure on the {len(ticked)} ticked", key="take-ticked", icon=":material/check_box:",
                on_click=measured_on.take, args=(pictures, chosen),
            )  # fmt: skip
            st.button(
                "Untick", key="untick", type="tertiary", on_click=lambda: st.session_state.update({TICKED: set()})
            )


def _thumbnails(page: Page, pictures: PictureSet, asked: Asked, places: Sequence[int], ticked: set[str]) -> None:
    here, badges = _here(page), _badges(pictures, page, asked)
    items = [
        Thumbnail(
            pictures.ids[place],
            partial(_picture, page, pictures.ids[place], pictures.ids[place] in here),
            untrusted.plain(image_name(pictures.ids[place]), 60),
            badge=badges[place],
            tone="good" if asked.order in ("right", "sure") else "neutral" if asked.order == "unsure" else "bad",
            version=_version(page, pictures.ids[place]),
            ticked=pictures.ids[place] in ticked,
        )
        for place in places
    ]
    picked = thumbnails(
        items, key="wall-gallery", selected=page.image_id, page_size=PAGE_SIZE, size=SIDE, aspect=4 / 3,
        label="Pictures", on_tick=_tick if pictures.counts is not None else None,
    )  # fmt: skip
    if picked is not None and picked != page.image_id and picked in here:
        selection.go(image=picked)


def _picture(page: Page, image_id: str, here: bool) -> bytes:
    return loaders.thumbnail(page.run, page.data_root, image_id, SIDE) if here else loaders.blank_thumbnail()


def _badges(pictures: PictureSet, page: Page, asked: Asked) -> list[str]:
    """The number on each picture: what it is sorted by."""
    if asked.order == "pair":
        total = np.maximum(pictures.pixels[:, asked.cls or 0], 1)
        return [percent(float(v)) for v in fates.pair_pixels(pictures, asked) / total]
    if asked.order in ("sure", "unsure"):
        sure = fates.sureness(pictures, asked, page.run.labels)
        return [] if sure is None else ["" if np.isnan(v) else f"{100 * v:.0f} % sure" for v in sure]
    found = fates.parts(pictures, asked.step, asked.cls, page.run.labels)
    if asked.order == "right":
        return ["" if np.isnan(v) else f"{percent(float(v))} right" for v in found.right]
    return [lost(float(v)) for v in found.lost]


def _gallery_table(page: Page, pictures: PictureSet, asked: Asked, places: Sequence[int]) -> dict[str, list[Any]]:
    found = fates.parts(pictures, asked.step, asked.cls, page.run.labels)
    sure = fates.sureness(pictures, asked, page.run.labels)
    return {
        "picture": [pictures.ids[p] for p in places],
        "right": [found.right[p] for p in places],
        "lost": [found.lost[p] for p in places],
        "never right": [found.never[p] for p in places],
        "confidence": [None if sure is None else sure[p] for p in places],
    }
