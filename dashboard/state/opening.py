"""What the app opens on: the same photograph in two runs that ship, one that kept the class and one that lost it."""

from __future__ import annotations

from dataclasses import dataclass

from lag_core.runs import Run


@dataclass(frozen=True)
class Opening:
    """A first view; each part applies only if the run, the class or the picture is available."""

    run: str
    compared: str
    step: int | None = None
    cls: str | None = None
    image: str | None = None


OPENINGS = (
    Opening("animals-3-1-lagplus", "animals-3-1-finetune", step=1, cls="dog", image="photo:dog"),
    Opening("aerial-2-2-1-finetune", "aerial-2-2-1-reference"),
)
"""The first with an available run is opened. Fine-tuning has lost the dog at step 1: every pixel of it is horse."""

NOWHERE = Opening("", "")


def of_run(run: Run) -> Opening:
    """The opening that starts with this run; for another run, one without choices."""
    return next((one for one in OPENINGS if one.run == run.name), NOWHERE)
