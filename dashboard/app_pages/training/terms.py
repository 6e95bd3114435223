"""The loss terms in words: what each is for, and what it did in a step (the words follow from numbers)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from dashboard.ui import untrusted
from dashboard.ui.wording import counted
from lag_core.config import MethodConfig
from lag_core.explain.effects import SEGMENTATION, Effect, StepEffects, TermEffect
from lag_core.explain.history import Progress
from lag_core.loss_terms import LOSS_TERMS

_REPLAYED: Mapping[str, str] = {
    "drawn": "feature maps drawn from the old classes' statistics",
    "carried": "the step's own images, their new objects changed into old classes by class statistics,",
    "stored": "stored images of earlier steps",
}
"""The replayed input when replay begins at the trunk's output."""

NOTHING_OLD = ": no term protected the old classes"

Sign = Literal["worked", "nothing old", "problem"]
"""Of a step's verdict. Only the first is a success: working terms are none if no term protects the old classes."""


def meaning(name: str, method: MethodConfig, domains: Sequence[str] = ()) -> str:
    """What a term is for, as the configuration has it. `domains`: of the steps (`data.domains`)."""
    if name == SEGMENTATION:
        return f"Learns the step's classes: the classification loss on {_targets(method)}."
    if name == "replay":
        return _replay(method) + _left_out(method, domains)
    known = LOSS_TERMS.get(name)
    return "A term of this run’s own trainer." if known is None else f"{known.meaning} ${known.formula}$"


def _targets(method: MethodConfig) -> str:
    return "its labels" if method.pseudo == "off" else "its labels and pseudo-labels"


def _replay(method: MethodConfig) -> str:
    if method.replay_at == "latent":
        return (
            "Replay of class statistics: the heads must still separate latent patches drawn for the old classes from "
            "the new ones; it trains the heads, never the shared layers."
        )
    reached = "the ASPP and the heads" if method.extractor == "live" else "the heads; the ASPP is frozen"
    scores = ", and keep the scores that the old network gave them" if method.replay_kd > 0 else ""
    domain = " as they look in this step," if method.replay_domain == "step" else ""
    replayed = f"{_REPLAYED[method.replay_maps]}{domain}"
    return f"Replay: {replayed} must still get their right classes{scores}; it trains {reached}."


def _left_out(method: MethodConfig, domains: Sequence[str]) -> str:
    if method.replay_domain != "same" or len(set(domains)) < 2:
        return ""
    return " Classes that were learned in another domain than the step's are left out."


def verdict(effects: StepEffects) -> str:
    """What the terms of a step did, as Markdown without the step's name."""
    sentences = [*_broken(effects), *_dead(effects), *_acting(effects), *_joined(effects)]
    return " ".join(sentences) or "no loss term was logged."


def sign(effects: StepEffects) -> Sign:
    """Whether a term of the step did nothing or became NaN; else whether any protected the old classes."""
    if effects.not_finite or effects.names(Effect.ZERO, Effect.DEAD):
        return "problem"
    alone = effects.step > 0 and [term.name for term in effects.terms] == [SEGMENTATION]
    return "nothing old" if alone else "worked"


def grouped(steps: Sequence[StepEffects]) -> list[tuple[int, int, str, Sign]]:
    """Verdicts as (first step, last step, words, sign): consecutive steps with the same verdict are merged."""
    groups: list[tuple[int, int, str, Sign]] = []
    for effects in steps:
        words, found = verdict(effects), sign(effects)
        if groups and groups[-1][2] == words and groups[-1][1] == effects.step - 1:
            groups[-1] = (groups[-1][0], effects.step, words, found)
        else:
            groups.append((effects.step, effects.step, words, found))
    return groups


def _broken(effects: StepEffects) -> list[str]:
    if not effects.not_finite:
        return []
    return [f":red[**{listed(effects.not_finite)} became NaN or infinite.**]"]


def _dead(effects: StepEffects) -> list[str]:
    dead = effects.names(Effect.DEAD)
    if not dead:
        return []
    why = f": {untrusted.markdown(effects.why_dead)}" if effects.why_dead else ""
    return [f"**{listed(dead)} {_have(dead)} no gradient**{why}."]


def _acting(effects: StepEffects) -> list[str]:
    living = [t for t in effects.terms if t.effect is not Effect.DEAD]
    if not living:
        return []
    if all(t.effect is Effect.HEADS for t in living):
        return [f"{listed([t.name for t in living])} trained the heads alone."]
    if all(t.effect is Effect.UNMEASURED for t in living):
        return ["No gradient norm was logged while the shared layers trained, so the terms' effect on them is unknown."]
    if [t.name for t in effects.terms] == [SEGMENTATION] and living[0].effect is Effect.MOVED:
        alone = f"segmentation alone trained the network (median gradient norm {short(living[0].norm)})"
        return [f"{alone}{NOTHING_OLD if effects.step > 0 else ''}."]
    return [*_moved(effects), *_hardly(effects), *_zero(effects), *_head_terms(living)]


def _moved(effects: StepEffects) -> list[str]:
    """The terms with a noticeable gradient, largest first, beside segmentation's."""
    count = len([t for t in effects.terms if t.effect is not Effect.HEADS])
    moved = sorted((t for t in effects.terms if t.effect is Effect.MOVED), key=lambda t: -t.norm)
    if not moved:
        return [f"none of {counted(count, 'term')} moved the shared layers."]
    everyone = f"all {counted(count, 'term')}" if len(moved) == count else f"{len(moved)} of {counted(count, 'term')}"
    others = [t for t in moved if t.name != SEGMENTATION]
    segmentation = effects.term(SEGMENTATION)
    norms = ", ".join(map(_with_norm, others))
    if segmentation in moved and others:
        norms = f"{norms} beside {_with_norm(segmentation)}"
    elif segmentation in moved:
        norms = _with_norm(segmentation)
    return [f"{everyone} moved the shared layers: {norms}."]


def _hardly(effects: StepEffects) -> list[str]:
    found = [t for t in effects.terms if t.effect is Effect.HARDLY]
    if not found:
        return []
    norms = ", ".join(map(_with_norm, found))
    return [f"Hardly at all, under 1 % of segmentation: {norms}."]


def _zero(effects: StepEffects) -> list[str]:
    """Terms whose gradient was zero throughout, told apart by whether they had a value."""
    found = [t for t in effects.terms if t.effect is Effect.ZERO]
    idle = [t.name for t in found if t.largest == 0]
    flat = [t.name for t in found if t.largest > 0]
    nothing = "did nothing" if effects.finished else "did nothing so far"
    sentences = []
    if idle:
        sentences.append(f"**{listed(idle)} {nothing}**: the value was 0 throughout.")
    if flat:
        most = max(t.measured for t in found if t.largest > 0)
        times = "the only measurement" if most == 1 else f"all {most} measurements"
        sentences.append(f"**{listed(flat)} {nothing}**: a gradient of 0 at {times}.")
    return sentences


def _head_terms(living: Sequence[TermEffect]) -> list[str]:
    found = [t.name for t in living if t.effect is Effect.HEADS]
    return [f"{listed(found)} {_acts(found)} on the heads alone, as meant."] if found else []


def _joined(effects: StepEffects) -> list[str]:
    """When the shared layers joined, where that was not at once."""
    if not effects.joined or not effects.length:
        return []
    return [f"(The shared layers join at iteration {effects.joined:,} of {effects.length:,}.)"]


def status(progress: Progress | None, batch: int) -> str:
    """A training's progress, in Markdown."""
    if progress is None:
        return "Still training; nothing has been logged yet."
    of = f" of {progress.total:,}" if progress.total else ""
    if progress.iteration >= progress.total > 0:
        return (
            f"Still training, step {progress.step}: its {counted(progress.total, 'iteration')} are done, measuring it"
        )
    left = progress.seconds_left(batch)
    soon = "" if math.isnan(left) else f", about {duration(left)} left in this step"
    speed = progress.images_per_second
    fast = "" if math.isnan(speed) else f" · {speed:,.0f} images/s{soon}"
    return f"Still training, step {progress.step}, iteration {progress.iteration:,}{of}{fast}"


def duration(seconds: float) -> str:
    """A time in words, to the precision that matters."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """Names as Markdown: "spm, sfp and nsc"."""
    shown = [untrusted.name(name, 40) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def short(value: float) -> str:
    """A number to two significant digits, without an exponent where that can be read."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")
    digits = max(1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}"


def _with_norm(term: TermEffect) -> str:
    return f"{listed([term.name])} {short(term.norm)}"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _acts(names: Sequence[str]) -> str:
    return "acts" if len(names) == 1 else "act"
