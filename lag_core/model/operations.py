"""Number of operations of each part of a network for one picture, counted on tensors without memory."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from lag_core.config import ModelConfig
from lag_core.model.backbone import STAGES
from lag_core.model.segmenter import Segmenter

ASPP, HEADS = "aspp", "heads"


@lru_cache(maxsize=16)
@torch.no_grad()
def operations_of(config: ModelConfig, size: int, head_sizes: tuple[int, ...]) -> dict[str, float]:
    """Operations by stage, of "aspp" and of "heads" (all of them) on a picture of size x size.

    Convolutions and matrix products count, a multiplication and an addition as two; everything else is negligible.
    """
    with torch.device("meta"):
        model = Segmenter(config, head_sizes).eval()
        maps = torch.zeros(1, 3, size, size)
    found: dict[str, float] = {}
    parts = [*((name, getattr(model.backbone, name)) for name in STAGES), (ASPP, model.aspp), (HEADS, model.decode)]
    for name, part in parts:
        counter = FlopCounterMode(display=False)
        with counter:
            maps = part(maps)
        found[name] = float(counter.get_total_flops())
    return found
