"""The answer to "why": a class's shares and the sentences that follow, from the survey, or measured now.

Answers on the validation set come from the survey of the run, at once. Where there is none, they are measured after a
click, with a bar that can be cancelled, and kept. Answers on the chosen picture are computed when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dashboard import sidebar
from dashboard.app_pages.why import part_shares
from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import shelved
from dashboard.page import Empty, Page
from dashboard.picture import measured_on, predictions, reasons
from dashboard.picture.measured_on import MeasuredOn
from dashboard.ui import untrusted
from dashboard.ui.wording import counted
from lag_core import metrics
from lag_core.explain import shares as share_rules
from lag_core.explain import why
from lag_core.explain.shares import Shares
from lag_core.runs import Run, RunError

if TYPE_CHECKING:
    from lag_core.explain.evidence import Examples

Where = Literal["set", "image"]


@dataclass(frozen=True)
class Account:
    """Shares with their words; plain text of the run included."""

    answer: why.Answer
    fate: str
    cause: str
    sentence: str = ""
    """With a compared run: how the two differ."""
    how: str = ""
    """With a compared run: how its parts were told apart."""

    @property
    def shares(self) -> Shares:
        return self.answer.shares


def of(page: Page, run: Run, cls: int, step: int, where: Where, part: MeasuredOn | None = None) -> Account:
    """The answer for a class at a step. Raises `Empty` while it is not measured.

    part: of the validation set; None for all of it.
    """
    found = shares(page, run, cls, step, where, part)
    answer = why.answer(found, _learned(run, cls, step))
    name = untrusted.plain(run.classes[cls].name, 60)
    return Account(answer, why.fate_sentence(name, answer, _on(page, found, where, part)), why.cause_sentence(answer))


def _on(page: Page, found: Shares, where: Where, part: MeasuredOn | None) -> str:
    if where == "image":
        return _this_picture(page)
    return counted(found.images, "validation image") if part is None else part.words


def beside(page: Page, own: Account, where: Where, part: MeasuredOn | None = None) -> Account | None:
    """How the run differs from the compared one; None if there is none, or it cannot be compared."""
    run, other = page.run, page.run2
    if other is None or page.step2 <= other.labels.step_of(page.cls2):
        return None
    same = measured_on.in_run(part, other, page.data_root)
    if part is not None and same is None:
        return None
    try:
        theirs = shares(page, other, page.cls2, page.step2, where, same, ask=False)
        apart = share_rules.difference(own.shares, theirs)
    except (Empty, ValueError):
        return None
    name = untrusted.plain(run.classes[page.cls].name, 60)
    said = why.apart_sentence(name, apart, "this run", untrusted.plain(other.name, 40))
    how = "The difference between the parts' shares in each run, and between the class's IoU at its start."
    return Account(why.answer(apart), "", "", said, how)


def shares(
    page: Page, run: Run, cls: int, step: int, where: Where, part: MeasuredOn | None = None, *, ask: bool = True
) -> Shares:
    """The shares of a class since the step that introduced it. `ask`: offer to measure what is not measured yet."""
    if where == "image":
        picture = page.picture()
        source = run.labels.step_of(cls)
        truth = _truth(page, run, picture, source)
        return _on_picture(
            run.digest, picture.digest, picture.truth is None, cls, step, _run=run, _picture=picture, _truth=truth
        )
    if part is not None:
        return part_shares.of(page, run, part, cls, step)
    survey = loaders.survey(run)
    if survey is not None and survey.shares is not None and (found := survey.shares.of(cls, step)) is not None:
        return found
    if not ask:
        raise Empty(f"{untrusted.name(run.name, 40)} has no survey: `lag survey` measures its shares.")
    return _measured(page, run, cls, step)


def _measured(page: Page, run: Run, cls: int, step: int) -> Shares:
    """Measured on the validation set after a click, and kept."""
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.evidence import class_shares, known_shares

    cache, pictures = ResultCache(), reasons.examples(run, "set", None, page.data_root, cls)
    found = known_shares(run, pictures, cls, step, cache)
    if found is not None:
        return found
    key = f"shares/{run.digest}/{pictures.digest}/{cls}/{step}"
    reasons.wait_for_asking(
        key, True, "Measure the shares on the validation set",
        f"Not measured yet for {untrusted.name(run.name, 40)}. `lag survey` measures every class and step beforehand.",
    )  # fmt: skip
    return reasons.worked_off(class_shares(loaders.networks(run), pictures, cls, step, cache), run, key, "Measuring")


@shelved
def _on_picture(
    digest: str, image: str, blind: bool, cls: int, step: int, *, _run: Run, _picture: Picture, _truth: np.ndarray
) -> Shares:
    from lag_core.explain.evidence import class_shares, finish

    with loaders.network_lock(digest):
        return finish(class_shares(loaders.networks(_run), _examples(_picture, _truth), cls, step))


def _examples(picture: Picture, truth: np.ndarray) -> Examples:
    from lag_core.explain.evidence import Examples

    return Examples((picture.pixels,), (truth,), whole_set=False, holding=1)


def _truth(page: Page, run: Run, picture: Picture, source: int) -> np.ndarray:
    """The picture's truth in the class indices of `run`; without annotation the earlier step's own prediction."""
    if picture.truth is not None:
        return predictions.class_table(page.run, run)[picture.truth] if run.digest != page.run.digest else picture.truth
    trace = loaders.trace(run, picture)
    with loaders.network_lock(run.digest):
        return trace.prediction(source)


def _this_picture(page: Page) -> str:
    blind = page.picture().truth is None
    return "this picture, against the earlier step's prediction, as it has no annotation" if blind else "this picture"


def _learned(run: Run, cls: int, step: int) -> bool | None:
    """Whether the run's own metrics say that the class was ever learned; None where there are none."""
    try:
        matrices = loaders.confusions(run)
    except RunError:
        return None
    if matrices is None:
        return None
    return why.was_learned(metrics.iou_matrix(matrices, run.labels)[run.labels.step_of(cls) : step + 1, cls])


def largest_loss(run: Run) -> tuple[int, int] | None:
    """(class, step) at which a class of an earlier step had lost most IoU on fixed pixels; None without a survey."""
    survey = loaders.survey(run)
    if survey is None or survey.shares is None:
        return None
    first = int(run.labels.background is not None)
    losses = {(c, t): s.start - s.fixed for (c, _, t), s in survey.shares.by_case.items() if c >= first}
    return max(losses, key=lambda case: losses[case]) if losses else None


def class_choice(run: Run, cls: int) -> str:
    """A class as the sidebar names it."""
    return sidebar.class_names(run)[cls]
