"""Replay of stored images, the bound that replay without images is held to."""

from __future__ import annotations

import pytest
import torch

from lag_core.config import ConfigError, resolve
from lag_core.method.stored import StoredMaps


@pytest.fixture
def stored() -> StoredMaps:
    """Map i of five is filled with i. Class 2 is in maps 0 and 3, class 3 in map 4, class 4 nowhere."""
    maps = torch.arange(5.0)[:, None, None, None].expand(5, 6, 3, 3)
    labels = torch.ones(5, 3, 3, dtype=torch.int64)
    labels[0, 0, 0] = labels[3, 2, 2] = 2
    labels[4, 1] = 3
    labels[1, 0] = 255
    return StoredMaps([(maps[:3], labels[:3]), (maps[3:], labels[3:])])


def carry(stored: StoredMaps, classes: list[int], n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batch = torch.zeros(2, 6, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int64)
    return stored.carry(*batch, classes, n, torch.Generator().manual_seed(seed))


def test_every_map_holds_the_class_that_it_was_drawn_for(stored: StoredMaps) -> None:
    maps, labels = carry(stored, [2, 3], 8)
    drawn = maps[:, 0, 0, 0].tolist()
    assert maps.shape == (16, 6, 3, 3) and labels.shape == (16, 3, 3)
    assert set(drawn[:8]) == {0.0, 3.0} and set(drawn[8:]) == {4.0}
    assert all((labels[i] == (2 if i < 8 else 3)).any() for i in range(16))


def test_a_class_that_no_map_holds_gives_none(stored: StoredMaps) -> None:
    assert [len(x) for x in carry(stored, [4], 3)] == [0, 0]
    assert len(carry(stored, [4, 3], 3)[0]) == 3
    assert len(carry(stored, [], 3)[0]) == 0


def test_the_generator_alone_decides(stored: StoredMaps) -> None:
    assert carry(stored, [2], 12)[0].equal(carry(stored, [2], 12)[0])
    assert not carry(stored, [2], 12)[0].equal(carry(stored, [2], 12, seed=1)[0])


def test_stored_maps_are_replayed_at_the_trunk_alone() -> None:
    with pytest.raises(ConfigError, match="stored"):
        resolve({"method": {"replay_maps": "stored", "replay_at": "latent"}})
