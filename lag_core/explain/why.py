"""Why a class is kept, weakened, lost or learned later: sentences that follow from its shares alone. Pure.

s is the step that introduced the class, t the step asked about; IoUs are points on the pixels known at s (the
fixed pixels). Groups of parts: the features (backbone stages and ASPP), the heads (the class's own, the other old
heads, the unknown's or background's), the newer classes (competition). The rules are ours:

| word | rule |
|---|---|
| never learned | the run's own metrics never gave the class LEARNED points (without metrics: these images never did) |
| not found here | one picture that never had LEARNED points of the class |
| learned later / found here later | less than LEARNED points at s and at least as many at t, on the images / on one
picture: there was nothing to keep yet |
| kept / weakened / lost | IoU at t is at least KEPT / at least HALF / less than HALF of that at s;
also lost if it was learned only between the two |
| other pixels counted | kept on the fixed pixels, but the papers' measure fell below KEPT of that at s, of which
newly counted pixels took MATERIAL or more |
| nothing to explain | the IoU changed by less than MATERIAL, or the interval of the change contains 0 |
| by the heads, by the features, drowned by newer classes | that group took at least QUARTER of the loss, its interval
is below 0 and does not overlap that of any group that is not named |
| by both | heads and features are both named |
| not told apart: the images do not say by which part | no group meets this rule |

On one picture there are no intervals: the named groups are those that took at least QUARTER of the loss there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lag_core.explain.shares import START, Estimate, Shares

KEPT, HALF, QUARTER = 0.9, 0.5, 0.25
MATERIAL = 1.0
"""Least IoU points that count as an effect."""
LEARNED = 5.0
"""A class whose IoU never reached this many points was not learned."""

Fate = Literal["kept", "weakened", "lost", "unlearned", "not found", "learned later", "found later"]
Group = Literal["heads", "features", "newer classes"]
Cause = Literal[
    "heads", "features", "both", "newer classes", "heads and newer classes", "features and newer classes", "all",
    "other pixels counted", "nothing to explain", "not told apart",
]  # fmt: skip

ABSENT_WORDS: dict[Fate, str] = {"unlearned": "never learned", "not found": "not found here"}
"""Fates of a class that had nothing to lose on these pixels."""
STILL_THERE: frozenset[Fate] = frozenset({"kept", "weakened", "learned later", "found later"})
"""Fates of a class that is still partly there."""

CAUSE_WORDS: dict[Cause, str] = {
    "heads": "by the heads",
    "features": "by the features",
    "both": "by both heads and features",
    "newer classes": "drowned by newer classes",
    "heads and newer classes": "by the heads, and drowned by newer classes",
    "features and newer classes": "by the features, and drowned by newer classes",
    "all": "by heads, features and newer classes together",
    "other pixels counted": "but new pixels are counted",
    "nothing to explain": "nothing to explain",
    "not told apart": "the images do not say by which part",
}
_NAMED: dict[frozenset[str], Cause] = {
    frozenset({"heads"}): "heads",
    frozenset({"features"}): "features",
    frozenset({"heads", "features"}): "both",
    frozenset({"newer classes"}): "newer classes",
    frozenset({"heads", "newer classes"}): "heads and newer classes",
    frozenset({"features", "newer classes"}): "features and newer classes",
    frozenset({"heads", "features", "newer classes"}): "all",
}
_SUBJECT: dict[Group, str] = {
    "heads": "the heads",
    "features": "the features",
    "newer classes": "newer classes",
}


@dataclass(frozen=True)
class Answer:
    """What became of a class, and by which parts."""

    fate: Fate
    cause: Cause
    shares: Shares = field(compare=False)

    @property
    def words(self) -> str:
        """The verdict in a few words, such as "lost by the heads"."""
        if self.fate in ABSENT_WORDS:
            return ABSENT_WORDS[self.fate]
        fate = "found here later" if self.fate == "found later" else self.fate
        if self.cause == "nothing to explain":
            return fate
        if self.fate == "kept" and self.cause != "other pixels counted":
            return f"kept, with a small loss: {CAUSE_WORDS[self.cause]}"
        link = ", " if self.cause in ("not told apart", "other pixels counted", "newer classes") else " "
        return f"{fate}{link}{CAUSE_WORDS[self.cause]}"


def groups(shares: Shares) -> dict[Group, Estimate]:
    """The three groups' shares, in points."""
    return {"heads": shares.heads, "features": shares.features, "newer classes": shares.competition}


def answer(shares: Shares, learned: bool | None = None) -> Answer:
    """The verdict on a class. `learned`: whether the run's own metrics say that it ever was (`was_learned`). None
    without metrics: then these pixels decide, except on a single picture."""
    here = max(shares.start, shares.fixed) >= LEARNED
    if learned is False or (learned is None and not here and shares.images > 1):
        return Answer("unlearned", "nothing to explain", shares)
    if not here and shares.images == 1:
        return Answer("not found", "nothing to explain", shares)
    return Answer(_fate(shares) if here else "lost", _cause(shares), shares)


def was_learned(ious: np.ndarray) -> bool:
    """Whether a class was learned, from the run's own metrics: IoUs as fractions from the step that introduced it to
    the one asked about, NaN where undefined. Shape: float [n]."""
    return bool(100 * np.nan_to_num(ious).max(initial=0.0) >= LEARNED)


def _fate(shares: Shares) -> Fate:
    if shares.start < LEARNED <= shares.fixed:
        return "found later" if shares.images == 1 else "learned later"
    if shares.fixed >= KEPT * shares.start:
        return "kept"
    return "weakened" if shares.fixed >= HALF * shares.start else "lost"


def _cause(shares: Shares) -> Cause:
    change, fixed = shares.change, shares.fixed
    if -change.points < MATERIAL or change.high >= 0:
        fell = shares.end < KEPT * shares.start and fixed >= KEPT * shares.start
        return "other pixels counted" if fell and -shares.newly.points >= MATERIAL else "nothing to explain"
    return _NAMED.get(frozenset(_named(shares)), "not told apart")


def _named(shares: Shares) -> list[Group]:
    """Groups that the loss is attributed to; none if one of them overlaps a group that is not named."""
    loss, every = shares.start - shares.fixed, groups(shares)
    found: list[Group] = [
        name
        for name, one in every.items()
        if -one.points >= QUARTER * loss and not one.high >= 0  # a missing interval (NaN) does not exclude a group
    ]
    rest = [one for name, one in every.items() if name not in found and one.points != 0]
    if any(every[name].high >= one.low for name in found for one in rest):
        return []
    return found


# ---------------------------------------------------------------------- sentences


def fate_sentence(name: str, found: Answer, where: str) -> str:
    """What became of the class, on the same pixels and as the papers count it."""
    shares = found.shares
    s, t = shares.step_from, shares.step_to
    way = f"IoU {points(shares.start)} at step {s}, {points(shares.fixed)} at step {t} on the same pixels ({where})"
    if found.fate == "unlearned":
        return f"{name} was never learned up to step {t}: {way}."
    if found.fate == "not found":
        return f"{name} was hardly found here, so there is nothing to lose: {way}."
    counted = f" {_newly_sentence(shares)}" if abs(shares.newly.points) >= MATERIAL else ""
    return f"{name} was {_became(found)}: {way}.{counted}"


def _became(found: Answer) -> str:
    later = {"learned later": "learned", "found later": "found here"}.get(found.fate)
    return found.fate if later is None else f"{later} only after step {found.shares.step_from}"


def _newly_sentence(shares: Shares) -> str:
    size = abs(shares.newly.points)
    return (
        f"As the papers count it, step {shares.step_to} has {points(shares.end)}: {points(size)} points go to pixels "
        "of later classes, which count only now."
    )


def cause_sentence(found: Answer) -> str:
    """The change by part, in numbers; empty if there is nothing to explain."""
    if found.fate in ABSENT_WORDS or found.cause == "nothing to explain":
        return ""
    shares = found.shares
    if found.cause == "other pixels counted":
        return "Nothing was lost on the pixels that were known before, but pixels of later classes are counted now."
    loss = shares.start - shares.fixed
    took = [_took(name, one) for name, one in sorted(groups(shares).items(), key=lambda item: item[1].points)]
    listed = "; ".join(part for part in took if part)
    head = CAUSE_WORDS[found.cause]
    return f"{head[:1].upper()}{head[1:]}: {points(loss)} points were lost; {listed}{interval_note(shares)}."


def _took(name: Group, one: Estimate) -> str:
    if points(one.points) == "0":
        return ""
    verb = "took" if one.points < 0 else "gave back"
    low, high = sorted((abs(one.low), abs(one.high))) if one.low * one.high > 0 else (-one.high, -one.low)
    spread = "" if math.isnan(one.low) else f" ({_bound(low)} to {_bound(high)})"
    return f"{_SUBJECT[name]} {verb} {points(abs(one.points))}{spread}"


def _bound(value: float) -> str:
    return ("−" if value < 0 and points(abs(value)) != "0" else "") + points(abs(value))


def interval_note(shares: Shares) -> str:
    """What the brackets are."""
    if shares.has_intervals:
        return "; in brackets 95 % intervals"
    return "" if shares.images < 2 else "; too few images show the class for intervals"


def apart_sentence(name: str, apart: Shares, own: str, other: str) -> str:
    """Why one run has more of a class than another, part by part. Parts of less than half a point are added up."""
    gap = apart.end - apart.start
    head = f"{name}, as the papers count it: {points(apart.end)} points in {own}, {points(apart.start)} in {other}"
    if abs(gap) < MATERIAL:
        return f"{head}: no difference to explain."
    every = {
        "its heads": apart.heads,
        "its features": apart.features,
        "the competition of newer classes": apart.competition,
        "newly counted pixels": apart.newly,
    }
    if START in apart.parts:
        every["what it had to begin with"] = apart.group([START])
    sign = 1 if gap > 0 else -1
    ranked = sorted(every.items(), key=lambda item: -sign * item[1].points)
    told = [(part, one) for part, one in ranked if abs(one.points) >= MATERIAL / 2]
    listed = [f"{_signed(one.points)} by {part}{_brackets(one)}" for part, one in told]
    rest = gap - sum(one.points for _, one in told)
    if points(rest) != "0":
        listed.append(f"{_signed(rest)} by the rest")
    return f"{head}. The difference of {_signed(gap)}: {', '.join(listed)}{interval_note(apart)}."


def _brackets(one: Estimate) -> str:
    return "" if math.isnan(one.low) else f" ({_bound(one.low)} to {_bound(one.high)})"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '−'}{points(abs(value))}"


def points(value: float) -> str:
    """IoU points: whole numbers from 10 on, else one decimal."""
    if math.isnan(value):
        return "–"
    if abs(value) < 0.05:
        return "0"
    return (f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}").removesuffix(".0")
