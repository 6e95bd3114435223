"""How the head of a step's new classes starts, by the configuration.

It starts at random, from the unknown's head (docs/method.md#pseudo-labels), with a share of the background's
probability (MiB), or from the old classes that the new ones look like (ours, lag_core/method/kinship.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from lag_core.config import MethodConfig
from lag_core.method.kinship import mean_answers, nearest_kin
from lag_core.model.heads import share_background, transfer_weights
from lag_core.model.segmenter import Segmenter
from lag_core.protocol import LabelSpace

Start = tuple[int, int]
"""A new training channel, and the old one that it starts as."""


def start_head(student: Segmenter, method: MethodConfig) -> None:
    """Start the student's last head from its first, if the method says so; else it stays random."""
    new, source = student.heads[-1], student.heads[0]
    if method.transfer:
        transfer_weights(new, source)  # type: ignore[arg-type]
    elif method.init_from_background:
        share_background(new, source)  # type: ignore[arg-type]


def asks_for_kin(method: MethodConfig) -> bool:
    """Whether a new head starts from the old classes that the teacher predicts on its classes."""
    return method.transfer and method.transfer_from == "nearest"


def start_from_kin(
    student: Segmenter, answers: Iterable[tuple[Tensor, Tensor]], space: LabelSpace, step: int
) -> list[Start]:
    """Start the last head from the nearest kin of its classes; returns the pairs.

    `answers`: the teacher's logits [B, K_old, h, w] and this step's labels int64 [B, h, w], batch by batch.
    """
    kin = nearest_kin(mean_answers(answers, space, step), space, step)
    transfer_weights(student.heads[-1], student.heads[kin.head], kin.rows)  # type: ignore[arg-type]
    return list(zip(space.new_channels(step), kin.channels, strict=True))
