"""Each rule of the verdict on made-up shares: words follow from numbers, and from nothing else."""

from __future__ import annotations

import pytest
from made_shares import NAME, made_shares

from lag_core.explain.shares import START, difference
from lag_core.explain.why import answer, apart_sentence, cause_sentence, fate_sentence


@pytest.mark.parametrize(
    ("own", "fate"), [(0.0, "kept"), (-6.0, "kept"), (-6.5, "weakened"), (-30.0, "weakened"), (-31.0, "lost")]
)
def test_fate(own: float, fate: str) -> None:
    assert answer(made_shares(own=own)).fate == fate


def test_what_was_learned_is_the_runs_own_word() -> None:
    shares = made_shares(start=2.0, own=-2.0)
    assert answer(shares).fate == "unlearned" and answer(shares).words == "never learned"
    assert answer(shares, learned=True).fate == "lost"
    assert answer(made_shares(own=-60), learned=False).fate == "unlearned"


def test_a_picture_without_the_class_is_not_called_kept() -> None:
    """0 of 0 points are no 90 %, and a class that is learned elsewhere was not "never learned"."""
    nothing = made_shares(start=0.0, images=1)
    for learned in (None, True):
        found = answer(nothing, learned)
        assert found.fate == "not found" and "hardly found here" in fate_sentence("tree", found, "this picture")
    later = answer(made_shares(start=0.0, own=27.0, images=1), learned=True)
    assert later.words == "found here later"
    assert "tree was found here only after step 0: IoU 0 at" in fate_sentence("tree", later, "this picture")


@pytest.mark.parametrize(
    ("start", "now", "words"),
    [(0.4, 7.6, "learned later"), (4.9, 5.0, "learned later"), (5.0, 7.6, "kept"), (0.4, 4.9, "lost")],
)
def test_what_was_not_learned_before_is_not_called_kept(start: float, now: float, words: str) -> None:
    found = answer(made_shares(start=start, own=now - start), learned=True)
    assert found.words == words
    if words == "learned later":
        said = fate_sentence("cat", found, "40 validation images")
        assert said.startswith("cat was learned only after step 0: IoU ") and "kept" not in said


def test_a_class_learned_between_the_two_steps_and_gone_again_is_lost() -> None:
    assert answer(made_shares(start=0.0), learned=True).fate == "lost"


@pytest.mark.parametrize(
    ("shares", "cause", "words"),
    [
        (made_shares(own=-50, features=-2), "heads", "lost by the heads"),
        (made_shares(features=-50, own=-2), "features", "lost by the features"),
        (made_shares(features=-25, own=-25), "both", "lost by both heads and features"),
        (made_shares(competition=-40), "newer classes", "lost, drowned by newer classes"),
        (made_shares(own=-30, competition=-25), "heads and newer classes", "lost by the heads, and drowned by newer"),
        (made_shares(own=-20, features=-20, competition=-20), "all", "lost by heads, features and newer classes"),
        (made_shares(own=-50, features=-2, spread=60), "nothing to explain", "lost"),
        (made_shares(own=-24, features=-12, spread=9), "not told apart", "lost, the images do not say by which part"),
        (made_shares(own=-0.5), "nothing to explain", "kept"),
        (made_shares(newly=-20), "other pixels counted", "kept, but new pixels are counted"),
        (made_shares(own=-8, newly=-20), "heads", "weakened by the heads"),
        (made_shares(own=-4), "heads", "kept, with a small loss: by the heads"),
    ],
)
def test_cause(shares, cause: str, words: str) -> None:  # type: ignore[no-untyped-def]
    found = answer(shares)
    assert found.cause == cause and found.words.startswith(words)


def test_a_named_group_is_told_apart_from_those_that_are_not() -> None:
    """12 of 40 points by the features, uncertain: they overlap the heads, so neither is named alone."""
    close = answer(made_shares(own=-15, features=-9, spread=4))
    assert close.cause in ("not told apart", "both")
    assert answer(made_shares(own=-30, features=-3, spread=1)).cause == "heads"


def test_one_picture_has_no_intervals_and_names_what_took_a_quarter() -> None:
    found = answer(made_shares(own=-50, features=-3, images=1))
    assert found.cause == "heads" and "interval" not in cause_sentence(found)


def test_sentences() -> None:
    found = answer(made_shares(own=-50, features=-4, newly=-3))
    said = fate_sentence(NAME, found, "40 validation images")
    assert said.startswith(
        "building was lost: IoU 60 at step 0, 6 at step 2 on the same pixels (40 validation images)."
    )
    assert "As the papers count it, step 2 has 3: 3 points go to pixels of later classes" in said
    why = cause_sentence(found)
    assert why.startswith("By the heads: 54 points were lost; the heads took 50 (48 to 52); the features took 4 (")
    assert why.endswith("; in brackets 95 % intervals.")


def test_a_gain_is_said_to_be_given_back() -> None:
    assert "the features gave back 10 (" in cause_sentence(answer(made_shares(own=-40, features=10)))


def test_a_group_that_took_nothing_is_not_listed() -> None:
    assert "took 0" not in cause_sentence(answer(made_shares(own=-40, competition=-0.02)))


def test_a_class_that_is_kept_needs_no_cause() -> None:
    assert cause_sentence(answer(made_shares())) == ""
    assert "Nothing was lost on the pixels that were known before" in cause_sentence(answer(made_shares(newly=-20)))


def test_beside_another_run() -> None:
    apart = difference(made_shares(start=58, own=-2), made_shares(start=60, own=-45, features=-15))
    said = apart_sentence(NAME, apart, "lag", "finetune")
    assert said.startswith(
        "building, as the papers count it: 56 points in lag, 0 in finetune. The difference of +56: +43 by its heads ("
    )
    assert "+15 by its features (" in said and "−2 by what it had to begin with" in said
    assert apart.estimates[START].points == -2 and "the rest" not in said
    small = difference(made_shares(own=-2, newly=-0.3), made_shares(own=-45))
    assert ", −0.3 by the rest;" in apart_sentence(NAME, small, "lag", "finetune")
    same = difference(made_shares(), made_shares())
    assert apart_sentence(NAME, same, "lag", "finetune").endswith("no difference to explain.")
