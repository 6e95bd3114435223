"""Each rule of the verdict on made-up numbers: words follow from numbers, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_shares import made_shares

from lag_core.explain import verdict as verdicts
from lag_core.explain.verdict import (
    ChannelEffects,
    Comparison,
    EffectCurve,
    Evidence,
    OverSteps,
    curve_counts,
    default_count,
    effects_from_arrays,
    effects_to_arrays,
    over_from_arrays,
    over_to_arrays,
    points,
    verdict,
)

NAN = float("nan")


def effect_curve(effect: float, controls: np.ndarray | float, n: int = 19) -> EffectCurve:
    """Of 4 channels of 16, the verdict's own number."""
    drawn = np.broadcast_to(controls, (n,)).astype(float)
    return EffectCurve(np.array([4]), np.array([effect]), drawn[None])


def evidence(
    iou: tuple[float, ...] = (0.6, 0.58, 0.56),
    ablation: EffectCurve | None = None,
    transplant: EffectCurve | None = None,
    moved: int = 16,
    profile: float = 0.95,
    drift: float = 0.01,
    step: int = 2,
    everything: float = 0.3,
) -> Evidence:
    nothing = effect_curve(0.0, 0.0)
    over = OverSteps(
        np.array(iou),
        np.ones(3),
        np.array([1.0, profile, profile]),
        np.array([0.0, drift, drift]),
        np.full(3, 0.05),
    )
    effects = ChannelEffects(moved, 16, ablation or nothing, transplant or nothing, everything)
    start, end = (100 * float(np.nan_to_num(value)) for value in (iou[0], iou[2]))
    shares = made_shares(start, own=end - start)
    return Evidence(1, "building", step, 0, True, 24, 40, None, over, effects if step else None, shares, 40)


def test_before_and_at_its_first_step_nothing_else_is_said() -> None:
    later = replace(evidence(), source=2)
    new = verdict(later)
    assert new.status == "new" and len(new.findings) == 1 and "introduces building" in new.text
    future = verdict(replace(later, step=1))
    assert future.status == "future" and len(future.findings) == 1 and "introduced at step 2" in future.text


def test_p_value_in_a_loop() -> None:
    rng = np.random.default_rng(0)
    for n in (19, 40):
        for effect in (-0.5, -0.1, 0.0, 0.1):
            controls = np.round(rng.normal(0, 0.1, n), 2)  # rounded, so that there are ties
            found = Comparison(4, effect, controls)
            as_low = sum(1 for c in controls if c <= effect)
            as_high = sum(1 for c in controls if c >= effect)
            assert found.p_value("cost") == (1 + as_low) / (1 + n)
            assert found.p_value("gain") == (1 + as_high) / (1 + n)


def test_nineteen_controls_are_the_least_and_all_must_be_exceeded() -> None:
    controls = np.full(19, -0.04)
    assert Comparison(4, -0.31, controls).significant("cost")
    tied = controls.copy()
    tied[7] = -0.31
    assert not Comparison(4, -0.31, tied).significant("cost")
    with pytest.raises(ValueError, match="18 random controls"):
        Comparison(4, -0.31, controls[:18]).p_value("cost")


def test_an_effect_below_a_point_is_none() -> None:
    assert not Comparison(4, -0.009, np.zeros(19)).significant("cost")
    assert Comparison(4, -0.010, np.zeros(19)).significant("cost")
    assert not Comparison(4, -0.3, np.zeros(19)).significant("gain")


def test_chance_claims_no_more_often_than_the_level() -> None:
    """Chosen channels that are random ones themselves, 2000 times: "carried" in at most LEVEL and a little."""
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(2000):
        drawn = rng.normal(-0.1, 0.05, 20)
        claims += Comparison(4, drawn[0], drawn[1:]).significant("cost")
    assert 0.02 < claims / 2000 < verdicts.LEVEL + 0.015


def test_carried_by_invariant_channels_in_these_words() -> None:
    controls = np.linspace(-0.06, -0.02, 19)
    found = verdict(evidence((0.6, 0.58, 0.56), ablation=effect_curve(-0.31, controls))).about("ablation")
    assert found is not None and found.word == "carried"
    assert found.text == (
        "Carried by 4 invariant channels of 16 living ones: removing them costs 31 of 56 points, removing 4 random "
        "ones 4 ± 1.3 (p = 0.05, the floor with 19 control sets; 24 of the 40 images that contain it)."
    )


def test_no_more_than_random_channels_is_not_significant() -> None:
    controls = np.linspace(-0.4, -0.2, 19)
    found = verdict(evidence(ablation=effect_curve(-0.31, controls))).about("ablation")
    assert found is not None and found.word == "not significant"
    assert found.text.startswith("Not significant: removing the 4 most invariant of 16 living channels costs 31")


def test_a_removal_that_helps_is_said_to_add() -> None:
    found = verdict(evidence(ablation=effect_curve(0.03, 0.0))).about("ablation")
    assert found is not None and found.word == "not significant" and "adds 3 points" in found.text


def test_random_channels_that_help_are_said_to_help() -> None:
    found = verdict(evidence(ablation=effect_curve(-0.002, np.linspace(0.06, 0.1, 19)))).about("ablation")
    assert found is not None and "removing 4 random ones adds 8 ± 1.3 " in found.text


def test_nothing_left_to_take_away() -> None:
    found = verdict(evidence((0.6, 0.1, 0.0))).about("ablation")
    assert found is not None and found.word == "nothing left"


def test_what_was_lost_lies_in_the_changed_channels() -> None:
    gain = effect_curve(0.22, np.linspace(0.0, 0.1, 19))
    found = verdict(evidence((0.6, 0.3, 0.2), transplant=gain)).about("transplant")
    assert found is not None and found.word == "restored"
    assert found.text == (
        "What was lost lies in the changed channels: putting back 4 of them from step 0 restores 22 of 40 lost "
        "points, 4 random ones 5 ± 3.1, all channels 30 (p = 0.05, the floor with 19 control sets; "
        "24 of the 40 images that contain it)."
    )


def test_a_transplant_like_random_ones_is_not_significant() -> None:
    gain = effect_curve(0.22, np.linspace(0.1, 0.3, 19))
    found = verdict(evidence((0.6, 0.3, 0.2), transplant=gain)).about("transplant")
    assert found is not None and found.word == "not significant"


def test_channels_alone_never_say_that_the_heads_lost_a_class() -> None:
    """What no channel brings back may be lost in both: the shares decide, not this question."""
    found = verdict(evidence((0.6, 0.3, 0.2), transplant=effect_curve(0.0, 0.0), everything=0.0)).about("transplant")
    assert found is not None and found.word == "not significant" and "heads" not in found.text


def test_the_verdict_is_that_of_the_shares_and_channels_are_detail() -> None:
    found = verdict(evidence((0.6, 0.3, 0.0)))
    assert found.words == "lost by the heads" and [f.topic for f in found.findings] == ["iou", "cause"]
    assert {f.topic for f in found.details} >= {"ablation", "transplant", "relevance", "prototype"}
    assert "channels" not in found.text


def test_without_shares_there_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="shares of building"):
        verdict(replace(evidence(), shares=None))


def test_nothing_speaks_for_a_class_that_is_gone() -> None:
    one = evidence()
    gone = replace(one, over=replace(one.over, relevance_map=np.array([1.0, 0.9, NAN])))
    found = verdict(gone).about("relevance")
    assert found is not None and found.word == "gone"


def test_without_a_loss_nothing_can_be_put_back() -> None:
    gain = effect_curve(0.22, 0.0)
    found = verdict(evidence((0.6, 0.6, 0.595), transplant=gain)).about("transplant")
    assert found is not None and found.word == "nothing lost"


def test_a_frozen_extractor_leaves_nothing_to_explain() -> None:
    found = verdict(replace(evidence((0.6, 0.3, 0.2)), effects=ChannelEffects(0, 16, None, None)))
    channels = found.about("channels")
    assert channels is not None and channels.word == "frozen" and "features are frozen" in channels.text
    assert found.about("ablation") is None and found.about("transplant") is None


def test_one_active_channel_has_no_groups() -> None:
    found = verdict(replace(evidence(), effects=ChannelEffects(1, 1, None, None))).about("channels")
    assert found is not None and found.word == "too few"


@pytest.mark.parametrize(("value", "word"), [(0.9, "same"), (0.89, "partly"), (0.5, "partly"), (0.49, "other")])
def test_relevance(value: float, word: str) -> None:
    found = verdict(evidence(profile=value)).about("relevance")
    assert found is not None and found.word == word


def test_prototype() -> None:
    for drift, word in ((0.049, "stayed"), (0.05, "moved")):
        found = verdict(evidence(drift=drift)).about("prototype")
        assert found is not None and found.word == word
    single = evidence()
    assert verdict(replace(single, over=replace(single.over, spread=np.zeros(3)))).about("prototype") is None


def test_what_was_not_measured_is_not_mentioned() -> None:
    found = verdict(evidence(profile=NAN, drift=NAN))
    assert found.about("relevance") is None and found.about("prototype") is None


def test_it_says_where_it_was_measured() -> None:
    assert "40 validation images" in verdict(evidence()).text
    assert "this picture" in verdict(replace(evidence(), whole_set=False, images=1, holding=1)).text


def test_the_runs_own_metrics_say_what_was_learned() -> None:
    """An image on which a class never had a pixel right does not mean that the class was never learned."""
    found = evidence((0.0, 0.0, 0.0))
    assert found.shares is not None
    shares = replace(found.shares, images=1)
    alone = replace(found, shares=shares, whole_set=False, images=1, holding=1)
    assert verdict(alone).status == "not found", "one picture does not tell what a run learned"
    assert verdict(replace(alone, run_iou=np.array([0.0, 0.27, 0.2]))).status == "not found"
    assert verdict(replace(alone, run_iou=np.array([0.0, 0.02, 0.0]))).status == "unlearned"


def test_the_same_numbers_give_the_same_words() -> None:
    one, other = evidence((0.6, 0.3, 0.2)), evidence((0.6, 0.3, 0.2))
    assert verdict(one) == verdict(other)


def test_the_number_asked_about_must_have_been_measured() -> None:
    assert verdict(evidence(), k=4) == verdict(evidence())
    with pytest.raises(ValueError, match="no effect of 5 channels"):
        verdict(evidence(), k=5)


@pytest.mark.parametrize("active", [2, 3, 4, 5, 16, 30, 128])
def test_the_verdict_is_on_the_curve(active: int) -> None:
    counts = curve_counts(active)
    assert default_count(active) in counts
    assert list(counts) == sorted(set(counts)) and counts[0] >= 1 and counts[-1] < active


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.314, "31"),
        (0.0996, "10"),
        (0.042, "4.2"),
        (0.04, "4"),
        (-0.0001, "0"),
        (0.0, "0"),
        (-0.12, "-12"),
        (NAN, "–"),
    ],
)
def test_points(value: float, text: str) -> None:
    assert points(value) == text


def test_what_a_kept_class_needs_is_told_part_by_part() -> None:
    parts = {"aspp": 0.02, "head: building": 0.0, "old heads": 0.61, "competition": 0.3}
    one = evidence((0.6, 0.6, 0.59))
    assert one.effects is not None
    kept = replace(one, effects=replace(one.effects, without=parts))
    found = verdict(kept).about("parts")
    assert found is not None and "Nothing is left without: its own head (by definition)." in found.text
    assert "Lost without: features: ASPP (2 left)." in found.text
    assert "Weakened without: newer classes compete (30 left)." in found.text
    assert "Kept without: other old heads (61 left)." in found.text
    lost = replace(kept, shares=made_shares(60.0, own=-55.0))
    assert verdict(lost).about("parts") is None


def test_arrays_and_back() -> None:
    one = evidence()
    assert one.effects is not None
    parts = ChannelEffects(0, 16, None, None, without={"aspp": 0.0, "head: röd": 0.25})
    assert effects_from_arrays(effects_to_arrays(parts)).without == parts.without
    for effects in (one.effects, ChannelEffects(0, 16, None, None)):
        again = effects_from_arrays(effects_to_arrays(effects))
        assert (again.moved, again.active) == (effects.moved, effects.active)
        assert (again.ablation is None) == (effects.ablation is None)
    again = effects_from_arrays(effects_to_arrays(one.effects))
    assert again.ablation is not None and one.effects.ablation is not None
    assert np.array_equal(again.ablation.controls, one.effects.ablation.controls)
    over = over_from_arrays(over_to_arrays(one.over))
    assert verdict(replace(one, over=over, effects=again)) == verdict(one)


@pytest.mark.parametrize(
    ("controls", "distinct", "said"),
    [
        (np.zeros(200), None, "p = 0.005, the floor with 200 control sets"),
        (np.zeros(200), 10**6, "p = 0.005, the floor with 200 control sets"),
        (np.full(200, -0.3), 200, "p = 1"),
        (np.full(200, -0.3), 6, "p = 1, 6 different control sets exist"),
    ],
)
def test_p_is_said_with_its_floor_and_with_too_few_sets(controls: np.ndarray, distinct: int | None, said: str) -> None:
    curve = EffectCurve(
        np.array([4]), np.array([-0.2]), controls[None], None if distinct is None else np.array([distinct])
    )
    assert verdicts.p_text(curve.at(4), "cost") == said


def test_the_number_of_different_sets_survives_the_cache() -> None:
    drawn = np.zeros((1, 20))
    for distinct in (None, np.array([6])):
        curve = EffectCurve(np.array([4]), np.array([0.1]), drawn, distinct, distinct)
        effects = ChannelEffects(3, 3, curve, curve, 0.0, 1, 4)
        found = effects_from_arrays(effects_to_arrays(effects)).ablation
        assert found is not None and (found.distinct is None if distinct is None else found.distinct == distinct)
        assert found is not None and found.at(4).imbalance == (0.0 if distinct is None else 6.0)


def unfair(effect: float, imbalance: float, controls: float = 0.0) -> EffectCurve:
    """A large effect beside 19 random sets of another energy."""
    return EffectCurve(np.array([4]), np.array([effect]), np.full((1, 19), controls), imbalance=np.array([imbalance]))


@pytest.mark.parametrize(("imbalance", "word"), [(0.25, "carried"), (-0.25, "carried"), (0.26, ""), (-0.5, "")])
def test_without_fair_controls_nothing_is_claimed(imbalance: float, word: str) -> None:
    found = verdict(evidence((0.6, 0.58, 0.56), ablation=unfair(-0.31, imbalance))).about("ablation")
    assert found is not None and found.word == (word or "not comparable")
    if not word:
        more = "more" if imbalance > 0 else "less"
        assert f"have {more} energy than the random sets ({abs(imbalance):.2f} standard deviations)" in found.text
        assert "Carried" not in found.text and "no fair controls" in found.text


def test_without_fair_controls_nothing_is_restored() -> None:
    one = evidence((0.6, 0.3, 0.2), transplant=unfair(0.2, 3.0))
    found = verdict(one).about("transplant")
    assert found is not None and found.word == "not comparable" and "have more energy" in found.text


def test_a_common_effect_needs_no_fair_controls_to_be_not_significant() -> None:
    found = verdict(evidence((0.6, 0.58, 0.56), ablation=unfair(-0.31, -5.0, controls=-0.4))).about("ablation")
    assert found is not None and found.word == "not significant"


def test_what_would_have_to_go_says_that_no_fair_controls_exist() -> None:
    word, text = needed(unfair(-0.4, -5.0))
    assert word == "any channels" and "no fair controls" in text and "Any channels would do" not in text


def needed(ablation: EffectCurve, iou: tuple[float, ...] = (0.6, 0.58, 0.56), moved: int = 16) -> tuple[str, str]:
    found = verdict(evidence(iou, ablation=ablation, moved=moved)).about("needed")
    return ("", "") if found is None else (found.word, found.text)


def test_what_would_have_to_go_is_the_smallest_number_that_loses_the_class() -> None:
    controls = np.stack([np.linspace(-0.1, -0.02, 19)] * 3)
    found = EffectCurve(np.array([2, 4, 8]), np.array([-0.1, -0.3, -0.5]), controls)
    word, text = needed(found)
    assert word == "channels" and "4 of 16 living channels would have to go" in text and "IoU 56 falls to 26" in text
    like_random = EffectCurve(found.counts, found.effect, controls - 0.3)
    word, text = needed(like_random)
    assert word == "any channels" and "random ones cost as much" in text
    weak = EffectCurve(found.counts, np.array([0.01, -0.05, -0.2]), controls)
    word, text = needed(weak)
    assert word == "more" and "outlives the loss of 8 of 16" in text and "its head" in text


def test_a_lost_class_has_nothing_left_to_lose() -> None:
    assert needed(effect_curve(-0.3, 0.0), (0.6, 0.1, 0.05)) == ("", "")
    assert needed(effect_curve(-0.3, 0.0), moved=0)[0] == "heads"


# --- Each boundary by itself. ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "counts"), [(1, (1,)), (2, (1,)), (3, (1, 2)), (4, (1, 2)), (8, (1, 2, 4)), (100, (12, 25, 50))]
)
def test_numbers_of_channels_along_the_curves(active: int, counts: tuple[int, ...]) -> None:
    assert curve_counts(active) == counts
    assert verdicts.count_at(active, 2.0) == max(1, active - 1)
    assert default_count(active) == verdicts.count_at(active, 0.25)


def test_a_curve_gives_what_was_measured_at_a_number() -> None:
    controls = np.arange(40.0).reshape(2, 20)
    curve = EffectCurve(np.array([2, 5]), np.array([-0.1, -0.4]), controls, np.array([7, 9]))
    found = curve.at(5)
    assert (found.k, found.effect, found.distinct) == (5, -0.4, 9) and found.controls.tolist() == controls[1].tolist()
    assert found.mean == 29.5 and found.deviation == pytest.approx(np.std(controls[1], ddof=1))
    assert curve.at(2).distinct == 7 and EffectCurve(curve.counts, curve.effect, controls).at(2).distinct is None
    low, high = curve.interval()
    assert low == pytest.approx([0.95, 20.95]) and high == pytest.approx([18.05, 38.05])
    low, high = curve.interval(0.5)
    assert low == pytest.approx([4.75, 24.75]) and high == pytest.approx([14.25, 34.25])


def test_an_effect_that_is_not_defined_is_not_significant() -> None:
    assert np.isnan(Comparison(4, NAN, np.zeros(19)).p_value("cost"))
    assert not Comparison(4, NAN, np.zeros(19)).significant("cost")
    assert Comparison(4, 0.01, np.zeros(19)).significant("gain")
    assert not Comparison(4, 0.3, np.full(19, 0.3)).significant("gain")


def test_which_iou_an_evidence_speaks_of() -> None:
    one = evidence()
    run = np.array([0.7, 0.6, 0.5])
    assert one.set_iou is None and one.iou is one.over.iou
    known = replace(one, run_iou=run)
    assert known.set_iou is run and known.iou is run
    picture = replace(known, whole_set=False)
    assert picture.set_iou is None and picture.iou is one.over.iou
    assert one.counts == (4,) and replace(one, effects=None).counts == ()
    assert replace(one, effects=ChannelEffects(1, 1, None, None)).counts == ()


def test_a_new_class_says_where_its_iou_was_measured() -> None:
    new = replace(evidence(), source=2)
    assert verdict(new).text == (
        "Step 2 introduces building (IoU 56 on 24 validation images that contain it): nothing to keep yet."
    )
    assert "(IoU 56 on this picture)" in verdict(replace(new, whole_set=False)).text
    assert "(IoU 50 on the validation set)" in verdict(replace(new, run_iou=np.array([0.7, 0.6, 0.5]))).text
    future = verdict(replace(evidence(), source=2, step=1))
    assert future.text == "building is introduced at step 2; step 1 does not know it yet."
    assert future.words == "future" and future.answer is None and future.about("cause") is None


def test_without_measured_channels_the_verdict_stands_alone() -> None:
    found = verdict(replace(evidence(), effects=None))
    assert [one.topic for one in found.details] == ["relevance", "prototype"] and found.status == "kept"


def test_what_was_measured_on_fewer_images_says_so() -> None:
    def basis(**changed: object) -> str:
        found = verdict(replace(evidence(ablation=effect_curve(-0.3, 0.0)), **changed)).about("ablation")  # type: ignore[arg-type]
        assert found is not None
        return found.text.rsplit("; ", 1)[1]

    assert basis() == "24 of the 40 images that contain it)."
    assert basis(images=40) == "the 40 images that contain it)." and basis(whole_set=False) == "this picture)."


def test_channels_that_died_are_counted() -> None:
    one = evidence()
    assert one.effects is not None and verdict(one).about("channels") is None
    died = verdict(replace(one, effects=replace(one.effects, dead=3, total=20))).about("channels")
    assert died is not None and died.word == "died"
    assert died.text == "3 of 20 channels died by step 2: they were alive at step 0 and are constant now."
    unknown = verdict(replace(one, effects=replace(one.effects, dead=3))).about("channels")
    assert unknown is not None and unknown.text.startswith("3 of 19 channels")
    topics = [f.word for f in verdicts.channel_findings(replace(one, effects=ChannelEffects(1, 1, None, None, dead=2)))]
    assert topics == ["died", "too few"]
    half = ChannelEffects(16, 16, effect_curve(0.0, 0.0), None)
    assert [f.word for f in verdicts.channel_findings(replace(one, effects=half))] == ["too few"]


@pytest.mark.parametrize(("iou", "word"), [(0.01, "not significant"), (0.0099, "nothing left"), (NAN, "nothing left")])
def test_a_point_that_is_left_can_be_taken_away(iou: float, word: str) -> None:
    found = verdict(evidence((0.6, 0.3, iou))).about("ablation")
    assert found is not None and found.word == word


@pytest.mark.parametrize(("now", "word"), [(0.25, "not significant"), (0.255, "nothing lost"), (NAN, "nothing lost")])
def test_a_point_that_was_lost_can_be_put_back(now: float, word: str) -> None:
    found = verdict(evidence((0.26, 0.26, now))).about("transplant")
    assert found is not None and found.word == word
    if word == "nothing lost":
        assert "IoU 26 before, " in found.text


def test_a_transplant_that_does_nothing_or_harm_says_so() -> None:
    found = verdict(evidence((0.6, 0.3, 0.2), transplant=effect_curve(-0.03, -0.05), everything=0.4))
    text = found.about("transplant")
    assert text is not None and text.text == (
        "Not significant: putting back the 4 most changed channels from step 0 costs 3 points, 4 random ones cost "
        "5 ± 0, all channels 40 (p = 0.05, the floor with 19 control sets; 24 of the 40 images that contain it)."
    )


@pytest.mark.parametrize(
    ("size", "said"), [(0.0, "adds 0 of 50"), (-0.0004, "adds 0 of 50"), (-0.0006, "costs 0.1"), (0.2, "adds 20 of 50")]
)
def test_a_change_of_nothing_is_no_change_of_direction(size: float, said: str) -> None:
    assert verdicts._change(size, 0.5, "points", "adds", "costs") == f"{said} points"


@pytest.mark.parametrize(
    ("controls", "sign", "said"),
    [
        ((0.1, 0.3), 1, "20 ± 14"),
        ((0.1, 0.3), -1, "cost 20 ± 14"),
        ((-0.0004,) * 2, 1, "0 ± 0"),
        ((-0.0006,) * 2, 1, "cost 0.1 ± 0"),
    ],
)
def test_random_sets_in_words(controls: tuple[float, ...], sign: int, said: str) -> None:
    assert verdicts._random(Comparison(1, 0.0, np.array(controls)), sign, "cost") == said  # type: ignore[arg-type]


def test_the_number_that_loses_the_class_is_the_first_below_half() -> None:
    controls = np.full((3, 19), -0.01)
    at_half = EffectCurve(np.array([2, 4, 8]), np.array([-0.1, -0.28, -0.29]), controls)
    word, text = needed(at_half)
    assert word == "channels" and "8 of 16" in text and "falls to 27" in text
    assert "without 8 random ones of equal energy it is 55" in text and "24 of the 40 images" in text
    gone = EffectCurve(np.array([2]), np.array([-0.9]), np.full((1, 19), -0.8))
    word, text = needed(replace(gone, counts=np.array([4])))
    assert "falls to 0, without 4 random ones of equal energy it is 0 " in text
    assert needed(effect_curve(-0.3, 0.0), (0.6, 0.6, 0.009)) == ("", "")
    assert needed(effect_curve(-0.3, 0.0), (0.6, 0.6, NAN)) == ("", "")
    without = replace(evidence(), effects=ChannelEffects(5, 5, None, None))
    assert verdict(without).about("needed") is None
    assert verdict(replace(without, effects=None)).about("needed") is None


def test_parts_are_sorted_by_what_is_left_without_them() -> None:
    def said(parts: dict[str, float], iou: tuple[float, ...] = (0.6, 0.6, 0.6)) -> str:
        one = evidence(iou)
        assert one.effects is not None
        found = verdict(replace(one, effects=replace(one.effects, without=parts))).about("parts")
        return "" if found is None else found.text

    start = "One part silenced at a time, of IoU 60 (24 of the 40 images that contain it)."
    head = "Nothing is left without: its own head (by definition)"
    assert said({"aspp": 0.54}) == f"{start} {head}. Kept without: features: ASPP (54 left)."
    assert said({"aspp": 0.53}) == f"{start} {head}. Weakened without: features: ASPP (53 left)."
    assert said({"aspp": 0.3}) == f"{start} {head}. Weakened without: features: ASPP (30 left)."
    assert said({"aspp": 0.29}) == f"{start} {head}. Lost without: features: ASPP (29 left)."
    assert said({"backbone.layer1": 0.0}) == f"{start} {head}, features: layer1."
    assert said({"head: building": 0.0}) == said({}) == ""
    assert said({"aspp": 0.0}, (0.6, 0.6, 0.009)) == said({"aspp": 0.0}, (0.6, 0.6, NAN)) == ""
    assert verdict(replace(evidence(), effects=None)).about("parts") is None


def test_relevance_and_prototype_in_words() -> None:
    found = verdict(evidence(profile=0.95, drift=0.01))
    same, stayed = found.about("relevance"), found.about("prototype")
    assert same is not None and same.text == "The same channels speak for it as at step 0 (agreement 0.95)."
    assert stayed is not None and stayed.text == (
        "Its prototype stayed within the spread of its pixels (drift 0.01, spread 0.05)."
    )
    found = verdict(evidence(profile=0.2, drift=0.5))
    other, moved = found.about("relevance"), found.about("prototype")
    assert other is not None and other.text == "Other channels speak for it than at step 0 (agreement 0.20)."
    assert moved is not None and moved.text.startswith("Its prototype moved beyond the spread")
    partly = verdict(evidence(profile=0.6)).about("relevance")
    assert partly is not None and partly.text.startswith("Partly the same channels speak for it as at step 0")


@pytest.mark.parametrize(("spread", "said"), [(1e-6, False), (2e-6, True), (NAN, False)])
def test_a_spread_of_a_single_pixel_holds_nothing(spread: float, said: bool) -> None:
    one = evidence()
    over = replace(one.over, spread=np.array([spread, 0.05, 0.05]))
    assert (verdict(replace(one, over=over)).about("prototype") is not None) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0995, "10"), (0.09949, "9.9"), (0.0005, "0.1"), (0.00049, "0"), (0.1, "10"), (-0.0995, "-10")],
)
def test_points_near_the_boundaries(value: float, text: str) -> None:
    assert points(value) == text


def test_every_number_survives_the_cache() -> None:
    curve = effect_curve(-0.3, np.linspace(-0.1, 0.0, 19))
    effects = ChannelEffects(7, 16, curve, None, 0.25, 3, 20, {"aspp": 0.5})
    again = effects_from_arrays(effects_to_arrays(effects))
    assert (again.moved, again.active, again.dead, again.total, again.everything) == (7, 16, 3, 20, 0.25)
    assert again.transplant is None and again.ablation is not None and again.ablation.distinct is None
    assert again.ablation.at(4).effect == -0.3 and again.without == {"aspp": 0.5}
    with pytest.raises(KeyError):
        over_from_arrays({"iou": np.zeros(3)})


def test_the_shares_say_on_how_many_images_they_stand() -> None:
    assert "(40 validation images)" in verdict(evidence()).text
    assert "(this picture)" in verdict(replace(evidence(), whole_set=False)).text
