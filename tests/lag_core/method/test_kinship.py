"""Where a new head starts: at the old class that the teacher takes the new one for."""

from __future__ import annotations

import numpy as np
import torch

from lag_core.method.kinship import mean_answers, nearest_kin
from lag_core.model.heads import Head, transfer_weights
from lag_core.protocol import LabelSpace

SPACE = LabelSpace(steps=((0, 1, 2), (3,), (4, 5)), background=0, unknown=True)
"""Heads at step 2: unknown (channel 0), background (1), classes 1 and 2 (2, 3), class 3 (4), classes 4 and 5 (5, 6)."""


def test_mean_answers_agree_with_a_loop_over_pixels() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(2, 5, 4, 4), torch.randint(0, 8, (2, 4, 4))) for _ in range(3)]
    batches[0][1][0, 0] = 255
    expected = np.zeros((2, 5))
    for row, channel in enumerate((5, 6)):
        pixels = [
            logits[b, :, y, x].double().numpy()
            for logits, labels in batches
            for b in range(2)
            for y in range(4)
            for x in range(4)
            if labels[b, y, x] == channel
        ]
        expected[row] = np.mean(pixels, 0)
    assert np.allclose(mean_answers(batches, SPACE, 2).numpy(), expected, atol=1e-6)


def test_a_class_without_a_pixel_answers_zero() -> None:
    answers = mean_answers([(torch.ones(1, 5, 2, 2), torch.full((1, 2, 2), 5))], SPACE, 2)
    assert answers[0].tolist() == [1.0] * 5 and answers[1].tolist() == [0.0] * 5


def test_unknown_and_background_are_no_kin() -> None:
    kin = nearest_kin(torch.tensor([[9.0, 8.0, -3.0, -1.0]]), SPACE, 1)
    assert kin == (2, (1,), (3,))


def test_new_classes_share_the_head_that_answers_strongest_on_average() -> None:
    # class 4 is most like class 3 (head 3), class 5 is most like class 1 (head 2), and by a wider margin
    answers = torch.tensor([[0.0, 0.0, -1.0, 1.0, 1.5], [0.0, 0.0, 4.0, 0.0, -2.0]])
    assert nearest_kin(answers, SPACE, 2) == (2, (1, 0), (3, 2))


def test_without_an_old_class_the_unknown_head_is_taken() -> None:
    space = LabelSpace(steps=((0,), (1,)), background=0, unknown=True)
    assert nearest_kin(torch.tensor([[0.5, 3.0]]), space, 1) == (0, (0,), (0,))


def test_a_transferred_head_answers_as_its_source() -> None:
    torch.manual_seed(0)
    source, new = Head(5, 4, 3).eval(), Head(5, 4, 2).eval()
    z = torch.rand(2, 5, 6, 6)
    with torch.no_grad():
        transfer_weights(new, source, (2, 0))
        assert torch.equal(new(z), source(z)[:, [2, 0]])
        transfer_weights(new, source)
        assert torch.equal(new(z), source(z)[:, [0, 0]])
