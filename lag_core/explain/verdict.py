"""Why is a class still here, or gone: evidence as numbers, and sentences that follow from the numbers alone.

Pure; `explain.evidence` measures. s is the step that introduced the class, t the step asked about. The verdict follows
from the shares (explain.why); everything else is detail.
The details' IoUs are fractions; sentences give points (100 times that). The rules are ours:

| topic | word | rule |
|---|---|---|
| iou | future / new | t < s / t = s |
| iou, cause, apart | | the rules of explain.why |
| channels | frozen | no channel of Z differs in any bit between s and t: the next two questions do not apply |
| ablation | nothing left | the class's IoU at t is below MATERIAL on the images measured |
| ablation | carried | removing the k most invariant channels costs MATERIAL or more, p <= LEVEL |
| transplant | nothing lost | the class lost less than MATERIAL on the images measured |
| transplant | restored | restoring the k most changed channels of s gains MATERIAL or more, p <= LEVEL |
| both | not comparable | such an effect, but the random sets have another energy (controls.BALANCED) |
| both | not significant | otherwise |
| needed | channels / any channels | the class is still there (why.STILL_THERE); the smallest measured number of its
most invariant channels without which its IoU falls below HALF ("any": p > LEVEL, random channels do as much, or not
comparable) |
| needed | more | without half of the living channels, HALF of its IoU or more is left |
| needed | heads | no channel of Z changed: only heads and newer classes could lose the class |
| parts | needed | the class is still there; parts without which its IoU falls below HALF, and those without which
it does not |
| relevance | gone | no place of any image speaks for the class at t |
| relevance | same / partly / other | cosine of the channel profiles of s and t: at least SAME / at least HALF / less |
| prototype | stayed / moved | drift since s is below / not below the spread of the class's own pixels |

p is that of a one-sided permutation test against n random sets of k channels, (1 + sets that do as much or more) /
(1 + n). With the least number of controls allowed, 19, "p <= 0.05" says that the effect exceeds every one of them.
LEVEL applies to each question separately. k is chosen beforehand (a quarter of the active channels unless asked for
otherwise), never the one whose effect is largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lag_core.explain import why
from lag_core.explain.controls import BALANCED
from lag_core.explain.shares import OWN_HEAD, Shares, part_words
from lag_core.explain.why import HALF, KEPT, STILL_THERE, Answer, Fate

LEVEL = 0.05
"""Largest p at which an effect is claimed."""
LEAST_CONTROLS = 19
"""Fewer random sets could never reach LEVEL."""
MATERIAL = 0.01
"""Least IoU that counts as an effect: one point."""
SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the active channels at which effects are measured."""
SHARE = 1 / 4
"""The one of them that the verdict uses."""
SAME = 0.9
"""Cosine from which two channel profiles count as the same."""
LEAST_SPREAD = 1e-6
"""A smaller spread is that of a single latent pixel: a drift cannot be compared with it."""

Status = Literal["future", "new"] | Fate
Topic = Literal[
    "iou", "cause", "apart", "channels", "ablation", "transplant", "needed", "parts", "relevance", "prototype"
]
Side = Literal["cost", "gain"]


@dataclass(frozen=True)
class Comparison:
    """The effect of k chosen channels on the class's IoU, compared with n random sets of k."""

    k: int
    effect: float
    """Change of the IoU; below 0: it fell."""
    controls: np.ndarray
    """float [n], the same of each random set."""
    distinct: int | None = None
    """How many different control sets there are; None if unknown."""
    imbalance: float = 0.0
    """Energy of the chosen channels less that of the random sets, in deviations (controls.Matched.imbalance)."""

    @property
    def fair(self) -> bool:
        """Whether the random sets have the energy of the chosen one."""
        return abs(self.imbalance) <= BALANCED

    @property
    def mean(self) -> float:
        """Mean effect of the random sets."""
        return float(self.controls.mean())

    @property
    def deviation(self) -> float:
        """Their standard deviation (n - 1)."""
        return float(self.controls.std(ddof=1))

    def p_value(self, side: Side) -> float:
        """Chance that random channels do as much or more: (1 + how many of n do) / (1 + n).

        cost: lower the IoU; gain: raise it. ValueError with fewer than LEAST_CONTROLS controls; NaN if the effect is.
        """
        n = len(self.controls)
        if n < LEAST_CONTROLS:
            raise ValueError(f"{n} random controls cannot reach p = {LEVEL}: at least {LEAST_CONTROLS} are needed")
        if not math.isfinite(self.effect):
            return math.nan
        as_much = self.controls <= self.effect if side == "cost" else self.controls >= self.effect
        return (1 + int(as_much.sum())) / (1 + n)

    def rare(self, side: Side) -> bool:
        """Whether the effect is MATERIAL and p at most LEVEL, whatever the random sets' energy is."""
        size = -self.effect if side == "cost" else self.effect
        return size >= MATERIAL and self.p_value(side) <= LEVEL

    def significant(self, side: Side) -> bool:
        """Whether the effect is rare beside fair random sets."""
        return self.fair and self.rare(side)


@dataclass(frozen=True)
class EffectCurve:
    """Effects on the class's IoU over the number of channels, beside random channels. P numbers, n controls."""

    counts: np.ndarray
    """int [P], ascending."""
    effect: np.ndarray
    """float [P]."""
    controls: np.ndarray
    """float [P, n]."""
    distinct: np.ndarray | None = None
    """int [P], how many different control sets there are; None if unknown."""
    imbalance: np.ndarray | None = None
    """float [P], see Comparison; None if unknown, and taken for 0."""

    def at(self, k: int) -> Comparison:
        """The comparison at k channels; ValueError if k was not measured."""
        place = np.flatnonzero(self.counts == k)
        if not len(place):
            raise ValueError(f"no effect of {k} channels was measured; there are {self.counts.tolist()}")
        distinct = None if self.distinct is None else int(self.distinct[place[0]])
        imbalance = 0.0 if self.imbalance is None else float(self.imbalance[place[0]])
        return Comparison(k, float(self.effect[place[0]]), self.controls[place[0]], distinct, imbalance)

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Bounds [P] of the middle `level` of the random sets' effects."""
        low, high = np.quantile(self.controls, ((1 - level) / 2, (1 + level) / 2), axis=1)
        return low, high


@dataclass(frozen=True)
class OverSteps:
    """One class over the T steps of a run. float64 [T] each, NaN before the class is introduced."""

    iou: np.ndarray
    """On the images measured, on their measuring grid."""
    relevance_map: np.ndarray
    """Cosine of the places that speak for the class with those at s; mean over the images."""
    relevance_profile: np.ndarray
    """Cosine of the channels that speak for it with those at s, over all images together."""
    drift: np.ndarray
    """1 - cosine of the class's prototype to that of s."""
    spread: np.ndarray
    """Mean cosine distance of the class's latent pixels to its prototype of the same step."""


@dataclass(frozen=True)
class ChannelEffects:
    """The two questions about channels of Z between s and t (docs/method.md#channels)."""

    moved: int
    """Channels that differ in any bit between s and t."""
    active: int
    """Channels that are alive at t: not constant over the images. Only living channels are tested and drawn."""
    ablation: EffectCurve | None
    """The most invariant channels of t are set to 0: what carries the memory? None if not asked."""
    transplant: EffectCurve | None
    """The most changed channels get back their values of s: what was lost? None if not asked."""
    everything: float = 0.0
    """Change of the IoU by restoring every channel of s."""
    dead: int = 0
    """Channels that were alive at s and are constant at t."""
    total: int = 0
    """Channels of Z; 0 if unknown."""
    without: Mapping[str, float] = field(default_factory=dict)
    """IoU of the class at t by the part of the network that is silenced (explain.without_parts)."""


@dataclass(frozen=True)
class Evidence:
    """Everything measured for one class at one step of one run."""

    cls: int
    name: str
    """The class's name; untrusted text from the run."""
    step: int
    source: int
    """The step s that introduced the class."""
    whole_set: bool
    """True: the validation set; False: one image."""
    images: int
    """Images measured."""
    holding: int
    """Images of the validation set that contain the class; 1 for one image."""
    run_iou: np.ndarray | None
    """float64 [T], IoU over the whole validation set, as the run's metrics have it; None for an unmeasured run."""
    over: OverSteps
    effects: ChannelEffects | None
    """None at the step that introduces the class and before."""
    shares: Shares | None = None
    """Shares of the change since s; None at the step that introduces the class and before."""
    shared_images: int = 0
    """Images that the shares are of."""

    @property
    def set_iou(self) -> np.ndarray | None:
        """`run_iou` where the validation set was asked about."""
        return self.run_iou if self.whole_set else None

    @property
    def iou(self) -> np.ndarray:
        """float64 [T], IoU over the validation set if it is known and asked for, else on the images measured."""
        return self.over.iou if self.set_iou is None else self.set_iou

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of channels at which effects were measured; none where they were not."""
        curve = self.effects.ablation if self.effects else None
        return tuple(curve.counts.tolist()) if curve else ()


@dataclass(frozen=True)
class Finding:
    """One conclusion: what it is about, its word of the table above, and a plain sentence."""

    topic: Topic
    word: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What follows from an Evidence."""

    status: Status
    findings: tuple[Finding, ...]
    """What became of the class, "iou" first, and in which parts."""
    details: tuple[Finding, ...] = ()
    """Other measurements: channels, relevance, prototype. They are not part of the verdict."""
    answer: Answer | None = None
    """The verdict in numbers; None at the step that introduces the class and before."""

    @property
    def words(self) -> str:
        """The verdict in a few words, such as "lost by the heads"."""
        return self.status if self.answer is None else self.answer.words

    @property
    def text(self) -> str:
        """The verdict's sentences; plain text that contains the class's name."""
        return " ".join(one.text for one in self.findings)

    def about(self, topic: Topic) -> Finding | None:
        """The finding on a topic, None if nothing is said about it."""
        return next((one for one in (*self.findings, *self.details) if one.topic == topic), None)


def count_at(active: int, share: float) -> int:
    """A share of the active channels as a number: at least one, and never all of them (but for a single one)."""
    return max(1, min(round(active * share), active - 1))


def default_count(active: int) -> int:
    """The k of the verdict: a quarter of the active channels."""
    return count_at(active, SHARE)


def curve_counts(active: int) -> tuple[int, ...]:
    """Numbers of channels along the curves, ascending: SHARES of the active ones."""
    return tuple(sorted({count_at(active, share) for share in SHARES}))


def verdict(evidence: Evidence, k: int | None = None) -> Verdict:
    """The verdict in words. `k`: which of the measured numbers of channels it uses (default_count)."""
    name, s, t = evidence.name, evidence.source, evidence.step
    if t < s:
        return Verdict(
            "future",
            (Finding("iou", "future", f"{name} is introduced at step {s}; step {t} does not know it yet."),),
        )
    if t == s:
        found = f"IoU {points(evidence.iou[t])} {_where(evidence)}"
        return Verdict("new", (Finding("iou", "new", f"Step {t} introduces {name} ({found}): nothing to keep yet."),))
    if evidence.shares is None:
        raise ValueError(f"the shares of {name} at step {t} were not measured")
    answer = why.answer(evidence.shares, _learned(evidence))
    findings = [Finding("iou", answer.fate, why.fate_sentence(name, answer, _shares_where(evidence)))]
    if cause := why.cause_sentence(answer):
        findings.append(Finding("cause", answer.cause, cause))
    details = channel_findings(evidence, k) if evidence.effects is not None else []
    beside = _needed(evidence, answer), _parts(evidence, answer), _relevance(evidence), _prototype(evidence)
    details += [one for one in beside if one is not None]
    return Verdict(answer.fate, tuple(findings), tuple(details), answer)


def _learned(evidence: Evidence) -> bool | None:
    """Whether the run's own metrics say that the class was learned between s and t; None where there are none."""
    if evidence.run_iou is None:
        return None
    return why.was_learned(evidence.run_iou[evidence.source : evidence.step + 1])


def _shares_where(evidence: Evidence) -> str:
    """On which images the shares were measured."""
    if not evidence.whole_set:
        return "this picture"
    return f"{evidence.shared_images} validation images"


def _where(evidence: Evidence) -> str:
    """On which images the IoU was measured."""
    if evidence.set_iou is not None:
        return "on the validation set"
    if not evidence.whole_set:
        return "on this picture"
    return f"on {evidence.images} validation images that contain it"


def channel_findings(evidence: Evidence, k: int | None = None) -> list[Finding]:
    """The rules of the topics "channels", "ablation" and "transplant"."""
    effects, s, t = evidence.effects, evidence.source, evidence.step
    assert effects is not None
    if not effects.moved:
        text = f"The features are frozen: every channel of the latent map is the same at steps {s} and {t}."
        return [Finding("channels", "frozen", text)]
    if effects.ablation is None or effects.transplant is None:
        text = f"{effects.active} channels of the latent map are alive: there are no groups to compare."
        return [*_dead(effects, s, t), Finding("channels", "too few", text)]
    chosen = default_count(effects.active) if k is None else k
    return [
        *_dead(effects, s, t),
        _ablation(evidence, effects.ablation.at(chosen), effects.active),
        _transplant(evidence, effects.transplant.at(chosen), effects.everything),
    ]


def _dead(effects: ChannelEffects, s: int, t: int) -> list[Finding]:
    """How many channels died between s and t; nothing if none did."""
    if not effects.dead:
        return []
    whole = effects.total or effects.active + effects.dead
    text = f"{effects.dead} of {whole} channels died by step {t}: they were alive at step {s} and are constant now."
    return [Finding("channels", "died", text)]


def p_text(found: Comparison, side: Side) -> str:
    """p with its floor: a rank among n control sets cannot be smaller than 1 / (n + 1); and how many of them differ,
    if there are fewer different ones than were drawn."""
    p, n = found.p_value(side), len(found.controls)
    floor = f", the floor with {n} control sets" if p == 1 / (1 + n) else ""
    few = found.distinct is not None and found.distinct < n
    return f"p = {p:.2g}{floor}" + (f", {found.distinct} different control sets exist" if few else "")


def unfair_text(found: Comparison) -> str:
    """Why nothing is claimed although p is small: no other channels have this energy."""
    more, much = ("less", "little") if found.imbalance < 0 else ("more", "much")
    return (
        f"They have {more} energy than the random sets ({abs(found.imbalance):.2f} standard deviations), since too few "
        f"other channels have as {much}: no fair controls."
    )


def _ablation(evidence: Evidence, found: Comparison, active: int) -> Finding:
    now = float(evidence.over.iou[evidence.step])
    basis = _basis(evidence)
    if not now >= MATERIAL:
        text = f"There is nothing left to take away: IoU {points(now)} at step {evidence.step} ({basis})."
        return Finding("ablation", "nothing left", text)
    beside = f"removing {found.k} random ones {_random(found, -1, 'adds')}"
    p = p_text(found, "cost")
    cost = _change(-found.effect, now, "points", "costs", "adds")
    if found.significant("cost"):
        text = (
            f"Carried by {found.k} invariant channels of {active} living ones: removing them {cost}, {beside} "
            f"({p}; {basis})."
        )
        return Finding("ablation", "carried", text)
    if found.rare("cost"):
        text = (
            f"Not comparable: removing the {found.k} most invariant of {active} living channels {cost}, {beside} ({p}; "
            f"{basis}). {unfair_text(found)}"
        )
        return Finding("ablation", "not comparable", text)
    text = (
        f"Not significant: removing the {found.k} most invariant of {active} living channels {cost}, {beside} "
        f"({p}; {basis})."
    )
    return Finding("ablation", "not significant", text)


def _transplant(evidence: Evidence, found: Comparison, everything: float) -> Finding:
    before, now = (float(evidence.over.iou[t]) for t in (evidence.source, evidence.step))
    basis = _basis(evidence)
    if not before - now >= MATERIAL:
        text = f"Nothing was lost that could be put back: IoU {points(before)} before, {points(now)} now ({basis})."
        return Finding("transplant", "nothing lost", text)
    beside = f"{found.k} random ones {_random(found, 1, 'cost')}"
    p = p_text(found, "gain")
    gain = _change(found.effect, before - now, "lost points", "restores", "costs")
    if found.significant("gain"):
        text = (
            f"What was lost lies in the changed channels: putting back {found.k} of them from step "
            f"{evidence.source} {gain}, {beside}, "
            f"all channels {points(everything)} ({p}; {basis})."
        )
        return Finding("transplant", "restored", text)
    if found.rare("gain"):
        text = (
            f"Not comparable: putting back the {found.k} most changed channels from step {evidence.source} {gain}, "
            f"{beside}, all channels {points(everything)} ({p}; {basis}). {unfair_text(found)}"
        )
        return Finding("transplant", "not comparable", text)
    text = (
        f"Not significant: putting back the {found.k} most changed channels from step {evidence.source} {gain}, "
        f"{beside}, all channels {points(everything)} ({p}; {basis})."
    )
    return Finding("transplant", "not significant", text)


def _needed(evidence: Evidence, answer: Answer) -> Finding | None:
    """What must be removed before a class that is still there is lost; None if there is nothing to lose."""
    if answer.fate not in STILL_THERE or evidence.effects is None:
        return None
    curve, now = evidence.effects.ablation, float(evidence.over.iou[evidence.step])
    if evidence.effects.moved == 0:
        text = "No channel of Z changed since then: to lose it, heads or newer classes would have to take its pixels."
        return Finding("needed", "heads", text)
    if curve is None or not now >= MATERIAL:
        return None
    active, basis = evidence.effects.active, _basis(evidence)
    left = now + curve.effect
    enough = np.flatnonzero(left < HALF * now)
    place = int(enough[0]) if len(enough) else -1
    found = curve.at(int(curve.counts[place]))
    falls = f"IoU {points(now)} falls to {points(max(float(left[place]), 0.0))}"
    beside = f"without {found.k} random ones of equal energy it is {points(max(now + found.mean, 0.0))}"
    if not len(enough):
        text = (
            f"It outlives the loss of {found.k} of {active} living channels, the most invariant first: {falls}, "
            f"{beside} ({basis}). More of them, or its head, would have to go for it to be lost."
        )
        return Finding("needed", "more", text)
    special = found.significant("cost")
    which = "" if special else " Any channels would do: random ones cost as much."
    if found.rare("cost") and not special:
        which = f" {unfair_text(found)}"
    text = (
        f"To be lost, {found.k} of {active} living channels would have to go, the most invariant first: {falls}, "
        f"{beside} ({basis}).{which}"
    )
    return Finding("needed", "channels" if special else "any channels", text)


def _parts(evidence: Evidence, answer: Answer) -> Finding | None:
    """Which parts of the network a class that is still there needs; None where there is nothing to lose."""
    now = float(evidence.over.iou[evidence.step])
    if answer.fate not in STILL_THERE or evidence.effects is None or not now >= MATERIAL:
        return None
    left = {part: iou for part, iou in evidence.effects.without.items() if not part.startswith(OWN_HEAD)}
    if not left:
        return None
    fates = {part: _left(iou, now) for part, iou in left.items()}
    listed = {"nothing": ["its own head (by definition)"]}
    for part, fate in fates.items():
        number = "" if fate == "nothing" else f" ({points(left[part])} left)"
        listed.setdefault(fate, []).append(f"{part_words(part)}{number}")
    said = " ".join(f"{words}: {', '.join(listed[fate])}." for fate, words in WITHOUT.items() if fate in listed)
    head = f"One part silenced at a time, of IoU {points(now)} ({_basis(evidence)})."
    return Finding("parts", "needed", f"{head} {said}")


WITHOUT = {
    "nothing": "Nothing is left without",
    "lost": "Lost without",
    "weakened": "Weakened without",
    "kept": "Kept without",
}


def _left(iou: float, now: float) -> str:
    """What is left of a class, by the limits of its fate (explain.why)."""
    if points(iou) == "0":
        return "nothing"
    return "lost" if iou < HALF * now else "weakened" if iou < KEPT * now else "kept"


def _basis(evidence: Evidence) -> str:
    """How many images the effects were measured on."""
    if not evidence.whole_set:
        return "this picture"
    if evidence.images == evidence.holding:
        return f"the {evidence.images} images that contain it"
    return f"{evidence.images} of the {evidence.holding} images that contain it"


def _relevance(evidence: Evidence) -> Finding | None:
    value = float(evidence.over.relevance_profile[evidence.step])
    if math.isnan(value):
        return None
    if math.isnan(evidence.over.relevance_map[evidence.step]):
        return Finding("relevance", "gone", f"At step {evidence.step}, no place speaks for it any more.")
    since = f"as at step {evidence.source}"
    if value >= SAME:
        word, text = "same", f"The same channels speak for it {since} (agreement {value:.2f})."
    elif value >= HALF:
        word, text = "partly", f"Partly the same channels speak for it {since} (agreement {value:.2f})."
    else:
        word, text = "other", f"Other channels speak for it than at step {evidence.source} (agreement {value:.2f})."
    return Finding("relevance", word, text)


def _prototype(evidence: Evidence) -> Finding | None:
    drift = float(evidence.over.drift[evidence.step])
    spread = float(evidence.over.spread[evidence.source])
    if math.isnan(drift) or not spread > LEAST_SPREAD:
        return None
    stayed = drift < spread
    word, verb = ("stayed", "stayed within") if stayed else ("moved", "moved beyond")
    text = f"Its prototype {verb} the spread of its pixels (drift {drift:.2g}, spread {spread:.2g})."
    return Finding("prototype", word, text)


def points(fraction: float) -> str:
    """An IoU as points: whole numbers from 10 on, else one decimal; a dash for NaN."""
    if math.isnan(fraction):
        return "–"
    value = 100 * fraction
    if abs(value) < 0.05:
        return "0"
    return (f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}").removesuffix(".0")


def _change(size: float, whole: float, unit: str, positive: str, negative: str) -> str:
    """ "costs 31 of 54 points", or for the other direction "adds 3 points"; nothing measurable costs 0."""
    if size > -0.0005:
        return f"{positive} {points(size)} of {points(whole)} {unit}"
    return f"{negative} {points(-size)} points"


def _random(found: Comparison, sign: Literal[-1, 1], other: str) -> str:
    """Mean ± standard deviation of the random sets, as costs (-1) or gains (1); `other` names the other direction."""
    mean, deviation = sign * found.mean, points(found.deviation)
    return f"{points(mean)} ± {deviation}" if mean > -0.0005 else f"{other} {points(-mean)} ± {deviation}"


# ---------------------------------------------------------------------- to and from arrays, for the disk cache


def _packed(curve: EffectCurve | None, name: str) -> dict[str, np.ndarray]:
    if curve is None:
        return {}
    packed = {f"{name}.counts": curve.counts, f"{name}.effect": curve.effect, f"{name}.controls": curve.controls}
    known = {"distinct": curve.distinct, "imbalance": curve.imbalance}
    return packed | {f"{name}.{part}": values for part, values in known.items() if values is not None}


def effects_to_arrays(effects: ChannelEffects) -> dict[str, np.ndarray]:
    """ChannelEffects as arrays by name."""
    numbers: dict[str, np.ndarray] = {
        "channels": np.array([effects.moved, effects.active, effects.dead, effects.total], np.int64),
        "everything": np.array([effects.everything]),
    }
    names = np.array(list("\n".join(effects.without).encode()), np.uint8)
    without: dict[str, np.ndarray] = {
        "without.names": names,
        "without.iou": np.array(list(effects.without.values()), np.float64),
    }
    return numbers | without | _packed(effects.ablation, "ablation") | _packed(effects.transplant, "transplant")


def effects_from_arrays(arrays: Mapping[str, np.ndarray]) -> ChannelEffects:
    """The reverse of `effects_to_arrays`; KeyError for a missing array."""
    moved, active, dead, total = arrays["channels"].tolist()
    names = arrays["without.names"].tobytes().decode().splitlines()
    without = dict(zip(names, arrays["without.iou"].tolist(), strict=True))

    def curve(name: str) -> EffectCurve | None:
        if f"{name}.counts" not in arrays:
            return None
        counts, effect, drawn = (arrays[f"{name}.{part}"] for part in ("counts", "effect", "controls"))
        return EffectCurve(counts, effect, drawn, arrays.get(f"{name}.distinct"), arrays.get(f"{name}.imbalance"))

    return ChannelEffects(
        moved, active, curve("ablation"), curve("transplant"), arrays["everything"].item(), dead, total, without
    )


_OVER = ("iou", "relevance_map", "relevance_profile", "drift", "spread")


def over_to_arrays(over: OverSteps) -> dict[str, np.ndarray]:
    """OverSteps as arrays by name."""
    return {name: getattr(over, name) for name in _OVER}


def over_from_arrays(arrays: Mapping[str, np.ndarray]) -> OverSteps:
    """The reverse of `over_to_arrays`; KeyError for a missing array."""
    return OverSteps(**{name: arrays[name] for name in _OVER})
