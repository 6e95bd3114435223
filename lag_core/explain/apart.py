"""Why one run kept what another lost: the difference between two runs in one class, by parts.

If both runs know the same classes and have bit-identical step 0, parts are swapped between their networks of
one step, and every part counts (`swapped`). Otherwise the heads of one run do not fit the features of the other, and
only the difference of the runs' own shares can be used; the difference in the class's initial IoU is then a part of
its own, `start`. Source: ours (docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lag_core.explain import stored_shares
from lag_core.explain.cache import ResultCache, key_of
from lag_core.explain.evidence import Examples, Work, class_shares, known_shares, names_of, pictures_of, scaled
from lag_core.explain.hybrids import Pair
from lag_core.explain.networks import Networks
from lag_core.explain.shares import Shares, difference
from lag_core.explain.shares_pass import shares_on
from lag_core.runs import Run, RunError
from lag_core.tiles import tiles_in


@dataclass(frozen=True)
class Apart:
    """How a run differs from another in a class. shares: from the other run's IoU to this run's."""

    other: str
    """Name of the other run; untrusted text."""
    shares: Shares
    swapped: bool
    """True: parts were swapped between the networks; False: the difference of both runs' own shares."""

    @property
    def how(self) -> str:
        """How the parts were told apart, in a sentence."""
        if self.swapped:
            return "Both runs begin with the same step 0, so their parts were swapped one by one."
        return "The difference between the parts' shares in each run, and between the class's IoU at its start."


def same_start(run: Run, other: Run) -> bool:
    """Whether two runs know the same classes at each step and have step 0 in common, bit for bit."""
    if run.labels != other.labels or run.config.model != other.config.model:
        return False
    digests = [sorted(str(file["sha256"]) for file in one.info["steps"][0]["files"]) for one in (run, other)]
    if digests[0] == digests[1]:
        return True
    mine, theirs = run.tensors(0), other.tensors(0)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def checked_step(run: Run, other: Run, cls: int, step: int) -> int:
    """The step of the other run that is compared: `step`, or its last one. RunError if it does not know the class."""
    if other.labels.order != run.labels.order:
        raise RunError(f"{other.name} introduces other classes than {run.name}, or in another order")
    found = min(step, other.last_step)
    if cls >= other.labels.seen(found):
        raise RunError(f"step {found} of {other.name} does not know {run.classes[cls].name} yet")
    return found


def known(run: Run, other: Run, examples: Examples, cls: int, step: int, cache: ResultCache | None) -> Apart | None:
    """The difference of both runs' own shares if these were measured before, without loading a network; else None."""
    step2 = checked_step(run, other, cls, step)
    own = known_shares(run, examples, cls, step, cache)
    theirs = known_shares(other, examples, cls, step2, cache)
    if own is None or theirs is None or own.images != theirs.images:
        return None
    return Apart(other.name, difference(own, theirs), swapped=False)


def measure(
    networks: Networks,
    others: Networks,
    examples: Examples,
    cls: int,
    step: int,
    cache: ResultCache | None = None,
    *,
    swap: bool = True,
) -> Work[Apart]:
    """How the run of `networks` differs from that of `others` in class index `cls` at `step`.

    swap: swap parts where that is possible; else the difference of the runs' own shares in any case.
    """
    run, other = networks.run, others.run
    step2 = checked_step(run, other, cls, step)
    if swap and step2 == step and same_start(run, other):
        return Apart(other.name, (yield from _swapped(networks, others, examples, cls, step, cache)), swapped=True)
    own = yield from scaled(class_shares(networks, examples, cls, step, cache), 0.0, 0.5)
    theirs = yield from scaled(class_shares(others, examples, cls, step2, cache), 0.5, 1.0)
    return Apart(other.name, difference(own, theirs), swapped=False)


def _swapped(
    networks: Networks, others: Networks, examples: Examples, cls: int, step: int, cache: ResultCache | None
) -> Work[Shares]:
    run, pictures = networks.run, pictures_of(examples, networks.run)
    key = key_of(run.digest, examples.digest, "apart", other=others.run.digest, cls=cls, step=step)
    arrays = cache.get(key) if cache is not None else None
    names = names_of(examples)
    images = tiles_in(names) or len(pictures)
    classes = [one.name for one in run.classes]
    if arrays is not None and (held := stored_shares.from_arrays(arrays, classes, images)) is not None:
        return held.by_case[cls, step, step]
    pair = Pair((others, step), (networks, step))
    (found,) = yield from shares_on(pair, [cls], pictures, names=names)
    if cache is not None:
        cache.put(key, stored_shares.to_arrays({(cls, step, step): found}))
    return found
