"""Which images a step trains on. Pure: names in, names out, always in file order.

Draws are ordered by a digest of the name and the seed, so they depend neither on NumPy's generator nor on the
other images, and do not change when images are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from lag_core.protocol import SETTINGS, LabelSpace

Selection = Literal["prefix", "random"]
Item = TypeVar("Item")


def images_of_step(
    present: Mapping[str, frozenset[int]],
    labels: LabelSpace,
    step: int,
    setting: str,
    *,
    fraction: float = 1.0,
    selection: Selection = "prefix",
    seed: int = 0,
    domain_of: Callable[[str], str] | None = None,
    domains: Sequence[str] = (),
) -> list[str]:
    """Names of the training images of `step`, in the order of `present` (image -> dataset ids in it).

    - overlapped: a class of the step is in the image (docs/method.md#setting).
    - disjoint: and no class of a later step is.
    - sequential: the images of disjoint (the old classes keep their labels, see `LabelSpace.labelled`).
    - partitioned: each image belongs to one step, drawn among the steps whose classes it has (arXiv
      2405.09858).

    The background counts for nothing. `domains` (of step 0, then of every later step, with `domain_of`)
    restricts a step to the images of its domain. `fraction` keeps that share of the images of every step but
    step 0 (docs/method.md#little-data): the first ones, or random ones (ours), where a smaller fraction is a subset
    of a larger one. The list is empty if no image fits. ValueError for an unknown setting or selection.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r}: allowed are {', '.join(SETTINGS)}")
    if selection not in ("prefix", "random"):
        raise ValueError(f"selection {selection!r}: allowed are 'prefix', 'random'")

    def may_join(name: str, t: int) -> bool:
        domain = domain_of_step(domains, t)
        fits = domain is None or domain_of is None or domain_of(name) == domain
        return fits and _classes_fit(present[name], labels, t, setting)

    if setting == "partitioned":
        choices = {name: [t for t in range(len(labels.steps)) if may_join(name, t)] for name in present}
        names = [name for name, steps in choices.items() if steps and _draw(steps, name, seed) == step]
    else:
        names = [name for name in present if may_join(name, step)]
    return names if step == 0 else _keep(names, fraction, selection, f"{seed}/{step}")


def _classes_fit(found: Collection[int], labels: LabelSpace, step: int, setting: str) -> bool:
    """Whether an image with the dataset ids `found` belongs to `step`, domains apart."""
    wanted = set(labels.steps[step]) - {labels.background}
    if wanted.isdisjoint(found):
        return False
    if setting in ("overlapped", "partitioned"):
        return True
    return set(found) <= set(labels.order[: labels.seen(step)])


def domain_of_step(domains: Sequence[str], step: int) -> str | None:
    """Domain whose images `step` trains on: the last one named is that of every later step; None: any
    domain."""
    return domains[min(step, len(domains) - 1)] if domains else None


def of_domain(ids: Iterable[str], domain_of: Callable[[str], str], domain: str | None) -> list[str]:
    """The images of one domain, order kept; None keeps all."""
    return [name for name in ids if domain is None or domain_of(name) == domain]


def hold_out(ids: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(train, held): round(share * N) random images kept aside for choices, at least one of each if share >
    0.

    Hold out of the whole training list, before the steps are formed: the overlapped setting shows an image
    again at later steps, and one that is held out must be so at all of them.
    """
    if share <= 0 or len(ids) < 2:
        return list(ids), []
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    held = set(sorted(ids, key=lambda name: _digest(f"{seed}/held", name))[:count])
    return [name for name in ids if name not in held], [name for name in ids if name in held]


def _keep(names: list[str], fraction: float, selection: Selection, seed: str) -> list[str]:
    """round(fraction * N) of the names, at least one, in their order."""
    if fraction >= 1 or not names:
        return names
    count = max(1, round(fraction * len(names)))
    if selection == "prefix":
        return names[:count]
    kept = set(sorted(names, key=lambda name: _digest(seed, name))[:count])
    return [name for name in names if name in kept]


def _draw(options: Sequence[Item], name: str, seed: int) -> Item:
    return options[int.from_bytes(_digest(str(seed), name)[:8], "big") % len(options)]


def _digest(seed: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
