"""Every class of every later step of the runs: verdict, shares and intervals, from their surveys."""

from __future__ import annotations

from collections.abc import Iterator

from lag_core.explain import why
from lag_core.explain.evidence import ValidationPictures, finish
from lag_core.explain.shares import Shares
from lag_core.explain.shares_pass import all_pairs, shares_on
from lag_core.explain.survey import read_survey
from lag_core.metrics import iou_matrix
from truth_tests.cases import Subject


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row an old class, from the step that introduced it to the last one. `n` is not used: all are shown."""
    for cls, shares in _shares(subject):
        found = why.answer(shares, _learned(subject, cls))
        groups = {name: (one.points, one.low, one.high) for name, one in why.groups(shares).items()}
        yield {
            "run": subject.name, "class": subject.run.classes[cls].name,
            "from": shares.step_from, "to": shares.step_to,
            "start": shares.start, "fixed": shares.fixed, "end": shares.end, "words": found.words,
            "newly": (shares.newly.points, shares.newly.low, shares.newly.high), "groups": groups,
        }  # fmt: skip


def _learned(subject: Subject, cls: int) -> bool | None:
    """Whether the run's metrics say that the class was learned; None where there are none."""
    confusions = subject.run.confusions()
    if confusions is None:
        return None
    return why.was_learned(iou_matrix(confusions, subject.run.labels)[subject.run.labels.step_of(cls) :, cls])


def _shares(subject: Subject) -> Iterator[tuple[int, Shares]]:
    """(class, its shares at the last step): from the survey, or measured where there is none."""
    last, survey = subject.run.last_step, read_survey(subject.run)
    if survey is not None and survey.shares is not None:
        yield from ((cls, found) for (cls, _, now), found in survey.shares.by_case.items() if now == last)
        return
    for pair, classes in all_pairs(subject.networks):
        if pair.steps[1] == last:
            pictures = ValidationPictures(subject.dataset, subject.run)
            yield from zip(classes, finish(shares_on(pair, classes, pictures)), strict=True)
