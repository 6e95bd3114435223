"""Forgetting: where was what lost?"""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboard.app_pages.forgetting import fates
from dashboard.app_pages.forgetting.counts import PICTURE, SET, draw_flows, draw_images, draw_lost, draw_shift
from dashboard.app_pages.forgetting.fates import Story
from dashboard.app_pages.forgetting.map import draw_change_map, draw_map
from dashboard.app_pages.forgetting.words import class_loss, compared_sentence, loss_sentence
from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.page import Page
from dashboard.picture import measured_on, predictions
from dashboard.state import settings
from dashboard.ui import untrusted
from dashboard.ui.wording import percent
from lag_core import metrics

EVERY, ONE = "all", "class"


def render(page: Page) -> None:
    """Draw the page."""
    picture = page.picture() if page.image_id else None
    told = fates.story(page.run, picture) if picture else None
    told2 = fates.story(page.run2, picture, page.run) if page.run2 and picture else None
    only = _choose_pixels(page)
    scope = _choose_scope(page, told)
    page.answer(_answer(page, picture, told, told2))
    if picture and told:
        draw_map(page, picture, told, told2, only)
    else:
        draw_change_map(page, picture)
    with st.container(key="steady-set"):
        st.caption(_on_the_set(page))
    measured_on.chip(page, measured_on.of_page(page))
    flows, images = st.columns((1.4, 1), gap="small")
    with flows:
        draw_flows(page, picture, told, told2, scope)
    with images:
        draw_images(page, only)
    lost, shift = st.columns(2, gap="small")
    with lost:
        draw_lost(page, told, told2, scope)
    with shift:
        draw_shift(page, told, told2, scope, only)


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
    name = untrusted.name(page.class_info.name, 24)
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
    return f"{sentence} {compared_sentence(theirs, page.run2.name)}"


def _on_the_set(page: Page) -> str:
    """What became of the class's IoU over the whole validation set: on fixed pixels, and as in the papers."""
    name, labels = untrusted.name(page.class_info.name), page.run.labels
    part = measured_on.of_page(page)
    whole = f"the {part.words}" if part else "the validation set"
    matrices = part.confusions() if part else loaders.confusions(page.run)
    if matrices is None or len(matrices) <= page.step:
        return f"{name} has not been measured on {whole}."
    if page.step <= labels.step_of(page.cls):
        return f"IoU of {name} on {whole}: step {labels.step_of(page.cls)} introduces it, nothing is lost yet."
    history = matrices[: page.step + 1]
    lost = metrics.drops(history, labels)[:, page.cls]
    ious = metrics.iou_matrix(history, labels)[:, page.cls]
    if np.isnan(lost).all() or np.isnan(ious[-1]):
        return f"{name} has no pixel in {whole}."
    best, papers = int(np.nanargmax(lost)), int(np.nanargmax(ious[:-1]))
    then, now = ious[best], ious[best] - lost[best]
    return (
        f"IoU of {name} on {whole}, percent, on the same pixels: {100 * then:.1f} after step {best}, "
        f"{100 * now:.1f} now: **{_points(then, now)}**. As in the papers, which "
        f"count pixels of later classes only once these are known: {100 * ious[papers]:.1f} after step {papers}, "
        f"{100 * ious[-1]:.1f} now, {_points(ious[papers], ious[-1])}."
    )


def _points(before: float, now: float) -> str:
    """The difference of two IoUs, fractions, in points as both are printed: a loss or a gain."""
    lost = round(round(100 * before, 1) - round(100 * now, 1), 1)
    return f"{abs(lost):.1f} points {'lost' if lost >= 0 else 'gained'}"


def _answer_without_truth(page: Page, picture: Picture) -> str:
    beginning = "This picture has no annotation, so this page shows what changed, not what was lost. "
    if page.step == 0:
        return f"{beginning}Go to a later step."
    labels = predictions.answers(page.run, picture).predictions
    before, now = labels[page.step - 1], labels[page.step]
    changed = now[before != now]
    if not changed.size:
        return f"{beginning}Step {page.step} changed nothing."
    counts = np.bincount(changed)
    target = untrusted.name(page.run.classes[int(counts.argmax())].name)
    share = percent(changed.size / now.size)
    return f"{beginning}Step {page.step} changed **{share}** of its pixels, most of them to **{target}**."
