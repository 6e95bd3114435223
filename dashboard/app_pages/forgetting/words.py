"""What a picture's pixels became, in words: of a class by a step, and of one pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dashboard.app_pages.forgetting.fates import Story
from dashboard.ui import untrusted
from dashboard.ui.wording import percent
from lag_core.explain.forgetting import Fate
from lag_core.protocol import IGNORE
from lag_core.runs import Run


@dataclass(frozen=True)
class ClassLoss:
    """What one class lost in one picture by a step."""

    pixels: int
    """Of the class in the picture."""
    once_right: int
    """Right after the step or an earlier one since the class was introduced."""
    forgotten: int
    """Wrong after the step and right once."""
    lost_now: int
    """Of them, those that were lost at this very step."""
    target: int | None
    """Class index that most of `lost_now` (else of `forgotten`) went to."""
    target_share: float
    """Share that went there."""
    worst_step: int
    """The step that lost most of `forgotten`; -1 for none."""
    worst_share: float
    """Share of `forgotten` that it lost."""


def class_loss(story: Story, step: int, cls: int) -> ClassLoss:
    """What class `cls`, in the story's own indices, had lost after `step`."""
    mine = story.truth == cls
    at = story.fates.still_lost_at(step)[mine]
    to = story.fates.still_lost_to(step)[mine]
    now = at == step
    gone = to[now] if now.any() else to[to != IGNORE]
    counts = np.bincount(gone, minlength=1)
    by_step = np.bincount(at[at >= 0], minlength=1)
    never = np.isin(story.fates.states[step][mine], (Fate.NEVER, Fate.ABSENT))
    return ClassLoss(
        pixels=int(mine.sum()),
        once_right=int((~never).sum()),
        forgotten=int((at >= 0).sum()),
        lost_now=int(now.sum()),
        target=int(counts.argmax()) if gone.size else None,
        target_share=float(counts.max() / gone.size) if gone.size else float("nan"),
        worst_step=int(by_step.argmax()) if gone.size else -1,
        worst_share=float(by_step.max() / by_step.sum()) if gone.size else float("nan"),
    )


def loss_sentence(found: ClassLoss, run: Run, cls: int, step: int) -> str:
    """What the numbers say, in words (Markdown)."""
    name = f"**{untrusted.name(run.classes[cls].name)}**"
    introduced = run.labels.step_of(cls)
    if not found.pixels:
        return f"There is no {name} in this picture; choose another class, or an image from the list below."
    if step < introduced:
        return f"{name} is introduced at step {introduced}; before that it cannot be lost."
    if step == introduced:
        ahead = " Go to a later step to see what it forgets." if step < run.last_step else ""
        right = percent(found.once_right / found.pixels)
        return f"Step {step} introduces {name}, so none of it is lost yet; {right} of its pixels are right.{ahead}"
    if not found.once_right:
        return f"No {name} pixel of this picture was ever right up to step {step}, so there is nothing to lose."
    if not found.forgotten:
        return f"After step {step}, no {name} pixel of this picture is lost, {_ever_right(found)}."
    target = f"**{untrusted.name(run.classes[found.target].name)}**" if found.target is not None else ""
    most = "all" if found.target_share == 1 else "most" if found.target_share > 0.5 else "the largest part"
    went = f"{most} went to {target}"
    if found.lost_now:
        share = percent(found.lost_now / found.pixels)
        all_told = (
            f" In all, {percent(found.forgotten / found.pixels)} are lost by now."
            if found.forgotten > found.lost_now
            else ""
        )
        ever = percent(found.once_right / found.pixels)
        return (
            f"At step {step}, **{share}** of the {name} pixels of this picture were lost ({ever} were ever right); "
            f"{went}.{all_told}"
        )
    share = percent(found.forgotten / found.pixels)
    when = "" if found.worst_share == 1 else "most of them "
    return (
        f"Step {step} lost no more {name} here; **{share}** of its pixels were lost before, {when}at step "
        f"{found.worst_step}; {went}."
    )


def _ever_right(found: ClassLoss) -> str:
    share = found.once_right / found.pixels
    return f"{'but only' if share < 0.5 else 'and'} **{percent(share)}** were ever right"


def compared_sentence(found: ClassLoss, name: str) -> str:
    """What the compared run lost of the same class: its share means little without the share that was ever right."""
    if not found.once_right:
        return f"In {untrusted.name(name)}, none was ever right."
    lost = f"**{percent(found.forgotten / found.pixels)}** are" if found.forgotten else "none is"
    right = percent(found.once_right / found.pixels)
    return f"In {untrusted.name(name)}, {right} were ever right and {lost} lost by then."


def pixel_history(told: Story, run: Run, pixel: tuple[int, int], step: int) -> str:
    """What became of one pixel by `step`, in words (Markdown)."""
    x, y = pixel
    truth = int(told.truth[y, x])
    if truth >= len(run.classes):
        return " is not annotated."
    name = untrusted.name(run.classes[truth].name)
    states = [Fate(int(states[y, x])) for states in told.fates.states[: step + 1]]
    events = []
    for t, fate in enumerate(states):
        before = states[t - 1] if t else Fate.ABSENT
        if fate is Fate.LEARNED:
            events.append(f"learned at step {t}")
        elif fate is Fate.FORGOTTEN and before is not Fate.FORGOTTEN:
            target = int(told.fates.went_to[t][y, x])
            to = untrusted.name(run.classes[target].name) if target < len(run.classes) else "nothing"
            events.append(f"lost at step {t} to {to}")
        elif fate is Fate.RECOVERED and before is Fate.FORGOTTEN:
            events.append(f"recovered at step {t}")
    if not events:
        introduced = run.labels.step_of(truth)
        events = [f"introduced at step {introduced}" if step < introduced else "never right so far"]
    return f", in truth **{name}**: {', '.join(events)}."
