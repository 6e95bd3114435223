"""Terminal output while a run trains."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from lag_core.metrics import Summary
from lag_core.sentences import counted, plain

Item = TypeVar("Item")


class Reporter:
    """Progress bars on standard error, a line per step on standard output; `quiet` prints nothing."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._bar: tqdm[Any] | None = None

    def bar(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Iterate with a bar that shows the rate and the time left."""
        return iter(tqdm(items, desc=what, unit="it", leave=False, disable=self._hidden, file=sys.stderr))

    @property
    def _hidden(self) -> bool | None:
        return True if self.quiet else None

    def step_begins(self, step: int, steps: int, images: int, first: int, total: int) -> None:
        self.say(f"step {step + 1} of {steps}: {counted(images, 'image')}, {counted(total, 'iteration')}")
        self._bar = tqdm(total=total, initial=first, desc=f"step {step}", unit="it", leave=False, disable=self._hidden)

    def iteration(self, loss: float | None = None, images_per_second: float = 0.0) -> None:
        if self._bar is not None:
            self._bar.update()
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.3f}, {images_per_second:.0f} img/s", refresh=False)

    def step_ends(self, step: int, summary: Summary, seconds: float, images_per_second: float) -> None:
        if self._bar is not None:
            self._bar.close()
        self.say(
            f"step {step}: old {_percent(summary.old)}  new {_percent(summary.new)}  all {_percent(summary.all)}"
            f"   ({seconds:.0f} s, {images_per_second:.0f} img/s)"
        )

    def say(self, sentence: str) -> None:
        if not self.quiet:
            tqdm.write(plain(sentence))


def _percent(value: float) -> str:
    return "    -" if math.isnan(value) else f"{100 * value:5.1f}"
