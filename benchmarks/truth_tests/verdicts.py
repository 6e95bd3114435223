"""Every class of every later step of the runs: verdict, shares and intervals, from their surveys."""

from __future__ import annotations

from collections.abc import Iterator

from lag_core.explain import why
from lag_core.explain.survey import read_survey
from truth_tests.cases import Subject


def rows(subject: Subject, n: int) -> Iterator[dict]:
    """One row an old class, from the step that introduced it to the last one. `n` is not used: all are shown.

    A run without a survey has no row.
    """
    survey = read_survey(subject.run)
    if survey is None or survey.shares is None:
        return
    for (cls, then, now), shares in survey.shares.by_case.items():
        if now != subject.run.last_step:
            continue
        found = why.answer(shares)
        groups = {name: (one.points, one.low, one.high) for name, one in why.groups(shares).items()}
        yield {
            "run": subject.name, "class": subject.run.classes[cls].name, "from": then, "to": now,
            "start": shares.start, "fixed": shares.fixed, "end": shares.end, "words": found.words,
            "newly": (shares.newly.points, shares.newly.low, shares.newly.high), "groups": groups,
        }  # fmt: skip
