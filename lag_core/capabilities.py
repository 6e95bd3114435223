"""What the networks of a run can do, and how to supply what one lacks. Imports no torch.

A run says in run.json ("network") what kind its networks are. Pages and commands check here first, and
say what a network lacks. Source: ours (docs/adr/0006-the-interface-of-a-network.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from lag_core.runs import Run, RunError

Capability = Literal["labels", "logits", "gradients", "latent", "lrp"]
"""Label maps; logits of any picture; gradients to picture and Z; Z, and from a changed Z back to logits; LRP's rules
for every layer."""

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)

MOST: dict[str, frozenset[str]] = {
    "segmenter": frozenset(CAPABILITIES),
    "adapter": frozenset(CAPABILITIES),
    "stored": frozenset({"labels"}),
}
"""Kind of a run's networks -> the most that they can do."""

NAMES: dict[str, str] = {
    "labels": "label maps",
    "logits": "logits",
    "gradients": "gradients",
    "latent": "a latent map Z with a way from it to logits",
    "lrp": "LRP's rules for each of its layers",
}


class Lacks(RunError):
    """A run's networks cannot do this; the message says what they lack and how to supply it."""


def capabilities(run: Run) -> frozenset[str]:
    """What the networks of `run` can do."""
    most = MOST[run.kind]
    said = run.network.get("can")
    return most if run.kind == "segmenter" else most & frozenset(said if isinstance(said, list) else ())


def trained_here(run: Run) -> bool:
    """Whether this project trained the run. An imported one has no journal and no configuration of ours."""
    return run.kind == "segmenter" and "imported" not in run.info


def lacking(run: Run, needs: Iterable[str]) -> str:
    """A sentence on what of `needs` the networks of `run` lack and how to supply it; "" if nothing."""
    missing = [need for need in CAPABILITIES if need in set(needs) - capabilities(run)]
    if not missing:
        return ""
    names = ", ".join(NAMES[need] for need in missing)
    if run.kind == "stored":
        return (
            f"{run.name} holds stored label maps, so it lacks {names}. `lag import` (checkpoints of a known system) "
            "or `lag adopt` (an adapter for your own network) open the networks themselves."
        )
    if missing == ["lrp"]:
        return (
            f"There is no LRP for the network of {run.name}: "
            f"{str(run.network.get('without_lrp') or 'it was adopted without')[:200]}. "
            "The gradient methods and Grad-CAM at Z are available."
        )
    return (
        f"The adapter of {run.name} gives no {names}. Name the module whose output is Z as `latent` in the adapter, "
        "and adopt the checkpoints again."
    )


def require(run: Run, *needs: str) -> None:
    """Raise `Lacks` unless the networks of `run` can do all of `needs`."""
    sentence = lacking(run, needs)
    if sentence:
        raise Lacks(sentence)
