"""The health of a step in training: sentences about what went wrong and what to do. The rules are ours.

Four findings: a term of the loss that jumps, latent channels that die, a term without effect, a class that is never
predicted. A step is checked while it trains, so that a problem is reported when it occurs.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

JUMP = 3.0
"""A term jumps if its weighted value exceeds this many times the whole loss just before."""

BEFORE = 10
"""Logged iterations whose median is the loss of just before."""

DIED = 0.1
"""Share of the latent channels; if more than this die in a later step, a warning says so."""

DEAD_AT_FIRST = 0.5
"""The same for step 0, which starts from channels that are not trained."""

CONSTANT = 1e-6
"""A channel whose spread over images and places is below this share of the widest channel's is dead."""

HARDLY = 0.01
"""A term whose median gradient is below this share of segmentation's has no noticeable effect."""

MEASURED = 3
"""Gradients that must have been measured before a term is called idle."""

BEGINNINGS = {
    "jump": "the loss jumped",
    "died": "latent channels died",
    "ended": "latent channels at its end",
}
"""The beginning of each kind of sentence, after its step; each is printed once per step."""

AT_ITS_END = ": at its end"
"""Added if dead channels are first seen in the last iteration: that count is the one at the end."""


def steadier(step: int) -> str:
    """Settings that make a step less abrupt, and that apply at `step`."""
    if step == 0:
        return "lower optim.lr_aspp or optim.lr_head"
    return "set optim.steadiness to 0.5, bound the gradients (optim.clip), or lower optim.lr_aspp_later"


def silent_class(step: int, name: str) -> str:
    """The sentence on a class that is never predicted, with settings that apply at `step`."""
    advice = "optim.lr_head or optim.epochs" if step == 0 else "optim.lr_head_later or optim.epochs_later"
    return f"step {step}: class {name} is never predicted: its head did not learn; raise {advice}"


class Health:
    """The findings from one step's events. It gets every event of the step, also after an interruption."""

    def __init__(self, step: int, died_before: int = 0, on_heads: Collection[str] = (), told: Collection[str] = ()):
        """`died_before`: channels that were dead when the step began. `on_heads`: terms that reach no shared layer by
        design. `told`: the run's warnings so far, which are not repeated."""
        self.step = step
        self.died_before = died_before
        self.on_heads = on_heads
        self._told = {kind for kind in BEGINNINGS for line in told if line.startswith(self._begins(kind))}
        if any(line.startswith(f"{self._begins('died')}{AT_ITS_END}") for line in told):
            self._told.add("ended")  # a killed step repeats its last iteration
        self._losses: deque[float] = deque(maxlen=BEFORE)
        self._norms: dict[str, list[float]] = defaultdict(list)
        self._largest: dict[str, float] = defaultdict(float)

    def _begins(self, kind: str) -> str:
        """The first words of a sentence of this kind."""
        return f"step {self.step}: {BEGINNINGS[kind]}"

    def observe(self, event: Mapping[str, Any]) -> list[str]:
        """Add an event of the loop; returns the findings."""
        found = [] if "jump" in self._told else list(self._jumps(event))
        self._losses.append(event["loss"])
        shared = any(rate > 0 for part, rate in event["lr"].items() if part != "heads")
        for name, term in event["terms"].items():
            self._largest[name] = max(self._largest[name], abs(term["raw"]))
        if shared:
            for name, norm in event.get("gradient_norms", {}).items():
                self._norms[name].append(norm)
        return found

    def _jumps(self, event: Mapping[str, Any]) -> Iterator[str]:
        if len(self._losses) < MEASURED:
            return
        before = median(self._losses)
        values = {name: term["raw"] * term["weight"] for name, term in event["terms"].items()}
        name = max(values, key=lambda key: values[key])
        if before > 0 and values[name] > JUMP * before:
            self._told.add("jump")
            yield (
                f"{self._begins('jump')}: at iteration {event['iteration']} {name} alone is {values[name]:.3g}, "
                f"and all terms together were {before:.3g} before; {steadier(self.step)}"
            )

    def look(self, iteration: int, dead: int, channels: int, last: bool = False) -> list[str]:
        """Add the number of dead latent channels on the step's first batch; returns the findings.

        Before the end this is a provisional count, as a channel can recover. A step with such a warning also gets the
        count at its end (`last`).
        """
        died = max(0, dead - self.died_before)
        count = f"{died} of {channels} give one value everywhere on the step's first batch and did not before"
        if last and "died" in self._told and "ended" not in self._told:
            self._told.add("ended")
            return [f"{self._begins('ended')}: {count}"]
        if "died" in self._told or died <= (DIED if self.step else DEAD_AT_FIRST) * channels:
            return []
        self._told.add("died")
        if last:
            return [f"{self._begins('died')}{AT_ITS_END}, {count}; {steadier(self.step)}"]
        later = "some may recover, and the count at the end of the step follows"
        return [f"{self._begins('died')}: at iteration {iteration}, {count}; {later}; {steadier(self.step)}"]

    def finish(self, dead_terms: Collection[str]) -> list[str]:
        """The findings for the whole step: terms without effect. `dead_terms` were named already."""
        first = "fix the jump or the dead channels first; otherwise " if self._told else ""
        return [
            f"step {self.step}: term {name} moved nothing: the median of its gradient on the shared layers is "
            f"{norm:.2g}, of segmentation's {self._median('segmentation'):.2g}; {first}raise or drop method.{name}"
            for name, norm in self._idle(dead_terms)
        ]

    def _idle(self, dead_terms: Collection[str]) -> Iterator[tuple[str, float]]:
        reference = self._median("segmentation")
        for name, norms in self._norms.items():
            excused = name in dead_terms or (name in self.on_heads and self._largest[name] > 0)
            if len(norms) >= MEASURED and not excused and self._median(name) < HARDLY * reference:
                yield name, self._median(name)

    def _median(self, name: str) -> float:
        return median(self._norms[name]) if self._norms[name] else math.nan


@torch.no_grad()
def constant_channels(latent: Tensor) -> int:
    """Channels of Z that have one value at every place of every image. Shape: latent float [B, C, h, w]."""
    spread = latent.amax((0, 2, 3)) - latent.amin((0, 2, 3))
    return int((spread <= CONSTANT * spread.max()).sum())
