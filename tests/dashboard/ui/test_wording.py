"""Numbers in sentences: nothing is ever minus nothing."""

from __future__ import annotations

import numpy as np
import pytest

from dashboard.ui import wording


@pytest.mark.parametrize(
    ("fraction", "share", "loss"),
    [
        (0.0, "0 %", ""),
        (-0.0, "0 %", ""),
        (-0.0002, "0.0 %", ""),
        (0.0004, "< 0.1 %", "< 0.1 %"),
        (0.0006, "0.1 %", "−0.1 %"),
        (0.035, "3.5 %", "−3.5 %"),
        (0.5, "50 %", "−50 %"),
        (np.nan, "–", ""),
    ],
)
def test_shares_and_losses(fraction: float, share: str, loss: str) -> None:
    assert (wording.percent(fraction), wording.lost(fraction)) == (share, loss)


@pytest.mark.parametrize("value", [-0.0, -1e-9, -1e-7, -0.004])
def test_no_number_is_minus_zero(value: float) -> None:
    said = [wording.short(value), wording.number(value), wording.percent(value)]
    assert not any(one.strip("−-") != one and float(one.strip("−- %")) == 0 for one in said), said
