"""From logits to label maps."""

from __future__ import annotations

import pytest
import torch

from lag_core.model.prediction import class_probabilities, highest, label_map
from lag_core.protocol import LabelSpace


@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (1, 2, 5, 5), (3, 7, 4, 6), (1, 256, 3, 3), (2, 5, 9)])
@pytest.mark.parametrize("levels", [2, 10_000])
def test_the_highest_score_wins_and_the_first_of_equal_ones(shape: tuple[int, ...], levels: int) -> None:
    """levels: few make ties in nearly every place."""
    torch.manual_seed(levels)
    scores = (torch.rand(shape) * levels).floor() - levels // 2
    kept = scores.clone()
    found = highest(scores)
    assert found.dtype == torch.uint8 and found.shape == (shape[0], *shape[2:])
    for place in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        batch, *rest = place
        column = scores[(batch, slice(None), *rest)].tolist()
        assert found[tuple(place)] == column.index(max(column))
    assert torch.equal(scores, kept), "the scores are only read"


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_a_label_map_names_the_most_probable_class(loss: str) -> None:
    labels = LabelSpace(((0, 1), (2, 3)), background=0, unknown=True)
    logits = torch.randn(2, labels.head_sizes(1)[0] + sum(labels.head_sizes(1)[1:]), 6, 5)
    scores = class_probabilities(logits, labels, loss)
    assert torch.equal(label_map(logits, labels, loss).long(), scores.argmax(1))
