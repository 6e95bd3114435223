"""The old class that the teacher finds most similar to a new one: the new class's head starts from it. Ours.

LAG starts a new head from the unknown's, which also answers for the background: the new class begins as a copy of the
class that it must be separated from, and a short step does not undo that (docs/results.md). The head of the old class
with the highest logits on the new class's pixels has already learned to separate such objects from others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lag_core.method.precision import full_precision
from lag_core.method.regions import membership, region_sums
from lag_core.protocol import LabelSpace


class Kin(NamedTuple):
    """A head, and the class of it that each new class is most like."""

    head: int
    rows: tuple[int, ...]
    """For each new class, its kin's place in the head."""
    channels: tuple[int, ...]
    """The same as training channels."""


@torch.no_grad()
@full_precision
def mean_answers(batches: Iterable[tuple[Tensor, Tensor]], space: LabelSpace, step: int) -> Tensor:
    """The teacher's mean logits on the pixels of each class that `step` adds; 0 for a class without a pixel.

    `batches` holds the teacher's logits [B, K_old, h, w] and this step's labels int64 [B, h, w].

    Shape: -> float64 [new classes, K_old].
    """
    new = space.new_channels(step)
    sums = torch.zeros(len(new), space.channels(step - 1), dtype=torch.float64)
    counts = torch.zeros(len(new), dtype=torch.float64)
    for logits, labels in batches:
        regions = membership(labels, new)
        sums += region_sums(logits, regions).double().cpu()
        counts += regions.flatten(1).sum(1).double().cpu()
    return sums / counts.clamp(min=1)[:, None]


def nearest_kin(answers: Tensor, space: LabelSpace, step: int) -> Kin:
    """The head with the highest mean logits on the new classes, averaged over these, and the best class in it.

    A head is chosen as one, as its hidden layer serves all of its classes. Unknown and background are no candidates;
    without another class, it is the unknown's head.

    Shape: mean logits [new classes, K_old] -> `Kin`.
    """
    candidates = answers.clone()
    candidates[:, : space.first_foreground] = -torch.inf
    parts = candidates.split(space.head_sizes(step - 1), dim=1)
    head = int(torch.stack([part.amax(1).mean() for part in parts]).argmax())
    rows = parts[head].argmax(1).tolist()
    before = sum(space.head_sizes(step - 1)[:head])
    return Kin(head, tuple(rows), tuple(before + row for row in rows))
